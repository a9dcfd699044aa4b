//! All nodes in memory, kept true by their monitors.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grid_platform_api::{Failure, Health, NodeId, NodeUid, SpawnedNode};
use tokio::sync::{broadcast, watch};

use crate::{
    config::ProcessConfig,
    intent::Intent,
    shared::{
        record::{Record, State, Stored},
        words::Report,
    },
    translate::{self, Facts, Shim},
};

/// How many changes a watcher may be behind before it is told to start over.
const BACKLOG: usize = 1024;

/// What became of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Started {
    /// Nothing is known yet.
    Waiting,
    /// The shim's report.
    Reported(Report),
    /// The shim died without one.
    Died,
}

/// All that is known of a node at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Situation {
    pub(crate) intent: Arc<Intent>,
    pub(crate) stored: Option<Arc<Stored>>,
    pub(crate) shim: Shim,
    /// Of the start of the intent's generation.
    pub(crate) started: Started,
    pub(crate) health: Health,
    pub(crate) last_failure: Option<Failure>,
    /// The last lines of a program that failed for good.
    pub(crate) tail: Vec<String>,
    pub(crate) removed: bool,
}

impl Situation {
    pub(crate) fn new(intent: Intent, stored: Option<Stored>, shim: Shim) -> Self {
        Self {
            health: no_answer_yet(&intent),
            intent: Arc::new(intent),
            stored: stored.map(Arc::new),
            shim,
            started: Started::Waiting,
            last_failure: None,
            tail: Vec::new(),
            removed: false,
        }
    }

    /// The record of the start that the intent speaks of.
    pub(crate) fn record(&self) -> Option<&Record> {
        let record = &self.stored.as_ref()?.record;
        let current =
            record.generation == self.intent.generation && record.uid == self.intent.uid.as_str();
        current.then_some(record)
    }

    /// Takes over what was read from the record file, unless it is older than what is known.
    pub(crate) fn learn(&mut self, stored: Option<Stored>) {
        let Some(stored) = stored else { return };
        if self.stored.as_ref().is_some_and(|it| it.seq >= stored.seq) {
            return;
        }
        self.stored = Some(Arc::new(stored));
        let ended = self
            .record()
            .and_then(|it| translate::bad_end(&self.intent, it));
        if ended.is_some() {
            self.last_failure = ended;
        }
    }

    /// Nothing of the node is left, though its shim did not live to record it.
    pub(crate) fn settle(&mut self) {
        if let Some(stored) = &mut self.stored {
            let record = &mut Arc::make_mut(stored).record;
            (record.state, record.pid, record.pid_start) = (State::Stopped, 0, 0);
        }
    }

    /// Whether its program failed for good.
    pub(crate) fn is_failed(&self) -> bool {
        self.record()
            .is_some_and(|it| it.state.is_final() && translate::bad_end(&self.intent, it).is_some())
    }

    /// Turns to a new start.
    pub(crate) fn begin(&mut self, intent: Intent) {
        self.health = no_answer_yet(&intent);
        self.intent = Arc::new(intent);
        self.shim = Shim::Alive;
        self.started = Started::Waiting;
        self.tail.clear();
        // A start that counts as a restart is the platform's own: what it followed is still told.
        if self.intent.restarts == 0 {
            self.last_failure = None;
        }
    }
}

fn no_answer_yet(intent: &Intent) -> Health {
    match intent.config.health {
        Some(_) => Health::Starting,
        None => Health::Unchecked,
    }
}

/// A node that there is.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) uid: NodeUid,
    situation: watch::Sender<Situation>,
    shown: Mutex<Arc<SpawnedNode>>,
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
    Changed(NodeId),
    Removed(NodeId, NodeUid),
}

/// All nodes.
pub(crate) struct Registry {
    config: Arc<ProcessConfig>,
    nodes: Mutex<BTreeMap<NodeId, Arc<Node>>>,
    changes: broadcast::Sender<Change>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub(crate) fn new(config: Arc<ProcessConfig>) -> Self {
        Self {
            config,
            nodes: Mutex::default(),
            changes: broadcast::channel(BACKLOG).0,
        }
    }

    /// The node's directory.
    pub(crate) fn directory(&self, id: &NodeId) -> PathBuf {
        self.config.state_dir.join("nodes").join(id.native_name())
    }

    pub(crate) fn get(&self, id: &NodeId) -> Option<Arc<Node>> {
        lock(&self.nodes).get(id).cloned()
    }

    /// All nodes, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).values().cloned().collect()
    }

    /// All nodes as they are shown, by id.
    pub(crate) fn list(&self) -> Vec<SpawnedNode> {
        lock(&self.nodes)
            .values()
            .map(|it| SpawnedNode::clone(&it.shown()))
            .collect()
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Adds a node.
    pub(crate) fn insert(&self, situation: Situation) -> Arc<Node> {
        let id = situation.intent.config.node_id.clone();
        let node = Arc::new(Node {
            id: id.clone(),
            uid: situation.intent.uid.clone(),
            shown: Mutex::new(Arc::new(self.show(&situation))),
            situation: watch::channel(situation).0,
        });
        lock(&self.nodes).insert(id.clone(), Arc::clone(&node));
        // Nobody may be watching.
        let _ = self.changes.send(Change::Changed(id));
        node
    }

    /// Takes a node out and tells who follows it.
    pub(crate) fn remove(&self, node: &Node) {
        lock(&self.nodes).remove(&node.id);
        node.situation.send_modify(|it| it.removed = true);
        let _ = self
            .changes
            .send(Change::Removed(node.id.clone(), node.uid.clone()));
    }

    /// Changes what is known of a node and tells who watches, if that shows.
    pub(crate) fn update(&self, node: &Node, change: impl FnOnce(&mut Situation)) {
        let mut shown = lock(&node.shown);
        node.situation.send_modify(change);
        let now = self.show(&node.situation.borrow());
        if **shown != now {
            *shown = Arc::new(now);
            let _ = self.changes.send(Change::Changed(node.id.clone()));
        }
    }

    fn show(&self, situation: &Situation) -> SpawnedNode {
        let intent = &situation.intent;
        let handle = self.directory(&intent.config.node_id);
        translate::node(&Facts {
            intent,
            record: situation.stored.as_ref().map(|it| &it.record),
            shim: situation.shim,
            health: &situation.health,
            last_failure: situation.last_failure.as_ref(),
            tail: &situation.tail,
            host: &self.config.host(intent.config.bind_address),
            handle: &handle.to_string_lossy(),
        })
    }
}
