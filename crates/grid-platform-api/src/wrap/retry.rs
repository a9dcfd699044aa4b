//! Retry of retryable errors.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    Capabilities, DataPolicy, LogCursor, LogStream, NodeData, NodeEventStream, NodeId, NodeUsage,
    Platform, PlatformInfo, Result, SpawnConfig, SpawnedNode,
};

/// Tries a call again whose error says that a retry can help, after a wait that doubles each time.
///
/// Every call of the contract is idempotent, so that a call whose answer was lost may be made again. A stream is
/// retried only where it begins.
pub struct Retry {
    inner: Arc<dyn Platform>,
    retries: u32,
    first_wait: Duration,
}

impl Retry {
    /// At most `retries` tries more, the first after `first_wait`.
    pub fn new(inner: Arc<dyn Platform>, retries: u32, first_wait: Duration) -> Self {
        Self {
            inner,
            retries,
            first_wait,
        }
    }

    async fn run<T, F>(&self, mut call: impl FnMut() -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut wait = self.first_wait;
        let mut left = self.retries;
        loop {
            match call().await {
                Err(error) if error.is_retryable() && left > 0 => {
                    tracing::debug!(%error, ?wait, left, "trying again");
                    tokio::time::sleep(wait).await;
                    wait = wait.saturating_mul(2);
                    left -= 1;
                }
                result => return result,
            }
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Platform for Retry {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        self.run(|| self.inner.probe()).await
    }

    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        self.run(|| self.inner.spawn_node(config.clone())).await
    }

    async fn stop_node(&self, node_id: &NodeId) -> Result<()> {
        self.run(|| self.inner.stop_node(node_id)).await
    }

    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()> {
        self.run(|| self.inner.force_stop_node(node_id)).await
    }

    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()> {
        self.run(|| self.inner.remove_node(node_id, data)).await
    }

    async fn is_node_alive(&self, node_id: &NodeId) -> Result<bool> {
        self.run(|| self.inner.is_node_alive(node_id)).await
    }

    async fn get_node_status(&self, node_id: &NodeId) -> Result<SpawnedNode> {
        self.run(|| self.inner.get_node_status(node_id)).await
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        self.run(|| self.inner.list_nodes()).await
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        self.run(|| self.inner.list_data()).await
    }

    async fn get_logs(&self, node_id: &NodeId, lines: usize) -> Result<Vec<String>> {
        self.run(|| self.inner.get_logs(node_id, lines)).await
    }

    async fn follow_logs(&self, node_id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        self.run(|| self.inner.follow_logs(node_id, cursor.clone()))
            .await
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        self.run(|| self.inner.watch_nodes()).await
    }

    async fn get_usage(&self, node_id: &NodeId) -> Result<NodeUsage> {
        self.run(|| self.inner.get_usage(node_id)).await
    }
}
