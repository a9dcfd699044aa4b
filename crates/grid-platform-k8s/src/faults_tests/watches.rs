//! Watches that break, in each way that they can.

use grid_platform_api::ErrorKind;
use tokio::time::Instant;

use super::*;
use crate::fake::{Upset, WatchUpset};

const WATCHED: [&str; 2] = ["pods", "persistentvolumeclaims"];

/// Somebody else deletes the pod of the node and there is no other: the host takes it away at once.
fn take_pod_away(bed: &Bed) {
    bed.fake.delete("pods", NAME);
}

/// The program of the node ended, and its pod says so.
fn let_program_end(bed: &Bed) {
    bed.fake.edit("pods", NAME, |it| {
        it["status"]["phase"] = "Succeeded".into();
        it["status"]["containerStatuses"][0]["state"] =
            json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    });
}

fn ended() -> NodeState {
    NodeState::Stopped {
        exit: Some(grid_platform_api::Exit::Code(0)),
    }
}

/// Breaks both watches in some way and lets something happen; what was told of it.
async fn told(upset: &WatchUpset, forget: bool) -> (Bed, KubernetesPlatform, Vec<NodeEvent>) {
    let (bed, platform) = Bed::new().await;
    platform.spawn_node(request(NODE)).await.unwrap();
    let mut events = Events::of(&platform).await;
    events.settled().await;
    for kind in WATCHED {
        bed.fake.upset_watch(kind, upset.clone());
        // A watch that breaks in an event needs one.
        bed.fake.edit(kind, "sutra-grid-b", |it| {
            it["metadata"]["annotations"]["somebody"] = "was here".into();
        });
    }
    sleep(Duration::from_millis(1)).await;
    let_program_end(&bed);
    if forget {
        bed.fake.compact();
    }
    let told = events.settled().await;
    (bed, platform, told)
}

