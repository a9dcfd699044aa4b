//! The API server dies and comes back: a program of its own, as nothing else can use the cluster meanwhile.

#![allow(clippy::unwrap_used, reason = "all of it is for tests")]

mod bed;

use bed::{
    Bed,
    stage::{PATIENCE, Stage},
};
use futures::StreamExt;
use grid_platform_api::{DataPolicy, ErrorKind, LogCursor, LogItem, LogStream, Platform};
use grid_platform_testing::{Outcome, eventually};
use grid_testbed::kubernetes::{Cluster, Part};
use tokio::{task::block_in_place, time::timeout};

/// A cluster without its API server, which is there again when this is dropped.
struct Headless(Cluster);

impl Headless {
    fn make(cluster: &Cluster) -> Self {
        let headless = Self(cluster.clone());
        block_in_place(|| cluster.kill(Part::ApiServer)).unwrap();
        headless
    }
}

impl Drop for Headless {
    fn drop(&mut self) {
        let started = block_in_place(|| self.0.start(Part::ApiServer));
        if !std::thread::panicking() {
            started.unwrap();
        }
    }
}

/// Reads on until this line has come.
async fn until(log: &mut LogStream, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|it| it != last) {
        let item = timeout(PATIENCE, log.next()).await;
        let item = item.unwrap_or_else(|_| panic!("`{last}` does not come behind {seen:?}"));
        seen.push(match item.unwrap().unwrap() {
            LogItem::Line(line) => line.text(),
            LogItem::Gap { reason, .. } => format!("gap: {reason}"),
        });
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_made_up_while_the_api_server_is_away() -> Outcome {
    let stage = Stage::open().await?;
    let node = stage
        .platform
        .spawn_node(stage.probe("n", &["say=begun"])?.build()?)
        .await?;
    let id = &node.node_id;
    let mut log = stage.platform.follow_logs(id, LogCursor::Start).await?;
    assert_eq!(until(&mut log, "begun").await, ["boot 1", "begun"]);
    stage.ask(&node, "boot").await?;

    let headless = Headless::make(&Bed::shared()?.cluster);
    // The node does not need it.
    stage.ask(&node, "say=alone").await?;
    // What is known is given out as long as it is known to be true, and then not any more.
    eventually(PATIENCE, "the list to be told as old", || async {
        let listed = stage.platform.list_nodes().await;
        Ok(listed
            .is_err_and(|e| e.kind() == ErrorKind::Stale && e.is_retryable())
            .then_some(()))
    })
    .await?;
    let stopped = stage.platform.stop_node(id).await.unwrap_err();
    assert!(stopped.is_retryable(), "{stopped:?}");
    let other = stage.probe("other", &[])?.build()?;
    let spawned = stage.platform.spawn_node(other.clone()).await.unwrap_err();
    assert!(spawned.is_retryable(), "{spawned:?}");
    drop(headless);

    let now = eventually(PATIENCE, "the list to be true again", || async {
        Ok(stage.platform.list_nodes().await.ok())
    })
    .await?;
    let now: Vec<_> = now.iter().map(|it| (&it.uid, it.restarts)).collect();
    assert_eq!(now, [(&node.uid, 0)], "the same node, and no other");
    assert_eq!(
        until(&mut log, "alone").await,
        ["alone"],
        "once, and no gap"
    );
    stage.ask(&node, "say=after").await?;
    assert_eq!(until(&mut log, "after").await, ["after"]);
    assert_eq!(stage.place.boots(id)?.len(), 1);
    // What was refused can be had now.
    let other = eventually(PATIENCE, "a spawn", || async {
        Ok(stage.platform.spawn_node(other.clone()).await.ok())
    })
    .await?;
    for id in [id, &other.node_id] {
        stage.platform.remove_node(id, DataPolicy::Purge).await?;
    }
    drop(stage);
    Bed::end();
    Ok(())
}
