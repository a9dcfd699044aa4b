//! What a node uses: the engine's statistics, once, and the size of its data where this host sees it.

use std::sync::Arc;

use grid_platform_api::{Error, NodeId, NodeUsage, Result};

use crate::{error::PLATFORM, platform::Inner};

/// [`Platform::get_usage`](grid_platform_api::Platform::get_usage).
pub(crate) async fn read(_inner: &Arc<Inner>, _id: &NodeId) -> Result<NodeUsage> {
    Err(Error::unsupported(PLATFORM, "tell what a node uses"))
}
