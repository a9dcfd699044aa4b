//! What to do about a node: the whole of the agent's judgement, and no call.

use grid_platform_api::{DataPolicy, Exit, NodeState, RestartMode, SpawnConfig, SpawnedNode};
use grid_proto::Want;

use crate::desired::Entry;

/// What is to be done about a node now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Leave,
    /// The newest generation holds as things are: note it.
    Note,
    /// Make it run.
    Spawn,
    /// End it.
    Stop,
    /// Remove it.
    Remove(DataPolicy),
}

/// What is to be done about a node with this wish that the platform shows as `observed`.
///
/// - A node without a wish is left as it is: absence is never an instruction.
/// - A generation that was not acted on yet is acted on.
/// - One that was: a node that vanished, or was stopped behind the agent's back, is spawned again; one that ended under
///   its own policy, or could not be spawned, waits for a new generation.
pub(crate) fn decide(entry: Option<&Entry>, observed: Option<&SpawnedNode>) -> Action {
    let Some(entry) = entry else {
        return Action::Leave;
    };
    let applied = entry.is_applied();
    let failed = applied && entry.applied.as_ref().is_some_and(|it| it.error.is_some());
    match (&entry.wish.want, observed) {
        _ if failed => Action::Leave,
        (Want::Running(_), _) if !applied => Action::Spawn,
        (Want::Running(_), None) => Action::Spawn,
        (Want::Running(config), Some(node)) if was_stopped(config, node) => Action::Spawn,
        (Want::Running(_), Some(_)) => Action::Leave,
        (Want::Stopped(_), None) if applied => Action::Leave,
        (Want::Stopped(_), None) => Action::Note,
        (Want::Stopped(_), Some(node)) if applied && node.state.is_ended() => Action::Leave,
        (Want::Stopped(_), Some(_)) => Action::Stop,
        (Want::Removed(_), None) if applied => Action::Leave,
        (Want::Removed(data), _) => Action::Remove(*data),
    }
}

