//! From what people ask for to what travels to an agent. Pure.

use std::collections::BTreeMap;

use grid_client::NodeSettings;
use grid_platform_api::{
    Error, ErrorKind, HealthCheck, MAIN_PORT, NodeId, Program, Result, SecretValue, SpawnConfig,
};

use crate::scheduler::ProgramKind;

/// The values of secrets, by name.
pub(crate) type Secrets = BTreeMap<String, SecretValue>;

/// What is run when the settings name no program: the agent's own when the node is made, the node's own after that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) program: Option<Program>,
    /// Goes with the program: it is left out when the settings name another one.
    pub(crate) health: Option<HealthCheck>,
}

fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message).with_hint(hint)
}

/// Which kind of program the settings ask for.
pub(crate) fn program_kind(settings: &NodeSettings) -> ProgramKind {
    match (&settings.binary, &settings.image) {
        (_, Some(_)) => ProgramKind::Image,
        (Some(_), None) => ProgramKind::Binary,
        (None, None) => ProgramKind::Default,
    }
}

/// The request that travels; secrets have their values where the settings have them.
///
/// # Errors
/// `InvalidConfig` for settings that contradict each other, and those of [`SpawnConfig::validate`].
pub(crate) fn spawn_config(
    id: &NodeId,
    settings: &NodeSettings,
    defaults: &Defaults,
) -> Result<SpawnConfig> {
    let mut config = SpawnConfig::new(id.clone(), program(settings, defaults)?);
    config.ports = ports(settings)?;
    let s = settings.clone();
    if let Some(address) = s.bind_address {
        config.bind_address = address;
    }
    config.storage_path = s.storage_path.map(Into::into);
    config.storage_size_mb = s.storage_size_mb;
    config.memory_limit_mb = s.memory_limit_mb;
    config.cpu_limit_millis = s.cpu_limit_millis;
    config.pids_limit = s.pids_limit;
    config.open_files_limit = s.open_files_limit;
    config.run_as = s.run_as;
    config.env = s.env.unwrap_or_default();
    config.secrets = s.secrets.unwrap_or_default();
    config.secret_env = s.secret_env.unwrap_or_default();
    config.restart = s.restart.unwrap_or_default();
    config.stop = s.stop.unwrap_or_default();
    config.ready = s.ready.unwrap_or_default();
    config.labels = s.labels.unwrap_or_default();
    config.adapter = s.adapter.unwrap_or_default();
    config.health = match s.health {
        Some(health) => Some(health),
        // The default check asks the main port of the default program.
        None if program_kind(settings) == ProgramKind::Default
            && config.ports.contains_key(MAIN_PORT) =>
        {
            defaults.health.clone()
        }
        None => None,
    };
    config.validate()?;
    Ok(config)
}

fn program(settings: &NodeSettings, defaults: &Defaults) -> Result<Program> {
    let args = settings.args.clone();
    match (&settings.binary, &settings.image) {
        (Some(_), Some(_)) => Err(invalid(
            "`binary` and `image` are both given",
            "Give one of them: a program of the agent's host, or an image.",
        )),
        (Some(path), None) => Ok(Program::Binary {
            path: path.into(),
            args: args.unwrap_or_default(),
        }),
        (None, Some(image)) => Ok(Program::Image {
            image: image.clone(),
            args: args.unwrap_or_default(),
        }),
        (None, None) => {
            let mut program = defaults.program.clone().ok_or_else(|| {
                invalid(
                    "no program is named, and the agent has none of its own",
                    "Name one by `binary` or `image`, or set `[storage] binary_path` of the agent.",
                )
            })?;
            if let Some(given) = args {
                match &mut program {
                    Program::Binary { args, .. } | Program::Image { args, .. } => *args = given,
                }
            }
            Ok(program)
        }
    }
}

/// `port` is the main port; neither `port` nor `ports` means that any free one is the main port.
fn ports(settings: &NodeSettings) -> Result<BTreeMap<String, u16>> {
    let mut ports = settings.ports.clone().unwrap_or_default();
    match (settings.port, &settings.ports) {
        (Some(port), _) => {
            if let Some(other) = ports.insert(MAIN_PORT.to_owned(), port)
                && other != port
            {
                return Err(invalid(
                    format!("`port` is {port} and `ports.main` is {other}"),
                    "They are the same port; give one of them.",
                ));
            }
        }
        (None, None) => {
            ports.insert(MAIN_PORT.to_owned(), 0);
        }
        (None, Some(_)) => {}
    }
    Ok(ports)
}

