//! Checks of what is built: the default agent's dependencies, its size, and every feature set.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Finding;
use super::graph::Graph;
use crate::fail::{Fail, Result};
use crate::sh;

/// The package whose features are the platforms.
const AGENT: &str = "grid-agent";

/// The packages that have the platform features: the command forwards them to the agent.
const WITH_PLATFORMS: [&str; 2] = [AGENT, "grid-cli"];

/// Clients of platforms, and the feature that brings each: an agent without the feature does without the client.
const CLIENTS: [(&str, &str); 2] = [
    ("bollard", "platform-docker"),
    ("kube", "platform-kubernetes"),
];

/// The stripped release binary of the default agent is at most this large, in bytes: 12 MiB.
const MAX_AGENT_BYTES: u64 = 12 * 1024 * 1024;

/// Lists the dependencies of an agent of each platform alone, and of the default one; looks for clients of others.
pub(super) fn agents(graph: &Graph) -> Result<Vec<Finding>> {
    let default = tree_of(&[])?;
    println!(
        "tidy: {AGENT} with default features: {} dependencies",
        default.len()
    );
    let mut findings = foreign("default features", None, &default);
    let features = graph.member(AGENT).map(|agent| agent.features.as_slice());
    for feature in features
        .unwrap_or_default()
        .iter()
        .filter(|it| it.starts_with("platform-"))
    {
        let names = tree_of(&["--no-default-features", "--features", feature])?;
        println!("tidy: {AGENT} with {feature}: {} dependencies", names.len());
        findings.extend(foreign(feature, Some(feature), &names));
    }
    Ok(findings)
}

/// The agent's dependencies with these features.
fn tree_of(features: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = sh::cargo();
    command
        .args(["tree", "--package", AGENT, "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .args(features);
    Ok(dependencies(&sh::output(&mut command)?))
}

/// The packages below the first line of `cargo tree`, each version once, as `name vX.Y.Z`.
fn dependencies(tree: &str) -> BTreeSet<String> {
    let name = |line: &str| line.split(" (").next().unwrap_or(line).trim().to_owned();
    tree.lines()
        .skip(1)
        .map(name)
        .filter(|name| !name.is_empty())
        .collect()
}

/// Clients among the names that the feature does not bring; and its own, where it is not there.
fn foreign(with: &str, feature: Option<&str>, names: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let names = || names.iter().filter_map(|name| name.split(' ').next());
    // `kube` comes with `kube-core` and others.
    let is_of = |client: &str, name: &str| {
        name == client
            || name
                .strip_prefix(client)
                .is_some_and(|rest| rest.starts_with('-'))
    };
    for (client, of) in CLIENTS {
        let mut found = names().filter(|name| is_of(client, name)).peekable();
        if Some(of) != feature {
            let what = |name| Finding::new(AGENT, format!("has `{name}` with {with}"));
            findings.extend(found.map(what));
        } else if found.peek().is_none() {
            // A client that is called otherwise by now would not be found in others either.
            findings.push(Finding::new(
                AGENT,
                format!("has no `{client}` with {with}"),
            ));
        }
    }
    findings
}

/// Compiles the agent and the command with no feature, with each platform alone, and with all.
pub(super) fn feature_sets(graph: &Graph) -> Vec<Finding> {
    let features = graph
        .member(AGENT)
        .map(|agent| agent.features.clone())
        .unwrap_or_default();
    let mut findings = Vec::new();
    for set in sets(&features) {
        let start = Instant::now();
        let mut command = sh::cargo();
        command.args(["check", "--quiet", "--no-default-features"]);
        for package in WITH_PLATFORMS {
            command.args(["--package", package]);
        }
        if let Some(feature) = &set {
            let both: Vec<_> = WITH_PLATFORMS
                .iter()
                .map(|package| format!("{package}/{feature}"))
                .collect();
            command.args(["--features", &both.join(",")]);
        }
        let name = set.as_deref().unwrap_or("no features");
        match sh::silent(&mut command) {
            Ok(()) => println!(
                "tidy: compiles with {name} ({} s)",
                start.elapsed().as_secs()
            ),
            Err(fail) => {
                eprint!("{fail}");
                findings.push(Finding::new(
                    AGENT,
                    format!("does not compile cleanly with {name}"),
                ));
            }
        }
    }
    findings
}

/// The sets to compile: none, then each feature that is not a mere name for the default.
fn sets(features: &[String]) -> Vec<Option<String>> {
    let named = features
        .iter()
        .filter(|feature| *feature != "default")
        .cloned()
        .map(Some);
    std::iter::once(None).chain(named).collect()
}

/// Builds the default agent in release and looks at its size.
pub(super) fn release_size() -> Result<Vec<Finding>> {
    sh::run(sh::cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        AGENT,
        "--bin",
        AGENT,
    ]))?;
    let place = sh::target_dir()?.join("release").join(AGENT);
    let bytes = std::fs::metadata(&place)
        .map_err(|error| Fail::new(format!("cannot look at `{}`: {error}", place.display())))?
        .len();
    println!(
        "tidy: {AGENT} in release: {:.1} MiB",
        bytes as f64 / (1024.0 * 1024.0)
    );
    Ok(too_large(bytes))
}

fn too_large(bytes: u64) -> Vec<Finding> {
    let what = || format!("has {bytes} bytes in release; at most {MAX_AGENT_BYTES} are allowed");
    (bytes > MAX_AGENT_BYTES)
        .then(|| Finding::new(AGENT, what()))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_counted_once_and_foreign_ones_found() {
        let tree = "grid-agent v0.1.0 (here)\nclap v4.0.0\nkube-core v1.0.0\nclap v4.0.0 (*)\n\nkubernetes-names v1.0.0\n";
        let names = dependencies(tree);
        assert_eq!(names.len(), 3, "{names:?}");
        let default = |names: &BTreeSet<String>| foreign("default features", None, names);
        assert_eq!(
            default(&names),
            [Finding::new(AGENT, "has `kube-core` with default features")]
        );
        let plain = dependencies("grid-agent v0.1.0\nserde v1.0.0");
        assert_eq!(default(&plain), []);
        let docker = dependencies("grid-agent v0.1.0\nbollard v1.0.0\nbollard-stubs v1.0.0");
        assert_eq!(default(&docker).len(), 2);
        let with_docker = |names| foreign("platform-docker", Some("platform-docker"), names);
        assert_eq!(with_docker(&docker), []);
        assert_eq!(with_docker(&names).len(), 2, "kube, and no bollard");
        assert_eq!(
            with_docker(&plain),
            [Finding::new(AGENT, "has no `bollard` with platform-docker")]
        );
        let cluster = dependencies("grid-agent v0.1.0\nkube v1.0.0\nkube-client v1.0.0");
        let with_cluster = |it| foreign("platform-kubernetes", Some("platform-kubernetes"), it);
        assert_eq!(with_cluster(&cluster), []);
        assert_eq!(with_cluster(&docker).len(), 3, "bollard, and no kube");
    }

    #[test]
    fn every_feature_is_compiled_alone() {
        let features = ["all-platforms", "default", "platform-process"].map(String::from);
        let expect = [
            None,
            Some("all-platforms".into()),
            Some("platform-process".into()),
        ];
        assert_eq!(sets(&features), expect);
    }

    #[test]
    fn an_agent_too_large_is_found() {
        assert_eq!(too_large(MAX_AGENT_BYTES), []);
        assert_eq!(too_large(MAX_AGENT_BYTES + 1).len(), 1);
    }
}
