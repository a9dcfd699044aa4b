//! Stopping.

use std::time::Duration;

use grid_platform_api::{
    DataPolicy, ErrorKind, Exit, NodeState, RestartMode, SpawnedNode, StopPolicy, StopSignal,
};

use super::cases;
use crate::{Context, Outcome, eventually, fails, probe::signal_line, quickly, settle};

cases! {
    stop_returns_when_nothing_of_the_node_is_left []
    stop_sends_the_signal_of_the_request [stop_signal logs_after_stop]
    stop_gives_the_program_its_grace []
    stop_kills_what_ignores_the_signal []
    stop_by_kill_asks_nothing [stop_signal]
    stop_takes_the_whole_tree []
    stop_takes_what_an_ended_program_left [never]
    stop_is_idempotent []
    stop_of_a_failed_node_succeeds [never]
    stop_keeps_record_and_data []
    what_is_stopped_is_not_restarted [always]
    stop_ends_a_wait_for_a_restart [on_failure restart_tuning]
    many_stops_at_once_agree []
    stop_lets_others_live []
}

fn grace(milliseconds: u64) -> StopPolicy {
    StopPolicy {
        grace: Duration::from_millis(milliseconds),
        ..StopPolicy::default()
    }
}

fn exit_of(node: &SpawnedNode) -> Option<Exit> {
    match node.state {
        NodeState::Stopped { exit } => exit,
        _ => None,
    }
}

async fn stop_returns_when_nothing_of_the_node_is_left(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["linger=300"])?).await?;
    c.platform().stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await?;
    let stopped = c.status(&node.node_id).await?;
    assert_eq!(stopped.state.as_str(), "stopped");
    assert_eq!(stopped.pid, None);
    assert!(stopped.finished_at >= stopped.started_at, "{stopped:?}");
    assert!(!c.platform().is_node_alive(&node.node_id).await?);
    Ok(())
}

async fn stop_sends_the_signal_of_the_request(c: &Context) -> Outcome {
    for signal in [
        StopSignal::Int,
        StopSignal::Quit,
        StopSignal::Usr1,
        StopSignal::Hup,
    ] {
        let name = signal.name().to_lowercase();
        let stop = StopPolicy {
            signal,
            ..StopPolicy::default()
        };
        let node = c.spawn(c.probe(&name, &[])?.stop(stop)).await?;
        c.platform().stop_node(&node.node_id).await?;
        let log = c.platform().get_logs(&node.node_id, 1).await?;
        assert_eq!(log, [signal_line(signal.number())], "{}", signal.name());
    }
    Ok(())
}

async fn stop_gives_the_program_its_grace(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["linger=700"])?).await?;
    c.platform().stop_node(&node.node_id).await?;
    let stopped = c.status(&node.node_id).await?;
    let exit = exit_of(&stopped);
    let is_lost = c.survey().ends_get_lost && exit == Some(Exit::Unknown);
    assert!(
        exit == Some(Exit::Code(0)) || is_lost,
        "it ended by itself: {stopped:?}"
    );
    Ok(())
}

async fn stop_kills_what_ignores_the_signal(c: &Context) -> Outcome {
    let node = c
        .spawn(c.probe("n", &["ignore=15"])?.stop(grace(200)))
        .await?;
    c.platform().stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await?;
    let stopped = c.status(&node.node_id).await?;
    assert_eq!(stopped.state.as_str(), "stopped", "{stopped:?}");
    if let Some(exit) = exit_of(&stopped) {
        let is_lost = c.survey().ends_get_lost && exit == Exit::Unknown;
        assert!(exit == Exit::Signal(9) || is_lost, "{stopped:?}");
    }
    Ok(())
}

async fn stop_by_kill_asks_nothing(c: &Context) -> Outcome {
    let stop = StopPolicy {
        signal: StopSignal::Kill,
        grace: Duration::from_secs(60),
    };
    let node = c.spawn(c.probe("n", &["linger=60000"])?.stop(stop)).await?;
    c.platform().stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await?;
    assert_eq!(
        exit_of(&c.status(&node.node_id).await?),
        Some(Exit::Signal(9))
    );
    Ok(())
}

