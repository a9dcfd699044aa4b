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

/// Clients of platforms that a default agent does without.
const FOREIGN: [&str; 2] = ["bollard", "kube"];

/// The stripped release binary of the default agent is at most this large, in bytes: 12 MiB.
const MAX_AGENT_BYTES: u64 = 12 * 1024 * 1024;

/// Lists the default agent's dependencies, prints their number, and looks for those of other platforms.
pub(super) fn default_agent() -> Result<Vec<Finding>> {
    let tree = sh::output(sh::cargo().args([
        "tree",
        "--package",
        AGENT,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let names = dependencies(&tree);
    println!(
        "tidy: {AGENT} with default features: {} dependencies",
        names.len()
    );
    Ok(foreign(&names))
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

fn foreign(names: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in names.iter().filter_map(|name| name.split(' ').next()) {
        // `kube` comes with `kube-core` and others.
        let is_of = |client: &&str| {
            name == *client
                || name
                    .strip_prefix(*client)
                    .is_some_and(|rest| rest.starts_with('-'))
        };
        if FOREIGN.iter().any(is_of) {
            findings.push(Finding::new(
                AGENT,
                format!("has `{name}` with default features"),
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
        assert_eq!(
            foreign(&names),
            [Finding::new(AGENT, "has `kube-core` with default features")]
        );
        assert_eq!(
            foreign(&dependencies("grid-agent v0.1.0\nserde v1.0.0")),
            []
        );
        assert_eq!(
            foreign(&dependencies("grid-agent v0.1.0\nbollard v1.0.0")).len(),
            1
        );
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
