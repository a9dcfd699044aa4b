//! What the command says without a grid: helps, usage errors, and errors in their form.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot go on ends its test"
)]

use std::process::{Command, Stdio};

use insta::assert_snapshot;

/// Exit code, stdout and stderr of `grid ARGS` where no grid is.
fn grid(args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_grid"));
    for name in [
        "SUTRA_MASTER",
        "COLUMNS",
        "XDG_STATE_HOME",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(name);
    }
    let output = command
        .env("HOME", dir.path())
        .args(args)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let place = dir.path().canonicalize().unwrap();
    format!(
        "exit code: {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
    .replace(place.to_str().unwrap(), "[DIR]")
}

macro_rules! snapshots {
    ($($name:ident: [$($arg:literal),*];)*) => {$(
        #[test]
        fn $name() {
            assert_snapshot!(grid(&[$($arg),*]));
        }
    )*};
}

snapshots! {
    help: ["--help"];
    help_up: ["up", "--help"];
    help_spawn: ["spawn", "--help"];
    help_logs: ["logs", "--help"];
    version_without_a_master: ["version", "--state-dir", "none"];
    no_grid: ["nodes", "--state-dir", "none"];
    no_grid_to_take_down: ["down", "--state-dir", "none"];
    nobody_listens: ["nodes", "--state-dir", "none", "--master", "http://127.0.0.1:1"];
    a_master_elsewhere: ["nodes", "--state-dir", "none", "--master", "http://grid.example:9000"];
    not_a_node_id: ["node", "../etc", "--state-dir", "none"];
    an_unknown_command: ["frobnicate"];
    nothing_to_update: ["update", "n1", "--state-dir", "none"];
    a_secret_in_an_argument: ["spawn", "--secret", "key=hunter2", "--master", "http://127.0.0.1:1", "--state-dir", "none"];
    storage_beyond_loopback: ["storage", "--data-path", "data", "--listen", "0.0.0.0:0"];
}

#[test]
fn no_fault_point_is_in_a_program_that_people_get() {
    // Where points are armed: their code cannot do without the name, be it the agent's, the master's or the shim's.
    let name = b"fault-points-armed";
    let program = std::fs::read(env!("CARGO_BIN_EXE_grid")).unwrap();
    let found = program.windows(name.len()).any(|it| it == name);
    assert_eq!(found, cfg!(feature = "fault-points"));
}
