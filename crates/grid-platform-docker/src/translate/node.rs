//! A container as a node.

use grid_platform_api::{
    Endpoint, Failure, FailureReason, Health, MAIN_PORT, NodeState, RestartMode, SpawnedNode,
};

use super::{DataPlace, Goal, Observed, Phase, Policy, Record, bad_end, exit, says_nothing};
use crate::error::PLATFORM;

/// What a node is shown from.
pub(crate) struct Facts<'a> {
    pub(crate) record: &'a Record,
    pub(crate) seen: &'a Observed,
    pub(crate) goal: &'a Goal,
    /// What the request's own check says.
    pub(crate) health: &'a Health,
    pub(crate) last_failure: Option<&'a Failure>,
    /// The last lines of a program that failed for good.
    pub(crate) tail: &'a [String],
    /// The host of endpoints.
    pub(crate) host: &'a str,
    /// The engine's processes are this host's.
    pub(crate) host_pids: bool,
    /// Somebody else stopped it.
    pub(crate) stopped_by_other: bool,
}

/// The node as people and callers see it.
pub(crate) fn node(facts: &Facts<'_>) -> SpawnedNode {
    let (record, seen) = (facts.record, facts.seen);
    let mut state = state(facts);
    if let NodeState::Failed { failure } = &mut state
        && failure.log_tail.is_empty()
    {
        failure.log_tail = facts.tail.to_vec();
    }
    let runs = matches!(seen.phase, Phase::Running | Phase::Paused);
    SpawnedNode {
        node_id: record.config.node_id.clone(),
        uid: record.uid.clone(),
        platform: PLATFORM.to_owned(),
        native_handle: record.container.clone(),
        pid: seen.pid.filter(|_| runs && facts.host_pids),
        health: health(facts, &state),
        endpoint: record.ports.get(MAIN_PORT).map(|port| Endpoint {
            host: facts.host.to_owned(),
            port: *port,
        }),
        ports: record.ports.clone(),
        restarts: seen.restarts,
        last_failure: match &state {
            NodeState::Failed { failure } => Some(failure.clone()),
            _ => facts.last_failure.cloned(),
        },
        created_at: record.created_at,
        started_at: seen.started_at,
        finished_at: seen.finished_at.filter(|_| !runs),
        digest: record.digest.clone(),
        image: (!record.image.is_empty()).then(|| record.image.clone()),
        data_path: match &record.data {
            DataPlace::Path { path, .. } => Some(path.clone()),
            DataPlace::Volume { .. } => None,
        },
        labels: record.config.labels.clone(),
        state,
    }
}

fn state(facts: &Facts<'_>) -> NodeState {
    let (record, seen) = (facts.record, facts.seen);
    match (facts.goal, seen.phase) {
        (Goal::Running, Phase::Running | Phase::Paused) => NodeState::Running,
        (Goal::Running, Phase::Restarting) => NodeState::Pending,
        (_, Phase::Running | Phase::Paused | Phase::Restarting | Phase::Removing) => {
            NodeState::Stopping
        }
        (Goal::Failed { failure }, _) => NodeState::Failed {
            failure: failure.clone(),
        },
        (Goal::Stopped, _) => NodeState::Stopped {
            exit: seen.started_at.map(|_| exit(seen.exit_code)),
        },
        // Its own end it is not, and it is to be started again.
        (Goal::Running, _) if says_nothing(seen) => NodeState::Stopped { exit: None },
        (Goal::Running, Phase::Created) => match bad_end(record, seen) {
            Some(failure) => NodeState::Failed { failure },
            None => NodeState::Pending,
        },
        (Goal::Running, Phase::Exited | Phase::Dead) => ended(facts),
    }
}

