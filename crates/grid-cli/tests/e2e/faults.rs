//! What goes wrong around a grid: killed supervisors, taken ports, wrong directories.

use std::{fs, net::TcpListener};

use crate::support::{Grid, eventually, is_alive, kill, number, processes, text};

fn pid(up: &serde_json::Value, part: &str) -> u32 {
    number(&up[part]["pid"])
}

#[test]
fn a_killed_supervisor_is_replaced_and_the_nodes_live_on() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "1"]);
    let node = number(&up["nodes"][0]["pid"]);
    kill(pid(&up, "supervisor"));
    // The grid goes on without it.
    assert_eq!(number(&grid.node("node-1")["pid"]), node);
    let again = grid.up(&[]);
    for part in ["supervisor", "master", "agent"] {
        assert_ne!(pid(&again, part), pid(&up, part));
        assert!(!is_alive(pid(&up, part)), "the old {part} is left");
    }
    assert_eq!(number(&again["nodes"][0]["pid"]), node);
    // Both children are the new supervisor's: what ends is started again.
    kill(pid(&again, "agent"));
    eventually("the agent to be started again", || {
        let now = grid.up(&[]);
        (pid(&now, "agent") != pid(&again, "agent")).then_some(())
    });
    assert!(is_alive(node));
}

#[test]
fn down_works_when_everything_but_the_nodes_was_killed() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "2"]);
    for part in ["supervisor", "master", "agent"] {
        kill(pid(&up, part));
    }
    let nodes: Vec<u32> = up["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| number(&node["pid"]))
        .collect();
    assert!(nodes.iter().all(|node| is_alive(*node)));
    grid.run(&["down"]);
    assert_eq!(processes(&grid.state()), []);
    // What was wished is still wished.
    let again = grid.up(&[]);
    assert_eq!(again["nodes"].as_array().unwrap().len(), 2);
}

#[test]
fn up_is_idempotent_and_makes_nodes_that_are_asked_for() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "1"]);
    let again = grid.up(&[]);
    assert_eq!(again, up, "a second `up` changes nothing");
    let more = grid.up(&["--nodes", "2"]);
    assert_eq!(more["nodes"][0], up["nodes"][0]);
    assert_eq!(more["nodes"][1]["id"], "node-2");
    // What was removed is not made again by itself.
    grid.run(&["rm", "node-1", "node-2", "--purge", "--wait"]);
    assert_eq!(grid.up(&[])["nodes"], serde_json::json!([]));
}

#[test]
fn an_up_waits_for_a_master_that_was_just_killed() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "1"]);
    for _ in 0..3 {
        kill(pid(&grid.up(&[]), "master"));
        let again = grid.up(&["--nodes", "1"]);
        assert_eq!(again["nodes"][0]["pid"], up["nodes"][0]["pid"]);
        assert_eq!(again["supervisor"], up["supervisor"]);
    }
}

#[test]
fn an_agent_that_ends_at_once_is_told_long_before_the_timeout() {
    let grid = Grid::new();
    grid.up(&["--nodes", "0"]);
    grid.run(&["down"]);
    let install = grid.state().join("agent/process/install.json");
    let good = fs::read(&install).unwrap();
    fs::write(&install, "{").unwrap();
    let args = ["up", "--detach", "--timeout", "1h", "--http", "127.0.0.1:0"];
    let told = grid.fails(&[&args[..], &["--grpc", "127.0.0.1:0"]].concat(), 1);
    assert!(
        told.contains("error: the agent does not come up: exit code"),
        "{told}"
    );
    assert!(told.contains("install.json"), "its last words: {told}");
    fs::write(&install, good).unwrap();
}

#[test]
fn an_up_that_is_too_slow_says_its_limit_and_that_it_is_down_again() {
    let grid = Grid::new();
    let args = [
        "up",
        "--detach",
        "--timeout",
        "7ms",
        "--http",
        "127.0.0.1:0",
    ];
    let told = grid.fails(&[&args[..], &["--grpc", "127.0.0.1:0"]].concat(), 6);
    assert!(told.contains("not done after 7ms: "), "{told}");
    assert!(
        told.contains("hint: The grid was taken down again"),
        "{told}"
    );
    assert_eq!(processes(&grid.state()), []);
}

#[test]
fn several_ups_at_once_make_one_grid() {
    let grid = Grid::new();
    let ups: Vec<_> = (0..4)
        .map(|_| {
            grid.command(&[
                "up",
                "-d",
                "--nodes",
                "1",
                "--http",
                "127.0.0.1:0",
                "--grpc",
                "127.0.0.1:0",
            ])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
        })
        .collect();
    for up in ups {
        let output = up.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", crate::support::told(&output));
    }
    let parts = |what: &str| {
        let all = processes(&grid.state());
        all.iter().filter(|(_, text)| text.contains(what)).count()
    };
    assert_eq!(
        ["__supervise", "__master", "__agent", " storage "].map(parts),
        [1; 4]
    );
}

