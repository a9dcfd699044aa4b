//! Many calls on one id at once: the end is one that some order of them has, and nothing is left over.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use common::{Place, census, clean, eventually, id, sh};
use grid_platform_api::{
    DataPolicy, ErrorKind, Exit, NodeUid, Platform, ReadyMode, Result, SpawnConfig, SpawnedNode,
};
use grid_platform_process::ProcessPlatform;
use tokio::task::JoinSet;

/// Says so when another copy runs at the same time: the lock is held as long as the program lives.
const ALONE: &str = "exec 9>>alone; flock -n 9 || echo $SUTRA_NODE_UID >> doubled; echo $SUTRA_NODE_UID >> starts; exec sleep 1000";

fn config(variant: usize) -> SpawnConfig {
    sh("a", ALONE)
        .env("VARIANT", variant.to_string())
        .port(0)
        .build()
        .unwrap()
}

fn text(place: &Place, name: &str) -> String {
    fs::read_to_string(place.data("a").join(name)).unwrap_or_default()
}

/// Waits until the script has become its one process, which is the node's main process and has no other beside it.
async fn alone(node: &SpawnedNode) {
    let pid = node.pid.unwrap();
    eventually("the program", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it.trim() == "sleep")
    })
    .await;
    assert_eq!(census(node.uid.as_str()), [pid]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_spawns_of_one_id_make_one_process_and_one_answer() {
    let place = Place::new();
    let platform = Arc::new(place.open().await);
    let mut calls = JoinSet::new();
    for caller in 0..200 {
        let platform = Arc::clone(&platform);
        // A few ask for another node of that name: only one of the two can be.
        let variant = usize::from(caller % 20 == 7);
        calls.spawn(async move { (variant, platform.spawn_node(config(variant)).await) });
    }
    let mut answers: [Vec<Result<SpawnedNode>>; 2] = Default::default();
    while let Some(answer) = calls.join_next().await {
        let (variant, answer) = answer.unwrap();
        answers[variant].push(answer);
    }
    let won = usize::from(answers[1].iter().any(Result::is_ok));
    let facts: BTreeSet<String> = answers[won]
        .iter()
        .map(|it| it.as_ref().unwrap())
        .map(|it| format!("{} {:?} {:?} {}", it.uid, it.pid, it.ports, it.created_at))
        .collect();
    assert_eq!(facts.len(), 1, "{facts:?}");
    for lost in &answers[1 - won] {
        let error = lost.as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.hint().is_some());
    }
    let node = platform.get_node_status(&id("a")).await.unwrap();
    alone(&node).await;
    assert_eq!(text(&place, "starts").lines().count(), 1);
    assert_eq!(text(&place, "doubled"), "");
    clean(&platform).await;
}

/// Those who join a start are told how it went, as the one is who made it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_spawn_of_a_program_that_ends_first_fails() {
    let place = Place::new();
    let platform = Arc::new(place.open().await);
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let platform = Arc::clone(&platform);
        let config = sh("a", "exit 3").ready(ReadyMode::Alive {
            for_: Duration::from_secs(600),
        });
        calls.spawn(async move { platform.spawn_node(config.build().unwrap()).await });
    }
    while let Some(answer) = calls.join_next().await {
        let error = answer.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SpawnFailed, "{error}");
        let failure = error.failure().unwrap();
        assert_eq!(failure.exit, Some(Exit::Code(3)), "{failure:?}");
    }
    clean(&platform).await;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Spawn(usize),
    Stop,
    Remove,
    /// As the agent does it: stop, remove with the data kept, spawn otherwise.
    Update(usize),
}

async fn call(platform: &ProcessPlatform, call: Call) -> Result<()> {
    match call {
        Call::Spawn(variant) => platform.spawn_node(config(variant)).await.map(drop),
        Call::Stop => platform.stop_node(&id("a")).await,
        Call::Remove => platform.remove_node(&id("a"), DataPolicy::Keep).await,
        Call::Update(variant) => {
            platform.stop_node(&id("a")).await?;
            platform.remove_node(&id("a"), DataPolicy::Keep).await?;
            platform.spawn_node(config(variant)).await.map(drop)
        }
    }
}

