//! The store's file: rows as JSON in a redb database.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use grid_platform_api::{Error, ErrorKind, NodeId, Result, fault};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use serde::{Serialize, de::DeserializeOwned};

use crate::state::RESTORE;

use super::{
    book::{Book, Delta},
    row::{AgentRow, NodeRow, RequestRow, SeenRow, TokenRow},
};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const META: Table = TableDefinition::new("meta");
const NODES: Table = TableDefinition::new("nodes");
const AGENTS: Table = TableDefinition::new("agents");
const TOKENS: Table = TableDefinition::new("tokens");
const REQUESTS: Table = TableDefinition::new("requests");
const SEEN: Table = TableDefinition::new("seen");
/// The lineages of before and the revisions at which they ended. A store that never counted in two lives has none.
const ANCESTORS: Table = TableDefinition::new("ancestors");

/// What `meta` says the file is.
const FORMAT: &str = "sutra-grid-master";
/// The version of the rows that this program writes.
const VERSION: u64 = 1;
/// redb's own cache; rows are read once, at the start.
const CACHE_BYTES: usize = 16 << 20;

/// The tokens and names that a new store starts with.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) grid_id: String,
    pub(crate) tokens: Vec<TokenRow>,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// `None` after a failed write, until it can be opened again.
    database: Option<Database>,
    /// How many batches were written; stored with each, so that a reopened file tells whether the last one landed.
    batches: u64,
    /// Lets the next write fail, having landed or not.
    #[cfg(test)]
    pub(super) fail_next: Option<bool>,
}

/// What was read of a file that exists.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) book: Book,
    pub(crate) seen: HashMap<NodeId, SeenRow>,
}

impl Disk {
    /// Opens the file at `path`; a new one is made with what `birth` gives.
    ///
    /// # Errors
    /// `StateLocked` when another process has it, `Corrupt` when it is damaged or not a master's store.
    pub(crate) fn open(
        path: &Path,
        birth: impl FnOnce() -> Result<Birth>,
    ) -> Result<(Self, Contents)> {
        let database = open_database(path)?;
        let disk = |database, batches| Self {
            path: path.to_owned(),
            database: Some(database),
            batches,
            #[cfg(test)]
            fail_next: None,
        };
        // An unwinding reader leaves nothing behind: the database is dropped on every error.
        let read = catch_unwind(AssertUnwindSafe(|| read(&database)))
            .unwrap_or_else(|_| Err(Fault::Damaged("its pages do not read".to_owned())))
            .map_err(|fault| fault.into_error(path))?;
        if let Some((contents, batches)) = read {
            return Ok((disk(database, batches), contents));
        }
        let birth = birth()?;
        let book = begin(&database, birth).map_err(|fault| fault.into_error(path))?;
        let contents = Contents {
            book,
            ..Contents::default()
        };
        Ok((disk(database, 0), contents))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Opens the file again if a write has failed. `Some(true)`: what failed has reached the disk all the same, as a
    /// failed sync may; `Some(false)`: it has not; `None`: no write had failed.
    pub(crate) fn reopen(&mut self) -> Result<Option<bool>> {
        if self.database.is_some() {
            return Ok(None);
        }
        let database = open_database(&self.path)?;
        let batches = (|| -> Result<Option<u64>, Fault> {
            get(&database.begin_read()?.open_table(META)?, "batches")
        })()
        .map_err(|fault| fault.into_error(&self.path))?
        .unwrap_or(0);
        let landed = batches > self.batches;
        self.batches = batches;
        self.database = Some(database);
        Ok(Some(landed))
    }

    /// Writes the changes of one batch durably, all or none.
    pub(crate) fn write(&mut self, deltas: &[Delta]) -> Result<()> {
        #[cfg(test)]
        let result = match self.fail_next.take() {
            Some(landed) => {
                let batches = self.batches;
                if landed {
                    self.try_write(deltas)
                        .map_err(|fault| fault.into_error(&self.path))?;
                }
                self.batches = batches;
                Err(Fault::Closed)
            }
            None => self.try_write(deltas),
        };
        #[cfg(not(test))]
        let result = self.try_write(deltas);
        if result.is_err() {
            // After a failed write redb wants to be opened anew; the next write does it.
            self.database = None;
        }
        result.map_err(|fault| fault.into_error(&self.path))
    }

    fn try_write(&mut self, deltas: &[Delta]) -> Result<(), Fault> {
        let Some(database) = &self.database else {
            return Err(Fault::Closed);
        };
        let injected = |e| Fault::Redb(redb::Error::Io(e));
        fault::point("store-before-commit").map_err(injected)?;
        let mut txn = database.begin_write()?;
        txn.set_durability(Durability::Immediate)
            .map_err(|e| Fault::Damaged(e.to_string()))?;
        {
            let mut meta = txn.open_table(META)?;
            let mut nodes = txn.open_table(NODES)?;
            let mut agents = txn.open_table(AGENTS)?;
            let mut tokens = txn.open_table(TOKENS)?;
            let mut requests = txn.open_table(REQUESTS)?;
            let mut seen = txn.open_table(SEEN)?;
            let mut ancestors = txn.open_table(ANCESTORS)?;
            let mut revision = None;
            for delta in deltas {
                match delta {
                    Delta::Node(id, row, at) => {
                        revision = revision.max(Some(*at));
                        put(&mut nodes, id.as_str(), row.as_deref())?;
                    }
                    Delta::Agent(id, row) => put(&mut agents, id, row.as_deref())?,
                    Delta::Token(id, row) => put(&mut tokens, id, row.as_deref())?,
                    Delta::Request(key, row) => put(&mut requests, key, row.as_deref())?,
                    Delta::Seen(id, row) => put(&mut seen, id.as_str(), row.as_deref())?,
                    Delta::Epoch(epoch, at) => {
                        revision = revision.max(Some(*at));
                        put(&mut meta, "epoch", Some(epoch))?;
                        ancestors.retain(|_, _| false)?;
                    }
                    Delta::Lineage(name, former) => {
                        put(&mut meta, "lineage", Some(name))?;
                        if let Some((name, end)) = former {
                            put(&mut ancestors, name, Some(end))?;
                        }
                    }
                    Delta::EventIds(next) => put(&mut meta, "event_ids", Some(next))?,
                }
            }
            if let Some(revision) = revision {
                put(&mut meta, "revision", Some(&revision))?;
            }
            put(&mut meta, "batches", Some(&(self.batches + 1)))?;
        }
        txn.commit()?;
        fault::point("store-after-commit").map_err(injected)?;
        self.batches += 1;
        Ok(())
    }
}

fn open_database(path: &Path) -> Result<Database> {
    let open = || {
        Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create(path)
    };
    // redb promises errors, not panics, with the check; a panic on foreign bytes must not become a crash loop.
    match catch_unwind(open) {
        Ok(Ok(database)) => {
            private(path)?;
            Ok(database)
        }
        Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen)) => Err(Error::new(
            ErrorKind::StateLocked,
            format!("another process has the store `{}` open", path.display()),
        )
        .with_hint("End the other master, or give this one another `--state-dir`.")),
        Ok(Err(error)) => Err(Fault::from(redb::Error::from(error)).into_error(path)),
        Err(_) => Err(Fault::Damaged("its pages do not read".to_owned()).into_error(path)),
    }
}

