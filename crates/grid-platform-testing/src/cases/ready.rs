//! When a spawn is done.

use std::time::Duration;

use grid_platform_api::{
    ErrorKind, Exit, FailureReason, Health, HealthCheck, NodeState, ReadyMode, RestartMode,
};

use super::cases;
use crate::{Context, Outcome, PATIENCE, fails, quick, quickly, settle};

cases! {
    started_does_not_wait_for_the_program_to_serve []
    alive_fails_when_the_program_ends_first [never]
    an_end_with_code_0_before_ready_is_a_failure_too [never]
    an_end_by_a_signal_before_ready_is_told [never]
    a_failed_spawn_is_not_restarted [always trial]
    a_failed_spawn_leaves_no_process [never]
    healthy_waits_for_the_check [health_checks]
    healthy_that_never_comes_fails_and_ends_the_node [health_checks]
    healthy_fails_at_once_when_the_program_ends [health_checks never]
}

const LONG: ReadyMode = ReadyMode::Alive { for_: PATIENCE };

async fn started_does_not_wait_for_the_program_to_serve(c: &Context) -> Outcome {
    // It never listens: whoever waits for more than the start waits for ever.
    let config = c.probe("n", &["deaf"])?.build()?;
    let node = c.platform().spawn_node(config).await?;
    assert!(node.state.is_running(), "{:?}", node.state);
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

async fn alive_fails_when_the_program_ends_first(c: &Context) -> Outcome {
    let config = c.probe(
        "n",
        &["say=first words", "err=last words", "wait=50", "exit=7"],
    )?;
    let config = config.ready(LONG).build()?;
    let id = config.node_id.clone();
    let error = fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    let failure = error.failure().ok_or("the error has no failure")?;
    assert_eq!(failure.reason, FailureReason::Exited);
    assert_eq!(failure.exit, Some(Exit::Code(7)));
    // Where the two outputs come by themselves, each has an order of its own.
    let mut tail: Vec<&str> = failure.log_tail.iter().map(String::as_str).collect();
    if c.survey().capabilities.log_streams || c.survey().outputs_are_apart {
        tail.sort_by_key(|it| *it == "last words");
    }
    assert_eq!(
        tail,
        ["boot 1", "first words", "last words"],
        "its last lines"
    );
    let node = c.status(&id).await?;
    assert_eq!(
        node.state.failure(),
        Some(failure),
        "the record tells the same"
    );
    assert!(node.finished_at.is_some());
    assert_eq!(c.platform().list_nodes().await?.len(), 1);
    Ok(())
}

async fn an_end_with_code_0_before_ready_is_a_failure_too(c: &Context) -> Outcome {
    let config = c.probe("n", &["wait=30", "exit=0"])?.ready(LONG).build()?;
    let id = config.node_id.clone();
    let error = fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    let failure = error.failure().ok_or("the error has no failure")?;
    assert_eq!(
        (failure.reason, failure.exit),
        (FailureReason::Exited, Some(Exit::Code(0)))
    );
    assert_eq!(c.status(&id).await?.state.as_str(), "failed");
    Ok(())
}

async fn an_end_by_a_signal_before_ready_is_told(c: &Context) -> Outcome {
    let config = c
        .probe("n", &["wait=30", "signal=11"])?
        .ready(LONG)
        .build()?;
    let error = fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    let failure = error.failure().ok_or("the error has no failure")?;
    assert_eq!(failure.reason, FailureReason::Signaled);
    assert_eq!(failure.exit, Some(Exit::Signal(11)));
    Ok(())
}

async fn a_failed_spawn_is_not_restarted(c: &Context) -> Outcome {
    let config = c.probe("n", &["wait=30", "exit=7"])?.ready(LONG);
    let config = config.restart(quickly(RestartMode::Always)).build()?;
    let id = config.node_id.clone();
    fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    settle().await;
    c.booted(&id, 1).await?;
    assert_eq!(c.status(&id).await?.state.as_str(), "failed");
    c.nothing_lives(&id).await
}

async fn a_failed_spawn_leaves_no_process(c: &Context) -> Outcome {
    let config = c.probe("n", &["orphan", "exit=7"])?.ready(LONG).build()?;
    let id = config.node_id.clone();
    fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    c.nothing_lives(&id).await
}

async fn healthy_waits_for_the_check(c: &Context) -> Outcome {
    let config = c
        .probe("n", &["wait=200"])?
        .health(quick(HealthCheck::http("/healthz")));
    let config = config
        .ready(ReadyMode::Healthy { timeout: PATIENCE })
        .build()?;
    let node = c.platform().spawn_node(config).await?;
    assert_eq!(node.health, Health::Healthy);
    // It serves at this very moment, without a wait.
    assert_eq!(c.ask(&node, "boot").await?, "1");
    Ok(())
}

async fn healthy_that_never_comes_fails_and_ends_the_node(c: &Context) -> Outcome {
    let config = c
        .probe("n", &["healthy=no"])?
        .health(quick(HealthCheck::http("/healthz")));
    let config = config.ready(ReadyMode::Healthy {
        timeout: Duration::from_millis(500),
    });
    let config = config.build()?;
    let id = config.node_id.clone();
    let error = fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    assert_eq!(
        error.failure().map(|f| f.reason),
        Some(FailureReason::NotHealthy)
    );
    c.nothing_lives(&id).await?;
    let node = c.status(&id).await?;
    assert!(
        matches!(node.state, NodeState::Failed { .. }),
        "{:?}",
        node.state
    );
    Ok(())
}

async fn healthy_fails_at_once_when_the_program_ends(c: &Context) -> Outcome {
    let config = c.probe("n", &["exit=3"])?.health(quick(HealthCheck::tcp()));
    // An hour: a platform that waits for the check and not for the end does not return.
    let config = config.ready(ReadyMode::Healthy {
        timeout: Duration::from_secs(3600),
    });
    let error = fails(
        c.platform().spawn_node(config.build()?).await,
        ErrorKind::SpawnFailed,
    )?;
    assert_eq!(error.failure().and_then(|f| f.exit), Some(Exit::Code(3)));
    Ok(())
}
