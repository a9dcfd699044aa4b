//! A request as a pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use grid_platform_api::{
    HealthCheck, HealthProbe, MAIN_PORT, Place, Program, RestartMode, SpawnConfig,
};
use k8s_openapi::{
    api::core::v1::{
        Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
        EnvVarSource, HTTPGetAction, LocalObjectReference, PersistentVolumeClaimVolumeSource, Pod,
        PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile,
        SecretKeySelector, SecretVolumeSource, SecurityContext, Sysctl, TCPSocketAction,
        Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use super::{CONTAINER, DATA_PATH, Frame, Record, SECRETS_DIR, account_of, objects::overlaid};
use crate::config;

/// The address that a program binds: a pod's own network has no other way in.
const BIND: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// From where on 0 becomes a number: below the range that Linux takes for outgoing connections.
const FIRST_PORT: u16 = 20_000;
/// Below it only who has rights binds a port, unless the pod's network says otherwise.
const FIRST_FREE_PORT: u16 = 1024;
/// How much may lie in `/tmp`: it is memory, and counts as the node's.
const TMP_MB: u64 = 64;
/// How the files of secrets may be used. With a group for the pod's files the kubelet adds that it may read them, which is how
/// a node's user does: they belong to root.
const SECRETS_MODE: i32 = 0o400;

const DATA_VOLUME: &str = "data";
const SECRETS_VOLUME: &str = "secrets";
const TMP_VOLUME: &str = "tmp";

/// The pod of a node. It passes the `restricted` level unless the settings' overlay undoes that.
pub(crate) fn pod(frame: Frame<'_>, record: &Record) -> Pod {
    let (settings, config) = (frame.config, &record.config);
    let overlay = &settings.overlay;
    let name = config.node_id.native_name();
    let pull_secrets = overlay.pull_secrets.iter();
    let pull_secrets = pull_secrets.map(|it| LocalObjectReference { name: it.clone() });
    Pod {
        metadata: overlaid(frame, &config.node_id, &record.uid),
        spec: Some(PodSpec {
            containers: vec![container(record)],
            volumes: Some(volumes(config, &name)),
            security_context: Some(pod_security(settings, record)),
            restart_policy: Some(restart_policy(config.restart.mode).to_owned()),
            termination_grace_period_seconds: Some(grace_seconds(config.stop.grace).into()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            service_account_name: overlay.service_account.clone(),
            node_selector: some(overlay.node_selector.clone(), BTreeMap::is_empty),
            tolerations: some(tolerations(&overlay.tolerations), Vec::is_empty),
            affinity: affinity(overlay.affinity.as_ref()),
            image_pull_secrets: some(pull_secrets.collect(), Vec::is_empty),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn some<T>(value: T, is_empty: impl FnOnce(&T) -> bool) -> Option<T> {
    (!is_empty(&value)).then_some(value)
}

fn container(record: &Record) -> Container {
    let config = &record.config;
    let place = Place {
        node_id: config.node_id.clone(),
        bind: BIND,
        published: config.bind_address,
        ports: record.inside.clone(),
        data_path: DATA_PATH.to_owned(),
        secrets_dir: (!config.secrets.is_empty()).then(|| SECRETS_DIR.to_owned()),
    };
    let args = config.program.args().iter();
    let args = args.map(|it| literal(&place.expand(it)));
    // A requested number has its protocol alone said: names are 15 characters here, and the service has them.
    let ports = record.inside.values().map(|port| ContainerPort {
        container_port: i32::from(*port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    });
    Container {
        name: CONTAINER.to_owned(),
        image: match &config.program {
            Program::Image { image, .. } => Some(image.clone()),
            Program::Binary { .. } => None,
        },
        // Also for `latest`, which is asked for at each start otherwise: a node starts again while its registry is away.
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: some(args.collect(), Vec::is_empty),
        env: Some(environment(config, &place)),
        ports: some(ports.collect(), Vec::is_empty),
        resources: Some(resources(config)),
        readiness_probe: config
            .health
            .as_ref()
            .and_then(|it| readiness(it, &record.inside)),
        volume_mounts: Some(mounts(config)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: None,
                drop: Some(vec!["ALL".to_owned()]),
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// A text as the program is to read it: the cluster takes `$(NAME)` for a variable's value, and `$$` for one `$`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn environment(config: &SpawnConfig, place: &Place) -> Vec<EnvVar> {
    let own = place.environment().into_iter();
    let theirs = config
        .env
        .iter()
        .map(|(name, value)| (name.clone(), place.expand(value)));
    let plain = own.chain(theirs).map(|(name, value)| EnvVar {
        name,
        value: Some(literal(&value)),
        value_from: None,
    });
    let secret = config.secret_env.iter().map(|(name, secret)| EnvVar {
        name: name.clone(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: config.node_id.native_name(),
                key: secret.clone(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
    });
    plain.chain(secret).collect()
}

fn resources(config: &SpawnConfig) -> ResourceRequirements {
    let mut limits = BTreeMap::new();
    let mut requests = BTreeMap::new();
    if let Some(mb) = config.memory_limit_mb {
        let memory = |it: String| ("memory".to_owned(), Quantity(it));
        limits.extend([memory(format!("{mb}Mi"))]);
        requests.extend([memory(match mb {
            0..=2 => "1Mi".to_owned(),
            even if even % 2 == 0 => format!("{}Mi", even / 2),
            odd => format!("{}Ki", odd * 512),
        })]);
    }
    if let Some(millis) = config.cpu_limit_millis {
        let cpu = ("cpu".to_owned(), Quantity(format!("{millis}m")));
        limits.extend([cpu.clone()]);
        requests.extend([cpu]);
    }
    ResourceRequirements {
        claims: None,
        limits: some(limits, BTreeMap::is_empty),
        requests: some(requests, BTreeMap::is_empty),
    }
}

/// The health check as the kubelet asks it, in whole seconds; `None` where the node does not have the port.
fn readiness(check: &HealthCheck, inside: &BTreeMap<String, u16>) -> Option<Probe> {
    let port = |name: &Option<String>| {
        let port = inside.get(name.as_deref().unwrap_or(MAIN_PORT))?;
        Some(IntOrString::Int(i32::from(*port)))
    };
    let probe = Probe {
        initial_delay_seconds: Some(0),
        period_seconds: Some(seconds(check.interval)),
        timeout_seconds: Some(seconds(check.timeout)),
        success_threshold: Some(1),
        failure_threshold: Some(i32::try_from(check.threshold).unwrap_or(i32::MAX).max(1)),
        ..Probe::default()
    };
    Some(match &check.probe {
        HealthProbe::Tcp { port: name } => Probe {
            tcp_socket: Some(TCPSocketAction {
                host: None,
                port: port(name)?,
            }),
            ..probe
        },
        HealthProbe::Http { path, port: name } => Probe {
            http_get: Some(HTTPGetAction {
                path: Some(path.clone()),
                port: port(name)?,
                scheme: Some("HTTP".to_owned()),
                ..HTTPGetAction::default()
            }),
            ..probe
        },
    })
}

/// Whole seconds, rounded up, from 1 on.
fn seconds(duration: Duration) -> i32 {
    let whole = duration.as_secs();
    let up = whole.saturating_add(u64::from(duration.subsec_nanos() > 0));
    i32::try_from(up).unwrap_or(i32::MAX).max(1)
}

fn mounts(config: &SpawnConfig) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    let mut mounts = vec![
        mount(DATA_VOLUME, DATA_PATH, None),
        mount(TMP_VOLUME, "/tmp", None),
    ];
    if !config.secrets.is_empty() {
        mounts.push(mount(SECRETS_VOLUME, SECRETS_DIR, Some(true)));
    }
    mounts
}

fn volumes(config: &SpawnConfig, object: &str) -> Vec<Volume> {
    let mut volumes = vec![
        Volume {
            name: DATA_VOLUME.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: object.to_owned(),
                read_only: None,
            }),
            ..Volume::default()
        },
        Volume {
            name: TMP_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity(format!("{TMP_MB}Mi"))),
            }),
            ..Volume::default()
        },
    ];
    if !config.secrets.is_empty() {
        volumes.push(Volume {
            name: SECRETS_VOLUME.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(object.to_owned()),
                default_mode: Some(SECRETS_MODE),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn pod_security(settings: &config::KubernetesConfig, record: &Record) -> PodSecurityContext {
    // Whether it may be is asked before a record is made. What was allowed then and is not now is not taken on.
    let account = account_of(settings, &record.config).ok();
    let (user, group) = account
        .or_else(|| settings.account())
        .unwrap_or(config::NOBODY);
    let sysctl = Sysctl {
        name: "net.ipv4.ip_unprivileged_port_start".to_owned(),
        value: "0".to_owned(),
    };
    let is_low = record.inside.values().any(|it| *it < FIRST_FREE_PORT);
    PodSecurityContext {
        run_as_user: Some(user),
        run_as_group: Some(group),
        run_as_non_root: Some(true),
        fs_group: Some(group),
        // Or each start would go through all of its data.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            localhost_profile: None,
            type_: "RuntimeDefault".to_owned(),
        }),
        // For who asks for such a port alone: old kubelets do not let it pass.
        sysctls: is_low.then(|| vec![sysctl]),
        ..PodSecurityContext::default()
    }
}

fn restart_policy(mode: RestartMode) -> &'static str {
    match mode {
        RestartMode::Never => "Never",
        RestartMode::OnFailure => "OnFailure",
        RestartMode::Always => "Always",
    }
}

fn tolerations(wanted: &[config::Toleration]) -> Vec<Toleration> {
    let one = |it: &config::Toleration| Toleration {
        key: it.key.clone(),
        operator: Some(match it.value {
            Some(_) => "Equal".to_owned(),
            None => "Exists".to_owned(),
        }),
        value: it.value.clone(),
        effect: it.effect.clone(),
        toleration_seconds: it.seconds.map(i64::from),
    };
    wanted.iter().map(one).collect()
}

fn affinity(wanted: Option<&serde_json::Value>) -> Option<Affinity> {
    // It was read when the settings were checked.
    serde_json::from_value(wanted?.clone()).ok()
}

/// The ports that the program binds, by name: those of the request, and numbers of our choice for 0. A pod has its own address, so
/// that they need to differ within the node only.
pub(crate) fn inside_ports(config: &SpawnConfig) -> BTreeMap<String, u16> {
    let taken: BTreeSet<u16> = config.ports.values().copied().collect();
    let mut free = (FIRST_PORT..=u16::MAX).filter(|it| !taken.contains(it));
    let ports = config.ports.iter().filter_map(|(name, port)| {
        let number = match port {
            0 => free.next()?,
            asked => *asked,
        };
        Some((name.clone(), number))
    });
    ports.collect()
}

/// A grace period as the cluster takes it: whole seconds, rounded up, and never 0, which would not wait for the end.
pub(crate) fn grace_seconds(grace: Duration) -> u32 {
    seconds(grace).unsigned_abs()
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
