//! The platform: who does what.

use std::{collections::BTreeMap, fmt::Display, sync::Arc};

use grid_platform_api::{
    Capabilities, Check, DataPolicy, Error, LogCursor, LogStream, NodeData, NodeEventStream,
    NodeId, NodeLocks, NodeUsage, Platform, PlatformInfo, RestartMode, Result, SpawnConfig,
    SpawnedNode, async_trait,
};
use grid_platform_host::work::Turns;
use tokio::sync::watch;

use crate::{
    access::Access,
    config::KubernetesConfig,
    error::{Fault, PLATFORM, named},
    events,
    lease::Lease,
    lifecycle, logs,
    owner::Install,
    probe,
    registry::{Entry, Registry},
    translate::{ContainerState, Frame},
    usage::{self, Metrics},
    watch as news,
};

/// Nodes as pods of a cluster.
///
/// Made by [`KubernetesPlatform::open`] within a tokio runtime. Dropping it stops no node.
pub struct KubernetesPlatform {
    inner: Arc<Inner>,
    /// Dropped with this value, which all that goes on in the background hears.
    _closing: watch::Sender<()>,
}

/// What all parts of one platform share.
pub(crate) struct Inner {
    pub(crate) config: KubernetesConfig,
    pub(crate) access: Access,
    pub(crate) install: Install,
    pub(crate) lease: Arc<Lease>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Metrics,
    pub(crate) locks: NodeLocks,
    pub(crate) turns: Turns,
    /// Changes (by its end) when the platform is dropped.
    pub(crate) closing: watch::Receiver<()>,
}

impl KubernetesPlatform {
    /// Opens the platform: finds every node that there is, and ends what an earlier adapter was killed in the middle of ending.
    ///
    /// # Errors
    /// `InvalidConfig`; `StateLocked` while another adapter of the same install lives; `OwnedByOther` when the install's ConfigMap is a
    /// copy, or not ours; `Corrupt`; what keeps the cluster from being reached.
    pub async fn open(config: KubernetesConfig) -> Result<Self> {
        let opening = async {
            config.validate()?;
            let access = Access::connect(&config).await?;
            Self::open_over(access, config).await
        };
        opening.await.map_err(|e| named(e, "open"))
    }

    /// Opens the platform over a server that is known to answer.
    pub(crate) async fn open_over(access: Access, config: KubernetesConfig) -> Result<Self> {
        let (closing, closed) = watch::channel(());
        let inner = open(access, config, closed).await?;
        Ok(Self {
            inner,
            _closing: closing,
        })
    }

    /// Looks at a cluster and at what nodes need of it, without opening anything: it takes no lease and changes nothing.
    ///
    /// # Errors
    /// `InvalidConfig` for settings or a kubeconfig that are none; credentials that cannot be got. A cluster that does not
    /// answer is a check.
    pub async fn look(config: &KubernetesConfig) -> Result<Vec<Check>> {
        let checks = async {
            config.validate()?;
            let access = Access::find(config).await?;
            let found = probe::examine(&access, config, &Metrics::default()).await;
            Ok::<_, Error>(found.checks)
        };
        checks.await.map_err(|e| named(e, "look"))
    }

    /// The settings that it was opened with.
    pub fn config(&self) -> &KubernetesConfig {
        &self.inner.config
    }

    /// How many requests have gone to the cluster so far, by verb and resource as a role has them: `create pods`.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.inner.access.calls()
    }
}

async fn open(
    access: Access,
    config: KubernetesConfig,
    closing: watch::Receiver<()>,
) -> Result<Arc<Inner>> {
    let install = Install::open(&access, &config).await?;
    // Nothing is written from here on by two.
    let lease = Lease::take(&access, &config, closing.clone()).await?;
    let metrics = Metrics::default();
    // One that does not answer yet keeps nobody from opening.
    let _ = metrics.look(&access).await;
    let inner = Arc::new(Inner {
        config,
        access,
        install,
        lease,
        registry: Arc::new(Registry::new()),
        metrics,
        locks: NodeLocks::new(),
        turns: Turns::default(),
        closing,
    });
    news::begin(&inner);
    inner.synced().await?;
    lifecycle::heal(&inner).await?;
    Ok(inner)
}

