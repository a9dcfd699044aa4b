//! `cargo xtask test` over small workspaces: what it counts, and when it fails.

#![allow(clippy::expect_used, reason = "a test ends where its set-up fails")]

use std::path::Path;
use std::process::{Command, Output};

const PASSING: &str = "/// Documented.\n/// ```\n/// assert!(a::yes());\n/// ```\npub fn yes() -> bool { true }\n\
    #[test]\nfn passes() { assert!(yes()); }\n\
    #[test]\n#[ignore = \"long\"]\nfn is_long() {}\n";

/// Runs `xtask test` in a workspace whose one package has this library and these test programs.
fn xtask_test(lib: &str, tests: &[(&str, &str)], args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).expect("a directory");
        std::fs::write(path, text).expect("a file");
    };
    write(
        "Cargo.toml",
        "[package]\nname = \"a\"\nedition = \"2024\"\n[workspace]\n",
    );
    write("src/lib.rs", lib);
    for (name, text) in tests {
        write(&format!("tests/{name}.rs"), text);
    }
    // The task finds every program from outside that it looks for, so that it installs nothing.
    for program in ["redis-server", "promtool", "faketime", "schemathesis"] {
        write(&format!("bin/{program}"), "");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(dir.path().join("bin")).chain(std::env::split_paths(&path));
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("test")
        .args(args)
        .env("CARGO_MANIFEST_DIR", dir.path().join("xtask"))
        .env("CARGO_TARGET_DIR", dir.path().join("target"))
        .env("PATH", std::env::join_paths(path).expect("a PATH"))
        .env_remove("CI")
        .output()
        .expect("xtask runs")
}

fn check(output: &Output, last_line: &str, success: bool) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().last(), Some(last_line), "{said}");
    assert_eq!(output.status.success(), success, "{said}");
}

#[test]
fn what_passes_is_summed_with_documentation() {
    let output = xtask_test(PASSING, &[], &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.starts_with("process: run\nredis-server: found at "),
        "{said}"
    );
    check(&output, "2 passed, 0 failed, 1 skipped", true);
}

#[test]
fn long_tests_run_when_asked_for() {
    check(
        &xtask_test(PASSING, &[], &["--full"]),
        "3 passed, 0 failed",
        true,
    );
}

#[test]
fn a_failure_and_a_crash_are_counted_and_the_rest_runs() {
    let tests = [
        (
            "crash",
            "#[test]\nfn ends_at_once() { std::process::abort(); }\n",
        ),
        ("fail", "#[test]\nfn fails() { panic!(); }\n"),
        ("pass", "#[test]\nfn passes() {}\n"),
    ];
    let output = xtask_test(PASSING, &tests, &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("ended without a result: tests/crash.rs"),
        "{said}"
    );
    check(&output, "3 passed, 2 failed, 1 skipped", false);
}

#[test]
fn what_does_not_compile_is_a_failure() {
    let output = xtask_test("pub fn no() -> bool { 1 }", &[], &[]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("error: `cargo build"));
}
