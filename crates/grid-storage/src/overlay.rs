//! The changes that the journal has and the index has not taken in yet, as readers see them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::Error;
use crate::index::{Index, IndexReader};
use crate::journal::Changes;
use crate::key::Key;
use crate::row::Row;

/// The index with the newer changes laid over it. Readers look at the changes first, and at
/// the index after: a change leaves the overlay only when the index has it.
#[derive(Debug)]
pub(crate) struct Overlay {
    index: Arc<Index>,
    changes: RwLock<Layers>,
}

#[derive(Debug, Default)]
struct Layers {
    /// Of the journal's active file.
    active: Changes,
    /// Of its full file, on their way into the index.
    frozen: Arc<Changes>,
}

/// One page of a listing, and whether there are more.
pub(crate) type Page = (Vec<(Key, Row)>, bool);

impl Layers {
    fn get(&self, key: &Key) -> Option<&Option<Row>> {
        self.active.get(key).or_else(|| self.frozen.get(key))
    }
}

impl Overlay {
    pub(crate) fn new(index: Arc<Index>) -> Self {
        Self {
            index,
            changes: RwLock::default(),
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Option<Row>, Error> {
        if let Some(change) = self.read().get(key) {
            return Ok(change.clone());
        }
        self.index.reader()?.get(key)
    }

    /// Rows for the committing thread, by one look at the index for many keys.
    pub(crate) fn get_all<'a>(
        &self,
        keys: impl Iterator<Item = &'a Key>,
    ) -> Result<Vec<Result<Option<Row>, Error>>, Error> {
        let layers = self.read();
        let mut reader: Option<IndexReader> = None;
        let mut rows = Vec::new();
        for key in keys {
            if let Some(change) = layers.get(key) {
                rows.push(Ok(change.clone()));
                continue;
            }
            let reader = match &mut reader {
                Some(reader) => reader,
                none => none.insert(self.index.reader()?),
            };
            rows.push(reader.get(key));
        }
        Ok(rows)
    }

    /// Up to `limit` rows with `prefix` after `after`, in the order of the keys' bytes. A
    /// damaged row ends the listing with its error.
    pub(crate) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, Error> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let (newer, reader) = {
            let layers = self.read();
            let mut newer = BTreeMap::new();
            for changes in [&*layers.frozen, &layers.active] {
                let range = changes.range::<str, _>((start, Bound::Unbounded));
                let range = range.take_while(|(key, _)| key.as_str().starts_with(prefix));
                newer.extend(range.map(|(key, change)| (key.clone(), change.clone())));
            }
            // Under the lock, so that the two are of one moment.
            (newer, self.index.reader()?)
        };
        // So many that enough are left when the deleted ones are taken out.
        let deleted = newer.values().filter(|change| change.is_none()).count();
        let older = reader.scan(start, prefix, limit + 1 + deleted)?;
        let mut merged: BTreeMap<Key, Result<Option<Row>, Error>> = older
            .into_iter()
            .map(|(key, row)| (key, row.map(Some)))
            .collect();
        merged.extend(newer.into_iter().map(|(key, change)| (key, Ok(change))));
        let rows = merged
            .into_iter()
            .filter_map(|(key, row)| Some(row.transpose()?.map(|row| (key, row))));
        let mut rows = rows.take(limit + 1).collect::<Result<Vec<_>, _>>()?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok((rows, more))
    }

    /// Whether the index can be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.index.reader().is_ok()
    }

    /// Shows changes that the journal has made durable.
    pub(crate) fn add(&self, changes: Changes) {
        self.write().active.extend(changes);
    }

    /// Sets the active changes aside for the index, which has taken in those set aside before.
    pub(crate) fn freeze(&self) -> Arc<Changes> {
        let mut layers = self.write();
        layers.frozen = Arc::new(std::mem::take(&mut layers.active));
        Arc::clone(&layers.frozen)
    }

    /// The index has the changes that were set aside.
    pub(crate) fn thaw(&self) {
        self.write().frozen = Arc::default();
    }

    fn read(&self) -> RwLockReadGuard<'_, Layers> {
        self.changes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Layers> {
        self.changes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Totals;
    use crate::row::Place;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn changes(list: &[(&str, Option<u64>)]) -> Changes {
        let row = |generation| Row {
            generation,
            size: 0,
            crc: 0,
            modified_ms: 0,
            content_type: String::new(),
            place: Place::Inline(bytes::Bytes::new()),
        };
        list.iter()
            .map(|(name, generation)| (key(name), generation.map(row)))
            .collect()
    }

    #[test]
    fn newer_changes_lie_over_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        Index::create(&path).unwrap();
        let index = Arc::new(Index::open(&path).unwrap());
        let old = changes(&[
            ("a/1", Some(1)),
            ("a/2", Some(2)),
            ("a/3", Some(3)),
            ("a/5", Some(5)),
            ("b", Some(6)),
        ]);
        index
            .apply(
                &old,
                Totals {
                    applied: 1,
                    ..index.totals().unwrap()
                },
            )
            .unwrap();
        let overlay = Overlay::new(index);
        overlay.add(changes(&[
            ("a/2", None),
            ("a/4", Some(14)),
            ("a/5", Some(15)),
            ("c", Some(16)),
        ]));
        overlay.freeze();
        overlay.add(changes(&[
            ("a/1", Some(21)),
            ("a/4", None),
            ("a/6", Some(26)),
            ("b", None),
        ]));

        let get = |name: &str| overlay.get(&key(name)).unwrap().map(|row| row.generation);
        let check_get = |name: &str, expect: Option<u64>| assert_eq!(get(name), expect, "{name}");
        check_get("a/1", Some(21));
        check_get("a/2", None);
        check_get("a/3", Some(3));
        check_get("a/4", None);
        check_get("a/5", Some(15));
        check_get("d", None);

        let check =
            |prefix: &str, after: Option<&str>, limit: usize, expect: &[&str], more: bool| {
                let (rows, found_more) = overlay.list(prefix, after, limit).unwrap();
                let names: Vec<_> = rows.iter().map(|(key, _)| key.as_str()).collect();
                assert_eq!(
                    (names.as_slice(), found_more),
                    (expect, more),
                    "{prefix} {after:?} {limit}"
                );
            };
        check("", None, 10, &["a/1", "a/3", "a/5", "a/6", "c"], false);
        check("", None, 5, &["a/1", "a/3", "a/5", "a/6", "c"], false);
        check("", None, 4, &["a/1", "a/3", "a/5", "a/6"], true);
        check("a/", None, 2, &["a/1", "a/3"], true);
        check("a/", Some("a/3"), 2, &["a/5", "a/6"], false);
        check("a/", Some("a/5"), 1, &["a/6"], false);
        check("b", None, 10, &[], false);
        check("c", Some("a"), 10, &["c"], false);
    }
}
