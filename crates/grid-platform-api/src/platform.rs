//! The contract.

use async_trait::async_trait;

use crate::{
    Capabilities, DataPolicy, LogCursor, LogStream, NodeData, NodeEventStream, NodeId, NodeUsage,
    PlatformInfo, Result, SpawnConfig, SpawnedNode,
};

/// A thing that can run nodes: processes of a host, a service manager, a container engine, a cluster.
///
/// # Contract
///
/// What is said here holds on every platform, unless one of its [`Capabilities`] says otherwise; the
/// conformance suite in `grid-platform-testing` checks each line.
///
/// - **Identity.** A node's native object is called `sutra-grid-<id>`. A process is never signalled by a bare
///   pid: identity is a pidfd, or a start time with a boot id; a container's id; a pod's uid.
/// - **Ownership.** Native objects carry their owner, a random install id. One that has our name and another
///   owner, or none, is [`OwnedByOther`](crate::ErrorKind::OwnedByOther): never adopted, changed or deleted.
/// - **Serial per id.** Calls that change one node run one after the other. A stop or a remove cancels a spawn in
///   flight, which then ends with [`Superseded`](crate::ErrorKind::Superseded).
/// - **Nodes outlive the caller** (capability `nodes_outlive_adapter`). A process that holds an adapter can be
///   killed at any instant; a new adapter over the same state finds every node, same program instance, and never
///   starts a second one. Dropping a call's future is a smaller case of the same.
/// - **Restarts** after a crash are the platform's own, by the node's policy, whether or not an adapter lives.
/// - **Ports** belong to their node until it is removed.
/// - **Errors** say whether a retry can help and carry a hint that names the mend.
/// - **Secrets** never show in arguments, labels, logs, digests or answers.
///
/// The hard truth: a platform whose hosts can be lost cannot always know that a program has ended. Then stop and
/// remove fail with [`Unconfirmed`](crate::ErrorKind::Unconfirmed), and a second copy started all the same is two
/// copies of one identity. A local platform knows.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// The platform's name as settings have it: `process`, `docker`, `kubernetes`, `systemd`.
    fn name(&self) -> &'static str;

    /// What it can do, here and now.
    fn capabilities(&self) -> Capabilities;

    /// Looks whether nodes can run: what is reachable, its version, what is missing, and the mend.
    ///
    /// # Behaviour
    /// Changes nothing. A thing that is missing is a [`Check`](crate::Check) in the answer.
    ///
    /// # Errors
    /// Only when nothing at all could be looked at.
    async fn probe(&self) -> Result<PlatformInfo>;

    /// Makes the node be there and run.
    ///
    /// # Behaviour
    /// - Idempotent by id: with the same digest it returns the node that is there, starting it again if it is
    ///   stopped or failed; with another digest it fails with [`Conflict`](crate::ErrorKind::Conflict) and
    ///   changes nothing.
    /// - The intent is durable before the program starts, so that a crash at any step leaves a node that is found.
    /// - It returns when the [`ReadyMode`](crate::ReadyMode) is met. A program that ends first fails the call with
    ///   [`SpawnFailed`](crate::ErrorKind::SpawnFailed), a typed reason and its last log lines; the record stays,
    ///   failed and listed, and nothing of the node runs. With the capability `trial` it has run once, whatever the
    ///   restart policy.
    /// - A call that finds the node started already waits for that start as the one that made it, which may be gone,
    ///   and is told the same of it.
    /// - Kept data of an earlier node of the same id is used again. A data path that another node has, or that was
    ///   made for another node, is refused.
    /// - A port of 0 is allocated and stays the node's; a requested port that is taken is
    ///   [`PortInUse`](crate::ErrorKind::PortInUse).
    ///
    /// # Errors
    /// `InvalidConfig`, `NotAllowed`, `Unsupported`, `Conflict`, `OwnedByOther`, `PortInUse`, `SpawnFailed`,
    /// `Superseded`, and the platform's own faults. Before the intent is durable, an error leaves nothing behind.
    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode>;

    /// Ends the node's program; the record, the ports and the data stay.
    ///
    /// # Behaviour
    /// - The node's stop signal, its grace period, then a kill of the whole process tree.
    /// - It returns when the platform confirms that no process of the node is left.
    /// - Idempotent: stopping a stopped or failed node succeeds.
    /// - What is stopped stays stopped, over restarts of the adapter, the platform's daemon and the host.
    ///
    /// # Errors
    /// `NotFound` for an unknown id; `Unconfirmed` (retryable) where the end cannot be confirmed.
    async fn stop_node(&self, node_id: &NodeId) -> Result<()>;

    /// Gives a node up whose end cannot be confirmed.
    ///
    /// # Behaviour
    /// Like [`stop_node`](Self::stop_node), and where the end cannot be confirmed the node is shown as stopped all
    /// the same. **Two copies of the node may then live** if it is started again.
    ///
    /// # Errors
    /// `Unsupported` where every stop can be confirmed (no capability `force_stop`).
    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()>;

    /// Removes the node: stops it if it runs, then deletes its record and frees its ports.
    ///
    /// # Behaviour
    /// - Data is deleted only by [`DataPolicy::Purge`], and only data that the platform made for this node; never
    ///   a directory that was there before.
    /// - Removing an unknown id succeeds; purging after a remove that kept deletes what was kept.
    ///
    /// # Errors
    /// `Unconfirmed` as for a stop; `OwnedByOther`.
    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()>;

    /// Whether the node's program runs now.
    ///
    /// # Behaviour
    /// `false` for an unknown id, a stopped or failed node, and one that waits out a back-off.
    ///
    /// # Errors
    /// Only when the platform cannot be asked.
    async fn is_node_alive(&self, node_id: &NodeId) -> Result<bool>;

    /// The node as it is now.
    ///
    /// # Errors
    /// `NotFound` for an unknown id; `Stale` while a cache is not in step.
    async fn get_node_status(&self, node_id: &NodeId) -> Result<SpawnedNode>;

    /// All nodes of this owner, stopped and failed ones too, ordered by id.
    ///
    /// # Behaviour
    /// Complete and true, or an error: it never answers short.
    ///
    /// # Errors
    /// `Stale` while a cache is not in step.
    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>>;

    /// All data of this owner, of nodes that exist and of removed ones whose data was kept, ordered by node id.
    ///
    /// # Errors
    /// The platform's own faults.
    async fn list_data(&self) -> Result<Vec<NodeData>>;

    /// The last `lines` lines of the node's log, oldest first, as text; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Behaviour
    /// 0 lines is an empty answer. Takes memory by what it returns, not by the log's size; a line longer than
    /// [`LogLine::MAX_BYTES`](crate::LogLine::MAX_BYTES) is cut there.
    ///
    /// # Errors
    /// `NotFound` for an unknown id; `LogsUnavailable` for a known node whose logs the platform no longer has.
    async fn get_logs(&self, node_id: &NodeId, lines: usize) -> Result<Vec<String>>;

    /// The node's log from `cursor` on, and what is written later.
    ///
    /// # Behaviour
    /// - Every retained line once and in order; what is gone between two lines is a
    ///   [`Gap`](crate::LogItem::Gap).
    /// - It goes on over restarts of the program, and over stop and start. It ends, without an error, when the node
    ///   is removed.
    /// - [`LogCursor::After`] with a position of this node's goes on behind it, also in another process.
    ///
    /// # Errors
    /// `NotFound`, `LogsUnavailable`; `InvalidConfig` for a position that is not this node's;
    /// `Unsupported` for `Since` without the capability.
    async fn follow_logs(&self, node_id: &NodeId, cursor: LogCursor) -> Result<LogStream>;

    /// What changes from now on, behind a snapshot.
    ///
    /// # Behaviour
    /// A [`Snapshot`](crate::NodeEvent::Snapshot) first; after a loss a [`Resync`](crate::NodeEvent::Resync) and a
    /// snapshot again. The last event of a node tells its state as it is; states in between may be left out.
    ///
    /// # Errors
    /// When the platform cannot be asked.
    async fn watch_nodes(&self) -> Result<NodeEventStream>;

    /// What the node uses now. A node that does not run uses no memory and no processor; its data still counts.
    ///
    /// # Errors
    /// `NotFound` for an unknown id; `Unsupported` without the capability `usage`.
    async fn get_usage(&self, node_id: &NodeId) -> Result<NodeUsage>;
}
