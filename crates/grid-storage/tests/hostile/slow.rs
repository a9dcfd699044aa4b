//! Clients that send or take a byte at a time, or nothing.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::clients::{answer, drip, read_to_close, says_why};
use crate::common::eventually;
use crate::target::Target;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_byte_by_byte_are_given_up() {
    let target = Target::quick().await;
    let put =
        |key: &str, more: &str| format!("PUT /v1/objects/{key} HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    // A head that never ends.
    let head = drip(target.address, "GET /v1/objects HTTP/1.1\r\n", "x-a: b\r\n");
    // Bodies that would take hours: for the index, for a file, and in chunks.
    let small = put("kept/small", "content-length: 10000\r\n");
    let small = drip(target.address, &small, " ");
    let large = put("kept/large", "content-length: 10000000\r\n");
    let large = drip(target.address, &large, " ");
    let chunked = put("kept/large", "transfer-encoding: chunked\r\n");
    let chunked = drip(target.address, &chunked, "1\r\nx\r\n");
    let (_, small, large, chunked) = tokio::join!(head, small, large, chunked);
    for given_up in [small, large, chunked] {
        let (status, body) = answer(&given_up);
        assert_eq!(status, 408, "{body}");
        says_why(&body);
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_its_answers_is_given_up() {
    let target = Target::quick().await;
    let memory = target.memory("VmRSS");
    let before = target.descriptors();
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut socket = TcpStream::connect(target.address).await.unwrap();
        let request = "GET /v1/objects/kept/large HTTP/1.1\r\nhost: x\r\n\r\n";
        // Answers of more than the sockets hold. Not all of the requests may get through.
        let sending = socket
            .write_all(request.repeat(500).into_bytes().as_slice())
            .await;
        drop(sending);
        sockets.push(socket);
    }
    eventually("they are given up", async || target.descriptors() <= before).await;
    let grown = target.memory("VmRSS").saturating_sub(memory);
    assert!(
        grown < 64 << 20,
        "answers that nobody reads cost {grown} bytes"
    );
    for mut socket in sockets {
        read_to_close(&mut socket).await;
    }
    target.must_be_unharmed().await;
}
