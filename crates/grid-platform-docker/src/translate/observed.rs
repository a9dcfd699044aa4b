//! What the engine says of a container.

use std::collections::BTreeMap;

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status,
    ContainerSummaryStateEnum, Health as Check, HealthStatusEnum,
};
use grid_platform_api::{Digest, Health, NodeId, NodeUid, OwnerId, SpawnConfig, Timestamp};

use super::{Observed, Phase, Policy, Record, Root, label, node_id};
use crate::tar::Owner;

/// What an inspected container is to an adapter.
#[derive(Debug, PartialEq)]
pub(crate) enum Read {
    /// A node of its own.
    Ours(NodeId, Box<Record>, Observed),
    /// It has our labels and this owner, or none.
    Theirs(Option<String>),
    /// It is ours by its owner, and its record cannot be understood.
    Damaged(String),
}

/// Reads an inspected container.
pub(crate) fn read(inspected: &ContainerInspectResponse, owner: &OwnerId) -> Read {
    let none = std::collections::HashMap::new();
    let labels = inspected
        .config
        .as_ref()
        .and_then(|it| it.labels.as_ref())
        .unwrap_or(&none);
    match labels.get(label::OWNER) {
        Some(it) if it == owner.as_str() => {}
        other => return Read::Theirs(other.cloned()),
    }
    let whole = || -> Result<(NodeId, Record), String> {
        let text = |key: &str| labels.get(key).ok_or(format!("it has no label `{key}`"));
        let json = |key: &str, e: serde_json::Error| format!("its label `{key}`: {e}");
        let id = node_id(labels).ok_or("its label of the node's id is none")?;
        let config: SpawnConfig =
            serde_json::from_str(text(label::SPEC)?).map_err(|e| json(label::SPEC, e))?;
        if config.node_id != id {
            return Err(format!("its request is of the node `{}`", config.node_id));
        }
        let ports = serde_json::from_str(text(label::PORTS)?).map_err(|e| json(label::PORTS, e))?;
        let record = Record {
            container: inspected.id.clone().unwrap_or_default(),
            uid: NodeUid::try_from(text(label::UID)?.clone()).map_err(|e| e.to_string())?,
            digest: text(label::DIGEST)?
                .parse::<Digest>()
                .map_err(|e| e.to_string())?,
            inside: inside(inspected, &ports),
            ports,
            data: serde_json::from_str(text(label::DATA)?).map_err(|e| json(label::DATA, e))?,
            image: labels.get(label::IMAGE).cloned().unwrap_or_default(),
            root: Root::read(labels.get(label::ROOT)),
            created_at: time(inspected.created.as_deref()).unwrap_or(Timestamp::UNIX_EPOCH),
            config,
        };
        Ok((id, record))
    };
    match whole() {
        Ok((id, record)) => Read::Ours(id, Box::new(record), observed(inspected)),
        Err(why) => Read::Damaged(why),
    }
}

/// Ports as the program binds them, for those as clients reach them.
fn inside(
    inspected: &ContainerInspectResponse,
    outside: &BTreeMap<String, u16>,
) -> BTreeMap<String, u16> {
    let host = inspected.host_config.as_ref();
    let bindings = host.and_then(|it| it.port_bindings.as_ref());
    let bound = |port: u16| {
        let port = port.to_string();
        let (inside, _) = bindings?.iter().find(|(_, at)| {
            let mut at = at.iter().flatten();
            at.any(|it| it.host_port.as_deref() == Some(&port))
        })?;
        inside.split('/').next()?.parse().ok()
    };
    let found = outside
        .iter()
        .filter_map(|(name, port)| Some((name.clone(), bound(*port)?)));
    found.collect()
}

