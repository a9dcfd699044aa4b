//! The list, a node's status and whether it lives.

use std::time::Duration;

use grid_platform_api::{DataPolicy, ErrorKind, LogCursor, NodeState, RestartMode};

use super::cases;
use crate::{Context, Outcome, fails, quickly};

cases! {
    an_empty_platform_lists_nothing []
    the_list_has_every_node_in_order []
    the_list_says_what_status_says []
    alive_is_true_of_a_program_that_runs_alone [never]
    alive_is_false_while_a_restart_is_waited_for [on_failure restart_tuning]
    unknown_ids_are_unknown_to_every_call []
    the_state_follows_the_program_and_not_the_wish [never]
}

async fn an_empty_platform_lists_nothing(c: &Context) -> Outcome {
    assert_eq!(c.platform().list_nodes().await?, []);
    assert_eq!(c.platform().list_data().await?, []);
    Ok(())
}

async fn the_list_has_every_node_in_order(c: &Context) -> Outcome {
    // Begun in another order than the one they are listed in; stopped and ended ones count.
    for name in ["d", "b", "e", "a", "c"] {
        c.spawn(c.probe(name, &[])?).await?;
    }
    c.platform().stop_node(&c.id("b")).await?;
    let ended = c.status(&c.id("d")).await?;
    c.ask(&ended, "exit=0").await?;
    c.platform()
        .remove_node(&c.id("e"), DataPolicy::Keep)
        .await?;
    let listed = c.platform().list_nodes().await?;
    let ids: Vec<_> = listed.iter().map(|n| n.node_id.clone()).collect();
    assert_eq!(ids, ["a", "b", "c", "d"].map(|name| c.id(name)));
    for name in ["a", "c"] {
        assert_eq!(c.census(&c.id(name)).await?.len(), 1);
    }
    Ok(())
}

async fn the_list_says_what_status_says(c: &Context) -> Outcome {
    for name in ["a", "b", "c"] {
        c.spawn(c.probe(name, &[])?).await?;
    }
    c.platform().stop_node(&c.id("b")).await?;
    for listed in c.platform().list_nodes().await? {
        let status = c.status(&listed.node_id).await?;
        assert_eq!(listed.state, status.state);
        assert_eq!((&listed.uid, listed.pid), (&status.uid, status.pid));
        let lives = !c.census(&listed.node_id).await?.is_empty();
        assert_eq!(listed.state.is_running(), lives, "{listed:?}");
        assert_eq!(c.platform().is_node_alive(&listed.node_id).await?, lives);
    }
    Ok(())
}

async fn alive_is_true_of_a_program_that_runs_alone(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    let id = &node.node_id;
    let platform = c.platform();
    assert!(platform.is_node_alive(id).await?);
    c.ask(&node, "exit=1").await?;
    c.wait(id, "the failure", |n| n.state.failure().is_some())
        .await?;
    assert!(!platform.is_node_alive(id).await?, "a failed node");
    c.spawn(c.same(&node, &[])?).await?;
    assert!(platform.is_node_alive(id).await?);
    platform.stop_node(id).await?;
    assert!(!platform.is_node_alive(id).await?, "a stopped node");
    platform.remove_node(id, DataPolicy::Keep).await?;
    assert!(!platform.is_node_alive(id).await?, "a removed node");
    assert!(
        !platform.is_node_alive(&c.id("unknown")).await?,
        "an unknown node"
    );
    Ok(())
}

async fn alive_is_false_while_a_restart_is_waited_for(c: &Context) -> Outcome {
    let mut policy = quickly(RestartMode::OnFailure);
    policy.initial_backoff = Duration::from_secs(600);
    policy.max_backoff = Duration::from_secs(600);
    let node = c.spawn(c.probe("n", &[])?.restart(policy)).await?;
    c.ask(&node, "exit=1").await?;
    c.wait(&node.node_id, "the back-off", |n| {
        n.state == NodeState::Pending
    })
    .await?;
    assert!(!c.platform().is_node_alive(&node.node_id).await?);
    c.nothing_lives(&node.node_id).await
}

async fn unknown_ids_are_unknown_to_every_call(c: &Context) -> Outcome {
    c.spawn(c.probe("known", &[])?).await?;
    let id = &c.id("unknown");
    let platform = c.platform();
    fails(platform.stop_node(id).await, ErrorKind::NotFound)?;
    fails(platform.get_node_status(id).await, ErrorKind::NotFound)?;
    fails(platform.get_logs(id, 10).await, ErrorKind::NotFound)?;
    fails(platform.get_logs(id, 0).await, ErrorKind::NotFound)?;
    fails(
        platform.follow_logs(id, LogCursor::Start).await.map(drop),
        ErrorKind::NotFound,
    )?;
    if c.survey().capabilities.usage {
        fails(platform.get_usage(id).await, ErrorKind::NotFound)?;
    }
    if c.survey().capabilities.force_stop {
        fails(platform.force_stop_node(id).await, ErrorKind::NotFound)?;
    }
    assert!(!platform.is_node_alive(id).await?);
    platform.remove_node(id, DataPolicy::Purge).await?;
    assert_eq!(platform.list_nodes().await?.len(), 1);
    Ok(())
}

async fn the_state_follows_the_program_and_not_the_wish(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.ask(&node, "signal=9").await?;
    let ended = c
        .wait(&node.node_id, "the end", |n| n.state.is_ended())
        .await?;
    assert!(ended.state.failure().is_some(), "{:?}", ended.state);
    assert_eq!(ended.pid, None);
    let listed = c.platform().list_nodes().await?;
    assert!(listed[0].state.failure().is_some(), "{listed:?}");
    c.nothing_lives(&node.node_id).await
}
