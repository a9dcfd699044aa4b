//! A place that is somebody else's: what was made there before that was seen goes again, and whatever goes wrong meanwhile costs nobody anything.

use grid_platform_api::ErrorKind;

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
    let refused = platform.spawn_node(request(NODE)).await.unwrap_err();
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

#[tokio::test(start_paused = true)]
async fn whatever_fails_meanwhile_nothing_is_left_there() {
    let upsets = [Upset::Cut, Upset::CutAfter, Upset::Failed, Upset::Lost];
    for (at, call) in calls().await.iter().enumerate() {
        for upset in upsets {
            let case = async {
                let (bed, platform) = taken().await;
                bed.fake.upset_nth(Counted::Work, at + 1, 1, upset);
                platform.spawn_node(request(NODE)).await.unwrap_err();
                bed.fake.count(Counted::None);
                sleep(SETTLED).await;
                check_mended(&bed, &platform).await;
            };
            let what = format!("{upset:?} at {call}, call {}", at + 1);
            Named(&what, case).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whenever_it_is_killed_the_next_one_leaves_nothing_there() {
    for (at, call) in calls().await.iter().enumerate() {
        for done in [false, true] {
            let case = async {
                let (bed, platform) = taken().await;
                bed.fake.kill_at(Counted::Work, at + 1, done);
                let killed = bed.fake.killed();
                tokio::select! {
                    biased;
                    () = killed => {}
                    refused = platform.spawn_node(request(NODE)) => panic!("it was to be killed: {refused:?}"),
                }
                drop(platform);
                bed.fake.count(Counted::None);
                let platform = bed.open().await.unwrap();
                sleep(SETTLED).await;
                check_mended(&bed, &platform).await;
            };
            let what = format!("killed at {call}, call {}, done {done}", at + 1);
            Named(&what, case).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_the_nodes_data_is_not_passed_over() {
    let (bed, platform) = Bed::new().await;
    platform.spawn_node(request(NODE)).await.unwrap();
    // Whoever took its labels off has made it nobody's; it has the data all the same.
    bed.fake.edit("pods", NAME, |it| {
        it["metadata"]["labels"].as_object_mut().unwrap().clear();
    });
    sleep(SETTLED).await;
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
