//! Spawn, stop and remove (create.rs, start.rs, stop.rs, remove.rs).
//!
//! The container is the record: it is made with everything that a node is asked to be in its labels, before anything starts.
//! What is asked of it later (that it is stopped, that its start failed) is a small file of the state, written before the
//! engine is asked. A crash between any two calls leaves what the next `open` or `spawn` carries on with.

use std::sync::Arc;

use grid_platform_api::{DataPolicy, Error, NodeId, Result, SpawnConfig, SpawnedNode};

use crate::{error::PLATFORM, platform::Inner};

/// [`Platform::spawn_node`](grid_platform_api::Platform::spawn_node).
pub(crate) async fn spawn(_inner: &Arc<Inner>, _config: SpawnConfig) -> Result<SpawnedNode> {
    Err(Error::unsupported(PLATFORM, "spawn a node"))
}

/// [`Platform::stop_node`](grid_platform_api::Platform::stop_node).
pub(crate) async fn stop(inner: &Arc<Inner>, id: &NodeId) -> Result<()> {
    inner.node(id).map(drop)
}

/// [`Platform::remove_node`](grid_platform_api::Platform::remove_node).
pub(crate) async fn remove(_inner: &Arc<Inner>, _id: &NodeId, _data: DataPolicy) -> Result<()> {
    Err(Error::unsupported(PLATFORM, "remove a node"))
}
