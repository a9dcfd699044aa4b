//! `cargo xtask chaos`: builds a grid that can be made to fail, and grid-chaos, which breaks it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use grid_testbed::Kind;

use crate::fail::{Fail, Result};
use crate::{engines, image, kubernetes, sh};

/// The package of the harness: a program of its own, so that tests and checks need not compile it.
const PACKAGE: &str = "grid-chaos";
/// The platforms that [`run_in_tests`] tries.
pub(crate) const PLATFORMS: [&str; 3] = ["process", "docker", "kubernetes"];
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
    sh::run(build(platform(&args.args), release)?.args(&args.args))
}

/// The platform that is named there.
fn platform(args: &[String]) -> &str {
    let behind = args.iter().skip_while(|it| *it != "--platform").nth(1);
    let within = args.iter().find_map(|it| it.strip_prefix("--platform="));
    within.or(behind.map(String::as_str)).unwrap_or("process")
}

/// Whether the workspace has the harness.
pub(crate) fn is_here() -> bool {
    sh::root().join("xtask/chaos/Cargo.toml").exists()
}

/// Whether a platform can be broken here; the reason why not. An engine or a cluster that is named is not to be broken.
pub(crate) fn can_run(platform: &str) -> std::result::Result<(), String> {
    match platform {
        "docker" => engines::get(Kind::Docker)
            .map_err(|why| format!("it needs an engine of its own: {why}")),
        "kubernetes" => {
            kubernetes::up_own().map_err(|why| format!("it needs this host's own cluster: {why}"))
        }
        _ => Ok(()),
    }
}

/// Runs the few faults that every change has to stand.
pub(crate) fn run_in_tests(platform: &str) -> Result<()> {
    let mut command = build(platform, false)?;
    sh::run(
        command
            .arg(format!("--platform={platform}"))
            .arg(format!("--seed={TEST_SEED}")),
    )
}

/// Builds everything; the command that runs the harness.
fn build(platform: &str, release: bool) -> Result<Command> {
    can_run(platform).map_err(|why| Fail::new(format!("cannot break `{platform}`: {why}")))?;
    let static_program = match platform {
        "docker" | "kubernetes" => Some(image::storage_server(!release)?),
        _ => None,
    };
    let profile = if release { "release" } else { "dev" };
    let packages = PROGRAMS.map(|name| if name == "grid" { "grid-cli" } else { name });
    let mut cargo = sh::cargo();
    cargo.args(["build", "--quiet", "--profile", profile]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let features =
        "grid-cli/fault-points,grid-agent/platform-docker,grid-agent/platform-kubernetes";
    sh::run(cargo.args(["--bins", "--features", features]))?;
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
    if let Some(program) = static_program {
        command.arg("--static-program").arg(program);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_is_the_one_that_is_named() {
        let check = |args: &[&str], expect: &str| {
            let args: Vec<String> = args.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(platform(&args), expect, "{args:?}");
        };
        check(&[], "process");
        check(&["--faults", "3"], "process");
        check(&["--faults", "3", "--platform", "docker"], "docker");
        check(&["--platform=docker", "--full"], "docker");
    }
}
