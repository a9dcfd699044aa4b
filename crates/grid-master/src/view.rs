//! From what is wished and what was seen to what people are shown. Pure.

use grid_client::{Agent, AgentState, Desired, Node, State, Token};
use grid_platform_api::{Exit, Failure, NodeId, NodeState, SpawnedNode};

use crate::store::row::{AgentRow, NodeRow, Seen, TokenRow, Wish};

/// What of a node makes an event when it changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Glance {
    pub(crate) state: State,
    pub(crate) health: String,
    pub(crate) restarts: u32,
    pub(crate) generation: u64,
    pub(crate) observed_generation: u64,
    pub(crate) pid: Option<u32>,
    pub(crate) error: Option<String>,
}

/// How a node is, as far as the master knows; `unknown` when what was seen is of the past.
pub(crate) fn state(wish: Option<&NodeRow>, seen: Option<&Seen>, unknown: bool) -> State {
    if unknown {
        return State::Unknown;
    }
    let observed = seen.and_then(|s| s.node.as_ref()).map(|n| &n.state);
    let Some(row) = wish else {
        return match observed {
            Some(NodeState::Pending) => State::Pending,
            Some(NodeState::Running) => State::Running,
            Some(NodeState::Stopping) => State::Stopping,
            Some(NodeState::Failed { .. }) => State::Failed,
            Some(NodeState::Stopped { .. }) | None => State::Stopped,
        };
    };
    let applied = seen.map(|s| &s.applied);
    let acted = applied.is_some_and(|a| a.acted >= row.generation);
    let given_up = is_given_up(row, seen);
    match (row.wish, observed) {
        // A tombstone is on its way until the agent has acknowledged it.
        (Wish::Removed { .. }, _) => State::Stopping,
        (Wish::Stopped, None | Some(NodeState::Stopped { .. } | NodeState::Failed { .. })) => {
            State::Stopped
        }
        // It could not be stopped, and the agent does not try again: it is as it is.
        (Wish::Stopped, Some(NodeState::Running)) if given_up => State::Running,
        (Wish::Stopped, Some(_)) => State::Stopping,
        (Wish::Running, Some(NodeState::Running)) => State::Running,
        (Wish::Running, Some(NodeState::Stopping)) => State::Stopping,
        (Wish::Running, _) if given_up => State::Failed,
        (Wish::Running, None | Some(NodeState::Pending)) => State::Pending,
        // What ended before the agent has acted on this generation is about to be started.
        (Wish::Running, Some(NodeState::Stopped { .. })) if acted => State::Stopped,
        (Wish::Running, Some(NodeState::Failed { .. })) if acted => State::Failed,
        (Wish::Running, Some(NodeState::Stopped { .. } | NodeState::Failed { .. })) => {
            State::Pending
        }
    }
}

/// Whether the agent has failed at this wish, and waits for another.
pub(crate) fn is_given_up(row: &NodeRow, seen: Option<&Seen>) -> bool {
    let applied = seen.map(|s| &s.applied);
    applied.is_some_and(|a| a.error.is_some() && a.is_final && a.generation >= row.generation)
}

/// What was seen of a node's program, as long as it is there as far as anyone knows: only then it has a process and a
/// health.
fn alive(seen: Option<&Seen>, unknown: bool) -> Option<&SpawnedNode> {
    let ended = |n: &SpawnedNode| {
        matches!(
            n.state,
            NodeState::Stopped { .. } | NodeState::Failed { .. }
        )
    };
    seen.and_then(|s| s.node.as_ref())
        .filter(|n| !unknown && !ended(n))
}

/// The little of a node whose change is an event.
pub(crate) fn glance(row: &NodeRow, seen: Option<&Seen>, unknown: bool) -> Glance {
    let node = seen.and_then(|s| s.node.as_ref());
    let alive = alive(seen, unknown);
    Glance {
        state: state(Some(row), seen, unknown),
        health: alive.map_or("unchecked", |n| n.health.as_str()).to_owned(),
        restarts: node.map_or(0, |n| n.restarts),
        generation: row.generation,
        observed_generation: seen.map_or(0, |s| s.applied.acted),
        pid: alive.and_then(|n| n.pid),
        error: seen
            .and_then(|s| s.applied.error.as_ref())
            .map(|e| e.message.clone()),
    }
}

