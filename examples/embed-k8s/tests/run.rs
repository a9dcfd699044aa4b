//! The example, run as its README says.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::process::Command;

use grid_platform_testing::probe;
use grid_testbed::{
    Image, Tar,
    kubernetes::{self, Namespace},
};

fn embed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_embed-k8s"))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("the example cannot be executed: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_node_outlives_the_tool_and_is_found_again() {
    let view = kubernetes::find().unwrap();
    let image = "localhost/sutra-grid-test/embedded:latest";
    let layer = Tar::default().file("grid-probe", 0o755, probe::BYTES);
    let program = Image::new(layer).entrypoint(&["/grid-probe"]);
    view.own().unwrap().load(program, image).unwrap();
    // Deleted with all that is in it, also when the test fails.
    let namespace = Namespace::make(&view).unwrap();
    let place = [view.kubeconfig().to_str().unwrap(), namespace.name()];
    let run = |rest: &[&str]| embed(&[&place[..], rest].concat());
    let up = [image, "say=hello from port {port}"];
    let first = run(&up);
    let pods = || view.list(&namespace.path("pods")).unwrap();
    let uid = |pods: &[serde_json::Value]| pods[0]["metadata"]["uid"].clone();
    let made = pods();
    assert_eq!(made.len(), 1, "{made:?}");

    let again = run(&up);
    assert!(again.starts_with(first.lines().next().unwrap()), "{again}");
    assert_eq!(uid(&pods()), uid(&made), "the same pod");
    // Its log is read by now, and it was started once.
    let said: Vec<_> = again.lines().filter(|it| it.contains("says: ")).collect();
    assert!(
        said.len() == 2 && said[1].starts_with("embedded says: hello from port "),
        "{again}"
    );

    run(&["down"]);
    for kind in ["pods", "services", "secrets", "persistentvolumeclaims"] {
        let path = namespace.path(&format!("{kind}?labelSelector=sutra.node_id%3Dembedded"));
        let left = view.list(&path).unwrap();
        assert!(left.is_empty(), "{kind}: {left:?}");
    }
}
