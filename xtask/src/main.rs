#![doc = include_str!("../README.md")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command; it speaks to the terminal"
)]

mod bench;
mod chaos;
mod engines;
mod fail;
mod fuzz;
mod image;
mod kubernetes;
mod needs;
mod sh;
mod test;
mod testbed;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the tests, with a line per platform, and sum them up.
    Test(test::Args),
    /// Measure the grid beside its peers, in a release build.
    Bench(bench::Args),
    /// Run the fuzz targets, each under what libFuzzer makes up.
    Fuzz(fuzz::Args),
    /// Break a grid at random instants, and take a census of what is left.
    Chaos(chaos::Args),
    /// Build the images of agent, master and storage server on an engine, FROM scratch.
    Image(image::Args),
    /// What tests need from outside: bring it up, take it down, look.
    Testbed(testbed::Args),
    /// Check what the compiler does not: lints, edges, sizes, licences, feature sets, documents.
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Chaos(args) => chaos::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Testbed(args) => testbed::run(&args),
        Task::Tidy(args) => tidy::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            eprint!("{fail}");
            ExitCode::FAILURE
        }
    }
}
