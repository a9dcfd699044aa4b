//! The example, run as its README says.

use std::process::Command;

fn embed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_embed-process"))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("the example cannot be executed: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Removes the node also when the test fails.
struct Removed(String);

impl Drop for Removed {
    fn drop(&mut self) {
        embed(&[&self.0, "down"]);
    }
}

#[test]
fn a_node_outlives_the_tool_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    let node = Removed(path.clone());
    let script = "echo hello from port {port}; exec sleep 1000";
    let run = || embed(&[&path, "/bin/sh", "-c", script]);
    let first = run();
    assert!(
        first.contains("embedded says: hello from port 2"),
        "{first}"
    );
    assert_eq!(run(), first, "the same process, and its log once");
    let pid = first
        .lines()
        .next()
        .and_then(|line| line.rsplit(' ').next())
        .unwrap()
        .to_owned();
    let arguments = format!("/proc/{pid}/cmdline");
    assert_eq!(std::fs::read(&arguments).unwrap(), b"sleep\x001000\0");
    drop(node);
    assert!(std::fs::read(&arguments).is_err());
    assert!(!dir.path().join("data/embedded").exists());
}