async fn stop_takes_the_whole_tree(c: &Context) -> Outcome {
    // Each orphan has a session of its own, no parent in the node, and ignores every polite signal.
    let node = c.spawn(c.probe("n", &["orphan", "orphan"])?).await?;
    c.ask(&node, "orphan").await?;
    eventually(crate::PATIENCE, "four processes", || async {
        Ok((c.census(&node.node_id).await?.len() == 4).then_some(()))
    })
    .await?;
    c.platform().stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await
}

async fn stop_takes_what_an_ended_program_left(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["orphan"])?).await?;
    c.ask(&node, "exit=1").await?;
    c.wait(&node.node_id, "the end", |n| n.state.is_ended())
        .await?;
    c.platform().stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await
}

async fn stop_is_idempotent(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.platform().stop_node(&node.node_id).await?;
    let first = c.status(&node.node_id).await?;
    for _ in 0..3 {
        c.platform().stop_node(&node.node_id).await?;
    }
    let last = c.status(&node.node_id).await?;
    assert_eq!(first.state, last.state);
    assert_eq!(
        first.finished_at, last.finished_at,
        "nothing ended a second time"
    );
    Ok(())
}

async fn stop_of_a_failed_node_succeeds(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.ask(&node, "exit=9").await?;
    c.wait(&node.node_id, "the failure", |n| {
        n.state.failure().is_some()
    })
    .await?;
    c.platform().stop_node(&node.node_id).await?;
    assert!(c.status(&node.node_id).await?.state.is_ended());
    c.nothing_lives(&node.node_id).await?;
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

async fn stop_keeps_record_and_data(c: &Context) -> Outcome {
    let node = c
        .spawn(c.probe("n", &["put=key:kept"])?.label("a", "b"))
        .await?;
    c.platform().stop_node(&node.node_id).await?;
    let stopped = c.status(&node.node_id).await?;
    assert_eq!((&stopped.uid, &stopped.digest), (&node.uid, &node.digest));
    assert_eq!(
        (&stopped.ports, &stopped.labels),
        (&node.ports, &node.labels)
    );
    assert_eq!(c.boots(&node.node_id).await?.len(), 1, "the data is there");
    let data = c.platform().list_data().await?;
    assert_eq!(data.len(), 1);
    assert!(data[0].in_use, "{data:?}");
    Ok(())
}

async fn what_is_stopped_is_not_restarted(c: &Context) -> Outcome {
    let node = c
        .spawn(c.probe("n", &[])?.restart(quickly(RestartMode::Always)))
        .await?;
    c.platform().stop_node(&node.node_id).await?;
    settle().await;
    c.nothing_lives(&node.node_id).await?;
    c.booted(&node.node_id, 1).await?;
    assert_eq!(c.status(&node.node_id).await?.state.as_str(), "stopped");
    Ok(())
}

async fn stop_ends_a_wait_for_a_restart(c: &Context) -> Outcome {
    let mut policy = quickly(RestartMode::OnFailure);
    policy.initial_backoff = Duration::from_secs(600);
    policy.max_backoff = Duration::from_secs(600);
    let node = c.spawn(c.probe("n", &[])?.restart(policy)).await?;
    c.ask(&node, "exit=1").await?;
    c.wait(&node.node_id, "the back-off", |n| {
        n.state == NodeState::Pending
    })
    .await?;
    c.platform().stop_node(&node.node_id).await?;
    let stopped = c.status(&node.node_id).await?;
    assert_eq!(stopped.state.as_str(), "stopped", "{:?}", stopped.state);
    c.nothing_lives(&node.node_id).await
}

async fn many_stops_at_once_agree(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["linger=100"])?).await?;
    let platform = c.platform();
    let stops = (0..10).map(|_| platform.stop_node(&node.node_id));
    for result in futures::future::join_all(stops).await {
        result?;
        c.nothing_lives(&node.node_id).await?;
    }
    Ok(())
}

async fn stop_lets_others_live(c: &Context) -> Outcome {
    let first = c.spawn(c.probe("one", &["orphan"])?).await?;
    let second = c.spawn(c.probe("two", &["orphan"])?).await?;
    c.platform().stop_node(&first.node_id).await?;
    c.nothing_lives(&first.node_id).await?;
    assert_eq!(c.census(&second.node_id).await?.len(), 2);
    c.platform()
        .remove_node(&first.node_id, DataPolicy::Purge)
        .await?;
    assert_eq!(c.answers(&second).await?, 1);
    fails(
        c.platform().get_node_status(&first.node_id).await,
        ErrorKind::NotFound,
    )?;
    Ok(())
}
