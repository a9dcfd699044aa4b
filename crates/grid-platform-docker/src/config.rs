//! The adapter's settings.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use grid_platform_api::{ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::error::error;

/// Which images may be nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allow {
    /// Any image: for who runs the adapter for requests of his own.
    Any,
    /// These, as a request writes them. An empty list allows none.
    Only(Vec<String>),
}

impl Default for Allow {
    /// None at all: an agent's owner names what may run.
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// When the engine does not have it.
    #[default]
    IfMissing,
    /// Before each new node, so that a tag that was moved is followed.
    Always,
    /// Never: the engine has what it has.
    Never,
}

/// What is loosened of how nodes are kept in. Everything is tight by default, and no request can loosen it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// A request that names no user runs as the image says, root too: for images whose entrypoint takes a
    /// directory over and drops its rights by itself.
    pub run_as_image_user: bool,
    /// Capabilities that nodes have, by their names without `CAP_`; by default none.
    pub cap_add: Vec<String>,
    /// The image's file system can be written to.
    pub writable_root: bool,
    /// Programs may gain rights by set-user-id files and file capabilities.
    pub allow_new_privileges: bool,
}

/// The settings of a [`DockerPlatform`](crate::DockerPlatform).
///
/// What is not given has a safe default: no image may run until [`images`](Self::images) says so.
///
/// ```
/// use grid_platform_docker::{Allow, DockerConfig};
/// let config = DockerConfig {
///     images: Allow::Only(vec!["redis:7".into()]),
///     ..DockerConfig::new("/var/lib/grid/state", "/var/lib/grid/data")
/// };
/// assert_eq!(config.roots(), [std::path::Path::new("/var/lib/grid/data")]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerConfig {
    /// Where the install id and what was asked of nodes is kept; made if it is not there. One living adapter at a time.
    pub state_dir: PathBuf,
    /// Where nodes have their data, in a directory named after the node, if the engine sees the same file system. Where
    /// it does not, data is in volumes of the engine.
    pub data_path: PathBuf,
    /// Beneath which directories a request may name a path; empty: beneath `data_path`.
    #[serde(default)]
    pub storage_roots: Vec<PathBuf>,
    /// Where the engine is: `unix:///PATH`, `tcp://HOST:PORT`. Without it the context says so, and without one
    /// it is `unix:///var/run/docker.sock`.
    #[serde(default)]
    pub host: Option<String>,
    /// The Docker context that says where the engine is; `None` is the one that `config_file` names.
    #[serde(default)]
    pub context: Option<String>,
    /// The directory of `ca.pem`, `cert.pem` and `key.pem`: with it, a `tcp://` host is spoken to by TLS.
    #[serde(default)]
    pub cert_path: Option<PathBuf>,
    /// Docker's own `config.json`: contexts and credentials of registries. `None` is to have none of it.
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    /// Which images may be nodes.
    #[serde(default)]
    pub images: Allow,
    /// When images are pulled.
    #[serde(default)]
    pub pull: Pull,
    /// A file that `docker save` made, which is loaded when an image is missing.
    #[serde(default)]
    pub image_archive: Option<PathBuf>,
    /// A network of the engine that nodes are in, made by its owner; `None` is the engine's own bridge.
    #[serde(default)]
    pub network: Option<String>,
    /// The host name or address in endpoints; `None` is the address at which ports are published.
    #[serde(default)]
    pub advertise_address: Option<String>,
    /// From which ports 0 is allocated. The default lies below the range that Linux takes for outgoing connections.
    #[serde(default = "default_ports")]
    pub port_range: (u16, u16),
    /// Who nodes run as whose request names no user and whose image names none but root: `UID` or `UID:GID`, numbers.
    #[serde(default = "default_user")]
    pub user: String,
    /// Which users a request may name, by name or number, besides the one of `user`.
    #[serde(default)]
    pub users: Vec<String>,
    /// What is loosened of how nodes are kept in.
    #[serde(default)]
    pub security: Security,
    /// How much of a node's log the engine keeps, in bytes.
    #[serde(default = "default_log_bytes")]
    pub log_max_bytes: u64,
}

fn default_ports() -> (u16, u16) {
    (20_000, 29_999)
}

fn default_user() -> String {
    // `nonroot` of the images that have no users of their own.
    "65532:65532".to_owned()
}

fn default_log_bytes() -> u64 {
    64 * 1024 * 1024
}

