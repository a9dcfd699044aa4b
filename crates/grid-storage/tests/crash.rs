//! `kill -9` in the middle of writes: what was acknowledged is there, and nothing else is left.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "common/child.rs"]
mod child;
mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;

use child::{start_child, start_command};
use common::{content_files, eventually, pattern};
use grid_storage::{Key, Store};
use reqwest::Client;

const ROUNDS: u64 = 5;
const WRITERS: u64 = 16;

/// What one writer knows of its keys: acknowledged, and what was on its way at the end.
type Known = (HashMap<String, Option<u64>>, Option<(String, Option<u64>)>);

fn body(seed: u64) -> Vec<u8> {
    // Small ones, and every fourth a content file.
    pattern(
        if seed.is_multiple_of(4) {
            20_000 + (seed % 300_000) as usize
        } else {
            (seed % 3000) as usize
        },
        seed,
    )
}

/// Writes, replaces and deletes until the server is gone.
async fn write_until_killed(
    address: SocketAddr,
    writer: u64,
    round: u64,
    acknowledged: tokio::sync::mpsc::Sender<()>,
) -> Known {
    let client = Client::new();
    let mut known = HashMap::new();
    for n in 0.. {
        let seed = (round * WRITERS + writer) * 1_000_000 + n;
        let key = format!("w{writer}/{}", seed % 13);
        let url = format!("http://{address}/v1/objects/{key}");
        let value = (n % 7 != 6).then_some(seed);
        let answer = match value {
            Some(seed) => client.put(url).body(body(seed)).send().await,
            None => client.delete(url).send().await,
        };
        match answer.map(|answer| answer.status().as_u16()) {
            Ok(200 | 201 | 204 | 404) => {
                known.insert(key, value);
                // Full only when the killer has seen enough.
                let _ = acknowledged.try_send(());
            }
            Ok(other) => panic!("status {other}"),
            Err(_) => return (known, Some((key, value))),
        }
    }
    unreachable!("the range has no end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_objects_survive_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected: HashMap<String, Option<u64>> = HashMap::new();
    for round in 0..ROUNDS {
        let (mut child, address) = start_child(dir.path()).await;
        let (acknowledged, mut acknowledgements) = tokio::sync::mpsc::channel(10_000);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                tokio::spawn(write_until_killed(
                    address,
                    writer,
                    round,
                    acknowledged.clone(),
                ))
            })
            .collect();
        for _ in 0..150 + round * 37 {
            acknowledgements.recv().await.unwrap();
        }
        child.kill();
        let mut in_flight: HashMap<String, Option<u64>> = HashMap::new();
        for writer in writers {
            let (known, last) = writer.await.unwrap();
            expected.extend(known);
            in_flight.extend(last);
        }

        let store = Store::open(dir.path().join("data")).unwrap();
        let mut large = 0;
        for (key, acknowledged) in expected.clone() {
            let found = store.get(&Key::new(&*key).unwrap()).unwrap();
            if let Some((meta, bytes)) = &found {
                assert_eq!(crc32fast::hash(bytes), meta.crc32);
                large += usize::from(bytes.len() > grid_storage::INLINE_BYTES);
            }
            let is = |value: Option<u64>| {
                found.as_ref().map(|(_, bytes)| bytes) == value.map(body).as_ref()
            };
            let unanswered = in_flight.get(&key).is_some_and(|value| is(*value));
            assert!(
                is(acknowledged) || unanswered,
                "round {round}: `{key}` is neither what was acknowledged nor sent"
            );
            if !is(acknowledged) {
                expected.insert(key.clone(), in_flight[&key]);
            }
        }
        for (key, _) in store.list("", None, 10_000).unwrap().objects {
            let known = expected.contains_key(key.as_str()) || in_flight.contains_key(key.as_str());
            assert!(known, "round {round}: `{key}` was never sent");
            if !expected.contains_key(key.as_str()) {
                expected.insert(key.as_str().to_owned(), in_flight[key.as_str()]);
                let (_, bytes) = store.get(&key).unwrap().unwrap();
                large += usize::from(bytes.len() > grid_storage::INLINE_BYTES);
            }
        }
        drop(store);
        assert_eq!(
            content_files(&dir.path().join("data")).len(),
            large,
            "round {round}: orphans"
        );
    }
}

/// Runs this program with files of at most 5 MiB.
fn limited() -> Command {
    let mut command = Command::new("bash");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 5120; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap());
    command
}

/// As with a full disk, but for one process: no file may grow beyond 5 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, address) = start_command(dir.path(), &mut limited()).await;
    let client = Client::new();
    let put = async |key: &str, body: Vec<u8>| {
        client
            .put(format!("http://{address}/v1/objects/{key}"))
            .body(body)
            .send()
            .await
    };
    // A content file that does not fit is refused, and leaves nothing.
    let refused = put("large", pattern(6 << 20, 1)).await;
    assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == 507));
    eventually("the unfinished file is removed", async || {
        content_files(&dir.path().join("data")).is_empty()
    })
    .await;
    // Small objects, until the index can take in no more and then the journal is full.
    let mut acknowledged = 0;
    loop {
        let answer = put(
            &format!("small/{acknowledged}"),
            pattern(10_000, acknowledged),
        )
        .await
        .unwrap();
        if answer.status() != 201 {
            common::assert_error(
                answer,
                reqwest::StatusCode::INSUFFICIENT_STORAGE,
                "storage_full",
            )
            .await;
            break;
        }
        acknowledged += 1;
        assert!(acknowledged < 5000, "the disk does not fill up");
    }
    // What is there is served all the same.
    for n in [0, acknowledged / 2, acknowledged - 1] {
        let url = format!("http://{address}/v1/objects/small/{n}");
        eventually("the object is read", async || {
            let answer = client.get(&url).send().await.unwrap();
            answer.status() == 200 && answer.bytes().await.unwrap() == pattern(10_000, n)
        })
        .await;
    }
    child.kill();
    // Started again with no more room, it still serves, and still refuses.
    let (mut child, address) = start_command(dir.path(), &mut limited()).await;
    for n in [0, acknowledged / 2, acknowledged - 1] {
        let answer = client
            .get(format!("http://{address}/v1/objects/small/{n}"))
            .send()
            .await
            .unwrap();
        assert!(
            answer.bytes().await.unwrap() == pattern(10_000, n),
            "small/{n}"
        );
    }
    let refused = client
        .put(format!("http://{address}/v1/objects/more"))
        .body(vec![0; 10_000])
        .send()
        .await
        .unwrap();
    common::assert_error(
        refused,
        reqwest::StatusCode::INSUFFICIENT_STORAGE,
        "storage_full",
    )
    .await;
    child.kill();
    let store = Store::open(dir.path().join("data")).unwrap();
    for n in 0..acknowledged {
        let (_, body) = store
            .get(&Key::new(format!("small/{n}")).unwrap())
            .unwrap()
            .unwrap();
        assert!(body == pattern(10_000, n), "small/{n}");
    }
    assert!(
        store
            .get(&Key::new(format!("small/{acknowledged}")).unwrap())
            .unwrap()
            .is_none()
    );
    assert!(store.get(&Key::new("large").unwrap()).unwrap().is_none());
}
