//! `cargo xtask chaos`: builds a grid that can be made to fail, and grid-chaos, which breaks it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::fail::{Fail, Result};
use crate::sh;

/// The package of the harness: a program of its own, so that tests and checks need not compile it.
const PACKAGE: &str = "grid-chaos";
/// The platform that [`run_in_tests`] tries.
pub(crate) const PLATFORM: &str = "process";
/// The programs that are broken.
const PROGRAMS: [&str; 3] = ["grid", "grid-master", "grid-agent"];
/// The plan that `cargo xtask test` follows, so that one run of it is like the other.
const TEST_SEED: u64 = 1;

/// Arguments of `cargo xtask chaos`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Break a release build, as a full run does anyway.
    #[arg(long)]
    release: bool,
    /// Handed to grid-chaos: `--platform`, `--nodes`, `--faults`, `--seed`, `--full`, `-o json`, `--help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs `cargo xtask chaos`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let release = args.release || args.args.iter().any(|it| it == "--full");
    sh::run(build(release)?.args(&args.args))
}

/// Whether the workspace has the harness.
pub(crate) fn is_here() -> bool {
    sh::root().join("xtask/chaos/Cargo.toml").exists()
}

/// Runs the few faults that every change has to stand.
pub(crate) fn run_in_tests() -> Result<()> {
    sh::run(build(false)?.arg(format!("--seed={TEST_SEED}")))
}

/// Builds everything; the command that runs the harness.
fn build(release: bool) -> Result<Command> {
    let profile = if release { "release" } else { "dev" };
    let packages = PROGRAMS.map(|name| if name == "grid" { "grid-cli" } else { name });
    let mut cargo = sh::cargo();
    cargo.args(["build", "--quiet", "--profile", profile]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    sh::run(cargo.args(["--bins", "--features", "grid-cli/fault-points"]))?;
    let built = sh::target_dir()?.join(if release { "release" } else { "debug" });
    let place = set_aside(&built)?;
    sh::run(sh::cargo().args([
        "build",
        "--quiet",
        "--profile",
        profile,
        "--package",
        PACKAGE,
    ]))?;
    let mut command = Command::new(built.join(PACKAGE));
    command.arg("--programs").arg(place);
    Ok(command)
}

/// Moves the programs out of cargo's way: nobody shall find one that can be made to fail where the others lie.
fn set_aside(built: &std::path::Path) -> Result<PathBuf> {
    let place = built.join("with-fault-points");
    let broken =
        |what: &str, error: std::io::Error| Fail::new(format!("cannot move `{what}`: {error}"));
    fs::create_dir_all(&place).map_err(|e| broken("programs", e))?;
    for name in PROGRAMS {
        fs::rename(built.join(name), place.join(name)).map_err(|e| broken(name, e))?;
    }
    Ok(place)
}