fn private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|e| {
        Error::new(
            ErrorKind::Internal,
            format!("cannot make `{}` private", path.display()),
        )
        .with_source(e)
    })
}

/// Why the file could not be read or written.
#[derive(Debug)]
enum Fault {
    Redb(redb::Error),
    Damaged(String),
    Newer(u64),
    /// A write failed, and the file has not opened again since.
    Closed,
}

macro_rules! from_redb {
    ($($ty:ident),*) => {
        $(impl From<redb::$ty> for Fault {
            fn from(error: redb::$ty) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}
from_redb!(TransactionError, TableError, StorageError, CommitError);

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        Self::Redb(error)
    }
}

impl Fault {
    fn into_error(self, path: &Path) -> Error {
        let path = path.display();
        let damaged = |why: String| {
            Error::new(
                ErrorKind::Corrupt,
                format!("`{path}` is damaged or is not a master's store: {why}"),
            )
            .with_hint(RESTORE)
        };
        match self {
            Self::Damaged(why) => damaged(why),
            Self::Closed => Error::new(
                ErrorKind::Exhausted,
                format!("the store `{path}` cannot be opened again after a failed write"),
            )
            .with_hint("Check the disk's space and the permissions of the state directory."),
            Self::Newer(version) => Error::new(
                ErrorKind::Corrupt,
                format!("the store `{path}` has version {version}, and this program knows up to {VERSION}"),
            )
            .with_hint("Start the newer `grid-master` that wrote it."),
            Self::Redb(redb::Error::Io(io)) if io.kind() == std::io::ErrorKind::InvalidData => {
                damaged(io.to_string())
            }
            Self::Redb(redb::Error::Io(io)) => {
                let kind = match io.kind() {
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                        ErrorKind::Exhausted
                    }
                    std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                        ErrorKind::PermissionDenied
                    }
                    _ => ErrorKind::Internal,
                };
                Error::new(kind, format!("cannot use the store `{path}`"))
                    .with_source(io)
                    .with_hint("Check the disk's space and the permissions of the state directory.")
            }
            Self::Redb(redb::Error::Corrupted(why)) => damaged(why),
            Self::Redb(other) => Error::new(
                ErrorKind::Internal,
                format!("cannot use the store `{path}`"),
            )
            .with_source(other),
        }
    }
}

