//! Checks of what each crate has to have: a README that is its documentation, and an adapter its rooms.

use std::collections::BTreeSet;

use super::Finding;
use super::tree::Tree;

/// A check by its name.
type Check = (&'static str, fn(&Tree) -> Vec<Finding>);

/// All checks of this file.
pub(super) const CHECKS: &[Check] = &[
    ("each crate has a README that is its documentation", readmes),
    ("each adapter has its rooms", rooms),
];

/// What every adapter has, so that who knows one knows all.
const ROOMS: [&str; 7] = [
    "src/lib.rs",
    "src/config.rs",
    "src/platform.rs",
    "src/translate.rs",
    "src/watch.rs",
    "src/error.rs",
    "tests/conformance.rs",
];

fn readmes(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in members(tree) {
        let dir = format!("crates/{name}");
        if tree.get(&format!("{dir}/README.md")).is_none() {
            findings.push(Finding::new(dir, "has no README.md"));
            continue;
        }
        let roots = ["src/lib.rs", "src/main.rs"].map(|root| format!("{dir}/{root}"));
        // A program beside a library is thin; the library is what is documented.
        let root = roots.iter().find_map(|root| tree.get(root));
        if let Some(root) = root.filter(|root| {
            !root
                .text
                .contains("#![doc = include_str!(\"../README.md\")]")
        }) {
            findings.push(Finding::new(
                &root.path,
                "does not include README.md as its documentation",
            ));
        }
    }
    findings
}

fn rooms(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in members(tree).into_iter().filter(|name| is_adapter(name)) {
        for room in ROOMS {
            // A room that has grown is a directory of its name.
            let path = format!("crates/{name}/{room}");
            let grown = path.replace(".rs", "/mod.rs");
            if tree.get(&path).is_none() && tree.get(&grown).is_none() {
                findings.push(Finding::new(
                    format!("crates/{name}"),
                    format!("has no {room}"),
                ));
            }
        }
    }
    findings
}

/// The names of the crates.
fn members(tree: &Tree) -> BTreeSet<&str> {
    let manifests = tree
        .files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"));
    manifests.filter_map(|file| file.member()).collect()
}

/// Whether the crate of this name is a platform's adapter.
pub(super) fn is_adapter(name: &str) -> bool {
    let around = [
        "grid-platform-api",
        "grid-platform-host",
        "grid-platform-testing",
    ];
    name.starts_with("grid-platform-") && !around.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_has_a_readme_and_shows_it() {
        let doc = "#![doc = include_str!(\"../README.md\")]";
        let tree = Tree::of(&[
            ("crates/a/Cargo.toml", ""),
            ("crates/a/README.md", ""),
            ("crates/a/src/lib.rs", doc),
            ("crates/a/src/main.rs", ""),
            ("crates/b/Cargo.toml", ""),
            ("crates/c/Cargo.toml", ""),
            ("crates/c/README.md", ""),
            ("crates/c/src/main.rs", "//! c"),
        ]);
        let found: Vec<String> = readmes(&tree)
            .into_iter()
            .map(|finding| finding.place)
            .collect();
        assert_eq!(found, ["crates/b", "crates/c/src/main.rs"]);
    }

    #[test]
    fn an_adapter_has_all_rooms() {
        let mut files = vec![
            ("crates/grid-platform-acme/Cargo.toml", ""),
            ("crates/grid-platform-api/Cargo.toml", ""),
        ];
        let paths: Vec<String> = ROOMS
            .iter()
            .map(|room| format!("crates/grid-platform-acme/{room}"))
            .collect();
        files.extend(paths.iter().map(|path| (path.as_str(), "")));
        assert_eq!(rooms(&Tree::of(&files)), []);
        files.retain(|(path, _)| !path.ends_with("watch.rs"));
        assert_eq!(rooms(&Tree::of(&files)).len(), 1);
        files.push(("crates/grid-platform-acme/src/watch/mod.rs", ""));
        assert_eq!(rooms(&Tree::of(&files)), []);
    }
}