/// The state of a node that ended, and nobody asked it to.
fn ended(facts: &Facts<'_>) -> NodeState {
    let (record, seen) = (facts.record, facts.seen);
    let mode = record.config.restart.mode;
    if facts.stopped_by_other {
        // How it ended says nothing about its program.
        return NodeState::Stopped { exit: None };
    }
    let rest = NodeState::Stopped {
        exit: Some(exit(seen.exit_code)),
    };
    match bad_end(record, seen) {
        // A policy that is in force would have started it again: somebody stopped it.
        found if mode == RestartMode::Always || found.is_some() && has_restarts_left(facts) => rest,
        None => rest,
        Some(mut failure) => {
            let most = record.config.restart.max_restarts;
            if mode == RestartMode::OnFailure
                && most.is_some_and(|it| it > 0 && seen.restarts >= it)
            {
                failure.message = format!(
                    "it used up its {} restarts; at last, {}",
                    seen.restarts, failure.message
                );
                failure.reason = FailureReason::RestartsExhausted;
            }
            NodeState::Failed { failure }
        }
    }
}

/// Whether the engine keeps the policy of the request, and it has a restart left.
fn has_restarts_left(facts: &Facts<'_>) -> bool {
    let (policy, seen) = (Policy::of(&facts.record.config), facts.seen);
    policy != Policy::NONE
        && seen.policy == policy
        && (policy.most == 0 || seen.restarts < policy.most)
}

