//! The program itself: killed in the middle, asked to end, started wrongly.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use grid_platform_api::ErrorKind;
use serde_json::{Value, json};

use crate::support::{Agent, Grid, LONG, settings};

/// The program as a child; killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grid-master"));
    command
        .args([
            "--http",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
            "--state-dir",
        ])
        .arg(state)
        .env_clear()
        .env("SUTRA_MASTER__LOST_AFTER_MS", "5000")
        .stderr(Stdio::piped());
    command
}

impl Program {
    /// Starts it and waits until it says where it serves.
    fn start(state: &Path) -> (Self, Value) {
        let mut child = command(state).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "{said}");
            said.push_str(&line);
            if line.contains("the master serves") {
                break;
            }
        }
        // A pipe that nobody reads would stop it one day.
        std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
        let told = std::fs::read_to_string(state.join("addresses.json")).unwrap();
        (Self(child), serde_json::from_str(&told).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for round in 0..3 {
        let (mut program, addresses) = Program::start(dir.path());
        // The usual helpers, pointed at the child.
        let grid = Grid::attach(dir.path(), &addresses);
        let token = grid.token("agent");
        let hello = crate::support::hello("a", "install-a");
        let mut agent = Agent::connect(&grid, &token, hello).await.unwrap();
        let set = agent.greet(vec![]).await;
        for (id, generation) in &acknowledged {
            let node = set.nodes.iter().find(|n| n.node_id == *id);
            assert!(
                node.is_some_and(|n| n.generation >= *generation),
                "{id} of {generation}"
            );
        }
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let grid = Grid::attach(dir.path(), &addresses);
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    for count in 0.. {
                        let id = format!("n{round}-{writer}-{count}");
                        let body = json!({"node_id": id});
                        let request = grid.request("POST", "/api/grid/spawn").json(&body);
                        let Ok(answer) = request.send().await else {
                            break;
                        };
                        if answer.status() != 201 {
                            break;
                        }
                        let Ok(node) = answer.json::<Value>().await else {
                            break;
                        };
                        done.push((id, node["generation"].as_u64().unwrap()));
                    }
                    done
                })
            })
            .collect();
        // Some have been told to the agent: then the writers are in full swing.
        for _ in 0..40 {
            agent.hear_node().await;
        }
        program.0.kill().unwrap();
        program.0.wait().unwrap();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
    }
    assert!(acknowledged.len() >= 100, "{}", acknowledged.len());
    let grid = Grid::start_with(settings(dir.path())).await;
    for (id, generation) in &acknowledged {
        assert_eq!(grid.node(id).await["generation"], *generation);
    }
    grid.end().await;
}

#[tokio::test]
async fn sigterm_ends_it_within_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (mut program, addresses) = Program::start(dir.path());
    let grid = Grid::attach(dir.path(), &addresses);
    // Followers and agents do not keep it.
    let _stream = grid.follow("/api/grid/events", None).await;
    let _agent = Agent::join(&grid, "a").await;
    let pid = program.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let waiting = tokio::task::spawn_blocking(move || program.0.wait());
    let status = tokio::time::timeout(LONG, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!dir.path().join("addresses.json").exists());
}

#[test]
fn what_cannot_be_is_refused_with_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_grid-master"))
            .arg("--state-dir")
            .arg(dir.path())
            .args(args)
            .env_clear()
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("hint: "), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = run(&["--http", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("loopback only"), "{said}");
    std::fs::write(dir.path().join("m.toml"), "htpp = \"127.0.0.1:0\"\n").unwrap();
    let file = dir.path().join("m.toml");
    let (code, said) = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("htpp"), "{said}");
}

#[tokio::test]
async fn a_store_that_is_none_is_left_as_it_is() {
    let check = async |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        std::fs::write(&path, bytes).unwrap();
        let error = grid_master::Master::bind(settings(dir.path()))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.hint().is_some());
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    };
    check(b"this is somebody's diary\n").await;
    check(&[0; 8192]).await;

    // A whole store whose pages were changed.
    let dir = tempfile::tempdir().unwrap();
    let grid = Grid::start_with(settings(dir.path())).await;
    let _agent = Agent::join(&grid, "a").await;
    for _ in 0..20 {
        grid.spawn(json!({})).await.expect(201);
    }
    grid.end().await;
    let mut bytes = std::fs::read(dir.path().join("store.redb")).unwrap();
    // Every copy: redb writes to fresh pages, and the first copy may be one that no row is read from any more.
    let rows: Vec<usize> = (0..bytes.len().saturating_sub(9))
        .filter(|at| bytes[*at..].starts_with(b"\"settings"))
        .collect();
    assert!(!rows.is_empty(), "rows are JSON");
    for at in rows {
        bytes[at + 1] ^= 1;
    }
    check(&bytes).await;
}

#[tokio::test]
async fn two_masters_do_not_share_a_directory() {
    let grid = Grid::start().await;
    let error = grid_master::Master::bind(settings(&grid.state))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateLocked);
    let taken = grid_master::Settings {
        http: grid.http.trim_start_matches("http://").parse().unwrap(),
        ..settings(tempfile::tempdir().unwrap().path())
    };
    let error = grid_master::Master::bind(taken).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PortInUse);
    grid.end().await;
}
