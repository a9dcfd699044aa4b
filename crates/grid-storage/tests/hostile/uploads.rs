//! Uploads that are cut off, and uploads that meet.

use std::collections::HashSet;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::clients::{answer, read_to_close};
use crate::common::pattern;
use crate::target::{LARGE, Target};

fn head(key: &str, more: &str) -> String {
    format!("PUT /v1/objects/{key} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n")
}

async fn begin(target: &Target, key: &str, more: &str, first: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(target.address).await.unwrap();
    socket.write_all(head(key, more).as_bytes()).await.unwrap();
    socket.write_all(first).await.unwrap();
    socket
}

/// Whether its body has a length or chunks, goes into a file or the index, ends or breaks off: half an object is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_cut_leaves_nothing_and_the_old_object() {
    let target = Target::start().await;
    let chunked = format!("{LARGE:x}\r\n");
    for (what, more, begun, sent) in [
        ("a file", "content-length: 400000\r\n", String::new(), 5000),
        ("a row", "content-length: 10000\r\n", String::new(), 5000),
        // More than a row's.
        ("chunks", "transfer-encoding: chunked\r\n", chunked, 50_000),
    ] {
        for key in ["kept/large", "kept/small", "new"] {
            for reset in [false, true] {
                let mut first = begun.clone().into_bytes();
                first.extend(pattern(sent, 7));
                let mut socket = begin(&target, key, more, &first).await;
                if what != "a row" {
                    // Its file is there by now, beside the one that belongs there.
                    target.until_content_files(2).await;
                }
                if reset {
                    // A close with no time to linger is a reset.
                    socket.set_zero_linger().unwrap();
                } else {
                    socket.shutdown().await.unwrap();
                    let (status, _) = answer(&read_to_close(&mut socket).await);
                    assert_eq!(status, 408, "{what} {key}");
                }
                drop(socket);
                target.until_content_files(1).await;
            }
        }
    }
    target.must_be_unharmed().await;
}

/// Both are answered, and what is there afterwards is the whole of one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_uploads_of_one_key_do_not_mix() {
    let mut target = Target::start().await;
    let length = format!("content-length: {LARGE}\r\n");
    for round in 0..10 {
        let bodies = [pattern(LARGE, 100 + round), pattern(LARGE, 200 + round)];
        let halves = bodies.each_ref().map(|body| body.split_at(LARGE / 2));
        let mut first = begin(&target, "kept/large", &length, halves[0].0).await;
        let mut second = begin(&target, "kept/large", &length, halves[1].0).await;
        target.until_content_files(3).await;
        let (one, two) = tokio::join!(first.write_all(halves[0].1), second.write_all(halves[1].1));
        one.and(two).unwrap();
        for socket in [&mut first, &mut second] {
            assert_eq!(answer(&read_to_close(socket).await).0, 200);
        }
        let found = target.object("kept/large").await;
        assert!(bodies.contains(&found), "round {round}: neither of the two");
        target.until_content_files(1).await;
    }
    target.keep("kept/large", pattern(LARGE, 2)).await;
    target.must_be_unharmed().await;
}

/// Many at once who each want to be the first: one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_create_one_key_one_does() {
    let mut target = Target::start().await;
    let length = format!("if-none-match: *\r\ncontent-length: {LARGE}\r\n");
    let mut sockets = Vec::new();
    for n in 0..16 {
        sockets.push(begin(&target, "one", &length, &pattern(LARGE, n)[..LARGE - 1]).await);
    }
    target.until_content_files(17).await;
    for (n, socket) in sockets.iter_mut().enumerate() {
        let last = pattern(LARGE, n as u64)[LARGE - 1];
        socket.write_all(&[last]).await.unwrap();
    }
    let mut statuses = Vec::new();
    let mut winner = None;
    for (n, socket) in sockets.iter_mut().enumerate() {
        let (status, _) = answer(&read_to_close(socket).await);
        if status == 201 {
            winner = Some(n as u64);
        }
        statuses.push(status);
    }
    assert_eq!(
        statuses.iter().filter(|it| **it == 201).count(),
        1,
        "{statuses:?}"
    );
    let others: HashSet<u16> = statuses.into_iter().collect();
    assert_eq!(others, [201, 412].into());
    let won = pattern(LARGE, winner.unwrap());
    assert!(target.object("one").await == won);
    target.keep("one", won).await;
    target.must_be_unharmed().await;
}

/// A client that promises a body and waits with it holds no room on the disk for longer than it is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_was_reserved_for_a_body_that_does_not_come_is_given_back() {
    let target = Target::quick().await;
    let length = "content-length: 1000000\r\n";
    let mut sockets = Vec::new();
    for _ in 0..32 {
        sockets.push(begin(&target, "promised", length, &[]).await);
    }
    target.until_content_files(33).await;
    for socket in &mut sockets {
        assert_eq!(answer(&read_to_close(socket).await).0, 408);
    }
    target.until_content_files(1).await;
    // Nobody waits for the pause of a client that was given up.
    tokio::time::timeout(Duration::from_secs(20), target.must_be_unharmed())
        .await
        .unwrap();
}
