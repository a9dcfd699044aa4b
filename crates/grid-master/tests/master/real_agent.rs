//! The agent as it is, over a simulated host: both sides of the wire for real.

use std::{path::Path, sync::Arc};

use grid_platform_api::NodeId;
use grid_platform_testing::World;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::Grid;

/// A running agent.
pub(crate) struct RealAgent {
    stop: CancellationToken,
    task: JoinHandle<grid_platform_api::Result<()>>,
}

impl RealAgent {
    pub(crate) fn start(grid: &Grid, world: &World, state: &Path) -> Self {
        let mut settings = grid_agent::Settings::default();
        settings.agent.agent_id = Some("a".into());
        settings.agent.state_dir = Some(state.to_owned());
        settings.agent.master_host = grid.grpc.trim_start_matches("http://").to_owned();
        settings.agent.token_file = Some(grid.state.join("tokens/agent"));
        settings.storage.binary_path = Some("memory:server".into());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let platform = Arc::new(world.open());
        let task = tokio::spawn(grid_agent::run_with(platform, settings, async move {
            stopped.cancelled().await;
        }));
        Self { stop, task }
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn reaches(grid: &Grid, id: &str, state: &str) -> Value {
    let path = format!("/api/grid/nodes/{id}");
    grid.until(&path, |a| {
        a.body["state"] == state && a.body["observed_generation"] == a.body["generation"]
    })
    .await
}

#[tokio::test]
async fn a_nodes_whole_life() {
    let grid = Grid::start_impatient().await;
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let agent = RealAgent::start(&grid, &world, dir.path());
    grid.until("/api/grid/agents/a", |a| a.body["state"] == "ready")
        .await;
    let alive = |id: &str| world.processes(&NodeId::new(id).unwrap()).len();

    grid.spawn(json!({"node_id": "n1", "secrets": {"k": "v"}}))
        .await
        .expect(201);
    let node = reaches(&grid, "n1", "running").await;
    assert!(node["endpoint"].is_string(), "{node:#}");
    assert_eq!(alive("n1"), 1);
    let port = node["ports"]["main"].clone();

    let path = "/api/grid/nodes/n1";
    grid.call("POST", &format!("{path}/stop"), json!({}))
        .await
        .expect(200);
    reaches(&grid, "n1", "stopped").await;
    assert_eq!(alive("n1"), 0);
    grid.call("POST", &format!("{path}/start"), json!({}))
        .await
        .expect(200);
    reaches(&grid, "n1", "running").await;
    grid.call("PUT", path, json!({"env": {"A": "1"}}))
        .await
        .expect(200);
    let node = reaches(&grid, "n1", "running").await;
    assert_eq!(node["ports"]["main"], port, "a port stays with its node");

    let usage = grid.get(&format!("{path}/usage")).await;
    assert!(matches!(usage.status, 200 | 422), "{usage:?}");
    let logs = grid.get(&format!("{path}/logs")).await;
    assert_eq!(logs.status, 200, "{logs:?}");
    let data = grid.get("/api/grid/data").await.expect(200);
    assert_eq!(
        (&data[0]["node"], &data[0]["in_use"]),
        (&json!("n1"), &json!(true))
    );

    // The agent goes, its nodes stay; it is found again with them.
    agent.end().await;
    grid.until_state("n1", "unknown").await;
    assert_eq!(alive("n1"), 1);
    let boots = world.boots(&NodeId::new("n1").unwrap()).len();
    let agent = RealAgent::start(&grid, &world, dir.path());
    reaches(&grid, "n1", "running").await;
    assert_eq!(world.boots(&NodeId::new("n1").unwrap()).len(), boots);

    grid.call("DELETE", path, json!({})).await.expect(202);
    grid.until(path, |a| a.status == 404).await;
    assert_eq!(alive("n1"), 0);
    let data = grid.get("/api/grid/data").await.expect(200);
    assert_eq!(
        (&data[0]["node"], &data[0]["in_use"]),
        (&json!("n1"), &json!(false))
    );
    grid.call("DELETE", "/api/grid/data/n1", json!({}))
        .await
        .expect(204);
    assert_eq!(grid.get("/api/grid/data").await.expect(200), json!([]));

    // The same id once more is another node, and runs.
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    reaches(&grid, "n1", "running").await;
    agent.end().await;
    grid.end().await;
}

#[tokio::test]
async fn a_program_that_fails_is_shown_with_its_reason() {
    let grid = Grid::start().await;
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let agent = RealAgent::start(&grid, &world, dir.path());
    grid.until("/api/grid/agents/a", |a| a.body["state"] == "ready")
        .await;
    grid.spawn(json!({"node_id": "n1", "binary": "memory:missing", "restart": {"mode": "never"}}))
        .await
        .expect(201);
    let node = reaches(&grid, "n1", "failed").await;
    let shown = node.to_string();
    assert!(shown.contains("program_not_found"), "{node:#}");
    grid.call(
        "PUT",
        "/api/grid/nodes/n1",
        json!({"binary": "memory:server"}),
    )
    .await
    .expect(200);
    reaches(&grid, "n1", "running").await;
    agent.end().await;
    grid.end().await;
}

#[tokio::test]
async fn a_log_that_is_not_there_is_an_error_with_its_status() {
    let grid = Grid::start().await;
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let agent = RealAgent::start(&grid, &world, dir.path());
    grid.until("/api/grid/agents/a", |a| a.body["state"] == "ready")
        .await;
    // Wished and never spawned: the platform knows no such node.
    grid.spawn(json!({"node_id": "n1", "binary": "memory:server"}))
        .await
        .expect(201);
    reaches(&grid, "n1", "running").await;
    let path = "/api/grid/nodes/n1/logs";
    let bad = grid.get(&format!("{path}?cursor=after:nonsense")).await;
    bad.error(400);
    grid.get(&format!("{path}?cursor=after:nonsense&follow=true"))
        .await
        .error(400);
    agent.end().await;
    grid.end().await;
}
