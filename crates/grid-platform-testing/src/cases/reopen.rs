//! Nodes live on when the process that holds the adapter is gone.

use std::time::Duration;

use grid_platform_api::{
    DataPolicy, ErrorKind, Exit, NodeState, ReadyMode, RestartMode, RestartPolicy,
};

use super::cases;
use crate::{BadProgram, Context, Outcome, eventually, fails, quickly, settle};

cases! {
    a_node_outlives_the_adapter [nodes_outlive_adapter]
    many_adapters_one_after_the_other_double_nothing [nodes_outlive_adapter]
    stopped_stays_stopped_over_a_reopen [nodes_outlive_adapter]
    failed_stays_failed_over_a_reopen [nodes_outlive_adapter]
    removed_stays_removed_over_a_reopen [nodes_outlive_adapter]
    an_end_that_no_adapter_saw_is_told [nodes_outlive_adapter never]
    a_crash_that_no_adapter_saw_is_restarted [nodes_outlive_adapter on_failure]
    a_spawn_after_a_reopen_finds_the_node [nodes_outlive_adapter]
    a_stop_after_a_reopen_takes_the_whole_tree [nodes_outlive_adapter]
    a_spawn_that_lost_its_adapter_is_found [nodes_outlive_adapter]
    a_stop_that_lost_its_adapter_is_finished [nodes_outlive_adapter]
    restarts_are_counted_over_a_reopen [nodes_outlive_adapter on_failure]
    a_wait_for_a_restart_goes_on_over_a_reopen [nodes_outlive_adapter on_failure restart_tuning]
}

async fn a_node_outlives_the_adapter(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?.label("a", "b")).await?;
    let before = c.census(&node.node_id).await?;
    c.away(async {
        // Served while there is no adapter at all.
        assert_eq!(c.answers(&node).await?, 1);
        Ok(())
    })
    .await?;
    let after = c.status(&node.node_id).await?;
    assert!(after.state.is_running(), "{:?}", after.state);
    assert_eq!((&after.uid, after.pid), (&node.uid, node.pid));
    assert_eq!(
        (&after.ports, &after.endpoint),
        (&node.ports, &node.endpoint)
    );
    assert_eq!((&after.digest, &after.labels), (&node.digest, &node.labels));
    assert_eq!(
        (after.created_at, after.started_at),
        (node.created_at, node.started_at)
    );
    assert_eq!(c.census(&node.node_id).await?, before, "the same process");
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

async fn many_adapters_one_after_the_other_double_nothing(c: &Context) -> Outcome {
    let names = ["a", "b", "c", "d"];
    for name in names {
        c.spawn(c.probe(name, &[])?.restart(c.restarting())).await?;
    }
    c.platform().stop_node(&c.id("d")).await?;
    for _ in 0..3 {
        c.reopen().await?;
        assert_eq!(c.platform().list_nodes().await?.len(), 4);
    }
    settle().await;
    for name in names {
        let id = c.id(name);
        c.booted(&id, 1).await?;
        let lives = c.census(&id).await?.len();
        assert_eq!(lives, usize::from(name != "d"), "{id}");
    }
    Ok(())
}

async fn stopped_stays_stopped_over_a_reopen(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?.restart(c.restarting())).await?;
    c.platform().stop_node(&node.node_id).await?;
    let before = c.status(&node.node_id).await?;
    c.reopen().await?;
    settle().await;
    let after = c.status(&node.node_id).await?;
    assert_eq!(after.state, before.state);
    assert_eq!((&after.uid, &after.ports), (&node.uid, &node.ports));
    c.booted(&node.node_id, 1).await?;
    c.nothing_lives(&node.node_id).await
}

async fn failed_stays_failed_over_a_reopen(c: &Context) -> Outcome {
    let config = c
        .bare("n", c.fixture().bad_program(BadProgram::Missing)?)
        .build()?;
    let id = config.node_id.clone();
    fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    let before = c.status(&id).await?.state;
    c.reopen().await?;
    assert_eq!(c.status(&id).await?.state, before, "with its reason");
    Ok(())
}

async fn removed_stays_removed_over_a_reopen(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Keep)
        .await?;
    c.reopen().await?;
    assert_eq!(c.platform().list_nodes().await?, []);
    fails(
        c.platform().get_node_status(&node.node_id).await,
        ErrorKind::NotFound,
    )?;
    c.nothing_lives(&node.node_id).await
}

async fn an_end_that_no_adapter_saw_is_told(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["say=last words"])?).await?;
    let id = &node.node_id;
    c.away(async {
        c.ask(&node, "exit=42").await?;
        eventually(crate::PATIENCE, "the end", || async {
            Ok(c.census(id).await?.is_empty().then_some(()))
        })
        .await
    })
    .await?;
    let failed = c.wait(id, "the failure", |n| n.state.is_ended()).await?;
    let failure = failed.state.failure().ok_or("it is not failed")?;
    assert_eq!(failure.exit, Some(Exit::Code(42)));
    assert!(
        failure.log_tail.iter().any(|l| l == "last words"),
        "{failure:?}"
    );
    Ok(())
}

