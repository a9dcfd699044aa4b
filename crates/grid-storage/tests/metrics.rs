//! The metrics, as Prometheus' own tool reads them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::start;
use reqwest::StatusCode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_finds_nothing_wrong() {
    let server = start().await;
    for key in ["a", "b"] {
        server.put(key, "hello").send().await.unwrap();
    }
    assert_eq!(server.object("a").await.status(), StatusCode::OK);
    assert_eq!(server.object("none").await.status(), StatusCode::NOT_FOUND);
    let head = server.client.head(server.url("/v1/objects/a"));
    assert_eq!(head.send().await.unwrap().status(), StatusCode::OK);
    server.get("/v1/objects?limit=1").await;
    server.get("/nowhere").await;
    server.delete("b").await;
    let text = server.get("/metrics").await.text().await.unwrap();
    for operation in ["put", "get", "head", "list", "delete", "other"] {
        let sample = format!("grid_storage_requests_total{{operation=\"{operation}\"");
        assert!(text.contains(&sample), "{sample}\n{text}");
    }
    server.stop().await;

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics", "--extended"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let done = promtool.wait_with_output().unwrap();
    let found = String::from_utf8_lossy(&done.stderr);
    // Problems that only cost style are told, and another exit code.
    assert!(done.status.success() && found.is_empty(), "{found}\n{text}");
    // It read what was meant: the table of `--extended` has a line per metric.
    let table = String::from_utf8_lossy(&done.stdout);
    assert!(table.contains("grid_storage_requests_total"), "{table}");
}
