//! What an earlier adapter was killed in the middle of is carried on with.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use grid_platform_api::{NodeId, NodeUid, Result};
use grid_platform_host::work::blocking;
use tokio::time::sleep;

use super::{start, stop};
use crate::{
    helper,
    nodes::{self, Node, Situation},
    notes::Note,
    platform::Inner,
    translate::{self, Goal, Phase, Policy},
    volumes,
};

/// How many nodes are healed at a time.
const HEALS: usize = 8;
/// How long after an engine that could not be asked it is asked again.
const HEAL_PAUSE: Duration = Duration::from_secs(1);

/// What a node needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing.
    Nothing,
    /// Its stop was cut short.
    Stop,
    /// It is at rest and has a policy that would start it again.
    Rest,
    /// It runs without the policy of its request: whoever waited for it is gone.
    Policy,
    /// Its start was cut short, or it ended while somebody waited for it who is gone: that is its policy's business now.
    Start,
}

fn need(now: &Situation, note: &Note) -> Need {
    let (seen, wanted) = (&now.observed, Policy::of(&now.record.config));
    let failed = translate::bad_end(&now.record, seen).is_some();
    let on_trial = wanted != Policy::NONE && seen.policy == Policy::NONE;
    match (&now.goal, seen.phase) {
        (_, Phase::Removing | Phase::Dead) => Need::Nothing,
        (Goal::Stopped | Goal::Failed { .. }, phase) if phase.is_live() => Need::Stop,
        (Goal::Stopped | Goal::Failed { .. }, _) if seen.policy.revives(seen.exit_code) => {
            Need::Rest
        }
        (Goal::Stopped | Goal::Failed { .. }, _) => Need::Nothing,
        (Goal::Running, phase) if phase.is_live() && on_trial => Need::Policy,
        (Goal::Running, phase) if phase.is_live() => Need::Nothing,
        (Goal::Running, Phase::Created) if !failed => Need::Start,
        // The last spawn did not get as far as to start it.
        (Goal::Running, _) if seen.started_at.is_some() && seen.started_at == note.behind => {
            Need::Start
        }
        (Goal::Running, Phase::Exited)
            if on_trial && translate::would_restart(&now.record.config, failed) =>
        {
            Need::Start
        }
        (Goal::Running, _) => Need::Nothing,
    }
}

/// Heals all nodes, and takes away what belongs to none. Stops that take their time go on in the background.
pub(crate) async fn heal(inner: &Arc<Inner>) -> Result<()> {
    stream::iter(inner.registry.all())
        .for_each_concurrent(HEALS, |node| async move {
            if let Err(e) = heal_one(inner, &node).await {
                tracing::warn!(node = %node.id, error = %e, "what was begun with a node could not be carried on with");
            }
        })
        .await;
    sweep_engine(inner).await;
    sweep(inner).await?;
    let finishing = Arc::clone(inner);
    blocking(move || {
        finishing.data.finish_purges(&|| finishing.used());
        Ok(())
    })
    .await
}

/// Takes away the notes and secrets of incarnations that have no container: a remove was cut short, or a node did not come to be.
/// Each is asked for by itself, as a list that is short would take those of nodes that run; a container whose record cannot be
/// understood keeps its own.
async fn sweep(inner: &Arc<Inner>) -> Result<()> {
    let looking = Arc::clone(inner);
    let secrets = blocking(move || looking.secrets.all()).await?;
    let notes = inner.notes.all();
    let mut unknown: BTreeSet<NodeUid> = secrets.iter().cloned().collect();
    unknown.extend(notes.iter().map(|(_, uid)| uid.clone()));
    for node in inner.registry.all() {
        unknown.remove(&node.uid);
    }
    let mut gone = BTreeSet::new();
    for uid in unknown {
        if !nodes::has_container(inner, &uid).await? {
            gone.insert(uid);
        }
    }
    let sweeping = Arc::clone(inner);
    blocking(move || {
        for uid in secrets.iter().filter(|it| gone.contains(*it)) {
            sweeping.secrets.remove(uid)?;
        }
        for (id, _) in notes.iter().filter(|it| gone.contains(&it.1)) {
            sweeping.notes.forget(id)?;
        }
        Ok(())
    })
    .await
}

/// Takes away what an adapter was killed over on the engine: helpers, and volumes of secrets whose node is gone. Nobody else
/// makes any yet. What stays is in nobody's way, and is told.
async fn sweep_engine(inner: &Arc<Inner>) {
    let (engine, owner) = (&inner.engine, &inner.install.owner);
    let swept = async {
        helper::sweep(engine, owner, None).await?;
        let is_node = |id: &NodeId| inner.registry.get(id).is_some();
        volumes::sweep_secrets(engine, owner, is_node).await
    };
    if let Err(e) = swept.await {
        tracing::warn!(error = %e, "what a killed adapter left on the engine is still there");
    }
}

