//! The journal: where a change becomes durable before the index takes it in.
//!
//! Two preallocated files are written by turns. A batch of changes is one record, written in
//! place and synced once; nothing of the file system's own has to be synced with it, which is
//! what makes it quick. When a file is full, the other is begun, and the index takes the full
//! one's changes in one transaction of its own (see [`crate::applier`]); it then remembers the
//! last record it has taken, and the file may be overwritten.
//!
//! A record begins at a multiple of [`BLOCK`]:
//!
//! ```text
//! 16 bytes, the store's journal id | u64 number | u32 payload length | u32 crc
//! | per change: u32 key length, key, u32 row length (all ones: deleted), row
//! ```
//!
//! Records are numbered without gaps over the life of the store. Those above the index's last
//! are replayed at open. The last may be torn, which is a write that nobody was told of; a gap
//! before a later record is damage. The id is random and secret, so that no client can write
//! an object that reads as a record.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::key::Key;
use crate::row::Row;

/// Bytes of each of the two files. Together they bound what is replayed at open, and what of
/// the index is held in memory.
pub(crate) const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Records begin at multiples of this.
const BLOCK: usize = 512;
const HEADER_BYTES: usize = 32;
const DELETED: u32 = u32::MAX;

/// A store's secret mark on its records.
pub(crate) type JournalId = [u8; 16];

/// A row, or `None` for a key that was deleted.
pub(crate) type Changes = BTreeMap<Key, Option<Row>>;

/// The two files, open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    files: [File; 2],
    id: JournalId,
    active: usize,
    offset: u64,
    /// The number of the next record.
    next: u64,
    /// Set when what is on the disk behind the last record is unknown.
    failed: bool,
}

/// A record that is being put together.
#[derive(Debug)]
pub(crate) struct Record(Vec<u8>);

impl Record {
    pub(crate) fn new() -> Self {
        Self(vec![0; HEADER_BYTES])
    }

    pub(crate) fn push(&mut self, key: &Key, row: Option<&Row>) {
        // Keys and rows are bounded far below 4 GiB.
        self.0
            .extend_from_slice(&(key.as_str().len() as u32).to_le_bytes());
        self.0.extend_from_slice(key.as_str().as_bytes());
        match row {
            Some(row) => {
                let row = row.encode(key);
                self.0.extend_from_slice(&(row.len() as u32).to_le_bytes());
                self.0.extend_from_slice(&row);
            }
            None => self.0.extend_from_slice(&DELETED.to_le_bytes()),
        }
    }

    /// Bytes on disk.
    fn disk_len(&self) -> u64 {
        self.0.len().next_multiple_of(BLOCK) as u64
    }

    fn seal(&mut self, id: JournalId, number: u64) {
        let len = (self.0.len() - HEADER_BYTES) as u32;
        self.0[..16].copy_from_slice(&id);
        self.0[16..24].copy_from_slice(&number.to_le_bytes());
        self.0[24..28].copy_from_slice(&len.to_le_bytes());
        let crc = record_crc(&self.0);
        self.0[28..32].copy_from_slice(&crc.to_le_bytes());
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }
}

/// The checksum of all of a record but the checksum.
fn record_crc(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..28]);
    hasher.update(&record[HEADER_BYTES..]);
    hasher.finalize()
}

/// The paths of the two files in a data directory.
pub(crate) fn paths(dir: &Path) -> [PathBuf; 2] {
    [dir.join("journal-0"), dir.join("journal-1")]
}

