//! A request as a container.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Duration,
};

use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, MountVolumeOptions, PortBinding,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use grid_platform_api::{Digest, NodeUid, OwnerId, Place, RestartMode, SpawnConfig, fault};

use super::{DataPlace, Root, label};
use crate::{config::DockerConfig, images::Image, logs, network, tar::Owner};

/// Where a program finds its data.
pub(crate) const DATA: &str = "/data";
/// Where it finds its secrets.
pub(crate) const SECRETS: &str = "/run/secrets";
/// How much may lie in `/tmp`: it is memory, and counts as the node's.
const TMP_BYTES: u64 = 64 * 1024 * 1024;

/// What of a container is the adapter's and not the request's.
pub(crate) struct Ground<'a> {
    pub(crate) owner: &'a OwnerId,
    pub(crate) uid: &'a NodeUid,
    pub(crate) digest: &'a Digest,
    pub(crate) image: &'a Image,
    /// The ports by name, as clients reach them.
    pub(crate) ports: &'a BTreeMap<String, u16>,
    /// Who it runs as.
    pub(crate) user: Owner,
    /// What becomes of an image that begins as root.
    pub(crate) root: Root,
    pub(crate) data: &'a DataPlace,
    /// Where its secrets are, if it has any.
    pub(crate) secrets: Option<DataPlace>,
    /// What the engine can keep logs with.
    pub(crate) log_drivers: &'a [String],
    /// An end of its first run is the spawning call's business, not the policy's.
    pub(crate) on_trial: bool,
}

