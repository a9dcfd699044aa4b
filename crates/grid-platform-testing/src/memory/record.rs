//! What a `MemoryPlatform` remembers of its nodes: the state that outlives adapters.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grid_platform_api::{
    Digest, DigestKey, Endpoint, Failure, Health, NodeEvent, NodeId, NodeState, NodeUid, OwnerId,
    SecretValue, SpawnConfig, SpawnedNode, Timestamp,
};
use tokio::sync::{broadcast, mpsc, watch};

use super::{Flaw, kernel::Kernel, log::LogFile};

/// How many events a watcher may be behind before it is given a new snapshot.
const EVENTS: usize = 256;

/// One owner's state.
pub(crate) struct Store {
    pub(crate) owner: OwnerId,
    pub(crate) key: DigestKey,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) log_budget: u64,
    pub(crate) flaws: BTreeSet<Flaw>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    disk: Mutex<Disk>,
}

#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) nodes: BTreeMap<NodeId, Record>,
    /// Whose data is where: of nodes that exist, and what removed ones left.
    pub(crate) data: BTreeMap<PathBuf, DataMark>,
}

/// Whose data a folder is.
#[derive(Clone)]
pub(crate) struct DataMark {
    pub(crate) node: NodeId,
    /// The platform made the folder, so that it may delete it.
    pub(crate) created: bool,
}

pub(crate) struct Record {
    pub(crate) config: SpawnConfig,
    pub(crate) secrets: BTreeMap<String, SecretValue>,
    pub(crate) digest: Digest,
    pub(crate) uid: NodeUid,
    pub(crate) ports: BTreeMap<String, u16>,
    pub(crate) data_path: PathBuf,
    pub(crate) created_at: Timestamp,
    pub(crate) log: Arc<LogFile>,
    pub(crate) run: Run,
    /// Tells that `run` has changed.
    pub(crate) changes: watch::Sender<()>,
    /// Reaches the supervisor, while there is one.
    pub(crate) orders: Option<mpsc::UnboundedSender<Order>>,
}

/// What a supervisor can be told.
pub(crate) enum Order {
    /// End the program.
    Stop,
}

/// One life of the node, from a spawn to its end.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) state: NodeState,
    pub(crate) ready: bool,
    pub(crate) pid: Option<u32>,
    pub(crate) health: Health,
    pub(crate) restarts: u32,
    pub(crate) last_failure: Option<Failure>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            state: NodeState::Pending,
            ready: false,
            pid: None,
            health: Health::Unchecked,
            restarts: 0,
            last_failure: None,
            started_at: None,
            finished_at: None,
        }
    }
}

impl Store {
    pub(crate) fn new(
        owner: OwnerId,
        kernel: Arc<Kernel>,
        log_budget: u64,
        flaws: BTreeSet<Flaw>,
    ) -> Self {
        Self {
            owner,
            key: DigestKey::from_bytes(super::random()),
            kernel,
            log_budget,
            flaws,
            events: broadcast::channel(EVENTS).0,
            disk: Mutex::new(Disk::default()),
        }
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaws.contains(&flaw)
    }

    /// Tells watchers of an event; that nobody watches is no fault.
    pub(crate) fn tell(&self, event: NodeEvent) {
        let _ = self.events.send(event);
    }

    /// Changes a node's run and tells of it. Nothing, if the node is another incarnation by now or gone.
    pub(crate) fn update(&self, id: &NodeId, uid: &NodeUid, change: impl FnOnce(&mut Run)) {
        let mut disk = self.disk();
        let Some(record) = disk.nodes.get_mut(id).filter(|r| r.uid == *uid) else {
            return;
        };
        change(&mut record.run);
        // Told under the lock, so that the order of events is the order of changes.
        self.tell(NodeEvent::Changed {
            node: Box::new(record.view()),
        });
        record.changes.send_replace(());
    }
}

impl Record {
    /// The node as the contract shows it.
    pub(crate) fn view(&self) -> SpawnedNode {
        let run = self.run.clone();
        SpawnedNode {
            node_id: self.config.node_id.clone(),
            uid: self.uid.clone(),
            platform: super::NAME.to_owned(),
            native_handle: self.config.node_id.native_name(),
            // Numbers of the simulated host are none of this host's.
            pid: None,
            state: run.state,
            health: run.health,
            endpoint: self
                .ports
                .get(grid_platform_api::MAIN_PORT)
                .map(|port| Endpoint {
                    host: self.config.bind_address.to_string(),
                    port: *port,
                }),
            ports: self.ports.clone(),
            restarts: run.restarts,
            last_failure: run.last_failure,
            created_at: self.created_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            digest: self.digest.clone(),
            image: None,
            data_path: Some(self.data_path.clone()),
            labels: self.config.labels.clone(),
        }
    }
}