/// Whether the node is at rest because somebody stopped it, and not because its program ended under its policy.
///
/// A platform shows both as stopped. A program that is always restarted, that ended badly, or whose end nobody saw did
/// not end well under its policy. One that ended well under another policy may have done either: it is left, because
/// starting a finished program again is the worse mistake.
fn was_stopped(config: &SpawnConfig, node: &SpawnedNode) -> bool {
    match &node.state {
        NodeState::Stopped { exit } => {
            config.restart.mode == RestartMode::Always || *exit != Some(Exit::Code(0))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{
        Digest, DigestKey, Error, ErrorKind, Failure, FailureReason, NodeUid, Program, Timestamp,
    };
    use grid_proto::Wish;

    use super::*;
    use crate::desired::Applied;

    fn config(mode: RestartMode) -> SpawnConfig {
        SpawnConfig::builder("n1", Program::binary("/bin/true", [""; 0]))
            .restart(mode)
            .build()
            .unwrap()
    }

    fn running(mode: RestartMode) -> Want {
        Want::Running(Box::new(config(mode)))
    }

    fn stopped() -> Want {
        Want::Stopped(Box::new(config(RestartMode::OnFailure)))
    }

    /// A wish of generation 2 with what was applied: its generation, and whether it worked.
    fn entry(want: Want, applied: Option<(u64, bool)>) -> Entry {
        let mut entry = Entry::new(Wish {
            node_id: config(RestartMode::Never).node_id,
            generation: 2,
            want,
        });
        entry.applied = applied.map(|(generation, well)| Applied {
            generation,
            error: (!well).then(|| Error::new(ErrorKind::SpawnFailed, "it died").to_report()),
        });
        entry
    }

    fn node(state: NodeState) -> SpawnedNode {
        let config = config(RestartMode::OnFailure);
        SpawnedNode {
            digest: Digest::of(&config, &DigestKey::from_bytes([1; 32])),
            node_id: config.node_id,
            uid: NodeUid::from_bytes([1; 16]),
            platform: "memory".into(),
            native_handle: "x".into(),
            pid: None,
            state,
            health: Default::default(),
            endpoint: None,
            ports: Default::default(),
            restarts: 0,
            last_failure: None,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            image: None,
            data_path: None,
            labels: Default::default(),
        }
    }

    fn rest(exit: Option<Exit>) -> NodeState {
        NodeState::Stopped { exit }
    }

    fn dead() -> NodeState {
        let failure = Failure::new(FailureReason::Exited, "exit code 1");
        NodeState::Failed { failure }
    }

    #[test]
    fn without_a_wish_nothing_is_done() {
        for state in [NodeState::Running, dead(), rest(None)] {
            assert_eq!(decide(None, Some(&node(state))), Action::Leave);
        }
        assert_eq!(decide(None, None), Action::Leave);
    }

    #[test]
    fn table() {
        use Action::*;
        use RestartMode::*;
        let check = |want: &Want, applied, state: Option<NodeState>, expect| {
            let entry = entry(want.clone(), applied);
            let node = state.clone().map(node);
            let action = decide(Some(&entry), node.as_ref());
            assert_eq!(action, expect, "{want:?}, applied {applied:?}, {state:?}");
        };
        const NEW: Option<(u64, bool)> = None;
        const OLD: Option<(u64, bool)> = Some((1, true));
        const OLD_FAILED: Option<(u64, bool)> = Some((1, false));
        const DONE: Option<(u64, bool)> = Some((2, true));
        const FAILED: Option<(u64, bool)> = Some((2, false));
        // A store restored under a new epoch may count from lower figures.
        const AHEAD: Option<(u64, bool)> = Some((9, true));

        let run = running(OnFailure);
        for applied in [NEW, OLD, OLD_FAILED, AHEAD] {
            check(&run, applied, None, Spawn);
            check(&run, applied, Some(NodeState::Running), Spawn);
            check(&run, applied, Some(rest(Some(Exit::Code(0)))), Spawn);
            check(&run, applied, Some(dead()), Spawn);
        }
        check(&run, DONE, None, Spawn);
        check(&run, DONE, Some(NodeState::Running), Leave);
        check(&run, DONE, Some(NodeState::Pending), Leave);
        check(&run, DONE, Some(NodeState::Stopping), Leave);
        check(&run, DONE, Some(dead()), Leave);
        check(&run, FAILED, None, Leave);
        check(&run, FAILED, Some(dead()), Leave);
        check(&run, FAILED, Some(rest(None)), Leave);

        // Ended well under its policy, or stopped behind the agent's back?
        check(&run, DONE, Some(rest(Some(Exit::Code(0)))), Leave);
        check(&run, DONE, Some(rest(Some(Exit::Code(3)))), Spawn);
        check(&run, DONE, Some(rest(Some(Exit::Signal(15)))), Spawn);
        check(&run, DONE, Some(rest(None)), Spawn);
        check(
            &running(Always),
            DONE,
            Some(rest(Some(Exit::Code(0)))),
            Spawn,
        );
        check(
            &running(Never),
            DONE,
            Some(rest(Some(Exit::Code(0)))),
            Leave,
        );

        check(&stopped(), NEW, None, Note);
        check(&stopped(), OLD, None, Note);
        check(&stopped(), DONE, None, Leave);
        check(&stopped(), OLD, Some(NodeState::Running), Stop);
        check(&stopped(), OLD, Some(dead()), Stop);
        check(&stopped(), DONE, Some(NodeState::Running), Stop);
        check(&stopped(), DONE, Some(NodeState::Pending), Stop);
        check(&stopped(), DONE, Some(rest(None)), Leave);
        check(&stopped(), DONE, Some(dead()), Leave);

        let keep = Want::Removed(DataPolicy::Keep);
        let purge = Want::Removed(DataPolicy::Purge);
        check(
            &keep,
            OLD,
            Some(NodeState::Running),
            Remove(DataPolicy::Keep),
        );
        check(&purge, OLD, Some(dead()), Remove(DataPolicy::Purge));
        check(&purge, NEW, None, Remove(DataPolicy::Purge));
        check(&purge, DONE, None, Leave);
        check(&purge, FAILED, Some(NodeState::Running), Leave);
    }
}
