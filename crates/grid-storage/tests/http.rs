//! The HTTP API, over a real socket.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use common::{assert_error, eventually, pattern, start, start_with};
use futures::stream;
use reqwest::StatusCode;

const LARGE: usize = 3 * 1024 * 1024 + 17;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_put_read_described_replaced_and_deleted() {
    let server = start().await;
    let key = "photos/2026/%E2%98%83.txt";
    let put = server
        .put(key, "hello")
        .header("content-type", "text/plain")
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), StatusCode::CREATED);
    let etag = put.headers()["etag"].clone();
    let document: serde_json::Value = put.json().await.unwrap();
    assert_eq!(document["key"], "photos/2026/☃.txt");
    assert_eq!(document["size"], 5);
    assert_eq!(
        document["crc32"],
        format!("{:08x}", crc32fast::hash(b"hello"))
    );

    let get = server.object(key).await;
    assert_eq!(get.status(), StatusCode::OK);
    assert_eq!(get.headers()["etag"], etag);
    assert_eq!(get.headers()["content-type"], "text/plain");
    assert_eq!(get.headers()["content-length"], "5");
    assert_eq!(get.headers()["accept-ranges"], "bytes");
    assert_eq!(
        get.headers()["x-checksum-crc32"],
        document["crc32"].as_str().unwrap()
    );
    assert!(
        get.headers()["last-modified"]
            .to_str()
            .unwrap()
            .ends_with(" GMT")
    );
    assert_eq!(get.text().await.unwrap(), "hello");

    let head = server
        .client
        .head(server.url(&format!("/v1/objects/{key}")))
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], "5");

    let replaced = server.put(key, "").send().await.unwrap();
    assert_eq!(replaced.status(), StatusCode::OK);
    assert_ne!(replaced.headers()["etag"], etag);
    assert_eq!(server.object(key).await.text().await.unwrap(), "");

    assert_eq!(server.metric("grid_storage_objects").await, 1);
    assert_eq!(server.delete(key).await, StatusCode::NO_CONTENT);
    assert_eq!(server.delete(key).await, StatusCode::NOT_FOUND);
    assert_error(server.object(key).await, StatusCode::NOT_FOUND, "not_found").await;
    assert_eq!(server.metric("grid_storage_objects").await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_of_known_and_unknown_length_come_back_whole() {
    let server = start().await;
    let body = pattern(LARGE, 1);
    let crc = format!("{:08x}", crc32fast::hash(&body));
    let known = server
        .put("known", body.clone())
        .header("x-checksum-crc32", &crc)
        .send()
        .await
        .unwrap();
    assert_eq!(known.status(), StatusCode::CREATED);
    assert_eq!(known.headers()["x-checksum-crc32"], crc.as_str());
    let parts: Vec<_> = body
        .chunks(70_001)
        .map(|part| Ok::<_, std::io::Error>(Bytes::copy_from_slice(part)))
        .collect();
    let chunked = reqwest::Body::wrap_stream(stream::iter(parts));
    assert_eq!(
        server
            .put("chunked", chunked)
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::CREATED
    );
    for key in ["known", "chunked"] {
        let get = server.object(key).await;
        assert_eq!(get.headers()["x-checksum-crc32"], crc.as_str());
        assert!(get.bytes().await.unwrap() == body, "{key}");
    }
    assert_eq!(server.content_files().len(), 2);
    // At the edges of what lives in the index, and of one chunk.
    for len in [
        16 * 1024,
        16 * 1024 + 1,
        128 * 1024 - 1,
        128 * 1024,
        128 * 1024 + 1,
    ] {
        let body = pattern(len, len as u64);
        assert_eq!(
            server
                .put("edge", body.clone())
                .send()
                .await
                .unwrap()
                .status()
                .as_u16()
                / 100,
            2
        );
        assert!(
            server.object("edge").await.bytes().await.unwrap() == body,
            "{len}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_deleting_and_failing_leave_no_content_files() {
    let server = start().await;
    for seed in 0..3 {
        server
            .put("a", pattern(LARGE, seed))
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
    }
    eventually("old versions are removed", async || {
        server.content_files().len() == 1
    })
    .await;
    let wrong = server
        .put("b", pattern(LARGE, 1))
        .header("x-checksum-crc32", "00000000")
        .send()
        .await
        .unwrap();
    assert_error(wrong, StatusCode::BAD_REQUEST, "checksum_mismatch").await;
    assert_eq!(server.object("b").await.status(), StatusCode::NOT_FOUND);
    // A client that goes away in the middle of its body.
    let mut socket = TcpStream::connect(server.address).unwrap();
    write!(
        socket,
        "PUT /v1/objects/cut HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}\r\n\r\n"
    )
    .unwrap();
    socket.write_all(&pattern(LARGE / 2, 3)).unwrap();
    eventually("the upload has begun", async || {
        server.content_files().len() == 2
    })
    .await;
    drop(socket);
    eventually("the cut upload is removed", async || {
        server.content_files().len() == 1
    })
    .await;
    assert_eq!(server.object("cut").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(server.delete("a").await, StatusCode::NO_CONTENT);
    eventually("nothing is left", async || {
        server.content_files().is_empty()
    })
    .await;
    assert_eq!(server.metric("grid_storage_object_bytes").await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_small_and_large_objects() {
    let server = start().await;
    for (key, len) in [("small", 1000), ("large", LARGE)] {
        let body = pattern(len, 9);
        server
            .put(key, body.clone())
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
        let range = async |header: &str| {
            let url = server.url(&format!("/v1/objects/{key}"));
            server
                .client
                .get(url)
                .header("range", header)
                .send()
                .await
                .unwrap()
        };
        for (header, start, end) in [
            ("bytes=0-0".to_owned(), 0, 1),
            ("bytes=10-499".to_owned(), 10, 500),
            (format!("bytes={}-", len - 3), len - 3, len),
            ("bytes=-5".to_owned(), len - 5, len),
            (format!("bytes={}-{}", len / 7, len - 2), len / 7, len - 1),
            ("bytes=0-".to_owned(), 0, len),
        ] {
            let part = range(&header).await;
            assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{key} {header}");
            assert_eq!(
                part.headers()["content-range"],
                format!("bytes {start}-{}/{len}", end - 1).as_str()
            );
            assert!(
                part.bytes().await.unwrap() == body[start..end],
                "{key} {header}"
            );
        }
        let outside = range(&format!("bytes={len}-")).await;
        assert_eq!(
            outside.headers()["content-range"],
            format!("bytes */{len}").as_str()
        );
        assert_error(
            outside,
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
        )
        .await;
        let several = range("bytes=0-1,5-6").await;
        assert_eq!(several.status(), StatusCode::OK);
        let url = server.url(&format!("/v1/objects/{key}"));
        let stale = server
            .client
            .get(url)
            .header("range", "bytes=0-1")
            .header("if-range", "\"0-0\"");
        assert_eq!(stale.send().await.unwrap().status(), StatusCode::OK);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions() {
    let server = start().await;
    let create = async || {
        server
            .put("k", "one")
            .header("if-none-match", "*")
            .send()
            .await
            .unwrap()
    };
    let created = create().await;
    assert_eq!(created.status(), StatusCode::CREATED);
    let first = created.headers()["etag"].clone();
    assert_error(
        create().await,
        StatusCode::PRECONDITION_FAILED,
        "precondition_failed",
    )
    .await;

    let url = server.url("/v1/objects/k");
    let fresh = server
        .client
        .get(&url)
        .header("if-none-match", &first)
        .send()
        .await
        .unwrap();
    assert_eq!(fresh.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(fresh.headers()["etag"], first);

    let swap = async |tag: &str| {
        server
            .put("k", "two")
            .header("if-match", tag)
            .send()
            .await
            .unwrap()
    };
    let first = first.to_str().unwrap();
    assert_eq!(swap(first).await.status(), StatusCode::OK);
    assert_error(
        swap(first).await,
        StatusCode::PRECONDITION_FAILED,
        "precondition_failed",
    )
    .await;
    assert_error(
        swap("nonsense").await,
        StatusCode::BAD_REQUEST,
        "invalid_request",
    )
    .await;
    let stale = server
        .client
        .get(&url)
        .header("if-none-match", first)
        .send()
        .await
        .unwrap();
    assert_eq!(stale.text().await.unwrap(), "two");
    let stale = server
        .client
        .delete(&url)
        .header("if-match", first)
        .send()
        .await
        .unwrap();
    assert_error(
        stale,
        StatusCode::PRECONDITION_FAILED,
        "precondition_failed",
    )
    .await;

    // Of many that race to create, one does.
    let racers = (0..32).map(|n| {
        let put = server
            .put("race", format!("{n}"))
            .header("if-none-match", "*");
        tokio::spawn(async move { put.send().await.unwrap().status() })
    });
    let mut created = 0;
    for racer in racers.collect::<Vec<_>>() {
        created += usize::from(racer.await.unwrap() == StatusCode::CREATED);
    }
    assert_eq!(created, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_come_in_pages() {
    let server = start().await;
    for n in 0..25 {
        server
            .put(&format!("logs/{n:02}"), "x")
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
    }
    for key in ["log", "logs", "logs0", "z%20z"] {
        server
            .put(key, "x")
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
    }
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page: serde_json::Value = server
            .get(&format!("/v1/objects?prefix=logs/&limit=10&after={after}"))
            .await
            .json()
            .await
            .unwrap();
        let objects = page["objects"].as_array().unwrap();
        assert!(objects.len() <= 10);
        found.extend(
            objects
                .iter()
                .map(|object| object["key"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(
        found,
        (0..25).map(|n| format!("logs/{n:02}")).collect::<Vec<_>>()
    );
    let all: serde_json::Value = server.get("/v1/objects").await.json().await.unwrap();
    assert_eq!(all["objects"].as_array().unwrap().len(), 29);
    let last = &all["objects"][28];
    assert_eq!((&last["key"], &last["size"]), (&"z z".into(), &1.into()));
    assert!(last["modified"].as_str().unwrap().ends_with('Z'), "{last}");
    assert_error(
        server.get("/v1/objects?limit=0").await,
        StatusCode::BAD_REQUEST,
        "invalid_request",
    )
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_served_says_so() {
    let server = start_with(tempfile::tempdir().unwrap(), |config| {
        config.limits.max_object_bytes = 100_000
    })
    .await;
    assert_error(server.get("/").await, StatusCode::NOT_FOUND, "not_found").await;
    assert_error(
        server.object("").await,
        StatusCode::BAD_REQUEST,
        "invalid_key",
    )
    .await;
    assert_error(
        server.object("%00").await,
        StatusCode::BAD_REQUEST,
        "invalid_key",
    )
    .await;
    let long = "k".repeat(1025);
    assert_error(
        server.put(&long, "x").send().await.unwrap(),
        StatusCode::BAD_REQUEST,
        "invalid_key",
    )
    .await;
    let post = server
        .client
        .post(server.url("/v1/objects/k"))
        .send()
        .await
        .unwrap();
    assert_eq!(post.headers()["allow"], "GET, HEAD, PUT, DELETE");
    assert_error(post, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed").await;
    assert_error(
        server.put("k", vec![0; 100_001]).send().await.unwrap(),
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
    )
    .await;
    let parts = (0..3).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 50_000])));
    let chunked = reqwest::Body::wrap_stream(stream::iter(parts.collect::<Vec<_>>()));
    // The refusal may overtake the body, which some clients report as a broken connection.
    if let Ok(response) = server.put("k", chunked).send().await {
        assert_error(response, StatusCode::PAYLOAD_TOO_LARGE, "too_large").await;
    }
    let range = server
        .put("k", "x")
        .header("content-range", "bytes 0-0/5")
        .send()
        .await
        .unwrap();
    assert_error(range, StatusCode::BAD_REQUEST, "invalid_request").await;
    assert_eq!(server.object("k").await.status(), StatusCode::NOT_FOUND);
    eventually("nothing is left", async || {
        server.content_files().is_empty()
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_takes_deletes() {
    let server = start().await;
    server
        .put("small", "x")
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    server
        .put("large", pattern(LARGE, 1))
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let dir = server.stop().await;
    let server = start_with(dir, |config| config.limits.min_free_bytes = u64::MAX).await;
    for len in [1, 200_000] {
        let response = server.put("new", pattern(len, 2)).send().await.unwrap();
        assert_error(response, StatusCode::INSUFFICIENT_STORAGE, "storage_full").await;
    }
    assert_eq!(server.object("new").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(server.content_files().len(), 1);
    assert!(server.object("large").await.bytes().await.unwrap() == pattern(LARGE, 1));
    assert_eq!(server.delete("large").await, StatusCode::NO_CONTENT);
    assert_eq!(server.delete("small").await, StatusCode::NO_CONTENT);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_wait_together_share_commits() {
    let server = start().await;
    let before = server.metric("grid_storage_commits_total").await;
    let writers: Vec<_> = (0..200)
        .map(|n| {
            let put = server.put(&format!("k{n}"), pattern(1024, n));
            tokio::spawn(async move { put.send().await.unwrap().error_for_status().unwrap() })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let commits = server.metric("grid_storage_commits_total").await - before;
    assert!(commits < 200, "{commits} commits for 200 writes");
    assert_eq!(server.metric("grid_storage_commit_changes_sum").await, 200);
    assert_eq!(server.metric("grid_storage_objects").await, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_guards_everything_but_the_probes() {
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "0123456789abcdef0123\n").unwrap();
    let server = start_with(tempfile::tempdir().unwrap(), |config| {
        config.token_file = Some(token_file)
    })
    .await;
    assert_eq!(server.get("/healthz").await.status(), StatusCode::OK);
    for path in ["/metrics", "/v1/objects", "/v1/objects/k", "/v1/objects/"] {
        let response = server.get(path).await;
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_error(response, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    let wrong = server
        .put("k", "x")
        .bearer_auth("0123456789abcdef0124")
        .send()
        .await
        .unwrap();
    assert_error(wrong, StatusCode::UNAUTHORIZED, "unauthorized").await;
    let right = server
        .put("k", "x")
        .bearer_auth("0123456789abcdef0123")
        .send()
        .await
        .unwrap();
    assert_eq!(right.status(), StatusCode::CREATED);
    server.stop().await;
}

/// Reads a head from a raw socket.
fn read_head(socket: &mut TcpStream) -> String {
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(
            socket.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_continue_gets_it_or_a_refusal_before_its_body() {
    let server = start().await;
    let mut socket = TcpStream::connect(server.address).unwrap();
    let head =
        "PUT /v1/objects/k HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n";
    write!(socket, "{head}\r\n").unwrap();
    assert!(read_head(&mut socket).starts_with("HTTP/1.1 100 "));
    socket.write_all(b"hello").unwrap();
    assert!(read_head(&mut socket).starts_with("HTTP/1.1 201 "));
    let mut socket = TcpStream::connect(server.address).unwrap();
    write!(socket, "{head}if-none-match: *\r\n\r\n").unwrap();
    let refusal = read_head(&mut socket);
    assert!(
        refusal.starts_with("HTTP/1.1 412 ") && refusal.contains("connection: close"),
        "{refusal}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_with(dir, |config| {
        config.limits.stall_timeout = Duration::from_millis(100)
    })
    .await;
    // In the middle of a body.
    let mut body = TcpStream::connect(server.address).unwrap();
    write!(
        body,
        "PUT /v1/objects/k HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\nhalf"
    )
    .unwrap();
    assert!(read_head(&mut body).starts_with("HTTP/1.1 408 "));
    // In the middle of a head, and before one.
    for sent in ["GET /v1/obj", ""] {
        let mut head = TcpStream::connect(server.address).unwrap();
        head.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        head.write_all(sent.as_bytes()).unwrap();
        let mut rest = Vec::new();
        // Closed by the server, with or without a word.
        let _ = head.read_to_end(&mut rest).unwrap();
    }
    assert_eq!(server.object("k").await.status(), StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_with(dir, |config| {
        config.limits.stall_timeout = Duration::from_millis(200)
    })
    .await;
    // More than the sockets' buffers hold.
    server
        .put("k", pattern(32 << 20, 1))
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let mut socket = TcpStream::connect(server.address).unwrap();
    write!(socket, "GET /v1/objects/k HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    read_head(&mut socket);
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    eventually("the stalled connection is closed", async || {
        let text = client
            .get(server.url("/metrics"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        // The one that asks.
        text.contains("\ngrid_storage_connections 1\n")
    })
    .await;
    server.stop().await;
}
