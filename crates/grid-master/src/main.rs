//! The master as a program.

use std::process::ExitCode;

use clap::Parser;
use grid_config::Environment;
use grid_master::cli::Args;

#[tokio::main]
async fn main() -> ExitCode {
    Args::parse().execute(&Environment::of_process()).await
}
