//! What a node is asked to be.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, HealthCheck, HealthProbe, NodeId, ReadyMode, RestartPolicy, Result,
    SecretValue, StopPolicy, bounds, id::printable,
};

/// The name of a node's main port.
pub const MAIN_PORT: &str = "main";

/// The program of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Program {
    /// A program of the host.
    Binary {
        /// An absolute path, or a bare name that is looked up on the agent's `PATH`.
        path: PathBuf,
        /// Its arguments, with [`Place`](crate::Place)'s placeholders.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
    },
    /// An image.
    Image {
        /// The image's reference.
        image: String,
        /// Arguments behind the image's entrypoint, with [`Place`](crate::Place)'s placeholders; empty leaves the image's own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
    },
}

impl Program {
    /// A program of the host.
    pub fn binary<A: Into<String>>(
        path: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self::Binary {
            path: path.into(),
            args: args.into_iter().map(Into::into).collect(),
        }
    }

    /// An image.
    pub fn image<A: Into<String>>(
        image: impl Into<String>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self::Image {
            image: image.into(),
            args: args.into_iter().map(Into::into).collect(),
        }
    }

    /// The arguments.
    pub fn args(&self) -> &[String] {
        match self {
            Self::Binary { args, .. } | Self::Image { args, .. } => args,
        }
    }
}

/// Who a node runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunAs {
    /// A user's name or number on the node's host.
    pub user: String,
    /// A group's name or number; `None` is the user's own group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// What a node is asked to be: the whole request, before anything is allocated.
///
/// Made by [`SpawnConfig::builder`] or read from JSON, and checked by [`SpawnConfig::validate`]; an adapter
/// validates before it acts. In JSON every field but `node_id` and `program` may be left out, unknown ones are
/// refused, and the values of secrets are read but never written.
///
/// ```
/// use grid_platform_api::{Program, RestartMode, SpawnConfig};
/// let config = SpawnConfig::builder("cache-1", Program::binary("redis-server", ["--port", "{port}"]))
///     .port(0)
///     .memory_limit_mb(256)
///     .restart(RestartMode::Always)
///     .build()?;
/// assert_eq!(config.node_id.as_str(), "cache-1");
/// # Ok::<(), grid_platform_api::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpawnConfig {
    /// The node's id.
    pub node_id: NodeId,
    /// What to run.
    pub program: Program,
    /// The ports by name; 0 asks for any. `main` is what `{port}` means.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// The address the program binds or the platform publishes; loopback unless told otherwise.
    #[serde(default = "loopback", skip_serializing_if = "is_loopback")]
    pub bind_address: IpAddr,
    /// Where the data is, on platforms that have paths; `None` is a place of the platform's choice, named after the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_path: Option<PathBuf>,
    /// How much data there may be, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_size_mb: Option<u64>,
    /// Memory, in MiB; without it there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_mb: Option<u64>,
    /// Processor time, in thousandths of one processor; without it there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<u32>,
    /// How many processes and threads there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u32>,
    /// How many descriptors each process may have open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files_limit: Option<u64>,
    /// Who to run as; `None` is the platform's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<RunAs>,
    /// The environment, with [`Place`](crate::Place)'s placeholders in its values; nothing else is inherited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets by name: files under `{secrets_dir}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretValue>,
    /// Secrets that are given by environment too: variable by secret's name. A named choice, because the
    /// environment of a program can be read by more than its files can.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_env: BTreeMap<String, String>,
    /// When it is restarted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: RestartPolicy,
    /// How it is stopped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop: StopPolicy,
    /// When spawning is done.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ready: ReadyMode,
    /// How to know that it serves; `None` is no check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Labels for people, and for placement.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Settings of one adapter, by its name; never part of the digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub adapter: BTreeMap<String, serde_json::Value>,
}

fn loopback() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

