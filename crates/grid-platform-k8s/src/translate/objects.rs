//! A request as objects: claim, service and secret.

use std::collections::BTreeMap;

use grid_platform_api::{ErrorKind, Failure, NodeId, NodeUid, Result, SpawnConfig};
use k8s_openapi::{
    ByteString,
    api::core::v1::{
        PersistentVolumeClaim, PersistentVolumeClaimSpec, Secret, Service, ServicePort,
        ServiceSpec, VolumeResourceRequirements,
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};

use super::{Frame, Goal, Notes, Record, annotation, label};
use crate::{
    config::{DEFAULT_STORAGE_MB, ServiceKind},
    error::error,
};

/// How much a record may have, in bytes: the annotations of an object have 256 KiB together, of which the notes and the overlay
/// have their part.
const RECORD_MAX: usize = 184 * 1024;
/// How much of a log's last lines is kept in the notes for one failure, in bytes of JSON.
const TAIL_MAX: usize = 8 * 1024;

/// The metadata of a node's object, without annotations.
pub(super) fn metadata(frame: Frame<'_>, id: &NodeId, uid: &NodeUid) -> ObjectMeta {
    let labels = [
        (label::GRID, "true".to_owned()),
        (label::NODE_ID, id.to_string()),
        (label::OWNER, frame.owner.to_string()),
        (label::UID, uid.to_string()),
        (label::INSTALL, frame.config.install.clone()),
        (label::APP_NAME, "sutra-grid-node".to_owned()),
        (label::APP_INSTANCE, id.to_string()),
        (label::APP_MANAGED_BY, "sutra-grid".to_owned()),
    ];
    ObjectMeta {
        name: Some(id.native_name()),
        namespace: Some(frame.config.namespace.clone()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        ..ObjectMeta::default()
    }
}

/// [`metadata`] with the annotations that the settings add.
pub(super) fn overlaid(frame: Frame<'_>, id: &NodeId, uid: &NodeUid) -> ObjectMeta {
    let added = &frame.config.overlay.annotations;
    ObjectMeta {
        annotations: (!added.is_empty()).then(|| added.clone()),
        ..metadata(frame, id, uid)
    }
}

/// The record as it stands in a claim's annotation.
pub(crate) fn record_text(record: &Record) -> String {
    // There is a JSON form always: text keys, and no floating-point numbers.
    serde_json::to_string(record).unwrap_or_default()
}

/// The notes as they stand in a claim's annotation: with as many last lines of logs as there is room for, so that no stop is
/// refused for what a program wrote.
pub(crate) fn notes_text(notes: &Notes) -> String {
    let mut notes = notes.clone();
    if let Goal::Failed { failure } = &mut notes.goal {
        shorten(failure);
    }
    if let Some(failure) = &mut notes.last_failure {
        shorten(failure);
    }
    serde_json::to_string(&notes).unwrap_or_default()
}

fn shorten(failure: &mut Failure) {
    let size = |line: &String| serde_json::to_string(line).map_or(usize::MAX, |it| it.len());
    let mut left = TAIL_MAX;
    let lines = failure.log_tail.iter().rev();
    let fitting = lines
        .take_while(|line| match left.checked_sub(size(line)) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        })
        .count();
    let first = failure.log_tail.len() - fitting;
    failure.log_tail.drain(..first);
}

/// Checks that a claim has room for the record.
///
/// # Errors
/// `InvalidConfig`.
pub(crate) fn check_room(record: &Record) -> Result<()> {
    let bytes = record_text(record).len();
    if bytes <= RECORD_MAX {
        return Ok(());
    }
    Err(error(
        ErrorKind::InvalidConfig,
        format!("the request as JSON has {bytes} bytes, more than the {RECORD_MAX} that a claim has room for"),
    )
    .with_node(&record.config.node_id)
    .with_hint("Give the program a file to read instead, such as a secret."))
}

/// The claim of a node, which is its record.
pub(crate) fn claim(frame: Frame<'_>, record: &Record, notes: &Notes) -> PersistentVolumeClaim {
    let (config, overlay) = (&record.config, &frame.config.overlay);
    let size = config.storage_size_mb.or(overlay.storage_size_mb);
    let size = size.unwrap_or(DEFAULT_STORAGE_MB);
    let request = ("storage".to_owned(), Quantity(format!("{size}Mi")));
    let mut metadata = overlaid(frame, &config.node_id, &record.uid);
    metadata.annotations.get_or_insert_default().extend([
        (annotation::RECORD.to_owned(), record_text(record)),
        (annotation::NOTES.to_owned(), notes_text(notes)),
    ]);
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some([request].into()),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: overlay.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The service of a node, by the kind that the settings say; `None` for a node without ports.
pub(crate) fn service(
    frame: Frame<'_>,
    uid: &NodeUid,
    config: &SpawnConfig,
    inside: &BTreeMap<String, u16>,
) -> Option<Service> {
    if inside.is_empty() {
        return None;
    }
    let kind = frame.config.overlay.service;
    let ports = inside.iter().map(|(name, port)| ServicePort {
        name: Some(port_name(name)),
        port: i32::from(*port),
        target_port: Some(IntOrString::Int(i32::from(*port))),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    });
    let selector = [
        (label::OWNER.to_owned(), frame.owner.to_string()),
        (label::UID.to_owned(), uid.to_string()),
    ];
    let headless = kind == ServiceKind::Headless;
    let type_ = match kind {
        ServiceKind::ClusterIp | ServiceKind::Headless => "ClusterIP",
        ServiceKind::NodePort => "NodePort",
    };
    Some(Service {
        metadata: overlaid(frame, &config.node_id, uid),
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            cluster_ip: headless.then(|| NO_ADDRESS.to_owned()),
            // Its name leads to the pod as long as there is one: whether it serves is its clients' to find out.
            publish_not_ready_addresses: headless.then_some(true),
            ports: Some(ports.collect()),
            selector: Some(selector.into()),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}

/// The address of a service that has none.
const NO_ADDRESS: &str = "None";

/// A port's name as services have it, which may not end with `-` there: such a one is filled up to a length that no port's
/// own name has.
fn port_name(name: &str) -> String {
    match name.ends_with('-') {
        true => format!("{name:0<PADDED$}"),
        false => name.to_owned(),
    }
}

/// One more than the longest name of a port.
const PADDED: usize = 41;

fn read_port_name(name: &str) -> &str {
    match name.len() {
        PADDED => name.trim_end_matches('0'),
        _ => name,
    }
}

/// Where clients reach a service that was made: the host, and the ports by name. It goes by what the service is, which settings
/// of another day may have made; of the kind `node-port`, with no address in the settings, the host is the pod's.
pub(crate) fn service_place(
    frame: Frame<'_>,
    service: &Service,
) -> (Option<String>, BTreeMap<String, u16>) {
    let none = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    let on_hosts = spec.type_.as_deref() == Some("NodePort");
    let port = |it: &ServicePort| {
        let name = read_port_name(it.name.as_deref()?).to_owned();
        let number = if on_hosts { it.node_port? } else { it.port };
        Some((name, u16::try_from(number).ok()?))
    };
    let ports = spec.ports.iter().flatten().filter_map(port).collect();
    let host = match spec.cluster_ip.as_deref() {
        _ if on_hosts => frame.config.advertise_address.clone(),
        Some(NO_ADDRESS) => {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let namespace = service.metadata.namespace.as_deref();
            let namespace = namespace.unwrap_or(&frame.config.namespace);
            Some(format!("{name}.{namespace}.svc"))
        }
        Some("") | None => None,
        Some(address) => Some(address.to_owned()),
    };
    (host, ports)
}

/// The secrets of a node; `None` when it has none.
pub(crate) fn secret(frame: Frame<'_>, uid: &NodeUid, config: &SpawnConfig) -> Option<Secret> {
    if config.secrets.is_empty() {
        return None;
    }
    let value = |it: &grid_platform_api::SecretValue| it.expose().unwrap_or_default().to_vec();
    let data = config.secrets.iter();
    let data = data.map(|(name, it)| (name.clone(), ByteString(value(it))));
    Some(Secret {
        metadata: metadata(frame, &config.node_id, uid),
        data: Some(data.collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
