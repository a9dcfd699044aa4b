//! The host's clock is set while a grid runs, forward and backward: for master and agent alone, by Debian's libfaketime,
//! which reads the offset from a file whenever they ask for the time. What counts from a start is left as it is, as it is
//! when a real clock is set.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use grid_client::{Client, SpawnRequest};
use serde_json::Value;

use crate::support::{Grid, eventually, get, is_alive, kill, number, put, text};

/// The clock of a grid.
struct Clock {
    offset: PathBuf,
}

impl Clock {
    fn set(&self, offset: &str) {
        // In one step: it is read at any time.
        let fresh = self.offset.with_extension("new");
        fs::write(&fresh, offset).unwrap();
        fs::rename(fresh, &self.offset).unwrap();
    }
}

/// A grid with a clock of its own; `None` where there is no faketime. In CI it has to be there; elsewhere the test says
/// that it did not run.
fn grid(test: &str) -> Option<(Grid, Clock)> {
    // It knows where its library is.
    let found = Command::new("faketime")
        .args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"])
        .output()
        .ok()
        .filter(|output| output.status.success());
    let ci = std::env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "0" && ci != "false");
    assert!(
        found.is_some() || !ci,
        "faketime is needed: `cargo xtask testbed up faketime`"
    );
    let Some(found) = found else {
        eprintln!("not run: {test}: needs faketime");
        return None;
    };
    let library = String::from_utf8(found.stdout).unwrap();
    let grid = Grid::new();
    let clock = Clock {
        offset: grid.dir().join("clock"),
    };
    clock.set("+0");
    let grid = grid.with_environment(vec![
        ("LD_PRELOAD", library.trim().into()),
        (
            "FAKETIME_TIMESTAMP_FILE",
            clock.offset.clone().into_os_string(),
        ),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("NO_FAKE_STAT", "1".into()),
        // Its shared memory would be left behind by who is killed.
        ("FAKETIME_DISABLE_SHM", "1".into()),
    ]);
    Some((grid, clock))
}

fn year(time: &Value) -> i32 {
    text(time)[..4].parse().unwrap()
}

fn agent(grid: &Grid) -> Value {
    grid.json(&["agents"])[0].clone()
}

/// What a clock must not change of nodes.
fn facts(grid: &Grid) -> BTreeMap<String, [Value; 6]> {
    let nodes = grid.json(&["nodes"]);
    let facts = |node: &Value| {
        ["uid", "pid", "restarts", "endpoint", "state", "created_at"].map(|fact| node[fact].clone())
    };
    nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (text(&node["id"]).to_owned(), facts(node)))
        .collect()
}

/// `POST /v1/spawn` with a key, and with an id of the master's choice; the node's id.
fn spawn_by_key(up: &Value, key: &str) -> String {
    let token = fs::read_to_string(text(&up["token_file"])).unwrap();
    let client = Client::new(text(&up["http"]), Some(&token)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let spawned = runtime.block_on(client.spawn(&SpawnRequest::default(), key));
    spawned.unwrap().id.to_string()
}

/// Kills a part that is started again, and waits until the agent of this grid is heard by its master.
fn kill_part(grid: &Grid, part: &str) {
    let before = grid.up(&[]);
    kill(number(&before[part]["pid"]));
    eventually("what was killed to be started again", || {
        (grid.up(&[])[part]["pid"] != before[part]["pid"]).then_some(())
    });
}

#[test]
fn faketime_a_clock_that_is_set_while_the_grid_runs_loses_and_restarts_nobody() {
    let test = "faketime_a_clock_that_is_set_while_the_grid_runs_loses_and_restarts_nobody";
    let Some((grid, clock)) = grid(test) else {
        return;
    };
    let up = grid.up(&["--nodes", "2"]);
    put(text(&up["nodes"][0]["endpoint"]), "key", b"value");
    let keyed = spawn_by_key(&up, "one");
    eventually("the node to run", || {
        (grid.node(&keyed)["state"] == "running").then_some(())
    });
    let today = year(&agent(&grid)["last_seen"]);
    for (round, (offset, then)) in [
        ("+4000d", today + 10),
        ("-4000d", today - 11),
        ("+0", today),
    ]
    .into_iter()
    .enumerate()
    {
        let before = facts(&grid);
        clock.set(offset);
        // At once, and when it has been heard under the new clock.
        assert_eq!(agent(&grid)["state"], "ready", "{offset}");
        let heard = eventually("the agent to be heard under the new clock", || {
            Some(agent(&grid)).filter(|it| (year(&it["last_seen"]) - then).abs() <= 1)
        });
        assert_eq!(heard["state"], "ready", "{offset}");
        assert_eq!(heard["connected"], true, "{offset}");
        assert_eq!(facts(&grid), before, "{offset}");
        // A request's key is neither forgotten nor older than it is.
        assert_eq!(spawn_by_key(&up, "one"), keyed, "{offset}");

        // Whoever starts under it takes up what there is.
        kill_part(&grid, "agent");
        assert_eq!(facts(&grid), before, "{offset}");
        kill_part(&grid, "master");
        assert_eq!(facts(&grid), before, "{offset}");
        assert_eq!(spawn_by_key(&up, "one"), keyed, "{offset}");

        // A node that dies is started again, once; its neighbours are left alone.
        let dead = &grid.json(&["nodes"])[0];
        kill(number(&dead["pid"]));
        let again = eventually("the node to be started again", || {
            let now = grid.node(text(&dead["id"]));
            (now["state"] == "running" && now["pid"] != dead["pid"]).then_some(now)
        });
        assert_eq!(number(&again["restarts"]), number(&dead["restarts"]) + 1);
        let mut now = facts(&grid);
        now.insert(
            text(&dead["id"]).to_owned(),
            before[text(&dead["id"])].clone(),
        );
        assert_eq!(now, before, "{offset}");

        // What is made now is made now.
        let name = format!("made-{round}");
        let made = grid.json(&["spawn", "--name", &name, "--wait"])[0].clone();
        assert!((year(&made["created_at"]) - then).abs() <= 1, "{made}");
    }
    assert_eq!(get(text(&up["nodes"][0]["endpoint"]), "key"), b"value");
}

#[test]
fn faketime_a_grid_that_is_brought_up_before_it_was_made_is_the_same_grid() {
    let test = "faketime_a_grid_that_is_brought_up_before_it_was_made_is_the_same_grid";
    let Some((grid, clock)) = grid(test) else {
        return;
    };
    clock.set("+4000d");
    let up = grid.up(&["--nodes", "1"]);
    let node = &up["nodes"][0];
    put(text(&node["endpoint"]), "key", b"value");
    let token = grid.dir().join("token");
    fs::write(&token, grid.run(&["token", "create", "--role", "read"])).unwrap();
    for offset in ["-4000d", "-20000d"] {
        grid.run(&["down"]);
        clock.set(offset);
        let again = grid.up(&[]);
        let now = &again["nodes"][0];
        for same in ["id", "uid", "endpoint", "created_at"] {
            assert_eq!(now[same], node[same], "{offset}");
        }
        assert!(is_alive(number(&now["pid"])));
        assert_eq!(get(text(&now["endpoint"]), "key"), b"value", "{offset}");
        assert!(agent(&grid)["connected"] == true, "{offset}");
        // A token of what is the future now is one.
        let token = token.to_str().unwrap();
        grid.run(&["--token-file", token, "nodes"]);
    }
}
