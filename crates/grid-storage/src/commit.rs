//! Group commit: one thread writes the index, and everyone who waits shares its syncs.
//!
//! While one commit is on its way to the disk, the changes that arrive queue up, and the next
//! commit takes them all. No timer is involved: a lone writer waits for its own sync only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::content::{ContentDir, PendingContent};
use crate::error::Error;
use crate::index::{Applied, Change, Index};
use crate::metrics::Metrics;

/// Bounds of one transaction, so that the latency and memory of a burst are bounded.
const MAX_BATCH: usize = 1024;
/// Changes that may wait before senders have to.
const QUEUE: usize = 1024;

/// A change, its content file if it has one, and who waits for it.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) change: Change,
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
    pub(crate) index: Arc<Index>,
    pub(crate) content: Arc<ContentDir>,
    pub(crate) ids: Arc<AtomicU64>,
    pub(crate) metrics: Arc<Metrics>,
    /// Bytes of free disk below which nothing is written.
    pub(crate) min_free_bytes: u64,
    /// Takes the numbers of content files to remove, so that a large unlink delays no commit.
    pub(crate) reaper: std::sync::mpsc::Sender<u64>,
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
    fn run(self, mut receiver: mpsc::Receiver<Submission>) {
        while let Some(first) = receiver.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(next) = receiver.try_recv()
            {
                batch.push(next);
            }
            self.commit(batch);
        }
    }

    fn commit(&self, batch: Vec<Submission>) {
        let mut changes = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        let room = self.content.check_room(0, self.min_free_bytes);
        for mut submission in batch {
            // Refused before the index can fail in the middle of a write. Deletes always pass:
            // they are what makes room.
            if let (Err(full), Some(_)) = (&room, &submission.change.row) {
                let _ = submission.reply.send(Err(full.share()));
                continue;
            }
            let generation = self.ids.fetch_add(1, Ordering::Relaxed);
            if let Some(row) = &mut submission.change.row {
                row.generation = generation;
            }
            changes.push(submission.change);
            waiting.push((generation, submission.content, submission.reply));
        }
        if changes.is_empty() {
            return;
        }
        let started = Instant::now();
        match self.index.apply(&changes, self.ids.load(Ordering::Relaxed)) {
            Ok((outcomes, totals)) => {
                self.metrics
                    .committed(changes.len(), started.elapsed(), totals);
                for ((generation, content, reply), applied) in waiting.into_iter().zip(outcomes) {
                    self.answer(generation, content, reply, applied);
                }
            }
            Err(error) => {
                tracing::error!(%error, changes = changes.len(), "a commit failed");
                self.recover();
                for (_, content, reply) in waiting {
                    self.settle(content);
                    let _ = reply.send(Err(error.share()));
                }
            }
        }
    }

    fn answer(
        &self,
        generation: u64,
        content: Option<PendingContent>,
        reply: oneshot::Sender<Result<Done, Error>>,
        applied: Result<Applied, Error>,
    ) {
        let done = applied.map(|applied| {
            if let Some(content) = content {
                content.keep();
            }
            if let Some(id) = applied.freed {
                // Fails only at the end of the process; then the next open's sweep does it.
                let _ = self.reaper.send(id);
            }
            Done {
                existed: applied.existed,
                generation,
            }
        });
        // Nobody may be waiting any more: the change is durable all the same.
        let _ = reply.send(done);
    }

    /// After a failed write redb wants to be opened anew.
    fn recover(&self) {
        match self.index.reopen() {
            Ok(()) => {
                tracing::warn!("the index was reopened at its last commit after a failed write")
            }
            Err(error) => {
                tracing::error!(%error, "the index cannot be reopened; trying again at the next write")
            }
        }
    }

    /// Decides what becomes of a content file whose commit failed: a failed sync may have
    /// reached the disk all the same, so the reopened index is asked; when it cannot say, the
    /// file stays and the next open decides.
    fn settle(&self, content: Option<PendingContent>) {
        let Some(content) = content else { return };
        match self.index.names_file(content.id) {
            Ok(false) => drop(content),
            Ok(true) | Err(_) => content.keep(),
        }
    }
}