fn put<T: Serialize>(
    table: &mut redb::Table<'_, &'static str, &'static [u8]>,
    key: &str,
    row: Option<&T>,
) -> Result<(), Fault> {
    match row {
        Some(row) => {
            let json = serde_json::to_vec(row).map_err(|e| Fault::Damaged(e.to_string()))?;
            table.insert(key, json.as_slice())?;
        }
        None => {
            table.remove(key)?;
        }
    }
    Ok(())
}

/// Everything in the file; `None` for a new one.
fn read(database: &Database) -> Result<Option<(Contents, u64)>, Fault> {
    let txn = database.begin_read()?;
    let tables: Vec<String> = txn.list_tables()?.map(|t| t.name().to_owned()).collect();
    if tables.is_empty() {
        return Ok(None);
    }
    if !tables.iter().any(|t| t == META.name()) {
        return Err(Fault::Damaged("it holds other tables".to_owned()));
    }
    let meta = txn.open_table(META)?;
    let format: Option<String> = get(&meta, "format")?;
    if format.as_deref() != Some(FORMAT) {
        return Err(Fault::Damaged("it holds something else".to_owned()));
    }
    let figure = |key: &str| -> Result<u64, Fault> {
        get(&meta, key)?.ok_or_else(|| Fault::Damaged(format!("`{key}` is missing")))
    };
    match figure("version")? {
        VERSION => {}
        other => return Err(Fault::Newer(other)),
    }
    let mut book = Book {
        grid_id: get(&meta, "grid_id")?
            .ok_or_else(|| Fault::Damaged("`grid_id` is missing".to_owned()))?,
        epoch: figure("epoch")?,
        revision: figure("revision")?,
        event_ids: figure("event_ids")?,
        lineage: get(&meta, "lineage")?.unwrap_or_default(),
        ..Book::default()
    };
    let revision = book.revision;
    each(&txn, NODES, |_, row: NodeRow| {
        book.apply(&Delta::Node(row.id.clone(), Some(Arc::new(row)), revision));
    })?;
    each(&txn, AGENTS, |_, row: AgentRow| {
        book.apply(&Delta::Agent(row.id.clone(), Some(Arc::new(row))));
    })?;
    each(&txn, TOKENS, |key, row: TokenRow| {
        book.apply(&Delta::Token(key, Some(Arc::new(row))));
    })?;
    each(&txn, REQUESTS, |key, row: RequestRow| {
        book.apply(&Delta::Request(key, Some(Arc::new(row))));
    })?;
    if tables.iter().any(|t| t == ANCESTORS.name()) {
        each(&txn, ANCESTORS, |name, end: u64| {
            book.ancestors.insert(name, end);
        })?;
    }
    let mut seen = HashMap::new();
    let mut bad = None;
    each(&txn, SEEN, |key, row: SeenRow| match NodeId::new(key) {
        Ok(id) => {
            seen.insert(id, row);
        }
        Err(error) => bad = Some(error.to_string()),
    })?;
    match bad {
        Some(why) => Err(Fault::Damaged(why)),
        None => Ok(Some((
            Contents { book, seen },
            get(&meta, "batches")?.unwrap_or(0),
        ))),
    }
}

fn get<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>, Fault> {
    match table.get(key)? {
        Some(value) => serde_json::from_slice(value.value())
            .map(Some)
            .map_err(|e| Fault::Damaged(format!("`{key}`: {e}"))),
        None => Ok(None),
    }
}

fn each<T: DeserializeOwned>(
    txn: &redb::ReadTransaction,
    definition: Table,
    mut take: impl FnMut(String, T),
) -> Result<(), Fault> {
    let table = txn.open_table(definition)?;
    for entry in table.iter()? {
        let (key, value) = entry?;
        let key = key.value().to_owned();
        match serde_json::from_slice(value.value()) {
            Ok(row) => take(key, row),
            Err(e) => {
                let table = definition.name();
                return Err(Fault::Damaged(format!("the row `{key}` of `{table}`: {e}")));
            }
        }
    }
    Ok(())
}

/// Makes all tables of a new store in one transaction, so that a crash leaves it new or whole.
fn begin(database: &Database, birth: Birth) -> Result<Book, Fault> {
    let mut book = Book {
        grid_id: birth.grid_id,
        epoch: 1,
        ..Book::default()
    };
    let txn = database.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        put(&mut meta, "format", Some(&FORMAT))?;
        put(&mut meta, "version", Some(&VERSION))?;
        put(&mut meta, "grid_id", Some(&book.grid_id))?;
        put(&mut meta, "epoch", Some(&book.epoch))?;
        put(&mut meta, "revision", Some(&0u64))?;
        put(&mut meta, "event_ids", Some(&0u64))?;
        for definition in [NODES, AGENTS, REQUESTS, SEEN] {
            txn.open_table(definition)?;
        }
        let mut tokens = txn.open_table(TOKENS)?;
        for row in birth.tokens {
            put(&mut tokens, &row.id, Some(&row))?;
            book.apply(&Delta::Token(row.id.clone(), Some(Arc::new(row))));
        }
    }
    txn.commit()?;
    Ok(book)
}
