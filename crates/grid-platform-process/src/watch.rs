//! Changes of all nodes as a stream.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use futures::stream;
use grid_platform_api::{NodeEvent, NodeEventStream, SpawnedNode};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::node::{Change, Registry};

struct Watcher {
    registry: Weak<Registry>,
    changes: Receiver<Change>,
    ready: VecDeque<NodeEvent>,
}

/// A snapshot, then what changes. It ends with the platform.
pub(crate) fn events(registry: &Arc<Registry>) -> NodeEventStream {
    // Subscribed before the snapshot is taken, so that nothing falls in between.
    let changes = registry.changes();
    let nodes = registry.list();
    let watcher = Watcher {
        registry: Arc::downgrade(registry),
        changes,
        ready: [NodeEvent::Snapshot { nodes }].into(),
    };
    Box::pin(stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((Ok(event), watcher))
    }))
}

impl Watcher {
    async fn next(&mut self) -> Option<NodeEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let change = self.changes.recv().await;
            let registry = self.registry.upgrade()?;
            match change {
                Ok(Change::Changed(id)) => {
                    if let Some(node) = registry.get(&id) {
                        return Some(NodeEvent::Changed {
                            node: Box::new(SpawnedNode::clone(&node.shown())),
                        });
                    }
                }
                Ok(Change::Removed(node_id, uid)) => {
                    // When the id has a new node already, that one is the news.
                    if registry.get(&node_id).is_none() {
                        return Some(NodeEvent::Removed { node_id, uid });
                    }
                }
                Err(RecvError::Lagged(lost)) => {
                    self.ready.push_back(NodeEvent::Resync {
                        reason: format!("{lost} changes were not taken in time"),
                    });
                    self.ready.push_back(NodeEvent::Snapshot {
                        nodes: registry.list(),
                    });
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
