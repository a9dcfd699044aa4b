//! The registry's changes to who watches.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use futures::stream;
use grid_platform_api::{NodeEvent, NodeEventStream, Progress, SpawnedNode};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::registry::{Change, Registry};

struct Watcher {
    registry: Weak<Registry>,
    changes: Receiver<Change>,
    ready: VecDeque<NodeEvent>,
}

/// A snapshot, then what changes, and what the cluster says meanwhile. It ends with the platform.
pub(crate) fn of(registry: &Arc<Registry>) -> NodeEventStream {
    // Subscribed before the snapshot is taken, so that nothing falls in between.
    let changes = registry.changes();
    let nodes = registry.list();
    let watcher = Watcher {
        registry: Arc::downgrade(registry),
        changes,
        ready: [NodeEvent::Snapshot { nodes }].into(),
    };
    Box::pin(stream::unfold(watcher, async |mut watcher| {
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
            let lost = match change {
                Ok(Change::Changed(id)) => match registry.shown(&id) {
                    Some(node) => {
                        return Some(NodeEvent::Changed {
                            node: Box::new(SpawnedNode::clone(&node)),
                        });
                    }
                    None => continue,
                },
                // When the id has a new node already, that one is the news.
                Ok(Change::Removed(node_id, uid)) => match registry.shown(&node_id) {
                    None => return Some(NodeEvent::Removed { node_id, uid }),
                    Some(_) => continue,
                },
                Ok(Change::Said(node_id, message)) => {
                    let progress = Progress {
                        message,
                        ..Progress::default()
                    };
                    return Some(NodeEvent::Progress { node_id, progress });
                }
                Ok(Change::Resync(reason)) => reason,
                Err(RecvError::Lagged(lost)) => format!("{lost} changes were not taken in time"),
                Err(RecvError::Closed) => return None,
            };
            self.ready.push_back(NodeEvent::Resync { reason: lost });
            self.ready.push_back(NodeEvent::Snapshot {
                nodes: registry.list(),
            });
        }
    }
}
