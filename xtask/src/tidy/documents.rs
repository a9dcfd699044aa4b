//! Checks of what documents say: links lead somewhere, and commands exist.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use clap::CommandFactory;

use super::Finding;
use super::tree::{File, Tree};
use crate::fail::Result;
use crate::sh;

/// A check by its name.
type Check = (&'static str, fn(&Tree) -> Vec<Finding>);

/// The checks of this file that compile nothing.
pub(super) const CHECKS: &[Check] = &[("links in documents lead somewhere", links)];

/// The programs whose commands documents name, besides `cargo xtask`.
const PROGRAMS: [&str; 3] = ["grid", "grid-agent", "grid-master"];

/// Each program with its subcommands.
type Commands = BTreeMap<&'static str, BTreeSet<String>>;

/// Looks whether the commands of our programs in documents exist.
pub(super) fn commands(tree: &Tree) -> Result<Vec<Finding>> {
    sh::build(&["--workspace"])?;
    let built = sh::target_dir()?.join("debug");
    let mut known = Commands::new();
    for program in PROGRAMS {
        let help = sh::output(
            Command::new(built.join(program))
                .arg("--help")
                .stdin(Stdio::null()),
        )?;
        known.insert(program, subcommands(&help));
    }
    let xtask = crate::Args::command();
    let names = xtask
        .get_subcommands()
        .map(|command| command.get_name().to_owned());
    known.insert("xtask", names.collect());
    Ok(unknown_commands(tree, &known))
}

/// The subcommands in a `--help` of clap's.
fn subcommands(help: &str) -> BTreeSet<String> {
    let lines = help
        .lines()
        .skip_while(|line| line.trim() != "Commands:")
        .skip(1);
    let list = lines.take_while(|line| line.starts_with("  "));
    // A line that is further in goes on with the text of the one before.
    let names = list.filter(|line| !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn unknown_commands(tree: &Tree, known: &Commands) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| is_document(file)) {
        for (number, line) in code_lines(&file.text) {
            for (program, command) in commands_in(line, known) {
                if !known[program].contains(command) {
                    let what = format!("names `{program} {command}`, which does not exist");
                    findings.push(Finding::new(format!("{}:{number}", file.path), what));
                }
            }
        }
    }
    findings
}

/// The programs of ours that a line of shell calls, each with its subcommand.
fn commands_in<'a>(line: &'a str, known: &Commands) -> Vec<(&'static str, &'a str)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut found = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let before = index.checked_sub(1).map(|index| words[index]);
        // A program stands at the start, behind cargo, or behind what ties two commands together.
        let is_called = matches!(
            before,
            None | Some("$" | "cargo" | "|" | "&&" | ";" | "sudo")
        );
        let name = word.rsplit('/').next().unwrap_or(word);
        let is_ours = if name == "xtask" {
            before == Some("cargo")
        } else {
            is_called
        };
        let Some((program, _)) = known.get_key_value(name).filter(|_| is_ours) else {
            continue;
        };
        // A word behind an option may be its value.
        let is_option = |index: usize| words[index].starts_with('-');
        let mut rest = index + 1..words.len();
        let command = rest
            .find(|at| !is_option(*at) && !is_option(at - 1))
            .map(|at| words[at]);
        // An upper-case or bracketed word stands for one.
        let is_name = |word: &&str| {
            word.chars()
                .all(|char| char.is_ascii_lowercase() || char == '-')
        };
        found.extend(command.filter(is_name).map(|command| (*program, command)));
    }
    found
}

/// The lines of fenced shell code and the pieces of inline code, with their line numbers.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fence: Option<bool> = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            fence = match fence {
                None => Some(["sh", "bash", "shell", "console"].contains(&info.trim())),
                Some(_) => None,
            };
        } else if fence == Some(true) {
            let line = line.split(" # ").next().unwrap_or(line);
            found.push((index + 1, line));
        } else if fence.is_none() {
            found.extend(
                line.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(|code| (index + 1, code)),
            );
        }
    }
    found
}

fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| is_document(file)) {
        let dir = file.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for (index, line) in file.text.lines().enumerate() {
            for target in targets(line) {
                let path = join(dir, target.split('#').next().unwrap_or_default());
                let is_file = tree.get(&path).is_some();
                let is_dir = || {
                    tree.files
                        .iter()
                        .any(|file| file.path.starts_with(&format!("{path}/")))
                };
                if !is_file && !is_dir() {
                    findings.push(Finding::new(
                        format!("{}:{}", file.path, index + 1),
                        format!("links to `{target}`, which is not there"),
                    ));
                }
            }
        }
    }
    findings
}

/// The targets of a line's links that are paths in this repository.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for piece in line.split("](").skip(1) {
        let target = piece.split(')').next().unwrap_or_default();
        // What names an item of the code is rustdoc's to check.
        let is_item = target.contains("::") || target.contains('@') || !target.contains(['/', '.']);
        let is_elsewhere = target.contains("://") || target.starts_with('#');
        if !is_item && !is_elsewhere && !target.contains(char::is_whitespace) {
            found.push(target);
        }
    }
    found
}

/// The path seen from the root.
fn join(dir: &str, target: &str) -> String {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether it is a document for people.
fn is_document(file: &File) -> bool {
    file.path.ends_with(".md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_are_read_from_help() {
        let help = "The grid\n\nUsage: grid <COMMAND>\n\nCommands:\n  up     Bring it up,\n         all of it\n  nodes  List\n\nOptions:\n  -h\n";
        assert_eq!(
            subcommands(help),
            BTreeSet::from(["up".to_owned(), "nodes".to_owned()])
        );
    }

    #[test]
    fn commands_that_do_not_exist_are_found() {
        let text = "`cargo grid fly` and `grid up`, `GRID`\n```sh\ncargo grid up --nodes 3 && ./target/release/grid sing a\n$ grid -o json nodes # grid dance\ncargo xtask test | cargo xtask cook\nls grid x\ngrid COMMAND\n```\n```toml\ngrid nope\n```\n";
        let tree = Tree::of(&[("a.md", text)]);
        let known = Commands::from([
            ("grid", BTreeSet::from(["up".to_owned()])),
            ("xtask", BTreeSet::from(["test".to_owned()])),
        ]);
        let found: Vec<String> = unknown_commands(&tree, &known)
            .iter()
            .map(Finding::to_string)
            .collect();
        let expect = [
            "a.md:1: names `grid fly`, which does not exist",
            "a.md:3: names `grid sing`, which does not exist",
            "a.md:4: names `grid nodes`, which does not exist",
            "a.md:5: names `xtask cook`, which does not exist",
        ];
        assert_eq!(found, expect);
    }

    #[test]
    fn links_lead_to_files_or_directories() {
        let text = "[a](b.md#part) [c](../d) [e](https://x.org/y) [f](#here) [g](gone.md)\n[`T`](crate::T) [`c`](fn@c) [`d`](D)";
        let tree = Tree::of(&[("docs/a.md", text), ("docs/b.md", ""), ("d/e.rs", "")]);
        let found = links(&tree);
        assert_eq!(
            found,
            [Finding::new(
                "docs/a.md:1",
                "links to `gone.md`, which is not there"
            )]
        );
    }
}
