#![doc = include_str!("../README.md")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command; it speaks to the terminal"
)]

mod http;
mod process;
mod stats;
mod storage;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

/// Whatever goes wrong while measuring: it is told, and the run ends.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measures the grid beside its peers.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench --", bin_name = "cargo xtask bench --")]
struct Args {
    /// How often each thing is measured.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let rounds = args.rounds as usize;
    let cores = std::thread::available_parallelism()?;
    println!(
        "{cores} cores, kernel {}, {rounds} rounds, one client\n",
        kernel()
    );
    println!("{}", stats::HEAD);
    for measure in [process::measure, storage::measure] {
        for row in measure(rounds)? {
            println!("{row}");
        }
    }
    Ok(())
}

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

/// Writes a file that a power cut leaves whole: synced itself, and its name in its directory.
fn durable_write(path: &Path, body: &[u8]) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(body)?;
    file.sync_all()?;
    File::open(path.parent().unwrap_or(path))?.sync_all()?;
    Ok(())
}
