//! The adapter's settings.

use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::{net::IpAddr, ops::RangeInclusive};

#[cfg(target_os = "linux")]
use grid_platform_api::{ErrorKind, Result};
#[cfg(target_os = "linux")]
use grid_platform_host::data::Places;
use serde::{Deserialize, Serialize};

#[cfg(target_os = "linux")]
use crate::error::error;

/// Which programs may be nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allow {
    /// Any program of the host: for who runs the adapter on a machine and for requests of his own.
    Any,
    /// These: absolute paths, or bare names that are looked up like a request's. An empty list allows none.
    Only(Vec<PathBuf>),
}

impl Default for Allow {
    /// None at all: an agent's owner names what may run.
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

/// Whether nodes get cgroups: they keep limits, and find what is left after a shim was killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupMode {
    /// Where cgroups (version 1 or 2) can be made; else a request with a limit is `Unsupported`.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// The settings of a [`ProcessPlatform`](crate::ProcessPlatform).
///
/// What is not given has a safe default: no program may run until [`programs`](Self::programs) says so.
///
/// ```
/// use grid_platform_process::{Allow, ProcessConfig};
/// let config = ProcessConfig {
///     programs: Allow::Only(vec!["redis-server".into()]),
///     ..ProcessConfig::new("/var/lib/grid/state", "/var/lib/grid/data")
/// };
/// assert_eq!(config.roots(), [std::path::Path::new("/var/lib/grid/data")]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// Where records and logs are kept; made if it is not there. One living adapter at a time.
    pub state_dir: PathBuf,
    /// Where nodes that name no path have their data, in a directory named after the node; made if it is not there.
    pub data_path: PathBuf,
    /// Beneath which directories a request may name a path; empty: beneath `data_path`.
    #[serde(default)]
    pub storage_roots: Vec<PathBuf>,
    /// Which programs may be nodes.
    #[serde(default)]
    pub programs: Allow,
    /// Which users a request may name besides the adapter's own, by name or number, with any group that the user is in.
    /// Only root can change user.
    #[serde(default)]
    pub users: Vec<String>,
    /// Where a program's bare name is looked up; also the `PATH` of programs whose request sets none.
    #[serde(default = "default_search_path")]
    pub search_path: Vec<PathBuf>,
    /// From which ports 0 is allocated. The default lies below the range that Linux takes for outgoing connections.
    #[serde(default = "default_ports")]
    pub port_range: (u16, u16),
    /// The host name or address in endpoints; `None` is the address that the node binds.
    #[serde(default)]
    pub advertise: Option<String>,
    /// How much of a node's log is kept, in bytes. On file systems without holes the whole log is dropped at this size.
    #[serde(default = "default_log_bytes")]
    pub log_max_bytes: u64,
    /// Whether nodes get cgroups.
    #[serde(default)]
    pub cgroups: CgroupMode,
}

fn default_search_path() -> Vec<PathBuf> {
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(PathBuf::from)
    .to_vec()
}

fn default_ports() -> (u16, u16) {
    (20_000, 29_999)
}

fn default_log_bytes() -> u64 {
    64 * 1024 * 1024
}

impl ProcessConfig {
    /// Everything at its default but these paths.
    pub fn new(state_dir: impl Into<PathBuf>, data_path: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            data_path: data_path.into(),
            storage_roots: Vec::new(),
            programs: Allow::default(),
            users: Vec::new(),
            search_path: default_search_path(),
            port_range: default_ports(),
            advertise: None,
            log_max_bytes: default_log_bytes(),
            cgroups: CgroupMode::default(),
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
}

#[cfg(target_os = "linux")]
impl ProcessConfig {
    /// Where data may be.
    pub(crate) fn places(&self) -> Places {
        Places {
            data_path: self.data_path.clone(),
            roots: self.roots().into_iter().map(Path::to_owned).collect(),
            state_dir: self.state_dir.clone(),
        }
    }

    pub(crate) fn ports(&self) -> RangeInclusive<u16> {
        self.port_range.0..=self.port_range.1
    }

    /// The host that clients of a node are told.
    pub(crate) fn host(&self, bind: IpAddr) -> String {
        match &self.advertise {
            Some(host) => host.clone(),
            None => grid_platform_host::health::reachable(bind).to_string(),
        }
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
        let search = self.search_path.iter().map(|it| ("search_path", it));
        for (key, path) in paths.into_iter().chain(roots).chain(search) {
            // They become part of records, of programs' environments and of messages.
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

    #[cfg(target_os = "linux")]
    #[test]
    fn faults_are_found() {
        let check = |expect: bool, change: &dyn Fn(&mut ProcessConfig)| {
            let mut config = ProcessConfig::new("/s", "/d");
            change(&mut config);
            assert_eq!(config.validate().is_ok(), expect, "{config:?}");
        };
        check(true, &|_| {});
        check(false, &|it| it.state_dir = "s".into());
        check(false, &|it| it.data_path = "/d/../e".into());
        check(false, &|it| it.storage_roots = vec!["x".into()]);
        check(false, &|it| it.search_path = vec!["bin".into()]);
        check(false, &|it| it.data_path = "/d\n".into());
        check(false, &|it| it.state_dir = "/s\0".into());
        let bytes: std::ffi::OsString =
            std::os::unix::ffi::OsStringExt::from_vec(b"/\xff".to_vec());
        let path = PathBuf::from(bytes);
        check(false, &|it| it.state_dir = path.clone());
        check(true, &|it| it.storage_roots = vec!["/".into()]);
        check(false, &|it| it.data_path = "/s".into());
        check(false, &|it| it.data_path = "/s/data".into());
        check(true, &|it| it.state_dir = "/d/state".into());
        check(false, &|it| it.port_range = (0, 5));
        check(false, &|it| it.port_range = (6, 5));
        check(true, &|it| it.port_range = (5, 5));
        check(false, &|it| it.log_max_bytes = 1);
    }

    #[test]
    fn settings_read_with_defaults_and_refuse_unknown_keys() {
        let read = |text: &str| serde_json::from_str::<ProcessConfig>(text);
        let config = read(r#"{"state_dir":"/s","data_path":"/d"}"#).unwrap();
        assert_eq!(config, ProcessConfig::new("/s", "/d"));
        assert_eq!(config.programs, Allow::Only(Vec::new()));
        let config =
            read(r#"{"state_dir":"/s","data_path":"/d","programs":{"only":["redis-server"]}}"#)
                .unwrap();
        assert_eq!(config.programs, Allow::Only(vec!["redis-server".into()]));
        assert!(read(r#"{"state_dir":"/s","data_path":"/d","program":"any"}"#).is_err());
    }
}
