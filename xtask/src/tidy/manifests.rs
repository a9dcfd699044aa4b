//! Checks of the members' manifests.

use toml::{Table, Value};

use super::Finding;
use super::tree::{File, Tree};

/// A check by its name.
type Check = (&'static str, fn(&Tree) -> Vec<Finding>);

/// All checks of this file.
pub(super) const CHECKS: &[Check] = &[
    ("lints inherited", lints),
    ("versions in the workspace only", versions),
    ("metadata inherited", metadata),
];

fn lints(tree: &Tree) -> Vec<Finding> {
    each(tree, |file, manifest| {
        let inherits = manifest.get("lints").is_some_and(from_workspace);
        let finding = || Finding::new(&file.path, "has no `[lints] workspace = true`");
        (!inherits).then(finding).into_iter().collect()
    })
}

fn versions(tree: &Tree) -> Vec<Finding> {
    each(tree, |file, manifest| {
        let mut tables = vec![manifest];
        if let Some(Value::Table(targets)) = manifest.get("target") {
            tables.extend(targets.values().filter_map(Value::as_table));
        }
        let mut findings = Vec::new();
        for table in tables {
            for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let Some(Value::Table(dependencies)) = table.get(kind) else {
                    continue;
                };
                for (name, _) in dependencies
                    .iter()
                    .filter(|(_, value)| !from_workspace(value))
                {
                    let what = format!(
                        "has `{name}` with a version or path of its own; write `{name}.workspace = true`"
                    );
                    findings.push(Finding::new(&file.path, what));
                }
            }
        }
        findings
    })
}

fn metadata(tree: &Tree) -> Vec<Finding> {
    each(tree, |file, manifest| {
        let package = manifest.get("package").and_then(Value::as_table);
        let own = |key: &&&str| {
            !package
                .and_then(|package| package.get(**key))
                .is_some_and(from_workspace)
        };
        let keys = ["version", "edition", "rust-version", "license", "publish"];
        keys.iter()
            .filter(own)
            .map(|key| Finding::new(&file.path, format!("has no `{key}.workspace = true`")))
            .collect()
    })
}

/// Runs a check over the manifest of every member.
fn each(tree: &Tree, check: impl Fn(&File, &Table) -> Vec<Finding>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree
        .files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
    {
        match file.text.parse::<Table>() {
            Ok(manifest) => findings.extend(check(file, &manifest)),
            Err(error) => findings.push(Finding::new(
                &file.path,
                format!("cannot be read: {}", error.message()),
            )),
        }
    }
    findings
}

/// Whether the entry is `workspace = true`, with more to it or not.
fn from_workspace(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "package.version.workspace = true\npackage.edition.workspace = true\n\
        package.rust-version.workspace = true\npackage.license.workspace = true\npackage.publish.workspace = true\n\
        [lints]\nworkspace = true\n\
        [dependencies]\na.workspace = true\nb = { workspace = true, optional = true }\n";

    fn check(run: fn(&Tree) -> Vec<Finding>, manifest: &str, expect: &[&str]) {
        let tree = Tree::of(&[
            ("Cargo.toml", "[workspace]"),
            ("crates/a/Cargo.toml", manifest),
        ]);
        let found: Vec<String> = run(&tree).into_iter().map(|finding| finding.what).collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (what, word) in found.iter().zip(expect) {
            assert!(what.contains(word), "{what}");
        }
    }

    #[test]
    fn a_crate_inherits_lints() {
        check(lints, GOOD, &[]);
        check(lints, "[package]\nname = \"a\"", &["lints"]);
        check(lints, "[lints.rust]\nunsafe_code = \"allow\"", &["lints"]);
    }

    #[test]
    fn a_version_of_its_own_is_found_in_every_table() {
        check(versions, GOOD, &[]);
        check(
            versions,
            "[dependencies]\na = \"1\"\n[dev-dependencies]\nb = { version = \"1\" }\n\
             [target.'cfg(unix)'.build-dependencies]\nc = { path = \"../c\" }",
            &["`a`", "`b`", "`c`"],
        );
    }

    #[test]
    fn metadata_of_its_own_is_found() {
        check(metadata, GOOD, &[]);
        let own = GOOD.replace(
            "package.license.workspace = true",
            "package.license = \"MIT\"",
        );
        check(metadata, &own, &["license"]);
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_found() {
        check(lints, "[", &["cannot be read"]);
    }
}
