//! What happens to containers and to the engine behind the adapter's back, and what watchers are told of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is missing"
)]

mod bed;

use std::time::Duration;

use bed::Place;
use futures::StreamExt;
use grid_platform_api::{
    DataPolicy, Exit, Health, NodeEvent, NodeEventStream, NodeId, Platform, Program, ReadyMode,
    RestartMode, SpawnConfig, SpawnConfigBuilder, SpawnedNode,
};
use grid_platform_testing::probe;
use grid_testbed::{Api, Engine, Image, Kind, Options, Tar};
use serde_json::json;

/// The longest that is waited for an event.
const PATIENCE: Duration = Duration::from_secs(60);

fn node(name: &str, program: Program) -> SpawnConfigBuilder {
    // Tests of one engine must not take each other's names.
    SpawnConfig::builder(format!("{name}-{}", std::process::id()), program)
        .ready(ReadyMode::Started)
        .restart(RestartMode::Never)
}

/// Reads on until an event gives something.
async fn find<T>(
    events: &mut NodeEventStream,
    what: &str,
    found: impl Fn(&NodeEvent) -> Option<T>,
) -> T {
    let reading = async {
        loop {
            let event = events.next().await.expect("the events ended").unwrap();
            if let Some(hit) = found(&event) {
                return hit;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, reading).await;
    found.unwrap_or_else(|_| panic!("no event of {what}"))
}

/// The node as an event tells it, once it is as wanted.
async fn changed(
    events: &mut NodeEventStream,
    what: &str,
    wanted: impl Fn(&SpawnedNode) -> bool,
) -> SpawnedNode {
    find(events, what, |event| match event {
        NodeEvent::Changed { node } if wanted(node) => Some(SpawnedNode::clone(node)),
        _ => None,
    })
    .await
}

fn post(api: &Api, container: &str, what: &str) {
    let path = format!("/containers/{container}/{what}");
    api.call("POST", &path, None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_a_container_is_told() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let mut events = platform.watch_nodes().await.unwrap();
    let config = node("handled", place.probe(&[]).unwrap()).build().unwrap();
    let spawned = platform.spawn_node(config).await.unwrap();
    let (id, container) = (&spawned.node_id, spawned.native_handle.as_str());
    changed(&mut events, "the start", |it| it.state.is_running()).await;

    post(&api, container, "pause");
    changed(&mut events, "the pause", |it| {
        it.health != Health::Unchecked
    })
    .await;
    post(&api, container, "unpause");
    changed(&mut events, "its end", |it| it.health == Health::Unchecked).await;

    // It is known by its labels, whatever it is called.
    post(&api, container, &format!("rename?name=another-{id}"));
    post(&api, container, "kill?signal=SIGKILL");
    let killed = changed(&mut events, "the kill", |it| it.state.is_ended()).await;
    assert_eq!(killed.node_id, *id);
    let failure = killed.state.failure().expect("nobody of ours killed it");
    assert_eq!(failure.exit, Some(Exit::Signal(9)));

    let path = format!("/containers/{container}?force=true");
    api.call("DELETE", &path, None).unwrap();
    let gone = find(&mut events, "the removal", |event| match event {
        NodeEvent::Removed { node_id, uid } => Some((node_id.clone(), uid.clone())),
        _ => None,
    });
    assert_eq!(gone.await, (id.clone(), spawned.uid.clone()));
    platform.remove_node(id, DataPolicy::Purge).await.unwrap();
}

/// A snapshot's nodes, by id and whether they run, behind a resync.
async fn resynced(events: &mut NodeEventStream) -> Vec<(NodeId, bool)> {
    let reason = find(events, "the loss", |event| match event {
        NodeEvent::Resync { reason } => Some(reason.clone()),
        _ => None,
    });
    let reason = reason.await;
    assert!(
        !reason.is_empty() && !reason.ends_with('.') && !reason.contains('\n'),
        "{reason:?}"
    );
    match events.next().await {
        Some(Ok(NodeEvent::Snapshot { nodes })) => nodes
            .into_iter()
            .map(|it| (it.node_id, it.state.is_running()))
            .collect(),
        other => panic!("a snapshot comes behind a resync, and not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_away_is_a_resync_and_events_go_on() {
    let options = Options { live_restore: true };
    let engine = Engine::temporary(Kind::Docker, options).unwrap();
    let place = Place::new(&Api::new(&engine.host()).unwrap()).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let spawn = async |name| {
        let config = node(name, place.probe(&[]).unwrap()).build().unwrap();
        platform.spawn_node(config).await.unwrap()
    };
    let one = spawn("one").await;
    let mut events = platform.watch_nodes().await.unwrap();
    for _ in 0..2 {
        engine.kill().unwrap();
        engine.up(options).unwrap();
        assert_eq!(resynced(&mut events).await, [(one.node_id.clone(), true)]);
    }
    let two = spawn("two").await;
    let seen = changed(&mut events, "the second", |it| {
        it.node_id == two.node_id && it.state.is_running()
    });
    assert_eq!(seen.await.uid, two.uid);
    let kept = platform.get_node_status(&one.node_id).await.unwrap();
    assert_eq!(kept.started_at, one.started_at, "it lived on");
    for node in [one, two] {
        platform
            .remove_node(&node.node_id, DataPolicy::Purge)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_while_an_engine_is_away_is_found_when_it_is_back() {
    let engine = Engine::temporary(Kind::Docker, Options::default()).unwrap();
    let place = Place::new(&Api::new(&engine.host()).unwrap()).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let config = node("ended", place.probe(&[]).unwrap()).build().unwrap();
    let node = platform.spawn_node(config).await.unwrap();
    let mut events = platform.watch_nodes().await.unwrap();
    // It takes its containers with it, and its policy does not start this one again.
    engine.kill().unwrap();
    engine.up(Options::default()).unwrap();
    assert_eq!(resynced(&mut events).await, [(node.node_id.clone(), false)]);
    assert!(!platform.is_node_alive(&node.node_id).await.unwrap());
    platform
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_an_image_is_health_where_the_request_has_none() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let mut events = platform.watch_nodes().await.unwrap();
    for (name, code) in [("fine", 0), ("ill", 1)] {
        // Once it is up, the probe itself is asked as another program of the container.
        let check = json!({
            "Test": ["CMD", "/grid-probe", format!("exit={code}")],
            "Interval": 100_000_000_u64,
            "Retries": 1,
        });
        let layer = Tar::default().file("grid-probe", 0o755, probe::BYTES);
        let image = Image::new(layer)
            .entrypoint(&["/grid-probe"])
            .set("Healthcheck", check);
        let image = bed::image(&api, &format!("check-{name}"), image).unwrap();
        let config = node(name, Program::image(image, [""; 0])).build().unwrap();
        let node = platform.spawn_node(config).await.unwrap();
        assert_ne!(node.health, Health::Unchecked);
        let told = changed(&mut events, "health", |it| {
            it.node_id == node.node_id && !matches!(it.health, Health::Starting | Health::Unchecked)
        });
        let told = told.await.health;
        match code {
            0 => assert_eq!(told, Health::Healthy),
            _ => assert!(matches!(told, Health::Unhealthy { .. }), "{told:?}"),
        }
        platform
            .remove_node(&node.node_id, DataPolicy::Purge)
            .await
            .unwrap();
    }
}
