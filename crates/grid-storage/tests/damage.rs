//! Half-written and bit-flipped files of a store, one at a time: what is damaged is refused with a mend or is an error
//! where it is read, and never another object, another body or a change that was never made.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{content_files, pattern};
use grid_storage::{Error, ErrorKind, Key, PutOptions, Store};

/// The bodies of a store by key.
type Bodies = BTreeMap<String, Vec<u8>>;

const LARGE: usize = 300_000;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(store: &Store, name: &str, body: &[u8]) {
    store.put(&key(name), body, PutOptions::default()).unwrap();
}

/// The files of a store that was killed, by their names: the newest changes are in the journal alone.
fn killed() -> (tempfile::TempDir, Vec<Bodies>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut bodies = Bodies::new();
    let mut history = Vec::new();
    for n in 0..13_u64 {
        let name = format!("k{}", n % 8);
        let body = match n % 6 {
            5 => pattern(LARGE, n),
            _ => pattern(700 * (1 + usize::try_from(n).unwrap()), n),
        };
        put(&store, &name, &body);
        bodies.insert(name, body);
        history.push(bodies.clone());
    }
    // Copied while it is open, as a kill leaves it.
    let copy = tempfile::tempdir().unwrap();
    copy_all(dir.path(), copy.path());
    (copy, history)
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Damages `bytes` in one of three ways.
fn damage(bytes: &mut Vec<u8>, round: u64) -> String {
    let dice =
        |n: u64| usize::try_from(u32::from_le_bytes(pattern(4, n).try_into().unwrap())).unwrap();
    // The rest is there for later.
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let at = dice(3 * round) % used;
    match round % 3 {
        0 => {
            let bit = dice(3 * round + 1) % 8;
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
        1 => {
            bytes.truncate(at);
            format!("cut to {at}")
        }
        _ => {
            // A page of which the disk has written a part.
            let end = (at | 4095).min(bytes.len());
            bytes[at..end].fill(0);
            format!("zeros from {at}")
        }
    }
}

/// What the objects of an open store are: bodies, or errors that say so.
fn bodies(store: &Store) -> BTreeMap<String, Result<Option<Vec<u8>>, Error>> {
    (0..8)
        .map(|n| format!("k{n}"))
        .map(|name| {
            let body = store.get(&key(&name)).map(|it| it.map(|(_, body)| body));
            (name, body)
        })
        .collect()
}

fn assert_told(error: &Error, what: &str) {
    let kinds = [
        ErrorKind::DamagedData,
        ErrorKind::UnsupportedFormat,
        ErrorKind::ForeignData,
    ];
    assert!(kinds.contains(&error.kind()), "{what}: {error}");
    assert!(!error.hint().is_empty(), "{what}");
}

#[test]
fn a_damaged_journal_or_head_is_refused_or_loses_its_last_record_at_most() {
    let (dir, history) = killed();
    let (mut refused, mut whole, mut shorter) = (0, 0, 0);
    for round in 0..96 {
        let file =
            ["journal-0", "journal-0", "journal-1", "FORMAT"][usize::try_from(round % 4).unwrap()];
        let copy = tempfile::tempdir().unwrap();
        copy_all(dir.path(), copy.path());
        let path = copy.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let what = format!("{file}: {}", damage(&mut bytes, round));
        fs::write(&path, bytes).unwrap();
        let store = match Store::open(copy.path()) {
            Ok(store) => store,
            Err(error) => {
                assert_told(&error, &what);
                refused += 1;
                continue;
            }
        };
        let found: Bodies = bodies(&store)
            .into_iter()
            .filter_map(|(name, body)| Some((name, body.unwrap()?)))
            .collect();
        if found == history[history.len() - 1] {
            whole += 1;
        } else {
            // It cannot be told from a write that a crash tore, of which nobody was told.
            assert!(found == history[history.len() - 2], "{what}");
            shorter += 1;
        }
        put(&store, "k0", b"goes on");
        assert_eq!(store.get(&key("k0")).unwrap().unwrap().1, b"goes on");
    }
    assert!(
        refused > 0 && shorter > 0,
        "{refused} refused, {whole} whole, {shorter} shorter"
    );
}

#[test]
fn a_damaged_body_is_an_error_of_its_object_and_of_no_other() {
    let (dir, history) = killed();
    let expected = &history[history.len() - 1];
    let files: Vec<PathBuf> = content_files(dir.path())
        .into_iter()
        .map(PathBuf::from)
        .collect();
    assert!(!files.is_empty());
    let mut damaged = 0;
    for round in 0..45 {
        let copy = tempfile::tempdir().unwrap();
        copy_all(dir.path(), copy.path());
        let file = &files[usize::try_from(round).unwrap() % files.len()];
        let path = copy.path().join("objects").join(file.file_name().unwrap());
        let mut bytes = fs::read(&path).unwrap();
        let what = format!("{}: {}", path.display(), damage(&mut bytes, round));
        fs::write(&path, bytes).unwrap();
        let store = Store::open(copy.path()).unwrap();
        let mut bad = Vec::new();
        for (name, body) in bodies(&store) {
            match body {
                Ok(body) => assert!(body.as_ref() == Some(&expected[&name]), "{what}: {name}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                    assert!(!error.hint().is_empty(), "{what}");
                    bad.push(name);
                }
            }
        }
        assert!(bad.len() <= 1, "{what}: {bad:?}");
        // Written again, it is whole again.
        for name in bad {
            put(&store, &name, b"again");
            assert_eq!(store.get(&key(&name)).unwrap().unwrap().1, b"again");
            damaged += 1;
        }
    }
    assert!(damaged > 30, "{damaged}");
}