/// The container of a request.
pub(crate) fn container(
    config: &SpawnConfig,
    settings: &DockerConfig,
    ground: &Ground<'_>,
) -> ContainerCreateBody {
    let inside = network::inside(ground.ports, ground.image);
    let place = Place {
        node_id: config.node_id.clone(),
        bind: network::BIND,
        published: config.bind_address,
        ports: inside.clone(),
        data_path: DATA.to_owned(),
        secrets_dir: ground.secrets.is_some().then(|| SECRETS.to_owned()),
    };
    let mut env = place.environment();
    env.extend(config.env.iter().map(|(k, v)| (k.clone(), place.expand(v))));
    let args: Vec<String> = config
        .program
        .args()
        .iter()
        .map(|it| place.expand(it))
        .collect();
    ContainerCreateBody {
        // By its id: what was looked up is true of that image, and its name may be another's meanwhile.
        image: Some(ground.image.id.clone()),
        cmd: (!args.is_empty()).then_some(args),
        env: Some(env.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        user: Some(ground.user.to_string()),
        labels: Some(labels(config, ground)),
        exposed_ports: Some(inside.values().map(|it| format!("{it}/tcp")).collect()),
        stop_signal: Some(config.stop.signal.name().to_owned()),
        // The engine stops its containers by this when it is stopped itself.
        stop_timeout: Some(grace_seconds(config.stop.grace).into()),
        host_config: Some(host_config(config, settings, ground, &inside)),
        ..ContainerCreateBody::default()
    }
}

fn labels(config: &SpawnConfig, ground: &Ground<'_>) -> HashMap<String, String> {
    // These have a JSON form always: text keys, and no floating-point numbers.
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let image = ground.image.digest.as_ref().unwrap_or(&ground.image.id);
    let own = [
        (label::GRID, "true".to_owned()),
        (label::NODE_ID, config.node_id.to_string()),
        (label::OWNER, ground.owner.to_string()),
        (label::UID, ground.uid.to_string()),
        (label::DIGEST, String::from(ground.digest.clone())),
        (label::SPEC, json(serde_json::to_string(config))),
        (label::PORTS, json(serde_json::to_string(ground.ports))),
        (label::DATA, json(serde_json::to_string(ground.data))),
        (label::IMAGE, image.clone()),
    ];
    let root = ground.root.as_str().map(|it| (label::ROOT, it.to_owned()));
    let theirs = config.labels.iter();
    own.into_iter()
        .chain(root)
        .map(|(key, value)| (key.to_owned(), value))
        .chain(theirs.map(|(key, value)| (format!("{}{key}", label::USER), value.clone())))
        .collect()
}

fn host_config(
    config: &SpawnConfig,
    settings: &DockerConfig,
    ground: &Ground<'_>,
    inside: &BTreeMap<String, u16>,
) -> HostConfig {
    let security = &settings.security;
    let memory = config.memory_limit_mb.map(|mb| to_i64(mb << 20));
    let cpu = config.cpu_limit_millis.map(cpu_quota);
    let bindings = inside.iter().map(|(name, port)| {
        let binding = PortBinding {
            host_ip: Some(config.bind_address.to_string()),
            host_port: ground.ports.get(name).map(u16::to_string),
        };
        (format!("{port}/tcp"), Some(vec![binding]))
    });
    let secrets = ground.secrets.iter().map(|it| mount(it, SECRETS, true));
    // Where the image keeps its data too: a volume that the engine makes for it has no name, and goes with the container.
    let own = kept_by(ground.image).filter(|it| *it != DATA);
    let data = [DATA].into_iter().chain(own);
    let places = data.map(|it| mount(ground.data, it, false)).chain(secrets);
    let (mounts, binds): (Vec<_>, Vec<_>) = places.partition(|it| line(it).is_none());
    let nofile = config.open_files_limit.map(|limit| ResourcesUlimits {
        name: Some("nofile".to_owned()),
        soft: Some(to_i64(limit)),
        hard: Some(to_i64(limit)),
    });
    let policy = match ground.on_trial {
        true => Policy::NONE,
        false => Policy::of(config),
    };
    HostConfig {
        memory,
        // With it as large as the memory, there is no swap beyond.
        memory_swap: memory,
        cpu_period: cpu.map(|it| it.0),
        cpu_quota: cpu.map(|it| it.1),
        pids_limit: config.pids_limit.map(i64::from),
        ulimits: nofile.map(|it| vec![it]),
        mounts: Some(mounts),
        binds: (!binds.is_empty()).then(|| binds.iter().filter_map(line).collect()),
        tmpfs: Some(HashMap::from([(
            "/tmp".to_owned(),
            format!("rw,nosuid,nodev,mode=1777,size={TMP_BYTES}"),
        )])),
        port_bindings: Some(bindings.collect()),
        network_mode: settings.network.clone(),
        restart_policy: Some(policy.to_engine()),
        log_config: Some(logs::keeping(
            fault::figure("log-max-bytes").unwrap_or(settings.log_max_bytes),
            ground.log_drivers,
        )),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: (!security.cap_add.is_empty()).then(|| security.cap_add.clone()),
        security_opt: (!security.allow_new_privileges)
            .then(|| vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(!security.writable_root),
        ..HostConfig::default()
    }
}

fn mount(place: &DataPlace, target: &str, read_only: bool) -> Mount {
    let (typ, source) = match place {
        DataPlace::Path { path, .. } => (MountType::BIND, path.to_string_lossy().into_owned()),
        DataPlace::Volume { name } => (MountType::VOLUME, name.clone()),
    };
    Mount {
        typ: Some(typ),
        source: Some(source),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        // Or the engine would fill an empty one with what the image has there, and give it that directory's owner.
        volume_options: (typ == MountType::VOLUME).then(|| MountVolumeOptions {
            no_copy: Some(true),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

/// What ends a value in the list of options that Podman makes of a mount: the rest would be options of the path's own making.
const BREAKS: [char; 4] = [',', '"', '\n', '\r'];

fn paths(mount: &Mount) -> impl Iterator<Item = &String> {
    mount.source.iter().chain(&mount.target)
}

/// The mount as a line, the older form, where its paths would break the newer one: in a line it is the colon that does.
fn line(mount: &Mount) -> Option<String> {
    let breaks = paths(mount).any(|it| it.contains(BREAKS));
    let breaks_line = paths(mount).any(|it| it.contains(':'));
    if !breaks || breaks_line {
        return None;
    }
    let (source, target) = (mount.source.as_ref()?, mount.target.as_ref()?);
    let copy = match mount.volume_options {
        Some(_) => ",nocopy",
        None => "",
    };
    let access = match mount.read_only {
        Some(true) => "ro",
        _ => "rw",
    };
    Some(format!("{source}:{target}:{access}{copy}"))
}

/// A path of a container's that can be told to no engine in either form.
pub(crate) fn unmountable(body: &ContainerCreateBody) -> Option<&str> {
    let mounts = body.host_config.as_ref()?.mounts.as_ref()?;
    let broken = mounts
        .iter()
        .find(|it| paths(it).any(|it| it.contains(BREAKS)))?;
    paths(broken)
        .map(String::as_str)
        .find(|it| it.contains(BREAKS))
}

/// The directories that an image keeps in volumes, but for those that are the adapter's own.
pub(crate) fn kept_by(image: &Image) -> impl Iterator<Item = &str> {
    let apart = |it: &&str| {
        !["/tmp", SECRETS]
            .iter()
            .any(|own| Path::new(it).starts_with(own))
    };
    let plain = image.volumes.iter().map(|it| it.trim_end_matches('/'));
    plain.filter(apart)
}

/// The period and the quota, in microseconds, of so many thousandths of a processor.
fn cpu_quota(millis: u32) -> (i64, i64) {
    // The kernel takes no quota below a millisecond, and no period beyond a second.
    let period = if millis < 10 { 1_000_000 } else { 100_000 };
    (period, i64::from(millis) * period / 1000)
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The grace period in whole seconds, as the engine takes it: never less than what was asked for.
pub(crate) fn grace_seconds(grace: Duration) -> i32 {
    let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// A restart policy in the engine's terms: its name, and how often at most (0 is without end).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) name: RestartPolicyNameEnum,
    pub(crate) most: u32,
}

impl Policy {
    /// That of a container that is not started again.
    pub(crate) const NONE: Self = Self {
        name: RestartPolicyNameEnum::NO,
        most: 0,
    };

    /// That of a request.
    pub(crate) fn of(config: &SpawnConfig) -> Self {
        let restart = &config.restart;
        match (restart.mode, restart.max_restarts) {
            (RestartMode::Never, _) | (RestartMode::OnFailure, Some(0)) => Self::NONE,
            // Not `unless-stopped`: an engine that was killed ends what it finds when it is started again, and takes that for
            // somebody's stop. What is stopped by us has its policy taken away.
            (RestartMode::Always, _) => Self {
                name: RestartPolicyNameEnum::ALWAYS,
                most: 0,
            },
            (RestartMode::OnFailure, most) => Self {
                name: RestartPolicyNameEnum::ON_FAILURE,
                most: most.unwrap_or(0),
            },
        }
    }

    /// That which a container has.
    pub(crate) fn read(policy: Option<&RestartPolicy>) -> Self {
        let name = policy.and_then(|it| it.name);
        let most = policy.and_then(|it| it.maximum_retry_count);
        Self {
            name: match name {
                None | Some(RestartPolicyNameEnum::EMPTY) => RestartPolicyNameEnum::NO,
                Some(name) => name,
            },
            most: most.and_then(|it| u32::try_from(it).ok()).unwrap_or(0),
        }
    }

    /// Whether an engine that is restarted starts a container again that rests with this exit code.
    pub(crate) fn revives(&self, exit_code: i64) -> bool {
        match self.name {
            RestartPolicyNameEnum::NO | RestartPolicyNameEnum::EMPTY => false,
            RestartPolicyNameEnum::ON_FAILURE => exit_code != 0,
            RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED => true,
        }
    }

    /// The engine's own form.
    pub(crate) fn to_engine(&self) -> RestartPolicy {
        RestartPolicy {
            name: Some(self.name),
            maximum_retry_count: (self.most > 0).then(|| self.most.into()),
        }
    }
}

/// Whether the policy of a request starts a program again that ended so for the first time.
pub(crate) fn would_restart(config: &SpawnConfig, failed: bool) -> bool {
    match config.restart.mode {
        RestartMode::Never => false,
        RestartMode::OnFailure => failed && config.restart.max_restarts != Some(0),
        RestartMode::Always => true,
    }
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{DigestKey, RestartPolicy as Wanted, StopPolicy, StopSignal};

    use super::{super::tests::request, *};

    fn made(config: &SpawnConfig, settings: &DockerConfig, image: &Image) -> ContainerCreateBody {
        let ports = config.ports.keys().cloned().zip(20_001..).collect();
        let ground = Ground {
            owner: &OwnerId::from_bytes([1; 16]),
            uid: &NodeUid::from_bytes([2; 16]),
            digest: &Digest::of(config, &DigestKey::from_bytes([3; 32])),
            image,
            ports: &ports,
            user: Owner {
                uid: 65_532,
                gid: 65_532,
            },
            root: Root::Refused,
            data: &DataPlace::Path {
                path: "/d/n1".into(),
                ours: true,
            },
            secrets: None,
            log_drivers: &[],
            on_trial: false,
        };
        container(config, settings, &ground)
    }

    fn simple(config: &SpawnConfig) -> (ContainerCreateBody, HostConfig) {
        let mut body = made(config, &DockerConfig::new("/s", "/d"), &Image::default());
        let host = body.host_config.take().unwrap();
        (body, host)
    }

    #[test]
    fn everything_is_tight_unless_a_setting_loosens_it() {
        let config = request().build().unwrap();
        let (_, host) = simple(&config);
        assert_eq!(host.cap_drop, Some(vec!["ALL".into()]));
        assert_eq!(host.cap_add, None);
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".into()]));
        assert_eq!(host.readonly_rootfs, Some(true));
        let shared = [
            host.network_mode,
            host.pid_mode,
            host.ipc_mode,
            host.uts_mode,
            host.userns_mode,
        ];
        assert_eq!(shared, [None, None, None, None, None]);
        assert_eq!(
            (host.privileged, host.devices, host.init),
            (None, None, None)
        );
        assert!(host.tmpfs.unwrap()["/tmp"].contains("nosuid,nodev"));

        let mut settings = DockerConfig::new("/s", "/d");
        settings.security.cap_add = vec!["CHOWN".into()];
        settings.security.writable_root = true;
        settings.security.allow_new_privileges = true;
        settings.network = Some("mine".into());
        let host = made(&config, &settings, &Image::default())
            .host_config
            .unwrap();
        assert_eq!(host.cap_drop, Some(vec!["ALL".into()]));
        assert_eq!(host.cap_add, Some(vec!["CHOWN".into()]));
        assert_eq!(host.security_opt, None);
        assert_eq!(host.readonly_rootfs, Some(false));
        assert_eq!(host.network_mode.as_deref(), Some("mine"));
    }

    #[test]
    fn the_program_is_told_its_place() {
        let program = grid_platform_api::Program::image("img:1", ["--port={port}", "{data_path}"]);
        let config = SpawnConfig::builder("n1", program)
            .port(0)
            .named_port("peer", 0)
            .env("AT", "{bind}:{port.peer}")
            .secret("key", "hunter2".into())
            .label("zone", "a")
            .build()
            .unwrap();
        let image = Image {
            exposed_tcp: vec![6379],
            ..Image::default()
        };
        let body = made(&config, &DockerConfig::new("/s", "/d"), &image);
        assert_eq!(body.cmd, Some(vec!["--port=6379".into(), "/data".into()]));
        assert_eq!(body.entrypoint, None, "the image's own");
        let env = body.env.unwrap();
        for line in [
            "SUTRA_PORT=6379",
            "SUTRA_PORT_PEER=20002",
            "AT=0.0.0.0:20002",
        ] {
            assert!(env.iter().any(|it| it == line), "{line}: {env:?}");
        }
        let labels = body.labels.unwrap();
        assert_eq!(labels["sutra.grid"], "true");
        assert_eq!(labels["sutra.node_id"], "n1");
        assert_eq!(labels["sutra.label.zone"], "a");
        assert_eq!(labels["sutra.ports"], r#"{"main":20001,"peer":20002}"#);
        assert!(
            labels
                .values()
                .chain(&env)
                .all(|it| !it.contains("hunter2"))
        );
        let bindings = body.host_config.unwrap().port_bindings.unwrap();
        let main = bindings["6379/tcp"].as_ref().unwrap();
        assert_eq!(main[0].host_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(main[0].host_port.as_deref(), Some("20001"));
    }

    #[test]
    fn what_an_image_keeps_is_the_nodes_data() {
        let check = |volumes: &[&str], expect: &[&str]| {
            let image = Image {
                id: "sha256:1".into(),
                volumes: volumes.iter().map(|it| (*it).to_owned()).collect(),
                ..Image::default()
            };
            let config = request().build().unwrap();
            let body = made(&config, &DockerConfig::new("/s", "/d"), &image);
            assert_eq!(body.image.as_deref(), Some("sha256:1"));
            assert_eq!(body.user.as_deref(), Some("65532:65532"));
            let mounts = body.host_config.unwrap().mounts.unwrap();
            let at = |it: &Mount| {
                assert_eq!(it.source.as_deref(), Some("/d/n1"));
                it.target.clone().unwrap()
            };
            assert_eq!(mounts.iter().map(at).collect::<Vec<_>>(), expect);
        };
        check(&[], &["/data"]);
        check(&["/data/"], &["/data"]);
        check(&["/tmp", "/run/secrets", "/tmp/x"], &["/data"]);
        check(&["/var/lib/db/"], &["/data", "/var/lib/db"]);
    }

    #[test]
    fn a_path_is_no_list_of_options() {
        let check = |place: DataPlace, target: &str, expect: Option<&str>, broken: Option<&str>| {
            let mount = mount(&place, target, false);
            assert_eq!(line(&mount).as_deref(), expect, "{place:?}");
            let mounts = match line(&mount) {
                Some(_) => Vec::new(),
                None => vec![mount],
            };
            let body = ContainerCreateBody {
                host_config: Some(HostConfig {
                    mounts: Some(mounts),
                    ..HostConfig::default()
                }),
                ..ContainerCreateBody::default()
            };
            assert_eq!(unmountable(&body), broken, "{place:?}");
        };
        let path = |path: &str| DataPlace::Path {
            path: path.into(),
            ours: true,
        };
        let volume = || DataPlace::Volume { name: "v".into() };
        check(path("/d/n 1"), DATA, None, None);
        check(path("/d:/n1"), DATA, None, None);
        let line = "/d/a,source=/:/data:rw";
        check(path("/d/a,source=/"), DATA, Some(line), None);
        check(path("/d/\"a\""), DATA, Some("/d/\"a\":/data:rw"), None);
        check(path("/d/a\nb"), DATA, Some("/d/a\nb:/data:rw"), None);
        check(path("/d"), "/x,source=/", Some("/d:/x,source=/:rw"), None);
        let line = "v:/x,source=/:rw,nocopy";
        check(volume(), "/x,source=/", Some(line), None);
        check(path("/d:/a,b"), DATA, None, Some("/d:/a,b"));
        check(path("/d:/a"), "/x,y", None, Some("/x,y"));
    }

    #[test]
    fn an_engine_puts_nothing_into_volumes() {
        let name = "sutra-grid-n1".to_owned();
        let volume = mount(&DataPlace::Volume { name }, DATA, false);
        assert_eq!(volume.volume_options.unwrap().no_copy, Some(true));
        let path = DataPlace::Path {
            path: "/d".into(),
            ours: true,
        };
        assert_eq!(mount(&path, DATA, false).volume_options, None);
    }

    #[test]
    fn limits_are_the_engines() {
        let config = request()
            .memory_limit_mb(64)
            .cpu_limit_millis(1500)
            .pids_limit(7)
            .open_files_limit(99)
            .build()
            .unwrap();
        let (_, host) = simple(&config);
        assert_eq!(host.memory, Some(64 << 20));
        assert_eq!(host.memory_swap, Some(64 << 20));
        assert_eq!(
            (host.cpu_period, host.cpu_quota),
            (Some(100_000), Some(150_000))
        );
        assert_eq!(host.pids_limit, Some(7));
        let nofile = &host.ulimits.unwrap()[0];
        assert_eq!((nofile.soft, nofile.hard), (Some(99), Some(99)));
        assert_eq!(cpu_quota(1), (1_000_000, 1000));
        let (_, host) = simple(&request().build().unwrap());
        assert_eq!(
            (host.memory, host.memory_swap, host.cpu_quota),
            (None, None, None)
        );
    }

    #[test]
    fn policies_keep_what_is_stopped_stopped() {
        let check = |mode, max_restarts, name, most| {
            let policy = Wanted {
                max_restarts,
                ..mode
            };
            let config = request().restart(policy).build().unwrap();
            assert_eq!(Policy::of(&config), Policy { name, most });
            let engines = Policy::of(&config).to_engine();
            assert_eq!(Policy::read(Some(&engines)), Policy::of(&config));
        };
        use RestartPolicyNameEnum as Name;
        let of = Wanted::from;
        check(of(RestartMode::Never), None, Name::NO, 0);
        check(of(RestartMode::Always), None, Name::ALWAYS, 0);
        check(of(RestartMode::OnFailure), None, Name::ON_FAILURE, 0);
        check(of(RestartMode::OnFailure), Some(3), Name::ON_FAILURE, 3);
        check(of(RestartMode::OnFailure), Some(0), Name::NO, 0);
        assert_eq!(Policy::read(None), Policy::NONE);
        let revives = |name, code| Policy { name, most: 0 }.revives(code);
        assert!(revives(Name::ALWAYS, 0) && revives(Name::ON_FAILURE, 137));
        assert!(!revives(Name::ON_FAILURE, 0) && !revives(Name::NO, 1));
    }

    #[test]
    fn a_stop_has_its_signal_and_never_less_than_its_grace() {
        let stop = StopPolicy {
            signal: StopSignal::Int,
            grace: Duration::from_millis(1200),
        };
        let (body, _) = simple(&request().stop(stop).build().unwrap());
        assert_eq!(body.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(body.stop_timeout, Some(2));
        assert_eq!(grace_seconds(Duration::ZERO), 0);
        assert_eq!(grace_seconds(Duration::from_secs(3)), 3);
    }
}
