//! Systems other than Linux: the platform says so when it is opened.

use std::path::Path;

use grid_platform_api::{
    Capabilities, DataPolicy, Error, LogCursor, LogStream, NodeData, NodeEventStream, NodeId,
    NodeUsage, Platform, PlatformInfo, Result, SpawnConfig, SpawnedNode, async_trait,
};

use crate::{config::ProcessConfig, error::PLATFORM};

/// Nodes as native processes of this host. There is none on this system.
#[derive(Clone, Copy, Debug)]
pub enum ProcessPlatform {}

impl ProcessPlatform {
    /// Opens the platform.
    ///
    /// # Errors
    /// Always `Unsupported`, on this system.
    pub async fn open(_config: ProcessConfig) -> Result<Self> {
        Err(linux_only("open"))
    }
}

/// Says that a state directory that was moved or restored is the only one of its install id.
///
/// # Errors
/// Always `Unsupported`, on this system.
pub fn accept_copied_state(_state_dir: &Path) -> Result<()> {
    Err(linux_only("accept_copied_state"))
}

fn linux_only(operation: &'static str) -> Error {
    Error::unsupported(PLATFORM, "run nodes on a system other than Linux")
        .with_operation(operation)
        .with_hint("Run the agent on Linux, or use the `docker` platform.")
}

#[async_trait]
impl Platform for ProcessPlatform {
    fn name(&self) -> &'static str {
        match *self {}
    }

    fn capabilities(&self) -> Capabilities {
        match *self {}
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        match *self {}
    }

    async fn spawn_node(&self, _config: SpawnConfig) -> Result<SpawnedNode> {
        match *self {}
    }

    async fn stop_node(&self, _node_id: &NodeId) -> Result<()> {
        match *self {}
    }

    async fn force_stop_node(&self, _node_id: &NodeId) -> Result<()> {
        match *self {}
    }

    async fn remove_node(&self, _node_id: &NodeId, _data: DataPolicy) -> Result<()> {
        match *self {}
    }

    async fn is_node_alive(&self, _node_id: &NodeId) -> Result<bool> {
        match *self {}
    }

    async fn get_node_status(&self, _node_id: &NodeId) -> Result<SpawnedNode> {
        match *self {}
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        match *self {}
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        match *self {}
    }

    async fn get_logs(&self, _node_id: &NodeId, _lines: usize) -> Result<Vec<String>> {
        match *self {}
    }

    async fn follow_logs(&self, _node_id: &NodeId, _cursor: LogCursor) -> Result<LogStream> {
        match *self {}
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        match *self {}
    }

    async fn get_usage(&self, _node_id: &NodeId) -> Result<NodeUsage> {
        match *self {}
    }
}
