//! `cargo xtask bench`: builds grid-bench and what it measures in release, sees to its peers, and runs it.

use grid_testbed::Kind;

use crate::engines;
use crate::fail::Result;
use crate::kubernetes;
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
    // What was raised goes with these.
    let (mut engine, mut cluster) = (None, None);
    let asks_for_help = args.args.iter().any(|it| it == "--help" || it == "-h");
    if !asks_for_help {
        for name in sh::output(bench().arg("--list-programs"))?.lines() {
            let raised = match name {
                ENGINE => Some(engines::Raised::up(Kind::Docker).map(|it| {
                    let host = it.host().to_owned();
                    engine = Some(it);
                    host
                })),
                CLUSTER => Some(kubernetes::Raised::up().map(|it| {
                    let kubeconfig = it.kubeconfig().display().to_string();
                    cluster = Some(it);
                    kubeconfig
                })),
                _ => None,
            };
            if let Some(raised) = raised {
                found.push(match raised {
                    Ok(place) => format!("--program={name}={place}"),
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
    let measured = sh::run(bench().args(found));
    drop((engine, cluster));
    measured
}

/// The name by which the bench asks for a Docker engine; its place is told as in `DOCKER_HOST`.
const ENGINE: &str = "docker-engine";

/// The name by which the bench asks for a Kubernetes cluster; its place is a kubeconfig.
const CLUSTER: &str = "kubernetes-cluster";

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
