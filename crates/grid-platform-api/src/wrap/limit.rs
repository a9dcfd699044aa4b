//! Bounded concurrency.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    Capabilities, DataPolicy, Error, ErrorKind, LogCursor, LogStream, NodeData, NodeEventStream,
    NodeId, NodeUsage, Platform, PlatformInfo, Result, SpawnConfig, SpawnedNode,
};

/// Lets at most so many calls that change something run at a time; the others wait, first come first served.
///
/// Reads are not held up, so that a platform full of slow spawns can still be looked at. Stops and removes have as
/// many places of their own as spawns have, so that a stop never waits behind the spawns it is to cancel.
pub struct Limit {
    inner: Arc<dyn Platform>,
    spawns: Semaphore,
    ends: Semaphore,
}

impl Limit {
    /// At most `calls` (at least 1) spawns, and as many stops and removes, at a time.
    pub fn new(inner: Arc<dyn Platform>, calls: usize) -> Self {
        Self {
            inner,
            spawns: Semaphore::new(calls.max(1)),
            ends: Semaphore::new(calls.max(1)),
        }
    }
}

async fn place(of: &Semaphore) -> Result<SemaphorePermit<'_>> {
    // The semaphores are never closed.
    of.acquire()
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "a limiter is closed").with_source(e))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Platform for Limit {
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
        let _place = place(&self.spawns).await?;
        self.inner.spawn_node(config).await
    }

    async fn stop_node(&self, node_id: &NodeId) -> Result<()> {
        let _place = place(&self.ends).await?;
        self.inner.stop_node(node_id).await
    }

    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()> {
        let _place = place(&self.ends).await?;
        self.inner.force_stop_node(node_id).await
    }

    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()> {
        let _place = place(&self.ends).await?;
        self.inner.remove_node(node_id, data).await
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
