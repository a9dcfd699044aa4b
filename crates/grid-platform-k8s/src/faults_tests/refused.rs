//! A place that is somebody else's: what was made there before that was seen goes again, and whatever goes wrong meanwhile costs nobody anything.

use std::fmt::Debug;

use grid_platform_api::{ErrorKind, PlatformExt, SpawnedNode};

use super::*;
use crate::fake::Upset;

/// A cluster where a pod that is somebody else's has the name of the node's.
async fn taken() -> (Bed, KubernetesPlatform) {
    let (mut bed, platform) = Bed::new().await;
    bed.fake.edit("pods", NAME, |it| {
        it["status"] = json!({"phase": "Pending"})
    });
    let theirs = bed.fake.get("pods", NAME).unwrap();
    bed.foreign
        .push(("pods".to_owned(), NAME.to_owned(), theirs));
    (bed, platform)
}

/// That nothing of a node is there, and everything of others.
async fn check_nothing(bed: &Bed, platform: &KubernetesPlatform) {
    assert_eq!(listed(platform, NODE).await, None);
    for kind in KINDS.into_iter().filter(|it| *it != "pods") {
        assert_eq!(bed.fake.get(kind, NAME), None, "{kind}");
    }
    bed.check_others(platform).await;
}

async fn check_refused(platform: &KubernetesPlatform) {
    let mut refused = platform.spawn_node(request(NODE)).await.unwrap_err();
    if refused.is_retryable() {
        // What was there is on its way out.
        let is_gone = |it: Option<&SpawnedNode>| it.is_none();
        platform
            .wait_for(&id(NODE), SETTLED, is_gone)
            .await
            .unwrap();
        refused = platform.spawn_node(request(NODE)).await.unwrap_err();
    }
    assert_eq!(refused.kind(), ErrorKind::OwnedByOther, "{refused}");
    assert!(refused.hint().is_some());
}

/// That what an earlier call has left there is refused for the same reason and costs nobody anything. A node whose record was made is
/// kept, for it may have data, and can be stopped and removed as any other.
async fn check_mended(bed: &Bed, platform: &KubernetesPlatform) {
    check_refused(platform).await;
    match listed(platform, NODE).await {
        None => check_nothing(bed, platform).await,
        Some(NodeState::Stopped { .. }) => platform.stop_node(&id(NODE)).await.unwrap(),
        Some(other) => panic!("{other:?}"),
    }
    platform
        .remove_node(&id(NODE), DataPolicy::Purge)
        .await
        .unwrap();
    check_nothing(bed, platform).await;
}

/// The calls of a spawn that is refused.
async fn calls() -> Vec<String> {
    let (bed, platform) = taken().await;
    bed.fake.count(Counted::Work);
    check_refused(&platform).await;
    check_nothing(&bed, &platform).await;
    let calls = bed.fake.calls();
    let taken_back = calls.iter().filter(|it| it.starts_with("DELETE ")).count();
    assert_eq!(taken_back, 3, "{calls:?}");
    calls
}

/// Runs a case for each of these troubles at each call of such a spawn, whose number it is given.
async fn at_each_call<T: Copy + Debug>(troubles: &[T], case: impl AsyncFn(usize, T)) {
    for (at, call) in calls().await.iter().enumerate() {
        for trouble in troubles {
            let what = format!("{trouble:?} at {call}, call {}", at + 1);
            Named(&what, case(at + 1, *trouble)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_meanwhile_it_costs_nobody_anything() {
    let upsets = [Upset::Cut, Upset::CutAfter, Upset::Failed, Upset::Lost];
    at_each_call(&upsets, async |at, upset| {
        let (bed, platform) = taken().await;
        bed.fake.upset_nth(Counted::Work, at, 1, upset);
        platform.spawn_node(request(NODE)).await.unwrap_err();
        bed.fake.count(Counted::None);
        check_mended(&bed, &platform).await;
    })
    .await;
}

/// When it was killed.
#[derive(Clone, Copy, Debug)]
enum Killed {
    Before,
    Behind,
}

#[tokio::test(start_paused = true)]
async fn whenever_it_is_killed_the_next_one_mends_it() {
    at_each_call(&[Killed::Before, Killed::Behind], async |at, when| {
        let (bed, platform) = taken().await;
        let done = matches!(when, Killed::Behind);
        bed.fake.kill_at(Counted::Work, at, done);
        let killed = bed.fake.killed();
        tokio::select! {
            biased;
            () = killed => {}
            refused = platform.spawn_node(request(NODE)) => panic!("it was to be killed: {refused:?}"),
        }
        drop(platform);
        bed.fake.count(Counted::None);
        let platform = bed.open().await.unwrap();
        check_mended(&bed, &platform).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_the_nodes_data_is_not_passed_over() {
    let (bed, platform) = Bed::new().await;
    platform.spawn_node(request(NODE)).await.unwrap();
    // Whoever took its labels off has made it nobody's; it has the data all the same.
    bed.fake.edit("pods", NAME, |it| {
        it["metadata"]["labels"].as_object_mut().unwrap().clear();
    });
    let is_seen = |it: Option<&SpawnedNode>| it.is_some_and(|it| it.state.is_ended());
    platform
        .wait_for(&id(NODE), SETTLED, is_seen)
        .await
        .unwrap();
    for done in [
        platform.stop_node(&id(NODE)).await,
        platform.remove_node(&id(NODE), DataPolicy::Purge).await,
    ] {
        assert_eq!(done.unwrap_err().kind(), ErrorKind::OwnedByOther);
    }
    assert!(bed.fake.get("pods", NAME).is_some());
    let claim = bed.fake.get("persistentvolumeclaims", NAME).unwrap();
    assert!(claim["metadata"]["deletionTimestamp"].is_null());
    bed.check_others(&platform).await;
}
