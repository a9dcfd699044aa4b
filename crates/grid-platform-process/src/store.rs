//! The directory of one node.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    thread,
    time::{Duration, Instant},
};

use grid_platform_api::{ErrorKind, NodeId, Result, checked};
use rustix::fs::{Gid, Uid};

use crate::{
    error::{Context, error},
    intent::{Intent, VERSION},
    shared::record::{self, Stored},
    sys::files::{self, Durable},
};

const INTENT: &str = "intent.json";
const INTENT_MAX: usize = 4 * 1024 * 1024;
const SECRETS: &str = "secrets";
/// All that a node's directory has, with what a write that was cut short leaves.
const NAMES: [&str; 11] = [
    INTENT,
    "intent.json.tmp",
    "launch",
    "launch.tmp",
    "lock",
    "log",
    "log.index",
    "log.index.tmp",
    "record",
    SECRETS,
    "sock",
];
/// How long a lock that should be free is asked for again: a child that somebody else in this process forks holds
/// copies of all descriptors until it executes.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// A node's directory by its handle.
pub(crate) struct NodeDir {
    fd: OwnedFd,
}

/// What became of reading the intent.
pub(crate) enum IntentRead {
    /// There is one.
    Found(Box<Intent>),
    /// There is none: making the node was not finished.
    Missing,
    /// It cannot be understood.
    Damaged(String),
}

impl NodeDir {
    /// Opens the directory of a node beneath `nodes`.
    pub(crate) fn open(nodes: impl AsFd, id: &NodeId) -> io::Result<Self> {
        let fd = files::open_dir_at(nodes, id.native_name())?;
        Ok(Self { fd })
    }

