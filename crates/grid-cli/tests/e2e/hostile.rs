//! What nobody should ask for, asked for by command: refused in words, with nothing made and nothing lost.

use std::{ffi::OsString, fs, net::TcpListener, os::unix::ffi::OsStringExt};

use crate::support::{Grid, is_alive, number, processes, text};

/// Ids that are none.
const NO_IDS: [&str; 10] = [
    "x-",
    "",
    "..",
    "../node-1",
    "a/b",
    "Upper",
    "a b",
    "a\nb",
    "a\u{1b}[31m",
    "\u{43d}ode",
];

/// The command's words when it refuses with `code`: an error and a hint, with nothing in it that moves a terminal.
fn refuses(grid: &Grid, args: &[&str], code: i32) -> String {
    let told = grid.fails(args, code);
    assert!(told.starts_with("error: "), "grid {args:?}: {told}");
    assert!(
        !told.contains(|it: char| it.is_control() && it != '\n'),
        "grid {args:?}: {told:?}"
    );
    told
}

#[test]
fn hostile_ids_are_refused_by_every_command_and_touch_no_node() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "1"]);
    let node = number(&up["nodes"][0]["pid"]);
    for id in NO_IDS {
        let named = format!("--name={id}");
        for args in [
            vec!["spawn", &named],
            vec!["node", id],
            vec!["start", id],
            vec!["stop", id],
            vec!["usage", id],
            vec!["update", id],
            vec!["rm", "--purge", id],
            vec!["logs", id],
            vec!["data", "purge", id],
        ] {
            let told = refuses(&grid, &args, 2);
            assert!(told.contains("hint: "), "grid {args:?}: {told}");
        }
    }
    // Bytes that are no text never get as far as a request.
    let bytes = OsString::from_vec(b"n\xff".to_vec());
    let output = grid.command(&["stop"]).arg(bytes).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(grid.json(&["nodes"]).as_array().unwrap().len(), 1);
    assert_eq!(number(&grid.node("node-1")["pid"]), node);
    assert!(is_alive(node));
}

#[test]
fn hostile_settings_are_refused_in_words_and_leave_nothing() {
    let grid = Grid::new();
    let up = grid.up(&["--nodes", "0"]);
    let running = processes(&grid.state()).len();
    let spawn = |with: &[&str], code: i32, words: &[&str]| {
        let args = [
            &["spawn", "--name", "bad", "--wait"],
            with,
            &["--binary", "sleep", "--", "1000"],
        ]
        .concat();
        let told = refuses(&grid, &args, code);
        for word in words {
            assert!(told.contains(word), "grid {with:?}: {told}");
        }
    };
    // Not numbers that such a setting has.
    for with in [
        ["--port", "70000"],
        ["--port", "-1"],
        ["--named-port", "a=70000"],
        ["--memory-limit-mb", "-1"],
        ["--memory-limit-mb", "99999999999999999999"],
        ["--pids-limit", "-1"],
    ] {
        let with = format!("{}={}", with[0], with[1]);
        spawn(&[&with], 2, &[]);
    }
    // Not settings that any node has.
    for (with, words) in [
        (["--memory-limit-mb", "0"], "`memory_limit_mb`"),
        (
            ["--memory-limit-mb", "18446744073709551615"],
            "`memory_limit_mb`",
        ),
        (["--pids-limit", "0"], "`pids_limit`"),
        (["--storage-path", "/data/../etc"], "`/data/../etc`"),
        (["--storage-path", "/a\nb"], "control character"),
        (["--env", "A\nB=x"], "A\\nB"),
        (["--env", "SUTRA_NODE_ID=other"], "SUTRA_NODE_ID"),
        (["--label", "a=b c"], "label"),
    ] {
        spawn(&with, 1, &[words, "hint: "]);
    }
    assert_eq!(grid.json(&["nodes"]).as_array().unwrap().len(), 0);

    // What this host does not have or give. What only its agent can know is told by a node that failed.
    let master = text(&up["http"]).rsplit(':').next().unwrap();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().port().to_string();
    let state = grid.state();
    for (with, code, words, made) in [
        (["--port", master], 4, "(`grid`)", true),
        (["--port", &taken], 4, &taken, true),
        (["--memory-limit-mb", "1073741824"], 1, "memory", false),
        (
            ["--storage-path", state.to_str().unwrap()],
            2,
            "own files",
            false,
        ),
        (["--user", "nosuch"], 1, "user", true),
    ] {
        spawn(&with, code, &[words, "hint: "]);
        if made {
            grid.run(&["rm", "bad", "--purge", "--wait"]);
        }
    }
    drop(holder);
    assert_eq!(grid.json(&["nodes"]).as_array().unwrap().len(), 0);
    assert_eq!(grid.json(&["data", "ls"]).as_array().unwrap().len(), 0);
    assert_eq!(processes(&grid.state()).len(), running);
    assert!(fs::exists(grid.state().join("grid.json")).unwrap());
}
