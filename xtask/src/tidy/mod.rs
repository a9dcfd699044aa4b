//! `cargo xtask tidy`: checks of what the compiler does not check. Each can fail, and each has tests that show it.

mod builds;
mod code;
mod documents;
mod edges;
mod graph;
mod manifests;
mod policy;
mod rooms;
mod sources;
mod tree;

use std::fmt;

use crate::fail::{Fail, Result};
use graph::Graph;
use tree::Tree;

/// Arguments of `cargo xtask tidy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out what has to compile: feature sets, the release build's size, the commands that documents name.
    #[arg(long)]
    quick: bool,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// The file, with its line where there is one, or the package.
    place: String,
    /// What is wrong there, as a sentence's part: lower case, no full stop.
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Runs `cargo xtask tidy`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let tree = Tree::of_repository()?;
    let mut report = Report::default();
    for (name, check) in manifests::CHECKS
        .iter()
        .chain(rooms::CHECKS)
        .chain(sources::CHECKS)
        .chain(documents::CHECKS)
    {
        report.add(name, check(&tree));
    }
    let graph = Graph::of_repository()?;
    report.add("no forbidden edges", edges::check(&graph));
    let deny = tree.get("deny.toml").map(|file| file.text.as_str());
    report.add(
        "licences, sources and bans by deny.toml",
        policy::check(&graph, deny),
    );
    report.add(
        "each agent free of other platforms' clients",
        builds::agents(&graph)?,
    );
    if !args.quick {
        report.add("commands in documents exist", documents::commands(&tree)?);
        report.add("feature sets compile", builds::feature_sets(&graph));
        report.add("size of the release agent", builds::release_size()?);
    }
    report.finish()
}

/// Prints each check's outcome as it comes.
#[derive(Debug, Default)]
struct Report {
    findings: usize,
}

impl Report {
    fn add(&mut self, name: &str, mut findings: Vec<Finding>) {
        findings.sort();
        findings.dedup();
        if findings.is_empty() {
            println!("tidy: {name}: ok");
            return;
        }
        println!("tidy: {name}: {}", count(findings.len()));
        for finding in &findings {
            println!("  {finding}");
        }
        self.findings += findings.len();
    }

    fn finish(self) -> Result<()> {
        if self.findings == 0 {
            return Ok(());
        }
        Err(Fail::new(format!("tidy has {}", count(self.findings))))
    }
}

fn count(findings: usize) -> String {
    match findings {
        1 => "1 finding".into(),
        n => format!("{n} findings"),
    }
}
