//! The in-memory platform as other crates' tests use it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures::future::join_all;
use grid_platform_api::{
    Exit, Health, HealthCheck, Platform, PlatformExt, Program, RestartMode, SpawnConfig,
    SpawnConfigBuilder, SpawnedNode,
};
use grid_platform_testing::{MemoryPlatform, World};

const LIMIT: Duration = Duration::from_secs(60);

fn server(id: &str) -> SpawnConfigBuilder {
    let program = Program::binary("/usr/bin/redis-server", ["--port", "{port}"]);
    SpawnConfig::builder(id, program).port(0)
}

async fn wait(platform: &MemoryPlatform, node: &SpawnedNode, wanted: fn(&SpawnedNode) -> bool) {
    let met = platform.wait_for(&node.node_id, LIMIT, |n| n.is_some_and(wanted));
    met.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn any_program_is_a_server_that_can_be_told_what_to_do() {
    let world = World::new();
    let platform = world.open();
    let config = server("db")
        .health(HealthCheck::http("/healthz"))
        .build()
        .unwrap();
    let node = platform.spawn_node(config).await.unwrap();
    wait(&platform, &node, |n| n.health == Health::Healthy).await;
    world.ask(&node, "healthy=no").await.unwrap();
    wait(&platform, &node, |n| {
        matches!(n.health, Health::Unhealthy { .. })
    })
    .await;
    world.write_log(&node.node_id, "hello");
    assert_eq!(
        platform.get_logs(&node.node_id, 1).await.unwrap(),
        ["hello"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_process_can_be_killed_from_outside() {
    let world = World::new();
    let platform = world.open();
    let config = server("db").restart(RestartMode::Never).build().unwrap();
    let node = platform.spawn_node(config).await.unwrap();
    world.signal(&world.processes(&node.node_id)[0], 9);
    wait(&platform, &node, |n| n.state.is_ended()).await;
    let failed = platform.get_node_status(&node.node_id).await.unwrap();
    assert_eq!(failed.state.failure().unwrap().exit, Some(Exit::Signal(9)));
    assert!(world.processes(&node.node_id).is_empty());
    assert_eq!(world.boots(&node.node_id).len(), 1);
}

#[tokio::test]
async fn a_thousand_platforms_have_ten_nodes_each() {
    let platforms: Vec<_> = (0..1000).map(|_| MemoryPlatform::new()).collect();
    let spawns = platforms.iter().flat_map(|platform| {
        (0..10).map(|n| {
            let config = server(&format!("n{n}")).ready(grid_platform_api::ReadyMode::Started);
            platform.spawn_node(config.build().unwrap())
        })
    });
    for node in join_all(spawns).await {
        assert!(node.unwrap().state.is_running());
    }
}
