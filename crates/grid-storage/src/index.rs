//! The index: rows in a redb database, read by point and by prefix, written by batches from the
//! journal.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};

use crate::dir::damaged;
use crate::error::{Error, ErrorKind};
use crate::journal::{Changes, JournalId};
use crate::key::Key;
use crate::row::Row;

/// Key -> row (see [`crate::row`]).
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// The content files that rows name, so that orphans are found without reading every row.
const FILES: TableDefinition<'_, u64, ()> = TableDefinition::new("files");
/// The counters of [`Totals`], by name.
const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals");

/// redb's own cache of pages. The kernel's cache lies behind it, so that this bounds the
/// process without making misses expensive.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// What the index holds, kept with the rows and as durable as they.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) objects: u64,
    /// Sum of the objects' sizes.
    pub(crate) bytes: u64,
    /// Above every generation and content file number in the rows.
    pub(crate) next_id: u64,
    /// The last record of the journal whose changes are in the rows.
    pub(crate) applied: u64,
    /// The journal's secret id.
    pub(crate) journal: JournalId,
}

impl Totals {
    /// Counts one change: what was there before, if it could be read, and what is there now.
    pub(crate) fn count(&mut self, existed: bool, old: Option<&Row>, new: Option<&Row>) {
        self.objects += u64::from(new.is_some());
        self.objects = self.objects.saturating_sub(u64::from(existed));
        self.bytes += new.map_or(0, |row| row.size);
        self.bytes = self.bytes.saturating_sub(old.map_or(0, |row| row.size));
    }
}

/// When a write may take place, judged in the same transaction that writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    None,
    /// Only if no object has the key (`If-None-Match: *`).
    Absent,
    /// Only if an object has the key (`If-Match: *`).
    Present,
    /// Only if the object has this generation (`If-Match` with its `ETag`).
    Generation(u64),
}

impl Condition {
    pub(crate) fn check(self, key: &Key, found: Option<u64>) -> Result<(), Error> {
        let problem = match (self, found) {
            (Self::None, _) | (Self::Absent, None) | (Self::Present, Some(_)) => return Ok(()),
            (Self::Generation(wanted), Some(found)) if wanted == found => return Ok(()),
            (Self::Absent, Some(_)) => "exists",
            (Self::Present | Self::Generation(_), None) => "does not exist",
            (Self::Generation(_), Some(_)) => "has changed",
        };
        Err(Error::new(
            ErrorKind::PreconditionFailed,
            format!("the object `{key}` {problem}"),
            "Read the object's `ETag` again, and decide again.",
        ))
    }
}

/// A key of a scan, with its row or what is wrong with it.
pub(crate) type Scanned = (Key, Result<Row, Error>);

/// The open index. `None` while a failed disk keeps it from being reopened.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

impl Index {
    /// Makes an empty index, with a new journal id.
    pub(crate) fn create(path: &Path) -> Result<(), Error> {
        let mut journal = JournalId::default();
        getrandom::fill(&mut journal)
            .map_err(|source| Error::io("draw a random number", std::io::Error::other(source)))?;
        let make = || -> Result<(), redb::Error> {
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create(path)?;
            let write = database.begin_write()?;
            write.open_table(OBJECTS)?;
            write.open_table(FILES)?;
            write_totals(
                &write,
                Totals {
                    next_id: 1,
                    journal,
                    ..Totals::default()
                },
            )?;
            write.commit()?;
            Ok(())
        };
        make().map_err(|source| redb_error("make the index", source))
    }

    /// Opens an index that is there.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let database = open_database(path)?;
        Ok(Self {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
        })
    }

    /// Drops and opens the database again: redb refuses all work after a failed write, and the
    /// file holds the last commit.
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        let mut slot = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        close(slot.take());
        *slot = Some(open_database(&self.path)?);
        Ok(())
    }

    fn read<T>(
        &self,
        what: &str,
        f: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        let slot = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = slot
            .as_ref()
            .ok_or_else(|| Error::unavailable("the index is closed after a failed write"))?;
        guarded(what, || f(database))
    }

    pub(crate) fn totals(&self) -> Result<Totals, Error> {
        self.read("read the index's totals", |database| {
            let table = database.begin_read()?.open_table(TOTALS)?;
            read_totals(&table)
        })
    }

    /// The rows as of now.
    pub(crate) fn reader(&self) -> Result<IndexReader, Error> {
        let table = self.read("read the index", |database| {
            Ok(database.begin_read()?.open_table(OBJECTS)?)
        })?;
        Ok(IndexReader(table))
    }

    /// Whether a row names the content file.
    pub(crate) fn names_file(&self, id: u64) -> Result<bool, Error> {
        self.read("read the index", |database| {
            let table = database.begin_read()?.open_table(FILES)?;
            Ok(table.get(id)?.is_some())
        })
    }

    /// How many content files rows name.
    pub(crate) fn file_count(&self) -> Result<u64, Error> {
        self.read("read the index", |database| {
            Ok(database.begin_read()?.open_table(FILES)?.len()?)
        })
    }

    /// Takes in changes from the journal by one durable transaction; the totals after it. Of
    /// `totals`, the objects and bytes are ignored: they follow from the changes.
    pub(crate) fn apply(&self, changes: &Changes, mut totals: Totals) -> Result<Totals, Error> {
        self.read("write the index", |database| {
            let mut write = database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            // Some more is written for it, which the journal hides, and a store that was killed
            // opens at once, however large it is.
            write.set_quick_repair(true);
            {
                let mut objects = write.open_table(OBJECTS)?;
                let mut files = write.open_table(FILES)?;
                let before = read_totals(&write.open_table(TOTALS)?)?;
                (totals.objects, totals.bytes) = (before.objects, before.bytes);
                for (key, row) in changes {
                    let old = match row {
                        Some(row) => objects.insert(key.as_str(), row.encode(key).as_slice())?,
                        None => objects.remove(key.as_str())?,
                    };
                    let existed = old.is_some();
                    // A damaged row may be replaced or deleted: that is its mend.
                    let old = old.and_then(|old| Row::decode(key, old.value()).ok());
                    totals.count(existed, old.as_ref(), row.as_ref());
                    if let Some(id) = old.as_ref().and_then(Row::file) {
                        files.remove(id)?;
                    }
                    if let Some(id) = row.as_ref().and_then(Row::file) {
                        files.insert(id, ())?;
                    }
                }
            }
            write_totals(&write, totals)?;
            write.commit()?;
            Ok(totals)
        })
    }
}

