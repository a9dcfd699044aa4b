//! The platform: who does what.

use std::sync::Arc;

use grid_platform_api::{
    Capabilities, DataPolicy, Error, LogCursor, LogStream, NodeData, NodeEventStream, NodeId,
    NodeUsage, Platform, PlatformInfo, Result, SpawnConfig, SpawnedNode, async_trait,
};
use tokio::sync::watch;

use crate::{
    config::DockerConfig,
    engine::Engine,
    error::{PLATFORM, named},
    images::Images,
    lifecycle, logs,
    nodes::{Node, Registry},
    probe, usage, watch as events,
};

/// Nodes as containers of an engine.
///
/// Made by [`DockerPlatform::open`] within a tokio runtime. Dropping it stops no node.
pub struct DockerPlatform {
    inner: Arc<Inner>,
    /// Dropped with this value, which all that goes on in the background hears.
    _closing: watch::Sender<()>,
}

/// What all parts of one platform share.
pub(crate) struct Inner {
    pub(crate) config: Arc<DockerConfig>,
    pub(crate) engine: Engine,
    pub(crate) images: Images,
    pub(crate) registry: Arc<Registry>,
    /// Changes (by its end) when the platform is dropped.
    pub(crate) closing: watch::Receiver<()>,
}

impl DockerPlatform {
    /// Opens the platform over its state: finds every node that there is and heals what an earlier adapter was killed in the
    /// middle of.
    ///
    /// # Errors
    /// `InvalidConfig`; `StateLocked` while another process has the state open; `OwnedByOther` when the state is a copy;
    /// `Corrupt`; what keeps the engine from being reached.
    pub async fn open(config: DockerConfig) -> Result<Self> {
        let (closing, closed) = watch::channel(());
        let inner = open(config, closed).await.map_err(|e| named(e, "open"))?;
        Ok(Self {
            inner,
            _closing: closing,
        })
    }

    /// The settings that it was opened with.
    pub fn config(&self) -> &DockerConfig {
        &self.inner.config
    }
}

async fn open(config: DockerConfig, closing: watch::Receiver<()>) -> Result<Arc<Inner>> {
    config.validate()?;
    let engine = Engine::connect(&config).await?;
    // Before anything is read, so that nothing falls in between.
    let feed = events::Feed::begin(&engine, closing.clone()).await?;
    let inner = Arc::new(Inner {
        config: Arc::new(config),
        engine,
        images: Images::default(),
        registry: Arc::new(Registry::new()),
        closing,
    });
    tokio::spawn(feed.run(Arc::downgrade(&inner)));
    Ok(inner)
}

impl Inner {
    /// The node of that id.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn node(&self, id: &NodeId) -> Result<Arc<Node>> {
        self.registry.get(id).ok_or_else(|| Error::not_found(id))
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
impl Platform for DockerPlatform {
    fn name(&self) -> &'static str {
        PLATFORM
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        tag(probe::look(&self.inner).await, "probe", None)
    }

    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        let id = config.node_id.clone();
        let spawned = lifecycle::spawn(&self.inner, config).await;
        tag(spawned, "spawn_node", Some(&id))
    }

    async fn stop_node(&self, node_id: &NodeId) -> Result<()> {
        let stopped = lifecycle::stop(&self.inner, node_id).await;
        tag(stopped, "stop_node", Some(node_id))
    }

    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()> {
        let error = Error::unsupported(PLATFORM, "give up a node whose end is unconfirmed")
            .with_hint("Use `stop_node`: the engine knows when a container has ended.");
        tag(Err(error), "force_stop_node", Some(node_id))
    }

    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()> {
        let removed = lifecycle::remove(&self.inner, node_id, data).await;
        tag(removed, "remove_node", Some(node_id))
    }

    async fn is_node_alive(&self, node_id: &NodeId) -> Result<bool> {
        tag(
            Err(Error::not_found(node_id)),
            "is_node_alive",
            Some(node_id),
        )
    }

    async fn get_node_status(&self, node_id: &NodeId) -> Result<SpawnedNode> {
        let node = tag(self.inner.node(node_id), "get_node_status", Some(node_id))?;
        Ok(SpawnedNode::clone(&node.shown()))
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        Ok(self.inner.registry.list())
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        Ok(Vec::new())
    }

    async fn get_logs(&self, node_id: &NodeId, lines: usize) -> Result<Vec<String>> {
        let tail = logs::tail(&self.inner, node_id, lines).await;
        tag(tail, "get_logs", Some(node_id))
    }

    async fn follow_logs(&self, node_id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        let stream = logs::follow(&self.inner, node_id, cursor).await;
        tag(stream, "follow_logs", Some(node_id))
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        Ok(events::events(&self.inner.registry, &self.inner.images))
    }

    async fn get_usage(&self, node_id: &NodeId) -> Result<NodeUsage> {
        tag(
            usage::read(&self.inner, node_id).await,
            "get_usage",
            Some(node_id),
        )
    }
}
