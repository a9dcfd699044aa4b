//! The data directory: whose it is, what damage does, what a crash leaves.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{assert_error, config, content_files, corrupt, pattern, start, start_with};
use grid_storage::{Condition, ErrorKind, Key, PutOptions, Server, Store};
use reqwest::StatusCode;

const LARGE: usize = 400_000;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Every file below `path` with its content.
fn snapshot(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            files.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    files
}

/// A closed store with one small and one large object.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store
        .put(&key("small"), &pattern(1000, 1), PutOptions::default())
        .unwrap();
    store
        .put(&key("large"), &pattern(LARGE, 2), PutOptions::default())
        .unwrap();
    dir
}

#[test]
fn a_store_is_there_again_after_it_was_closed() {
    let dir = filled();
    let store = Store::open(dir.path()).unwrap();
    let (small, body) = store.get(&key("small")).unwrap().unwrap();
    assert_eq!(body, pattern(1000, 1));
    let (large, body) = store.get(&key("large")).unwrap().unwrap();
    assert_eq!(body, pattern(LARGE, 2));
    assert!(small.generation != large.generation);
    // Generations go on where they were, so that no ETag is given twice.
    let next = store.put(&key("next"), b"", PutOptions::default()).unwrap();
    assert!(next.generation > large.generation.max(small.generation));
}

#[test]
fn a_second_server_is_refused_and_told_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let first = Server::bind(config(dir.path())).unwrap();
    let error = Server::bind(config(dir.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(
        error
            .message()
            .contains(&format!("pid {}", std::process::id())),
        "{error}"
    );
    assert_eq!(
        Store::open(dir.path()).unwrap_err().kind(),
        ErrorKind::Locked
    );
    drop(first);
    Server::bind(config(dir.path())).unwrap();
}

#[test]
fn a_foreign_directory_is_refused_and_not_touched() {
    for name in ["appendonly.aof", "LOCK", "index.redb", ".hidden"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), "theirs").unwrap();
        let before = snapshot(dir.path());
        assert_eq!(
            Store::open(dir.path()).unwrap_err().kind(),
            ErrorKind::ForeignData,
            "{name}"
        );
        assert_eq!(snapshot(dir.path()), before);
    }
}

#[test]
fn the_platforms_marker_is_tolerated_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join(".sutra-grid");
    std::fs::write(&marker, "uid").unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.put(&key("k"), b"v", PutOptions::default()).unwrap();
    drop(store);
    drop(Store::open(dir.path()).unwrap());
    assert_eq!(std::fs::read(marker).unwrap(), b"uid");
}

#[test]
fn a_first_start_that_was_interrupted_is_begun_again() {
    let done = filled();
    // As it is before the last step: everything made, nothing acknowledged.
    std::fs::rename(done.path().join("FORMAT"), done.path().join("FORMAT.new")).unwrap();
    std::fs::write(done.path().join("index.redb"), "half an ind").unwrap();
    let store = Store::open(done.path()).unwrap();
    assert!(store.list("", None, 10).unwrap().objects.is_empty());
    assert!(content_files(done.path()).is_empty());
}

#[test]
fn a_damaged_directory_is_refused_and_not_touched() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("no index", |path| {
            std::fs::remove_file(path.join("index.redb")).unwrap()
        }),
        ("an empty index", |path| {
            std::fs::write(path.join("index.redb"), "").unwrap()
        }),
        ("another file as index", |path| {
            std::fs::write(path.join("index.redb"), "not a database").unwrap()
        }),
        ("an index of zeros", |path| {
            std::fs::write(path.join("index.redb"), vec![0; 100_000]).unwrap()
        }),
        ("half an index", |path| {
            let bytes = std::fs::read(path.join("index.redb")).unwrap();
            std::fs::write(path.join("index.redb"), &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("no objects", |path| {
            std::fs::remove_dir_all(path.join("objects")).unwrap()
        }),
    ];
    for (what, damage) in damages {
        let dir = filled();
        damage(dir.path());
        let before = snapshot(dir.path());
        let error = Store::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DamagedData, "{what}: {error}");
        assert!(!error.hint().is_empty());
        let after = snapshot(dir.path());
        let changed: Vec<_> = before
            .iter()
            .filter(|(path, bytes)| after.get(*path) != Some(bytes))
            .collect();
        assert!(
            changed.iter().all(|(path, _)| path.ends_with("LOCK")),
            "{what}"
        );
    }
    let dir = filled();
    std::fs::write(
        dir.path().join("FORMAT"),
        "sutra grid-storage data, format 2\n",
    )
    .unwrap();
    assert_eq!(
        Store::open(dir.path()).unwrap_err().kind(),
        ErrorKind::UnsupportedFormat
    );
}

