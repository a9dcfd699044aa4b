//! `grid up --platform docker`: a grid whose nodes are containers, from one command to nothing left.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use grid_testbed::{Api, Kind};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A grid under a directory of its own, taken down with everything when this is dropped.
struct Grid {
    dir: TempDir,
    host: String,
}

impl Grid {
    fn command(&self, args: &[&str]) -> Command {
        let own = std::env::current_exe().unwrap();
        // target/PROFILE/deps/TEST
        let mut command = Command::new(own.ancestors().nth(2).unwrap().join("grid"));
        for name in [
            "SUTRA_MASTER",
            "SUTRA_LOG",
            "RUST_LOG",
            "PLATFORM",
            "DOCKER_CONTEXT",
        ] {
            command.env_remove(name);
        }
        command
            .env("DOCKER_HOST", &self.host)
            .arg("--state-dir")
            .arg(self.dir.path().join("state"))
            .args(["-o", "json"])
            .args(args)
            .stdin(Stdio::null());
        command
    }

    fn try_run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn run(&self, args: &[&str]) -> Value {
        let output = self.try_run(args);
        let log = self.dir.path().join("state/logs/agent.log");
        assert!(
            output.status.success(),
            "grid {args:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            std::fs::read_to_string(log).unwrap_or_default()
        );
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn up(&self, more: &[&str]) -> Value {
        let args = ["up", "--detach", "--nodes", "2", "--timeout", "180s"];
        let places = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
        self.run(&[&args[..], &places, more].concat())
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.try_run(&["down", "--purge"]);
    }
}

/// One request to a node, and its answer's body.
fn http(endpoint: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(endpoint).unwrap();
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nHost: n\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "{head}: {answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// The containers of nodes that have their data in this grid.
fn containers(api: &Api, grid: &Grid) -> Vec<Value> {
    let all = api.get("/containers/json?all=true").unwrap();
    let place = grid.dir.path().to_str().unwrap().to_owned();
    let all = all.as_array().unwrap().iter();
    all.filter(|it| it["Mounts"].to_string().contains(&place))
        .cloned()
        .collect()
}

#[test]
fn docker_grid_up_is_one_command_and_leaves_nothing() {
    let api = grid_testbed::find(Kind::Docker).unwrap();
    let grid = Grid {
        dir: tempfile::tempdir().unwrap(),
        host: api.host().to_owned(),
    };
    let up = grid.up(&["--platform", "docker"]);
    let nodes = up["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    for node in nodes {
        let facts = ["platform", "state", "health"].map(|it| node[it].as_str().unwrap());
        assert_eq!(facts, ["docker", "running", "healthy"], "{node}");
        assert!(node["image"].is_string(), "{node}");
    }
    let endpoint = nodes[0]["endpoint"].as_str().unwrap();
    http(endpoint, "PUT /v1/objects/greeting", "hello");
    assert_eq!(containers(&api, &grid).len(), 2);

    // The agent is killed: nodes live on, and the one that is started in its place finds them.
    let pid = up["agent"]["pid"].as_i64().unwrap();
    kill_process(
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    assert_eq!(http(endpoint, "GET /v1/objects/greeting", ""), "hello");
    let again = grid.up(&[]);
    let uid = |up: &Value| up["nodes"][0]["uid"].clone();
    assert_eq!(uid(&again), uid(&up));

    // A grid stays where it is.
    let other = grid.try_run(&["up", "--detach", "--platform", "process"]);
    assert_eq!(other.status.code(), Some(4));
    let mut elsewhere = grid.command(&["up", "--detach", "--platform", "docker"]);
    let elsewhere = elsewhere
        .env("DOCKER_HOST", "unix:///nowhere.sock")
        .output()
        .unwrap();
    assert_eq!(elsewhere.status.code(), Some(4));
    let told = String::from_utf8_lossy(&elsewhere.stderr);
    assert!(told.contains("unix:///nowhere.sock"), "{told}");

    // An image that is nowhere is told with its mend.
    let args = [
        "spawn",
        "--name",
        "none",
        "--image",
        "127.0.0.1:1/none:1",
        "--wait",
        "--timeout",
        "30s",
    ];
    let none = grid.try_run(&[&args[..], &["--restart", "never"]].concat());
    let told = String::from_utf8_lossy(&none.stderr);
    assert!(
        !none.status.success() && told.contains("127.0.0.1:1/none:1"),
        "{told}"
    );
    grid.run(&["rm", "none", "--purge", "--wait"]);

    // Down in a shell that knows nothing of the engine.
    let mut down = grid.command(&["down"]);
    let down = down.env_remove("DOCKER_HOST").output().unwrap();
    assert!(
        down.status.success(),
        "{}",
        String::from_utf8_lossy(&down.stderr)
    );
    let stopped = containers(&api, &grid);
    assert_eq!(stopped.len(), 2);
    assert!(
        stopped.iter().all(|it| it["State"] != "running"),
        "{stopped:?}"
    );
    let third = grid.up(&[]);
    let endpoint = third["nodes"][0]["endpoint"].as_str().unwrap();
    assert_eq!(http(endpoint, "GET /v1/objects/greeting", ""), "hello");

    let image: PathBuf = std::fs::read_dir(grid.dir.path().join("state/run"))
        .unwrap()
        .map(|it| it.unwrap().path())
        .find(|it| it.extension().is_some_and(|it| it == "tar"))
        .unwrap();
    let tag = image
        .file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .replace("image-", "");
    grid.run(&["down", "--purge"]);
    assert_eq!(containers(&api, &grid).len(), 0);
    assert!(!grid.dir.path().join("state").exists());
    // The image is of this build of the command, and no other test's.
    api.call(
        "DELETE",
        &format!("/images/sutra-grid/up:{tag}?force=true"),
        None,
    )
    .unwrap();
}
