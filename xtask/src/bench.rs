//! `cargo xtask bench`: builds grid-bench in release and runs it.

use crate::fail::Result;
use crate::sh;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Handed to grid-bench; `-- --help` lists them.
    #[arg(last = true)]
    args: Vec<String>,
}

/// Runs `cargo xtask bench`.
pub(crate) fn run(args: &Args) -> Result<()> {
    // It is a program of its own, so that tests and checks need not compile what is measured.
    sh::run(
        sh::cargo()
            .args([
                "run",
                "--quiet",
                "--release",
                "--package",
                "grid-bench",
                "--",
            ])
            .args(&args.args),
    )
}
