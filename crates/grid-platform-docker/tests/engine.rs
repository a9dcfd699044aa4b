//! Policies over restarts of the engine itself: what should run runs again, and what was stopped or failed stays as it is.

#![allow(clippy::unwrap_used, reason = "all of it is for tests")]

mod bed;

use std::time::Duration;

use bed::Place;
use grid_platform_api::{
    DataPolicy, ErrorKind, HealthCheck, NodeId, NodeState, Platform, PlatformExt, ReadyMode,
    RestartMode, SpawnConfig, SpawnConfigBuilder, SpawnedNode, StopPolicy,
};
use grid_platform_docker::DockerPlatform;
use grid_testbed::{Api, Engine, Kind, Options};

/// The longest that is waited for a state.
const PATIENCE: Duration = Duration::from_secs(60);

fn node(place: &Place, name: &str, mode: RestartMode, actions: &[&str]) -> SpawnConfigBuilder {
    let grace = Duration::from_millis(100);
    SpawnConfig::builder(name, place.probe(actions).unwrap())
        .port(0)
        .restart(mode)
        .ready(ReadyMode::Started)
        .stop(StopPolicy {
            grace,
            ..StopPolicy::default()
        })
}

async fn booted(place: &Place, id: &NodeId, boots: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while place.boots(id).unwrap().len() < boots {
        assert!(
            tokio::time::Instant::now() < deadline,
            "`{id}` did not boot"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(place.boots(id).unwrap().len(), boots, "`{id}`");
}

async fn wait(
    platform: &DockerPlatform,
    id: &NodeId,
    wanted: impl Fn(&SpawnedNode) -> bool + Send + Sync,
) -> SpawnedNode {
    platform
        .wait_for(id, PATIENCE, |it| it.is_some_and(&wanted))
        .await
        .unwrap();
    platform.get_node_status(id).await.unwrap()
}

/// Nodes of every policy, running, stopped and failed, over what is done to their engine.
///
/// `tag` is in their names: who looks for a node's processes looks at the whole host.
async fn over(tag: &str, options: Options, mishap: fn(&Engine) -> Result<(), String>) {
    let tag = format!("{tag}-{}", std::process::id());
    let engine = Engine::temporary(Kind::Docker, options).unwrap();
    let place = Place::new(&Api::new(&engine.host()).unwrap()).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let spawn = async |name: &str, mode, actions: &[&str]| {
        let config = node(&place, &format!("{name}-{tag}"), mode, actions);
        let config = config.build().unwrap();
        let id = config.node_id.clone();
        platform.spawn_node(config).await.unwrap();
        booted(&place, &id, 1).await;
        id
    };
    let running = spawn("always", RestartMode::Always, &[]).await;
    // It ends with a code other than 0 when it is stopped, as many a program does.
    let failing = spawn("on-failure", RestartMode::OnFailure, &["ignore=15"]).await;
    let stopped = [
        spawn("stopped", RestartMode::Always, &[]).await,
        spawn("stopped-badly", RestartMode::OnFailure, &["ignore=15"]).await,
    ];
    for id in &stopped {
        platform.stop_node(id).await.unwrap();
    }
    let config = node(
        &place,
        &format!("failed-{tag}"),
        RestartMode::Always,
        &["healthy=no"],
    )
    .health(HealthCheck::http("/healthz"))
    .ready(ReadyMode::Healthy {
        timeout: Duration::from_millis(500),
    });
    let config = config.build().unwrap();
    let failed = config.node_id.clone();
    let error = platform.spawn_node(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SpawnFailed, "{error:?}");

    mishap(&engine).unwrap();
    engine.up(options).unwrap();

    let boots = if options.live_restore { 1 } else { 2 };
    for id in [&running, &failing] {
        booted(&place, id, boots).await;
        wait(&platform, id, |it| it.state.is_running()).await;
        let live = place.census(id).unwrap();
        assert_eq!(live.len(), 1, "`{id}`: {live:?}");
    }
    for id in &stopped {
        let seen = wait(&platform, id, |it| it.state.is_ended()).await;
        assert!(
            matches!(seen.state, NodeState::Stopped { .. }),
            "{:?}",
            seen.state
        );
    }
    let seen = wait(&platform, &failed, |it| it.state.is_ended()).await;
    assert!(seen.state.failure().is_some(), "{:?}", seen.state);
    for id in stopped.iter().chain([&failed]) {
        assert_eq!(place.boots(id).unwrap().len(), 1, "`{id}` was revived");
        assert!(place.census(id).unwrap().is_empty(), "`{id}` was revived");
    }
    // What is stopped can be started, whatever it went through.
    for (id, mode, actions) in [
        (&stopped[0], RestartMode::Always, &[] as &[&str]),
        (&stopped[1], RestartMode::OnFailure, &["ignore=15"]),
    ] {
        let config = node(&place, id.as_str(), mode, actions).build().unwrap();
        platform.spawn_node(config).await.unwrap();
        booted(&place, id, 2).await;
    }
    for id in stopped.iter().chain([&failed, &running, &failing]) {
        platform.remove_node(id, DataPolicy::Purge).await.unwrap();
    }
    drop(platform);
    place.clean_up().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_hold_over_an_engine_that_is_killed() {
    over("killed", Options::default(), Engine::kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_hold_over_an_engine_that_is_killed_under_its_containers() {
    over("under", Options { live_restore: true }, Engine::kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_hold_over_an_engine_that_is_restarted() {
    over("stopped", Options::default(), Engine::stop).await;
}