/// One step of a linear congruential generator (Knuth's MMIX).
fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// One round: calls of a seed, all at once, some of them dropped before they end.
async fn round(place: &Place, platform: &Arc<ProcessPlatform>, seed: u64) {
    let mut dice = seed;
    let mut calls = JoinSet::new();
    let mut all = Vec::new();
    for _ in 0..16 {
        let what = match next(&mut dice) % 8 {
            0..3 => Call::Spawn(usize::from(next(&mut dice).is_multiple_of(4))),
            3..5 => Call::Stop,
            5 => Call::Remove,
            _ => Call::Update(usize::from(next(&mut dice).is_multiple_of(2))),
        };
        all.push(what);
        let delay = Duration::from_micros(next(&mut dice) % 3000);
        let patience = next(&mut dice)
            .is_multiple_of(6)
            .then(|| Duration::from_micros(next(&mut dice) % 4000));
        let platform = Arc::clone(platform);
        calls.spawn(async move {
            tokio::time::sleep(delay).await;
            let work = call(&platform, what);
            match patience {
                // Dropped in the middle: what is begun comes to its end or is mended by the next call.
                Some(patience) => tokio::time::timeout(patience, work).await.ok(),
                None => Some(work.await),
            }
        });
    }
    while let Some(answer) = calls.join_next().await {
        if let Some(Err(error)) = answer.unwrap() {
            let fits = matches!(
                error.kind(),
                ErrorKind::Superseded | ErrorKind::NotFound | ErrorKind::Conflict
            );
            assert!(fits, "seed {seed}: {error} of {all:?}");
        }
    }
    let what = format!("seed {seed}: {all:?}");
    assert_eq!(text(place, "doubled"), "", "{what}");
    // The last word of each kind: a spawn or a stop of what there is then has to hold, whatever was before.
    let last = platform.spawn_node(config(0)).await;
    let node = match last {
        Ok(node) => node,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{what}: {error}");
            platform.spawn_node(config(1)).await.unwrap()
        }
    };
    alone(&node).await;
    assert_eq!(
        text(place, "starts").lines().last(),
        Some(node.uid.as_str()),
        "{what}"
    );
    // Earlier ones of the name have no process left.
    let starts = text(place, "starts");
    let uids: BTreeSet<&str> = starts.lines().collect();
    for uid in uids.into_iter().filter(|it| *it != node.uid.as_str()) {
        assert!(NodeUid::try_from(uid.to_owned()).is_ok());
        assert_eq!(census(uid), [0; 0], "{what}");
    }
    assert_eq!(text(place, "doubled"), "", "{what}");
    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0], "{what}");
    assert!(platform.list_nodes().await.unwrap().is_empty());
    for left in ["nodes", "data"] {
        let left = fs::read_dir(place.config.state_dir.join(left)).unwrap();
        assert_eq!(left.count(), 0, "{what}");
    }
    assert!(!place.data("a").exists(), "{what}");
}

async fn rounds(seeds: std::ops::Range<u64>) {
    println!("seeds {seeds:?}");
    let place = Place::new();
    let platform = Arc::new(place.open().await);
    for seed in seeds {
        round(&place, &platform, seed).await;
    }
    clean(&platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_race_on_one_id_end_as_some_order_of_them_does() {
    rounds(0..40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "many rounds: minutes"]
async fn calls_that_race_on_one_id_end_as_some_order_of_them_does_for_long() {
    rounds(1000..3000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_final_stop_or_removal_holds_whatever_raced_before_it() {
    let place = Place::new();
    let platform = Arc::new(place.open().await);
    for seed in 0..30_u64 {
        let mut calls = JoinSet::new();
        for caller in 0..12 {
            let platform = Arc::clone(&platform);
            let ready = ReadyMode::Alive {
                for_: Duration::from_millis(seed % 5 * 10),
            };
            let config = sh("a", ALONE).ready(ready).build().unwrap();
            calls.spawn(async move {
                if caller % 3 == 2 {
                    platform.stop_node(&id("a")).await
                } else {
                    platform.spawn_node(config).await.map(drop)
                }
            });
        }
        // Not after the others: in the middle of them, from anywhere in their way.
        tokio::time::sleep(Duration::from_micros(seed * 700)).await;
        let known: Vec<NodeUid> = platform
            .list_nodes()
            .await
            .unwrap()
            .into_iter()
            .map(|it| it.uid)
            .collect();
        calls.shutdown().await;
        // Calls whose callers are gone are no reason for the node to run after this.
        match platform.stop_node(&id("a")).await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "seed {seed}: {error}"),
        }
        for node in platform.list_nodes().await.unwrap() {
            assert!(node.state.is_ended(), "seed {seed}: {:?}", node.state);
            assert_eq!(census(node.uid.as_str()), [0; 0], "seed {seed}");
        }
        for uid in known {
            assert_eq!(census(uid.as_str()), [0; 0], "seed {seed}");
        }
        assert_eq!(text(&place, "doubled"), "", "seed {seed}");
    }
    clean(&platform).await;
}
