//! The durable store: one thread writes, and everyone who waits shares its syncs.
//!
//! A change is a function over the [`Tx`]; changes run one after the other, so that what a change decides by what it
//! reads still holds when it is written. While one commit is on its way to the disk, the changes that arrive queue
//! up, and the next commit takes them all. Nothing is shown, told to an agent or acknowledged before it is durable.

mod book;
mod disk;
pub(crate) mod row;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use grid_platform_api::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};

pub(crate) use book::{Book, Delta, Load, Tx};
use disk::Disk;
pub(crate) use disk::{Birth, Contents};

/// Bounds of one transaction, so that the latency and memory of a burst are bounded.
const MAX_BATCH: usize = 1024;
/// Changes that may wait before senders have to.
const QUEUE: usize = 1024;

/// Who is told what has become durable, before those who asked for it are answered.
pub(crate) trait Listener: Send + Sync + 'static {
    /// These changes are durable, in this order. Must not wait for anything.
    fn committed(&self, deltas: &[Delta]);
    /// The book as `committed` has built it.
    fn book(&self) -> Book;
    /// One commit of `changes` changes took this long.
    fn measured(&self, changes: usize, took: std::time::Duration);
}

/// Tells the one who asked: the change is durable, or why it is not.
type Reply = Box<dyn FnOnce(Result<()>) + Send>;
/// Runs one change: whether it is made, and who is told. A refusal is told after the commit too, for it may speak of
/// changes that are in it.
type Job = Box<dyn FnOnce(&mut Tx<'_>) -> (bool, Reply) + Send>;

/// The open store.
pub(crate) struct Store {
    sender: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The last write failed, and the file has not been opened again since.
    failed: Arc<AtomicBool>,
}

/// A store that has been read and not started.
#[derive(Debug)]
pub(crate) struct Opened {
    disk: Disk,
    pub(crate) contents: Contents,
}

impl Opened {
    /// Opens or makes the store at `path`.
    ///
    /// # Errors
    /// `StateLocked`, `Corrupt`, `PermissionDenied`, `Exhausted`.
    pub(crate) fn open(path: &Path, birth: impl FnOnce() -> Result<Birth>) -> Result<Self> {
        let (disk, contents) = Disk::open(path, birth)?;
        Ok(Self { disk, contents })
    }

    /// Begins a new epoch, above every one that was ever begun, also by copies of this store.
    ///
    /// `now` is Unix time in seconds: a restored copy does not know the epochs that were begun after it was made, and
    /// time does. For the same reason every wish gets a generation above all that agents may have heard of it: what they
    /// say of an older one, such as that it is done, must not be taken for this one's.
    pub(crate) fn begin_epoch(&mut self, now: u64) -> Result<u64> {
        let book = &mut self.contents.book;
        let epoch = now.max(book.epoch + 1);
        // Wishes change less than once a second over a grid's life, so that time is ahead of revisions too.
        let revision = epoch.max(book.revision + 1);
        let mut deltas = vec![Delta::Epoch(epoch, revision)];
        deltas.extend(book.nodes.values().map(|row| {
            let row = row::NodeRow {
                generation: revision,
                ..(**row).clone()
            };
            Delta::Node(row.id.clone(), Some(Arc::new(row)), revision)
        }));
        self.disk.write(&deltas)?;
        deltas.iter().for_each(|delta| book.apply(delta));
        Ok(epoch)
    }

    /// Starts the writing thread.
    pub(crate) fn start(self, book: Book, listener: Arc<dyn Listener>) -> Result<Store> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let failed = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            disk: self.disk,
            book,
            listener,
            doubtful: Vec::new(),
            failed: failed.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("master-store".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|e| {
                Error::new(ErrorKind::Exhausted, "cannot start the store's thread").with_source(e)
            })?;
        Ok(Store {
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            failed,
        })
    }
}

