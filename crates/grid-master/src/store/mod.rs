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

use crate::auth;
pub(crate) use book::{Book, Delta, Load, Tx};
use disk::Disk;
pub(crate) use disk::{Birth, Contents};

/// Bounds of one transaction, so that the latency and memory of a burst are bounded.
const MAX_BATCH: usize = 1024;
/// Changes that may wait before senders have to.
const QUEUE: usize = 1024;

/// Unix time in seconds, of 2025: no clock that is right is before it.
const MADE: u64 = 1_735_689_600;

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
    /// The name under which this life counts.
    lineage: String,
}

impl Opened {
    /// Opens or makes the store at `path`.
    ///
    /// # Errors
    /// `StateLocked`, `Corrupt`, `PermissionDenied`, `Exhausted`.
    pub(crate) fn open(path: &Path, birth: impl FnOnce() -> Result<Birth>) -> Result<Self> {
        let (disk, contents) = Disk::open(path, birth)?;
        Ok(Self {
            disk,
            contents,
            lineage: auth::hex(&auth::random::<16>()?),
        })
    }

    /// Begins a new epoch, above every one that was ever begun, also by copies of this store.
    ///
    /// `now` is Unix time in seconds: a restored copy does not know the epochs that were begun after it was made, and
    /// time does. For the same reason every wish gets a generation above all that agents may have heard of it: what they
    /// say of an older one, such as that it is done, must not be taken for this one's.
    ///
    /// # Errors
    /// `Unavailable` when the clock is before this program was made: an epoch by it would be below others.
    pub(crate) fn begin_epoch(&mut self, now: u64) -> Result<u64> {
        if now < MADE {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the clock of this host is behind the time when this program was made",
            )
            .with_hint("Set the clock, then start once more with `--new-epoch`: epochs are told apart by the time."));
        }
        let book = &mut self.contents.book;
        let epoch = now.max(book.epoch + 1);
        // Wishes change less than once a second over a grid's life, so that time is ahead of revisions too.
        let revision = epoch.max(book.revision + 1);
        let mut deltas = vec![
            Delta::Epoch(epoch, revision),
            Delta::Lineage(self.lineage.clone(), None),
        ];
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
            lineage: self.lineage,
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
    lineage: String,
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
            // Nobody waits for it here any more.
            let _ = self.recover();
            self.failed.store(!self.disk.is_open(), Ordering::Release);
            while let Some(job) = next {
                let mut tx = Tx::new(&self.book);
                let (made, reply) = job(&mut tx);
                if made {
                    let mut made = tx.into_deltas();
                    made.splice(0..0, self.counts_on(&made));
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

    /// The first change of a wish in this life begins a lineage: were it another copy of the store that made it, agents
    /// could not tell the two apart by their figures.
    fn counts_on(&self, made: &[Delta]) -> Option<Delta> {
        let counts = made.iter().any(|it| matches!(it, Delta::Node(..)));
        (counts && self.book.lineage != self.lineage).then(|| {
            let former = (self.book.lineage.clone(), self.book.revision);
            let former = Some(former).filter(|(name, _)| !name.is_empty());
            Delta::Lineage(self.lineage.clone(), former)
        })
    }

    /// After a failed write: opens the file again and learns what holds; whether what failed does. While it cannot be
    /// opened, writes fail.
    fn recover(&mut self) -> bool {
        match self.disk.reopen() {
            Ok(None) => false,
            Ok(Some(landed)) => {
                let deltas = std::mem::take(&mut self.doubtful);
                if landed {
                    deltas.iter().for_each(|delta| self.book.apply(delta));
                    self.listener.committed(&deltas);
                }
                tracing::warn!(landed, "the store was opened again after a failed write");
                landed
            }
            Err(error) => {
                tracing::error!(error = %error.report().trim_end(), "the store cannot be opened again");
                false
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
                if was_open {
                    self.doubtful = deltas.to_vec();
                }
                // At once: who is told that it failed, and finds that it did, must not find it done later.
                let landed = self.recover() && was_open;
                // Before the answers, so that whoever has one can see it.
                self.failed.store(!self.disk.is_open(), Ordering::Release);
                for reply in replies {
                    reply(if landed { Ok(()) } else { Err(error.copied()) });
                }
                return;
            }
            self.listener.measured(replies.len(), started.elapsed());
            self.listener.committed(deltas);
        }
        replies.into_iter().for_each(|reply| reply(Ok(())));
    }
}

#[cfg(test)]
mod damage_tests;

#[cfg(test)]
mod tests {
    use grid_client::Role;
    use grid_platform_api::{NodeId, Program, SpawnConfig, Timestamp};

    use super::*;

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
    async fn a_failed_write_is_told_unless_it_holds_and_the_next_one_works() {
        for landed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store.redb");
            let mut opened = open(&path);
            let book = opened.contents.book.clone();
            let told = Arc::new(Told(Mutex::new(book.clone())));
            opened.disk.fail_next = Some(landed);
            let store = opened.start(book, told.clone()).unwrap();
            let told_of = add(&store, "first").await.map_err(|e| e.kind());
            let expect = if landed {
                Ok(())
            } else {
                Err(ErrorKind::Exhausted)
            };
            assert_eq!(told_of, expect);
            // What is shown is what was told, from the answer on.
            let expect: &[&str] = if landed { &["first"] } else { &[] };
            assert_eq!(tokens(&told.book()), expect);
            store.check().await.unwrap();
            add(&store, "next").await.unwrap();
            // What memory has is what the file has, also where the failed write had landed.
            let expect: &[&str] = if landed {
                &["first", "next"]
            } else {
                &["next"]
            };
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

    fn wish(id: &str) -> row::NodeRow {
        let id = NodeId::new(id).unwrap();
        row::NodeRow {
            spec: Some(SpawnConfig::new(id.clone(), Program::binary("a", [""; 0]))),
            id,
            agent: "a".into(),
            wish: row::Wish::Running,
            generation: 1,
            settings: None,
            sealed: Default::default(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// One life of a master on the store, in which these nodes are wished; the place at its end.
    async fn life(path: &Path, nodes: &[&str]) -> Book {
        let opened = open(path);
        let book = opened.contents.book.clone();
        let told = Arc::new(Told(Mutex::new(book.clone())));
        let store = opened.start(book, told.clone()).unwrap();
        for node in nodes {
            let row = wish(node);
            let change = store.change(move |tx| {
                tx.put_node(row);
                Ok(())
            });
            change.await.unwrap();
        }
        store.close();
        let told = told.book();
        let stored = open(path).contents.book;
        assert_eq!(
            (&stored.lineage, &stored.ancestors),
            (&told.lineage, &told.ancestors)
        );
        told
    }

    #[tokio::test]
    async fn a_store_knows_what_it_was_at_and_a_copy_that_went_on_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("store.redb"), dir.path().join("copy.redb"));
        // A life that counts nothing begins no lineage, and a store that never counted has none.
        assert_eq!(life(&path, &[]).await.lineage, "");
        let first = life(&path, &["a", "b"]).await;
        assert_eq!(life(&path, &[]).await.lineage, first.lineage);
        std::fs::copy(&path, &copy).unwrap();
        let second = life(&path, &["c", "d"]).await;
        assert_ne!(first.lineage, second.lineage);
        // The copy counts as far, and farther than what agents heard of the other one.
        let other = life(&copy, &["c", "d", "e"]).await;
        assert!(other.revision > second.revision);
        let later = life(&path, &["e", "f", "g"]).await;

        let knows = |book: &Book, heard: &Book| book.was_at(&heard.lineage, heard.revision);
        for book in [&first, &second, &later] {
            assert!(knows(&later, book), "{book:?}");
        }
        assert!(knows(&other, &first) && knows(&other, &other));
        assert!(!knows(&other, &second) && !knows(&other, &later) && !knows(&later, &other));
        // Nor what was heard of a life after the copy of it was made.
        assert!(!first.was_at(&first.lineage, first.revision + 1));
        assert!(!later.was_at(&first.lineage, first.revision + 1));

        // An epoch that is begun on purpose begins anew.
        let mut opened = open(&copy);
        opened.begin_epoch(MADE).unwrap();
        let book = open_again(opened, &copy);
        assert!(book.ancestors.is_empty() && book.lineage != other.lineage);
    }

    fn open_again(opened: Opened, path: &Path) -> Book {
        drop(opened);
        open(path).contents.book
    }

    #[test]
    fn an_epoch_is_above_every_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(&dir.path().join("store.redb"));
        let now = MADE + 5;
        assert_eq!(opened.begin_epoch(now).unwrap(), now);
        assert_eq!(opened.begin_epoch(now).unwrap(), now + 1);
        // Epochs by a clock that was lost would be below those of the copies that agents have heard of.
        let error = opened.begin_epoch(86_400).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.hint().is_some());
        drop(opened);
        let opened = open(&dir.path().join("store.redb"));
        let book = &opened.contents.book;
        assert_eq!((book.epoch, book.revision), (now + 1, now + 1));
    }
}
