//! Hostile and broken input on the real platform, a file for each subject: every refusal is typed, names its mend, and
//! leaves nothing behind. What binds every platform is in the suite (`cases/hostile.rs`).
#![allow(clippy::unwrap_used, reason = "all of it is for tests")]

#[path = "../common/mod.rs"]
mod common;
mod limits;
mod paths;
mod ports;
mod programs;
mod resources;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use grid_platform_api::{Error, ErrorKind, Platform, SpawnConfigBuilder};
use grid_platform_process::{Allow, ProcessConfig, ProcessPlatform};

use common::Place;

/// Has the platform refuse a request: of this kind, with these words in the error and in its hint, and nothing left.
async fn refused(
    place: &Place,
    platform: &ProcessPlatform,
    config: SpawnConfigBuilder,
    expect: (ErrorKind, &str, &str),
) {
    let (kind, words, mend) = expect;
    let error = match config.build() {
        Err(error) => error,
        Ok(config) => platform.spawn_node(config).await.unwrap_err(),
    };
    says(&error, kind, words, mend);
    nothing_is_left(place, platform).await;
}

/// The error is of this kind, one line that can be read, and has these words in it and in its hint.
fn says(error: &Error, kind: ErrorKind, words: &str, mend: &str) {
    let text = error.to_string();
    let hint = error.hint().unwrap_or_default();
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(text.contains(words), "`{words}` is not in `{text}`");
    assert!(hint.contains(mend), "`{mend}` is not in `{hint}`");
    assert!(
        !text.contains(char::is_control) && !text.ends_with('.'),
        "{text}"
    );
    assert!(hint.ends_with('.'), "{hint}");
}

/// No node, no data, no record, no process.
async fn nothing_is_left(place: &Place, platform: &ProcessPlatform) {
    assert_eq!(platform.list_nodes().await.unwrap(), []);
    assert_eq!(platform.list_data().await.unwrap(), []);
    let nodes = place.config.state_dir.join("nodes");
    assert_eq!(names(&nodes), [""; 0]);
    assert_eq!(names(&place.config.data_path), [""; 0]);
    assert_eq!(place.dir.all().unwrap(), []);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The variable by which this test program is told that it is the inner half of a test, and where its place is.
const INNER: &str = "GRID_TEST_HOSTILE";

/// The folder of this inner half of a test; `None`, and a word about it, without its outer half.
fn inner(test: &str) -> Option<PathBuf> {
    let home = std::env::var_os(INNER).map(PathBuf::from);
    if home.is_none() {
        not_run(test, "its outer half");
    }
    home
}

/// Says that a test could not run, past the capture of libtest, where `cargo xtask test` counts it.
fn not_run(test: &str, needs: &str) {
    let _ = writeln!(io::stderr(), "not run: {test}: needs {needs}");
}

/// Whether this host lets tests be root; a word about the test where it does not, and a failure in CI, which has to.
fn needs_root(test: &str) -> bool {
    if !is_root() {
        not_run(test, "root");
        let ci = std::env::var("CI").is_ok_and(|it| it == "true" || it == "1");
        assert!(!ci, "{test} needs root");
    }
    is_root()
}

/// The settings that the inner half of a test opens the platform with.
fn config(home: &Path) -> ProcessConfig {
    ProcessConfig {
        programs: Allow::Any,
        ..ProcessConfig::new(home.join("state"), home.join("data"))
    }
}

/// Runs the inner half of a test behind a shell's `prepare`, in a mount namespace of its own, and demands that it ran and
/// passed. A word about it where this host does not let the test prepare.
fn run_inner(place: &Place, prepare: &str, inner: &str) {
    if !needs_root(inner) {
        return;
    }
    let script = format!(
        "set -e; cd \"$2\"; {prepare}; exec $as_whom \"$1\" --exact {inner} --ignored --nocapture"
    );
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ])
        .arg(std::env::current_exe().unwrap())
        .arg(place.dir.path())
        .env(INNER, place.dir.path())
        .output()
        .unwrap();
    assert!(passed(&output), "{inner}: {output:?}");
}

fn passed(output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success() && text.contains("test result: ok. 1 passed")
}
