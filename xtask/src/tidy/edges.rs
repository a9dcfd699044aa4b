//! Who may know whom: the house's forbidden edges.

use std::collections::BTreeSet;

use super::Finding;
use super::graph::{Graph, Package};
use super::rooms::is_adapter;

/// Every edge that is there and may not be.
pub(super) fn check(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in graph.members() {
        match package.name.as_str() {
            "grid-platform-api" => {
                let words = ["tonic", "bollard", "kube", "figment"];
                forbid(&mut findings, package, &graph.reach(package, &[]), |name| {
                    words.contains(&name) || name.starts_with("grid-")
                });
            }
            "grid-platform-host" | "grid-platform-testing" => {
                forbid(&mut findings, package, &graph.reach(package, &[]), |name| {
                    name.starts_with("grid-") && name != "grid-platform-api"
                })
            }
            name if is_adapter(name) => {
                let known = [
                    "grid-platform-api",
                    "grid-platform-host",
                    "grid-platform-testing",
                ];
                let foreign = |name: &str| name.starts_with("grid-") && !known.contains(&name);
                // Its tests may have engines of their own.
                let foreign_to_tests = |name: &str| foreign(name) && name != "grid-testbed";
                forbid(
                    &mut findings,
                    package,
                    &graph.direct(package),
                    foreign_to_tests,
                );
                forbid(&mut findings, package, &graph.reach(package, &[]), foreign);
            }
            "grid-master" => {
                forbid(&mut findings, package, &graph.direct(package), is_adapter);
                forbid(
                    &mut findings,
                    package,
                    &graph.reach(package, &[]),
                    is_adapter,
                );
            }
            // The CLI forwards platform features to the agent, and knows no adapter by itself.
            "grid-cli" => {
                forbid(&mut findings, package, &graph.direct(package), is_adapter);
                forbid(
                    &mut findings,
                    package,
                    &graph.reach(package, &["grid-agent"]),
                    is_adapter,
                );
            }
            _ => {}
        }
    }
    findings
}

fn forbid(
    findings: &mut Vec<Finding>,
    package: &Package,
    known: &BTreeSet<&str>,
    is_forbidden: impl Fn(&str) -> bool,
) {
    for name in known.iter().filter(|name| is_forbidden(name)) {
        findings.push(Finding::new(
            &package.name,
            format!("may not depend on `{name}`"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_as_it_is_meant_has_no_forbidden_edge() {
        let graph = Graph::of(&[
            ("grid-platform-api", &["serde"]),
            ("grid-platform-testing", &["grid-platform-api"]),
            ("grid-platform-host", &["grid-platform-api"]),
            (
                "grid-platform-process",
                &[
                    "grid-platform-api",
                    "grid-platform-host",
                    "dev:grid-platform-testing",
                ],
            ),
            (
                "grid-platform-docker",
                &["grid-platform-api", "dev:grid-testbed"],
            ),
            (
                "grid-platform-k8s",
                &["grid-platform-api", "grid-platform-host", "kube"],
            ),
            ("grid-testbed", &["rustix"]),
            ("grid-config", &["figment"]),
            (
                "grid-agent",
                &[
                    "grid-platform-k8s",
                    "grid-platform-process",
                    "grid-config",
                    "tonic",
                ],
            ),
            ("grid-master", &["grid-config", "tonic"]),
            ("grid-cli", &["grid-agent", "grid-master"]),
        ]);
        assert_eq!(check(&graph), []);
    }

    #[test]
    fn each_forbidden_edge_is_found() {
        let check = |edges: &[(&str, &[&str])], from: &str, to: &str| {
            let found = check(&Graph::of(edges));
            assert!(
                found.contains(&Finding::new(from, format!("may not depend on `{to}`"))),
                "{found:?}"
            );
        };
        let (docker, process) = ("grid-platform-docker", "grid-platform-process");
        check(&[(process, &[docker])], process, docker);
        let k8s = "grid-platform-k8s";
        check(&[(k8s, &[docker])], k8s, docker);
        check(&[("grid-master", &[k8s])], "grid-master", k8s);
        check(
            &[("grid-platform-api", &["kube"])],
            "grid-platform-api",
            "kube",
        );
        check(&[(process, &["grid-agent"])], process, "grid-agent");
        check(&[(process, &["dev:grid-proto"])], process, "grid-proto");
        check(&[(process, &["grid-config"])], process, "grid-config");
        check(&[(docker, &["grid-testbed"])], docker, "grid-testbed");
        check(&[("grid-master", &[process])], "grid-master", process);
        check(
            &[
                ("grid-master", &["grid-client"]),
                ("grid-client", &[process]),
            ],
            "grid-master",
            process,
        );
        check(
            &[("grid-cli", &["dev:grid-platform-process"])],
            "grid-cli",
            process,
        );
        check(
            &[("grid-platform-api", &["x"]), ("x", &["figment"])],
            "grid-platform-api",
            "figment",
        );
        check(
            &[("grid-platform-testing", &[process])],
            "grid-platform-testing",
            process,
        );
        check(
            &[("grid-platform-host", &[process])],
            "grid-platform-host",
            process,
        );
    }
}
