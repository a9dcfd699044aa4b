//! Half-written and bit-flipped stores: refused with a mend, or read as they were at one of their commits.

use std::{collections::BTreeSet, fs, path::Path, sync::Mutex};

use grid_platform_api::{NodeId, Program, SpawnConfig, Timestamp};

use super::*;

/// One step of a linear congruential generator (Knuth's MMIX).
fn next(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap()
}

fn open(path: &Path) -> Result<Opened> {
    let birth = || {
        Ok(Birth {
            grid_id: "another grid".into(),
            tokens: vec![],
        })
    };
    Opened::open(path, birth)
}

/// All that a store says, in an order.
fn says(contents: &Contents) -> BTreeSet<String> {
    let book = &contents.book;
    let head = format!(
        "{} {} {} {} {:?} {}",
        book.grid_id, book.epoch, book.revision, book.lineage, book.ancestors, book.event_ids
    );
    let rows = book.nodes.values().map(|row| format!("{row:?}"));
    let tokens = book.tokens.values().map(|row| format!("{row:?}"));
    let seen = contents.seen.iter().map(|row| format!("{row:?}"));
    rows.chain(tokens).chain(seen).chain([head]).collect()
}

struct Deaf(Mutex<Book>);

impl Listener for Deaf {
    fn committed(&self, deltas: &[Delta]) {
        let mut book = lock(&self.0);
        deltas.iter().for_each(|delta| book.apply(delta));
    }

    fn book(&self) -> Book {
        lock(&self.0).clone()
    }

    fn measured(&self, _: usize, _: std::time::Duration) {}
}

/// A store with wishes of several lives, and what it said at the end of each commit.
async fn filled(path: &Path) -> BTreeSet<BTreeSet<String>> {
    let mut commits = BTreeSet::new();
    for life in 0..3_u64 {
        let opened = open(path).unwrap();
        let told = Arc::new(Deaf(Mutex::new(opened.contents.book.clone())));
        let store = opened.start(told.book(), told.clone()).unwrap();
        for batch in 0..4_u64 {
            let change = store.change(move |tx| {
                for number in 0..20 {
                    let id = NodeId::new(format!("n{}", (life * 31 + batch * 17 + number) % 120))?;
                    tx.put_node(row::NodeRow {
                        spec: Some(SpawnConfig::new(id.clone(), Program::binary("a", ["x"; 9]))),
                        id,
                        agent: format!("a{}", number % 3),
                        wish: row::Wish::Running,
                        generation: life * 100 + batch,
                        settings: None,
                        sealed: Default::default(),
                        created_at: Timestamp::UNIX_EPOCH,
                    });
                }
                Ok(())
            });
            change.await.unwrap();
            commits.insert(says(&Contents {
                book: told.book(),
                ..Contents::default()
            }));
        }
        store.close();
    }
    commits
}

#[tokio::test]
async fn a_damaged_store_is_refused_with_a_mend_or_says_what_it_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let commits = filled(&path).await;
    let good = fs::read(&path).unwrap();
    assert!(commits.contains(&says(&open(&path).unwrap().contents)));
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let mut dice = 7;
    let (mut refused, mut read) = (0, 0);
    for round in 0..120 {
        let mut bytes = good.clone();
        let what = match round % 3 {
            0 => {
                let (at, bit) = (used[next(&mut dice) % used.len()], next(&mut dice) % 8);
                bytes[at] ^= 1 << bit;
                format!("bit {bit} of byte {at}")
            }
            1 => {
                bytes.truncate(1 + next(&mut dice) % (good.len() - 1));
                format!("cut to {}", bytes.len())
            }
            _ => {
                // A page of which the disk has written a part.
                let from = (used[next(&mut dice) % used.len()] & !4095) + next(&mut dice) % 4096;
                let to = (from | 4095).min(bytes.len());
                bytes[from.min(to)..to].fill(0);
                format!("zeros from {from}")
            }
        };
        fs::write(&path, &bytes).unwrap();
        match open(&path) {
            Ok(opened) => {
                assert!(commits.contains(&says(&opened.contents)), "{what}");
                read += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
                let hint = error.hint().unwrap_or_default();
                assert!(hint.contains("`--new-epoch`"), "{what}: {hint}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && read > 0, "{refused} refused, {read} read");
}
