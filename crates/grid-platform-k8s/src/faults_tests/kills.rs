//! The adapter is killed between two calls, whichever they are, and another one takes over.

use super::*;

/// Runs the work until its process is killed, with a call that was not done any more or that nobody heard the answer of. Gives the adapter
/// that is opened behind it, and how many pods had been made before.
async fn killed(work: Work, at: usize, done: bool) -> (Bed, KubernetesPlatform, usize) {
    let (bed, platform) = Bed::new().await;
    work.prepare(&platform).await;
    let made = bed.fake.made("pods", NAME);
    bed.fake.kill_at(Counted::Work, at, done);
    let killed = bed.fake.killed();
    tokio::select! {
        biased;
        () = killed => {}
        done = work.run(&platform) => panic!("it was to be killed: {done:?}"),
    }
    drop(platform);
    bed.fake.count(Counted::None);
    let platform = bed.open().await.unwrap();
    (bed, platform, made)
}

/// Kills the work, and asks for it once more.
async fn kill(work: Work, at: usize, done: bool) {
    let (bed, platform, made) = killed(work, at, done).await;
    bed.check_others(&platform).await;
    let is_known = !matches!(work, Work::Spawn | Work::SpawnOnKept);
    if is_known && !matches!(work, Work::Remove | Work::RemoveKeeping) {
        // It was acknowledged, and nobody has asked for its end.
        assert!(listed(&platform, NODE).await.is_some());
    }
    sleep(SETTLED).await;
    assert!(bed.pods(NODE).len() <= 1);
    // The same once more, as its caller asks who never had an answer.
    work.run(&platform).await.unwrap();
    work.check(&bed, &platform).await;
    let made = bed.fake.made("pods", NAME) - made;
    assert!(made <= 1, "{made} pods were made");
    bed.check_others(&platform).await;
    check_removed(&bed, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn killed_at_whichever_call_the_next_one_finds_every_node_once() {
    for work in WORK {
        let calls = work.calls().await;
        for (at, call) in calls.iter().enumerate() {
            for done in [false, true] {
                let what = format!("{work:?} killed at {call}, call {}, done {done}", at + 1);
                Named(&what, kill(work, at + 1, done)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn killed_and_left_alone_nothing_is_lost_and_nothing_is_done_that_nobody_asked_for() {
    for work in WORK {
        let calls = work.calls().await;
        for at in 1..=calls.len() {
            let what = format!("{work:?} killed at call {at}");
            Named(&what, leave(work, at)).await;
        }
    }
}

/// As [`kill`], and nobody asks for anything any more.
async fn leave(work: Work, at: usize) {
    let (bed, platform, _) = killed(work, at, true).await;
    sleep(SETTLED).await;
    // What was begun is at its end: no pod is there of a node that is not to run, and no object of a node that is none.
    let state = listed(&platform, NODE).await;
    match &state {
        Some(NodeState::Running) => assert_eq!(bed.pods(NODE).len(), 1),
        Some(NodeState::Stopped { .. }) => assert_eq!(bed.pods(NODE).len(), 0),
        Some(other) => panic!("{other:?}"),
        None => {
            for kind in ["pods", "services", "secrets"] {
                assert_eq!(bed.fake.get(kind, NAME), None, "{kind}");
            }
        }
    }
    let is_removed = matches!(work, Work::Remove | Work::RemoveKeeping);
    let is_stopped = matches!(work, Work::Stop | Work::ForceStop);
    assert!(!is_removed || state.is_none(), "{state:?}");
    if is_stopped {
        assert!(
            matches!(state, Some(NodeState::Stopped { .. })),
            "{state:?}"
        );
        bed.check_noted_as_stopped();
    }
    bed.check_others(&platform).await;
    check_removed(&bed, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn killed_while_it_opens_the_next_one_opens() {
    let (bed, calls) = calls_of_opening().await;
    for at in 1..=calls {
        for done in [false, true] {
            bed.fake.kill_at(Counted::All, at, done);
            let killed = bed.fake.killed();
            tokio::select! {
                biased;
                () = killed => {}
                // The watches of the cluster's events are no part of opening.
                opened = bed.open() => drop(opened.unwrap()),
            }
            bed.fake.count(Counted::None);
            let platform = bed.open().await.unwrap();
            bed.check_runs(&platform).await;
            bed.check_others(&platform).await;
            assert_eq!(bed.fake.made("pods", NAME), 1);
            drop(platform);
            sleep(SETTLED).await;
        }
    }
}
