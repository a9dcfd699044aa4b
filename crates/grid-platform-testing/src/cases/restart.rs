//! Restarts, which are the platform's own.

use std::time::Duration;

use grid_platform_api::{Exit, FailureReason, NodeState, RestartMode, RestartPolicy, SpawnedNode};

use super::cases;
use crate::{Context, Outcome, quickly, settle};

cases! {
    never_leaves_a_crash_failed [never]
    never_leaves_a_clean_end_stopped [never]
    a_crash_by_a_signal_is_told [never]
    on_failure_restarts_a_crash [on_failure]
    on_failure_restarts_after_a_kill_from_outside [on_failure]
    on_failure_leaves_a_clean_end_stopped [on_failure]
    always_restarts_a_clean_end [always]
    a_restart_keeps_uid_ports_and_data [on_failure]
    a_restart_waits_until_nothing_is_left [on_failure]
    restarts_end_at_their_number [on_failure restart_tuning]
    the_wait_before_a_restart_grows [on_failure restart_tuning]
    a_wait_for_a_restart_is_shown_with_its_reason [on_failure restart_tuning]
    a_long_run_begins_the_count_anew [on_failure restart_tuning]
}

async fn crash(c: &Context, mode: RestartMode, how: &str) -> Outcome<SpawnedNode> {
    let node = c.spawn(c.probe("n", &[])?.restart(quickly(mode))).await?;
    c.ask(&node, how).await?;
    Ok(node)
}

async fn never_leaves_a_crash_failed(c: &Context) -> Outcome {
    let node = crash(c, RestartMode::Never, "exit=42").await?;
    let failed = c
        .wait(&node.node_id, "the failure", |n| {
            n.state.failure().is_some()
        })
        .await?;
    let failure = failed.state.failure().ok_or("no failure")?;
    assert_eq!(
        (failure.reason, failure.exit),
        (FailureReason::Exited, Some(Exit::Code(42)))
    );
    assert!(
        failure.log_tail.iter().any(|l| l == "boot 1"),
        "{failure:?}"
    );
    settle().await;
    c.booted(&node.node_id, 1).await?;
    assert_eq!(failed.restarts, 0);
    c.nothing_lives(&node.node_id).await
}

