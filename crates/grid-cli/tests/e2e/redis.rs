//! Stock software as a node: Debian's redis-server, with no wrapper.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use crate::support::{Grid, eventually, is_alive, kill, number, text};

/// Sends one command in RESP and gives the answer's first line, or the bulk string that it announces.
fn ask(endpoint: &str, words: &[&str]) -> String {
    let mut socket = TcpStream::connect(endpoint).unwrap();
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let lines: Vec<&str> = text.split("\r\n").collect();
        match lines[..] {
            [first, body, _] if first.starts_with('$') && first != "$-1" => return body.to_owned(),
            [first, _] if !first.starts_with('$') || first == "$-1" => return first.to_owned(),
            _ => {}
        }
        let read = socket.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "redis hung up: {text:?}");
        answer.extend_from_slice(&buffer[..read]);
    }
}

/// Whether redis-server is here. In CI it has to be; elsewhere the test says that it did not run.
fn redis_is_here(test: &str) -> bool {
    let found = Command::new("redis-server").arg("--version").output();
    let here = found.is_ok_and(|output| output.status.success());
    let ci = std::env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "0" && ci != "false");
    assert!(
        here || !ci,
        "redis-server is needed: `cargo xtask testbed up redis`"
    );
    if !here {
        eprintln!("not run: {test}: needs redis-server");
    }
    here
}

#[test]
fn redis_keeps_its_data_while_the_agent_is_killed_and_it_is_stopped_and_started() {
    if !redis_is_here(
        "redis_keeps_its_data_while_the_agent_is_killed_and_it_is_stopped_and_started",
    ) {
        return;
    }
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "0"]);
    let node = grid.json(&[
        "spawn",
        "--name",
        "cache",
        "--health-tcp",
        "--wait",
        "--binary",
        "redis-server",
        "--",
        "--port",
        "{port}",
        "--bind",
        "{bind}",
        "--dir",
        "{data_path}",
        "--appendonly",
        "yes",
    ])[0]
        .clone();
    let endpoint = text(&node["endpoint"]).to_owned();
    assert_eq!(ask(&endpoint, &["SET", "greeting", "good morning"]), "+OK");
    kill(number(&up["agent"]["pid"]));
    assert!(is_alive(number(&node["pid"])));
    assert_eq!(ask(&endpoint, &["GET", "greeting"]), "good morning");
    assert_eq!(
        ask(&endpoint, &["SET", "second", "while nobody looked"]),
        "+OK"
    );
    // Stopping waits for the agent to be back.
    let stopped = grid.json(&["stop", "cache", "--wait"]);
    assert_eq!(stopped[0]["state"], "stopped");
    assert!(!is_alive(number(&node["pid"])));
    let started = grid.json(&["start", "cache", "--wait"]);
    assert_eq!(started[0]["endpoint"], node["endpoint"]);
    eventually("redis to have read its file", || {
        (ask(&endpoint, &["PING"]) == "+PONG").then_some(())
    });
    assert_eq!(ask(&endpoint, &["GET", "greeting"]), "good morning");
    assert_eq!(ask(&endpoint, &["GET", "second"]), "while nobody looked");
    assert!(
        grid.run(&["logs", "cache"])
            .contains("Ready to accept connections")
    );
}
