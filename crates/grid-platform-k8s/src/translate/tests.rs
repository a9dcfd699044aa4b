//! Requests, records and views for the tables of the other files.

use std::time::Duration;

use grid_platform_api::{DigestKey, Program, SpawnConfigBuilder};

use super::*;

pub(crate) fn owner() -> OwnerId {
    OwnerId::from_bytes([9; 16])
}

pub(crate) fn uid() -> NodeUid {
    NodeUid::from_bytes([7; 16])
}

pub(crate) fn settings(change: impl FnOnce(&mut KubernetesConfig)) -> KubernetesConfig {
    let mut settings = KubernetesConfig::new("ns");
    change(&mut settings);
    settings
}

/// A request for an image.
pub(crate) fn request() -> SpawnConfigBuilder {
    SpawnConfig::builder("n1", Program::image("img:1", [""; 0]))
}

/// The record of a request.
pub(crate) fn record(config: SpawnConfig) -> Record {
    let inside = inside_ports(&config);
    Record {
        version: Record::VERSION,
        uid: uid(),
        digest: Digest::of(&config, &DigestKey::from_bytes([1; 32])),
        host: (!inside.is_empty()).then(|| "10.0.0.1".to_owned()),
        ports: inside.clone(),
        inside,
        created_at: Timestamp::UNIX_EPOCH,
        config,
    }
}

/// The claim of a record, of which this is asked.
pub(crate) fn claim_view(record: &Record, goal: Goal) -> ClaimView {
    ClaimView {
        node_id: record.config.node_id.clone(),
        uid: "claim".into(),
        resource_version: "1".into(),
        is_terminating: false,
        is_bound: true,
        record: Some(record.clone()),
        notes: Notes {
            goal,
            ..Notes::default()
        },
        bytes: Some(1 << 30),
    }
}

/// A pod in this phase, whose container is in this state.
pub(crate) fn pod_view(phase: PodPhase, state: ContainerState) -> PodView {
    PodView {
        node_id: NodeId::new("n1").unwrap(),
        node_uid: Some(uid()),
        uid: "pod".into(),
        resource_version: "1".into(),
        is_terminating: false,
        phase,
        reason: None,
        message: None,
        unscheduled: None,
        host: Some("host-1".into()),
        host_ip: Some("192.0.2.1".into()),
        ip: Some("10.1.0.1".into()),
        is_ready: false,
        was_ready: false,
        is_host_lost: false,
        container: ContainerView {
            state,
            image: Some("img@sha256:1".into()),
            ..ContainerView::default()
        },
    }
}

/// A container that runs.
pub(crate) fn running() -> ContainerState {
    ContainerState::Running {
        started_at: Some(at(10)),
    }
}

/// A container that waits for this reason.
pub(crate) fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState::Waiting {
        reason: reason.into(),
        message: message.into(),
    }
}

/// A run that ended with this code.
pub(crate) fn ended(exit_code: i32) -> Ended {
    Ended {
        exit_code,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.into(),
        started_at: Some(at(10)),
        finished_at: Some(at(20)),
        ..Ended::default()
    }
}

/// A program that the runtime could not execute, in its words.
pub(crate) fn refused(words: &str) -> Ended {
    Ended {
        reason: "StartError".into(),
        message: words.into(),
        ..ended(128)
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn notes_read_as_they_were_written_and_as_others_left_them() {
    let notes = Notes {
        goal: Goal::Removing {
            data: DataPolicy::Purge,
        },
        last_run: Some(LastRun {
            exit: Some(Exit::Signal(15)),
            started_at: Some(at(1)),
            finished_at: Some(at(2)),
            restarts: 3,
            image: Some("img@sha256:1".into()),
        }),
        last_failure: None,
    };
    let text = serde_json::to_string(&notes).unwrap();
    assert_eq!(serde_json::from_str::<Notes>(&text).unwrap(), notes);
    assert_eq!(
        serde_json::from_str::<Notes>("{}").unwrap().goal,
        Goal::Running
    );
    let stopped = r#"{"goal":{"kind":"stopped"},"of_a_newer_version":1}"#;
    let read = serde_json::from_str::<Notes>(stopped).unwrap();
    assert_eq!(read.goal, Goal::Stopped);
    assert!(serde_json::from_str::<Notes>(r#"{"goal":{"kind":"paused"}}"#).is_err());
}

#[test]
fn a_grace_period_is_whole_seconds_and_never_none() {
    let check = |grace: Duration, expect: u32| assert_eq!(grace_seconds(grace), expect);
    check(Duration::ZERO, 1);
    check(Duration::from_millis(1), 1);
    check(Duration::from_secs(1), 1);
    check(Duration::from_millis(1001), 2);
    check(Duration::from_secs(86_400), 86_400);
    check(Duration::MAX, i32::MAX.unsigned_abs());
}
