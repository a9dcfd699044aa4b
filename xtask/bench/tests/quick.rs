//! Groups run to their end on tiny sizes, and find all they did as it should be. How fast says nothing here.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where its set-up fails"
)]

use std::process::Command;

use serde_json::Value;

/// What a quick run of the group tells, with its peers where they are given.
fn measured(group: &str, programs: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_grid-bench"))
        .args([group, "--quick", "--output", "json"])
        .args(programs)
        .output()
        .expect("the bench starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(report["groups"][0]["name"], group);
    let rows = report["groups"][0]["rows"].as_array().expect("rows");
    rows.clone()
}

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    let found = rows.iter().find(|it| it["name"] == name);
    found.unwrap_or_else(|| panic!("no row `{name}` in {rows:#?}"))
}

#[test]
fn a_master_and_its_agents_come_through_spawns_followers_a_crash_and_losses() {
    let rows = measured("control-plane", &[]);
    assert!(rows.iter().all(|it| it["not_run"].is_null()), "{rows:#?}");
    // Of 4 agents with 2 nodes each a tenth, but one node at least, is left for those who follow.
    let spawned = row(&rows, "4 agents: one spawn until it is acknowledged");
    assert_eq!(spawned["rounds"], 7);
}

#[test]
fn redis_and_the_storage_server_keep_what_they_are_given() {
    // Found on `PATH` by who starts it.
    let rows = measured("storage", &["--program=redis=redis-server"]);
    assert!(rows.iter().all(|it| it["not_run"].is_null()), "{rows:#?}");
    for server in ["grid-storage", "redis, `appendfsync always`"] {
        let read = row(
            &rows,
            &format!("{server}: GET 1 KiB, clients at once: 64, each"),
        );
        assert_eq!(read["rounds"], 128);
    }
}

#[test]
fn a_peer_that_is_missing_says_why() {
    let rows = measured("storage", &["--without=redis=it is not on PATH"]);
    let peer = row(
        &rows,
        "redis, `appendfsync always`: PUT 1 KiB, clients at once: 1",
    );
    assert_eq!(peer["not_run"], "it is not on PATH");
}