/// Readers watch while the journal's files fill up and go into the index: what was acknowledged
/// never vanishes, and never goes back to an older version.
#[test]
fn readers_never_lose_sight_of_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let keys: Vec<Key> = (0..64).map(|n| key(&format!("k{n:02}"))).collect();
    let put = |key: &Key| {
        store
            .put(key, &pattern(16_000, 1), PutOptions::default())
            .unwrap()
            .generation
    };
    let seen: Vec<AtomicU64> = keys.iter().map(|key| AtomicU64::new(put(key))).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    for (key, seen) in keys.iter().zip(&seen) {
                        let acknowledged = seen.load(Ordering::Acquire);
                        let found = store.head(key).unwrap().map_or(0, |meta| meta.generation);
                        assert!(found >= acknowledged, "{key}: {found} after {acknowledged}");
                    }
                    let floor: Vec<u64> = seen
                        .iter()
                        .map(|seen| seen.load(Ordering::Acquire))
                        .collect();
                    let listed = store.list("", None, 100).unwrap().objects;
                    assert_eq!(listed.len(), keys.len());
                    assert!(
                        listed
                            .iter()
                            .zip(floor)
                            .all(|((_, meta), floor)| meta.generation >= floor)
                    );
                }
            });
        }
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (keys, seen, put) = (&keys, &seen, &put);
                scope.spawn(move || {
                    for n in 0..200 {
                        let at = (writer * 8 + n % 8) % 64;
                        seen[at].store(put(&keys[at]), Ordering::Release);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Release);
    });
}

/// A copy of an open store: what a power cut would leave.
fn copy_of(path: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in snapshot(path) {
        let name = copy
            .path()
            .join(Path::new(&name).strip_prefix(path).unwrap());
        std::fs::create_dir_all(name.parent().unwrap()).unwrap();
        std::fs::write(name, bytes).unwrap();
    }
    std::fs::create_dir_all(copy.path().join("objects")).unwrap();
    copy
}

/// The index of a closed store is damaged bit by bit. redb does not check what it reads, so
/// that an object may be lost; but what is read is right, nothing panics, and nothing hangs.
#[test]
fn a_flipped_bit_in_the_index_is_never_served_as_truth() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let expected: BTreeMap<String, Vec<u8>> = (0..60)
        .map(|n| (format!("key/{n}"), pattern(100 + 37 * n as usize, n)))
        .collect();
    for (name, body) in &expected {
        store.put(&key(name), body, PutOptions::default()).unwrap();
    }
    drop(store);
    let index = std::fs::read(dir.path().join("index.redb")).unwrap();
    let journal = std::fs::read(dir.path().join("journal-0")).unwrap();
    let used: Vec<usize> = (0..index.len()).filter(|at| index[*at] != 0).collect();
    let mut refused = 0;
    for n in 0..80_u64 {
        let seed = u64::from_le_bytes(pattern(8, n).try_into().unwrap());
        let at = used[(seed % used.len() as u64) as usize];
        let mut bytes = index.clone();
        bytes[at] ^= 1 << (seed >> 60 & 7);
        std::fs::write(dir.path().join("index.redb"), bytes).unwrap();
        std::fs::write(dir.path().join("journal-0"), &journal).unwrap();
        match Store::open(dir.path()) {
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::DamagedData | ErrorKind::Corrupt),
                    "byte {at}: {error}"
                );
                refused += 1;
            }
            Ok(store) => {
                for (name, body) in &expected {
                    if let Ok(Some((_, found))) = store.get(&key(name)) {
                        assert!(found == *body, "byte {at}: {name}");
                    }
                }
                for (found, meta) in store
                    .list("", None, 1000)
                    .map(|page| page.objects)
                    .unwrap_or_default()
                {
                    let body = expected.get(found.as_str());
                    assert_eq!(
                        body.map(|body| crc32fast::hash(body)),
                        Some(meta.crc32),
                        "byte {at}: {found}"
                    );
                }
                // Whether it can be stored or not, it is answered.
                let _ = store.put(&key("key/7"), b"new", PutOptions::default());
            }
        }
    }
    assert!(
        refused < 80,
        "every damage was refused: the test reads nothing"
    );
}

#[test]
fn what_only_the_journal_holds_is_there_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    // Several times what a journal file holds, with replacements and deletes.
    let rounds = 900;
    let write = |n: u64| {
        let key = key(&format!("k{}", n % 400));
        store
            .put(&key, &pattern(10_000, n), PutOptions::default())
            .unwrap();
        if n % 10 == 9 {
            store.delete(&key, Condition::None).unwrap();
        }
    };
    // Several writers, each with its own keys, so that syncs are shared and the test is quick.
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let write = &write;
            scope.spawn(move || (0..rounds).filter(|n| n % 8 == writer).for_each(write));
        }
    });
    let copy = copy_of(dir.path());
    let check = |store: &Store| {
        for n in rounds - 400..rounds {
            let found = store
                .get(&key(&format!("k{}", n % 400)))
                .unwrap()
                .map(|(_, body)| body);
            assert!(found == (n % 10 != 9).then(|| pattern(10_000, n)), "{n}");
        }
        let listed: Vec<_> = store.list("", None, 1000).unwrap().objects;
        assert_eq!(listed.len(), 360);
    };
    check(&store);
    let recovered = Store::open(copy.path()).unwrap();
    check(&recovered);
    let next = recovered
        .put(&key("next"), b"", PutOptions::default())
        .unwrap();
    let page = store.list("", None, 1000).unwrap().objects;
    assert!(
        page.iter()
            .all(|(_, meta)| meta.generation < next.generation)
    );
}

