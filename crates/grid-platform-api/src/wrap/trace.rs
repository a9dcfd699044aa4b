//! Spans.

use std::sync::Arc;

use async_trait::async_trait;
use tracing::Instrument;

use crate::{
    Capabilities, DataPolicy, LogCursor, LogStream, NodeData, NodeEventStream, NodeId, NodeUsage,
    Platform, PlatformInfo, Result, SpawnConfig, SpawnedNode,
};

/// Puts a [`tracing`] span around every call, tells its failure at debug level, and names the platform and the
/// operation in errors that do not.
pub struct Trace {
    inner: Arc<dyn Platform>,
}

impl Trace {
    /// Around `inner`.
    pub fn new(inner: Arc<dyn Platform>) -> Self {
        Self { inner }
    }

    async fn run<T>(
        &self,
        operation: &'static str,
        node: Option<&NodeId>,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let platform = self.inner.name();
        let span = tracing::debug_span!(
            "platform",
            platform,
            operation,
            node = node.map(tracing::field::display)
        );
        let result = async move {
            let result = call.await;
            if let Err(error) = &result {
                tracing::debug!(kind = %error.kind(), %error, "failed");
            }
            result
        }
        .instrument(span)
        .await;
        result.map_err(|error| {
            let error = error.with_platform(platform).with_operation(operation);
            match node {
                Some(id) => error.with_node(id),
                None => error,
            }
        })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Platform for Trace {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        self.run("probe", None, self.inner.probe()).await
    }

    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        let id = config.node_id.clone();
        self.run("spawn_node", Some(&id), self.inner.spawn_node(config))
            .await
    }

    async fn stop_node(&self, node_id: &NodeId) -> Result<()> {
        self.run("stop_node", Some(node_id), self.inner.stop_node(node_id))
            .await
    }

    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()> {
        self.run(
            "force_stop_node",
            Some(node_id),
            self.inner.force_stop_node(node_id),
        )
        .await
    }

    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()> {
        self.run(
            "remove_node",
            Some(node_id),
            self.inner.remove_node(node_id, data),
        )
        .await
    }

    async fn is_node_alive(&self, node_id: &NodeId) -> Result<bool> {
        self.run(
            "is_node_alive",
            Some(node_id),
            self.inner.is_node_alive(node_id),
        )
        .await
    }

    async fn get_node_status(&self, node_id: &NodeId) -> Result<SpawnedNode> {
        self.run(
            "get_node_status",
            Some(node_id),
            self.inner.get_node_status(node_id),
        )
        .await
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        self.run("list_nodes", None, self.inner.list_nodes()).await
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        self.run("list_data", None, self.inner.list_data()).await
    }

    async fn get_logs(&self, node_id: &NodeId, lines: usize) -> Result<Vec<String>> {
        self.run(
            "get_logs",
            Some(node_id),
            self.inner.get_logs(node_id, lines),
        )
        .await
    }

    async fn follow_logs(&self, node_id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        self.run(
            "follow_logs",
            Some(node_id),
            self.inner.follow_logs(node_id, cursor),
        )
        .await
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        self.run("watch_nodes", None, self.inner.watch_nodes())
            .await
    }

    async fn get_usage(&self, node_id: &NodeId) -> Result<NodeUsage> {
        self.run("get_usage", Some(node_id), self.inner.get_usage(node_id))
            .await
    }
}
