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

/// Every row has figures; of those that are measured in rounds one, as a quick run has it.
fn all_run(rows: &[Value]) {
    assert!(rows.iter().all(|it| it["not_run"].is_null()), "{rows:#?}");
}

#[test]
fn nodes_and_bare_children_start_and_stop_and_peers_that_are_missing_say_so() {
    let rows = measured(
        "process",
        &[
            "--without=supervisord=it is not on PATH",
            "--without=pm2=it is not on PATH",
        ],
    );
    let (peers, own): (Vec<_>, Vec<_>) = rows.into_iter().partition(|it| {
        let name = it["name"].as_str().unwrap_or_default();
        name.starts_with("supervisord") || name.starts_with("pm2")
    });
    all_run(&own);
    assert_eq!(peers.len(), 8);
    assert!(
        peers.iter().all(|it| it["not_run"] == "it is not on PATH"),
        "{peers:#?}"
    );
    let spawned = row(&own, "spawn_node: until the program's first instruction");
    assert_eq!(spawned["rounds"], 1);
}

#[test]
fn supervisord_starts_and_stops_the_same_program() {
    // Found on `PATH` by who starts it.
    let rows = measured(
        "process",
        &[
            "--program=supervisord=supervisord",
            "--without=pm2=it is not on PATH",
        ],
    );
    let stopped = row(&rows, "supervisord: until stopProcess is answered");
    assert_eq!(stopped["rounds"], 1);
}

#[test]
fn a_few_nodes_and_shims_are_measured_and_gone_behind_it() {
    let rows = measured("scale", &[]);
    all_run(&rows);
    assert_eq!(row(&rows, "a shim, one of 3: Private_Dirty")["rounds"], 3);
}

#[test]
fn a_long_log_is_read_and_a_fast_one_followed_without_a_gap() {
    let rows = measured("logs", &[]);
    all_run(&rows);
    assert_eq!(
        row(&rows, "follow_logs, 1.91 MiB written at 100 MB/s: gaps")["median"],
        0.0
    );
}

#[test]
fn the_command_and_the_api_spawn_through_master_and_agent() {
    let rows = measured("cli", &[]);
    all_run(&rows);
    assert_eq!(
        row(&rows, "grid spawn: until the command has ended")["rounds"],
        1
    );
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

#[test]
fn nodes_and_bare_containers_start_and_stop_on_an_engine() {
    let engine = match grid_testbed::find(grid_testbed::Kind::Docker) {
        Ok(engine) => engine,
        Err(why) => {
            eprintln!("not run: the docker group: needs an engine: {why}");
            return;
        }
    };
    let programs = [
        &format!("--program=docker-engine={}", engine.host()),
        // Found on `PATH`: it comes with the engine.
        "--program=docker=docker",
        "--without=docker-compose=it is not on PATH",
    ];
    let rows = measured("docker", &programs);
    let (peers, own): (Vec<_>, Vec<_>) = rows.into_iter().partition(|it| {
        it["name"]
            .as_str()
            .unwrap_or_default()
            .starts_with("docker-compose")
    });
    all_run(&own);
    assert_eq!(peers.len(), 5);
    let calls = |name: &str| row(&own, name)["median"].as_f64().expect("a figure");
    assert_eq!(calls("bare: create and start: calls of the engine"), 2.0);
    assert_eq!(calls("bare: stop: calls of the engine"), 1.0);
    assert!(calls("spawn_node: calls of the engine") >= 2.0);
    let filter = "%7B%22label%22:%5B%22sutra.label.for=bench%22%5D%7D";
    let left = engine.get(&format!("/containers/json?all=true&filters={filter}"));
    assert_eq!(left.expect("the engine is asked"), serde_json::json!([]));
}

#[test]
fn nodes_and_bare_pods_start_and_stop_on_a_cluster() {
    let cluster = match grid_testbed::kubernetes::find() {
        Ok(cluster) => cluster,
        Err(why) => {
            eprintln!("not run: the kubernetes group: needs a cluster: {why}");
            return;
        }
    };
    let programs = [
        &format!(
            "--program=kubernetes-cluster={}",
            cluster.kubeconfig().display()
        ),
        // Found on `PATH`: a cluster is looked at by it.
        "--program=kubectl=kubectl",
    ];
    let rows = measured("kubernetes", &programs);
    all_run(&rows);
    let figure = |name: &str| row(&rows, name)["median"].as_f64().expect("a figure");
    let bare = "bare: service, claim and pod made, and watched until it runs";
    assert_eq!(figure(&format!("{bare}: calls of the API")), 3.0);
    assert!(figure("spawn_node: calls of the API") >= 3.0);
    assert_eq!(figure("list_nodes of 3: calls of the API"), 0.0);
    let wrong = "lists around an event that are neither as before nor as behind it";
    assert_eq!(figure(wrong), 0.0);
}