fn health(facts: &Facts<'_>, state: &NodeState) -> Health {
    let asked = facts.record.config.health.is_some();
    let known = match (asked, &facts.seen.health) {
        (true, _) => facts.health.clone(),
        (false, Some(own)) => own.clone(),
        (false, None) => Health::Unchecked,
    };
    match (state, known) {
        (_, Health::Unchecked) if facts.seen.phase != Phase::Paused => Health::Unchecked,
        (NodeState::Running, _) if facts.seen.phase == Phase::Paused => Health::Unhealthy {
            message: "its container is paused".to_owned(),
        },
        (NodeState::Running, known) => known,
        (NodeState::Pending, _) => Health::Starting,
        _ => Health::Unchecked,
    }
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{Exit, HealthCheck, RestartPolicy, SpawnConfig, Timestamp};

    use super::{
        super::tests::{observed, record, request},
        *,
    };

    /// What is shown of a request whose container is seen so.
    fn shown(config: SpawnConfig, seen: Observed, goal: &Goal) -> SpawnedNode {
        let (health, record) = (Health::Healthy, record(config));
        node(&Facts {
            record: &record,
            seen: &seen,
            goal,
            health: &health,
            last_failure: None,
            tail: &["last".to_owned()],
            host: "127.0.0.1",
            host_pids: true,
            stopped_by_other: false,
        })
    }

    fn with(mode: RestartMode) -> SpawnConfig {
        request().restart(mode).port(0).build().unwrap()
    }

    fn exited(code: i64) -> Observed {
        Observed {
            exit_code: code,
            started_at: Some(Timestamp::UNIX_EPOCH),
            ..observed(Phase::Exited)
        }
    }

    #[test]
    fn states_follow_the_goal_and_the_container() {
        let failed = Goal::Failed {
            failure: Failure::new(FailureReason::NotHealthy, "not healthy"),
        };
        let check = |goal: &Goal, seen: Observed, expect: &str| {
            let text = format!("{goal:?} {:?}", seen.phase);
            let node = shown(with(RestartMode::OnFailure), seen, goal);
            assert_eq!(node.state.as_str(), expect, "{text}");
        };
        let (run, stop) = (Goal::Running, Goal::Stopped);
        check(&run, observed(Phase::Created), "pending");
        check(&run, observed(Phase::Running), "running");
        check(&run, observed(Phase::Paused), "running");
        check(&run, observed(Phase::Restarting), "pending");
        check(&run, exited(0), "stopped");
        check(&run, exited(1), "failed");
        for goal in [&stop, &failed] {
            check(goal, observed(Phase::Running), "stopping");
            check(goal, observed(Phase::Restarting), "stopping");
            check(goal, observed(Phase::Removing), "stopping");
        }
        check(&stop, exited(1), "stopped");
        check(&stop, observed(Phase::Created), "stopped");
        check(&failed, exited(0), "failed");
        let refused = Observed {
            error: "exec: \"x\": permission denied".into(),
            ..observed(Phase::Created)
        };
        check(&run, refused, "failed");
        // An engine that was killed left something of it: whoever keeps nodes running starts it again.
        for phase in [Phase::Created, Phase::Exited] {
            let left = Observed {
                error: "task 2499b0: already exists".into(),
                exit_code: 128,
                ..observed(phase)
            };
            check(&run, left, "stopped");
        }
    }

    #[test]
    fn an_end_is_told_as_it_was() {
        let state = |mode, code| shown(with(mode), exited(code), &Goal::Running).state;
        let exit = Some(Exit::Code(0));
        assert_eq!(state(RestartMode::Never, 0), NodeState::Stopped { exit });
        let failure = state(RestartMode::Never, 3).failure().cloned().unwrap();
        assert_eq!(failure.exit, Some(Exit::Code(3)));
        assert_eq!(failure.log_tail, ["last"]);
        // Only somebody else's stop ends what is always started again.
        let exit = Some(Exit::Signal(15));
        assert_eq!(state(RestartMode::Always, 143), NodeState::Stopped { exit });
        let config = with(RestartMode::OnFailure);
        let seen = Observed {
            policy: Policy::of(&config),
            ..exited(143)
        };
        let state = shown(config, seen, &Goal::Running).state;
        assert_eq!(state, NodeState::Stopped { exit });
        let policy = RestartPolicy {
            max_restarts: Some(2),
            ..RestartMode::OnFailure.into()
        };
        let seen = Observed {
            restarts: 2,
            policy: Policy {
                name: bollard::models::RestartPolicyNameEnum::ON_FAILURE,
                most: 2,
            },
            ..exited(1)
        };
        let config = request().restart(policy).build().unwrap();
        let state = shown(config, seen, &Goal::Running).state;
        let failure = state.failure().unwrap();
        assert_eq!(failure.reason, FailureReason::RestartsExhausted);
        assert_eq!(failure.exit, Some(Exit::Code(1)));
    }

    #[test]
    fn health_is_the_requests_or_else_the_images() {
        let own = |health| Observed {
            health,
            ..observed(Phase::Running)
        };
        let check = |config: SpawnConfig, seen, expect| {
            assert_eq!(shown(config, seen, &Goal::Running).health, expect);
        };
        let plain = || with(RestartMode::Never);
        let asked = || {
            request()
                .port(0)
                .health(HealthCheck::tcp())
                .build()
                .unwrap()
        };
        check(plain(), own(None), Health::Unchecked);
        check(plain(), own(Some(Health::Starting)), Health::Starting);
        check(asked(), own(Some(Health::Starting)), Health::Healthy);
        check(asked(), observed(Phase::Restarting), Health::Starting);
        check(asked(), exited(0), Health::Unchecked);
        let paused = Health::Unhealthy {
            message: "its container is paused".into(),
        };
        check(plain(), observed(Phase::Paused), paused);
    }

    #[test]
    fn a_process_and_times_are_told_as_far_as_they_are() {
        let time = |second| Some(Timestamp::from_second(second).unwrap());
        let seen = Observed {
            pid: Some(7),
            started_at: time(5),
            finished_at: time(4),
            ..observed(Phase::Running)
        };
        let node = shown(with(RestartMode::Never), seen.clone(), &Goal::Running);
        assert_eq!(
            (node.pid, node.started_at, node.finished_at),
            (Some(7), time(5), None)
        );
        assert_eq!(node.endpoint.unwrap().to_string(), "127.0.0.1:20001");
        let over = Observed {
            phase: Phase::Exited,
            ..seen
        };
        let node = shown(with(RestartMode::Never), over, &Goal::Running);
        assert_eq!((node.pid, node.finished_at), (None, time(4)));
    }
}
