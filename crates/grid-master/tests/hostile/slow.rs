//! Clients that send or take a byte at a time, or nothing.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::{
    clients::{answer, drip, eventually, read_to_close, says_why},
    target::Target,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_byte_by_byte_are_given_up() {
    let target = Target::quick().await;
    let token = target.grid.token("admin");
    let headers = format!("host: x\r\nauthorization: Bearer {token}\r\n");
    // A head that never ends.
    let heads = drip(
        target.http,
        "GET /api/grid/nodes HTTP/1.1\r\n",
        "x-a: b\r\n",
    );
    // A body that would take hours.
    let begin = format!("POST /api/grid/spawn HTTP/1.1\r\n{headers}content-length: 100000\r\n\r\n");
    let bodies = drip(target.http, &begin, " ");
    // A connection for agents whose preface never ends.
    let prefaces = drip(target.grpc, "", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let (_, body, _) = tokio::join!(heads, bodies, prefaces);
    let (status, body) = answer(&body);
    assert_eq!(status, 408, "{body}");
    says_why(&body);
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_its_answers_is_given_up() {
    let target = Target::quick().await;
    let token = target.grid.token("admin");
    let (memory, fds) = (target.memory("VmRSS"), target.descriptors());
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut socket = TcpStream::connect(target.http).await.unwrap();
        let request = format!(
            "GET /openapi.json HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        // Answers of some hundred KiB each: far beyond what sockets hold. The write may stall or fail, as they do.
        let _ = timeout(
            Duration::from_secs(1),
            socket.write_all(request.repeat(500).as_bytes()),
        )
        .await;
        sockets.push(socket);
    }
    eventually("they are given up", async || {
        (target.descriptors() <= fds).then_some(())
    })
    .await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_never_read_cost_nobody_else() {
    let target = Target::start().await;
    let token = target.grid.token("admin");
    let mut followers = Vec::new();
    for _ in 0..50 {
        let mut socket = TcpStream::connect(target.http).await.unwrap();
        let request = format!(
            "GET /api/grid/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        followers.push(socket);
    }
    for _ in 0..50 {
        target.get("/api/grid/nodes").await;
    }
    drop(followers);
    target.must_be_unharmed().await;
}