/// The settings of a node after an update: what is given replaces what is stored, whole maps too; a secret given
/// without a value keeps the one that is stored.
///
/// # Errors
/// `Conflict` for a change of a port or of the data's place, which stay with their node.
pub(crate) fn merge(stored: &NodeSettings, change: NodeSettings) -> Result<NodeSettings> {
    let stays = |what: &str| {
        Err(Error::new(
            ErrorKind::Conflict,
            format!("`{what}` cannot be changed: it stays with its node"),
        )
        .with_hint("Leave it out; for another one, make another node by `grid spawn`."))
    };
    if (change.port.is_some() || change.ports.is_some())
        && ports(stored)? != {
            let given = NodeSettings {
                port: change.port.or(stored.port),
                ports: change.ports.clone().or_else(|| stored.ports.clone()),
                ..NodeSettings::default()
            };
            ports(&given)?
        }
    {
        return stays(if change.port.is_some() {
            "port"
        } else {
            "ports"
        });
    }
    if change.storage_path.is_some() && change.storage_path != stored.storage_path {
        return stays("storage_path");
    }
    let old = stored.clone();
    // A new program takes the place of the old one, whichever kind that was.
    let (binary, image) = match (change.binary, change.image) {
        (None, None) => (old.binary, old.image),
        given => given,
    };
    Ok(NodeSettings {
        port: old.port,
        ports: old.ports,
        storage_path: old.storage_path,
        binary,
        image,
        bind_address: change.bind_address.or(old.bind_address),
        storage_size_mb: change.storage_size_mb.or(old.storage_size_mb),
        memory_limit_mb: change.memory_limit_mb.or(old.memory_limit_mb),
        cpu_limit_millis: change.cpu_limit_millis.or(old.cpu_limit_millis),
        pids_limit: change.pids_limit.or(old.pids_limit),
        open_files_limit: change.open_files_limit.or(old.open_files_limit),
        args: change.args.or(old.args),
        run_as: change.run_as.or(old.run_as),
        env: change.env.or(old.env),
        secrets: change.secrets.or(old.secrets),
        secret_env: change.secret_env.or(old.secret_env),
        restart: change.restart.or(old.restart),
        stop: change.stop.or(old.stop),
        ready: change.ready.or(old.ready),
        health: change.health.or(old.health),
        labels: change.labels.or(old.labels),
        adapter: change.adapter.or(old.adapter),
    })
}

/// Gives every secret without a value the one of `stored`.
///
/// # Errors
/// `InvalidConfig` for a secret that has no value here or there.
pub(crate) fn fill_secrets(settings: &mut NodeSettings, stored: &Secrets) -> Result<()> {
    for (name, value) in settings.secrets.iter_mut().flatten() {
        if value.is_withheld() {
            *value = stored.get(name).cloned().ok_or_else(|| {
                invalid(
                    format!(
                        "the secret `{}` has no value",
                        grid_platform_api::printable(name)
                    ),
                    "Give its value as a text.",
                )
            })?;
        }
    }
    Ok(())
}

