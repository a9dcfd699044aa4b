#![doc = include_str!("../README.md")]

mod args;
mod commands;
mod context;
mod error;
mod local;
mod output;
mod parts;
mod progress;
mod render;
mod secrets;
mod table;
mod wait;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error::Error::failed("cannot start").with_source(&error))
        .and_then(|runtime| {
            let result = runtime.block_on(commands::run(cli));
            // Reads of a terminal cannot be taken back; they end with the process.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.unheard => ExitCode::SUCCESS,
        Err(error) => {
            output::report(&error.report);
            ExitCode::from(error.exit as u8)
        }
    }
}
