//! What the adapter wants of a node, durable before it acts.

use std::{collections::BTreeMap, path::PathBuf};

use grid_platform_api::{Digest, Failure, NodeUid, OwnerId, SpawnConfig, Timestamp};
use serde::{Deserialize, Serialize};

/// The version of [`Intent`] that is written.
pub(crate) const VERSION: u32 = 1;

/// What a node shall be doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "goal", rename_all = "snake_case")]
pub(crate) enum Goal {
    /// It runs, as far as its restart policy goes.
    Running,
    /// It does not run, because it was asked not to.
    Stopped,
    /// It does not run, because it was given up.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// `intent.json`: all that the adapter knows of a node but for what its shim records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Intent {
    pub(crate) version: u32,
    pub(crate) owner: OwnerId,
    pub(crate) uid: NodeUid,
    /// The request as given; secrets by name only.
    pub(crate) config: SpawnConfig,
    pub(crate) digest: Digest,
    /// The ports as allocated.
    pub(crate) ports: BTreeMap<String, u16>,
    pub(crate) data_path: PathBuf,
    /// Whether the data directory carries a marker: the adapter made it, or makes it at the first start.
    #[serde(default)]
    pub(crate) data_marked: bool,
    pub(crate) created_at: Timestamp,
    /// Grows with each start that the adapter makes.
    pub(crate) generation: u64,
    /// Restarts counted before that start.
    pub(crate) restarts: u64,
    #[serde(flatten)]
    pub(crate) goal: Goal,
}

impl Intent {
    /// Whether it shall run.
    pub(crate) fn wants_running(&self) -> bool {
        self.goal == Goal::Running
    }
}
