//! Checks that read sources and other tracked text.

use super::Finding;
use super::code::{code_only, has_word, lines_with, without_tests};
use super::tree::{File, Tree};

/// A check by its name.
type Check = (&'static str, fn(&Tree) -> Vec<Finding>);

/// All checks of this file.
pub(super) const CHECKS: &[Check] = &[
    ("files of at most 800 lines", file_sizes),
    ("no unfinished work", unfinished),
    ("no ignored examples", ignored_fences),
    ("no paths of one machine", machine_paths),
    ("environment read in grid-config only", environment),
    ("scheduler without store, tokio and tonic", scheduler),
];

/// Where a file is asked what second thing moved in.
const MAX_LINES: usize = 800;

fn file_sizes(tree: &Tree) -> Vec<Finding> {
    let sources = tree
        .files
        .iter()
        .filter(|file| file.is_rust() || file.path.ends_with(".proto"));
    let long = sources.filter_map(|file| {
        let lines = file.text.lines().count();
        (lines > MAX_LINES).then(|| Finding::new(&file.path, format!("has {lines} lines")))
    });
    long.collect()
}

fn unfinished(tree: &Tree) -> Vec<Finding> {
    // Put together here, so that this file is not found by its own words.
    let notes = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_rust()) {
        let code = code_only(&file.text);
        for name in ["todo!", "unimplemented!", "dbg!"] {
            for line in lines_with(&code, name) {
                findings.push(at(file, line, format!("has `{name}`")));
            }
        }
        for note in notes {
            for line in lines_with(&file.text, note) {
                findings.push(at(file, line, format!("has `{note}`")));
            }
        }
    }
    findings
}

fn ignored_fences(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree
        .files
        .iter()
        .filter(|file| file.is_rust() || file.path.ends_with(".md"))
    {
        for (index, line) in file.text.lines().enumerate() {
            let text = line
                .trim_start()
                .trim_start_matches(['/', '!'])
                .trim_start();
            let Some(info) = text.strip_prefix("```") else {
                continue;
            };
            if info.split([',', ' ']).any(|word| word == "ignore") {
                let what = "has an ignored example, which hides drift; let it compile, or fence it as `text`";
                findings.push(at(file, index + 1, what));
            }
        }
    }
    findings
}

fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let mut findings = Vec::new();
    for file in &tree.files {
        for path in paths {
            for (index, line) in file.text.lines().enumerate() {
                // `a/work/b` is a path within something; only one from the root is a machine's.
                let from_root = |(place, _): (usize, &str)| {
                    let before = line[..place].chars().next_back();
                    !before.is_some_and(|char| char.is_alphanumeric() || "._-}*".contains(char))
                };
                if line.match_indices(path).any(from_root) {
                    findings.push(at(file, index + 1, format!("names `{path}`")));
                }
            }
        }
    }
    findings
}

fn environment(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_shipped()) {
        // The testing crate is part of tests, and its probe program is there to write down what environment it got.
        let free = ["grid-config", "grid-platform-testing"];
        if file.member().is_some_and(|name| free.contains(&name)) || is_test_module(file) {
            continue;
        }
        let code = without_tests(&code_only(&file.text));
        for word in ["env::var", "env::vars", "env::var_os", "env::vars_os"] {
            for line in lines_with(&code, word) {
                findings.push(at(
                    file,
                    line,
                    format!("has `{word}`; settings are read by grid-config"),
                ));
            }
        }
        for line in imports_from_env(&code) {
            findings.push(at(
                file,
                line,
                "imports a reader of the environment; settings are read by grid-config",
            ));
        }
        if file.member() != Some("grid-cli") {
            for line in clap_env(&code) {
                findings.push(at(
                    file,
                    line,
                    "has clap's `env`, which only grid-cli may use",
                ));
            }
        }
    }
    findings
}

/// Lines of `use std::env::{...}` (or `use std::{env::{...}}`) that bring `var` and its kin in by name.
fn imports_from_env(code: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (start, _) in code.match_indices("env::{") {
        let list = code[start..].split('}').next().unwrap_or_default();
        if ["var", "vars", "var_os", "vars_os"]
            .iter()
            .any(|word| has_word(list, word))
        {
            lines.push(line_of(code, start));
        }
    }
    lines
}

/// Lines of clap attributes with an `env` in them.
fn clap_env(code: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for attribute in ["#[arg(", "#[clap("] {
        for (start, _) in code.match_indices(attribute) {
            let text = code[start..].split(")]").next().unwrap_or_default();
            if has_word(text, "env") {
                lines.push(line_of(code, start));
            }
        }
    }
    lines
}

