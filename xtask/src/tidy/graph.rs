//! The packages and who depends on whom, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fail::Result;
use crate::sh;

/// Why one package depends on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What is built depends on it.
    Normal,
    /// The build script does.
    Build,
    /// Only tests do.
    Dev,
}

/// A package of the graph.
#[derive(Debug, Default)]
pub(super) struct Package {
    /// Its name; two versions of one package are two packages of one name.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// Its licence as an SPDX expression, where it states one.
    pub(super) license: Option<String>,
    /// Where it comes from; nothing for a path.
    pub(super) source: Option<String>,
    /// Whether it is a member of this workspace.
    pub(super) member: bool,
    /// Its features.
    pub(super) features: Vec<String>,
    /// What it depends on, with all features: index in [`Graph::packages`] and kind.
    pub(super) dependencies: Vec<(usize, Kind)>,
}

/// All packages, with all features and for all targets.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// In cargo's order.
    pub(super) packages: Vec<Package>,
}

impl Graph {
    /// Reads this workspace.
    pub(super) fn of_repository() -> Result<Self> {
        let mut command = sh::cargo();
        command.args(["metadata", "--format-version=1", "--all-features"]);
        Ok(Self::of_metadata(&sh::json(&mut command)?))
    }

    fn of_metadata(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let members: BTreeSet<_> = list(&metadata["workspace_members"])
            .iter()
            .filter_map(text)
            .collect();
        let mut index = BTreeMap::new();
        let mut graph = Self::default();
        for package in list(&metadata["packages"]) {
            let id = text(&package["id"]).unwrap_or_default();
            graph.packages.push(Package {
                name: text(&package["name"]).unwrap_or_default(),
                version: text(&package["version"]).unwrap_or_default(),
                license: text(&package["license"]),
                source: text(&package["source"]),
                member: members.contains(&id),
                features: package["features"]
                    .as_object()
                    .map(|features| features.keys().cloned().collect())
                    .unwrap_or_default(),
                dependencies: Vec::new(),
            });
            index.insert(id, graph.packages.len() - 1);
        }
        for node in list(&metadata["resolve"]["nodes"]) {
            let Some(&from) = text(&node["id"]).and_then(|id| index.get(&id)) else {
                continue;
            };
            for dependency in list(&node["deps"]) {
                let Some(&to) = text(&dependency["pkg"]).and_then(|id| index.get(&id)) else {
                    continue;
                };
                for kind in list(&dependency["dep_kinds"]) {
                    let kind = match kind["kind"].as_str() {
                        Some("dev") => Kind::Dev,
                        Some("build") => Kind::Build,
                        _ => Kind::Normal,
                    };
                    graph.packages[from].dependencies.push((to, kind));
                }
            }
        }
        graph
    }

    /// The workspace's members.
    pub(super) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.member)
    }

    /// The member of this name.
    pub(super) fn member(&self, name: &str) -> Option<&Package> {
        self.members().find(|package| package.name == name)
    }

    /// The names of what the package depends on itself, its tests included.
    pub(super) fn direct(&self, package: &Package) -> BTreeSet<&str> {
        package
            .dependencies
            .iter()
            .map(|(to, _)| self.packages[*to].name.as_str())
            .collect()
    }

    /// The names of what is built into the package, through any number of steps, but not through the packages named
    /// in `closed`.
    pub(super) fn reach(&self, package: &Package, closed: &[&str]) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut queue: Vec<&Package> = vec![package];
        while let Some(package) = queue.pop() {
            for (to, kind) in &package.dependencies {
                let next = &self.packages[*to];
                let is_built_in = *kind == Kind::Normal;
                if is_built_in
                    && !closed.contains(&next.name.as_str())
                    && seen.insert(next.name.as_str())
                {
                    queue.push(next);
                }
            }
        }
        seen
    }

    /// A graph of members with these normal dependencies, for tests. A `dev:` before a name makes it a test's.
    #[cfg(test)]
    pub(super) fn of(edges: &[(&str, &[&str])]) -> Self {
        let mut graph = Self::default();
        let place = |graph: &mut Self, name: &str| {
            let found = graph
                .packages
                .iter()
                .position(|package| package.name == name);
            found.unwrap_or_else(|| {
                graph.packages.push(Package {
                    name: name.to_owned(),
                    version: "1.0.0".into(),
                    member: edges.iter().any(|(member, _)| *member == name),
                    ..Package::default()
                });
                graph.packages.len() - 1
            })
        };
        for (from, dependencies) in edges {
            let from = place(&mut graph, from);
            for name in *dependencies {
                let kind = if name.starts_with("dev:") {
                    Kind::Dev
                } else {
                    Kind::Normal
                };
                let to = place(&mut graph, name.trim_start_matches("dev:"));
                graph.packages[from].dependencies.push((to, kind));
            }
        }
        graph
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read() {
        let metadata = serde_json::json!({
            "workspace_members": ["a"],
            "packages": [
                {"id": "a", "name": "a", "version": "1.0.0", "license": "MIT", "source": null, "features": {"x": []}},
                {"id": "b", "name": "b", "version": "2.0.0", "license": null, "source": "registry+here", "features": {}},
            ],
            "resolve": {"nodes": [
                {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": null}, {"kind": "dev"}]}]},
                {"id": "b", "deps": []},
            ]},
        });
        let graph = Graph::of_metadata(&metadata);
        let a = graph.member("a").expect("a is a member");
        assert_eq!(a.dependencies, [(1, Kind::Normal), (1, Kind::Dev)]);
        assert_eq!(
            (a.features.as_slice(), a.license.as_deref()),
            (["x".to_owned()].as_slice(), Some("MIT"))
        );
        assert!(graph.member("b").is_none());
        assert_eq!(graph.packages[1].source.as_deref(), Some("registry+here"));
    }

    #[test]
    fn reach_is_what_is_built_in() {
        let graph = Graph::of(&[
            ("a", &["b", "dev:t"]),
            ("b", &["c"]),
            ("c", &[]),
            ("t", &[]),
        ]);
        let a = graph.member("a").expect("a is a member");
        assert_eq!(graph.reach(a, &[]), BTreeSet::from(["b", "c"]));
        assert_eq!(graph.reach(a, &["b"]), BTreeSet::new());
        assert_eq!(graph.direct(a), BTreeSet::from(["b", "t"]));
    }
}
