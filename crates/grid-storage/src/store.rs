//! The store itself, without HTTP.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::executor::block_on;
use tokio::sync::{mpsc, oneshot};

use crate::applier::Applier;
use crate::commit::{self, Committer, Done, Submission};
use crate::config::Limits;
use crate::content::{ContentDir, ContentInfo, ContentReader, ContentWriter, PendingContent};
use crate::dir::DataDir;
use crate::error::{Error, ErrorKind};
use crate::index::{Condition, Index};
use crate::journal::{self, Journal};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::overlay::Overlay;
use crate::recover::{Recovered, recover};
use crate::row::{Place, Row};

/// Bodies up to this size live in the index, where one sync serves many of them: 16 KiB. Larger
/// ones are content files, so that the index stays small and a body is streamed.
pub const INLINE_BYTES: usize = 16 * 1024;

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Grows with every write to the store; the number in the `ETag`.
    pub generation: u64,
    /// Bytes of the body.
    pub size: u64,
    /// CRC-32 (IEEE) of the body.
    pub crc32: u32,
    /// When it was written, in milliseconds since 1970 (UTC), by the server's clock.
    pub modified_ms: i64,
    /// The media type given with the body; `application/octet-stream` if none was.
    pub content_type: String,
}

/// What to store beside a body.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// The body's media type, at most 255 bytes; `application/octet-stream` if `None`.
    pub content_type: Option<String>,
    /// When the write may take place.
    pub condition: Condition,
    /// The CRC-32 that the body must have.
    pub expected_crc32: Option<u32>,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Keys in the order of their bytes.
    pub objects: Vec<(Key, ObjectMeta)>,
    /// The `after` of the next page; `None` at the end.
    pub next: Option<Key>,
}

/// An open store: it alone holds its data directory until it is dropped.
///
/// The methods block the thread until the disk has answered; from an asynchronous task, call
/// them by `spawn_blocking`. [`crate::Server`] is the asynchronous user of the same store.
///
/// ```
/// use grid_storage::{Key, PutOptions, Store};
/// let dir = tempfile::tempdir()?;
/// let store = Store::open(dir.path())?;
/// let key = Key::new("greetings/en")?;
/// store.put(&key, b"hello", PutOptions::default())?; // durable when this returns
/// let (meta, body) = store.get(&key)?.ok_or("no object")?;
/// assert_eq!((meta.size, body.as_slice()), (5, b"hello".as_slice()));
/// assert_eq!(store.list("greetings/", None, 10)?.objects.len(), 1);
/// assert!(store.delete(&key, Default::default())?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Store {
    overlay: Arc<Overlay>,
    content: Arc<ContentDir>,
    ids: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    limits: Limits,
    /// Taken on drop, which ends the committing thread.
    sender: Option<mpsc::Sender<Submission>>,
    threads: Vec<JoinHandle<()>>,
    /// Last, so that the directory is let go of after everything in it is closed.
    _dir: DataDir,
}

/// A body ready to be committed.
#[derive(Debug)]
pub(crate) enum Body {
    Inline(Bytes),
    File(ContentInfo, PendingContent),
}

/// An object opened for reading.
#[derive(Debug)]
pub(crate) enum Opened {
    Inline(Bytes),
    File(ContentReader),
}