async fn a_crash_that_no_adapter_saw_is_restarted(c: &Context) -> Outcome {
    let node = c
        .spawn(c.probe("n", &[])?.restart(quickly(RestartMode::OnFailure)))
        .await?;
    c.away(async {
        c.ask(&node, "exit=1").await?;
        // Restarted while there is no adapter that could do it.
        c.booted(&node.node_id, 2).await
    })
    .await?;
    let again = c
        .wait(&node.node_id, "the restart", |n| n.state.is_running())
        .await?;
    assert_eq!(again.restarts, 1);
    assert_eq!(c.answers(&again).await?, 2);
    assert_eq!(c.census(&node.node_id).await?.len(), 1);
    Ok(())
}

async fn a_spawn_after_a_reopen_finds_the_node(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.label("a", "b").build()?;
    let node = c.platform().spawn_node(config.clone()).await?;
    c.answers(&node).await?;
    c.reopen().await?;
    let again = c.platform().spawn_node(config).await?;
    assert_eq!((&again.uid, again.pid), (&node.uid, node.pid));
    let other = c.same(&node, &["note=other"])?.build()?;
    fails(c.platform().spawn_node(other).await, ErrorKind::Conflict)?;
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

async fn a_stop_after_a_reopen_takes_the_whole_tree(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["orphan"])?).await?;
    c.reopen().await?;
    c.platform().stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await?;
    assert_eq!(c.status(&node.node_id).await?.state.as_str(), "stopped");
    Ok(())
}

async fn a_spawn_that_lost_its_adapter_is_found(c: &Context) -> Outcome {
    for pause in [0, 2, 5, 20] {
        let config = c.probe(&format!("n{pause}"), &[])?;
        let config = config
            .ready(ReadyMode::Alive {
                for_: Duration::from_millis(150),
            })
            .build()?;
        let id = config.node_id.clone();
        {
            let platform = c.platform();
            let spawning = platform.spawn_node(config.clone());
            let _ = tokio::time::timeout(Duration::from_millis(pause), spawning).await;
        }
        c.reopen().await?;
        let node = c.platform().spawn_node(config).await?;
        c.answers(&node).await?;
        let live = c.census(&id).await?;
        assert_eq!(live.len(), 1, "lost after {pause} ms: {live:?}");
    }
    Ok(())
}

async fn a_stop_that_lost_its_adapter_is_finished(c: &Context) -> Outcome {
    let config = c.probe("n", &["linger=300"])?.restart(c.restarting());
    let node = c.spawn(config).await?;
    {
        let platform = c.platform();
        // Once it shows, it is durable: what had no time to be written down is nobody's stop.
        let begun = c.wait(&node.node_id, "the begin of the stop", |n| {
            !n.state.is_running()
        });
        tokio::select! {
            stopped = platform.stop_node(&node.node_id) => stopped?,
            begun = begun => drop(begun?),
        }
    }
    c.reopen().await?;
    // What was asked for was durable before the program was: no new adapter takes it back.
    c.wait(&node.node_id, "the stop", |n| n.state.is_ended())
        .await?;
    settle().await;
    c.nothing_lives(&node.node_id).await?;
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

async fn restarts_are_counted_over_a_reopen(c: &Context) -> Outcome {
    let node = c
        .spawn(c.probe("n", &[])?.restart(quickly(RestartMode::OnFailure)))
        .await?;
    for times in 1..=2 {
        let now = c.status(&node.node_id).await?;
        c.answers(&now).await?;
        c.ask(&now, "exit=1").await?;
        c.wait(&node.node_id, "a restart", |n| {
            n.restarts == times && n.state.is_running()
        })
        .await?;
        c.reopen().await?;
        let found = c.status(&node.node_id).await?;
        assert_eq!(found.restarts, times);
        let failure = found.last_failure.ok_or("the last failure is lost")?;
        assert_eq!(failure.exit, Some(Exit::Code(1)));
    }
    Ok(())
}

async fn a_wait_for_a_restart_goes_on_over_a_reopen(c: &Context) -> Outcome {
    let policy = RestartPolicy {
        initial_backoff: Duration::from_secs(600),
        max_backoff: Duration::from_secs(600),
        ..quickly(RestartMode::OnFailure)
    };
    let node = c.spawn(c.probe("n", &[])?.restart(policy)).await?;
    c.ask(&node, "exit=1").await?;
    c.wait(&node.node_id, "the back-off", |n| {
        n.state == NodeState::Pending
    })
    .await?;
    c.reopen().await?;
    settle().await;
    let found = c.status(&node.node_id).await?;
    assert_eq!(found.state, NodeState::Pending);
    c.booted(&node.node_id, 1).await?;
    c.platform().stop_node(&node.node_id).await?;
    assert_eq!(c.status(&node.node_id).await?.state.as_str(), "stopped");
    Ok(())
}
