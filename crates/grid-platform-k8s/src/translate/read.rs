//! Objects of the cluster as what we know of them.

use grid_platform_api::{NodeId, OwnerId, Timestamp, printable};
use k8s_openapi::{
    api::core::v1::{
        ContainerState as NativeState, ContainerStateTerminated, ContainerStatus,
        PersistentVolumeClaim, Pod, PodCondition, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde::de::DeserializeOwned;

use super::{
    CONTAINER, ClaimView, ContainerState, ContainerView, Ended, Notes, PodPhase, PodView, Record,
    annotation, label,
};

/// Whose an object is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Read<T> {
    /// Ours.
    Ours(T),
    /// Not ours: its owner, if it names one.
    Theirs(Option<String>),
    /// Ours, and it cannot be understood.
    Damaged(String),
}

/// Whose an object is by its labels alone; for ours the incarnation that it names.
pub(crate) fn ownership(meta: &ObjectMeta, owner: &OwnerId) -> Read<Option<String>> {
    match label(meta, label::OWNER) {
        Some(it) if it == owner.as_str() => Read::Ours(label(meta, label::UID).map(str::to_owned)),
        other => Read::Theirs(other.map(str::to_owned)),
    }
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// What is read of an object that is ours by its labels.
fn read<T>(
    meta: &ObjectMeta,
    owner: &OwnerId,
    whole: impl FnOnce(Option<String>) -> Result<T, String>,
) -> Read<T> {
    match ownership(meta, owner) {
        Read::Ours(uid) => match whole(uid) {
            Ok(view) => Read::Ours(view),
            Err(why) => Read::Damaged(why),
        },
        Read::Theirs(owner) => Read::Theirs(owner),
        Read::Damaged(why) => Read::Damaged(why),
    }
}

/// Of which node an object is: its name says it, and its label may not say otherwise.
fn node_id(meta: &ObjectMeta) -> Result<NodeId, String> {
    let name = meta.name.as_deref().unwrap_or_default();
    let id = NodeId::from_native_name(name)
        .ok_or_else(|| format!("its name `{}` is not that of a node", printable(name)))?;
    match label(meta, label::NODE_ID) {
        Some(other) if other != id.as_str() => Err(format!(
            "its label `{}` is `{}`",
            label::NODE_ID,
            printable(other)
        )),
        _ => Ok(id),
    }
}

/// Reads a claim.
pub(crate) fn read_claim(claim: &PersistentVolumeClaim, owner: &OwnerId) -> Read<ClaimView> {
    let meta = &claim.metadata;
    read(meta, owner, |_| {
        let node_id = node_id(meta)?;
        let record: Option<Record> = json(meta, annotation::RECORD)?;
        let notes: Option<Notes> = match &record {
            Some(_) => json(meta, annotation::NOTES)?,
            None => None,
        };
        if let Some(record) = &record {
            if record.version > Record::VERSION {
                return Err(format!(
                    "its record is of the version {}, and this program reads up to {}",
                    record.version,
                    Record::VERSION
                ));
            }
            if record.config.node_id != node_id {
                let other = &record.config.node_id;
                return Err(format!("its record is of the node `{other}`"));
            }
            // What is asked of a node is not guessed: it may be one that was stopped.
            if notes.is_none() {
                return Err(format!("it has no annotation `{}`", annotation::NOTES));
            }
        }
        let phase = claim.status.as_ref().and_then(|it| it.phase.as_deref());
        let spec = claim.spec.as_ref();
        let resources = spec.and_then(|it| it.resources.as_ref());
        let requests = resources.and_then(|it| it.requests.as_ref());
        Ok(ClaimView {
            node_id,
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            is_terminating: meta.deletion_timestamp.is_some(),
            is_bound: phase == Some("Bound"),
            record,
            notes: notes.unwrap_or_default(),
            bytes: requests
                .and_then(|it| it.get("storage"))
                .and_then(|it| quantity(&it.0))
                .map(whole),
        })
    })
}

fn json<T: DeserializeOwned>(meta: &ObjectMeta, key: &str) -> Result<Option<T>, String> {
    let text = meta.annotations.as_ref().and_then(|it| it.get(key));
    text.map(|it| serde_json::from_str(it))
        .transpose()
        .map_err(|e| format!("its annotation `{key}`: {e}"))
}

/// Whole units of a quantity that is not below 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(quantity: f64) -> u64 {
    // The cast keeps to what the type holds.
    quantity.ceil() as u64
}

/// A quantity as the cluster writes it (`1Gi`, `500m`, `1e3`) in its unit; `None` when it is none.
pub(crate) fn quantity(text: &str) -> Option<f64> {
    let is_number = |it: char| it.is_ascii_digit() || it == '.';
    let split = text.find(|it| !is_number(it)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// Reads a pod.
pub(crate) fn read_pod(pod: &Pod, owner: &OwnerId) -> Read<PodView> {
    let meta = &pod.metadata;
    let none = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&none);
    read(meta, owner, |uid| {
        let is_terminating = meta.deletion_timestamp.is_some();
        let container = container(status);
        let is_host_lost = is_host_lost(status, &container, is_terminating);
        Ok(PodView {
            node_id: node_id(meta)?,
            node_uid: uid.and_then(|it| it.parse().ok()),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            is_terminating,
            phase: phase(status),
            reason: text(status.reason.as_ref()),
            message: text(status.message.as_ref()),
            unscheduled: condition(status, "PodScheduled")
                .filter(|it| is(it, "False") && it.reason.as_deref() == Some("Unschedulable"))
                .map(|it| it.message.clone().unwrap_or_default()),
            host: pod.spec.as_ref().and_then(|it| text(it.node_name.as_ref())),
            host_ip: text(status.host_ip.as_ref()),
            ip: text(status.pod_ip.as_ref()),
            // Not the pod's own: what somebody put beside the program may never be ready.
            is_ready: container.is_ready && !is_host_lost,
            was_ready: was_ready(status, &container),
            is_host_lost,
            container,
        })
    })
}

fn text(text: Option<&String>) -> Option<String> {
    text.filter(|it| !it.is_empty()).cloned()
}

fn phase(status: &PodStatus) -> PodPhase {
    match status.phase.as_deref() {
        Some("Running") => PodPhase::Running,
        Some("Succeeded") => PodPhase::Succeeded,
        Some("Failed") => PodPhase::Failed,
        Some("Unknown") => PodPhase::Unknown,
        _ => PodPhase::Pending,
    }
}

fn condition<'a>(status: &'a PodStatus, name: &str) -> Option<&'a PodCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|it| it.type_ == name)
}

