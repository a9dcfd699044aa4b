//! The example, run as its README says.

use std::process::Command;

#[test]
fn redis_is_a_node_that_keeps_its_data() {
    if !redis_is_here("redis_is_a_node_that_keeps_its_data") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_redis-node"))
        .arg(dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "wrote: +OK\nstopped: true\nsame endpoint: true\nread: hello\n"
    );
    assert!(!dir.path().join("data/cache").exists());
}

/// Whether redis-server is here. In CI it has to be; elsewhere the test says that it did not run.
#[allow(clippy::print_stderr, reason = "a test that does not run says so")]
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
