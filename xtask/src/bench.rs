//! `cargo xtask bench`: builds grid-bench and what it measures in release, sees to its peers, and runs it.

use grid_testbed::Kind;

use crate::engines::Raised;
use crate::fail::Result;
use crate::needs::{Met, NEEDS, PEERS};
use crate::sh;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Groups and options, handed to grid-bench; `cargo xtask bench -- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs `cargo xtask bench`.
pub(crate) fn run(args: &Args) -> Result<()> {
    // It is a program of its own, so that tests and checks need not compile what is measured.
    sh::run(
        sh::cargo()
            .args(["build", "--quiet", "--release", "--bins"])
            .args(BUILT),
    )?;
    let program = sh::target_dir()?.join("release").join("grid-bench");
    let bench = || {
        let mut command = std::process::Command::new(&program);
        command.args(&args.args);
        command
    };
    let mut found = Vec::new();
    let mut raised = Vec::new();
    let asks_for_help = args.args.iter().any(|it| it == "--help" || it == "-h");
    if !asks_for_help {
        for name in sh::output(bench().arg("--list-programs"))?.lines() {
            if name == ENGINE {
                found.push(match Raised::up(Kind::Docker) {
                    Ok(engine) => {
                        let argument = format!("--program={name}={}", engine.host());
                        raised.push(engine);
                        argument
                    }
                    Err(why) => format!("--without={name}={why}"),
                });
                continue;
            }
            let met = match NEEDS.iter().chain(PEERS).find(|it| it.name == name) {
                Some(need) => need.ensure(),
                None => Met::Missing("this task does not know where to get it".to_owned()),
            };
            found.push(match met {
                Met::Found(place) | Met::Installed(place) => {
                    format!("--program={name}={}", place.display())
                }
                Met::Missing(why) => format!("--without={name}={why}"),
            });
        }
    }
    sh::run(bench().args(found))
}

/// The name by which the bench asks for a Docker engine; its place is told as in `DOCKER_HOST`.
const ENGINE: &str = "docker-engine";

/// The packages whose programs are measured or measure.
const BUILT: [&str; 8] = [
    "--package",
    "grid-bench",
    "--package",
    "grid-cli",
    "--package",
    "grid-agent",
    "--package",
    "grid-master",
];
