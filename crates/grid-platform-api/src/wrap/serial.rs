//! Serial per id, for a platform that does not keep it itself.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Capabilities, DataPolicy, LogCursor, LogStream, NodeData, NodeEventStream, NodeId, NodeLocks,
    NodeUsage, Platform, PlatformInfo, Result, SpawnConfig, SpawnedNode,
};

/// Runs the calls that change one node one after the other; a stop or a remove cancels a spawn in flight.
pub struct Serial {
    inner: Arc<dyn Platform>,
    locks: NodeLocks,
}

impl Serial {
    /// Around `inner`.
    pub fn new(inner: Arc<dyn Platform>) -> Self {
        Self {
            inner,
            locks: NodeLocks::new(),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Platform for Serial {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        self.inner.probe().await
    }

    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        let id = config.node_id.clone();
        self.locks
            .interruptible(&id, self.inner.spawn_node(config))
            .await
    }

    async fn stop_node(&self, node_id: &NodeId) -> Result<()> {
        self.locks
            .interrupt(node_id, self.inner.stop_node(node_id))
            .await
    }

    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()> {
        self.locks
            .interrupt(node_id, self.inner.force_stop_node(node_id))
            .await
    }

    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()> {
        self.locks
            .interrupt(node_id, self.inner.remove_node(node_id, data))
            .await
    }

    async fn is_node_alive(&self, node_id: &NodeId) -> Result<bool> {
        self.inner.is_node_alive(node_id).await
    }

    async fn get_node_status(&self, node_id: &NodeId) -> Result<SpawnedNode> {
        self.inner.get_node_status(node_id).await
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        self.inner.list_nodes().await
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        self.inner.list_data().await
    }

    async fn get_logs(&self, node_id: &NodeId, lines: usize) -> Result<Vec<String>> {
        self.inner.get_logs(node_id, lines).await
    }

    async fn follow_logs(&self, node_id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        self.inner.follow_logs(node_id, cursor).await
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        self.inner.watch_nodes().await
    }

    async fn get_usage(&self, node_id: &NodeId) -> Result<NodeUsage> {
        self.inner.get_usage(node_id).await
    }
}