/// Makes the two files, with every block written, so that a later write changes nothing but
/// data.
pub(crate) fn create(dir: &Path) -> io::Result<()> {
    let zeros = vec![0; 1024 * 1024];
    for path in paths(dir) {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        for _ in 0..SEGMENT_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// Reads the changes of all records after number `applied`; the newest change of each key, and
/// the last record's number.
///
/// The inner error says what is damaged.
pub(crate) fn replay(
    dir: &Path,
    id: JournalId,
    applied: u64,
) -> io::Result<Result<(Changes, u64), String>> {
    let mut records = BTreeMap::new();
    for path in paths(dir) {
        let bytes = std::fs::read(&path)?;
        if bytes.len() as u64 != SEGMENT_BYTES {
            return Ok(Err(format!(
                "`{}` has {} bytes instead of {SEGMENT_BYTES}",
                path.display(),
                bytes.len()
            )));
        }
        collect(&bytes, id, applied, &mut records);
    }
    let mut changes = Changes::new();
    let mut last = applied;
    for (number, payload) in records {
        if number != last + 1 {
            return Ok(Err(format!(
                "record {} of the journal does not have its checksum",
                last + 1
            )));
        }
        if let Err(error) = read_payload(&payload, &mut changes) {
            return Ok(Err(format!(
                "record {number} of the journal cannot be read: {error}"
            )));
        }
        last = number;
    }
    Ok(Ok((changes, last)))
}

/// Finds the records after `applied` in one file. After one that is unreadable the search goes
/// on, so that a gap is found.
fn collect(bytes: &[u8], id: JournalId, applied: u64, records: &mut BTreeMap<u64, Vec<u8>>) {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= HEADER_BYTES) {
        let Some((number, len)) = read_header(rest, id) else {
            at += BLOCK;
            continue;
        };
        if number > applied {
            records.insert(number, rest[HEADER_BYTES..len].to_vec());
        }
        at += len.next_multiple_of(BLOCK);
    }
}

/// The number and the length of the record at the start of `rest`, if an intact one is there.
fn read_header(rest: &[u8], id: JournalId) -> Option<(u64, usize)> {
    if rest[..16] != id {
        return None;
    }
    let number = u64::from_le_bytes(rest[16..24].try_into().ok()?);
    let len = u32::from_le_bytes(rest[24..28].try_into().ok()?);
    let crc = u32::from_le_bytes(rest[28..32].try_into().ok()?);
    let len = HEADER_BYTES.checked_add(usize::try_from(len).ok()?)?;
    (record_crc(rest.get(..len)?) == crc).then_some((number, len))
}

fn read_payload(mut rest: &[u8], changes: &mut Changes) -> Result<(), Error> {
    let short = || Error::corrupt("a change is cut short");
    fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
        let (head, tail) = rest.split_at_checked(len)?;
        *rest = tail;
        Some(head)
    }
    let number = |rest: &mut &[u8]| -> Option<u32> {
        Some(u32::from_le_bytes(take(rest, 4)?.try_into().ok()?))
    };
    while !rest.is_empty() {
        let len = number(&mut rest).ok_or_else(short)?;
        let key = take(&mut rest, len as usize).ok_or_else(short)?;
        let key = Key::new(String::from_utf8_lossy(key))?;
        let row = match number(&mut rest).ok_or_else(short)? {
            DELETED => None,
            len => Some(Row::decode(
                &key,
                take(&mut rest, len as usize).ok_or_else(short)?,
            )?),
        };
        changes.insert(key, row);
    }
    Ok(())
}

impl Journal {
    /// Opens the files for appending after record `last`, which the index has taken in.
    pub(crate) fn open(dir: &Path, id: JournalId, last: u64) -> io::Result<Self> {
        let open = |path: &PathBuf| OpenOptions::new().write(true).open(path);
        let [first, second] = &paths(dir);
        Ok(Self {
            files: [open(first)?, open(second)?],
            id,
            active: 0,
            offset: 0,
            next: last + 1,
            failed: false,
        })
    }

    /// Whether the record fits into what is left of the active file.
    pub(crate) fn fits(&self, record: &Record) -> bool {
        self.offset + record.disk_len() <= SEGMENT_BYTES
    }

    /// The number of the last durable record.
    pub(crate) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Takes no more into the active file, nor into the other until [`Journal::switch`]: both
    /// hold what the index has not taken in.
    pub(crate) fn close_active(&mut self) {
        self.offset = SEGMENT_BYTES;
    }

    /// Goes on with the other file, which the index must have taken in.
    pub(crate) fn switch(&mut self) {
        self.active = 1 - self.active;
        self.offset = 0;
    }