fn scheduler(tree: &Tree) -> Vec<Finding> {
    let is_scheduler =
        |file: &&File| file.is_rust() && file.path.starts_with("crates/grid-master/src/scheduler");
    let files: Vec<&File> = tree.files.iter().filter(is_scheduler).collect();
    if files.is_empty() {
        return vec![Finding::new(
            "crates/grid-master/src",
            "has no scheduler module to check",
        )];
    }
    let mut findings = Vec::new();
    for file in files {
        let code = without_tests(&code_only(&file.text));
        for word in [
            "tokio",
            "tonic",
            "redb",
            "crate::store",
            "super::store",
            "std::fs",
            "std::net",
        ] {
            for line in lines_with(&code, word) {
                findings.push(at(
                    file,
                    line,
                    format!("uses `{word}`; the scheduler is a pure function"),
                ));
            }
        }
        for line in lines_with(&code, "async") {
            findings.push(at(file, line, "is async; the scheduler is a pure function"));
        }
    }
    findings
}

/// Whether the file is a module of tests by its name, as `#[cfg(test)] mod tests;` has it.
fn is_test_module(file: &File) -> bool {
    file.path.ends_with("tests.rs")
        || file.path.contains("/src/tests/")
        || file.path.contains("/tests/")
}

fn at(file: &File, line: usize, what: impl Into<String>) -> Finding {
    Finding::new(format!("{}:{line}", file.path), what)
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(run: fn(&Tree) -> Vec<Finding>, files: &[(&str, &str)], expect: &[&str]) {
        let found: Vec<String> = run(&Tree::of(files))
            .into_iter()
            .map(|finding| finding.place)
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn long_files_are_found() {
        let (long, fit) = ("x\n".repeat(801), "x\n".repeat(800));
        check(
            file_sizes,
            &[("a.rs", &long), ("b.rs", &fit), ("c.md", &long)],
            &["a.rs"],
        );
    }

    #[test]
    fn unfinished_work_is_found_in_code_and_notes_anywhere() {
        let note = format!("// {}: later", concat!("TO", "DO"));
        check(
            unfinished,
            &[
                ("a.rs", "fn a() {\n    todo!()\n}"),
                ("b.rs", "// todo! is banned\nlet s = \"dbg!(x)\";"),
                ("c.rs", &note),
            ],
            &["a.rs:2", "c.rs:1"],
        );
    }

    #[test]
    fn ignored_examples_are_found() {
        let doc = format!("/// {}ignore\n/// x\n/// {0}\n", "```");
        let readme = format!("a\n{}rust,ignore\n", "```");
        check(
            ignored_fences,
            &[
                ("a.rs", &doc),
                ("b.md", &readme),
                ("c.md", "```text\nignore\n```"),
            ],
            &["a.rs:1", "b.md:2"],
        );
    }

    #[test]
    fn machine_paths_are_found_from_the_root_only() {
        let home = concat!("see /wo", "rk/x");
        let within = concat!("a/wo", "rk/x and {dir}/ro", "ot/y");
        check(
            machine_paths,
            &[("a.md", home), ("b.md", within)],
            &["a.md:1"],
        );
    }

    #[test]
    fn the_environment_is_read_in_one_crate() {
        let read = "fn f() { std::env::var(\"A\"); }";
        let import = "use std::env::{self, var};";
        let flag = "struct A {\n    #[arg(long, env = \"A\")]\n    a: String,\n}";
        let test = "#[cfg(test)]\nmod tests { fn f() { std::env::var_os(\"A\"); } }";
        check(
            environment,
            &[
                ("crates/grid-agent/src/a.rs", read),
                ("crates/grid-agent/src/b.rs", import),
                ("crates/grid-agent/src/c.rs", flag),
                ("crates/grid-agent/src/d.rs", test),
                (
                    "crates/grid-agent/src/e.rs",
                    "use std::env::{self, args}; fn f() { env!(\"A\"); }",
                ),
                ("crates/grid-agent/build.rs", read),
                ("crates/grid-agent/tests/a.rs", read),
                ("crates/grid-cli/src/c.rs", flag),
                ("crates/grid-config/src/lib.rs", read),
                ("xtask/src/main.rs", read),
            ],
            &[
                "crates/grid-agent/src/a.rs:1",
                "crates/grid-agent/src/b.rs:1",
                "crates/grid-agent/src/c.rs:2",
            ],
        );
    }

    #[test]
    fn the_scheduler_is_pure_and_there() {
        check(
            scheduler,
            &[("crates/grid-master/src/lib.rs", "")],
            &["crates/grid-master/src"],
        );
        check(
            scheduler,
            &[
                (
                    "crates/grid-master/src/scheduler.rs",
                    "use std::collections::BTreeMap;\n// tokio\n",
                ),
                (
                    "crates/grid-master/src/scheduler/spread.rs",
                    "use crate::store::Node;\nuse tokio::time;",
                ),
            ],
            &[
                "crates/grid-master/src/scheduler/spread.rs:2",
                "crates/grid-master/src/scheduler/spread.rs:1",
            ],
        );
    }
}
