//! The platform: who does what.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use grid_platform_api::{
    Capabilities, DataPolicy, Error, LogCursor, LogStream, NodeData, NodeEventStream, NodeId,
    NodeLocks, NodeUsage, Platform, PlatformInfo, RestartMode, Result, SpawnConfig, SpawnedNode,
    async_trait,
};
use grid_platform_host::work::{Turns, blocking};
use tokio::sync::watch;

use crate::{
    adopt::{self, Blocked, Finding},
    cgroup::Cgroups,
    config::ProcessConfig,
    data::{DataStore, PathClaim, Purpose},
    error::{PLATFORM, named},
    install::Install,
    launch::ShimFile,
    lifecycle, logs,
    node::{Node, Registry},
    ports::PortBook,
    probe, removal,
    sys::{proc, users},
    usage, watch as events,
};

/// Nodes as native processes of this host, each under a supervisor of its own that outlives this value.
///
/// Made by [`ProcessPlatform::open`] within a tokio runtime. Dropping it stops no node.
pub struct ProcessPlatform {
    inner: Arc<Inner>,
    /// Dropped with this value, which all that goes on in the background hears.
    _closing: watch::Sender<()>,
}

/// What all parts of one platform share.
pub(crate) struct Inner {
    pub(crate) config: Arc<ProcessConfig>,
    pub(crate) install: Install,
    pub(crate) nodes_dir: OwnedFd,
    /// Where data is, and whose.
    pub(crate) data: Arc<DataStore>,
    pub(crate) shim: ShimFile,
    pub(crate) registry: Arc<Registry>,
    pub(crate) locks: NodeLocks,
    pub(crate) turns: Turns,
    pub(crate) ports: Arc<PortBook>,
    pub(crate) cgroups: Cgroups,
    /// Directories of our naming that are not ours to touch.
    pub(crate) blocked: BTreeMap<NodeId, Blocked>,
    /// What `open` found wrong.
    pub(crate) findings: Vec<Finding>,
    /// Changes (by its end) when the platform is dropped.
    pub(crate) closing: watch::Receiver<()>,
}

impl ProcessPlatform {
    /// Opens the platform over its state: finds every node that there is, takes running ones over as they are, and starts
    /// again what should run and was taken down with its supervisor or host, as far as its restart policy allows.
    ///
    /// # Errors
    /// `InvalidConfig`; `StateLocked` while another process has the state open; `OwnedByOther` when the state is a copy;
    /// `Corrupt`; `Unsupported` on systems other than Linux; the system's refusals.
    pub async fn open(config: ProcessConfig) -> Result<Self> {
        let (closing, closed) = watch::channel(());
        let inner = adopt::open(config, closed)
            .await
            .map_err(|e| named(e, "open"))?;
        Ok(Self {
            inner,
            _closing: closing,
        })
    }

    /// The settings that it was opened with.
    pub fn config(&self) -> &ProcessConfig {
        &self.inner.config
    }

    /// The directory of a node's record and log.
    pub fn node_directory(&self, id: &NodeId) -> PathBuf {
        self.inner.registry.directory(id)
    }
}

