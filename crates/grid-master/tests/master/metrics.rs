//! The metrics, as Prometheus' own tool reads them.

use serde_json::json;

use crate::{
    promtool,
    support::{Agent, Grid},
};

#[tokio::test]
async fn promtool_finds_nothing_wrong() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    for id in ["n1", "n2"] {
        grid.spawn(json!({"node_id": id})).await.expect(201);
        agent.obey().await;
        grid.until_state(id, "running").await;
    }
    grid.call("POST", "/api/grid/nodes/n2/stop", json!({}))
        .await
        .expect(200);
    agent.obey().await;
    grid.until_state("n2", "stopped").await;
    let follower = grid.follow("/api/grid/events", None).await;
    grid.get("/api/grid/nodes/none").await.error(404);
    grid.get("/nowhere").await.error(404);
    grid.spawn(json!({"node_id": "../x"})).await.error(400);
    let text = grid.get("/metrics").await.expect(200);
    let text = text.as_str().unwrap();
    for sample in [
        "grid_master_nodes{state=\"stopped\"} 1\n",
        "grid_master_event_followers 1\n",
        "grid_master_requests_total{method=\"GET\",route=\"none\",status=\"404\"} 1\n",
    ] {
        assert!(text.contains(sample), "{sample}\n{text}");
    }
    drop(follower);

    promtool::check(text, "grid_master_requests_total");
    grid.end().await;
}
