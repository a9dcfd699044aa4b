//! Several agents of one master.

use std::{
    fs,
    process::{Child, Stdio},
};

use crate::support::{Grid, eventually, is_alive, number, text};

/// An agent on this host besides the one of `grid up`; killed when it is dropped.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts it with a token of its own.
    pub(crate) fn start(grid: &Grid, grpc: &str) -> Self {
        let token = grid.dir().join("agent-2.token");
        if !token.exists() {
            fs::write(&token, grid.run(&["token", "create", "--role", "agent"])).unwrap();
        }
        let dir = grid.state().join("run/agent-2");
        let child = grid
            .command(&["__agent", "--agent-id", "agent-2", "--grpc", grpc])
            .arg("--dir")
            .arg(dir.join("agent"))
            .arg("--data")
            .arg(dir.join("data"))
            .arg("--token-file")
            .arg(&token)
            .stdout(Stdio::null())
            .stderr(fs::File::create(grid.dir().join("agent-2.log")).unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn agent(grid: &Grid, id: &str) -> Option<serde_json::Value> {
    let agents = grid.json(&["agents"]);
    let found = agents.as_array().unwrap().iter().find(|it| it["id"] == id);
    found.cloned()
}

fn spawn(grid: &Grid, id: &str) -> serde_json::Value {
    let nodes = grid.json(&["spawn", "--name", id, "--wait"]);
    nodes[0].clone()
}

#[test]
fn two_agents_share_the_nodes_and_one_is_lost_and_found() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "0"]);
    let grpc = text(&up["grpc"]).to_owned();
    let mut second = Agent::start(&grid, &grpc);
    eventually("the second agent to be heard", || {
        agent(&grid, "agent-2").filter(|it| it["connected"] == true)
    });
    assert_ne!(
        agent(&grid, "agent-1").unwrap()["install_id"],
        agent(&grid, "agent-2").unwrap()["install_id"]
    );

    // Placement spreads.
    let mut places: Vec<String> = ["a", "b", "c", "d"]
        .iter()
        .map(|id| text(&spawn(&grid, id)["agent"]).to_owned())
        .collect();
    places.sort();
    assert_eq!(places, ["agent-1", "agent-1", "agent-2", "agent-2"]);

    // A cordoned agent gets no more, and says so.
    assert_eq!(grid.json(&["cordon", "agent-1"])["cordoned"], true);
    assert_eq!(spawn(&grid, "e")["agent"], "agent-2");
    let told = grid.output(&["spawn", "--name", "f", "--agent", "agent-1"]);
    assert!(!told.status.success());
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("cordoned"), "{told}");
    assert_eq!(grid.json(&["uncordon", "agent-1"])["cordoned"], false);

    // A killed agent is lost, its nodes are unknown and live on; found again, they are the same.
    let before = grid.json(&["nodes", "--agent", "agent-2"]);
    let before = before.as_array().unwrap();
    assert_eq!(before.len(), 3);
    second.kill();
    eventually("the second agent to be lost", || {
        agent(&grid, "agent-2").filter(|it| it["state"] == "lost")
    });
    for node in before {
        assert_eq!(grid.node(text(&node["id"]))["state"], "unknown");
        assert!(is_alive(number(&node["pid"])));
    }
    let table = grid.run(&["agents"]);
    assert!(table.contains("lost"), "{table}");
    let _found = Agent::start(&grid, &grpc);
    eventually("the second agent to be found again", || {
        agent(&grid, "agent-2").filter(|it| it["connected"] == true)
    });
    for node in before {
        let now = grid.node(text(&node["id"]));
        assert_eq!(now["state"], "running");
        assert_eq!(now["pid"], node["pid"]);
    }

    // `grid down` knows the first agent's nodes; those of the second go by the master's wish.
    let ids: Vec<&str> = before.iter().map(|node| text(&node["id"])).collect();
    grid.run(&[&["rm", "--purge", "--wait"], &ids[..]].concat());
}