impl Store {
    /// Opens the store at `path`, or makes one in an empty or absent directory.
    ///
    /// # Errors
    /// [`ErrorKind::ForeignData`], [`ErrorKind::DamagedData`], [`ErrorKind::UnsupportedFormat`],
    /// [`ErrorKind::Locked`], or [`ErrorKind::Io`]. Nothing of a refused directory
    /// is changed, but for the pid in `LOCK`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = DataDir::claim(path.as_ref())?;
        Self::open_in(dir, Limits::default(), Arc::new(Metrics::new()))
    }

    pub(crate) fn open_in(
        mut dir: DataDir,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let place = dir.path().display().to_string();
        let begin = |source| Error::io(format!("make a new store in `{place}`"), source);
        if dir.is_new() {
            dir.begin().map_err(begin)?;
            Index::create(&dir.index_path())?;
            journal::create(dir.path()).map_err(begin)?;
            dir.complete().map_err(begin)?;
        }
        dir.check_parts()?;
        let content = ContentDir::open(&dir.objects_path())
            .map_err(|source| Error::io("open the content files", source))?;
        let content = Arc::new(content);
        let Recovered {
            index,
            totals,
            pending,
        } = recover(&dir, &content, &metrics)?;
        metrics.totals(totals);
        let index = Arc::new(index);
        let ids = Arc::new(AtomicU64::new(totals.next_id));
        let overlay = Arc::new(Overlay::new(Arc::clone(&index)));
        let threads_error = |source| Error::io("start the store's threads", source);
        let applier = Applier::start(index, Arc::clone(&overlay)).map_err(threads_error)?;
        let mut journal = Journal::open(dir.path(), totals.journal, totals.applied)
            .map_err(|source| Error::io("open the journal", source))?;
        if !pending.is_empty() {
            overlay.add(pending);
            applier.begin(overlay.freeze(), totals);
            journal.close_active();
        }
        let (reaper, reaper_thread) =
            commit::start_reaper(Arc::clone(&content)).map_err(threads_error)?;
        let committer = Committer {
            journal,
            overlay: Arc::clone(&overlay),
            applier,
            content: Arc::clone(&content),
            ids: Arc::clone(&ids),
            metrics: Arc::clone(&metrics),
            totals,
            min_free_bytes: limits.min_free_bytes,
            failing: false,
            reaper,
        };
        let (sender, commit_thread) = commit::start(committer).map_err(threads_error)?;
        Ok(Self {
            overlay,
            content,
            ids,
            metrics,
            limits,
            sender: Some(sender),
            threads: vec![commit_thread, reaper_thread],
            _dir: dir,
        })
    }

    /// Stores `body` under `key`, replacing what was there. Durable when it returns.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`], [`ErrorKind::ChecksumMismatch`],
    /// [`ErrorKind::StorageFull`], [`ErrorKind::InvalidRequest`] for a content type of more than
    /// 255 bytes, or [`ErrorKind::Io`]; nothing is stored then.
    pub fn put(&self, key: &Key, body: &[u8], options: PutOptions) -> Result<ObjectMeta, Error> {
        let body = if body.len() <= INLINE_BYTES {
            Body::Inline(Bytes::copy_from_slice(body))
        } else {
            let mut writer = self.content_writer(Some(body.len() as u64))?;
            writer.write(body)?;
            let (info, pending) = writer.finish()?;
            Body::File(info, pending)
        };
        let (meta, _) = block_on(self.put_async(key, body, options))?;
        Ok(meta)
    }

    /// Reads an object whole, verified; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if what is stored changed, or [`ErrorKind::Io`].
    pub fn get(&self, key: &Key) -> Result<Option<(ObjectMeta, Vec<u8>)>, Error> {
        let Some((row, opened)) = self.open_object(key)? else {
            return Ok(None);
        };
        let meta = meta_of(&row);
        let body = match opened {
            Opened::Inline(body) => body.to_vec(),
            Opened::File(reader) => {
                let mut body = Vec::new();
                while (body.len() as u64) < meta.size {
                    body.extend_from_slice(
                        &self.count_corrupt(key, reader.read(body.len() as u64, meta.size))?,
                    );
                }
                body
            }
        };
        Ok(Some((meta, body)))
    }

    /// What is known of an object; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if its row changed, or [`ErrorKind::Io`].
    pub fn head(&self, key: &Key) -> Result<Option<ObjectMeta>, Error> {
        Ok(self.row(key)?.map(|row| meta_of(&row)))
    }

    /// Deletes an object, durably; whether there was one.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`] or [`ErrorKind::Io`].
    pub fn delete(&self, key: &Key, condition: Condition) -> Result<bool, Error> {
        block_on(self.delete_async(key, condition))
    }

    /// Up to `limit` objects whose keys begin with `prefix` and sort after `after`.
    ///
    /// A page is one snapshot; pages are not one snapshot together.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] at a row that changed, or [`ErrorKind::Io`].
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listing, Error> {
        let (rows, more) = self
            .overlay
            .list(prefix, after, limit)
            .inspect_err(|error| self.note(error))?;
        let objects: Vec<_> = rows
            .into_iter()
            .map(|(key, row)| (key, meta_of(&row)))
            .collect();
        let next = if more {
            objects.last().map(|(key, _)| key.clone())
        } else {
            None
        };
        Ok(Listing { objects, next })
    }

    pub(crate) async fn put_async(
        &self,
        key: &Key,
        body: Body,
        options: PutOptions,
    ) -> Result<(ObjectMeta, bool), Error> {
        let (submission, meta, reply) = put_submission(key, body, options)?;
        self.sender()?
            .send(submission)
            .await
            .map_err(|_| closed())?;
        let done = reply.await.map_err(|_| closed())??;
        Ok((
            ObjectMeta {
                generation: done.generation,
                ..meta
            },
            done.existed,
        ))
    }

    pub(crate) async fn delete_async(
        &self,
        key: &Key,
        condition: Condition,
    ) -> Result<bool, Error> {
        let (submission, reply) = delete_submission(key, condition);
        self.sender()?
            .send(submission)
            .await
            .map_err(|_| closed())?;
        Ok(reply.await.map_err(|_| closed())??.existed)
    }

    /// Begins a body too large for the index. Refused when `expected` bytes do not fit.
    pub(crate) fn content_writer(&self, expected: Option<u64>) -> Result<ContentWriter, Error> {
        self.content
            .check_room(expected.unwrap_or(0), self.limits.min_free_bytes)?;
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.content.create(id, expected)
    }

    /// The row of a key. Takes some microseconds and reads at most a few pages, so that
    /// asynchronous tasks call it as it is.
    pub(crate) fn row(&self, key: &Key) -> Result<Option<Row>, Error> {
        self.overlay.get(key).inspect_err(|error| self.note(error))
    }

    /// Opens a row's body; `None` if the object was replaced or deleted since.
    pub(crate) fn open_row(&self, key: &Key, row: &Row) -> Result<Option<Opened>, Error> {
        match &row.place {
            Place::Inline(body) => {
                let intact = body.len() as u64 == row.size && crc32fast::hash(body) == row.crc;
                let body = if intact {
                    Ok(Opened::Inline(body.clone()))
                } else {
                    Err(Error::corrupt(format!(
                        "the bytes of `{key}` changed after they were stored"
                    )))
                };
                self.count_corrupt(key, body).map(Some)
            }
            Place::File { id, trailer_crc } => {
                let info = ContentInfo {
                    id: *id,
                    size: row.size,
                    crc: row.crc,
                    trailer_crc: *trailer_crc,
                };
                match self.content.reader(info) {
                    Ok(opened) => self
                        .count_corrupt(key, opened)
                        .map(|reader| Some(Opened::File(reader))),
                    Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(Error::io("open a content file", source)),
                }
            }
        }
    }

    /// The row and the body of a key, as of one moment.
    pub(crate) fn open_object(&self, key: &Key) -> Result<Option<(Row, Opened)>, Error> {
        let mut last = None;
        loop {
            let Some(row) = self.row(key)? else {
                return Ok(None);
            };
            if let Some(opened) = self.open_row(key, &row)? {
                return Ok(Some((row, opened)));
            }
            // The file of an old version goes after the new version's commit: look again. The
            // same version twice without its file means that the file is lost.
            if last.replace(row.generation) == Some(row.generation) {
                let lost = Error::corrupt(format!("the content file of `{key}` is missing"));
                return self.count_corrupt(key, Err(lost));
            }
        }
    }

    /// Counts and logs an error that is a corruption.
    pub(crate) fn count_corrupt<T>(&self, key: &Key, result: Result<T, Error>) -> Result<T, Error> {
        result.inspect_err(|error| {
            if error.kind() == ErrorKind::Corrupt {
                tracing::error!(%key, %error, "corruption found");
            }
            self.note(error);
        })
    }

    fn note(&self, error: &Error) {
        if error.kind() == ErrorKind::Corrupt {
            self.metrics.corrupt();
        }
    }

    pub(crate) fn free_bytes(&self) -> Option<u64> {
        self.content.free_bytes().ok()
    }

    /// Whether the committing thread lives and the index is open.
    pub(crate) fn is_usable(&self) -> bool {
        self.sender
            .as_ref()
            .is_some_and(|sender| !sender.is_closed())
            && self.overlay.is_readable()
    }

    fn sender(&self) -> Result<&mpsc::Sender<Submission>, Error> {
        self.sender.as_ref().ok_or_else(closed)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.sender.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

/// What comes back for a submission, once it is durable.
type Reply = oneshot::Receiver<Result<Done, Error>>;

fn put_submission(
    key: &Key,
    body: Body,
    options: PutOptions,
) -> Result<(Submission, ObjectMeta, Reply), Error> {
    let content_type = options
        .content_type
        .unwrap_or_else(|| "application/octet-stream".to_owned());
    if content_type.len() > 255 {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            "the content type has more than 255 bytes",
            "Send a shorter `Content-Type`.",
        ));
    }
    let (size, crc, place, content) = match body {
        Body::Inline(body) => (
            body.len() as u64,
            crc32fast::hash(&body),
            Place::Inline(body),
            None,
        ),
        Body::File(info, pending) => (
            info.size,
            info.crc,
            Place::File {
                id: info.id,
                trailer_crc: info.trailer_crc,
            },
            Some(pending),
        ),
    };
    if let Some(expected) = options.expected_crc32.filter(|expected| *expected != crc) {
        return Err(Error::new(
            ErrorKind::ChecksumMismatch,
            format!("the body has the checksum {crc:08x}, and {expected:08x} was announced"),
            "Send the object again: it changed on its way.",
        ));
    }
    let row = Row {
        generation: 0,
        size,
        crc,
        modified_ms: jiff::Timestamp::now().as_millisecond(),
        content_type,
        place,
    };
    let meta = meta_of(&row);
    let (reply, receiver) = oneshot::channel();
    Ok((
        Submission {
            key: key.clone(),
            row: Some(row),
            condition: options.condition,
            content,
            reply,
        },
        meta,
        receiver,
    ))
}

fn delete_submission(key: &Key, condition: Condition) -> (Submission, Reply) {
    let (reply, receiver) = oneshot::channel();
    (
        Submission {
            key: key.clone(),
            row: None,
            condition,
            content: None,
            reply,
        },
        receiver,
    )
}

pub(crate) fn meta_of(row: &Row) -> ObjectMeta {
    ObjectMeta {
        generation: row.generation,
        size: row.size,
        crc32: row.crc,
        modified_ms: row.modified_ms,
        content_type: row.content_type.clone(),
    }
}

fn closed() -> Error {
    Error::unavailable("the store is closed")
}
