//! The example, run as its README says.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::fs;
use std::path::Path;
use std::process::Command;

use grid_platform_testing::probe;
use grid_testbed::{
    Image, Tar,
    kubernetes::{self, Namespace, View},
};
use serde_json::{Value, json};

const IMAGE: &str = "localhost/sutra-grid-test/embedded:latest";

/// Where a pod's program finds its account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A cluster that has the image.
fn cluster() -> View {
    let view = kubernetes::find().unwrap();
    let layer = Tar::default().file("grid-probe", 0o755, probe::BYTES);
    let program = Image::new(layer).entrypoint(&["/grid-probe"]);
    view.own().unwrap().load(program, IMAGE).unwrap();
    view
}

fn told(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("the example cannot be executed: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// That the namespace has nothing of the node.
fn check_gone(namespace: &Namespace) {
    for kind in ["pods", "services", "secrets", "persistentvolumeclaims"] {
        let path = namespace.path(&format!("{kind}?labelSelector=sutra.node_id%3Dembedded"));
        let left = namespace.view().list(&path).unwrap();
        assert!(left.is_empty(), "{kind}: {left:?}");
    }
}

#[test]
fn a_node_outlives_the_tool_and_is_found_again() {
    let view = cluster();
    // Deleted with all that is in it, also when the test fails.
    let namespace = Namespace::make(&view).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embed-k8s"));
        command.env("KUBECONFIG", view.kubeconfig());
        told(command.arg(namespace.name()).args(arguments))
    };
    let up = [IMAGE, "say=hello from port {port}"];
    let first = run(&up);
    let pods = || view.list(&namespace.path("pods")).unwrap();
    let uid = |pods: &[Value]| pods[0]["metadata"]["uid"].clone();
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
    check_gone(&namespace);
}

/// What a pod's program has of its account, in this folder.
fn account(namespace: &Namespace, dir: &Path) {
    let all = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }]);
    let kubeconfig = namespace.account("pod", &all, dir).unwrap();
    let kubeconfig: Value = serde_json::from_slice(&fs::read(kubeconfig).unwrap()).unwrap();
    let token = kubeconfig["users"][0]["user"]["token"].as_str().unwrap();
    let ca = &kubeconfig["clusters"][0]["cluster"]["certificate-authority"];
    fs::write(dir.join("token"), token).unwrap();
    fs::write(dir.join("namespace"), namespace.name()).unwrap();
    fs::copy(ca.as_str().unwrap(), dir.join("ca.crt")).unwrap();
}

#[test]
fn without_a_kubeconfig_it_acts_by_the_account_of_its_pod() {
    let view = cluster();
    let namespace = Namespace::make(&view).unwrap();
    let dir = tempfile::tempdir().unwrap();
    account(&namespace, dir.path());
    let server = "/api/v1/namespaces/default/services/kubernetes";
    let server = view.find(server).unwrap().unwrap();
    let host = server["spec"]["clusterIP"].as_str().unwrap();
    let run = |arguments: &[&str]| {
        // Mounts of its own, with the account where a kubelet puts it.
        let mut command = Command::new("unshare");
        let enter = format!(
            "mount -t tmpfs none /var/run && mkdir -p {ACCOUNT} && cp {}/* {ACCOUNT} && exec \"$0\" \"$@\"",
            dir.path().display()
        );
        command
            .args(["--mount", "sh", "-ec", &enter])
            .arg(env!("CARGO_BIN_EXE_embed-k8s"))
            .env_remove("KUBECONFIG")
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", "443");
        told(command.arg(namespace.name()).args(arguments))
    };
    let up = run(&[IMAGE]);
    assert!(up.starts_with("embedded runs as "), "{up}");
    let pods = view.list(&namespace.path("pods")).unwrap();
    assert_eq!(pods.len(), 1, "{pods:?}");
    run(&["down"]);
    check_gone(&namespace);
}