impl Store {
    /// Makes a change and waits until it is durable.
    ///
    /// A dropped future does not take the change back.
    ///
    /// # Errors
    /// The change's own; `Exhausted` or `Internal` when it could not be made durable, and then nothing of it holds.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            let result = change(tx);
            let made = result.is_ok();
            let reply: Reply = Box::new(move |durable: Result<()>| {
                // Nobody may be waiting any more: the change holds all the same.
                let _ = answer.send(durable.and(result));
            });
            (made, reply)
        });
        let sender = lock(&self.sender).clone();
        let ended = || Error::new(ErrorKind::Unavailable, "the master is shutting down");
        match sender {
            Some(sender) => sender.send(job).await.map_err(|_| ended())?,
            None => return Err(ended()),
        }
        answered.await.map_err(|_| ended())?
    }

    /// Whether changes can be made, as far as the last one tells.
    ///
    /// # Errors
    /// `Exhausted` after a failed write, until the file could be opened again.
    pub(crate) async fn check(&self) -> Result<()> {
        // Passing through the writing thread lets it try to open the file again.
        self.change(|_| Ok(())).await?;
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "the store cannot be opened again after a failed write",
            )
            .with_hint("Check the disk's space and the permissions of the state directory."));
        }
        Ok(())
    }

    /// Lets what is queued become durable, then closes the file. Blocks.
    pub(crate) fn close(&self) {
        drop(lock(&self.sender).take());
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread ended by a panic");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    disk: Disk,
    /// As the last change left it, durable or about to be.
    book: Book,
    listener: Arc<dyn Listener>,
    /// The batch whose write failed, until the reopened file tells whether it holds.
    doubtful: Vec<Delta>,
    failed: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, mut receiver: mpsc::Receiver<Job>) {
        while let Some(first) = receiver.blocking_recv() {
            let mut deltas = Vec::new();
            let mut replies = Vec::new();
            let mut next = Some(first);
            self.recover();
            self.failed.store(!self.disk.is_open(), Ordering::Release);
            while let Some(job) = next {
                let mut tx = Tx::new(&self.book);
                let (made, reply) = job(&mut tx);
                if made {
                    let made = tx.into_deltas();
                    made.iter().for_each(|delta| self.book.apply(delta));
                    deltas.extend(made);
                }
                replies.push(reply);
                next = (replies.len() < MAX_BATCH)
                    .then(|| receiver.try_recv().ok())
                    .flatten();
            }
            self.commit(&deltas, replies);
        }
    }

    /// After a failed write: opens the file again and learns what holds. While it cannot be opened, writes fail.
    fn recover(&mut self) {
        match self.disk.reopen() {
            Ok(None) => {}
            Ok(Some(landed)) => {
                let deltas = std::mem::take(&mut self.doubtful);
                if landed {
                    deltas.iter().for_each(|delta| self.book.apply(delta));
                    self.listener.committed(&deltas);
                }
                tracing::warn!(landed, "the store was opened again after a failed write");
            }
            Err(error) => {
                tracing::error!(error = %error.report().trim_end(), "the store cannot be opened again");
            }
        }
    }

    fn commit(&mut self, deltas: &[Delta], replies: Vec<Reply>) {
        if !deltas.is_empty() {
            let started = Instant::now();
            let was_open = self.disk.is_open();
            if let Err(error) = self.disk.write(deltas) {
                tracing::error!(error = %error.report().trim_end(), "a change could not be stored");
                self.book = self.listener.book();
                // Before the answers, so that whoever has one can see it.
                self.failed.store(true, Ordering::Release);
                if was_open {
                    self.doubtful = deltas.to_vec();
                }
                for reply in replies {
                    reply(Err(copy(&error)));
                }
                return;
            }
            self.listener.measured(replies.len(), started.elapsed());
            self.listener.committed(deltas);
        }
        replies.into_iter().for_each(|reply| reply(Ok(())));
    }
}

