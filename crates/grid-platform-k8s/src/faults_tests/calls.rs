//! One call of an operation goes wrong, whichever it is.

use tokio::time::Instant;

use super::*;
use crate::fake::{BUSY, Upset};

/// A busy server is waited for: that is no failure.
const UPSETS: [Upset; 6] = [
    Upset::Failed,
    Upset::Unavailable,
    Upset::Cut,
    Upset::CutAfter,
    Upset::Silent,
    Upset::SilentAfter,
];

/// How late watches are: not at all, and by more than a call takes.
const NONE: Duration = Duration::ZERO;
const LAG: Duration = Duration::from_secs(2);

/// Whether the server did nothing of what it was asked.
fn is_undone(upset: Upset) -> bool {
    !matches!(upset, Upset::CutAfter | Upset::SilentAfter)
}

/// Lets so many calls from one on go wrong, and repeats the work until it is done. Watches are so late meanwhile.
async fn upset(work: Work, at: usize, times: usize, upset: Upset, lag: Duration) {
    let (bed, platform) = Bed::new().await;
    work.prepare(&platform).await;
    bed.fake.lag(lag);
    let made = bed.fake.made("pods", NAME);
    bed.fake.upset_nth(Counted::Work, at, times, upset);
    let mut done = work.run(&platform).await;
    for _ in 0..times {
        let Err(error) = &done else {
            break;
        };
        check_clear(error);
        done = work.run(&platform).await;
    }
    done.unwrap();
    bed.fake.count(Counted::None);
    work.check(&bed, &platform).await;
    let made = bed.fake.made("pods", NAME) - made;
    assert!(made <= 1, "{made} pods were made");
    bed.check_others(&platform).await;
    check_removed(&bed, &platform).await;
}

async fn upset_each_call(times: usize, upsets: &[Upset], lag: Duration) {
    for work in WORK {
        let calls = work.calls().await;
        for (at, call) in calls.iter().enumerate() {
            for it in upsets {
                let what = format!("{work:?}: {it:?} at {call}, call {}", at + 1);
                Named(&what, upset(work, at + 1, times, *it, lag)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whichever_call_fails_a_repeat_succeeds_and_nothing_is_there_twice() {
    upset_each_call(1, &[Upset::Failed, Upset::Unavailable], NONE).await;
}

#[tokio::test(start_paused = true)]
async fn whichever_call_breaks_off_a_repeat_succeeds_and_nothing_is_there_twice() {
    upset_each_call(1, &[Upset::Cut, Upset::CutAfter], NONE).await;
}

#[tokio::test(start_paused = true)]
async fn whichever_call_is_not_answered_a_repeat_succeeds_and_nothing_is_there_twice() {
    upset_each_call(1, &[Upset::Silent, Upset::SilentAfter], NONE).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_done_and_not_heard_of_yet_is_not_done_again() {
    upset_each_call(1, &[Upset::CutAfter], LAG).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_made_and_not_answered_is_the_nodes() {
    let calls = Work::Spawn.calls().await;
    let is_known = |it: &&str| matches!(*it, "POST persistentvolumeclaims" | "POST pods");
    let known: Vec<_> = calls.iter().map(String::as_str).filter(is_known).collect();
    assert_eq!(known.len(), 2);
    for call in known {
        let (bed, platform) = Bed::new().await;
        bed.fake.upset_call(call, Upset::CutAfter);
        Work::Spawn.run(&platform).await.unwrap_err();
        Work::Spawn.run(&platform).await.unwrap();
        // Its address and its secrets are those of the first time.
        for kind in KINDS {
            assert_eq!(bed.fake.made(kind, NAME), 1, "{call}: {kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_failures_is_outlived() {
    upset_each_call(3, &[Upset::Failed, Upset::CutAfter], NONE).await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_waited_for_and_nothing_is_made_twice() {
    for work in WORK {
        for at in 1..=work.calls().await.len() {
            let (bed, platform) = Bed::new().await;
            work.prepare(&platform).await;
            let made = bed.fake.made("pods", NAME);
            bed.fake.upset_nth(Counted::Work, at, 2, Upset::Busy);
            let begin = Instant::now();
            work.run(&platform).await.unwrap();
            assert!(begin.elapsed().as_secs() >= 2 * BUSY, "{work:?} {at}");
            // The very same call, until it was taken.
            let calls = bed.fake.calls();
            assert_eq!(calls[at - 1], calls[at], "{work:?} {at}");
            assert_eq!(calls[at - 1], calls[at + 1], "{work:?} {at}");
            work.check(&bed, &platform).await;
            assert!(bed.fake.made("pods", NAME) - made <= 1, "{work:?} {at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_busy_is_said_to_be() {
    let (bed, platform) = Bed::new().await;
    bed.fake
        .upset_nth(Counted::Work, 1, usize::MAX / 2, Upset::Busy);
    let busy = platform.spawn_node(request(NODE)).await.unwrap_err();
    check_clear(&busy);
    assert_eq!(bed.fake.made("pods", NAME), 0);
    bed.fake.count(Counted::None);
    platform.spawn_node(request(NODE)).await.unwrap();
    bed.check_runs(&platform).await;
    check_removed(&bed, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn whichever_call_of_opening_is_upset_a_repeat_finds_every_node() {
    let (bed, calls) = calls_of_opening().await;
    for at in 1..=calls {
        for it in UPSETS.into_iter().chain([Upset::Busy, Upset::Lost]) {
            let what = format!("{it:?} at call {at}");
            let opening = async {
                bed.fake.upset_nth(Counted::All, at, 1, it);
                let mut opened = bed.open().await;
                if let Err(error) = &opened {
                    check_clear(error);
                    opened = bed.open().await;
                }
                bed.fake.count(Counted::None);
                let platform = opened.unwrap();
                bed.check_runs(&platform).await;
                bed.check_others(&platform).await;
                assert_eq!(bed.fake.made("pods", NAME), 1);
                drop(platform);
                sleep(SETTLED).await;
            };
            Named(&what, opening).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_done_leaves_no_trace_of_a_spawn_that_is_given_up() {
    let calls = Work::Spawn.calls().await;
    assert_eq!(calls.last().unwrap(), "GET pods");
    for (at, call) in calls.iter().enumerate() {
        for it in UPSETS {
            let (bed, platform) = Bed::new().await;
            bed.fake.upset_nth(Counted::Work, at + 1, 1, it);
            let failed = Work::Spawn.run(&platform).await.is_err();
            bed.fake.count(Counted::None);
            // Whoever gives up removes what there may be, and finds nothing after that.
            check_removed(&bed, &platform).await;
            // The last one is the look at the log, and a start that cannot be looked at is one as the cluster says.
            let is_log = call == "GET pods";
            assert_eq!(failed, !is_log, "{it:?} at {call}");
            let made = bed.fake.made("pods", NAME);
            let is_made = is_log || !is_undone(it) && call == "POST pods";
            assert_eq!(made, usize::from(is_made), "{it:?} at {call}");
        }
    }
}