fn is_loopback(address: &IpAddr) -> bool {
    *address == loopback()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl SpawnConfig {
    /// Begins a request.
    pub fn builder(node_id: impl Into<String>, program: Program) -> SpawnConfigBuilder {
        SpawnConfigBuilder(NodeId::new(node_id).map(|id| Self::new(id, program)))
    }

    /// A request with every other field at its default.
    pub fn new(node_id: NodeId, program: Program) -> Self {
        Self {
            node_id,
            program,
            ports: BTreeMap::new(),
            bind_address: loopback(),
            storage_path: None,
            storage_size_mb: None,
            memory_limit_mb: None,
            cpu_limit_millis: None,
            pids_limit: None,
            open_files_limit: None,
            run_as: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            secret_env: BTreeMap::new(),
            restart: RestartPolicy::default(),
            stop: StopPolicy::default(),
            ready: ReadyMode::default(),
            health: None,
            labels: BTreeMap::new(),
            adapter: BTreeMap::new(),
        }
    }

    /// The requested main port; `None` for a node without one.
    pub fn main_port(&self) -> Option<u16> {
        self.ports.get(MAIN_PORT).copied()
    }

    /// Checks all that can be checked without a platform.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for the first fault found, with a hint.
    pub fn validate(&self) -> Result<()> {
        validate(self).map_err(|e| e.with_node(&self.node_id))
    }
}

pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message).with_hint(hint)
}

/// More than any machine has: 1 PiB in MiB. Greater figures are slips of the unit.
const MAX_MB: u64 = 1 << 30;

fn validate(config: &SpawnConfig) -> Result<()> {
    match &config.program {
        Program::Binary { path, .. } => validate_binary(path)?,
        Program::Image { image, .. } => {
            if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(invalid(
                    format!("`{}` is not an image reference", printable(image)),
                    "Write it as `registry/name:tag` or `name:tag`.",
                ));
            }
        }
    }
    for arg in config.program.args() {
        no_nul("an argument", arg)?;
    }
    if let Some(path) = &config.storage_path {
        validate_storage_path(path)?;
    }
    for (name, figure) in [
        ("memory_limit_mb", config.memory_limit_mb),
        ("storage_size_mb", config.storage_size_mb),
    ] {
        if let Some(mb) = figure
            && !(1..=MAX_MB).contains(&mb)
        {
            return Err(invalid(
                format!("`{name}` is {mb}, outside 1 to {MAX_MB} MiB"),
                format!("Leave `{name}` out for no limit."),
            ));
        }
    }
    for (name, figure) in [
        ("cpu_limit_millis", config.cpu_limit_millis.map(u64::from)),
        ("pids_limit", config.pids_limit.map(u64::from)),
        ("open_files_limit", config.open_files_limit),
    ] {
        if figure == Some(0) {
            return Err(invalid(
                format!("`{name}` is 0"),
                format!("Leave `{name}` out for no limit."),
            ));
        }
    }
    if let Some(run_as) = &config.run_as {
        for name in std::iter::once(&run_as.user).chain(&run_as.group) {
            if name.is_empty()
                || name.contains(|c: char| c.is_whitespace() || c == ':' || c.is_control())
            {
                return Err(invalid(
                    format!("`{}` is not a user or group", printable(name)),
                    "Use a name or a number of the node's host.",
                ));
            }
        }
    }
    validate_ports(config)?;
    validate_names(config)?;
    validate_policies(config)?;
    bounds::size(config)
}

fn validate_binary(path: &Path) -> Result<()> {
    let has_parts = path.as_os_str().as_encoded_bytes().contains(&b'/');
    if !has_parts && path.file_name().is_some() {
        // What stands before a bare name is the agent's to say.
        return bounds::path("the program's path", &Path::new("/").join(path));
    }
    if path.is_relative() {
        return Err(invalid(
            format!(
                "the program's path `{}` is relative",
                printable(&path.to_string_lossy())
            ),
            "Give an absolute path, or a bare name that is on the agent's `PATH`.",
        ));
    }
    bounds::path("the program's path", path)
}