/// Takes the values of the secrets out of the settings.
pub(crate) fn withhold(settings: &mut NodeSettings) -> Secrets {
    settings
        .secrets
        .iter_mut()
        .flatten()
        .map(|(name, value)| {
            let taken = std::mem::replace(value, SecretValue::withheld());
            (name.clone(), taken)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{ReadyMode, RestartMode, RestartPolicy, RunAs, StopPolicy};
    use proptest::{
        collection::{btree_map, vec},
        option::of,
        prelude::*,
    };

    use super::*;

    fn any_settings() -> impl Strategy<Value = NodeSettings> {
        let limits = (
            of(1u64..9),
            of(1u64..9),
            of(1u32..9),
            of(1u32..9),
            of(1u64..9),
        );
        let texts = || btree_map("[A-Z][A-Z0-9]{0,3}", "\\PC{0,9}", 0..3);
        let programs = (
            of("/[a-z]{1,9}"),
            of("[a-z]{1,9}:[0-9]"),
            of(vec("[a-z]{0,9}", 0..3)),
        );
        let policies = (
            of(prop_oneof![
                Just(RestartMode::Never),
                Just(RestartMode::Always)
            ]),
            of((0u64..9000).prop_map(|ms| StopPolicy {
                grace: std::time::Duration::from_millis(ms),
                ..StopPolicy::default()
            })),
            of(Just(ReadyMode::Started)),
            of(Just(HealthCheck::http("/h"))),
            of("[a-z]{1,8}"),
        );
        let ports = (
            of(2000u16..),
            of(btree_map("[a-z]{1,4}", 2000u16.., 0..3)),
            any::<bool>(),
        );
        (
            ports,
            limits,
            programs,
            policies,
            (of(texts()), of(btree_map("[a-z]{1,4}", "[a-z]{0,4}", 0..3))),
        )
            .prop_map(
                |(ports, limits, programs, policies, (env, labels))| NodeSettings {
                    port: ports.0,
                    ports: ports.1,
                    bind_address: ports.2.then(|| "::1".parse().unwrap()),
                    storage_size_mb: limits.0,
                    memory_limit_mb: limits.1,
                    cpu_limit_millis: limits.2,
                    pids_limit: limits.3,
                    open_files_limit: limits.4,
                    image: programs.1.filter(|_| programs.0.is_none()),
                    binary: programs.0,
                    args: programs.2,
                    restart: policies.0.map(RestartPolicy::from),
                    stop: policies.1,
                    ready: policies.2,
                    health: policies.3,
                    run_as: policies.4.map(|user| RunAs { user, group: None }),
                    env,
                    labels,
                    ..NodeSettings::default()
                },
            )
    }

    proptest! {
        #[test]
        fn settings_are_the_same_in_json_in_a_request_and_after_an_update(settings in any_settings()) {
            let json = serde_json::to_string(&settings).unwrap();
            prop_assert_eq!(&serde_json::from_str::<NodeSettings>(&json).unwrap(), &settings);
            prop_assert_eq!(&merge(&settings, NodeSettings::default()).unwrap(), &settings);
            prop_assert_eq!(&merge(&settings, settings.clone()).unwrap(), &settings);

            let id = NodeId::new("n1").unwrap();
            // Two ports of one number, say, are refused, and nothing else of these is.
            let Ok(config) = spawn_config(&id, &settings, &defaults()) else {
                let ports = settings.ports.unwrap_or_default();
                let mut numbers: Vec<u16> = ports.values().copied().chain(settings.port).collect();
                numbers.sort_unstable();
                let count = numbers.len();
                numbers.dedup();
                prop_assert!(numbers.len() < count || settings.health.is_some() || ports.contains_key(MAIN_PORT));
                return Ok(());
            };
            let sent: SpawnConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
            prop_assert_eq!(&sent, &config);
            prop_assert_eq!(sent.env, settings.env.unwrap_or_default());
            prop_assert_eq!(sent.labels, settings.labels.unwrap_or_default());
            prop_assert_eq!(sent.run_as, settings.run_as);
            prop_assert_eq!(sent.restart, settings.restart.unwrap_or_default());
            prop_assert_eq!(sent.stop, settings.stop.unwrap_or_default());
            prop_assert_eq!(
                (sent.storage_size_mb, sent.memory_limit_mb, sent.cpu_limit_millis, sent.pids_limit, sent.open_files_limit),
                (settings.storage_size_mb, settings.memory_limit_mb, settings.cpu_limit_millis, settings.pids_limit, settings.open_files_limit)
            );
        }
    }

    fn settings(json: serde_json::Value) -> NodeSettings {
        serde_json::from_value(json).unwrap()
    }

    fn defaults() -> Defaults {
        Defaults {
            program: Some(Program::binary("/bin/store", ["--port", "{port}"])),
            health: Some(HealthCheck::http("/healthz")),
        }
    }

    #[test]
    fn settings_become_requests() {
        let id = NodeId::new("n1").unwrap();
        let check = |given: serde_json::Value, expect: serde_json::Value| {
            let config = spawn_config(&id, &settings(given.clone()), &defaults());
            let shown = match config {
                Ok(config) => serde_json::to_value(config).unwrap(),
                Err(error) => serde_json::json!(error.to_string()),
            };
            assert_eq!(shown, expect, "{given}");
        };
        let health = serde_json::json!({"kind": "http", "path": "/healthz", "interval_ms": 5000, "timeout_ms": 2000, "threshold": 3});
        let own = serde_json::json!({"kind": "binary", "path": "/bin/store", "args": ["--port", "{port}"]});
        check(
            serde_json::json!({}),
            serde_json::json!({"node_id": "n1", "program": own, "ports": {"main": 0}, "health": health}),
        );
        check(
            serde_json::json!({"port": 50051, "ports": {"peer": 0}, "args": []}),
            serde_json::json!({"node_id": "n1", "program": {"kind": "binary", "path": "/bin/store"},
                "ports": {"main": 50051, "peer": 0}, "health": health}),
        );
        // Another program: the agent's health check says nothing about it.
        check(
            serde_json::json!({"binary": "redis-server", "args": ["--port", "{port}"], "memory_limit_mb": 64}),
            serde_json::json!({"node_id": "n1", "memory_limit_mb": 64, "ports": {"main": 0},
                "program": {"kind": "binary", "path": "redis-server", "args": ["--port", "{port}"]}}),
        );
        check(
            serde_json::json!({"image": "redis:7", "ports": {}, "restart": {"mode": "always"}}),
            serde_json::json!({"node_id": "n1", "program": {"kind": "image", "image": "redis:7"},
                "restart": serde_json::to_value(grid_platform_api::RestartPolicy::from(RestartMode::Always)).unwrap()}),
        );
        // A node without ports has nothing that the default check could ask.
        check(
            serde_json::json!({"ports": {}}),
            serde_json::json!({"node_id": "n1", "program": own}),
        );
        check(
            serde_json::json!({"port": 1, "ports": {"main": 2}}),
            serde_json::json!("`port` is 1 and `ports.main` is 2"),
        );
        check(
            serde_json::json!({"binary": "a", "image": "b"}),
            serde_json::json!("`binary` and `image` are both given"),
        );
        check(
            serde_json::json!({"memory_limit_mb": 0}),
            serde_json::json!("`memory_limit_mb` is 0, outside 1 to 1073741824 MiB"),
        );
    }

    #[test]
    fn without_a_default_a_program_is_wanted() {
        let id = NodeId::new("n1").unwrap();
        let error = spawn_config(&id, &NodeSettings::default(), &Defaults::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn updates_merge() {
        let stored = serde_json::json!({"port": 0, "storage_path": "/d/n1", "binary": "a", "args": ["x"],
            "env": {"A": "1", "B": "2"}, "memory_limit_mb": 64});
        let check = |change: serde_json::Value, expect: Result<serde_json::Value, &str>| {
            let merged = merge(&settings(stored.clone()), settings(change.clone()));
            let shown = merged
                .map(|s| serde_json::to_value(s).unwrap())
                .map_err(|e| e.to_string());
            assert_eq!(shown, expect.map_err(str::to_owned), "{change}");
        };
        let with = |key: &str, value: serde_json::Value| {
            let mut all = stored.clone();
            all[key] = value;
            Ok(all)
        };
        check(serde_json::json!({}), Ok(stored.clone()));
        check(
            serde_json::json!({"memory_limit_mb": 128}),
            with("memory_limit_mb", serde_json::json!(128)),
        );
        check(
            serde_json::json!({"env": {"C": "3"}}),
            with("env", serde_json::json!({"C": "3"})),
        );
        check(serde_json::json!({"port": 0}), Ok(stored.clone()));
        check(
            serde_json::json!({"port": 1}),
            Err("`port` cannot be changed: it stays with its node"),
        );
        check(
            serde_json::json!({"ports": {"x": 1}}),
            Err("`ports` cannot be changed: it stays with its node"),
        );
        check(
            serde_json::json!({"storage_path": "/d/n1"}),
            Ok(stored.clone()),
        );
        check(
            serde_json::json!({"storage_path": "/d/n2"}),
            Err("`storage_path` cannot be changed: it stays with its node"),
        );
        let mut image = stored.clone();
        image.as_object_mut().unwrap().remove("binary");
        image["image"] = serde_json::json!("r:1");
        check(serde_json::json!({"image": "r:1"}), Ok(image));
        check(
            serde_json::json!({"ready": {"mode": "started"}}),
            with("ready", serde_json::to_value(ReadyMode::Started).unwrap()),
        );
    }

    #[test]
    fn secrets_are_taken_out_and_filled_in() {
        let mut given = settings(serde_json::json!({"secrets": {"a": "one", "b": null}}));
        let stored: Secrets = [("b".to_owned(), "two".into())].into();
        fill_secrets(&mut given, &stored).unwrap();
        let values = withhold(&mut given);
        assert_eq!(values["a"], "one".into());
        assert_eq!(values["b"], "two".into());
        assert!(given.secrets.unwrap()["a"].is_withheld());
        let mut unknown = settings(serde_json::json!({"secrets": {"c": null}}));
        assert!(fill_secrets(&mut unknown, &stored).is_err());
    }
}
