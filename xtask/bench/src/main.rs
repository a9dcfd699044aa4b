#![doc = include_str!("../README.md")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command; it speaks to the terminal"
)]

mod bench;
mod cleared;
mod cli;
mod clients;
mod control_plane;
mod docker;
mod grid;
mod groups;
mod http;
mod kubernetes;
mod lifecycle;
mod logs;
mod machine;
mod proc;
mod process;
mod program;
mod proxy;
mod report;
mod scale;
mod stats;
mod storage;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};

use bench::{Bench, Size};
use groups::{GROUPS, Group};
use machine::Machine;
use report::{Report, Table};

/// Whatever goes wrong while measuring: it is told, and the group ends.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measures the grid beside its peers.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench --",
    bin_name = "cargo xtask bench --",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Args {
    /// What is measured; everything when none is named.
    #[arg(value_name = "GROUP", value_parser = PossibleValuesParser::new(GROUPS.iter().map(|it| it.name)))]
    groups: Vec<String>,
    /// How often each thing that is measured in rounds is measured.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// One round, and everything as small as it can be: shows that it runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// The long runs too, each many times the size of the usual ones.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// What standard output gets.
    #[arg(short, long, default_value = "markdown")]
    output: Output,
    /// Puts the tables into this document too, each in its place there.
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// Where a program from outside is; `cargo xtask bench` finds or installs it.
    #[arg(long, value_name = "NAME=PATH", value_parser = name_and_value, hide = true)]
    program: Vec<(String, String)>,
    /// Why a program from outside is not there.
    #[arg(long, value_name = "NAME=WHY", value_parser = name_and_value, hide = true)]
    without: Vec<(String, String)>,
    /// Print the names of the programs from outside that the groups want, and measure nothing.
    #[arg(long, hide = true)]
    list_programs: bool,
    #[command(subcommand)]
    child: Option<Child>,
}

/// What this program is when a group starts it as a process of its own.
#[derive(Debug, clap::Subcommand)]
enum Child {
    /// Simulated agents.
    #[command(hide = true)]
    Agents(control_plane::simulator::Args),
    /// Followers of events.
    #[command(hide = true)]
    Followers(control_plane::followers::Args),
    /// A storage server.
    #[command(hide = true)]
    StorageServer(storage::server::Args),
    /// A program with much to say.
    #[command(hide = true)]
    LogWriter(logs::writer::Args),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// Tables for people.
    Markdown,
    /// For programs.
    Json,
}

fn name_and_value(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no `=`")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Gives whether every group came to its end. A missed target is a result, not a failure.
fn run(args: &Args) -> Result<bool> {
    match &args.child {
        Some(Child::Agents(args)) => return control_plane::simulator::serve(args).map(|()| true),
        Some(Child::Followers(args)) => {
            return control_plane::followers::serve(args).map(|()| true);
        }
        Some(Child::StorageServer(args)) => return storage::server::serve(args).map(|()| true),
        Some(Child::LogWriter(args)) => return logs::writer::run(args).map(|()| true),
        None => {}
    }
    let chosen = |group: &&Group| {
        args.groups.is_empty() || args.groups.iter().any(|name| name == group.name)
    };
    let groups: Vec<&Group> = GROUPS.iter().filter(chosen).collect();
    if args.list_programs {
        for name in groups.iter().flat_map(|it| it.programs) {
            println!("{name}");
        }
        return Ok(true);
    }
    // Read before the long part: it is what may be missing.
    let document = args
        .into
        .as_ref()
        .map(std::fs::read_to_string)
        .transpose()?;
    let mut report = Report {
        machine: Machine::this(&std::env::temp_dir()),
        tables: Vec::new(),
    };
    let rounds = if args.quick { 1 } else { args.rounds as usize };
    let size = match (args.quick, args.full) {
        (true, _) => Size::Quick,
        (_, true) => Size::Full,
        _ => Size::Usual,
    };
    let mut bench = Bench::new(rounds, size, programs(args));
    let mut whole = true;
    for group in groups {
        bench.enter(group.name);
        match measure(group, &bench) {
            Ok(table) => report.tables.push(table),
            Err(error) => {
                whole = false;
                eprintln!("error: `{}` was not measured: {error}", group.name);
            }
        }
    }
    match args.output {
        Output::Markdown => print!("{report}"),
        Output::Json => println!("{:#}", report.json()),
    }
    if let Some((path, document)) = args.into.as_ref().zip(document) {
        std::fs::write(path, report.write_into(&document)?)?;
    }
    for missed in report.tables.iter().flat_map(Table::missed) {
        eprintln!("missed: {missed}");
    }
    Ok(whole)
}

fn measure(group: &Group, bench: &Bench) -> Result<Table> {
    let table = Table {
        group: group.name,
        about: group.about,
        rows: (group.measure)(bench)?,
    };
    match table.mistakes().as_slice() {
        [] => Ok(table),
        mistakes => Err(mistakes.join("; ").into()),
    }
}

fn programs(args: &Args) -> BTreeMap<String, std::result::Result<PathBuf, String>> {
    let there = args.program.iter().cloned();
    let there = there.map(|(name, path)| (name, Ok(path.into())));
    let missing = args.without.iter().cloned();
    there
        .chain(missing.map(|(name, why)| (name, Err(why))))
        .collect()
}

/// Writes a file that a power cut leaves whole: synced itself, and its name in its directory.
fn durable_write(path: &Path, body: &[u8]) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(body)?;
    file.sync_all()?;
    File::open(path.parent().unwrap_or(path))?.sync_all()?;
    Ok(())
}