fn validate_storage_path(path: &Path) -> Result<()> {
    bounds::path("`storage_path`", path)?;
    if path.parent().is_none() {
        return Err(invalid(
            "`storage_path` is `/`",
            "Name a directory beneath it: the whole host is no node's data.",
        ));
    }
    Ok(())
}

fn validate_ports(config: &SpawnConfig) -> Result<()> {
    let mut seen = BTreeMap::new();
    for (name, port) in &config.ports {
        if !is_name(name) {
            return Err(invalid(
                format!("`{}` is not a port name", printable(name)),
                "Use 1 to 40 lower-case letters, digits and `-`, with a letter first.",
            ));
        }
        if *port != 0
            && let Some(other) = seen.insert(*port, name)
        {
            return Err(invalid(
                format!("the ports `{other}` and `{name}` are both {port}"),
                "Give each its own number, or 0 to have one allocated.",
            ));
        }
    }
    let health_port = match config.health.as_ref().map(|h| &h.probe) {
        Some(HealthProbe::Tcp { port } | HealthProbe::Http { port, .. }) => {
            Some(port.as_deref().unwrap_or(MAIN_PORT))
        }
        None => None,
    };
    if let Some(name) = health_port
        && !config.ports.contains_key(name)
    {
        return Err(invalid(
            format!(
                "the health check asks the port `{}`, which the node does not have",
                printable(name)
            ),
            "Name one of the node's ports, or give the node a `main` port.",
        ));
    }
    Ok(())
}

fn validate_names(config: &SpawnConfig) -> Result<()> {
    for (key, value) in &config.env {
        env_name(key)?;
        no_nul("an environment value", value)?;
        if key.starts_with("SUTRA_") {
            return Err(invalid(
                format!("`{}` is set by the platform", printable(key)),
                "Names that start with `SUTRA_` are taken.",
            ));
        }
    }
    for name in config.secrets.keys() {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(allowed)
        {
            return Err(invalid(
                format!("`{}` is not a secret's name", printable(name)),
                "Use 1 to 64 letters, digits, `-`, `_` and `.`, without a `.` first.",
            ));
        }
    }
    for (key, secret) in &config.secret_env {
        env_name(key)?;
        if !config.secrets.contains_key(secret) {
            return Err(invalid(
                format!(
                    "`secret_env` names the secret `{}`, which is not given",
                    printable(secret)
                ),
                "Add it under `secrets`.",
            ));
        }
        if config.env.contains_key(key) || key.starts_with("SUTRA_") {
            return Err(invalid(
                format!("the variable `{}` is set twice", printable(key)),
                "Set it in `env` or in `secret_env`, and not under a `SUTRA_` name.",
            ));
        }
        let value = config.secrets.get(secret).and_then(SecretValue::expose);
        if value.is_some_and(|bytes| bytes.contains(&0)) {
            return Err(invalid(
                format!("the secret `{}` holds a NUL byte", printable(secret)),
                "An environment value cannot; read it from its file instead.",
            ));
        }
    }
    for (key, value) in &config.labels {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let fault = key.is_empty() || key.len() > 63 || !key.chars().all(allowed);
        let value_fault = value.len() > 63
            || !value
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if fault || value_fault || key.starts_with("sutra.") {
            return Err(invalid(
                format!(
                    "the label `{}={}` is not allowed",
                    printable(key),
                    printable(value)
                ),
                "Use up to 63 letters, digits, `-`, `_` and `.`; keys that start with `sutra.` are taken.",
            ));
        }
    }
    Ok(())
}