async fn never_leaves_a_clean_end_stopped(c: &Context) -> Outcome {
    let node = crash(c, RestartMode::Never, "exit=0").await?;
    let ended = c
        .wait(&node.node_id, "the end", |n| n.state.is_ended())
        .await?;
    assert_eq!(
        ended.state,
        NodeState::Stopped {
            exit: Some(Exit::Code(0))
        }
    );
    assert!(ended.finished_at.is_some());
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

async fn a_crash_by_a_signal_is_told(c: &Context) -> Outcome {
    let node = crash(c, RestartMode::Never, "signal=6").await?;
    let failed = c
        .wait(&node.node_id, "the failure", |n| {
            n.state.failure().is_some()
        })
        .await?;
    let failure = failed.state.failure().ok_or("no failure")?;
    assert_eq!(
        (failure.reason, failure.exit),
        (FailureReason::Signaled, Some(Exit::Signal(6)))
    );
    Ok(())
}

async fn on_failure_restarts_a_crash(c: &Context) -> Outcome {
    let node = crash(c, RestartMode::OnFailure, "exit=1").await?;
    let again = c
        .wait(&node.node_id, "a restart", |n| {
            n.restarts == 1 && n.state.is_running()
        })
        .await?;
    assert_eq!(c.answers(&again).await?, 2);
    let failure = again.last_failure.ok_or("the last failure is not told")?;
    assert_eq!(failure.exit, Some(Exit::Code(1)));
    c.booted(&node.node_id, 2).await?;
    assert_eq!(c.census(&node.node_id).await?.len(), 1);
    Ok(())
}

async fn on_failure_restarts_after_a_kill_from_outside(c: &Context) -> Outcome {
    let node = crash(c, RestartMode::OnFailure, "signal=9").await?;
    c.wait(&node.node_id, "a restart", |n| {
        n.restarts == 1 && n.state.is_running()
    })
    .await?;
    c.booted(&node.node_id, 2).await?;
    assert_eq!(c.census(&node.node_id).await?.len(), 1);
    Ok(())
}

async fn on_failure_leaves_a_clean_end_stopped(c: &Context) -> Outcome {
    let node = crash(c, RestartMode::OnFailure, "exit=0").await?;
    let ended = c
        .wait(&node.node_id, "the end", |n| n.state.is_ended())
        .await?;
    assert_eq!(
        ended.state,
        NodeState::Stopped {
            exit: Some(Exit::Code(0))
        }
    );
    settle().await;
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

async fn always_restarts_a_clean_end(c: &Context) -> Outcome {
    let node = crash(c, RestartMode::Always, "exit=0").await?;
    c.wait(&node.node_id, "a restart", |n| {
        n.restarts == 1 && n.state.is_running()
    })
    .await?;
    c.booted(&node.node_id, 2).await?;
    Ok(())
}

async fn a_restart_keeps_uid_ports_and_data(c: &Context) -> Outcome {
    let node = c
        .spawn(c.probe("n", &[])?.restart(quickly(RestartMode::OnFailure)))
        .await?;
    c.ask(&node, "put=key:kept").await?;
    c.ask(&node, "exit=1").await?;
    let again = c
        .wait(&node.node_id, "a restart", |n| {
            n.restarts == 1 && n.state.is_running()
        })
        .await?;
    c.answers(&again).await?;
    assert_eq!((&again.uid, &again.ports), (&node.uid, &node.ports));
    assert_eq!(c.ask(&again, "get=key").await?, "kept");
    Ok(())
}

async fn a_restart_waits_until_nothing_is_left(c: &Context) -> Outcome {
    // What an earlier boot left behind would have the later one share its data.
    let node = c
        .spawn(
            c.probe("n", &["orphan"])?
                .restart(quickly(RestartMode::OnFailure)),
        )
        .await?;
    let before = c.census(&node.node_id).await?;
    assert_eq!(before.len(), 2);
    c.ask(&node, "exit=1").await?;
    c.wait(&node.node_id, "a restart", |n| {
        n.restarts == 1 && n.state.is_running()
    })
    .await?;
    let after = c.census(&node.node_id).await?;
    for old in &before {
        let same = after
            .iter()
            .any(|p| (p.pid, p.start_time) == (old.pid, old.start_time));
        assert!(!same, "{old:?} of the first boot lives on");
    }
    Ok(())
}

async fn restarts_end_at_their_number(c: &Context) -> Outcome {
    let policy = RestartPolicy {
        max_restarts: Some(3),
        ..quickly(RestartMode::OnFailure)
    };
    let config = c
        .probe("n", &["wait=20", "exit=1"])?
        .restart(policy)
        .build()?;
    let id = c.platform().spawn_node(config).await?.node_id;
    let failed = c
        .wait(&id, "the failure", |n| n.state.failure().is_some())
        .await?;
    let failure = failed.state.failure().ok_or("no failure")?;
    assert_eq!(failure.reason, FailureReason::RestartsExhausted);
    assert_eq!(
        failure.exit,
        Some(Exit::Code(1)),
        "how it ended is not lost"
    );
    assert_eq!(failed.restarts, 3);
    settle().await;
    c.booted(&id, 4).await?;
    c.nothing_lives(&id).await
}

async fn the_wait_before_a_restart_grows(c: &Context) -> Outcome {
    let policy = RestartPolicy {
        max_restarts: Some(4),
        initial_backoff: Duration::from_millis(50),
        max_backoff: Duration::from_millis(200),
        ..quickly(RestartMode::OnFailure)
    };
    let config = c.probe("n", &["exit=1"])?.restart(policy).build()?;
    let id = c.platform().spawn_node(config).await?.node_id;
    c.wait(&id, "the failure", |n| n.state.failure().is_some())
        .await?;
    let boots = c.booted(&id, 5).await?;
    let waits: Vec<u64> = boots.windows(2).map(|w| w[1].at_ms - w[0].at_ms).collect();
    // The least that each wait has to be, less a millisecond of rounding; how much longer is the machine's affair.
    for (wait, least) in waits.iter().zip([50, 100, 200, 200]) {
        assert!(
            wait + 1 >= least,
            "waited {waits:?}, and at least [50, 100, 200, 200] were asked"
        );
    }
    Ok(())
}

async fn a_wait_for_a_restart_is_shown_with_its_reason(c: &Context) -> Outcome {
    let policy = RestartPolicy {
        initial_backoff: Duration::from_secs(600),
        max_backoff: Duration::from_secs(600),
        ..quickly(RestartMode::OnFailure)
    };
    let node = c.spawn(c.probe("n", &[])?.restart(policy)).await?;
    c.ask(&node, "exit=13").await?;
    let waiting = c
        .wait(&node.node_id, "the back-off", |n| {
            n.state == NodeState::Pending
        })
        .await?;
    let failure = waiting.last_failure.ok_or("the reason is not told")?;
    assert_eq!(failure.exit, Some(Exit::Code(13)));
    assert_eq!(waiting.pid, None);
    assert!(waiting.finished_at.is_some());
    c.nothing_lives(&node.node_id).await
}

async fn a_long_run_begins_the_count_anew(c: &Context) -> Outcome {
    let policy = RestartPolicy {
        max_restarts: Some(1),
        reset_after: Duration::from_millis(100),
        ..quickly(RestartMode::OnFailure)
    };
    // Each run is longer than that, so that none of the restarts is a second one in a row.
    let config = c
        .probe("n", &["upto=4", "wait=200", "upto=4", "exit=1"])?
        .restart(policy);
    let node = c.spawn(config).await?;
    let now = c
        .wait(&node.node_id, "four restarts", |n| n.restarts == 4)
        .await?;
    assert!(now.state.failure().is_none(), "{:?}", now.state);
    c.booted(&node.node_id, 5).await?;
    Ok(())
}
