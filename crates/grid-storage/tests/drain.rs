//! The end of a server: what is in flight finishes, within a bound.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{assert_error, eventually, pattern, start_with};
use grid_storage::{Key, Store};
use reqwest::{Client, StatusCode};

/// A client that opens a connection for each request.
fn fresh_client() -> Client {
    Client::builder().pool_max_idle_per_host(0).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_finishes_while_probes_say_draining() {
    let server = start_with(tempfile::tempdir().unwrap(), |config| {
        config.limits.drain_timeout = Duration::from_secs(60)
    })
    .await;
    let body = pattern(1 << 20, 1);
    let mut upload = TcpStream::connect(server.address).unwrap();
    write!(
        upload,
        "PUT /v1/objects/k HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    upload.write_all(&body[..1 << 19]).unwrap();
    eventually("the upload has begun", async || {
        server.content_files().len() == 1
    })
    .await;
    // Idle, and so no reason to wait.
    let idle = TcpStream::connect(server.address).unwrap();

    let base = format!("http://{}", server.address);
    let (dir, task) = server.begin_stop();
    let client = fresh_client();
    let get = async |path: &str| client.get(format!("{base}{path}")).send().await.unwrap();
    eventually("draining", async || {
        get("/readyz").await.status() == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(get("/healthz").await.status(), StatusCode::OK);
    assert_error(
        get("/v1/objects").await,
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
    )
    .await;
    assert!(!task.is_finished());

    upload.write_all(&body[1 << 19..]).unwrap();
    let mut answer = String::new();
    upload.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    task.await.unwrap().unwrap();
    drop(idle);
    let store = Store::open(dir.path()).unwrap();
    assert!(store.get(&Key::new("k").unwrap()).unwrap().unwrap().1 == body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_does_not_finish_is_cut_off_and_leaves_nothing() {
    let server = start_with(tempfile::tempdir().unwrap(), |config| {
        config.limits.drain_timeout = Duration::from_millis(50)
    })
    .await;
    server
        .put("k", "v")
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let mut upload = TcpStream::connect(server.address).unwrap();
    write!(
        upload,
        "PUT /v1/objects/cut HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    )
    .unwrap();
    upload.write_all(&pattern(500_000, 1)).unwrap();
    eventually("the upload has begun", async || {
        server.content_files().len() == 1
    })
    .await;
    let (dir, task) = server.begin_stop();
    task.await.unwrap().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.list("", None, 10).unwrap().objects.len(), 1);
    assert!(common::content_files(dir.path()).is_empty());
}