    /// Makes the directory of a new node, taking away what an unfinished attempt left.
    pub(crate) fn create(nodes: impl AsFd, id: &NodeId) -> Result<Self> {
        let name = id.native_name();
        let context = format!("make the directory of the node `{id}`");
        let made = match files::make_dir_at(&nodes, &name, 0o711) {
            // The handle outlives what it was opened on.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(error(
                    ErrorKind::Corrupt,
                    "the agent's state directory is gone",
                )
                .with_source(e)
                .with_hint("Somebody deleted it while the agent ran: end the nodes that still run by `grid rm ID`, then start the agent again, which makes a new one."));
            }
            other => other.cannot(&context)?,
        };
        if !made {
            if let Some(strange) = Self::open(&nodes, id).cannot(&context)?.stranger(id)? {
                return Err(error(
                    ErrorKind::Corrupt,
                    format!("the directory of the node `{id}` holds `{strange}`, which is no part of a node"),
                )
                .with_hint(format!(
                    "Move `{name}` out of the directory `nodes` of the agent's state: somebody may need what is in it."
                )));
            }
            files::remove_tree(&nodes, &name).cannot(&context)?;
            files::make_dir_at(&nodes, &name, 0o711).cannot(&context)?;
        }
        Self::open(nodes, id).cannot(&context)
    }

    /// Something in it that no node's directory has: it is not ours to delete then.
    pub(crate) fn stranger(&self, id: &NodeId) -> Result<Option<String>> {
        let names =
            files::names(&self.fd).cannot(format!("read the directory of the node `{id}`"))?;
        let strange = names
            .iter()
            .find(|it| !NAMES.iter().any(|own| *own == **it));
        Ok(strange.map(|it| it.to_string_lossy().escape_debug().to_string()))
    }

    /// The handle.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The intent.
    pub(crate) fn read_intent(&self) -> IntentRead {
        let bytes = match files::read_at(&self.fd, INTENT, INTENT_MAX) {
            // A first one whose bytes did not outlive a loss of power: nothing was started by it.
            Ok(bytes) if bytes.is_empty() => return IntentRead::Missing,
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return IntentRead::Missing,
            Err(e) => return IntentRead::Damaged(e.to_string()),
        };
        let text = match checked::open(&bytes) {
            Ok(text) => text,
            Err(e) => return IntentRead::Damaged(e.to_string()),
        };
        match serde_json::from_slice::<Intent>(text) {
            Ok(intent) if intent.version == VERSION => IntentRead::Found(Box::new(intent)),
            Ok(intent) => IntentRead::Damaged(format!("version {} is not known", intent.version)),
            Err(e) => IntentRead::Damaged(e.to_string()),
        }
    }

    /// Makes the first intent durable, and the directory with it. A loss of power in between may leave an empty one.
    pub(crate) fn write_first_intent(&self, nodes: impl AsFd, intent: &Intent) -> Result<()> {
        let context = format!("make the record of the node `{}`", intent.config.node_id);
        let bytes = serde_json::to_vec(intent)
            .map(checked::seal)
            .map_err(io::Error::from)
            .cannot(&context)?;
        let temporary = "intent.json.tmp";
        let write = || -> io::Result<()> {
            let file = files::write_new(&self.fd, temporary, &bytes, 0o600, Durable::No)?;
            // Under its name before it is synced, so that one commit of the journal takes both.
            rustix::fs::renameat(&self.fd, temporary, &self.fd, INTENT)?;
            file.sync_all()
        };
        write().cannot(&context)?;
        // Where the journal is one for all, these find that there is nothing left to do.
        files::sync(&self.fd)
            .and_then(|()| files::sync(nodes))
            .cannot(context)
    }

    /// Makes the record's file, of zeros: the shim's first durable write makes it durable too, and saves it two of its own.
    pub(crate) fn create_record(&self) -> io::Result<()> {
        let zeros = [0; record::FILE];
        files::write_new(&self.fd, "record", &zeros, 0o640, Durable::No).map(drop)
    }

    /// Makes the intent durable.
    pub(crate) fn write_intent(&self, intent: &Intent) -> Result<()> {
        let id = &intent.config.node_id;
        let context = format!("write the record of the node `{id}`");
        let bytes = serde_json::to_vec(intent)
            .map(checked::seal)
            .map_err(io::Error::from)
            .cannot(&context)?;
        files::replace_at(&self.fd, INTENT, &bytes, 0o600, Durable::Yes).cannot(&context)
    }

    /// Writes what the shim starts by. It is written anew before each start, so that it need not outlive the host's power.
    pub(crate) fn write_launch(&self, bytes: &[u8]) -> io::Result<()> {
        files::replace_at(&self.fd, "launch", bytes, 0o600, Durable::No)
    }

    /// Whether a start was made: by then the data directory was there.
    pub(crate) fn has_launch(&self) -> bool {
        files::open_at(&self.fd, "launch").is_ok()
    }

    /// Makes the log, so that a log that is missing later is one that was taken away.
    pub(crate) fn create_log(&self) -> io::Result<()> {
        files::create_at(&self.fd, "log", 0o640).map(drop)
    }

    /// Writes the secrets, for the eyes of `owner` (user and group) alone.
    pub(crate) fn write_secrets(
        &self,
        secrets: &[(&str, &[u8])],
        owner: Option<(u32, u32)>,
    ) -> io::Result<()> {
        if secrets.is_empty() {
            return Ok(());
        }
        files::make_dir_at(&self.fd, SECRETS, 0o700)?;
        let dir = files::open_dir_at(&self.fd, SECRETS)?;
        // The directory may have been the node's user's, from an earlier start.
        rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(0o700))?;
        let (uid, gid) = match owner {
            Some((uid, gid)) => (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
            None => (None, None),
        };
        for (name, value) in secrets {
            let file = files::write_new(&dir, name, value, 0o400, Durable::Yes)?;
            rustix::fs::fchown(&file, uid, gid)?;
        }
        rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(0o500))?;
        rustix::fs::fchown(&dir, uid, gid)?;
        files::sync(&dir)
    }

    /// What the shim last recorded; `None` when there is nothing that can be believed.
    pub(crate) fn read_record(&self) -> Option<Stored> {
        record::read(&self.read_record_bytes()?)
    }

    /// Whether there is a record, none of which can be believed.
    pub(crate) fn record_is_damaged(&self) -> bool {
        // All zeros is a record that was made and not written yet.
        self.read_record_bytes()
            .is_some_and(|it| record::read(&it).is_none() && it.iter().any(|byte| *byte != 0))
    }

    fn read_record_bytes(&self) -> Option<Vec<u8>> {
        let file = files::open_at(&self.fd, "record").ok()?;
        let mut bytes = vec![0; record::FILE];
        let mut have = 0;
        while have < bytes.len() {
            let rest = bytes.get_mut(have..)?;
            match file.read_at(rest, u64::try_from(have).ok()?) {
                Ok(0) => break,
                Ok(more) => have += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        bytes.truncate(have);
        Some(bytes)
    }

    /// Takes the node's lock: then no shim lives, and none can be started until the file is closed.
    /// `None`: a shim has it.
    pub(crate) fn try_lock(&self) -> io::Result<Option<File>> {
        let file = files::create_at(&self.fd, "lock", 0o600)?;
        Ok(files::try_lock(&file)?.then_some(file))
    }

    /// Takes the lock that should be free.
    ///
    /// # Errors
    /// `Internal` (worth a retry) when a shim has it all the same.
    pub(crate) fn lock(&self, id: &NodeId) -> Result<File> {
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            let context = format!("lock the node `{id}`");
            if let Some(file) = self.try_lock().cannot(context)? {
                return Ok(file);
            }
            if Instant::now() >= until {
                return Err(error(
                    ErrorKind::Internal,
                    format!("the supervisor of the node `{id}` still lives"),
                )
                .with_retryable(true));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