impl Inner {
    /// What can be done, here and now.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::none();
        can.binary_programs = true;
        can.restart_modes = [
            RestartMode::Never,
            RestartMode::OnFailure,
            RestartMode::Always,
        ]
        .into();
        can.restart_tuning = true;
        can.trial = true;
        can.memory_limit = self.cgroups.memory();
        can.cpu_limit = self.cgroups.cpu();
        can.pids_limit = self.cgroups.pids();
        can.open_files_limit = true;
        can.storage_path = true;
        can.user = users::own_uid() == 0;
        can.secrets = true;
        can.secret_env = true;
        can.health_checks = true;
        can.port_allocation = true;
        can.exclusive_ports = true;
        can.stop_signal = true;
        can.logs_after_stop = true;
        can.logs_since = true;
        can.usage = true;
        can.nodes_outlive_adapter = true;
        can.host_pids = true;
        can
    }

    /// The nodes that there are, each with its data path.
    pub(crate) fn used(&self) -> Vec<(NodeId, PathBuf)> {
        let nodes = self.registry.all();
        let used = |it: &Arc<Node>| (it.id.clone(), it.now().intent.data_path.clone());
        nodes.iter().map(used).collect()
    }

    /// Takes a data path for a node. Reads the disk.
    ///
    /// # Errors
    /// `Conflict` when it meets the path of another node; `OwnedByOther` when it meets the data that another node left.
    pub(crate) fn claim_path(
        &self,
        id: &NodeId,
        path: &Path,
        purpose: Purpose,
    ) -> Result<PathClaim> {
        self.data.claim(id, path, purpose, &|| self.used())
    }

    /// The node of that id.
    ///
    /// # Errors
    /// `NotFound`; what stands in the way of one that is not ours to touch.
    pub(crate) fn node(&self, id: &NodeId) -> Result<Arc<Node>> {
        self.registry.get(id).ok_or_else(|| {
            self.blocked
                .get(id)
                .map_or_else(|| Error::not_found(id), |it| it.error(id))
        })
    }

    /// The node after its record was read again: its monitor may be a moment behind.
    fn fresh(&self, id: &NodeId) -> Result<Arc<Node>> {
        let node = self.node(id)?;
        self.learn(&node, node.now().intent.generation, |_| {});
        Ok(node)
    }
}

/// Names the operation in an error.
fn tag<T>(result: Result<T>, operation: &'static str, id: Option<&NodeId>) -> Result<T> {
    result.map_err(|e| {
        let e = named(e, operation);
        match id {
            Some(id) => e.with_node(id),
            None => e,
        }
    })
}

#[async_trait]
impl Platform for ProcessPlatform {
    fn name(&self) -> &'static str {
        PLATFORM
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        // It asks disks that may be slow.
        let inner = Arc::clone(&self.inner);
        let looked = blocking(move || Ok(probe::look(&inner))).await;
        tag(looked, "probe", None)
    }

    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        let id = config.node_id.clone();
        tag(
            lifecycle::spawn(&self.inner, config).await,
            "spawn_node",
            Some(&id),
        )
    }

    async fn stop_node(&self, node_id: &NodeId) -> Result<()> {
        tag(
            lifecycle::stop(&self.inner, node_id).await,
            "stop_node",
            Some(node_id),
        )
    }

    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()> {
        let error = Error::unsupported(PLATFORM, "give up a node whose end is unconfirmed")
            .with_hint("Use `stop_node`: this host knows when a process has ended.");
        tag(Err(error), "force_stop_node", Some(node_id))
    }

    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()> {
        tag(
            removal::remove(&self.inner, node_id, data).await,
            "remove_node",
            Some(node_id),
        )
    }

    async fn is_node_alive(&self, node_id: &NodeId) -> Result<bool> {
        let Ok(node) = self.inner.fresh(node_id) else {
            return Ok(false);
        };
        let situation = node.now();
        let alive = situation
            .record()
            .is_some_and(|it| node.shown().pid.is_some() && proc::is_running(it.pid, it.pid_start));
        Ok(alive)
    }

    async fn get_node_status(&self, node_id: &NodeId) -> Result<SpawnedNode> {
        let node = tag(self.inner.fresh(node_id), "get_node_status", Some(node_id))?;
        Ok(SpawnedNode::clone(&node.shown()))
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        Ok(self.inner.registry.list())
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        tag(removal::list_data(&self.inner).await, "list_data", None)
    }

    async fn get_logs(&self, node_id: &NodeId, lines: usize) -> Result<Vec<String>> {
        tag(
            logs::tail(&self.inner, node_id, lines).await,
            "get_logs",
            Some(node_id),
        )
    }

    async fn follow_logs(&self, node_id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        tag(
            logs::follow(&self.inner, node_id, cursor).await,
            "follow_logs",
            Some(node_id),
        )
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        Ok(events::events(&self.inner.registry))
    }

    async fn get_usage(&self, node_id: &NodeId) -> Result<NodeUsage> {
        tag(
            usage::read(&self.inner, node_id).await,
            "get_usage",
            Some(node_id),
        )
    }
}
