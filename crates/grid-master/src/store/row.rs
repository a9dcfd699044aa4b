//! What the store keeps, row by row.

use std::collections::BTreeMap;

use grid_client::{NodeSettings, Role};
use grid_platform_api::{
    Capabilities, ErrorReport, HealthCheck, NodeId, Program, SpawnConfig, SpawnedNode, Timestamp,
};
use serde::{Deserialize, Serialize};

/// What is wanted of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wish {
    Running,
    Stopped,
    /// A tombstone, kept until the agent has acknowledged it.
    Removed {
        purge: bool,
    },
}

impl Wish {
    pub(crate) fn is_removed(self) -> bool {
        matches!(self, Self::Removed { .. })
    }
}

/// A wish about one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRow {
    pub(crate) id: NodeId,
    pub(crate) agent: String,
    pub(crate) wish: Wish,
    /// Rises with every change of this row.
    pub(crate) generation: u64,
    /// What was asked for; the values of secrets are withheld. `None` for the tombstone of a node that the
    /// master never had a wish for.
    pub(crate) settings: Option<NodeSettings>,
    /// What travels to the agent, made of the settings and the agent's defaults; secrets withheld too.
    pub(crate) spec: Option<SpawnConfig>,
    /// The values of the secrets, sealed, in hexadecimal.
    #[serde(default)]
    pub(crate) sealed: BTreeMap<String, String>,
    pub(crate) created_at: Timestamp,
}

/// What an agent said of itself when it last connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct AgentInfo {
    pub(crate) version: String,
    pub(crate) platform: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) labels: BTreeMap<String, String>,
    /// 0 is no limit.
    pub(crate) max_storage_nodes: u32,
    /// MiB; 0 is unknown.
    pub(crate) memory_mb: u64,
    pub(crate) cpu_millis: u32,
    pub(crate) default_program: Option<Program>,
    pub(crate) default_health: Option<HealthCheck>,
}

/// An agent that has connected at least once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AgentRow {
    pub(crate) id: String,
    pub(crate) install_id: String,
    pub(crate) cordoned: bool,
    /// It was lost when it was last looked at.
    pub(crate) lost: bool,
    pub(crate) info: AgentInfo,
    /// When it last connected.
    pub(crate) connected_at: Timestamp,
}

/// A token: its value is never stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) role: Role,
    /// SHA-256 of the secret part, in hexadecimal.
    pub(crate) hash: String,
    pub(crate) note: Option<String>,
    pub(crate) install_id: Option<String>,
    pub(crate) created_at: Timestamp,
}

/// A request that carried an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RequestRow {
    /// A keyed hash of the body, which may hold secrets.
    pub(crate) body: String,
    /// The node it made.
    pub(crate) node: NodeId,
    /// When that node was made, by which it is told from a later one of its id; an earlier version did not keep it.
    #[serde(default)]
    pub(crate) made: Option<Timestamp>,
    /// By [`Since`](crate::app::Since), for its age.
    pub(crate) at: Timestamp,
}

/// How a generation ended at the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct AppliedRow {
    /// The newest generation that was acted on, well or for good badly.
    pub(crate) acted: u64,
    /// The newest generation that is spoken of in `error`.
    pub(crate) generation: u64,
    pub(crate) error: Option<ErrorReport>,
    /// The agent does not try that generation again.
    pub(crate) is_final: bool,
}

/// What was last heard of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) node: Option<SpawnedNode>,
    pub(crate) managed: bool,
    pub(crate) applied: AppliedRow,
}

/// A [`Seen`] as the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeenRow {
    pub(crate) agent: String,
    pub(crate) seen: Seen,
}