impl Inner {
    /// What can be done, here and now.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::none();
        can.image_programs = true;
        can.restart_modes = [
            RestartMode::Never,
            RestartMode::OnFailure,
            RestartMode::Always,
        ]
        .into();
        can.memory_limit = true;
        can.cpu_limit = true;
        can.storage_size = true;
        can.user = true;
        can.secrets = !self.access.is_plain;
        can.secret_env = !self.access.is_plain;
        can.health_checks = true;
        can.port_allocation = true;
        can.logs_since = true;
        can.usage = self.metrics.is_there();
        can.nodes_outlive_adapter = true;
        can.force_stop = true;
        can
    }

    /// One call that changes something: begun only while this agent is the one that acts, and over before another one can be.
    ///
    /// # Errors
    /// That it may not be done now; what the cluster says of it is a fault.
    pub(crate) async fn write<T>(
        &self,
        what: impl Display,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<Result<T, Fault>> {
        let left = self.lease.check()?;
        Ok(self.access.call_within(left, what, call).await)
    }

    /// What goes into each object.
    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame {
            owner: &self.install.owner,
            config: &self.config,
        }
    }

    /// What is known of a node that there is.
    ///
    /// # Errors
    /// `NotFound`; `OwnedByOther` when the claim of its name is somebody else's; `Stale`.
    pub(crate) async fn node(self: &Arc<Self>, id: &NodeId) -> Result<Entry> {
        self.synced().await?;
        let entry = self.registry.get(id);
        if entry.record().is_some() {
            return Ok(entry);
        }
        lifecycle::unknown(self, id).await
    }
}

#[async_trait]
impl logs::Source for Inner {
    fn state(&self, id: &NodeId) -> Result<logs::State> {
        let entry = self.registry.get(id);
        match entry.record() {
            Some(record) => Ok(logs::State {
                uid: record.uid.clone(),
                pod: entry.own_pod().cloned(),
            }),
            None => Err(Error::not_found(id)),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.registry.version()
    }

    async fn closed(&self) {
        let mut closing = self.closing.clone();
        while closing.changed().await.is_ok() {}
    }

    async fn open(&self, id: &NodeId, ask: logs::Ask) -> Result<logs::Body, Fault> {
        logs::open(&self.access, &id.native_name(), ask).await
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
impl Platform for KubernetesPlatform {
    fn name(&self) -> &'static str {
        PLATFORM
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        let inner = &self.inner;
        let found = probe::examine(&inner.access, &inner.config, &inner.metrics).await;
        Ok(PlatformInfo {
            platform: PLATFORM.to_owned(),
            version: found.version,
            owner: inner.install.owner.clone(),
            // Some of them were looked at just now.
            capabilities: inner.capabilities(),
            checks: found.checks,
        })
    }

    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        let id = config.node_id.clone();
        let spawned = lifecycle::spawn(&self.inner, config).await;
        tag(spawned, "spawn_node", Some(&id))
    }

    async fn stop_node(&self, node_id: &NodeId) -> Result<()> {
        let stopped = lifecycle::stop(&self.inner, node_id, false).await;
        tag(stopped, "stop_node", Some(node_id))
    }

    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()> {
        let stopped = lifecycle::stop(&self.inner, node_id, true).await;
        tag(stopped, "force_stop_node", Some(node_id))
    }

    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()> {
        let removed = lifecycle::remove(&self.inner, node_id, data).await;
        tag(removed, "remove_node", Some(node_id))
    }

    async fn is_node_alive(&self, node_id: &NodeId) -> Result<bool> {
        tag(self.inner.synced().await, "is_node_alive", Some(node_id))?;
        let entry = self.inner.registry.get(node_id);
        let runs = entry.own_pod().is_some_and(|pod| {
            !pod.is_host_lost && matches!(pod.container.state, ContainerState::Running { .. })
        });
        Ok(runs)
    }

    async fn get_node_status(&self, node_id: &NodeId) -> Result<SpawnedNode> {
        let known = self.inner.node(node_id).await;
        tag(known, "get_node_status", Some(node_id))?;
        match self.inner.registry.shown(node_id) {
            Some(node) => Ok(SpawnedNode::clone(&node)),
            None => tag(
                Err(Error::not_found(node_id)),
                "get_node_status",
                Some(node_id),
            ),
        }
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        tag(self.inner.synced().await, "list_nodes", None)?;
        Ok(self.inner.registry.list())
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        tag(self.inner.synced().await, "list_data", None)?;
        Ok(lifecycle::list_data(&self.inner))
    }

    async fn get_logs(&self, node_id: &NodeId, lines: usize) -> Result<Vec<String>> {
        let tail = async {
            self.inner.node(node_id).await?;
            logs::tail(self.inner.as_ref(), node_id, lines).await
        };
        tag(tail.await, "get_logs", Some(node_id))
    }

    async fn follow_logs(&self, node_id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        let stream = async {
            self.inner.node(node_id).await?;
            logs::follow(Arc::clone(&self.inner), node_id, cursor).await
        };
        tag(stream.await, "follow_logs", Some(node_id))
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        tag(self.inner.synced().await, "watch_nodes", None)?;
        Ok(events::of(&self.inner.registry))
    }

    async fn get_usage(&self, node_id: &NodeId) -> Result<NodeUsage> {
        let used = async {
            let entry = self.inner.node(node_id).await?;
            usage::read(&self.inner, &entry).await
        };
        tag(used.await, "get_usage", Some(node_id))
    }
}