impl DockerConfig {
    /// Everything at its default but these paths.
    pub fn new(state_dir: impl Into<PathBuf>, data_path: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            data_path: data_path.into(),
            storage_roots: Vec::new(),
            host: None,
            context: None,
            cert_path: None,
            config_file: None,
            images: Allow::default(),
            pull: Pull::default(),
            image_archive: None,
            network: None,
            advertise_address: None,
            port_range: default_ports(),
            user: default_user(),
            users: Vec::new(),
            security: Security::default(),
            log_max_bytes: default_log_bytes(),
        }
    }

    /// The directories beneath which data may be.
    pub fn roots(&self) -> Vec<&Path> {
        if self.storage_roots.is_empty() {
            vec![&self.data_path]
        } else {
            self.storage_roots.iter().map(PathBuf::as_path).collect()
        }
    }

    pub(crate) fn ports(&self) -> RangeInclusive<u16> {
        self.port_range.0..=self.port_range.1
    }

    /// The user and group of [`user`](Self::user), as numbers.
    pub(crate) fn account(&self) -> Option<(u32, u32)> {
        let (user, group) = match self.user.split_once(':') {
            Some((user, group)) => (user, group),
            None => (self.user.as_str(), self.user.as_str()),
        };
        Some((user.parse().ok()?, group.parse().ok()?))
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |message: String, hint: &str| {
            Err(error(ErrorKind::InvalidConfig, message).with_hint(hint))
        };
        let paths = [
            ("state_dir", &self.state_dir),
            ("data_path", &self.data_path),
        ];
        let roots = self.storage_roots.iter().map(|it| ("storage_roots", it));
        let optional = [
            ("cert_path", &self.cert_path),
            ("config_file", &self.config_file),
            ("image_archive", &self.image_archive),
        ];
        let optional = optional
            .into_iter()
            .filter_map(|(key, it)| Some((key, it.as_ref()?)));
        for (key, path) in paths.into_iter().chain(roots).chain(optional) {
            // They become part of labels, of the engine's answers and of messages.
            if path.to_str().is_none_or(|it| it.contains(char::is_control)) {
                return invalid(
                    format!(
                        "`{key}` holds {:?}, which is no line of text",
                        path.as_os_str()
                    ),
                    "Name a path in UTF-8 without control characters.",
                );
            }
            if !path.is_absolute() || path.components().any(|it| it.as_os_str() == "..") {
                return invalid(
                    format!("`{key}` is `{}`", path.display()),
                    "Give an absolute path without `..`.",
                );
            }
        }
        if self.data_path.starts_with(&self.state_dir) {
            return invalid(
                format!(
                    "`data_path` `{}` lies in `state_dir` `{}`",
                    self.data_path.display(),
                    self.state_dir.display()
                ),
                "Give data a directory beside the state's.",
            );
        }
        if self.port_range.0 == 0 || self.port_range.0 > self.port_range.1 {
            return invalid(
                format!("`port_range` is {:?}", self.port_range),
                "Give the first and the last port, from 1 to 65535.",
            );
        }
        if self.account().is_none_or(|(user, _)| user == 0) {
            return invalid(
                format!("`user` is `{}`", self.user.escape_debug()),
                "Give a number that is not root's, and a group behind `:` if it is another; `security.run_as_image_user` lets images be root.",
            );
        }
        for capability in &self.security.cap_add {
            let fine = |it: char| it.is_ascii_uppercase() || it.is_ascii_digit() || it == '_';
            if capability.is_empty() || !capability.chars().all(fine) {
                return invalid(
                    format!(
                        "`security.cap_add` names `{}`, which is no capability",
                        capability.escape_debug()
                    ),
                    "Write capabilities as `CHOWN` or `NET_BIND_SERVICE`; capabilities(7) lists them.",
                );
            }
        }
        let shared = |it: &String| {
            matches!(it.as_str(), "" | "host" | "none")
                || ["container:", "ns:"]
                    .iter()
                    .any(|kind| it.starts_with(kind))
        };
        if let Some(network) = self.network.as_ref().filter(|it| shared(it)) {
            return invalid(
                format!("`network` is `{}`", network.escape_debug()),
                "Name a network that `docker network create` made: nodes have no network of the host's or of another container, and need one.",
            );
        }
        const LEAST_LOG: u64 = 64 * 1024;
        if self.log_max_bytes < LEAST_LOG {
            return invalid(
                format!("`log_max_bytes` is {}", self.log_max_bytes),
                "Keep at least 65536 bytes of log.",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found() {
        let check = |expect: bool, change: &dyn Fn(&mut DockerConfig)| {
            let mut config = DockerConfig::new("/s", "/d");
            change(&mut config);
            assert_eq!(config.validate().is_ok(), expect, "{config:?}");
        };
        check(true, &|_| {});
        check(false, &|it| it.state_dir = "s".into());
        check(false, &|it| it.data_path = "/d/../e".into());
        check(false, &|it| it.data_path = "/d\n".into());
        check(false, &|it| it.data_path = "/s/data".into());
        check(false, &|it| it.storage_roots = vec!["x".into()]);
        check(false, &|it| it.cert_path = Some("x".into()));
        check(false, &|it| it.port_range = (0, 5));
        check(false, &|it| it.port_range = (6, 5));
        check(true, &|it| it.port_range = (5, 5));
        check(true, &|it| it.user = "1000".into());
        check(false, &|it| it.user = "0:0".into());
        check(false, &|it| it.user = "redis".into());
        check(true, &|it| it.security.cap_add = vec!["CHOWN".into()]);
        check(false, &|it| it.security.cap_add = vec!["chown".into()]);
        check(false, &|it| it.security.cap_add = vec![String::new()]);
        check(false, &|it| it.log_max_bytes = 1);
        check(true, &|it| it.network = Some("hosts".into()));
        for network in ["", "host", "none", "container:n1", "ns:/proc/1/ns/net"] {
            check(false, &|it| it.network = Some(network.into()));
        }
    }

    #[test]
    fn settings_read_with_defaults_and_refuse_unknown_keys() {
        let read = |text: &str| serde_json::from_str::<DockerConfig>(text);
        let config = read(r#"{"state_dir":"/s","data_path":"/d"}"#).unwrap();
        assert_eq!(config, DockerConfig::new("/s", "/d"));
        assert_eq!(config.images, Allow::Only(Vec::new()));
        assert_eq!(config.account(), Some((65_532, 65_532)));
        let config = read(
            r#"{"state_dir":"/s","data_path":"/d","pull":"never","security":{"cap_add":["CHOWN"]}}"#,
        )
        .unwrap();
        assert_eq!(config.pull, Pull::Never);
        assert_eq!(config.security.cap_add, ["CHOWN"]);
        assert!(read(r#"{"state_dir":"/s","data_path":"/d","privileged":true}"#).is_err());
        assert!(
            read(r#"{"state_dir":"/s","data_path":"/d","security":{"privileged":true}}"#).is_err()
        );
    }
}
