//! The example, run as its README says.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::process::Command;

use grid_platform_testing::probe;
use grid_testbed::{Api, Image, Kind, Tar};

fn embed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_embed-docker"))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("the example cannot be executed: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Removes the node also when the test fails.
struct Removed(String, String);

impl Drop for Removed {
    fn drop(&mut self) {
        embed(&[&self.0, &self.1, "down"]);
    }
}

fn names(api: &Api, query: &str) -> String {
    api.get(&format!("/containers/json?{query}"))
        .unwrap()
        .to_string()
}

#[test]
fn a_node_outlives_the_tool_and_is_found_again() {
    let api = grid_testbed::find(Kind::Docker).unwrap();
    let image = "localhost/sutra-grid-test/embedded:latest";
    let layer = Tar::default().file("grid-probe", 0o755, probe::BYTES);
    let probe = Image::new(layer).entrypoint(&["/grid-probe"]);
    probe.load(&api, image).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    let node = Removed(api.host().to_owned(), path.clone());
    let run = || embed(&[api.host(), &path, image, "say=hello from port {port}"]);
    let first = run();
    let container = first
        .lines()
        .next()
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .to_owned();
    let again = run();
    assert!(again.starts_with(first.lines().next().unwrap()), "{again}");
    // Its log is read by now, and it was started once.
    let said: Vec<_> = again.lines().filter(|it| it.contains("says: ")).collect();
    assert!(
        said.len() == 2 && said[1].starts_with("embedded says: hello from port 2"),
        "{again}"
    );
    assert!(names(&api, "").contains(&container));
    drop(node);
    assert!(!names(&api, "all=true").contains(&container));
    assert!(!dir.path().join("data/embedded").exists());
}
