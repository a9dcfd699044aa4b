//! The main job: three nodes, their objects, and everything that objects have to survive.

use std::{fs, process::Stdio};

use crate::support::{Grid, eventually, get, is_alive, kill, number, processes, put, text};

/// What is stored in each node: small, and larger than any buffer on the way.
fn objects(node: &str) -> [(String, Vec<u8>); 2] {
    [
        (format!("{node}/small"), node.as_bytes().to_vec()),
        (
            format!("{node}/large"),
            (0..3_000_000_u32).map(|i| (i % 251) as u8).collect(),
        ),
    ]
}

fn assert_objects(grid: &Grid, node: &str) {
    let endpoint = grid.node(node);
    let endpoint = text(&endpoint["endpoint"]);
    for (key, body) in objects(node) {
        assert!(get(endpoint, &key) == body, "{key} at {endpoint} changed");
    }
}

#[test]
fn objects_survive_everything_short_of_a_purge() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "3"]);
    let names = ["node-1", "node-2", "node-3"];
    let nodes = up["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for (node, name) in nodes.iter().zip(names) {
        assert_eq!(node["id"], name);
        assert_eq!(node["agent"], "agent-1");
        assert_eq!(node["platform"], "process");
        assert_eq!(node["state"], "running");
        assert_eq!(node["health"], "healthy");
        assert_eq!(node["restarts"], 0);
        assert!(is_alive(number(&node["pid"])));
        for (key, body) in objects(name) {
            put(text(&node["endpoint"]), &key, &body);
        }
        assert_objects(&grid, name);
    }

    // Stop and start: the same place, another process, the same data.
    let before = grid.node("node-1");
    let stopped = grid.json(&["stop", "node-1", "--wait"]);
    assert_eq!(stopped[0]["state"], "stopped");
    assert!(!is_alive(number(&before["pid"])));
    assert!(std::net::TcpStream::connect(text(&before["endpoint"])).is_err());
    let started = grid.json(&["start", "node-1", "--wait"]);
    assert_eq!(started[0]["endpoint"], before["endpoint"]);
    assert_ne!(started[0]["pid"], before["pid"]);
    assert_objects(&grid, "node-1");

    // An update: the same place and data, another generation.
    let before = grid.node("node-2");
    let updated = grid.json(&["update", "node-2", "--label", "tier=hot", "--wait"]);
    assert_eq!(updated[0]["endpoint"], before["endpoint"]);
    assert_eq!(updated[0]["labels"]["tier"], "hot");
    assert_eq!(
        number(&updated[0]["generation"]),
        number(&before["generation"]) + 1
    );
    assert_objects(&grid, "node-2");

    killed_agent_and_master(&grid);

    // Down and up: other processes, the same nodes in the same places.
    let before = grid.json(&["nodes"]);
    grid.run(&["down"]);
    assert_eq!(processes(&grid.state()), []);
    let up = grid.up(&[]);
    for (node, before) in up["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .zip(before.as_array().unwrap())
    {
        assert_eq!(node["id"], before["id"]);
        assert_eq!(node["endpoint"], before["endpoint"]);
        assert_eq!(node["state"], "running");
        assert_ne!(node["pid"], before["pid"]);
        assert_objects(&grid, text(&node["id"]));
    }

    // A purge leaves no process, no socket, no file.
    grid.run(&["down", "--purge"]);
    assert_eq!(processes(&grid.state()), []);
    assert_eq!(fs::read_dir(grid.dir()).unwrap().count(), 0);
}

/// Kills agent and master at once while a log is followed: the nodes notice nothing, both come back, and the
/// follower has every line once.
fn killed_agent_and_master(grid: &Grid) {
    let log = grid.dir().join("followed.log");
    let mut follower = grid
        .command(&["logs", "-f", "-n", "1000", "node-3"])
        .stdout(fs::File::create(&log).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let followed = || fs::read_to_string(&log).unwrap();
    eventually("the first lines of the log", || {
        followed().contains("ready").then_some(())
    });
    let up = grid.up(&[]);
    let pids = |up: &serde_json::Value| (number(&up["master"]["pid"]), number(&up["agent"]["pid"]));
    let (master, agent) = pids(&up);
    kill(agent);
    kill(master);
    // By what was known before: neither is there to be asked.
    for node in up["nodes"].as_array().unwrap() {
        assert!(is_alive(number(&node["pid"])));
        let (key, body) = &objects(text(&node["id"]))[0];
        assert_eq!(&get(text(&node["endpoint"]), key), body);
    }
    let back = eventually("master and agent to come back", || {
        let output = grid.output(&["up", "--detach", "-o", "json"]);
        let up = serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()?;
        let (new_master, new_agent) = pids(&up);
        (new_master != master && new_agent != agent).then_some(up)
    });
    assert_eq!(
        back["http"], up["http"],
        "people find the master where it was"
    );
    for (node, before) in back["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .zip(up["nodes"].as_array().unwrap())
    {
        assert_eq!(node["pid"], before["pid"], "{} was disturbed", node["id"]);
        assert_objects(grid, text(&node["id"]));
    }
    // New lines come to the follower that has been there all along, and none came twice.
    grid.run(&["stop", "node-3", "--wait"]);
    grid.run(&["start", "node-3", "--wait"]);
    eventually("the follower to have every line", || {
        (followed() == grid.run(&["logs", "-n", "1000", "node-3"])).then_some(())
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
    fs::remove_file(&log).unwrap();
}
