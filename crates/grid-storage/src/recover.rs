//! What is done at open, before anyone reads or writes: the journal's records are brought into
//! the index, and content files that no row names are removed.

use crate::content::ContentDir;
use crate::dir::{DataDir, damaged};
use crate::error::{Error, ErrorKind};
use crate::index::{Index, Totals};
use crate::journal::{self, Changes};
use crate::metrics::Metrics;
use crate::row::Row;

/// A store's index, and what is durable beside it.
pub(crate) struct Recovered {
    pub(crate) index: Index,
    /// Of the index and `pending` together.
    pub(crate) totals: Totals,
    /// Changes that only the journal holds, because the disk has no room for them in the index.
    pub(crate) pending: Changes,
}

pub(crate) fn recover(
    dir: &DataDir,
    content: &ContentDir,
    metrics: &Metrics,
) -> Result<Recovered, Error> {
    let index = Index::open(&dir.index_path())?;
    let mut totals = index.totals().map_err(|error| match error.kind() {
        ErrorKind::Corrupt => {
            damaged(dir.path(), "`index.redb` is not a store's index").with_source(error)
        }
        _ => error,
    })?;
    let (changes, last) = journal::replay(dir.path(), totals.journal, totals.applied)
        .map_err(|source| Error::io("read the journal", source))?
        .map_err(|problem| damaged(dir.path(), problem))?;
    if last != totals.applied {
        tracing::info!(
            changes = changes.len(),
            "replaying the journal after a crash"
        );
        let above = |row: &Row| row.file().map_or(0, |id| id + 1).max(row.generation + 1);
        totals.next_id = changes
            .values()
            .flatten()
            .map(above)
            .fold(totals.next_id, u64::max);
        totals.applied = last;
        totals = match index.apply(&changes, totals) {
            Ok(totals) => totals,
            // A full disk is no reason not to serve what is there.
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                return serve_from_journal(index, content, totals, changes);
            }
            Err(error) => return Err(error),
        };
    }
    sweep(&index, content, metrics)?;
    Ok(Recovered {
        index,
        totals,
        pending: Changes::new(),
    })
}

/// Leaves the changes to the applying thread, which tries until there is room.
fn serve_from_journal(
    index: Index,
    content: &ContentDir,
    mut totals: Totals,
    pending: Changes,
) -> Result<Recovered, Error> {
    tracing::warn!(
        "the disk is full: the journal's changes are served, and brought into the index when there is room"
    );
    index.reopen()?;
    let reader = index.reader()?;
    for (key, row) in &pending {
        let old = reader.get(key);
        let existed = !matches!(old, Ok(None));
        totals.count(existed, old.ok().flatten().as_ref(), row.as_ref());
    }
    drop(reader);
    // Which files are orphans shows only in a complete index; until the next open their numbers
    // are in use.
    let ids = content
        .ids()
        .map_err(|source| Error::io("list the content files", source))?;
    totals.next_id = ids
        .into_iter()
        .map(|id| id + 1)
        .fold(totals.next_id, u64::max);
    Ok(Recovered {
        index,
        totals,
        pending,
    })
}

/// Removes the content files that no row names: what a crash left of unfinished writes,
/// replacements and deletes.
fn sweep(index: &Index, content: &ContentDir, metrics: &Metrics) -> Result<(), Error> {
    let what = |source| Error::io("sweep the content files", source);
    let mut kept = 0;
    for id in content.ids().map_err(what)? {
        if index.names_file(id)? {
            kept += 1;
        } else {
            content.remove(id).map_err(what)?;
            metrics.orphan_removed();
        }
    }
    let named = index.file_count()?;
    if named != kept {
        tracing::error!(
            missing = named - kept,
            "content files are missing; reads of their objects will fail"
        );
    }
    Ok(())
}
