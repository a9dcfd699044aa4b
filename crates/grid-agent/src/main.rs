//! The agent as a program.

use std::process::ExitCode;

use clap::Parser;
use grid_agent::cli::Args;
use grid_config::Environment;

#[tokio::main]
async fn main() -> ExitCode {
    Args::parse().execute(&Environment::of_process()).await
}
