//! The metrics, as Prometheus' own tool reads them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "../../grid-listen/tests/clients/promtool.rs"]
mod promtool;

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

    promtool::check(&text, "grid_storage_requests_total");
}
