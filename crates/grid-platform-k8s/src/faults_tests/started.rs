//! A start that a cluster tells of before it is one.

use grid_platform_api::{ErrorKind, FailureReason};
use tokio::time::Instant;

use super::*;
use crate::fake::{LATE, Upset};

/// What a runtime writes into the log of a program that it cannot execute.
const EXEC: &str = "exec /node: exec format error";

#[tokio::test(start_paused = true)]
async fn a_program_that_runs_as_the_cluster_says_and_was_never_executed_has_not_started() {
    let (bed, platform) = Bed::new().await;
    bed.fake
        .host(|it| (it.says, it.cannot_execute) = (Some(EXEC), true));
    let error = platform.spawn_node(request(NODE)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SpawnFailed, "{error}");
    let failure = error.failure().unwrap();
    assert_eq!(failure.reason, FailureReason::BadProgramFormat);
    assert_eq!(failure.log_tail, [EXEC]);
    assert!(error.hint().is_some());
    let Some(NodeState::Failed { failure }) = listed(&platform, NODE).await else {
        panic!("it is listed as failed");
    };
    assert_eq!(failure.reason, FailureReason::BadProgramFormat);
    bed.check_others(&platform).await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_writes_such_words_itself_and_runs_on_has_started() {
    let (bed, platform) = Bed::new().await;
    bed.fake.host(|it| it.says = Some(EXEC));
    let begin = Instant::now();
    platform.spawn_node(request(NODE)).await.unwrap();
    assert!(begin.elapsed() > LATE, "the cluster had time to say so");
    bed.check_runs(&platform).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_tells_while_the_log_is_read_is_heard() {
    let (bed, platform) = Bed::new().await;
    bed.fake
        .host(|it| (it.says, it.cannot_execute) = (Some(EXEC), true));
    // The answer about the log is lost, and the end is told meanwhile.
    bed.fake.upset_call("GET pods", Upset::Late(LATE * 2));
    let error = platform.spawn_node(request(NODE)).await.unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.reason, FailureReason::BadProgramFormat, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_run_for_long_is_not_looked_at_again() {
    let (bed, platform) = Bed::new().await;
    platform.spawn_node(request(NODE)).await.unwrap();
    bed.fake.edit("pods", NAME, |it| {
        let long_ago = "2026-01-02T03:04:05Z";
        let state = json!({"running": {"startedAt": long_ago}});
        it["status"]["containerStatuses"][0]["state"] = state;
    });
    sleep(SETTLED).await;
    bed.fake.count(Counted::All);
    platform.spawn_node(request(NODE)).await.unwrap();
    assert_eq!(bed.fake.calls(), [""; 0]);
}
