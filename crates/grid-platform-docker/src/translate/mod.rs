//! Between the contract's words and the engine's, and nothing else: a request becomes a container, a container becomes a node.
//! All of it is pure and has tables of examples.

use std::collections::BTreeMap;

use grid_platform_api::{Digest, Failure, Health, NodeId, NodeUid, SpawnConfig, Timestamp};

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
    /// The restart policy that it has now, and how often at most.
    pub(crate) policy: (String, u32),
    /// It has a terminal: its log is not framed.
    pub(crate) tty: bool,
    /// The image's id.
    pub(crate) image: String,
}

/// What is asked of a node, beyond its request. It is durable before the engine is asked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "goal", rename_all = "snake_case")]
pub(crate) enum Goal {
    /// That it runs, as far as its policy goes.
    Running,
    /// That it is stopped.
    Stopped,
    /// Nothing: its start failed.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// The id of a node whose container has these labels and this owner.
pub(crate) fn node_id(labels: &BTreeMap<String, String>) -> Option<NodeId> {
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
    /// Before each label of the request.
    pub(crate) const USER: &str = "sutra.label.";
}
