//! Starting again what was taken down with its supervisor, and ending what should have ended.

use std::{sync::Arc, time::Duration};

use grid_platform_api::{Failure, FailureReason, Result};

use crate::{
    intent::Intent,
    lifecycle::{self, in_turn},
    node::{Node, Situation, Started},
    platform::Inner,
    shared::policy::Next,
    sweep,
    sys::proc,
    translate,
    translate::Shim,
};
use grid_platform_host::work::blocking;

impl Inner {
    /// The monitor of a start says that its shim has ended. What then is to be done waits for a spawn in flight, which
    /// may decide otherwise.
    pub(crate) fn shim_ended(self: &Arc<Self>, node: &Arc<Node>, generation: u64) {
        self.learn(node, generation, |it| {
            it.shim = Shim::Gone;
            if it.started == Started::Waiting {
                it.started = Started::Died;
            }
        });
        let now = node.now();
        if !was_taken_down(&now, generation) {
            return;
        }
        let (inner, node) = (Arc::downgrade(self), Arc::clone(node));
        let mut closing = self.closing.clone();
        let work = async move {
            tokio::time::sleep(wait(&now)).await;
            let Some(inner) = inner.upgrade() else { return };
            let id = node.id.clone();
            let again = take_up(&inner, &node, generation);
            // A stop or a remove that comes meanwhile is right, and this is not needed any more.
            let _ = inner.locks.interruptible(&id, again).await;
        };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = closing.changed() => {}
                () = work => {}
            }
        });
    }
}

/// Whether the node should run, and the shim of that start was killed or left it to a spawn that is not there any more.
fn was_taken_down(now: &Situation, generation: u64) -> bool {
    now.intent.generation == generation && is_to_be_started(now)
}

/// Whether nothing of the node runs, and somebody is about to start it or to say that it failed.
pub(crate) fn is_to_be_started(now: &Situation) -> bool {
    !now.removed
        && now.shim == Shim::Gone
        && now.intent.wants_running()
        && (!now.record().is_some_and(|it| it.state.is_final()) || is_up_to_policy(now))
}

/// Whether its shim has left a program that ended to a spawn: when nobody waits for that any more, the policy decides.
pub(crate) fn is_up_to_policy(now: &Situation) -> bool {
    now.intent.wants_running()
        && now
            .record()
            .is_some_and(|it| translate::ended_on_trial(&now.intent, it))
}

/// What the policy says of a shim's death: it counts as a failure of its node.
fn verdict(now: &Situation) -> Next {
    let record = now.record();
    let restarts = record.map_or(now.intent.restarts, |it| it.restarts);
    // By the process's start, not by the clock: it may have been set since.
    let ran = record
        .filter(|it| it.pid != 0)
        .and_then(|it| proc::age(it.pid_start));
    let ran_ms = ran.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
    translate::policy(&now.intent.config).after(restarts, ran_ms, true)
}

fn wait(now: &Situation) -> Duration {
    match verdict(now) {
        Next::Start { wait_ms, .. } => Duration::from_millis(wait_ms),
        Next::End => Duration::ZERO,
    }
}

async fn take_up(inner: &Arc<Inner>, node: &Arc<Node>, generation: u64) -> Result<()> {
    let turn = inner.turns.take(&node.id).await;
    let (inner, node) = (Arc::clone(inner), Arc::clone(node));
    // All in one: a stop that comes meanwhile drops this call and waits for the turn.
    blocking(move || in_turn(turn, || take_up_now(&inner, &node, generation))).await
}

fn take_up_now(inner: &Arc<Inner>, node: &Arc<Node>, generation: u64) -> Result<()> {
    let now = node.now();
    if !was_taken_down(&now, generation) {
        return Ok(());
    }
    let restarts = now.record().map_or(now.intent.restarts, |it| it.restarts) + 1;
    if !now.record().is_some_and(|it| it.state.is_final()) {
        tracing::warn!(node = %node.id, "the supervisor of a node was killed");
        inner.registry.update(node, |it| {
            let failure = Failure::new(FailureReason::Interrupted, "its supervisor was killed");
            it.last_failure = Some(failure);
        });
    }
    sweep::leftovers(&[&now.intent.uid], &inner.cgroups).inspect_err(|e| {
        tracing::warn!(node = %node.id, error = %e, "what a killed supervisor left cannot be ended");
    })?;
    if verdict(&now) == Next::End {
        lifecycle::give_up_start(inner, node, translate::interrupted());
    } else {
        start_again(inner, node, restarts);
    }
    Ok(())
}

/// Starts a node again by its policy, in its turn; it does not wait until it is ready. What was left of it is gone already.
pub(crate) fn start_again(inner: &Arc<Inner>, node: &Arc<Node>, restarts: u64) {
    let start = || {
        let mut intent = Intent::clone(&node.now().intent);
        intent.generation += 1;
        intent.restarts = restarts;
        inner.node_dir(&node.id)?.write_intent(&intent)?;
        lifecycle::start_or_fail(inner, node, intent, None)
    };
    if let Err(e) = start() {
        tracing::warn!(node = %node.id, error = %e.copied(), "a node cannot be started again");
        if node.shown().state.failure().is_none() {
            lifecycle::give_up_start(inner, node, lifecycle::refused_start(&e));
        }
    }
}

/// Goes on with a stop that was cut short.
pub(crate) fn finish_stop(inner: &Arc<Inner>, node: &Arc<Node>) {
    let (inner, node) = (Arc::clone(inner), Arc::clone(node));
    let mut closing = inner.closing.clone();
    tokio::spawn(async move {
        let work = async {
            let turn = inner.turns.take(&node.id).await;
            if !node.now().intent.wants_running()
                && let Err(e) = lifecycle::finish(&inner, &node, None).await
            {
                tracing::warn!(node = %node.id, error = %e, "a stop that was cut short cannot be finished");
            }
            drop(turn);
        };
        tokio::select! {
            biased;
            _ = closing.changed() => {}
            () = work => {}
        }
    });
}
