//! Every command once, on one grid.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    process::Stdio,
};

use crate::support::{Grid, eventually, get, number, put, text};

#[test]
fn every_command_does_what_it_says() {
    let grid = Grid::new();
    grid.up(&["--nodes", "2"]);

    // Lists, for people and for machines.
    let table = grid.run(&["nodes"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines.len() == 3, "{table}");
    assert!(
        lines[1].starts_with("node-1   agent-1   process    running   healthy"),
        "{table}"
    );
    assert!(!table.contains('\x1b'), "no colour in a pipe");
    assert!(grid.run(&["nodes", "--wide"]).contains("LABELS"));
    assert_eq!(
        grid.json(&["nodes", "--state", "stopped"]),
        serde_json::json!([])
    );
    let node = grid.node("node-1");
    for key in [
        "id", "agent", "platform", "state", "health", "endpoint", "pid", "restarts",
    ] {
        assert!(!node[key].is_null(), "{key} is missing: {node}");
    }
    let shown = grid.run(&["node", "node-1"]);
    for line in ["endpoint    127.0.0.1:", "memory      "] {
        assert!(shown.contains(line), "{line} is missing: {shown}");
    }

    // Usage.
    assert!(
        grid.json(&["usage", "node-1"])["memory_bytes"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert!(grid.run(&["usage", "node-1"]).contains("MiB"));

    // A removed node leaves its data until it is purged.
    put(text(&node["endpoint"]), "k", b"v");
    assert_eq!(get(text(&node["endpoint"]), "k"), b"v");
    assert_eq!(grid.run(&["rm", "node-1", "--wait"]), "removed node-1\n");
    let data = grid.json(&["data", "ls"]);
    assert_eq!(data[0]["node"], "node-1");
    assert_eq!(data[0]["in_use"], false);
    let place = text(&data[0]["location"]).to_owned();
    assert!(fs::exists(&place).unwrap());
    grid.fails(&["data", "purge", "node-2"], 4);
    assert_eq!(
        grid.run(&["data", "purge", "node-1"]),
        "purged the data of node-1\n"
    );
    assert!(!fs::exists(&place).unwrap());

    // Logs.
    let all = grid.run(&["logs", "node-2"]);
    assert!(all.contains("storage server ready"), "{all}");
    assert!(!all.contains('\x1b'), "no colour in a log: {all:?}");
    let lines = grid.run(&["logs", "-o", "json", "node-2"]);
    let texts: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| text(&record["text"]).to_owned())
        .collect();
    assert_eq!(texts, all.lines().collect::<Vec<_>>());
    assert_eq!(
        grid.run(&["logs", "-n", "1", "node-2"]),
        format!("{}\n", all.lines().last().unwrap())
    );
    assert_eq!(grid.run(&["logs", "--since", "1h", "node-2"]), all);
    // Where times are indexed coarsely, some lines come that are earlier.
    let late = grid.run(&["logs", "--since", "2100-01-01T00:00:00Z", "node-2"]);
    assert!(all.ends_with(&late) && late.len() < all.len(), "{late}");

    // Events, past and as they come.
    let past = grid.json(&["events"]);
    assert!(
        past.as_array()
            .unwrap()
            .iter()
            .any(|event| event["kind"] == "node.removed")
    );
    let last = past.as_array().unwrap().last().unwrap()["id"].to_string();
    let mut following = grid
        .command(&["events", "-f", "--after", &last, "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    grid.run(&["stop", "node-2", "--wait"]);
    let stopped = BufReader::new(following.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap())
        .find(|event| event["state"] == "stopped");
    assert_eq!(stopped.unwrap()["node"], "node-2");
    following.kill().unwrap();
    following.wait().unwrap();

    // Tokens: made once, used, taken back.
    let created = grid.output(&[
        "token",
        "create",
        "--role",
        "read",
        "--note",
        "for the tour",
    ]);
    let value = String::from_utf8(created.stdout).unwrap();
    let token = grid.dir().join("read.token");
    fs::write(&token, &value).unwrap();
    let token = token.to_str().unwrap();
    grid.run(&["nodes", "--token-file", token]);
    let told = grid.fails(&["start", "node-2", "--token-file", token], 1);
    assert!(told.starts_with("error: "), "{told}");
    let id = value.split('.').next().unwrap();
    let listed = grid.run(&["token", "ls"]);
    assert!(listed.contains("for the tour"), "{listed}");
    assert!(!listed.contains(value.trim()), "{listed}");
    grid.run(&["token", "rm", id]);
    grid.fails(&["nodes", "--token-file", token], 1);
    grid.fails(&["token", "rm", id], 3);

    // Codes that scripts use.
    grid.fails(&["node", "nobody"], 3);
    grid.fails(
        &["spawn", "--name", "node-2", "--label", "other=settings"],
        4,
    );
    grid.fails(&["node"], 2);

    // Doctor, version, completions.
    let checks = grid.run(&["doctor"]);
    assert!(
        checks.contains("supervisor") && !checks.contains("failed"),
        "{checks}"
    );
    assert!(grid.json(&["version"])["master"]["grid_id"].is_string());
    assert!(grid.run(&["completions", "bash"]).contains("_grid"));
}

#[test]
fn a_node_of_ones_own_keeps_its_place_and_is_restarted_by_its_policy() {
    let grid = Grid::new();
    grid.up(&["--nodes", "0"]);
    let data = grid.dir().join("outside");
    let spawned = grid.json(&[
        "spawn",
        "--agent",
        "agent-1",
        "--name",
        "own",
        "--storage-path",
        data.to_str().unwrap(),
        "--restart",
        "always",
        "--wait",
        "--binary",
        "sleep",
        "--",
        "1000",
    ]);
    let before = number(&spawned[0]["pid"]);
    crate::support::kill(before);
    eventually("the platform to restart it", || {
        let node = grid.node("own");
        (node["restarts"] == 1 && node["state"] == "running" && node["pid"] != before).then_some(())
    });
    grid.run(&["down", "--purge"]);
    assert!(
        !data.exists(),
        "data that was made is purged wherever it is"
    );
}

#[test]
fn root_may_run_nodes_as_any_user_and_others_as_themselves() {
    let grid = Grid::new();
    grid.up(&["--nodes", "0"]);
    let spawn = ["spawn", "--name", "other", "--user", "nobody", "--wait"];
    let sleep = ["--binary", "sleep", "--", "1000"];
    let args = [&spawn[..], &sleep].concat();
    let is_root = fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
    if !is_root {
        let told = grid.fails(&args, 1);
        assert!(told.contains("user") && told.contains("hint: "), "{told}");
        return;
    }
    let node = number(&grid.json(&args)[0]["pid"]);
    let nobody = fs::metadata(format!("/proc/{node}")).unwrap().uid();
    assert_ne!(nobody, 0);
    let told = grid.fails(
        &[
            &["spawn", "--name", "no", "--user", "nosuch", "--wait"],
            &sleep[..],
        ]
        .concat(),
        1,
    );
    assert!(told.contains("does not exist"), "{told}");
}

/// An update makes a node anew, with a log of its own: who follows hears of it, and goes on.
#[test]
fn a_followed_log_goes_on_behind_an_update_and_ends_with_the_node() {
    let grid = Grid::new();
    grid.up(&["--nodes", "0"]);
    let run = |head: &[&str], word: &str| {
        let script = format!("echo {word}; exec sleep 1000");
        let program = ["--wait", "--binary", "sh", "--", "-c", script.as_str()];
        grid.run(&[head, &program[..]].concat());
    };
    run(&["spawn", "--name", "phoenix"], "first");
    let log = grid.dir().join("phoenix.log");
    let mut follower = grid
        .command(&["logs", "-f", "-o", "json", "phoenix"])
        .stdout(fs::File::create(&log).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let heard = |word: &str| {
        eventually(word, || {
            let text = fs::read_to_string(&log).unwrap();
            text.contains(&format!("\"text\":\"{word}\""))
                .then_some(text)
        })
    };
    heard("first");
    run(&["update", "phoenix"], "second");
    let text = heard("second");
    let gaps = text.matches("made anew").count();
    assert_eq!((gaps, text.lines().count()), (1, 3), "{text}");
    grid.run(&["rm", "phoenix", "--purge", "--wait"]);
    assert!(follower.wait().unwrap().success(), "it ends with the node");
}