/// The node as people see it.
pub(crate) fn node(
    id: &NodeId,
    agent: &str,
    platform: Option<&str>,
    wish: Option<&NodeRow>,
    seen: Option<&Seen>,
    unknown: bool,
) -> Node {
    let observed = seen.and_then(|s| s.node.as_ref());
    let alive = alive(seen, unknown);
    let applied = seen.map(|s| &s.applied);
    let generation = wish.map_or(0, |r| r.generation);
    let spec = wish.and_then(|r| r.spec.as_ref());
    let (failure, exit) = observed.map_or((None, None), |n| endings(&n.state, &n.last_failure));
    let (health, health_message) = match alive.map(|n| &n.health) {
        Some(grid_platform_api::Health::Unhealthy { message }) => {
            ("unhealthy", Some(message.clone()))
        }
        Some(health) => (health.as_str(), None),
        None => ("unchecked", None),
    };
    Node {
        id: id.clone(),
        agent: agent.to_owned(),
        platform: observed
            .map(|n| n.platform.clone())
            .or_else(|| platform.map(str::to_owned)),
        desired: match wish.map(|r| r.wish) {
            Some(Wish::Running) => Desired::Running,
            Some(Wish::Stopped) => Desired::Stopped,
            Some(Wish::Removed { .. }) => Desired::Removed,
            None => Desired::Unmanaged,
        },
        state: state(wish, seen, unknown),
        health: health.to_owned(),
        health_message,
        endpoint: observed
            .and_then(|n| n.endpoint.as_ref())
            .map(ToString::to_string),
        ports: observed.map(|n| n.ports.clone()).unwrap_or_default(),
        pid: alive.and_then(|n| n.pid),
        restarts: observed.map_or(0, |n| n.restarts),
        generation,
        observed_generation: applied.map_or(0, |a| a.acted),
        uid: observed.map(|n| n.uid.to_string()),
        native_handle: observed.map(|n| n.native_handle.clone()),
        data_path: observed
            .and_then(|n| n.data_path.as_ref())
            .map(|p| p.display().to_string()),
        failure,
        exit,
        error: applied
            .filter(|a| a.generation >= generation)
            .and_then(|a| a.error.clone()),
        labels: spec
            .map(|s| s.labels.clone())
            .or_else(|| observed.map(|n| n.labels.clone()))
            .unwrap_or_default(),
        settings: wish.and_then(|r| r.settings.clone()),
        image: observed.and_then(|n| n.image.clone()),
        progress: None,
        created_at: wish
            .map(|r| r.created_at)
            .or_else(|| observed.map(|n| n.created_at))
            .map(|t| t.to_string()),
        started_at: observed.and_then(|n| n.started_at).map(|t| t.to_string()),
        finished_at: observed.and_then(|n| n.finished_at).map(|t| t.to_string()),
    }
}

fn endings(state: &NodeState, last: &Option<Failure>) -> (Option<Failure>, Option<Exit>) {
    match state {
        NodeState::Failed { failure } => (Some(failure.clone()), failure.exit),
        NodeState::Stopped { exit } => (last.clone(), *exit),
        _ => (last.clone(), None),
    }
}

/// The agent as people see it.
pub(crate) fn agent(
    row: &AgentRow,
    lost: bool,
    connected: bool,
    nodes: usize,
    last_seen: Option<grid_platform_api::Timestamp>,
    error: Option<grid_platform_api::ErrorReport>,
) -> Agent {
    Agent {
        id: row.id.clone(),
        state: if lost {
            AgentState::Lost
        } else {
            AgentState::Ready
        },
        connected,
        cordoned: row.cordoned,
        platform: row.info.platform.clone(),
        version: row.info.version.clone(),
        nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
        max_storage_nodes: row.info.max_storage_nodes,
        labels: row.info.labels.clone(),
        memory_mb: row.info.memory_mb,
        cpu_millis: row.info.cpu_millis,
        install_id: row.install_id.clone(),
        last_seen: last_seen.map(|t| t.to_string()),
        error,
    }
}

