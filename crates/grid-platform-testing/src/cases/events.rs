//! Events.

use futures::StreamExt;
use grid_platform_api::{DataPolicy, NodeEvent, NodeEventStream, RestartMode};

use super::cases;
use crate::{Context, Failed, Outcome, PATIENCE, quickly};

cases! {
    a_snapshot_comes_first []
    a_snapshot_of_nothing_comes_too []
    a_spawn_is_an_event []
    a_stop_is_an_event []
    a_removal_is_an_event_with_its_uid []
    a_crash_is_an_event [never]
    a_restart_is_an_event [on_failure]
    the_last_event_of_a_node_is_its_state []
    two_watchers_see_the_same_end []
    events_after_a_reopen_begin_with_what_is_there [nodes_outlive_adapter]
}

/// Reads on until an event gives something.
async fn find<T>(
    events: &mut NodeEventStream,
    what: &str,
    found: impl Fn(&NodeEvent) -> Option<T>,
) -> Outcome<T> {
    let reading = async {
        while let Some(event) = events.next().await {
            if let Some(hit) = found(&event?) {
                return Ok(hit);
            }
        }
        Err(Failed::new(format!("the events ended before {what}")))
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .map_err(|_| Failed::new(format!("no event of {what} in {PATIENCE:?}")))?
}

async fn snapshot(events: &mut NodeEventStream) -> Outcome<Vec<grid_platform_api::SpawnedNode>> {
    match tokio::time::timeout(PATIENCE, events.next()).await {
        Ok(Some(Ok(NodeEvent::Snapshot { nodes }))) => Ok(nodes),
        other => Err(Failed::new(format!(
            "a snapshot comes first, and not {other:?}"
        ))),
    }
}

async fn a_snapshot_comes_first(c: &Context) -> Outcome {
    let one = c.spawn(c.probe("a", &[])?).await?;
    let two = c.spawn(c.probe("b", &[])?).await?;
    c.platform().stop_node(&two.node_id).await?;
    let mut events = c.platform().watch_nodes().await?;
    let nodes = snapshot(&mut events).await?;
    let seen: Vec<_> = nodes
        .iter()
        .map(|n| (&n.node_id, n.state.as_str()))
        .collect();
    assert_eq!(seen, [(&one.node_id, "running"), (&two.node_id, "stopped")]);
    Ok(())
}

async fn a_snapshot_of_nothing_comes_too(c: &Context) -> Outcome {
    let mut events = c.platform().watch_nodes().await?;
    assert_eq!(snapshot(&mut events).await?, []);
    Ok(())
}

async fn a_spawn_is_an_event(c: &Context) -> Outcome {
    let mut events = c.platform().watch_nodes().await?;
    snapshot(&mut events).await?;
    let node = c.spawn(c.probe("n", &[])?).await?;
    let uid = find(&mut events, "the running node", |event| match event {
        NodeEvent::Changed { node } if node.state.is_running() => Some(node.uid.clone()),
        _ => None,
    });
    assert_eq!(uid.await?, node.uid);
    Ok(())
}

async fn a_stop_is_an_event(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    let mut events = c.platform().watch_nodes().await?;
    snapshot(&mut events).await?;
    c.platform().stop_node(&node.node_id).await?;
    find(&mut events, "the stopped node", |event| match event {
        NodeEvent::Changed { node } => (node.state.as_str() == "stopped").then_some(()),
        _ => None,
    })
    .await
}

async fn a_removal_is_an_event_with_its_uid(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    let mut events = c.platform().watch_nodes().await?;
    snapshot(&mut events).await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Keep)
        .await?;
    let removed = find(&mut events, "the removal", |event| match event {
        NodeEvent::Removed { node_id, uid } => Some((node_id.clone(), uid.clone())),
        _ => None,
    });
    assert_eq!(removed.await?, (node.node_id, node.uid));
    Ok(())
}

async fn a_crash_is_an_event(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    let mut events = c.platform().watch_nodes().await?;
    snapshot(&mut events).await?;
    // Nobody asks the platform anything: it has to see it by itself.
    c.ask(&node, "signal=9").await?;
    let exit = find(&mut events, "the failure", |event| match event {
        NodeEvent::Changed { node } => node.state.failure().map(|f| f.exit),
        _ => None,
    });
    assert_eq!(exit.await?, Some(grid_platform_api::Exit::Signal(9)));
    Ok(())
}

async fn a_restart_is_an_event(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.restart(quickly(RestartMode::OnFailure));
    let node = c.spawn(config).await?;
    let mut events = c.platform().watch_nodes().await?;
    snapshot(&mut events).await?;
    c.ask(&node, "exit=1").await?;
    find(&mut events, "the restart", |event| match event {
        NodeEvent::Changed { node } => {
            (node.restarts == 1 && node.state.is_running()).then_some(())
        }
        _ => None,
    })
    .await
}

async fn the_last_event_of_a_node_is_its_state(c: &Context) -> Outcome {
    let mut events = c.platform().watch_nodes().await?;
    let config = c.probe("n", &[])?.build()?;
    for _ in 0..3 {
        let node = c.platform().spawn_node(config.clone()).await?;
        c.answers(&node).await?;
        c.platform().stop_node(&config.node_id).await?;
    }
    c.platform()
        .remove_node(&config.node_id, DataPolicy::Keep)
        .await?;
    let last = c.spawn(c.probe("last", &[])?).await?;
    // What is told of the removed node before the last one runs ends with its removal.
    let gone = std::sync::Mutex::new(None);
    find(&mut events, "the last node", |event| match event {
        NodeEvent::Changed { node } if node.node_id == last.node_id => {
            node.state.is_running().then_some(())
        }
        NodeEvent::Changed { node } if node.node_id == config.node_id => {
            replace(&gone, false);
            None
        }
        NodeEvent::Removed { node_id, .. } if *node_id == config.node_id => {
            replace(&gone, true);
            None
        }
        _ => None,
    })
    .await?;
    assert_eq!(gone.into_inner().ok().flatten(), Some(true));
    Ok(())
}

async fn two_watchers_see_the_same_end(c: &Context) -> Outcome {
    let mut one = c.platform().watch_nodes().await?;
    let mut two = c.platform().watch_nodes().await?;
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Keep)
        .await?;
    for events in [&mut one, &mut two] {
        let uid = find(events, "the removal", |event| match event {
            NodeEvent::Removed { uid, .. } => Some(uid.clone()),
            _ => None,
        });
        assert_eq!(uid.await?, node.uid);
    }
    Ok(())
}

async fn events_after_a_reopen_begin_with_what_is_there(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.reopen().await?;
    let mut events = c.platform().watch_nodes().await?;
    let nodes = snapshot(&mut events).await?;
    assert_eq!(nodes.len(), 1);
    assert!(nodes[0].state.is_running(), "{nodes:?}");
    assert_eq!(nodes[0].uid, node.uid);
    c.platform().stop_node(&node.node_id).await?;
    find(&mut events, "the stop", |event| match event {
        NodeEvent::Changed { node } => node.state.is_ended().then_some(()),
        _ => None,
    })
    .await
}

fn replace(slot: &std::sync::Mutex<Option<bool>>, value: bool) {
    if let Ok(mut slot) = slot.lock() {
        *slot = Some(value);
    }
}
