//! Between the contract's words and the engine's, and nothing else: a request becomes a container, a container becomes a node.
//! All of it is pure and has tables of examples.

mod container;
mod failure;
mod node;
mod observed;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use grid_platform_api::{Digest, Failure, Health, NodeId, NodeUid, SpawnConfig, Timestamp};
use serde::{Deserialize, Serialize};

use crate::tar::Owner;

pub(crate) use container::{
    Ground, Policy, container, grace_seconds, kept_by, unmountable, would_restart,
};
pub(crate) use failure::{
    bad_end, early_end, ended, exit, is_ended_meanwhile, is_gone, is_killed, is_left_over,
    is_port_taken, known_start_failure, lacks_rights, one_line, says_nothing, start_failure,
};
pub(crate) use node::{Facts, node};
pub(crate) use observed::{Read, phase_of, read};

/// What became of an image that begins as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// It does not, or the request names a user.
    NotAsked,
    /// It runs as another user.
    Refused,
    /// It runs as root, with the capabilities that the settings give it.
    Granted,
}

impl Root {
    /// The label's value.
    pub(crate) fn as_str(self) -> Option<&'static str> {
        match self {
            Self::NotAsked => None,
            Self::Refused => Some("refused"),
            Self::Granted => Some("granted"),
        }
    }

    /// Reads a label's value.
    pub(crate) fn read(text: Option<&String>) -> Self {
        match text.map(String::as_str) {
            Some("refused") => Self::Refused,
            Some("granted") => Self::Granted,
            _ => Self::NotAsked,
        }
    }
}

/// Where a node has its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DataPlace {
    /// A directory that agent and engine both see.
    Path {
        /// The directory.
        path: PathBuf,
        /// The adapter made it, or made it for an earlier node of the id.
        ours: bool,
    },
    /// A volume of the engine, by its name.
    Volume {
        /// The volume's name.
        name: String,
    },
}

/// What a container's labels say: the record of a node. It is made with the container and never changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// The container's id.
    pub(crate) container: String,
    pub(crate) uid: NodeUid,
    pub(crate) digest: Digest,
    /// The request, without the values of secrets.
    pub(crate) config: SpawnConfig,
    /// The ports by name, as clients reach them.
    pub(crate) ports: BTreeMap<String, u16>,
    /// The ports by name, as the program binds them.
    pub(crate) inside: BTreeMap<String, u16>,
    pub(crate) data: DataPlace,
    /// The image as it was when the node was made: its digest in a registry, or else its id.
    pub(crate) image: String,
    /// What became of an image that begins as root.
    pub(crate) root: Root,
    pub(crate) created_at: Timestamp,
}

/// In which state the engine says a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Made and never started, or its start failed.
    Created,
    Running,
    Paused,
    /// Ended, and to be started again by its policy.
    Restarting,
    /// Being removed.
    Removing,
    Exited,
    /// The engine could not remove it whole.
    Dead,
}

impl Phase {
    /// Whether a program runs, or is about to.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// What the engine says of a container at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observed {
    pub(crate) phase: Phase,
    /// The process id on the engine's host, while it runs.
    pub(crate) pid: Option<u32>,
    pub(crate) exit_code: i64,
    /// The kernel ended it for its memory limit.
    pub(crate) out_of_memory: bool,
    /// Why its start failed, in the engine's words.
    pub(crate) error: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    /// How often its policy started it again.
    pub(crate) restarts: u32,
    /// What the image's own health check says; `None` when there is none.
    pub(crate) health: Option<Health>,
    /// The restart policy that it has now.
    pub(crate) policy: Policy,
    /// It has a terminal: its log is not framed.
    pub(crate) tty: bool,
    /// The image's id.
    pub(crate) image: String,
    /// Who it runs as.
    pub(crate) user: Option<Owner>,
}

/// What is asked of a node, beyond its request. It is durable before the engine is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "goal", rename_all = "snake_case")]
pub(crate) enum Goal {
    /// That it runs, as far as its policy goes.
    #[default]
    Running,
    /// That it is stopped.
    Stopped,
    /// Nothing: its start failed.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// The id of the node whose object has these labels.
pub(crate) fn node_id(labels: &HashMap<String, String>) -> Option<NodeId> {
    NodeId::new(labels.get(label::NODE_ID)?.as_str()).ok()
}

/// The labels of our objects.
pub(crate) mod label {
    /// `true` on everything that is a grid's.
    pub(crate) const GRID: &str = "sutra.grid";
    pub(crate) const NODE_ID: &str = "sutra.node_id";
    /// The install id of who made it.
    pub(crate) const OWNER: &str = "sutra.owner";
    pub(crate) const UID: &str = "sutra.uid";
    pub(crate) const DIGEST: &str = "sutra.digest";
    /// The request as JSON, without the values of secrets.
    pub(crate) const SPEC: &str = "sutra.spec";
    /// The ports by name as JSON, as clients reach them.
    pub(crate) const PORTS: &str = "sutra.ports";
    /// Where the data is, as JSON.
    pub(crate) const DATA: &str = "sutra.data";
    /// The image's digest or id when the node was made.
    pub(crate) const IMAGE: &str = "sutra.image";
    /// What became of an image that begins as root: `refused` or `granted`.
    pub(crate) const ROOT: &str = "sutra.root";
    /// On a container that never runs: for which node it was made.
    pub(crate) const HELPER: &str = "sutra.helper";
    /// Before each label of the request.
    pub(crate) const USER: &str = "sutra.label.";
}

#[cfg(test)]
pub(crate) mod tests {
    use grid_platform_api::{DigestKey, Program, SpawnConfigBuilder};

    use super::*;

    /// A request for an image.
    pub(crate) fn request() -> SpawnConfigBuilder {
        SpawnConfig::builder("n1", Program::image("img:1", [""; 0]))
    }

    /// The record of a request.
    pub(crate) fn record(config: SpawnConfig) -> Record {
        Record {
            container: "c0".repeat(32),
            uid: NodeUid::from_bytes([7; 16]),
            digest: Digest::of(&config, &DigestKey::from_bytes([1; 32])),
            ports: config
                .ports
                .keys()
                .zip(20_001..)
                .map(|(name, port)| (name.clone(), port))
                .collect(),
            inside: BTreeMap::new(),
            data: DataPlace::Path {
                path: "/d/n1".into(),
                ours: true,
            },
            image: "sha256:1".into(),
            root: Root::NotAsked,
            created_at: Timestamp::UNIX_EPOCH,
            config,
        }
    }

    /// A container in this phase.
    pub(crate) fn observed(phase: Phase) -> Observed {
        Observed {
            phase,
            pid: None,
            exit_code: 0,
            out_of_memory: false,
            error: String::new(),
            started_at: None,
            finished_at: None,
            restarts: 0,
            health: None,
            policy: Policy::NONE,
            tty: false,
            image: "sha256:1".into(),
            user: None,
        }
    }
}
