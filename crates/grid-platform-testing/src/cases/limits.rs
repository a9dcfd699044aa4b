//! Limits, users and use.

use std::time::Duration;

use grid_platform_api::{ErrorKind, FailureReason, ReadyMode, RunAs};

use super::cases;
use crate::{Context, Outcome, eventually, fails};

cases! {
    memory_beyond_the_limit_is_a_typed_failure [memory_limit never]
    memory_below_the_limit_is_the_nodes [memory_limit]
    memory_used_up_before_ready_fails_the_spawn [memory_limit never]
    the_limit_of_open_files_is_the_programs [open_files_limit]
    the_limit_of_processes_holds [pids_limit]
    the_limit_of_processor_time_holds [cpu_limit]
    a_node_runs_as_the_user_that_is_asked_for [user other_user]
    an_unknown_user_is_a_typed_failure [user]
    use_is_told_of_a_running_node [usage]
    use_counts_the_whole_tree [usage]
    a_stopped_node_uses_nothing_but_disk [usage]
}

async fn memory_beyond_the_limit_is_a_typed_failure(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?.memory_limit_mb(48)).await?;
    // It is ended while it does this, so that the answer need not come.
    let _ = c.ask(&node, "eat=512").await;
    let failed = c
        .wait(&node.node_id, "the end", |n| n.state.is_ended())
        .await?;
    let reason = failed.state.failure().map(|f| f.reason);
    assert_eq!(
        reason,
        Some(FailureReason::OutOfMemory),
        "{:?}",
        failed.state
    );
    c.nothing_lives(&node.node_id).await
}

async fn memory_below_the_limit_is_the_nodes(c: &Context) -> Outcome {
    let node = c
        .spawn(c.probe("n", &["eat=24"])?.memory_limit_mb(96))
        .await?;
    assert_eq!(c.ask(&node, "boot").await?, "1");
    if c.survey().capabilities.usage {
        let usage = c.platform().get_usage(&node.node_id).await?;
        assert_eq!(usage.memory_limit_bytes, Some(96 << 20));
    }
    Ok(())
}

async fn memory_used_up_before_ready_fails_the_spawn(c: &Context) -> Outcome {
    let config = c.probe("n", &["eat=512"])?.memory_limit_mb(48);
    let config = config
        .ready(ReadyMode::Alive {
            for_: Duration::from_secs(60),
        })
        .build()?;
    let error = fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    assert_eq!(
        error.failure().map(|f| f.reason),
        Some(FailureReason::OutOfMemory)
    );
    assert!(
        error.hint().is_some_and(|h| h.contains("memory_limit_mb")),
        "{error:?}"
    );
    Ok(())
}

async fn the_limit_of_open_files_is_the_programs(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?.open_files_limit(123)).await?;
    assert_eq!(c.ask(&node, "nofile").await?, "123");
    Ok(())
}

async fn the_limit_of_processes_holds(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?.pids_limit(16)).await?;
    let mut refused = 0;
    for _ in 0..20 {
        refused += usize::from(c.ask(&node, "orphan").await.is_err());
    }
    let live = c.census(&node.node_id).await?.len();
    assert!(
        refused > 0 && live <= 16,
        "{live} processes live and {refused} were refused"
    );
    assert!(c.status(&node.node_id).await?.state.is_running());
    c.platform().stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await
}

async fn the_limit_of_processor_time_holds(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?.cpu_limit_millis(200)).await?;
    let begin = tokio::time::Instant::now();
    c.ask(&node, "burn=400").await?;
    // At a fifth of a processor it takes two seconds; half of that leaves room for what was saved up.
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_secs(1),
        "400 ms of processor time took {took:?}"
    );
    Ok(())
}

async fn a_node_runs_as_the_user_that_is_asked_for(c: &Context) -> Outcome {
    let Some((user, number)) = c.survey().other_user.clone() else {
        return Ok(());
    };
    let run_as = RunAs { user, group: None };
    let node = c
        .spawn(c.probe("n", &["put=key:own"])?.run_as(run_as))
        .await?;
    let boots = c.booted(&node.node_id, 1).await?;
    assert_eq!(boots[0].uid, number);
    assert_eq!(c.ask(&node, "get=key").await?, "own", "its data is its own");
    c.platform().stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await
}

async fn an_unknown_user_is_a_typed_failure(c: &Context) -> Outcome {
    let run_as = RunAs {
        user: "no-such-user".to_owned(),
        group: None,
    };
    let config = c.probe("n", &[])?.run_as(run_as).build()?;
    let id = config.node_id.clone();
    let error = fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    let reason = error.failure().map(|f| f.reason);
    assert_eq!(reason, Some(FailureReason::UserUnavailable));
    assert!(error.hint().is_some());
    assert_eq!(c.boots(&id).await?, []);
    c.nothing_lives(&id).await
}

async fn use_is_told_of_a_running_node(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["put=key:0123456789"])?).await?;
    let platform = c.platform();
    let first = platform.get_usage(&node.node_id).await?;
    assert!(
        first.memory_bytes.is_none_or(|bytes| bytes > 0),
        "{first:?}"
    );
    assert!(
        first.disk_bytes.is_none_or(|bytes| bytes >= 10),
        "{first:?}"
    );
    c.ask(&node, "eat=64").await?;
    c.ask(&node, "burn=200").await?;
    // Counters of a system may be read late.
    eventually(crate::PATIENCE, "64 MiB and 100 ms to show", || async {
        let now = platform.get_usage(&node.node_id).await?;
        let memory = now.memory_bytes.is_none_or(|bytes| bytes >= 64 << 20);
        let cpu = now.cpu_time_ms.is_none_or(|ms| ms >= 100);
        Ok((memory && cpu).then_some(()))
    })
    .await
}

async fn use_counts_the_whole_tree(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["orphan", "orphan"])?).await?;
    let usage = c.platform().get_usage(&node.node_id).await?;
    assert!(usage.processes.is_none_or(|count| count >= 3), "{usage:?}");
    Ok(())
}

async fn a_stopped_node_uses_nothing_but_disk(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["put=key:0123456789"])?).await?;
    c.platform().stop_node(&node.node_id).await?;
    let usage = c.platform().get_usage(&node.node_id).await?;
    assert_eq!(usage.memory_bytes.unwrap_or(0), 0, "{usage:?}");
    assert_eq!(usage.processes.unwrap_or(0), 0, "{usage:?}");
    assert!(
        usage.disk_bytes.is_none_or(|bytes| bytes >= 10),
        "{usage:?}"
    );
    Ok(())
}