/// The same error for each of those who shared the commit.
fn copy(error: &Error) -> Error {
    let report = error.to_report();
    let message = std::iter::once(report.message)
        .chain(report.causes)
        .collect::<Vec<_>>()
        .join(": ");
    let copy = Error::new(error.kind(), message);
    match report.hint {
        Some(hint) => copy.with_hint(hint),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use grid_client::Role;

    use super::*;
    use crate::auth;

    /// Keeps the book as it was told.
    #[derive(Default)]
    struct Told(Mutex<Book>);

    impl Listener for Told {
        fn committed(&self, deltas: &[Delta]) {
            deltas.iter().for_each(|delta| lock(&self.0).apply(delta));
        }

        fn book(&self) -> Book {
            lock(&self.0).clone()
        }

        fn measured(&self, _: usize, _: std::time::Duration) {}
    }

    fn open(path: &Path) -> Opened {
        let birth = || {
            Ok(Birth {
                grid_id: "g".into(),
                tokens: vec![],
            })
        };
        Opened::open(path, birth).unwrap()
    }

    fn tokens(book: &Book) -> Vec<String> {
        let mut notes: Vec<String> = book
            .tokens
            .values()
            .filter_map(|t| t.note.clone())
            .collect();
        notes.sort();
        notes
    }

    async fn add(store: &Store, note: &str) -> Result<()> {
        let (row, _) = auth::mint(Role::Read, Some(note.to_owned()))?;
        let change = store.change(move |tx| {
            tx.put_token(row);
            Ok(())
        });
        change.await
    }

    #[tokio::test]
    async fn a_failed_write_is_told_and_the_next_one_works() {
        for landed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store.redb");
            let mut opened = open(&path);
            let book = opened.contents.book.clone();
            let told = Arc::new(Told(Mutex::new(book.clone())));
            opened.disk.fail_next = Some(landed);
            let store = opened.start(book, told.clone()).unwrap();
            assert_eq!(
                add(&store, "lost").await.unwrap_err().kind(),
                ErrorKind::Exhausted
            );
            assert!(
                tokens(&told.book()).is_empty(),
                "nothing is shown that was not acknowledged"
            );
            store.check().await.unwrap();
            add(&store, "next").await.unwrap();
            // What memory has is what the file has, also where the failed write had landed.
            let expect: &[&str] = if landed { &["lost", "next"] } else { &["next"] };
            assert_eq!(tokens(&told.book()), expect);
            store.close();
            assert_eq!(tokens(&open(&path).contents.book), expect);
        }
    }

    #[tokio::test]
    async fn a_change_that_refuses_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let opened = open(&path);
        let book = opened.contents.book.clone();
        let told = Arc::new(Told(Mutex::new(book.clone())));
        let store = opened.start(book, told.clone()).unwrap();
        let (row, _) = auth::mint(Role::Read, Some("half".to_owned())).unwrap();
        let change = store.change(move |tx| -> Result<()> {
            tx.put_token(row);
            Err(Error::new(ErrorKind::Conflict, "no"))
        });
        assert_eq!(change.await.unwrap_err().kind(), ErrorKind::Conflict);
        add(&store, "whole").await.unwrap();
        assert_eq!(tokens(&told.book()), ["whole"]);
        store.close();
        let after = add(&store, "late").await.unwrap_err();
        assert_eq!(after.kind(), ErrorKind::Unavailable);
        assert_eq!(tokens(&open(&path).contents.book), ["whole"]);
    }

    #[test]
    fn an_epoch_is_above_every_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(&dir.path().join("store.redb"));
        assert_eq!(opened.begin_epoch(1000).unwrap(), 1000);
        assert_eq!(opened.begin_epoch(1000).unwrap(), 1001);
        drop(opened);
        let opened = open(&dir.path().join("store.redb"));
        let book = &opened.contents.book;
        assert_eq!((book.epoch, book.revision), (1001, 1001));
    }
}
