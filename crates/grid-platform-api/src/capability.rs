//! What a platform can do, as data: the suite selects by it, the scheduler reads it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{OwnerId, RestartMode};

/// What a platform can do. Everything that is not said to be there is `Unsupported` when asked for.
///
/// `Default` is a platform that can do nothing beyond the contract's core; an adapter lists what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Capabilities {
    /// It runs programs of the host ([`Program::Binary`](crate::Program::Binary)).
    pub binary_programs: bool,
    /// It runs images ([`Program::Image`](crate::Program::Image)).
    pub image_programs: bool,
    /// The restart policies it can keep.
    pub restart_modes: BTreeSet<RestartMode>,
    /// `max_restarts` and the back-off times of a restart policy are kept, not replaced by its own.
    pub restart_tuning: bool,
    /// The restart policy is held back until the node is ready, so that a program that ends before is not started
    /// again. Without it a failed spawn is ended too, but its program may have run more than once.
    pub trial: bool,
    /// `memory_limit_mb` is enforced, and reaching it shows as `OutOfMemory`.
    pub memory_limit: bool,
    /// `cpu_limit_millis` is enforced.
    pub cpu_limit: bool,
    /// `pids_limit` is enforced.
    pub pids_limit: bool,
    /// `open_files_limit` is enforced.
    pub open_files_limit: bool,
    /// `storage_size_mb` is enforced or reserved.
    pub storage_size: bool,
    /// `storage_path` of a request is used (within the roots that its settings allow).
    pub storage_path: bool,
    /// The node's user can be chosen.
    pub user: bool,
    /// Secrets are files under `{secrets_dir}`.
    pub secrets: bool,
    /// A secret can be given by the environment too
    /// ([`SpawnConfig::secret_env`](crate::SpawnConfig::secret_env)).
    pub secret_env: bool,
    /// TCP and HTTP health checks.
    pub health_checks: bool,
    /// A port of 0 is allocated.
    pub port_allocation: bool,
    /// Two nodes cannot have the same port, as they share an address.
    pub exclusive_ports: bool,
    /// The stop signal of the request is sent.
    pub stop_signal: bool,
    /// Logs can be read once the node is stopped.
    pub logs_after_stop: bool,
    /// Log positions can be found by time ([`LogCursor::Since`](crate::LogCursor::Since)).
    pub logs_since: bool,
    /// A log line tells whether it was stdout or stderr.
    pub log_streams: bool,
    /// [`Platform::get_usage`](crate::Platform::get_usage). Where that is an add-on of the platform, as a cluster's metrics
    /// server is, it may come and go: [`Platform::probe`](crate::Platform::probe), and the call for a node that runs, look
    /// anew.
    pub usage: bool,
    /// Nodes live on when the process that holds the adapter ends, and a new adapter over the same
    /// state finds them.
    pub nodes_outlive_adapter: bool,
    /// [`SpawnedNode::pid`](crate::SpawnedNode::pid) is a process of this host.
    pub host_pids: bool,
    /// A stop that cannot be confirmed can be forced.
    pub force_stop: bool,
}

impl Capabilities {
    /// A platform that can do nothing beyond the contract's core.
    pub fn none() -> Self {
        Self::default()
    }
}

/// How one thing stands that a platform needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// It is there.
    Ok,
    /// It is missing, and a capability is missing with it.
    Degraded,
    /// It is missing, and no node can run.
    Failed,
}

/// One line of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it stands.
    pub status: CheckStatus,
    /// What was found: lower case, no full stop.
    pub detail: String,
    /// The sentence that names the mend, if there is something to mend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What [`Platform::probe`](crate::Platform::probe) found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformInfo {
    /// The platform's name.
    pub platform: String,
    /// The version of the daemon, API server or kernel behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Who owns what this adapter makes.
    pub owner: OwnerId,
    /// What it can do, here and now.
    pub capabilities: Capabilities,
    /// What was looked at, in the order in which it matters.
    pub checks: Vec<Check>,
}

impl PlatformInfo {
    /// Whether nodes can run: no check failed.
    pub fn is_usable(&self) -> bool {
        self.checks
            .iter()
            .all(|check| check.status != CheckStatus::Failed)
    }
}

/// What a node uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeUsage {
    /// When it was read.
    pub at: jiff::Timestamp,
    /// Processor time since the program's start, in milliseconds, of the whole process tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_time_ms: Option<u64>,
    /// Resident memory of the whole process tree, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The memory limit, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// What the data path takes on disk, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// How many processes the node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
}