fn validate_policies(config: &SpawnConfig) -> Result<()> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let restart = &config.restart;
    if restart.initial_backoff.is_zero() || restart.initial_backoff > restart.max_backoff {
        return Err(invalid(
            "the restart back-off must be longer than 0 and no longer than `max_backoff_ms`",
            "Set `initial_backoff_ms` and `max_backoff_ms`, or leave both out.",
        ));
    }
    if restart.max_backoff > DAY || config.stop.grace > DAY {
        return Err(invalid(
            "a back-off or a grace period is longer than a day",
            "These figures are in milliseconds.",
        ));
    }
    if let Some(health) = &config.health {
        let path_fault = match &health.probe {
            HealthProbe::Http { path, .. } => {
                !path.starts_with('/')
                    || path.contains(|c: char| c.is_whitespace() || c.is_control())
            }
            HealthProbe::Tcp { .. } => false,
        };
        if path_fault
            || health.interval < Duration::from_millis(10)
            || health.timeout.is_zero()
            || health.threshold == 0
        {
            return Err(invalid(
                "the health check cannot be asked as given",
                "The path starts with `/` and has no spaces, `interval_ms` is at least 10, `timeout_ms` and `threshold` at least 1.",
            ));
        }
    }
    match config.ready {
        ReadyMode::Healthy { .. } if config.health.is_none() => Err(invalid(
            "the node is to be ready when healthy and has no health check",
            "Add `health`, or choose the ready mode `alive` or `started`.",
        )),
        ReadyMode::Healthy { timeout: d } | ReadyMode::Alive { for_: d } if d > DAY => {
            Err(invalid(
                "the ready mode waits for longer than a day",
                "The figure is in milliseconds.",
            ))
        }
        _ => Ok(()),
    }
}

fn no_nul(what: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(invalid(
            format!("{what} holds a NUL byte"),
            "No program could be given it; take it out.",
        ));
    }
    Ok(())
}

fn env_name(key: &str) -> Result<()> {
    let first = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if first && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(());
    }
    Err(invalid(
        format!("`{}` is not an environment variable's name", printable(key)),
        "Use letters, digits and `_`, with no digit first.",
    ))
}

fn is_name(text: &str) -> bool {
    text.len() <= 40
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Makes a [`SpawnConfig`]; [`build`](Self::build) checks it.
#[derive(Debug)]
#[must_use]
pub struct SpawnConfigBuilder(
    /// An id outside the grammar is reported by `build`, so that calls can be chained.
    Result<SpawnConfig>,
);

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) |$config:ident| $body:expr;)*) => {
        impl SpawnConfigBuilder {
            $($(#[$doc])* pub fn $name(mut self, $($arg: $ty),*) -> Self {
                if let Ok($config) = &mut self.0 {
                    $body;
                }
                self
            })*
        }
    };
}

setters! {
    /// Sets the main port; 0 asks for any.
    port(port: u16) |c| c.ports.insert(MAIN_PORT.to_owned(), port);
    /// Adds a port under a name; 0 asks for any.
    named_port(name: impl Into<String>, port: u16) |c| c.ports.insert(name.into(), port);
    /// Sets the address to bind.
    bind_address(address: IpAddr) |c| c.bind_address = address;
    /// Sets where the data is.
    storage_path(path: impl Into<PathBuf>) |c| c.storage_path = Some(path.into());
    /// Sets how much data there may be, in MiB.
    storage_size_mb(mb: u64) |c| c.storage_size_mb = Some(mb);
    /// Sets the memory limit, in MiB.
    memory_limit_mb(mb: u64) |c| c.memory_limit_mb = Some(mb);
    /// Sets the processor limit, in thousandths of one.
    cpu_limit_millis(millis: u32) |c| c.cpu_limit_millis = Some(millis);
    /// Sets how many processes and threads there may be.
    pids_limit(pids: u32) |c| c.pids_limit = Some(pids);
    /// Sets how many descriptors each process may have open.
    open_files_limit(files: u64) |c| c.open_files_limit = Some(files);
    /// Sets who to run as.
    run_as(run_as: RunAs) |c| c.run_as = Some(run_as);
    /// Adds an environment variable.
    env(key: impl Into<String>, value: impl Into<String>) |c| c.env.insert(key.into(), value.into());
    /// Adds a secret.
    secret(name: impl Into<String>, value: SecretValue) |c| c.secrets.insert(name.into(), value);
    /// Gives a secret by an environment variable too.
    secret_env(variable: impl Into<String>, secret: impl Into<String>) |c| c.secret_env.insert(variable.into(), secret.into());
    /// Sets when it is restarted.
    restart(policy: impl Into<RestartPolicy>) |c| c.restart = policy.into();
    /// Sets how it is stopped.
    stop(policy: StopPolicy) |c| c.stop = policy;
    /// Sets when spawning is done.
    ready(mode: ReadyMode) |c| c.ready = mode;
    /// Sets how to know that it serves.
    health(check: HealthCheck) |c| c.health = Some(check);
    /// Adds a label.
    label(key: impl Into<String>, value: impl Into<String>) |c| c.labels.insert(key.into(), value.into());
    /// Adds a setting for one adapter.
    adapter_setting(adapter: impl Into<String>, value: serde_json::Value) |c| c.adapter.insert(adapter.into(), value);
}

