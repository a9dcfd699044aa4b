//! The index: rows in a redb database, read by point and by prefix, written by batches.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};

use crate::dir::damaged;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::row::{Place, Row};

/// Key -> row (see [`crate::row`]).
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// The content files that rows name, so that orphans are found without reading every row.
const FILES: TableDefinition<'_, u64, ()> = TableDefinition::new("files");
/// The counters of [`Totals`], by name.
const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals");

/// redb's own cache of pages. The kernel's cache lies behind it, so that this bounds the
/// process without making misses expensive.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// What the store holds, kept with the rows and as durable as they.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) objects: u64,
    /// Sum of the objects' sizes.
    pub(crate) bytes: u64,
    /// Above every generation and file number in use.
    pub(crate) next_id: u64,
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

/// One change of a batch.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// The new row, or `None` to delete.
    pub(crate) row: Option<Row>,
    pub(crate) condition: Condition,
}

/// What one change did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Applied {
    /// Whether the key had an object before.
    pub(crate) existed: bool,
    /// The content file that no row names any more.
    pub(crate) freed: Option<u64>,
}

/// The outcomes of a batch, and the totals after it.
pub(crate) type BatchOutcome = (Vec<Result<Applied, Error>>, Totals);

/// One page of a listing.
pub(crate) type Page = (Vec<(Key, Row)>, bool);

/// The open index. `None` while a failed disk keeps it from being reopened.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

impl Index {
    /// Makes an empty index.
    pub(crate) fn create(path: &Path) -> Result<(), Error> {
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
                    ..Totals::default()
                },
            )?;
            write.commit()?;
            Ok(())
        };
        make().map_err(|source| redb_error("make the index", source))
    }

    /// Opens an index that is there. After a crash redb walks it and goes back to the last
    /// commit, which takes time in proportion to its size.
    pub(crate) fn open(path: &Path) -> Result<(Self, Totals), Error> {
        let database = open_database(path)?;
        let index = Self {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
        };
        let totals = index.totals()?;
        Ok((index, totals))
    }

    /// Drops and opens the database again: redb refuses all work after a failed write, and the
    /// file holds the last commit.
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        let mut slot = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = None;
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
        f(database).map_err(|source| redb_error(what, source))
    }

    pub(crate) fn totals(&self) -> Result<Totals, Error> {
        self.read("read the index's totals", |database| {
            let table = database.begin_read()?.open_table(TOTALS)?;
            read_totals(&table)
        })
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Option<Row>, Error> {
        let row = self.read("read the index", |database| {
            let table = database.begin_read()?.open_table(OBJECTS)?;
            Ok(table
                .get(key.as_str())?
                .map(|bytes| Row::decode(key, bytes.value())))
        })?;
        row.transpose()
    }

    /// Up to `limit` rows with `prefix` after `after`, in the order of the keys' bytes, and
    /// whether there are more. A damaged row ends the listing with its error.
    pub(crate) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, Error> {
        self.read("list the index", |database| {
            let table = database.begin_read()?.open_table(OBJECTS)?;
            let start = match after {
                Some(after) if after >= prefix => Bound::Excluded(after),
                _ => Bound::Included(prefix),
            };
            let mut rows = Vec::new();
            for entry in table.range::<&str>((start, Bound::Unbounded))? {
                let (name, bytes) = entry?;
                if !name.value().starts_with(prefix) {
                    break;
                }
                if rows.len() == limit {
                    return Ok(Ok((rows, true)));
                }
                match Key::new(name.value())
                    .and_then(|key| Ok((Row::decode(&key, bytes.value())?, key)))
                {
                    Ok((row, key)) => rows.push((key, row)),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok((rows, false)))
        })?
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

    /// Applies all changes in one durable transaction. A failed condition fails its change
    /// alone; the outer error means that nothing of the batch was done, as far as is known.
    pub(crate) fn apply(&self, changes: &[Change], next_id: u64) -> Result<BatchOutcome, Error> {
        self.read("write the index", |database| {
            let mut write = database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            let mut outcomes = Vec::with_capacity(changes.len());
            let mut totals;
            {
                let mut objects = write.open_table(OBJECTS)?;
                let mut files = None;
                {
                    let table = write.open_table(TOTALS)?;
                    totals = read_totals(&table)?;
                }
                for change in changes {
                    let key = &change.key;
                    let old = {
                        let bytes = objects.get(key.as_str())?;
                        // A damaged row may still be replaced or deleted: that is its mend. Its
                        // content file, if any, is found by the next open's sweep.
                        bytes.map(|bytes| Row::decode(key, bytes.value()).ok())
                    };
                    let generation = old
                        .as_ref()
                        .map(|row| row.as_ref().map_or(0, |row| row.generation));
                    if let Err(error) = change.condition.check(key, generation) {
                        outcomes.push(Err(error));
                        continue;
                    }
                    let existed = old.is_some();
                    let mut applied = Applied {
                        existed,
                        freed: None,
                    };
                    if let Some(old) = old.flatten() {
                        totals.bytes = totals.bytes.saturating_sub(old.size);
                        if let Place::File { id, .. } = old.place {
                            applied.freed = Some(id);
                        }
                    }
                    let added = match &change.row {
                        Some(row) => {
                            objects.insert(key.as_str(), row.encode(key).as_slice())?;
                            totals.bytes += row.size;
                            totals.objects += u64::from(!existed);
                            match row.place {
                                Place::File { id, .. } => Some(id),
                                Place::Inline(_) => None,
                            }
                        }
                        None => {
                            objects.remove(key.as_str())?;
                            totals.objects = totals.objects.saturating_sub(u64::from(existed));
                            None
                        }
                    };
                    if added.is_some() || applied.freed.is_some() {
                        let files = match &mut files {
                            Some(files) => files,
                            none => none.insert(write.open_table(FILES)?),
                        };
                        if let Some(id) = added {
                            files.insert(id, ())?;
                        }
                        if let Some(id) = applied.freed {
                            files.remove(id)?;
                        }
                    }
                    outcomes.push(Ok(applied));
                }
            }
            totals.next_id = next_id;
            write_totals(&write, totals)?;
            write.commit()?;
            Ok((outcomes, totals))
        })
    }
}

fn read_totals(table: &impl ReadableTable<&'static str, u64>) -> Result<Totals, redb::Error> {
    let read = |name| -> Result<u64, redb::Error> {
        let value = table.get(name)?.map(|value| value.value());
        value.ok_or_else(|| redb::Error::Corrupted(format!("the counter `{name}` is missing")))
    };
    Ok(Totals {
        objects: read("objects")?,
        bytes: read("bytes")?,
        next_id: read("next_id")?,
    })
}

fn write_totals(write: &redb::WriteTransaction, totals: Totals) -> Result<(), redb::Error> {
    let mut table = write.open_table(TOTALS)?;
    table.insert("objects", totals.objects)?;
    table.insert("bytes", totals.bytes)?;
    table.insert("next_id", totals.next_id)?;
    Ok(())
}

fn open_database(path: &Path) -> Result<Database, Error> {
    // redb asserts some of what it reads; a damaged file is this crate's error, not a crash.
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
