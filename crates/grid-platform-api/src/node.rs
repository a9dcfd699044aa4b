//! A node as the platform shows it.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Digest, Exit, Failure, NodeId, NodeUid};

/// Where a node is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum NodeState {
    /// It is wanted and not running: being started, pulled, scheduled, or waiting out a back-off
    /// (then [`SpawnedNode::last_failure`] tells of what).
    Pending,
    /// Its program runs.
    Running,
    /// It was asked to end and has not been confirmed gone.
    Stopping,
    /// It is not running and should not: it was stopped, or its program ended well under its policy.
    Stopped {
        /// How the program ended, if it ran and that was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<Exit>,
    },
    /// It is not running and nothing will start it again by itself.
    Failed {
        /// Why.
        failure: Failure,
    },
}

impl NodeState {
    /// The phase alone, as it stands in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped { .. } => "stopped",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether the program runs.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running)
    }

    /// Whether the node is at rest: stopped or failed.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::Failed { .. })
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed { failure } => Some(failure),
            _ => None,
        }
    }
}

/// What the node's health check says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Health {
    /// The node has no health check, or does not run.
    #[default]
    Unchecked,
    /// No answer has come yet.
    Starting,
    /// The last answer was good.
    Healthy,
    /// As many answers in a row as the threshold were bad.
    Unhealthy {
        /// The last bad answer in words.
        message: String,
    },
}

impl Health {
    /// The status alone, as it stands in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy { .. } => "unhealthy",
        }
    }
}

/// Where clients reach a node's main port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// A host name or address.
    pub host: String,
    /// The port clients connect to; it may differ from the one the program binds.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A node that a platform knows: running, stopped or failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpawnedNode {
    /// The node's id.
    pub node_id: NodeId,
    /// This incarnation.
    pub uid: NodeUid,
    /// The platform's name.
    pub platform: String,
    /// The platform's own handle: a container id, a pod name, a unit, a process directory.
    pub native_handle: String,
    /// The program's process id, where the platform has one that this host can see, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: NodeState,
    /// What its health check says.
    #[serde(default)]
    pub health: Health,
    /// Where clients reach its main port; `None` for a node without ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Every port by name, as clients reach them. They belong to the node until it is removed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
    /// How often the platform started the program again by itself since the last spawn.
    pub restarts: u32,
    /// How the program last ended badly, if it did since the last spawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When the program was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the program last ended; `None` while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// What the node was asked to be.
    pub digest: Digest,
    /// Its image as the platform has it, on platforms with images: `name@sha256:…` where it came from a registry, else its
    /// own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Where its data is on the host, where the host can see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<PathBuf>,
    /// The labels of the request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Data of a node, whether the node still exists or was removed and its data kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeData {
    /// The node the data is of.
    pub node_id: NodeId,
    /// Where it is: a path, a volume's or a claim's name.
    pub location: String,
    /// Whether a record of the node exists; data without one is a leftover that can be purged.
    pub in_use: bool,
    /// Whether the platform made it. What it did not make it never deletes.
    pub created_by_platform: bool,
    /// Its size in bytes, where the platform can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_written_as_clients_type_them() {
        let check = |host: &str, expect: &str| {
            let endpoint = Endpoint {
                host: host.into(),
                port: 80,
            };
            assert_eq!(endpoint.to_string(), expect);
        };
        check("127.0.0.1", "127.0.0.1:80");
        check("::1", "[::1]:80");
        check("db.example", "db.example:80");
    }
}