impl SpawnConfigBuilder {
    /// The request, checked.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for the first fault found.
    pub fn build(self) -> Result<SpawnConfig> {
        let config = self.0?;
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RestartMode;

    fn builder() -> SpawnConfigBuilder {
        SpawnConfig::builder("n1", Program::binary("/bin/true", [""; 0])).port(0)
    }

    #[test]
    fn faults_are_found_and_hinted() {
        let check = |what: &str, builder: SpawnConfigBuilder| {
            let error = builder.build().expect_err(what);
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{what}");
            assert!(error.hint().is_some(), "{what}");
            assert!(!error.to_string().ends_with('.'), "{what}: {error}");
        };
        let program = |path: &str| SpawnConfig::builder("n1", Program::binary(path, [""; 0]));
        check(
            "id",
            SpawnConfig::builder("../x", Program::binary("/a", [""; 0])),
        );
        check("relative program", program("./server"));
        check("empty program", program(""));
        check(
            "nul in arg",
            SpawnConfig::builder("n1", Program::binary("/a", ["\0"])),
        );
        check(
            "image",
            SpawnConfig::builder("n1", Program::image("a b", [""; 0])),
        );
        check("relative storage", builder().storage_path("data"));
        check("climbing storage", builder().storage_path("/data/../etc"));
        check("root storage", builder().storage_path("/"));
        check("memory 0", builder().memory_limit_mb(0));
        check("memory in bytes", builder().memory_limit_mb(u64::MAX));
        check("cpu 0", builder().cpu_limit_millis(0));
        check("env name", builder().env("1A", ""));
        check("env reserved", builder().env("SUTRA_PORT", "1"));
        check("secret name", builder().secret("../x", "v".into()));
        check("secret env unknown", builder().secret_env("A", "none"));
        check(
            "secret env twice",
            builder()
                .env("A", "1")
                .secret("s", "v".into())
                .secret_env("A", "s"),
        );
        check("port name", builder().named_port("Main", 1));
        check("same port", builder().port(80).named_port("b", 80));
        check(
            "health port",
            builder().health(HealthCheck {
                probe: HealthProbe::Tcp {
                    port: Some("x".into()),
                },
                ..HealthCheck::tcp()
            }),
        );
        check(
            "health path",
            builder().health(HealthCheck::http("healthz")),
        );
        check(
            "healthy without check",
            builder().ready(ReadyMode::Healthy {
                timeout: Duration::from_secs(1),
            }),
        );
        check("label", builder().label("sutra.grid", "true"));
        check(
            "user",
            builder().run_as(RunAs {
                user: "a:b".into(),
                group: None,
            }),
        );
    }

    #[test]
    fn json_refuses_unknown_fields_and_drops_secrets() {
        let config = builder()
            .secret("password", "hunter2".into())
            .restart(RestartMode::Always)
            .build()
            .unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert!(!json.contains("hunter2"));
        let back: SpawnConfig = serde_json::from_str(&json).unwrap();
        assert!(back.secrets["password"].is_withheld());
        assert_eq!(back.restart.mode, RestartMode::Always);
        let typo = r#"{"node_id":"a","program":{"kind":"binary","path":"/a"},"memory":1}"#;
        assert!(serde_json::from_str::<SpawnConfig>(typo).is_err());
    }
}