/// The rows as of one moment.
pub(crate) struct IndexReader(redb::ReadOnlyTable<&'static str, &'static [u8]>);

impl IndexReader {
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Row>, Error> {
        let found = guarded("read the index", || {
            let bytes = self.0.get(key.as_str())?;
            Ok(bytes.map(|bytes| Row::decode(key, bytes.value())))
        })?;
        found.transpose()
    }

    /// Up to `limit` rows with `prefix` from `start` on, each decoded or found to be damaged.
    pub(crate) fn scan(
        &self,
        start: Bound<&str>,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<Scanned>, Error> {
        guarded("list the index", || {
            let mut rows = Vec::new();
            for entry in self.0.range::<&str>((start, Bound::Unbounded))? {
                let (name, bytes) = entry?;
                if rows.len() == limit || !name.value().starts_with(prefix) {
                    break;
                }
                let key = Key::new(name.value())
                    .map_err(|error| redb::Error::Corrupted(error.to_string()))?;
                let row = Row::decode(&key, bytes.value());
                rows.push((key, row));
            }
            Ok(rows)
        })
    }
}

fn read_totals(table: &impl ReadableTable<&'static str, u64>) -> Result<Totals, redb::Error> {
    let read = |name| -> Result<u64, redb::Error> {
        let value = table.get(name)?.map(|value| value.value());
        value.ok_or_else(|| redb::Error::Corrupted(format!("the counter `{name}` is missing")))
    };
    let id = u128::from(read("journal_high")?) << 64 | u128::from(read("journal_low")?);
    Ok(Totals {
        objects: read("objects")?,
        bytes: read("bytes")?,
        next_id: read("next_id")?,
        applied: read("applied")?,
        journal: id.to_be_bytes(),
    })
}

fn write_totals(write: &redb::WriteTransaction, totals: Totals) -> Result<(), redb::Error> {
    let id = u128::from_be_bytes(totals.journal);
    let mut table = write.open_table(TOTALS)?;
    table.insert("objects", totals.objects)?;
    table.insert("bytes", totals.bytes)?;
    table.insert("next_id", totals.next_id)?;
    table.insert("applied", totals.applied)?;
    table.insert("journal_high", (id >> 64) as u64)?;
    // The lower half, by truncation.
    table.insert("journal_low", id as u64)?;
    Ok(())
}

impl Drop for Index {
    fn drop(&mut self) {
        let slot = self
            .database
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        close(slot.take());
    }
}

/// Closes a database. Closing commits, and on a damaged one that may run into redb's assertions:
/// the last commit stands.
fn close(database: Option<Database>) {
    if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
        tracing::error!("the index is damaged: it could not be closed in order");
    }
}

fn open_database(path: &Path) -> Result<Database, Error> {
    // See [`guarded`].
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Database::builder().set_cache_size(CACHE_BYTES).open(path)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(source))))
            if source.kind() != std::io::ErrorKind::InvalidData
                && source.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            Err(Error::io("open the index", source))
        }
        Ok(Err(source)) => Err(damaged_index(path).with_source(source)),
        Err(_) => Err(damaged_index(path)),
    }
}

fn damaged_index(path: &Path) -> Error {
    damaged(
        path.parent().unwrap_or(path),
        "`index.redb` is not a readable index",
    )
}

/// Works with redb, which asserts some of what it reads from its file: where the file is
/// damaged, that is an answer about the file, and no reason for a thread to end.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Error> {
    let result = catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(redb::Error::Corrupted("redb panicked".to_owned())));
    result.map_err(|source| redb_error(what, source))
}

/// A redb error met while doing `what`.
fn redb_error(what: &str, source: redb::Error) -> Error {
    match source {
        redb::Error::Io(source) => Error::io(what, source),
        source @ (redb::Error::Corrupted(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }) => {
            Error::corrupt(format!("cannot {what}: the index is damaged")).with_source(source)
        }
        source @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => {
            Error::unavailable("the index is being reopened after a failed write")
                .with_source(source)
        }
        source => Error::new(
            ErrorKind::Io,
            format!("cannot {what}"),
            "Check the disk of the data directory.",
        )
        .with_source(source),
    }
}
