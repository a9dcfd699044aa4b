//! The simulated host: processes, ports and files. It knows nothing of records, and no platform's record is asked
//! when the suite takes its census: that is done here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use grid_platform_api::{Exit, NodeId, OwnerId};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::program::{self, Image};
use crate::{Boot, LiveProcess, PortHold};

/// The host of a [`World`](super::World).
pub(crate) struct Kernel {
    table: Mutex<Table>,
    /// When it was made, by tokio's clock and by the wall's.
    made: (Instant, SystemTime),
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            made: (Instant::now(), SystemTime::now()),
        }
    }
}

#[derive(Default)]
struct Table {
    last_pid: u32,
    last_port: u16,
    processes: BTreeMap<u32, Process>,
    /// Who has a port bound; 0 is a program that is no node.
    ports: BTreeMap<u16, u32>,
    folders: BTreeMap<PathBuf, Folder>,
}

struct Process {
    node: NodeId,
    owner: OwnerId,
    command: String,
    /// The first process of its tree.
    root: u32,
    mail: Option<mpsc::UnboundedSender<Mail>>,
    kill: watch::Sender<bool>,
    eaten_bytes: u64,
    burnt_ms: u64,
}

/// What reaches a program from outside.
pub(crate) enum Mail {
    Signal(i32),
    Do(String, oneshot::Sender<Result<String, String>>),
    Healthz(oneshot::Sender<bool>),
}

/// Data of a node, and what is in it.
#[derive(Clone, Default)]
pub(crate) struct Folder {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) boots: Vec<Boot>,
}

impl Folder {
    /// What its files take.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|bytes| bytes.len() as u64).sum()
    }
}

/// A program that was started.
pub(crate) struct Started {
    pub(crate) pid: u32,
    /// `None` until it has ended.
    exit: watch::Receiver<Option<End>>,
}

impl Started {
    /// Waits until the program has ended.
    pub(crate) async fn ended(&mut self) -> End {
        let end = self.exit.wait_for(Option::is_some).await;
        end.ok().and_then(|end| *end).unwrap_or(End {
            exit: Exit::Unknown,
            out_of_memory: false,
        })
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) exit: Exit,
    pub(crate) out_of_memory: bool,
}

