//! A claim and its pod as a node.

use grid_platform_api::{
    Endpoint, Exit, Failure, FailureReason, Health, MAIN_PORT, NodeState, RestartMode, SpawnedNode,
};

use super::{
    ClaimView, ContainerState, Goal, LastRun, PodPhase, PodView, Record, exit_of,
    failure::{bad_end, lost_place, was_unseen},
    one_line, why_event, why_pending,
};
use crate::error::PLATFORM;

/// What a node is shown from.
pub(crate) struct Facts<'a> {
    pub(crate) record: &'a Record,
    pub(crate) claim: &'a ClaimView,
    /// The pod of this incarnation, if there is one.
    pub(crate) pod: Option<&'a PodView>,
    /// The cluster's own words of late about a pod that does not run, from its events: the reason and the message.
    pub(crate) words: Option<(&'a str, &'a str)>,
    /// The last lines of a program that failed for good.
    pub(crate) tail: &'a [String],
}

/// The node as people and callers see it.
pub(crate) fn node(facts: &Facts<'_>) -> SpawnedNode {
    let record = facts.record;
    let mut state = state(facts);
    if let NodeState::Failed { failure } = &mut state
        && failure.log_tail.is_empty()
    {
        failure.log_tail = facts.tail.to_vec();
    }
    let run = match facts.pod {
        Some(pod) => run(pod),
        None => facts.claim.notes.last_run.clone().unwrap_or_default(),
    };
    let host = record.host.clone();
    let host = host.or_else(|| facts.pod.and_then(|it| it.host_ip.clone()));
    let port = record.ports.get(MAIN_PORT);
    SpawnedNode {
        node_id: record.config.node_id.clone(),
        uid: record.uid.clone(),
        platform: PLATFORM.to_owned(),
        native_handle: record.config.node_id.native_name(),
        pid: None,
        health: health(facts, &state),
        endpoint: host
            .zip(port)
            .map(|(host, port)| Endpoint { host, port: *port }),
        ports: record.ports.clone(),
        restarts: run.restarts,
        last_failure: last_failure(facts, &state),
        created_at: record.created_at,
        started_at: run.started_at,
        finished_at: run.finished_at,
        digest: record.digest.clone(),
        image: run.image,
        data_path: None,
        labels: record.config.labels.clone(),
        state,
    }
}

/// The last run that a pod tells of: the one that goes on, or else the one that ended last.
pub(crate) fn run(pod: &PodView) -> LastRun {
    let container = &pod.container;
    let ended = match &container.state {
        ContainerState::Running { started_at } => {
            return LastRun {
                exit: None,
                started_at: *started_at,
                finished_at: None,
                restarts: container.restarts,
                image: container.image.clone(),
            };
        }
        ContainerState::Ended(ended) => Some(ended),
        ContainerState::Waiting { .. } | ContainerState::Unknown => container.last.as_ref(),
    };
    LastRun {
        exit: ended.and_then(exit_of),
        started_at: ended.and_then(|it| it.started_at),
        finished_at: ended.and_then(|it| it.finished_at),
        restarts: container.restarts,
        image: container.image.clone(),
    }
}

fn state(facts: &Facts<'_>) -> NodeState {
    let last_exit = || facts.claim.notes.last_run.as_ref().and_then(|it| it.exit);
    match (&facts.claim.notes.goal, facts.pod) {
        (Goal::Removing { .. }, _) => NodeState::Stopping,
        // Whatever there may be of it: that it was given up says so.
        (Goal::GivenUp, _) => NodeState::Stopped { exit: last_exit() },
        (Goal::Stopped | Goal::Failed { .. }, Some(_)) => NodeState::Stopping,
        (Goal::Stopped, None) => NodeState::Stopped { exit: last_exit() },
        (Goal::Failed { failure }, None) => NodeState::Failed {
            failure: failure.clone(),
        },
        (Goal::Running, None) => without_pod(facts),
        (Goal::Running, Some(pod)) => with_pod(facts.record, pod),
    }
}

/// The state of a node that is to run and has no pod: it ended by itself and that was noted, or somebody took the pod away.
fn without_pod(facts: &Facts<'_>) -> NodeState {
    let notes = &facts.claim.notes;
    let exit = notes.last_run.as_ref().and_then(|it| it.exit);
    match &notes.last_failure {
        Some(failure) if exit.is_some_and(|it| !it.is_success()) => NodeState::Failed {
            failure: failure.clone(),
        },
        _ => NodeState::Stopped { exit },
    }
}