/// The token as people see it.
pub(crate) fn token(row: &TokenRow) -> Token {
    Token {
        id: row.id.clone(),
        role: row.role,
        note: row.note.clone(),
        install_id: row.install_id.clone(),
        created_at: row.created_at.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use grid_platform_api::{
        Error, ErrorKind, FailureReason, Health, Program, SpawnConfig, Timestamp,
    };

    use super::*;
    use crate::store::row::AppliedRow;

    /// A wish of generation 2.
    fn row(wish: Wish) -> NodeRow {
        let id = NodeId::new("n1").unwrap();
        NodeRow {
            spec: Some(SpawnConfig::new(id.clone(), Program::binary("a", [""; 0]))),
            id,
            agent: "a".into(),
            wish,
            generation: 2,
            settings: None,
            sealed: BTreeMap::new(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn spawned(state: NodeState) -> SpawnedNode {
        serde_json::from_value(serde_json::json!({
            "node_id": "n1", "uid": "0".repeat(32), "platform": "process", "native_handle": "h",
            "state": state, "restarts": 0, "created_at": "2026-01-01T00:00:00Z",
            "digest": format!("v1:{}", "0".repeat(64)),
        }))
        .unwrap()
    }

    #[test]
    fn states() {
        let fine = |acted| AppliedRow {
            acted,
            generation: acted,
            ..AppliedRow::default()
        };
        let bad = |generation, is_final| AppliedRow {
            acted: if is_final { generation } else { generation - 1 },
            generation,
            error: Some(Error::new(ErrorKind::SpawnFailed, "no").to_report()),
            is_final,
        };
        let exited = || NodeState::Stopped { exit: None };
        let failed = || NodeState::Failed {
            failure: Failure::new(FailureReason::Exited, "x"),
        };
        let check = |wish, observed: Option<NodeState>, applied, expect: State| {
            let seen = Seen {
                node: observed.clone().map(spawned),
                managed: true,
                applied,
            };
            let row = row(wish);
            assert_eq!(
                state(Some(&row), Some(&seen), false),
                expect,
                "{wish:?} {observed:?} {:?}",
                seen.applied
            );
            assert_eq!(state(Some(&row), Some(&seen), true), State::Unknown);
        };
        use NodeState::{Pending, Running, Stopping};
        let up = Wish::Running;
        assert_eq!(state(Some(&row(up)), None, false), State::Pending);
        check(up, None, fine(0), State::Pending);
        check(up, Some(Pending), fine(2), State::Pending);
        check(up, Some(Running), fine(1), State::Running);
        check(up, Some(Running), fine(2), State::Running);
        check(up, Some(Stopping), fine(1), State::Stopping);
        // It ended by its own policy; or it is about to be started.
        check(up, Some(exited()), fine(2), State::Stopped);
        check(up, Some(exited()), fine(1), State::Pending);
        check(up, Some(failed()), fine(2), State::Failed);
        check(up, Some(failed()), fine(1), State::Pending);
        check(up, None, bad(2, true), State::Failed);
        check(up, None, bad(2, false), State::Pending);
        check(up, None, bad(1, true), State::Pending);
        check(up, Some(exited()), bad(2, true), State::Failed);
        // An update that the agent refuses leaves the old program running.
        check(up, Some(Running), bad(2, true), State::Running);

        let down = Wish::Stopped;
        assert_eq!(state(Some(&row(down)), None, false), State::Stopped);
        check(down, Some(Running), fine(1), State::Stopping);
        check(down, Some(Running), bad(2, false), State::Stopping);
        check(down, Some(Running), bad(2, true), State::Running);
        check(down, Some(Pending), fine(1), State::Stopping);
        check(down, Some(exited()), fine(2), State::Stopped);
        check(down, Some(failed()), fine(2), State::Stopped);

        let gone = Wish::Removed { purge: false };
        assert_eq!(state(Some(&row(gone)), None, false), State::Stopping);
        check(gone, Some(Running), fine(1), State::Stopping);
        check(gone, Some(exited()), bad(2, false), State::Stopping);
    }

    #[test]
    fn only_a_program_that_is_there_has_a_process_and_a_health() {
        let id = NodeId::new("n1").unwrap();
        let row = row(Wish::Running);
        let check = |state: NodeState, unknown, expect: (Option<u32>, &str)| {
            let mut node = spawned(state.clone());
            node.pid = Some(7);
            node.health = Health::Starting;
            let seen = Seen {
                node: Some(node),
                managed: true,
                applied: AppliedRow::default(),
            };
            let shown = super::node(&id, "a", None, Some(&row), Some(&seen), unknown);
            assert_eq!((shown.pid, shown.health.as_str()), expect, "{state:?}");
            let glance = glance(&row, Some(&seen), unknown);
            assert_eq!((glance.pid, glance.health.as_str()), expect, "{state:?}");
        };
        for state in [NodeState::Pending, NodeState::Running, NodeState::Stopping] {
            check(state.clone(), false, (Some(7), "starting"));
            check(state, true, (None, "unchecked"));
        }
        let failure = Failure::new(FailureReason::Exited, "x");
        for state in [
            NodeState::Stopped { exit: None },
            NodeState::Failed { failure },
        ] {
            check(state.clone(), false, (None, "unchecked"));
            check(state, true, (None, "unchecked"));
        }
    }

    #[test]
    fn an_unmanaged_node_is_shown_as_it_is() {
        let seen = Seen {
            node: Some(spawned(NodeState::Running)),
            ..Seen::default()
        };
        let id = NodeId::new("n1").unwrap();
        let shown = node(&id, "a", None, None, Some(&seen), false);
        assert_eq!(shown.desired, Desired::Unmanaged);
        assert_eq!(shown.state, State::Running);
        assert_eq!(shown.generation, 0);
    }

    #[test]
    fn an_error_of_an_older_generation_is_not_shown() {
        let id = NodeId::new("n1").unwrap();
        let check = |generation, expect: bool| {
            let seen = Seen {
                node: None,
                managed: true,
                applied: AppliedRow {
                    acted: generation,
                    generation,
                    error: Some(Error::new(ErrorKind::SpawnFailed, "no").to_report()),
                    is_final: true,
                },
            };
            let shown = node(
                &id,
                "a",
                None,
                Some(&row(Wish::Running)),
                Some(&seen),
                false,
            );
            assert_eq!(shown.error.is_some(), expect);
        };
        check(1, false);
        check(2, true);
    }
}