#[test]
fn a_taken_port_is_named_and_nothing_is_left_running() {
    let grid = Grid::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let told = grid.fails(
        &[
            "up",
            "--detach",
            "--http",
            &address,
            "--grpc",
            "127.0.0.1:0",
        ],
        1,
    );
    assert!(
        told.starts_with("error: the master does not come up"),
        "{told}"
    );
    assert!(
        told.contains(&format!("cannot listen on `{address}`")),
        "{told}"
    );
    assert!(told.contains("hint: "), "{told}");
    assert_eq!(processes(&grid.state()), []);
    // In the foreground too, and without the last words of earlier times.
    fs::write(grid.state().join("logs/master.log"), "an old tale\n").unwrap();
    let told = grid.fails(&["up", "--http", &address, "--grpc", "127.0.0.1:0"], 1);
    assert!(
        told.contains("error: the master does not come up"),
        "{told}"
    );
    assert!(!told.contains("an old tale"), "{told}");
    assert_eq!(processes(&grid.state()), []);
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let grid = Grid::new();
    fs::create_dir(grid.state()).unwrap();
    fs::write(grid.state().join("thesis.tex"), "mine").unwrap();
    let told = grid.fails(&["up", "--detach"], 4);
    assert!(
        told.contains("holds files that `grid up` did not make"),
        "{told}"
    );
    grid.run(&["down", "--purge"]);
    assert_eq!(
        fs::read_to_string(grid.state().join("thesis.tex")).unwrap(),
        "mine"
    );
    fs::remove_dir_all(grid.state()).unwrap();
}

#[test]
fn a_copied_state_directory_is_refused_and_the_original_is_left_in_peace() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "1"]);
    let copy = grid.dir().join("copy");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([grid.state(), copy.clone()])
        .status()
        .unwrap();
    assert!(copied.success());
    for args in [&["up", "--detach"][..], &["down"], &["down", "--purge"]] {
        let told = std::process::Command::new(env!("CARGO_BIN_EXE_grid"))
            .arg("--state-dir")
            .arg(&copy)
            .args(args)
            .output()
            .unwrap();
        let told = crate::support::told(&told);
        assert!(told.contains("is a copy of another one"), "{told}");
    }
    assert!(copy.join("grid.json").exists());
    assert_eq!(grid.up(&[]), up, "the original was disturbed");
    fs::remove_dir_all(copy).unwrap();
}

#[test]
fn a_failed_node_says_why_and_a_wait_that_is_too_long_has_its_own_code() {
    let grid = Grid::new();
    grid.up(&["--nodes", "0"]);
    let script = "echo the disk is on fire; exit 3";
    let told = grid.fails(
        &[
            "spawn",
            "--name",
            "bad",
            "--restart",
            "never",
            "--wait",
            "--binary",
            "/bin/sh",
            "--",
            "-c",
            script,
        ],
        1,
    );
    assert!(told.contains("exit code 3"), "{told}");
    assert!(told.contains("the disk is on fire"), "{told}");
    assert!(told.contains("hint: `grid logs bad`"), "{told}");
    assert!(grid.run(&["logs", "bad"]).contains("the disk is on fire"));
    let told = grid.fails(
        &[
            "spawn",
            "--name",
            "slow",
            "--health-tcp",
            "--wait",
            "--timeout",
            "300ms",
            "--binary",
            "sleep",
            "--",
            "1000",
        ],
        6,
    );
    assert!(told.contains("not done after 300ms"), "{told}");
}

#[test]
fn secrets_and_places_reach_a_node_and_are_shown_nowhere() {
    let grid = Grid::new();
    grid.up(&["--nodes", "0"]);
    let secret = grid.dir().join("secret");
    fs::write(&secret, "hunter2").unwrap();
    let data = grid.dir().join("data-of-mine");
    let mut command = grid.command(&[
        "spawn", "--name", "keeper", "--wait", "--secret", "key=@secret", "--secret", "typed",
        "--storage-path", "data-of-mine", "--env", "GREETING=good morning", "--binary", "/bin/sh",
        "--", "-c",
        "cat {secrets_dir}/key {secrets_dir}/typed; echo; echo $GREETING; echo {data_path}; exec sleep 1000",
    ]);
    let mut child = command
        .current_dir(grid.dir())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"swordfish\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(
        grid.run(&["logs", "keeper"]),
        format!("hunter2swordfish\ngood morning\n{}\n", data.display())
    );
    let shown = grid.run(&["node", "keeper", "-o", "json"]) + &grid.run(&["events", "-o", "json"]);
    assert!(!shown.contains("hunter2") && !shown.contains("swordfish"));
    let shown = grid.node("keeper");
    assert!(shown["settings"]["secrets"].get("key").is_some(), "{shown}");
    assert_eq!(text(&shown["data_path"]), data.to_str().unwrap());
    grid.run(&["rm", "keeper", "--purge", "--wait"]);
    assert!(!data.exists());
    for part in ["", "master", "run/x", "logs", "agent/process/nodes/x"] {
        let place = grid.state().join(part);
        let told = grid.fails(&["spawn", "--storage-path", place.to_str().unwrap()], 2);
        assert!(told.contains("among the grid's own files"), "{told}");
    }
}
