//! Bodies without end, and bodies that are merely large.

use std::time::Duration;

use futures::stream;
use reqwest::Body;
use tokio::io::AsyncReadExt;

use crate::clients::{answer, chunk, raw, says_why, send_without_end};
use crate::common::{content_files, pattern};
use crate::target::Target;

const GIGABYTE: u64 = 1 << 30;
/// Far below a body, far above what a request needs.
const ROOM: u64 = 32 << 20;

fn head(more: &str) -> String {
    format!("PUT /v1/objects/kept/large HTTP/1.1\r\nhost: x\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_too_much_is_refused_before_it_is_sent() {
    let target = Target::with_limits("object=1000000").await;
    let before = target.memory("VmHWM");
    let request = head(&format!("content-length: {GIGABYTE}\r\n"));
    let (status, body) = answer(&raw(target.address, request.as_bytes()).await);
    assert_eq!(status, 413, "{body}");
    says_why(&body);
    assert!(target.memory("VmHWM") - before < ROOM);
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_end_is_refused_on_the_way_and_cut_off() {
    let target = Target::with_limits("object=8000000").await;
    let before = target.memory("VmHWM");
    let request = head("transfer-encoding: chunked\r\n");
    let got = send_without_end(target.address, &request, &chunk(), 1 << 20, Duration::ZERO).await;
    let (status, body) = answer(&got);
    assert_eq!(status, 413, "{body}");
    says_why(&body);
    assert!(target.memory("VmHWM") - before < ROOM);
    target.must_be_unharmed().await;
}

/// Where it is allowed, a gigabyte goes in and comes out whole, in memory that does not grow with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_that_is_allowed_is_streamed_in_constant_memory() {
    let target = Target::start().await;
    let before = target.memory("VmHWM");
    let piece = bytes::Bytes::from(pattern(1 << 20, 9));
    let pieces = stream::iter((0..1024).map({
        let piece = piece.clone();
        move |_| Ok::<_, std::io::Error>(piece.clone())
    }));
    let path = "/v1/objects/gigabyte";
    let upload = target.request("PUT", path).body(Body::wrap_stream(pieces));
    // An honest client, and slow where the disk is.
    let upload = upload
        .timeout(Duration::from_secs(300))
        .send()
        .await
        .unwrap();
    assert_eq!(upload.status(), 201);
    let stored: serde_json::Value = upload.json().await.unwrap();
    assert_eq!(stored["size"], GIGABYTE);
    let up = target.memory("VmHWM") - before;
    assert!(up < ROOM, "an upload cost {up} bytes");

    let mut socket = tokio::net::TcpStream::connect(target.address)
        .await
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes())
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "));
    let mut got = vec![0; piece.len()];
    for n in 0..1024 {
        socket.read_exact(&mut got).await.unwrap();
        assert!(got == piece, "MiB {n} is another one");
    }
    assert_eq!(socket.read(&mut got).await.unwrap(), 0);
    let down = target.memory("VmHWM") - before;
    assert!(down < ROOM, "a download cost {down} bytes");
    assert_eq!(content_files(&target.data()).len(), 2);
    assert_eq!(target.send("DELETE", path, Vec::new()).await.status(), 204);
    target.must_be_unharmed().await;
}