#[tokio::test(start_paused = true)]
async fn however_a_watch_breaks_nothing_is_lost_and_nothing_told_twice() {
    let upsets = [
        (WatchUpset::End, false),
        (WatchUpset::Break, false),
        (WatchUpset::Middle, false),
        (WatchUpset::Error(500), true),
        (WatchUpset::Error(410), true),
    ];
    for (upset, is_read_again) in upsets {
        for forget in [false, true] {
            let (bed, platform, told) = told(&upset, forget).await;
            let what = format!("{upset:?}, forget {forget}: {told:?}");
            assert_eq!(changes(&told, NODE), [ended()], "{what}");
            assert_eq!(changes(&told, BYSTANDER), [], "{what}");
            assert_eq!(removals(&told, NODE), 0, "{what}");
            assert_eq!(removals(&told, BYSTANDER), 0, "{what}");
            assert_eq!(resyncs(&told) > 0, is_read_again || forget, "{what}");
            assert_eq!(listed(&platform, NODE).await, Some(ended()), "{what}");
            bed.check_others(&platform).await;
            check_removed(&bed, &platform).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_went_while_nobody_heard_is_told_to_be_gone_once() {
    for kind in WATCHED {
        let (bed, platform) = Bed::new().await;
        platform.spawn_node(request(NODE)).await.unwrap();
        let mut events = Events::of(&platform).await;
        events.settled().await;
        bed.fake.upset_watch(kind, WatchUpset::Break);
        sleep(Duration::from_millis(1)).await;
        take_pod_away(&bed);
        bed.fake.delete("persistentvolumeclaims", NAME);
        bed.fake.compact();
        let told = events.settled().await;
        assert_eq!(removals(&told, NODE), 1, "{kind}: {told:?}");
        assert_eq!(removals(&told, BYSTANDER), 0, "{kind}: {told:?}");
        assert_eq!(listed(&platform, NODE).await, None);
        check_removed(&bed, &platform).await;
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_taken_up_ever_more_slowly() {
    let (bed, platform) = Bed::new().await;
    bed.fake.watches_end(true);
    let before = bed.fake.watched();
    sleep(Duration::from_secs(300)).await;
    let watched = bed.fake.watched() - before;
    // Three of them, every 5 s at the most, and some more at first.
    assert!(watched < 3 * (300 / 5 + 10), "{watched} watches");
    bed.fake.watches_end(false);
    sleep(SETTLED).await;
    platform.spawn_node(request(NODE)).await.unwrap();
    bed.check_runs(&platform).await;
    check_removed(&bed, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn watches_that_last_are_taken_up_at_once() {
    let (bed, platform) = Bed::new().await;
    // Each of them ends many times, when its time is over.
    sleep(Duration::from_secs(3600)).await;
    for _ in 0..10 {
        sleep(Duration::from_secs(30)).await;
        let begin = Instant::now();
        bed.fake.upset_watch("pods", WatchUpset::End);
        bed.fake.edit("pods", "sutra-grid-b", |it| {
            it["metadata"]["annotations"]["somebody"] = "was here".into();
        });
        sleep(Duration::from_millis(1)).await;
        platform.list_nodes().await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
    bed.check_others(&platform).await;
}

#[tokio::test(start_paused = true)]
async fn what_may_be_old_is_not_given_out_until_it_is_not() {
    for kind in WATCHED {
        let (bed, platform) = Bed::new().await;
        platform.spawn_node(request(NODE)).await.unwrap();
        // The watch breaks, and the server takes its time to take the next one.
        for _ in 0..3 {
            bed.fake.upset_call(&format!("WATCH {kind}"), Upset::Silent);
        }
        bed.fake.upset_watch(kind, WatchUpset::Break);
        sleep(Duration::from_millis(1)).await;
        let_program_end(&bed);
        let stale = platform.list_nodes().await.unwrap_err();
        assert_eq!(stale.kind(), ErrorKind::Stale);
        check_clear(&stale);
        assert!(platform.is_node_alive(&id(NODE)).await.is_err());
        sleep(2 * SETTLED).await;
        assert_eq!(listed(&platform, NODE).await, Some(ended()));
        check_removed(&bed, &platform).await;
    }
}

#[tokio::test(start_paused = true)]
async fn slow_answers_make_nothing_wrong() {
    for call in ["LIST pods", "LIST persistentvolumeclaims"] {
        let (bed, platform) = Bed::new().await;
        let mut events = Events::of(&platform).await;
        events.settled().await;
        // A list that was made before a spawn comes when the spawn is over.
        bed.fake
            .upset_call(call, Upset::Late(Duration::from_secs(3)));
        for kind in WATCHED {
            bed.fake.upset_watch(kind, WatchUpset::Error(410));
        }
        sleep(Duration::from_millis(200)).await;
        platform.spawn_node(request(NODE)).await.unwrap();
        let told = events.settled().await;
        assert_eq!(removals(&told, NODE), 0, "{call}: {told:?}");
        bed.check_runs(&platform).await;
        check_removed(&bed, &platform).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_put_back_to_an_older_day_is_believed() {
    let (bed, platform) = Bed::new().await;
    platform.spawn_node(request(NODE)).await.unwrap();
    platform.stop_node(&id(NODE)).await.unwrap();
    let backup = bed.fake.save();
    platform.spawn_node(request(NODE)).await.unwrap();
    platform.spawn_node(request("d")).await.unwrap();
    let lost = id("d");
    let mut events = Events::of(&platform).await;
    events.settled().await;
    bed.fake.restore(backup.clone());
    let told = events.settled().await;
    // As the backup has it, though its versions are older than what was known.
    bed.check_stopped(&platform).await;
    assert_eq!(listed(&platform, "d").await, None);
    assert_eq!(removals(&told, "d"), 1, "{told:?}");
    assert_eq!(removals(&told, NODE), 0, "{told:?}");
    bed.check_others(&platform).await;
    // And what happens from now on is heard, with versions that there were before.
    platform.spawn_node(request(NODE)).await.unwrap();
    bed.check_runs(&platform).await;
    let_program_end(&bed);
    sleep(SETTLED).await;
    assert_eq!(listed(&platform, NODE).await, Some(ended()));
    platform.spawn_node(request("d")).await.unwrap();
    platform
        .remove_node(&lost, DataPolicy::Purge)
        .await
        .unwrap();
    check_removed(&bed, &platform).await;

    // What was removed since then is there again.
    bed.fake.restore(backup);
    sleep(SETTLED).await;
    bed.check_stopped(&platform).await;
    check_removed(&bed, &platform).await;
}
