//! The HTTP API under what schemathesis makes of its own document: a request of every shape that the document allows,
//! and of many that it does not.

use std::{path::Path, process::Stdio, time::Duration};

use grid_platform_testing::World;
use serde_json::json;
use tokio::process::Command;

use crate::{
    real_agent::RealAgent,
    support::{Grid, settings},
};

/// Runs schemathesis against a grid with an agent; `examples` bounds how many requests it makes up for an operation.
async fn run(examples: u32) {
    let state = tempfile::tempdir().unwrap();
    let grid = Grid::start_with(settings(state.path())).await;
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let agent = RealAgent::start(&grid, &world, dir.path());
    grid.until("/api/grid/agents/a", |a| a.body["state"] == "ready")
        .await;
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    grid.until_state("n1", "running").await;

    let kept = ["admin", "agent"].map(|role| {
        let value = grid.token(role);
        value.split_once('.').unwrap().0.to_owned()
    });
    // It takes its settings and hooks from where it runs, and leaves its cache there.
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/master/schemathesis");
    for name in ["schemathesis.toml", "hooks.py"] {
        std::fs::copy(settings.join(name), dir.path().join(name)).unwrap();
    }
    let mut schemathesis = Command::new("schemathesis");
    schemathesis
        .arg("run")
        .arg(format!("{}/openapi.json", grid.http))
        .arg("--header")
        .arg(format!("Authorization: Bearer {}", grid.token("admin")))
        .args(["--checks", "all", "--no-color"])
        // The same requests each time, so that a failure is one of the code.
        .args(["--seed", "1", "--generation-deterministic"])
        .args(["--max-examples", &examples.to_string()])
        .env("KEPT_TOKENS", kept.join(","))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let bound = Duration::from_secs(60 * 60);
    let done = tokio::time::timeout(bound, schemathesis.output())
        .await
        .expect("schemathesis does not end")
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    // It was heard to the end, and every operation did what it is for at least once.
    grid.get("/api/grid/version").await.expect(200);
    let metrics = grid.get("/metrics").await.expect(200);
    for operation in [
        "method=\"POST\",route=\"/api/grid/spawn\",status=\"201\"",
        "method=\"PUT\",route=\"/api/grid/nodes/{id}\",status=\"200\"",
        "method=\"GET\",route=\"/api/grid/nodes/{id}\",status=\"200\"",
        "method=\"DELETE\",route=\"/api/grid/nodes/{id}\",status=\"202\"",
        "method=\"POST\",route=\"/api/grid/tokens\",status=\"201\"",
    ] {
        let metrics = metrics.as_str().unwrap();
        assert!(metrics.contains(operation), "{operation}\n{metrics}");
    }
    agent.end().await;
    grid.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_nothing_wrong() {
    run(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes"]
async fn schemathesis_finds_nothing_wrong_in_a_long_run() {
    run(200).await;
}