fn observed(inspected: &ContainerInspectResponse) -> Observed {
    let none = ContainerState::default();
    let state = inspected.state.as_ref().unwrap_or(&none);
    let host = inspected.host_config.as_ref();
    let tty = inspected.config.as_ref().and_then(|it| it.tty);
    Observed {
        phase: phase(state),
        pid: state
            .pid
            .and_then(|it| u32::try_from(it).ok())
            .filter(|it| *it > 0),
        exit_code: state.exit_code.unwrap_or(0),
        out_of_memory: state.oom_killed.unwrap_or(false),
        error: state.error.clone().unwrap_or_default(),
        started_at: time(state.started_at.as_deref()),
        finished_at: time(state.finished_at.as_deref()),
        restarts: inspected
            .restart_count
            .and_then(|it| u32::try_from(it).ok())
            .unwrap_or(0),
        health: state.health.as_ref().and_then(health),
        policy: Policy::read(host.and_then(|it| it.restart_policy.as_ref())),
        tty: tty.unwrap_or(false),
        image: inspected.image.clone().unwrap_or_default(),
        user: inspected
            .config
            .as_ref()
            .and_then(|it| Owner::read(it.user.as_deref()?)),
    }
}

fn phase(state: &ContainerState) -> Phase {
    match state.status {
        Some(Status::RUNNING | Status::STOPPING) => Phase::Running,
        Some(Status::PAUSED) => Phase::Paused,
        Some(Status::RESTARTING) => Phase::Restarting,
        Some(Status::REMOVING) => Phase::Removing,
        Some(Status::EXITED) => Phase::Exited,
        Some(Status::DEAD) => Phase::Dead,
        Some(Status::CREATED) => Phase::Created,
        // Podman has words of its own for a container that was not started yet.
        Some(Status::EMPTY) | None => match state.running {
            Some(true) => Phase::Running,
            _ => Phase::Created,
        },
    }
}

/// The phase that a list tells of.
pub(crate) fn phase_of(state: ContainerSummaryStateEnum) -> Phase {
    use ContainerSummaryStateEnum as Listed;
    match state {
        Listed::RUNNING | Listed::STOPPING => Phase::Running,
        Listed::PAUSED => Phase::Paused,
        Listed::RESTARTING => Phase::Restarting,
        Listed::REMOVING => Phase::Removing,
        Listed::EXITED => Phase::Exited,
        Listed::DEAD => Phase::Dead,
        Listed::CREATED | Listed::EMPTY => Phase::Created,
    }
}

/// A time of the engine; it writes the year 1 where there is none.
fn time(text: Option<&str>) -> Option<Timestamp> {
    let time: Timestamp = text?.parse().ok()?;
    (time > Timestamp::UNIX_EPOCH).then_some(time)
}

