//! A platform without a system beneath it.

mod flaw;
mod harness;
mod kernel;
mod log;
mod platform;
mod program;
mod record;
mod supervise;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use grid_platform_api::{LogSource, NodeId, OwnerId, SpawnedNode};
use tokio::sync::oneshot;

pub use flaw::Flaw;
pub use harness::MemoryHarness;
pub use platform::MemoryPlatform;

use crate::{Boot, Failed, LiveProcess, Outcome};
use kernel::{Kernel, Mail};
use record::Store;

/// The name of the platform.
pub(crate) const NAME: &str = "memory";

/// How many bytes of a node's log are kept, unless a world is told otherwise.
const LOG_BUDGET: u64 = 8 << 20;

/// A simulated host and the states of the platforms on it: what lives on when a [`MemoryPlatform`] is dropped.
///
/// Cheap to clone; all clones are the same world. Its nodes are tasks of the tokio runtime that spawned them.
#[derive(Clone)]
pub struct World {
    kernel: Arc<Kernel>,
    log_budget: u64,
    flaws: BTreeSet<Flaw>,
    stores: Arc<Mutex<Vec<Arc<Store>>>>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty world.
    pub fn new() -> Self {
        Self {
            kernel: Arc::default(),
            log_budget: LOG_BUDGET,
            flaws: BTreeSet::new(),
            stores: Arc::default(),
        }
    }

    /// Keeps at most so many bytes of the log of each node of platforms that are opened first from now on.
    #[must_use]
    pub fn log_budget(mut self, bytes: u64) -> Self {
        self.log_budget = bytes;
        self
    }

    /// Breaks every platform that is opened first from now on, in this one way.
    #[must_use]
    pub fn flaw(mut self, flaw: Flaw) -> Self {
        self.flaws.insert(flaw);
        self
    }

    /// The platform of this world's first owner: each call is a new adapter over the same state.
    pub fn open(&self) -> MemoryPlatform {
        self.open_as(0)
    }

    /// The platform of one of several owners, by number.
    pub fn open_as(&self, owner: usize) -> MemoryPlatform {
        let (store, is_new) = self.store(owner);
        MemoryPlatform::over(store, !is_new)
    }

    /// An owner's state, and whether it was made by this call.
    fn store(&self, owner: usize) -> (Arc<Store>, bool) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let known = stores.len();
        while stores.len() <= owner {
            stores.push(Arc::new(Store::new(
                OwnerId::from_bytes(random()),
                Arc::clone(&self.kernel),
                self.log_budget,
                self.flaws.clone(),
            )));
        }
        (Arc::clone(&stores[owner]), owner >= known)
    }

    /// The processes of a node of the first owner, as the simulated host has them.
    pub fn processes(&self, id: &NodeId) -> Vec<LiveProcess> {
        let owner = self.store(0).0.owner.clone();
        self.kernel.census(&owner, id)
    }

    /// The starts of a node's programs, as they wrote them down in their data; data of the first owner only.
    pub fn boots(&self, id: &NodeId) -> Vec<Boot> {
        let (store, _) = self.store(0);
        let marks = store.disk().data.clone();
        let mut boots: Vec<Boot> = self
            .kernel
            .folders()
            .iter()
            .filter(|path| marks.get(*path).is_some_and(|mark| mark.node == *id))
            .filter_map(|path| self.kernel.folder(path))
            .flat_map(|folder| folder.boots)
            .collect();
        boots.sort_by_key(|boot| (boot.at_ms, boot.number));
        boots
    }

    /// Ends a process of a node from outside by a signal, as anybody on a host could.
    pub fn signal(&self, process: &LiveProcess, number: i32) {
        self.kernel.signal(process.pid, number);
    }

    /// Has a program of a node perform an [action](crate::probe): the probe, or any server.
    ///
    /// # Errors
    /// When nobody listens on the node's main port, or the program says that it cannot.
    pub async fn ask(&self, node: &SpawnedNode, action: &str) -> Outcome<String> {
        let endpoint = node.endpoint.as_ref().ok_or("the node has no endpoint")?;
        let (answer, asked) = oneshot::channel();
        self.kernel
            .post(endpoint.port, Mail::Do(action.to_owned(), answer))
            .ok_or("connection refused")?;
        let answer = asked.await.map_err(|_| Failed::new("connection reset"))?;
        answer.map_err(Failed::new)
    }

    /// Writes a line to the log of a node of the first owner, as its program could.
    pub fn write_log(&self, id: &NodeId, line: &str) {
        let (store, _) = self.store(0);
        let log = store
            .disk()
            .nodes
            .get(id)
            .map(|record| Arc::clone(&record.log));
        if let Some(log) = log {
            log.write(LogSource::Stdout, line.as_bytes());
        }
    }

    /// Whether a folder is there on the simulated host.
    pub fn has_folder(&self, path: &Path) -> bool {
        self.kernel.folder(path).is_some()
    }
}

/// Bytes that differ each time, from the standard library's random hash keys. Identities of a simulation need to be
/// different and not secret.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    for (index, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = RandomState::new().hash_one(index).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    bytes
}