fn is(condition: &PodCondition, status: &str) -> bool {
    condition.status == status
}

/// Whether it was ready in this run of its program and is not any more: what takes readiness back says when it did.
fn was_ready(status: &PodStatus, container: &ContainerView) -> bool {
    let since = condition(status, "Ready")
        .filter(|it| !is(it, "True"))
        .and_then(|it| time(it.last_transition_time.as_ref()));
    match (since, &container.state) {
        (
            Some(since),
            ContainerState::Running {
                started_at: Some(start),
            },
        ) => since > *start,
        _ => false,
    }
}

/// Whether the control plane has given its host up. The kubelet's own word on the containers is left as it was then.
fn is_host_lost(status: &PodStatus, container: &ContainerView, is_terminating: bool) -> bool {
    let says = |name: &str, it: &str| condition(status, name).is_some_and(|c| is(c, it));
    let gated = condition(status, "Ready")
        .is_some_and(|it| it.reason.as_deref() == Some("ReadinessGatesNotReady"));
    let taken_back =
        container.is_ready && says("Ready", "False") && says("ContainersReady", "True");
    let driven_off = condition(status, "DisruptionTarget").is_some_and(|it| {
        let reason = it.reason.as_deref().unwrap_or_default();
        let by = [
            "DeletionByTaintManager",
            "DeletionByPodGC",
            "TerminationByKubelet",
        ];
        is(it, "True") && by.contains(&reason)
    });
    let has_ended = matches!(container.state, ContainerState::Ended(_));
    status.reason.as_deref() == Some("NodeLost")
        || taken_back && !gated
        || is_terminating && driven_off && !has_ended
}

fn container(status: &PodStatus) -> ContainerView {
    let mut containers = status.container_statuses.iter().flatten();
    // Others may have been put beside it.
    let Some(it) = containers.find(|it| it.name == CONTAINER) else {
        return ContainerView::default();
    };
    let last = it.last_state.as_ref().and_then(|it| it.terminated.as_ref());
    ContainerView {
        state: it.state.as_ref().map(state).unwrap_or_default(),
        last: last.map(ended),
        restarts: u32::try_from(it.restart_count).unwrap_or(0),
        is_ready: it.ready,
        image: image(it),
        id: text(it.container_id.as_ref()),
    }
}

/// The image as the host has it, without the runtime's mark.
fn image(status: &ContainerStatus) -> Option<String> {
    let id = status.image_id.as_str();
    let bare = id.split_once("://").map_or(id, |it| it.1);
    (!bare.is_empty()).then(|| bare.to_owned())
}

fn state(state: &NativeState) -> ContainerState {
    if let Some(it) = &state.terminated {
        return ContainerState::Ended(ended(it));
    }
    if let Some(it) = &state.running {
        return ContainerState::Running {
            started_at: time(it.started_at.as_ref()),
        };
    }
    match &state.waiting {
        Some(it) => ContainerState::Waiting {
            reason: it.reason.clone().unwrap_or_default(),
            message: it.message.clone().unwrap_or_default(),
        },
        None => ContainerState::Unknown,
    }
}

fn ended(it: &ContainerStateTerminated) -> Ended {
    Ended {
        exit_code: it.exit_code,
        signal: it.signal.filter(|it| *it > 0),
        reason: it.reason.clone().unwrap_or_default(),
        message: it.message.clone().unwrap_or_default(),
        started_at: time(it.started_at.as_ref()),
        finished_at: time(it.finished_at.as_ref()),
    }
}

/// A time of the cluster's. What never was is written there as the year 1970 or 1.
fn time(time: Option<&Time>) -> Option<Timestamp> {
    let time = &time?.0;
    let time = Timestamp::new(time.as_second(), time.subsec_nanosecond()).ok()?;
    (time > Timestamp::UNIX_EPOCH).then_some(time)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