    /// Writes the record and makes it durable.
    ///
    /// After an error that leaves the disk's state unknown, every later append fails too: a
    /// restart reads what is there.
    pub(crate) fn append(&mut self, mut record: Record) -> Result<(), Error> {
        if self.failed {
            return Err(Error::unavailable(
                "the journal failed before; the server must be restarted",
            ));
        }
        record.seal(self.id, self.next);
        let file = &self.files[self.active];
        let written = file
            .write_all_at(&record.0, self.offset)
            .and_then(|()| file.sync_data());
        if let Err(source) = written {
            // The record may be whole on the disk: it must not be found there.
            let erased = file
                .write_all_at(&[0; BLOCK], self.offset)
                .and_then(|()| file.sync_data());
            self.failed = erased.is_err();
            return Err(Error::io("write the journal", source));
        }
        self.offset += record.0.len() as u64;
        self.next += 1;
        Ok(())
    }

    /// Whether the disk's state behind the last record is unknown.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Place;
    use bytes::Bytes;

    const ID: JournalId = [7; 16];

    fn key(n: u64) -> Key {
        Key::new(format!("key-{n}")).unwrap()
    }

    fn row(generation: u64) -> Row {
        let body = Bytes::from(vec![b'x'; 700]);
        Row {
            generation,
            size: 700,
            crc: crc32fast::hash(&body),
            modified_ms: 0,
            content_type: String::new(),
            place: Place::Inline(body),
        }
    }

    /// A journal of records 11 to 20, each with one change; every third deletes.
    fn written() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let mut journal = Journal::open(dir.path(), ID, 10).unwrap();
        for n in 11..=20 {
            if n == 15 {
                journal.switch();
            }
            let mut record = Record::new();
            record.push(&key(n % 4), (n % 3 != 0).then(|| row(n)).as_ref());
            assert!(journal.fits(&record));
            journal.append(record).unwrap();
        }
        dir
    }

    #[test]
    fn what_is_appended_is_replayed_newest_last() {
        let dir = written();
        let check = |applied: u64, expect: &[(u64, Option<u64>)]| {
            let (changes, last) = replay(dir.path(), ID, applied).unwrap().unwrap();
            assert_eq!(last, applied.max(20));
            let expect: Changes = expect
                .iter()
                .map(|(n, generation)| (key(*n), generation.map(row)))
                .collect();
            assert_eq!(changes, expect, "after {applied}");
        };
        check(
            10,
            &[(0, Some(20)), (1, Some(17)), (2, None), (3, Some(19))],
        );
        check(18, &[(0, Some(20)), (3, Some(19))]);
        check(20, &[]);
        check(25, &[]);
    }

    #[test]
    fn a_torn_last_record_is_dropped_and_a_gap_is_damage() {
        let dir = written();
        let [first, second] = paths(dir.path());
        let flip = |path: &Path, at: usize| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[at] ^= 1;
            std::fs::write(path, bytes).unwrap();
        };
        // Records of puts take two blocks, of deletes one: 15 and 18 are deletes.
        flip(&second, 8 * BLOCK + 40);
        assert_eq!(replay(dir.path(), ID, 10).unwrap().unwrap().1, 19);
        flip(&second, BLOCK + 40);
        assert!(
            replay(dir.path(), ID, 10)
                .unwrap()
                .unwrap_err()
                .contains("record 16")
        );
        assert_eq!(replay(dir.path(), ID, 16).unwrap().unwrap().1, 19);
        flip(&second, BLOCK + 40);
        flip(&first, 40);
        assert!(
            replay(dir.path(), ID, 10)
                .unwrap()
                .unwrap_err()
                .contains("record 11")
        );
    }

    #[test]
    fn records_of_another_store_and_files_of_another_size_are_not_read() {
        let dir = written();
        assert_eq!(
            replay(dir.path(), [8; 16], 10).unwrap().unwrap(),
            (Changes::new(), 10)
        );
        std::fs::write(&paths(dir.path())[1], "short").unwrap();
        assert!(replay(dir.path(), ID, 10).unwrap().is_err());
    }

    #[test]
    fn a_full_file_takes_no_more() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let mut journal = Journal::open(dir.path(), ID, 0).unwrap();
        let mut appended = 0;
        loop {
            let mut record = Record::new();
            for n in 0..100 {
                record.push(&key(n), Some(&row(n)));
            }
            if !journal.fits(&record) {
                break;
            }
            journal.append(record).unwrap();
            appended += 1;
        }
        assert_eq!(
            std::fs::metadata(&paths(dir.path())[0]).unwrap().len(),
            SEGMENT_BYTES
        );
        assert_eq!(replay(dir.path(), ID, 0).unwrap().unwrap().1, appended);
    }
}
