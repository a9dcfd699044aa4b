//! Master stores that are not what they were, and state directories that are not where they were: no node is stopped
//! and none made twice, and what is told to mend it does.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::support::{Grid, get, is_alive, kill, number, processes, put, text};

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// Ends supervisor, master and agent as a crash does.
fn crash(up: &Value) {
    for part in ["supervisor", "agent", "master"] {
        kill(number(&up[part]["pid"]));
    }
}

/// The processes of these nodes and of no other live: each shim has one child, which is the node.
fn assert_untouched(grid: &Grid, nodes: &[Value]) {
    let alive = processes(&grid.state());
    let mut serving: Vec<u32> = alive
        .iter()
        .filter(|(_, arguments)| arguments.contains("--data-path"))
        .map(|(pid, _)| *pid)
        .collect();
    let mut expected: Vec<u32> = nodes.iter().map(|node| number(&node["pid"])).collect();
    serving.sort_unstable();
    expected.sort_unstable();
    assert_eq!(serving, expected, "{alive:?}");
    for node in nodes {
        let id = text(&node["id"]);
        assert_eq!(get(text(&node["endpoint"]), "key"), id.as_bytes());
    }
}

/// `grid up` that has to fail, leaving the nodes as they are; what it says.
fn up_fails(grid: &Grid, nodes: &[Value], timeout: &str, code: i32) -> String {
    let args = ["up", "--detach", "--timeout", timeout];
    let ports = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
    let told = grid.fails(&[&args[..], &ports].concat(), code);
    assert_untouched(grid, nodes);
    told
}

#[test]
fn a_master_store_that_is_empty_or_restored_stops_no_node() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "2"]);
    let (master, backup) = (grid.state().join("master"), grid.dir().join("backup"));
    grid.run(&["down"]);
    copy(&master, &backup);
    assert!(!up["nodes"].as_array().unwrap().is_empty());
    grid.up(&[]);
    // What the backup does not know of.
    grid.run(&["spawn", "--name", "later", "--wait"]);
    grid.run(&["rm", "node-2", "--wait"]);
    let nodes = grid.json(&["nodes"]).as_array().unwrap().clone();
    assert_eq!(nodes.len(), 2);
    for node in &nodes {
        put(text(&node["endpoint"]), "key", text(&node["id"]).as_bytes());
    }
    crash(&grid.up(&[]));
    assert_untouched(&grid, &nodes);

    // An empty store is another grid, which the agent is not let into.
    let newest = grid.dir().join("newest");
    fs::rename(&master, &newest).unwrap();
    let said = (0..20).any(|_| {
        let told = up_fails(&grid, &nodes, "5s", 6);
        assert!(told.contains("nodes run on as they were"), "{told}");
        // On a slow machine it may not have come so far in that time.
        fs::read_to_string(grid.state().join("logs/agent.log"))
            .is_ok_and(|log| log.contains("belongs to the grid"))
    });
    assert!(said);

    // An older store knows less than the agent has heard.
    fs::remove_dir_all(&master).unwrap();
    copy(&backup, &master);
    let told = up_fails(&grid, &nodes, "60s", 1);
    assert!(told.contains("--new-epoch"), "{told}");

    // The mend that was told. What it never heard of it shows and leaves; what it had wished for it wishes again.
    let mut settings = grid_master::Settings::new(&master);
    settings.http = "127.0.0.1:0".parse().unwrap();
    settings.grpc = settings.http;
    settings.new_epoch = true;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    drop(
        runtime
            .block_on(grid_master::Master::bind(settings))
            .unwrap(),
    );
    drop(runtime);
    grid.up(&["--timeout", "60s"]);
    for node in &nodes {
        let now = grid.node(text(&node["id"]));
        assert_eq!(now["pid"], node["pid"], "{now}");
        let wished = if node["id"] == "later" {
            "unmanaged"
        } else {
            "running"
        };
        assert_eq!(now["desired"], wished, "{now}");
    }
    assert!(
        is_alive(number(&grid.node("node-2")["pid"])),
        "wished again"
    );
    grid.run(&["rm", "later", "--purge", "--wait"]);
    grid.run(&["rm", "node-2", "--purge", "--wait"]);
    assert_untouched(&grid, &nodes[1..]);
}

/// `grid up` on a copy that nobody has accepted; how it is accepted.
fn refused(grid: &Grid) -> String {
    let refused = grid.fails(&["up", "--detach"], 4);
    assert!(refused.contains("is a copy of another one"), "{refused}");
    let (_, rest) = refused.split_once("`touch ").expect("a mend is told");
    rest.split_once('`').unwrap().0.to_owned()
}

#[test]
fn a_copy_of_a_state_directory_disturbs_nobody_and_takes_the_originals_place_when_it_is_accepted() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "1"]);
    let node = &up["nodes"][0];
    put(text(&node["endpoint"]), "key", b"value");
    let copied = Grid::new();
    copy(&grid.state(), &copied.state());
    refused(&copied);
    assert_eq!(grid.up(&[]), up, "the original was disturbed");
    assert_eq!(get(text(&node["endpoint"]), "key"), b"value");

    // The original is lost, and a copy that was made while it was down is put back in its place.
    fs::remove_dir_all(copied.state()).unwrap();
    grid.run(&["down"]);
    copy(&grid.state(), &copied.state());
    grid.up(&[]);
    grid.run(&["down", "--purge"]);
    copy(&copied.state(), &grid.state());
    fs::write(refused(&grid), "").unwrap();
    let again = &grid.up(&[])["nodes"][0];
    for same in ["id", "uid", "endpoint", "created_at"] {
        assert_eq!(again[same], node[same]);
    }
    assert_eq!(get(text(&again["endpoint"]), "key"), b"value");
    fs::remove_dir_all(copied.state()).unwrap();
}

#[test]
fn a_damaged_file_of_agent_or_master_is_told_with_its_mend_and_stops_no_node() {
    let grid = Grid::new();
    grid.up(&["--nodes", "2"]);
    let nodes = grid.json(&["nodes"]).as_array().unwrap().clone();
    for node in &nodes {
        put(text(&node["endpoint"]), "key", text(&node["id"]).as_bytes());
    }
    crash(&grid.up(&[]));
    type Damage = fn(&mut Vec<u8>);
    let (flip, halve): (Damage, Damage) = (
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
        |bytes| bytes.truncate(bytes.len() / 2),
    );
    for (file, damage) in [
        ("agent/desired.json", flip),
        ("agent/desired.json", Vec::clear),
        ("agent/seal.key", halve),
        ("master/seal.key", halve),
        ("master/store.redb", halve),
        ("master/store.redb", Vec::clear),
    ] {
        let path = grid.state().join(file);
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let told = up_fails(&grid, &nodes, "60s", 1);
        assert!(told.contains(file), "{file}: {told}");
        let mends = ["from a backup", "copy of the state directory back"];
        assert!(mends.iter().any(|mend| told.contains(mend)), "{told}");
        fs::write(&path, good).unwrap();
    }
    grid.up(&[]);
    for node in &nodes {
        assert_eq!(grid.node(text(&node["id"]))["pid"], node["pid"]);
    }
    assert_untouched(&grid, &nodes);
}
