//! Between the contract's words and the cluster's, and nothing else: a request becomes objects, objects become a node.
//! All of it is pure and has tables of examples.

mod account;
mod failure;
mod node;
mod objects;
mod pod;
mod read;
mod restricted;
#[cfg(test)]
pub(crate) mod tests;
mod words;

use std::collections::BTreeMap;

use grid_platform_api::{
    DataPolicy, Digest, Exit, Failure, NodeId, NodeUid, OwnerId, SpawnConfig, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::config::KubernetesConfig;

pub(crate) use account::account_of;
pub(crate) use failure::{early_end, exit_of, is_failed_exec, one_line, why_event, why_pending};
pub(crate) use node::{Facts, earlier, is_over, node, run, was_taken};
pub(crate) use objects::{
    check_room, claim, notes_text, record_text, secret, service, service_place,
};
pub(crate) use pod::{grace_seconds, inside_ports, pod};
pub(crate) use read::{Read, ownership, quantity, read_claim, read_pod};
pub(crate) use restricted::violations;
pub(crate) use words::{is_limit_wanted, refusal};

/// What of the adapter goes into each object.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) owner: &'a OwnerId,
    pub(crate) config: &'a KubernetesConfig,
}

/// The record of a node: it is written with the claim and never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) uid: NodeUid,
    pub(crate) digest: Digest,
    /// The request, without the values of secrets.
    pub(crate) config: SpawnConfig,
    /// The ports by name, as the program binds them.
    pub(crate) inside: BTreeMap<String, u16>,
    /// The ports by name, as clients reach them.
    pub(crate) ports: BTreeMap<String, u16>,
    /// The host of endpoints: the service's address or name; `None` for a node without ports.
    pub(crate) host: Option<String>,
    pub(crate) created_at: Timestamp,
}

impl Record {
    /// What this version writes.
    pub(crate) const VERSION: u32 = 1;
}

/// What is asked of a node beyond its request, and how its last run ended. It is durable before the cluster is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Notes {
    pub(crate) goal: Goal,
    /// How the last run ended, once its pod is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_run: Option<LastRun>,
    /// How the program last ended badly since the last spawn, where the pod does not tell any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_failure: Option<Failure>,
}

/// A run whose pod is gone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LastRun {
    pub(crate) exit: Option<Exit>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) restarts: u32,
    pub(crate) image: Option<String>,
}

/// What is asked of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Goal {
    /// That it runs, as far as its policy goes.
    #[default]
    Running,
    /// That it is stopped.
    Stopped,
    /// That it is stopped though nobody knows that its program has ended: it was given up by force.
    GivenUp,
    /// Nothing: its start failed.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// That it is removed.
    Removing {
        /// What becomes of its data.
        data: DataPolicy,
    },
}

/// A claim of ours, as the cluster last said it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClaimView {
    pub(crate) node_id: NodeId,
    /// The object's own.
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) is_terminating: bool,
    pub(crate) is_bound: bool,
    /// `None` for kept data of a node that was removed.
    pub(crate) record: Option<Record>,
    pub(crate) notes: Notes,
    /// How much was asked for, in bytes.
    pub(crate) bytes: Option<u64>,
}

/// A pod of ours, as the cluster last said it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodView {
    pub(crate) node_id: NodeId,
    /// The incarnation of the node that it was made for.
    pub(crate) node_uid: Option<NodeUid>,
    /// The object's own.
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) is_terminating: bool,
    pub(crate) phase: PodPhase,
    /// `status.reason` and `status.message`: `Evicted`, `NodeLost`, ...
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    /// Why it has no host, in the scheduler's words.
    pub(crate) unscheduled: Option<String>,
    /// The host it is on.
    pub(crate) host: Option<String>,
    /// That host's address.
    pub(crate) host_ip: Option<String>,
    pub(crate) ip: Option<String>,
    /// Its host's kubelet says that the program serves, and the control plane has not given that host up.
    pub(crate) is_ready: bool,
    /// It served in this run of its program, and does not any more.
    pub(crate) was_ready: bool,
    pub(crate) is_host_lost: bool,
    pub(crate) container: ContainerView,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PodPhase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

/// The node's container within its pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ContainerView {
    pub(crate) state: ContainerState,
    /// How its last run before this one ended.
    pub(crate) last: Option<Ended>,
    pub(crate) restarts: u32,
    pub(crate) is_ready: bool,
    /// The image as the host has it.
    pub(crate) image: Option<String>,
    /// The runtime's id of this run.
    pub(crate) id: Option<String>,
}

/// `state` of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum ContainerState {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// Not running, for this reason: `ContainerCreating`, `ImagePullBackOff`, `CrashLoopBackOff`, ...
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        started_at: Option<Timestamp>,
    },
    Ended(Ended),
}

/// A run of a container that is over.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
    /// `OOMKilled`, `Error`, `Completed`, `ContainerCannotRun`, `StartError`, ...
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
}

/// The labels of our objects.
pub(crate) mod label {
    /// `true` on everything that is a grid's.
    pub(crate) const GRID: &str = "sutra.grid";
    pub(crate) const NODE_ID: &str = "sutra.node_id";
    /// The install id of who made it.
    pub(crate) const OWNER: &str = "sutra.owner";
    /// The node's incarnation.
    pub(crate) const UID: &str = "sutra.node_uid";
    /// The agent's `install`.
    pub(crate) const INSTALL: &str = "sutra.install";
    /// These three are what tools of all kinds go by.
    pub(crate) const APP_NAME: &str = "app.kubernetes.io/name";
    pub(crate) const APP_INSTANCE: &str = "app.kubernetes.io/instance";
    pub(crate) const APP_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
}

/// The annotations of a claim.
pub(crate) mod annotation {
    /// The [`Record`](super::Record) as JSON.
    pub(crate) const RECORD: &str = "sutra.grid/record";
    /// The [`Notes`](super::Notes) as JSON.
    pub(crate) const NOTES: &str = "sutra.grid/notes";
}

/// The name of the node's container in its pod.
pub(crate) const CONTAINER: &str = "node";
/// Where the claim is in a pod.
pub(crate) const DATA_PATH: &str = "/data";
/// Where secrets are in a pod.
pub(crate) const SECRETS_DIR: &str = "/run/secrets/sutra";
