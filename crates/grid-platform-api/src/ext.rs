//! Conveniences over the contract, the same for every platform.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;

use crate::{Error, ErrorKind, NodeEvent, NodeId, Platform, Result, SpawnedNode};

/// Conveniences over [`Platform`], for every platform and every wrapper.
#[async_trait]
pub trait PlatformExt: Platform {
    /// The node, or `None` for an unknown id.
    ///
    /// # Errors
    /// Those of [`Platform::get_node_status`] but `NotFound`.
    async fn find_node(&self, node_id: &NodeId) -> Result<Option<SpawnedNode>> {
        match self.get_node_status(node_id).await {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the node meets `wanted`, by events and not by asking again and again. `None` is a node that
    /// does not exist (yet, or any more).
    ///
    /// # Errors
    /// `Timeout` after `limit`, with the state last seen; those of [`Platform::watch_nodes`].
    async fn wait_for<F>(&self, node_id: &NodeId, limit: Duration, wanted: F) -> Result<()>
    where
        F: Fn(Option<&SpawnedNode>) -> bool + Send + Sync,
    {
        let mut last = "unknown";
        let waiting = async {
            let mut events = self.watch_nodes().await?;
            while let Some(event) = events.next().await {
                let now = match event? {
                    NodeEvent::Snapshot { nodes } => {
                        nodes.into_iter().find(|n| n.node_id == *node_id)
                    }
                    NodeEvent::Changed { node } if node.node_id == *node_id => Some(*node),
                    NodeEvent::Removed { node_id: gone, .. } if gone == *node_id => None,
                    _ => continue,
                };
                last = now.as_ref().map_or("absent", |n| n.state.as_str());
                if wanted(now.as_ref()) {
                    return Ok(());
                }
            }
            Err(Error::new(
                ErrorKind::Unavailable,
                "the platform's events ended",
            ))
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("the node `{node_id}` is still {last} after {limit:?}"),
            )),
        }
        .map_err(|e| {
            e.with_platform(self.name())
                .with_operation("wait_for")
                .with_node(node_id)
        })
    }
}

impl<P: Platform + ?Sized> PlatformExt for P {}