/// Has a wait that nobody finishes any more healed as after a crash: its node gets what it was to have behind it, once the engine
/// can be asked.
pub(crate) fn heal_later(inner: &Arc<Inner>, node: &Arc<Node>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    let (healing, node, mut closing) = (Arc::clone(inner), Arc::clone(node), inner.closing.clone());
    runtime.spawn(async move {
        let work = async {
            loop {
                let looked = nodes::refresh(&healing, &node.container).await;
                let healed = match looked {
                    Ok(_) if node.now().removed => return,
                    Ok(_) => heal_one(&healing, &node).await,
                    Err(e) => Err(e),
                };
                match healed {
                    Err(e) if e.is_retryable() => sleep(HEAL_PAUSE).await,
                    Err(e) => {
                        return tracing::warn!(node = %node.id, error = %e, "what a wait left could not be carried on with");
                    }
                    Ok(()) => return,
                }
            }
        };
        tokio::select! {
            biased;
            _ = closing.changed() => {}
            () = work => {}
        }
    });
}

async fn heal_one(inner: &Arc<Inner>, node: &Arc<Node>) -> Result<()> {
    let turn = inner.turns.take(&node.id).await;
    let now = node.now();
    match need(&now, &inner.notes.of(&node.id, &node.uid)) {
        Need::Nothing => Ok(()),
        Need::Rest => start::set_policy(inner, node, &Policy::NONE).await,
        Need::Policy => start::set_policy(inner, node, &Policy::of(&now.record.config)).await,
        Need::Start => {
            start::carry_on(inner, node).await?;
            nodes::refresh(inner, &node.container).await.map(drop)
        }
        Need::Stop => {
            let (ending, ended, mut closing) =
                (Arc::clone(inner), Arc::clone(node), inner.closing.clone());
            tokio::spawn(async move {
                let work = async {
                    if let Err(e) = stop::finish(&ending, &ended).await {
                        tracing::warn!(node = %ended.id, error = %e, "a stop that was cut short is not finished");
                    }
                    drop(turn);
                };
                tokio::select! {
                    biased;
                    _ = closing.changed() => {}
                    () = work => {}
                }
            });
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{Failure, FailureReason, Health, NodeUid, RestartMode, Timestamp};

    use super::*;
    use crate::translate::{
        Observed,
        tests::{observed, record, request},
    };

    #[test]
    fn what_was_cut_short_is_carried_on_with() {
        let failed = Goal::Failed {
            failure: Failure::new(FailureReason::Exited, "it ended"),
        };
        let (run, stop) = (Goal::Running, Goal::Stopped);
        let started = Timestamp::from_second(5).unwrap();
        let check =
            |goal: &Goal, mode: RestartMode, policy: bool, seen: Observed, behind, expect| {
                let config = request().restart(mode).build().unwrap();
                let mut seen = seen;
                if policy {
                    seen.policy = Policy::of(&config);
                }
                let text = format!("{goal:?} {mode:?} {policy} {seen:?}");
                let now = Situation {
                    record: Arc::new(record(config)),
                    observed: Arc::new(seen),
                    goal: goal.clone(),
                    health: Health::Unchecked,
                    last_failure: None,
                    stopped_by_other: false,
                    since: None,
                    log_from: None,
                    tail: Vec::new(),
                    memory_used_up: None,
                    removed: false,
                };
                let mut note = Note::new(NodeUid::from_bytes([7; 16]));
                note.behind = behind;
                assert_eq!(need(&now, &note), expect, "{text}");
            };
        use RestartMode::{Always, Never, OnFailure};
        let at = |phase| Observed {
            started_at: Some(started),
            ..observed(phase)
        };
        let exited = |code| Observed {
            exit_code: code,
            ..at(Phase::Exited)
        };
        for goal in [&stop, &failed] {
            check(goal, OnFailure, true, at(Phase::Running), None, Need::Stop);
            check(goal, OnFailure, false, at(Phase::Running), None, Need::Stop);
            check(goal, OnFailure, true, exited(143), None, Need::Rest);
            check(goal, Always, true, exited(0), None, Need::Rest);
            check(goal, Always, false, exited(0), None, Need::Nothing);
            check(goal, OnFailure, true, exited(0), None, Need::Nothing);
        }
        check(
            &run,
            OnFailure,
            false,
            observed(Phase::Created),
            None,
            Need::Start,
        );
        let refused = Observed {
            error: "exec: \"x\": permission denied".into(),
            ..observed(Phase::Created)
        };
        check(&run, OnFailure, false, refused, None, Need::Nothing);
        check(
            &run,
            OnFailure,
            true,
            at(Phase::Running),
            None,
            Need::Nothing,
        );
        check(
            &run,
            OnFailure,
            false,
            at(Phase::Running),
            None,
            Need::Policy,
        );
        check(&run, Never, false, at(Phase::Running), None, Need::Nothing);
        // It ended while somebody waited for it.
        check(&run, OnFailure, false, exited(1), None, Need::Start);
        check(&run, OnFailure, false, exited(0), None, Need::Nothing);
        check(&run, Always, false, exited(0), None, Need::Start);
        check(&run, Never, false, exited(1), None, Need::Nothing);
        // It ended under its policy, or somebody else stopped it.
        check(&run, OnFailure, true, exited(1), None, Need::Nothing);
        // A start after a stop was not begun.
        check(&run, Never, false, exited(0), Some(started), Need::Start);
    }
}
