//! Stopping.

use std::{sync::Arc, time::Duration};

use bollard::query_parameters::StopContainerOptionsBuilder;
use grid_platform_api::{Error, ErrorKind, NodeId, Result, fault};
use grid_platform_host::{error::Context, work::detached};

use super::{start, unknown};
use crate::{
    engine::WORK,
    error::error,
    nodes::{self, Found, Node},
    platform::Inner,
    translate::{self, Goal, Phase, Policy},
};

/// How long after the last signal an end may take until it counts as unconfirmed.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// How often a container that somebody else starts again meanwhile is stopped.
const TRIES: usize = 3;

/// [`Platform::stop_node`](grid_platform_api::Platform::stop_node).
pub(crate) async fn stop(inner: &Arc<Inner>, id: &NodeId) -> Result<()> {
    let call = async {
        let turn = inner.turns.take(id).await;
        let Some(node) = inner.registry.get(id) else {
            return Err(unknown(inner, id).await);
        };
        let ending = Arc::clone(inner);
        let work = async move {
            let ended = end(&ending, &node).await;
            drop(turn);
            ended
        };
        detached(&inner.closing, work).await
    };
    inner.locks.interrupt(id, call).await?;
    fault::point("docker-stop-before-answer").cannot("answer")
}

/// Makes durable that the node shall be stopped, then ends what runs.
async fn end(inner: &Arc<Inner>, node: &Arc<Node>) -> Result<()> {
    let mut now = node.now();
    if !now.observed.phase.is_live() {
        // What is known may be a moment old; a node at rest is left as it is.
        if let Found::Nothing = nodes::refresh(inner, &node.container).await? {
            return Err(Error::not_found(&node.id));
        }
        now = node.now();
    }
    let goal = match (now.observed.phase.is_live(), node.shown().state.failure()) {
        (false, Some(failure)) => Goal::Failed {
            failure: failure.clone(),
        },
        _ => Goal::Stopped,
    };
    if now.goal != goal {
        start::set_goal(inner, node, goal).await?;
        fault::point("docker-stop-after-note").cannot("stop the node")?;
    }
    finish(inner, node).await
}

/// Ends what runs of a node whose goal says so already, and returns when nothing is left.
///
/// # Errors
/// `Unconfirmed` when it does not end.
pub(crate) async fn finish(inner: &Arc<Inner>, node: &Arc<Node>) -> Result<()> {
    for _ in 0..=TRIES {
        let now = node.now();
        if now.removed {
            return Ok(());
        }
        if !now.observed.phase.is_live() {
            // The engine's own restart goes by the policy and not by who stopped it. Taken away now and not before: of a program
            // that runs that costs the engine more than the stop. Killed in between, we do it when we are opened again.
            return match now.observed.policy.revives(now.observed.exit_code) {
                true => start::set_policy(inner, node, &Policy::NONE).await,
                false => Ok(()),
            };
        }
        if now.observed.phase == Phase::Paused {
            unpause(inner, node).await?;
        }
        let grace = now.record.config.stop.grace;
        let options = StopContainerOptionsBuilder::new()
            .t(translate::grace_seconds(grace))
            .build();
        let limit = grace.saturating_add(KILL_LIMIT);
        let asked = inner
            .engine
            .docker
            .stop_container(&node.container, Some(options));
        match inner.engine.ask(limit, asked).await {
            Ok(()) => {}
            Err(fault) if matches!(fault.status(), Some(304 | 404)) => {}
            Err(fault) if fault.status().is_some() => return Err(unconfirmed(node, fault)),
            Err(fault) => {
                return Err(fault.into_error(format!("stop the node `{}`", node.id)));
            }
        }
        fault::point("docker-stop-after-stop").cannot("look what is left of the node")?;
        nodes::refresh(inner, &node.container).await?;
    }
    Err(error(
        ErrorKind::Unconfirmed,
        format!(
            "the node `{}` runs again each time that it is stopped",
            node.id
        ),
    )
    .with_hint(
        "Somebody else starts its container: find out who (`docker events`), then stop it again.",
    ))
}

async fn unpause(inner: &Inner, node: &Node) -> Result<()> {
    let asked = inner.engine.docker.unpause_container(&node.container);
    match inner.engine.ask(WORK, asked).await {
        // It was not paused any more.
        Err(fault) if fault.status().is_none() => {
            Err(fault.into_error(format!("unpause the node `{}`", node.id)))
        }
        _ => Ok(()),
    }
}

fn unconfirmed(node: &Node, fault: crate::error::Fault) -> Error {
    error(
        ErrorKind::Unconfirmed,
        format!("the engine cannot end the node `{}`", node.id),
    )
    .with_source(fault)
    .with_hint("Its processes may wait for the kernel, most likely for a disk: mend that, and stop it again.")
}