fn health(check: &Check) -> Option<Health> {
    Some(match check.status? {
        HealthStatusEnum::HEALTHY => Health::Healthy,
        HealthStatusEnum::STARTING => Health::Starting,
        HealthStatusEnum::UNHEALTHY => Health::Unhealthy {
            message: check
                .log
                .as_ref()
                .and_then(|it| it.last()?.output.as_deref())
                .map(super::failure::one_line)
                .filter(|it| !it.is_empty())
                .unwrap_or_else(|| "the image's health check failed".to_owned()),
        },
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => return None,
    })
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerConfig, HealthcheckResult, HostConfig, PortBinding};

    use super::{
        super::tests::{record, request},
        *,
    };

    fn inspected(change: impl FnOnce(&mut ContainerInspectResponse)) -> ContainerInspectResponse {
        let record = record(request().port(0).build().unwrap());
        let labels = [
            (label::NODE_ID, "n1".to_owned()),
            (label::OWNER, OwnerId::from_bytes([1; 16]).to_string()),
            (label::UID, record.uid.to_string()),
            (label::DIGEST, record.digest.clone().into()),
            (label::SPEC, serde_json::to_string(&record.config).unwrap()),
            (label::PORTS, serde_json::to_string(&record.ports).unwrap()),
            (label::DATA, serde_json::to_string(&record.data).unwrap()),
            (label::IMAGE, record.image.clone()),
        ];
        let mut inspected = ContainerInspectResponse {
            id: Some(record.container),
            config: Some(ContainerConfig {
                labels: Some(labels.map(|(k, v)| (k.to_owned(), v)).into()),
                ..ContainerConfig::default()
            }),
            state: Some(ContainerState::default()),
            host_config: Some(HostConfig::default()),
            ..ContainerInspectResponse::default()
        };
        change(&mut inspected);
        inspected
    }

    fn set(inspected: &mut ContainerInspectResponse, key: &str, value: &str) {
        let labels = inspected.config.as_mut().unwrap().labels.as_mut().unwrap();
        labels.insert(key.to_owned(), value.to_owned());
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_others_are_told_apart() {
        let owner = OwnerId::from_bytes([1; 16]);
        let Read::Ours(id, read, _) = read(&inspected(|_| {}), &owner) else {
            panic!("it is ours");
        };
        assert_eq!(id.as_str(), "n1");
        assert_eq!(*read, record(request().port(0).build().unwrap()));
        let check = |key: &str, value: &str, expect: &str| {
            let found = super::read(&inspected(|it| set(it, key, value)), &owner);
            assert!(format!("{found:?}").starts_with(expect), "{key}: {found:?}");
        };
        check(label::OWNER, "else", "Theirs(Some(\"else\"))");
        check(label::UID, "x", "Damaged");
        check(label::SPEC, "{}", "Damaged");
        check(label::NODE_ID, "n2", "Damaged");
        check(label::DIGEST, "", "Damaged");
        check(label::PORTS, "[]", "Damaged");
        let bare = ContainerInspectResponse::default();
        assert_eq!(super::read(&bare, &owner), Read::Theirs(None));
    }

    #[test]
    fn ports_are_known_as_the_program_binds_them() {
        let binding = |port: &str| {
            let binding = PortBinding {
                host_ip: Some("127.0.0.1".into()),
                host_port: Some(port.into()),
            };
            Some(vec![binding])
        };
        let seen = inspected(|it| {
            it.host_config = Some(HostConfig {
                port_bindings: Some(
                    [
                        ("6379/tcp".to_owned(), binding("20001")),
                        ("7000/tcp".to_owned(), binding("7000")),
                        ("9/tcp".to_owned(), None),
                    ]
                    .into(),
                ),
                ..HostConfig::default()
            });
        });
        let ports = [("main", 20_001), ("peer", 7000), ("lost", 5)].map(|(k, v)| (k.to_owned(), v));
        let found = inside(&seen, &ports.into());
        let expect = [("main", 6379), ("peer", 7000)].map(|(k, v)| (k.to_owned(), v));
        assert_eq!(found, expect.into());
    }

    #[test]
    fn states_are_read() {
        let check = |status: Status, expect: Phase| {
            let seen = observed(&inspected(|it| {
                it.state.as_mut().unwrap().status = Some(status);
            }));
            assert_eq!(seen.phase, expect);
        };
        check(Status::CREATED, Phase::Created);
        check(Status::RUNNING, Phase::Running);
        check(Status::PAUSED, Phase::Paused);
        check(Status::RESTARTING, Phase::Restarting);
        check(Status::REMOVING, Phase::Removing);
        check(Status::EXITED, Phase::Exited);
        check(Status::DEAD, Phase::Dead);
        check(Status::EMPTY, Phase::Created);
    }

    #[test]
    fn times_before_all_times_are_none() {
        assert_eq!(time(Some("0001-01-01T00:00:00Z")), None);
        assert_eq!(time(Some("nonsense")), None);
        let at = time(Some("2026-01-02T03:04:05.123456789Z")).unwrap();
        assert_eq!(at.subsec_nanosecond(), 123_456_789);
    }

    #[test]
    fn the_images_own_health_is_told_in_its_words() {
        let check = |status, output: &str, expect: Option<Health>| {
            let check = Check {
                status: Some(status),
                log: Some(vec![HealthcheckResult {
                    output: Some(output.to_owned()),
                    ..HealthcheckResult::default()
                }]),
                ..Check::default()
            };
            assert_eq!(health(&check), expect);
        };
        check(HealthStatusEnum::HEALTHY, "", Some(Health::Healthy));
        check(HealthStatusEnum::STARTING, "", Some(Health::Starting));
        check(HealthStatusEnum::NONE, "", None);
        let bad = |message: &str| {
            Some(Health::Unhealthy {
                message: message.to_owned(),
            })
        };
        check(HealthStatusEnum::UNHEALTHY, "no\nanswer", bad("no answer"));
        check(
            HealthStatusEnum::UNHEALTHY,
            "",
            bad("the image's health check failed"),
        );
    }
}