#[test]
fn a_journal_that_lost_a_record_in_its_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for n in 0..3 {
        store
            .put(
                &key(&format!("k{n}")),
                &pattern(1000, n),
                PutOptions::default(),
            )
            .unwrap();
    }
    let check = |damaged: u64, expect: Result<usize, ErrorKind>| {
        let copy = copy_of(dir.path());
        assert_eq!(
            corrupt(
                &copy.path().join("journal-0"),
                &pattern(1000, damaged)[500..600]
            ),
            1
        );
        let opened =
            Store::open(copy.path()).map(|store| store.list("", None, 9).unwrap().objects.len());
        assert_eq!(opened.map_err(|error| error.kind()), expect, "{damaged}");
    };
    check(0, Err(ErrorKind::DamagedData));
    check(1, Err(ErrorKind::DamagedData));
    // The last cannot be told from a write that a crash tore, of which nobody was told.
    check(2, Ok(2));
}

#[test]
fn threads_that_write_and_read_together_see_their_own_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..40_u64 {
                    let seed = thread * 1000 + n;
                    let key = key(&format!("t{thread}/{}", n % 5));
                    let len = if n % 8 == 7 { 40_000 } else { 3000 };
                    let meta = store
                        .put(&key, &pattern(len, seed), PutOptions::default())
                        .unwrap();
                    let (found, body) = store.get(&key).unwrap().unwrap();
                    assert_eq!(found, meta);
                    assert!(body == pattern(len, seed));
                }
            });
        }
    });
    assert_eq!(store.list("", None, 100).unwrap().objects.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_of_a_crash_are_removed_at_the_next_start() {
    let dir = filled();
    let objects = dir.path().join("objects");
    std::fs::write(objects.join("00000000000000ff"), "half a body").unwrap();
    std::fs::write(objects.join("notes"), "not ours").unwrap();
    let server = start_with(dir, |_| {}).await;
    assert_eq!(server.metric("grid_storage_orphans_removed_total").await, 1);
    assert_eq!(server.content_files().len(), 2);
    assert!(objects.join("notes").exists());
    assert!(server.object("large").await.bytes().await.unwrap() == pattern(LARGE, 2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_small_object_is_found_before_its_first_byte() {
    let dir = filled();
    assert!(corrupt(&dir.path().join("index.redb"), &pattern(1000, 1)[200..300]) > 0);
    let server = start_with(dir, |_| {}).await;
    assert_error(
        server.object("small").await,
        StatusCode::INTERNAL_SERVER_ERROR,
        "corrupt",
    )
    .await;
    assert_eq!(server.metric("grid_storage_corruptions_total").await, 1);
    assert!(server.object("large").await.bytes().await.unwrap() == pattern(LARGE, 2));
    // Writing it again mends it.
    assert_eq!(
        server.put("small", "new").send().await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(server.object("small").await.text().await.unwrap(), "new");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_large_object_never_arrives_whole() {
    let server = start().await;
    let body = pattern(LARGE, 2);
    server
        .put("k", body.clone())
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let file = server
        .dir
        .path()
        .join("objects")
        .join(&server.content_files()[0]);
    let range = async |range: &str| {
        let url = server.url("/v1/objects/k");
        server
            .client
            .get(url)
            .header("range", range)
            .send()
            .await
            .unwrap()
    };
    // In the third chunk of 128 KiB: what is before it still comes, what is after it too.
    assert_eq!(corrupt(&file, &body[300_000..300_100]), 1);
    let get = server.object("k").await;
    assert_eq!(get.status(), StatusCode::OK);
    assert!(get.bytes().await.is_err());
    assert_eq!(server.metric("grid_storage_corruptions_total").await, 1);
    assert!(range("bytes=0-200000").await.bytes().await.unwrap() == body[..200_001]);
    assert!(range("bytes=393216-").await.bytes().await.unwrap() == body[393_216..]);
    assert_error(
        range("bytes=300000-300001").await,
        StatusCode::INTERNAL_SERVER_ERROR,
        "corrupt",
    )
    .await;
    // In the first chunk, in the trailer, in the length, and gone: no first byte.
    assert_eq!(corrupt(&file, &body[1000..1100]), 1);
    assert_error(
        server.object("k").await,
        StatusCode::INTERNAL_SERVER_ERROR,
        "corrupt",
    )
    .await;
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert_error(
        range("bytes=0-1").await,
        StatusCode::INTERNAL_SERVER_ERROR,
        "corrupt",
    )
    .await;
    std::fs::write(&file, &bytes[..last]).unwrap();
    assert_error(
        server.object("k").await,
        StatusCode::INTERNAL_SERVER_ERROR,
        "corrupt",
    )
    .await;
    std::fs::remove_file(&file).unwrap();
    assert_error(
        server.object("k").await,
        StatusCode::INTERNAL_SERVER_ERROR,
        "corrupt",
    )
    .await;
    server.stop().await;
}
