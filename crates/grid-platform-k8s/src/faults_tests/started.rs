//! A start that a cluster tells of before it is one.

use grid_platform_api::{ErrorKind, FailureReason};

use super::*;

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
    platform.spawn_node(request(NODE)).await.unwrap();
    bed.check_runs(&platform).await;
}
