//! Group commit: one thread writes the journal, and everyone who waits shares its syncs.
//!
//! While one record is on its way to the disk, the changes that arrive queue up, and the next
//! record takes them all. No timer is involved: a lone writer waits for its own sync only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::applier::Applier;
use crate::content::{ContentDir, PendingContent};
use crate::error::Error;
use crate::index::{Condition, Totals};
use crate::journal::{Changes, Journal, Record};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::overlay::Overlay;
use crate::row::Row;

/// Changes in one record, so that its size is bounded well below a journal file's: a change is
/// at most a key, a content type and [`crate::INLINE_BYTES`].
const MAX_BATCH: usize = 128;
/// Changes that may wait before senders have to.
const QUEUE: usize = 1024;

/// A change, its content file if it has one, and who waits for it.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) key: Key,
    /// The new row, or `None` to delete. Its generation is assigned here.
    pub(crate) row: Option<Row>,
    pub(crate) condition: Condition,
    pub(crate) content: Option<PendingContent>,
    pub(crate) reply: oneshot::Sender<Result<Done, Error>>,
}

/// The answer to a change that is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) existed: bool,
    pub(crate) generation: u64,
}

/// The committing thread's surroundings.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) journal: Journal,
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) applier: Applier,
    pub(crate) content: Arc<ContentDir>,
    pub(crate) ids: Arc<AtomicU64>,
    pub(crate) metrics: Arc<Metrics>,
    /// Of all that is durable, the overlay included.
    pub(crate) totals: Totals,
    /// Bytes of free disk below which nothing is written.
    pub(crate) min_free_bytes: u64,
    /// Whether the last record could not be written.
    pub(crate) failing: bool,
    /// Takes the numbers of content files to remove, so that a large unlink delays no commit.
    pub(crate) reaper: std::sync::mpsc::Sender<u64>,
}

/// A change whose condition held, on its way into a record.
struct Accepted {
    done: Done,
    content: Option<PendingContent>,
    reply: oneshot::Sender<Result<Done, Error>>,
    /// The content file that the change replaces.
    freed: Option<u64>,
}

/// Starts the committing thread; it ends when every sender is gone.
pub(crate) fn start(
    committer: Committer,
) -> std::io::Result<(mpsc::Sender<Submission>, JoinHandle<()>)> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new()
        .name("storage-commit".to_owned())
        .spawn(move || committer.run(receiver))?;
    Ok((sender, thread))
}

/// Starts the thread that removes content files nobody needs; it ends with its sender.
pub(crate) fn start_reaper(
    content: Arc<ContentDir>,
) -> std::io::Result<(std::sync::mpsc::Sender<u64>, JoinHandle<()>)> {
    let (sender, receiver) = std::sync::mpsc::channel::<u64>();
    let thread = std::thread::Builder::new().name("storage-reaper".to_owned()).spawn(move || {
        for id in receiver {
            if let Err(error) = content.remove(id) {
                tracing::warn!(id, %error, "cannot remove a replaced content file; the next start tries again");
            }
        }
    })?;
    Ok((sender, thread))
}

impl Committer {
    fn run(mut self, mut receiver: mpsc::Receiver<Submission>) {
        while let Some(first) = receiver.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(next) = receiver.try_recv()
            {
                batch.push(next);
            }
            self.commit(batch);
        }
        // A clean end leaves nothing to replay.
        if self.applier.wait().is_ok() {
            self.hand_over();
        }
    }

    fn commit(&mut self, batch: Vec<Submission>) {
        let started = Instant::now();
        let olds = match self
            .overlay
            .get_all(batch.iter().map(|submission| &submission.key))
        {
            Ok(olds) => olds,
            Err(error) => {
                for submission in batch {
                    let _ = submission.reply.send(Err(error.share()));
                }
                return;
            }
        };
        let room = self.content.check_room(0, self.min_free_bytes);
        let mut record = Record::new();
        let mut changes = Changes::new();
        let mut totals = self.totals;
        let mut accepted = Vec::with_capacity(batch.len());
        for (submission, old) in batch.into_iter().zip(olds) {
            let Submission {
                key,
                mut row,
                condition,
                content,
                reply,
            } = submission;
            // The batch's own earlier change of the key is newer than what was read. A damaged
            // row may be replaced or deleted: that is its mend.
            let old = changes.get(&key).cloned().map(Ok).unwrap_or(old);
            let existed = !matches!(old, Ok(None));
            let old = old.ok().flatten();
            let generation = existed.then(|| old.as_ref().map_or(0, |old| old.generation));
            let refused = match (&room, &row) {
                // Deletes always pass: they are what makes room.
                (Err(full), Some(_)) => Err(full.share()),
                _ => condition.check(&key, generation),
            };
            if let Err(error) = refused {
                let _ = reply.send(Err(error));
                continue;
            }
            let done = Done {
                existed,
                generation: self.ids.fetch_add(1, Ordering::Relaxed),
            };
            if row.is_none() && !existed {
                let _ = reply.send(Ok(done));
                continue;
            }
            if let Some(row) = &mut row {
                row.generation = done.generation;
            }
            record.push(&key, row.as_ref());
            totals.count(existed, old.as_ref(), row.as_ref());
            let freed = old.as_ref().and_then(Row::file);
            accepted.push(Accepted {
                done,
                content,
                reply,
                freed,
            });
            changes.insert(key, row);
        }
        if accepted.is_empty() {
            return;
        }
        let number = accepted.len();
        totals.next_id = self.ids.load(Ordering::Relaxed);
        match self.write(record) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("writes are taken again");
                }
                self.totals = totals;
                self.overlay.add(changes);
                self.metrics.committed(number, started.elapsed(), totals);
                for change in accepted {
                    self.acknowledge(change);
                }
            }
            Err(error) => {
                // A full disk is said once; each client is told.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "writes are refused");
                }
                for change in accepted {
                    self.refuse(change, &error);
                }
            }
        }
    }

    /// Makes a record durable, in the other journal file if it does not fit into this one.
    fn write(&mut self, record: Record) -> Result<(), Error> {
        if !self.journal.fits(&record) {
            self.applier.wait()?;
            self.hand_over();
            self.journal.switch();
        }
        self.journal.append(record)
    }

    /// Gives the active file's changes to the index, which has those of the other.
    fn hand_over(&mut self) {
        self.totals.applied = self.journal.last();
        self.applier.begin(self.overlay.freeze(), self.totals);
    }

    fn acknowledge(&self, change: Accepted) {
        if let Some(content) = change.content {
            content.keep();
        }
        if let Some(id) = change.freed {
            // Fails only at the end of the process; then the next open's sweep does it.
            let _ = self.reaper.send(id);
        }
        // Nobody may be waiting any more: the change is durable all the same.
        let _ = change.reply.send(Ok(change.done));
    }

    fn refuse(&self, change: Accepted, error: &Error) {
        if let Some(content) = change.content
            && self.journal.has_failed()
        {
            // The next open may find the record: then it needs the file, or else sweeps it.
            content.keep();
        }
        let _ = change.reply.send(Err(error.share()));
    }
}