impl Kernel {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's time, in milliseconds since 1970. It goes by tokio's clock, so that it stands still with it.
    pub(crate) fn now_ms(&self) -> u64 {
        let now = self.made.1 + self.made.0.elapsed();
        let since = now.duration_since(UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    /// Starts a program.
    pub(crate) fn start(self: &Arc<Self>, owner: &OwnerId, image: Image) -> Started {
        let (mail, inbox) = mpsc::unbounded_channel();
        let (kill, mut killed) = watch::channel(false);
        let (end, exit) = watch::channel(None);
        let pid = self.table().add(Process {
            node: image.place.node_id.clone(),
            owner: owner.clone(),
            command: image.argv.join(" "),
            root: 0,
            mail: Some(mail),
            kill,
            eaten_bytes: 0,
            burnt_ms: 0,
        });
        let kernel = Arc::clone(self);
        tokio::spawn(async move {
            let ended = tokio::select! {
                biased;
                _ = killed.wait_for(|killed| *killed) => End { exit: Exit::Signal(9), out_of_memory: false },
                ended = program::run(&kernel, pid, image, inbox) => ended,
            };
            kernel.table().take(pid);
            end.send_replace(Some(ended));
        });
        Started { pid, exit }
    }

    /// A process that outlives `parent`, deaf to every signal but a kill.
    pub(crate) fn start_orphan(&self, parent: u32) {
        let mut table = self.table();
        let Some(process) = table.processes.get(&parent) else {
            return;
        };
        let orphan = Process {
            node: process.node.clone(),
            owner: process.owner.clone(),
            command: "orphan".to_owned(),
            root: process.root,
            mail: None,
            kill: watch::channel(false).0,
            eaten_bytes: 0,
            burnt_ms: 0,
        };
        table.add(orphan);
    }

    /// Sends a signal to one process.
    pub(crate) fn signal(&self, pid: u32, number: i32) {
        let table = self.table();
        let Some(process) = table.processes.get(&pid) else {
            return;
        };
        if number == 9 {
            process.kill.send_replace(true);
        } else if let Some(mail) = &process.mail {
            // It may be ending: then there is nobody to tell.
            let _ = mail.send(Mail::Signal(number));
        }
    }

    /// Kills what is left of a tree whose root has ended.
    pub(crate) fn sweep(&self, root: u32) {
        let mut table = self.table();
        table.processes.retain(|_, process| process.root != root);
    }

    /// Every process of a node.
    pub(crate) fn census(&self, owner: &OwnerId, node: &NodeId) -> Vec<LiveProcess> {
        let table = self.table();
        let of_the_node = table
            .processes
            .iter()
            .filter(|(_, p)| p.node == *node && p.owner == *owner);
        of_the_node.map(|(pid, p)| p.seen(*pid)).collect()
    }

    /// Every process there is.
    pub(crate) fn all(&self) -> Vec<LiveProcess> {
        let table = self.table();
        table
            .processes
            .iter()
            .map(|(pid, p)| p.seen(*pid))
            .collect()
    }

    /// Memory in bytes, processor time in milliseconds and the number of processes of a tree.
    pub(crate) fn usage(&self, root: u32) -> (u64, u64, u32) {
        let table = self.table();
        let tree = table.processes.values().filter(|p| p.root == root);
        tree.fold((0, 0, 0), |(bytes, ms, count), p| {
            // A mebibyte for the program itself.
            (
                bytes + p.eaten_bytes + (1 << 20),
                ms + p.burnt_ms,
                count + 1,
            )
        })
    }

    /// Gives a process more memory, and says how much it has then, in bytes.
    pub(crate) fn eat(&self, pid: u32, bytes: u64) -> u64 {
        let mut table = self.table();
        table.processes.get_mut(&pid).map_or(0, |p| {
            p.eaten_bytes += bytes;
            p.eaten_bytes
        })
    }

    /// Counts processor time of a process.
    pub(crate) fn burn(&self, pid: u32, ms: u64) {
        if let Some(process) = self.table().processes.get_mut(&pid) {
            process.burnt_ms += ms;
        }
    }

    /// Binds a port for a process; `false` if it is taken.
    pub(crate) fn bind(&self, port: u16, pid: u32) -> bool {
        let mut table = self.table();
        let free = !table.ports.contains_key(&port);
        if free {
            table.ports.insert(port, pid);
        }
        free
    }

    /// Whether a port is bound.
    pub(crate) fn is_bound(&self, port: u16) -> bool {
        self.table().ports.contains_key(&port)
    }

    /// A port that nobody has bound, another at each call.
    pub(crate) fn free_port(&self) -> u16 {
        let mut table = self.table();
        loop {
            table.last_port = table.last_port.wrapping_add(1).max(20_000);
            if !table.ports.contains_key(&table.last_port) {
                return table.last_port;
            }
        }
    }

    /// Takes a port as a program that is no node.
    pub(crate) fn occupy(self: &Arc<Self>) -> PortHold {
        let port = self.free_port();
        self.bind(port, 0);
        PortHold::new(
            port,
            Occupied {
                kernel: Arc::clone(self),
                port,
            },
        )
    }

    /// Sends mail to whoever listens on a port; `None` if nobody does.
    pub(crate) fn post(&self, port: u16, mail: Mail) -> Option<()> {
        let table = self.table();
        let pid = table.ports.get(&port)?;
        table.processes.get(pid)?.mail.as_ref()?.send(mail).ok()
    }

    /// Makes a folder; `false` if it was there.
    pub(crate) fn make_folder(&self, path: &Path) -> bool {
        let mut table = self.table();
        let new = !table.folders.contains_key(path);
        table.folders.entry(path.to_owned()).or_default();
        new
    }

    /// Deletes a folder.
    pub(crate) fn delete_folder(&self, path: &Path) {
        self.table().folders.remove(path);
    }

    /// A copy of a folder, if it is there.
    pub(crate) fn folder(&self, path: &Path) -> Option<Folder> {
        self.table().folders.get(path).cloned()
    }

    /// Changes a folder, if it is there.
    pub(crate) fn in_folder<T>(
        &self,
        path: &Path,
        change: impl FnOnce(&mut Folder) -> T,
    ) -> Option<T> {
        self.table().folders.get_mut(path).map(change)
    }

    /// The paths of all folders.
    pub(crate) fn folders(&self) -> BTreeSet<PathBuf> {
        self.table().folders.keys().cloned().collect()
    }
}

impl Table {
    fn add(&mut self, mut process: Process) -> u32 {
        self.last_pid += 1;
        let pid = self.last_pid;
        if process.root == 0 {
            process.root = pid;
        }
        self.processes.insert(pid, process);
        pid
    }

    fn take(&mut self, pid: u32) {
        self.processes.remove(&pid);
        self.ports.retain(|_, holder| *holder != pid);
    }
}

impl Process {
    fn seen(&self, pid: u32) -> LiveProcess {
        LiveProcess {
            pid,
            // Numbers are never used again here, so that they tell the time of the start as well.
            start_time: u64::from(pid),
            command: self.command.clone(),
        }
    }
}

struct Occupied {
    kernel: Arc<Kernel>,
    port: u16,
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.kernel.table().ports.remove(&self.port);
    }
}