/// The state of a node that is to run, by its pod.
fn with_pod(record: &Record, pod: &PodView) -> NodeState {
    let exit = match &pod.container.state {
        ContainerState::Ended(ended) => exit_of(ended),
        _ => None,
    };
    if pod.is_terminating {
        return NodeState::Stopping;
    }
    match (pod.phase, &pod.container.state) {
        (PodPhase::Succeeded, _) => NodeState::Stopped {
            exit: Some(exit.unwrap_or(Exit::Code(0))),
        },
        // Nobody starts it again but who is asked to, as where somebody stops it; `last_failure` says what befell it.
        (PodPhase::Failed, _)
            if was_taken(pod) && record.config.restart.mode != RestartMode::Never =>
        {
            NodeState::Stopped { exit: None }
        }
        (PodPhase::Failed, _) => NodeState::Failed {
            failure: lost_place(record, pod),
        },
        (_, ContainerState::Running { .. }) => NodeState::Running,
        // What runs beside it, put there by somebody else, keeps the pod's phase from saying that it is over.
        (_, ContainerState::Ended(ended)) if is_over(record, pod) => match bad_end(record, ended) {
            Some(failure) => NodeState::Failed { failure },
            None => NodeState::Stopped { exit },
        },
        _ => NodeState::Pending,
    }
}

/// Whether the pod's program ended and the kubelet leaves it so.
pub(crate) fn is_over(record: &Record, pod: &PodView) -> bool {
    let ContainerState::Ended(ended) = &pod.container.state else {
        return false;
    };
    match record.config.restart.mode {
        RestartMode::Never => true,
        RestartMode::OnFailure => exit_of(ended).is_some_and(Exit::is_success),
        RestartMode::Always => false,
    }
}

/// Whether the cluster took the pod's place away: it was evicted, its host was shut down or has no room. Its program did not end of itself.
pub(crate) fn was_taken(pod: &PodView) -> bool {
    pod.phase == PodPhase::Failed && pod.reason.is_some()
}

fn health(facts: &Facts<'_>, state: &NodeState) -> Health {
    let asked = facts.record.config.health.is_some();
    let pod = match (state, facts.pod) {
        (NodeState::Running, Some(pod)) => pod,
        (NodeState::Pending, _) if asked => return Health::Starting,
        _ => return Health::Unchecked,
    };
    if pod.is_host_lost {
        return Health::Unhealthy {
            message: host_lost(pod).message,
        };
    }
    match facts.words {
        _ if !asked => Health::Unchecked,
        _ if pod.is_ready => Health::Healthy,
        Some(("Unhealthy", message)) => Health::Unhealthy {
            message: one_line(message),
        },
        _ if pod.was_ready => Health::Unhealthy {
            message: "the health check fails".to_owned(),
        },
        _ => Health::Starting,
    }
}

fn host_lost(pod: &PodView) -> Failure {
    let message = match &pod.host {
        Some(host) => format!("its host `{host}` cannot be reached"),
        None => "its host cannot be reached".to_owned(),
    };
    Failure::new(FailureReason::HostLost, message)
}

fn last_failure(facts: &Facts<'_>, state: &NodeState) -> Option<Failure> {
    if let NodeState::Failed { failure } = state {
        return Some(failure.clone());
    }
    let noted = facts.claim.notes.last_failure.clone();
    let Some(pod) = facts.pod else {
        return noted;
    };
    if pod.is_host_lost {
        return Some(host_lost(pod));
    }
    if was_taken(pod) {
        return Some(lost_place(facts.record, pod));
    }
    let waits_for = match state {
        NodeState::Pending => pending(facts, pod),
        _ => None,
    };
    waits_for.or_else(|| earlier(facts.record, pod)).or(noted)
}

/// How an earlier run of the pod's program ended badly.
pub(crate) fn earlier(record: &Record, pod: &PodView) -> Option<Failure> {
    let ended = pod.container.last.as_ref()?;
    // Old kubelets make an end up where they had taken the container away of a pod that is deleted: that one was asked for.
    if pod.is_terminating && was_unseen(ended) {
        return None;
    }
    bad_end(record, ended)
}

/// Why it does not run yet: by the pod, or by an event that says more.
fn pending(facts: &Facts<'_>, pod: &PodView) -> Option<Failure> {
    let known = why_pending(facts.record, Some(facts.claim), pod).map(|it| it.0);
    let told = facts
        .words
        .and_then(|it| why_event(facts.record, it.0, it.1));
    match (known, told.map(|it| it.0)) {
        // Old kubelets say in an event alone why a pull failed.
        (Some(known), Some(told))
            if known.reason == FailureReason::ImagePullFailed
                && told.reason == FailureReason::ImageNotFound =>
        {
            Some(told)
        }
        // The scheduler says no more than that there is no volume.
        (Some(known), Some(told))
            if known.reason == FailureReason::VolumePending
                && told.reason == FailureReason::VolumePending
                && facts.words.is_some_and(|it| it.0 != "FailedScheduling") =>
        {
            Some(told)
        }
        (known, told) => known.or(told),
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
