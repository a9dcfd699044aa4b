//! What tests need from outside: bring it up, take it down, look.

use clap::{Subcommand, ValueEnum};
use grid_testbed::Kind;

use crate::engines;
use crate::fail::{Fail, Result};
use crate::kubernetes;
use crate::needs::{Met, NEEDS, Need};
use crate::vm;

/// Arguments of `cargo xtask testbed`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make it ready for tests.
    Up { name: Name },
    /// Take away what `up` started.
    Down { name: Name },
    /// Say whether it is ready; the exit code says so too.
    Status { name: Name },
}

/// The testbeds there are. The process platform needs none: it runs on the host itself.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// Debian's redis-server: the stock program that tests run as nodes.
    Redis,
    /// Debian's supervisord, beside which nodes are measured.
    Supervisord,
    /// Debian's promtool, which reads the metrics.
    Promtool,
    /// Debian's faketime, which sets the clock for one program alone.
    Faketime,
    /// PyPI's schemathesis, which calls the HTTP API as its document says, and as it does not.
    Schemathesis,
    /// A machine of the tests' own, by QEMU: cgroup version 2, reboots, power cuts.
    Vm,
    /// Debian's Docker Engine, or the one that `DOCKER_HOST` names.
    Docker,
    /// Debian's Podman as a service, or the one that `CONTAINER_HOST` names.
    Podman,
    /// A Kubernetes cluster of one node, or the one that `KUBECONFIG` names.
    Kubernetes,
}

/// What is behind a name.
enum Bed {
    Program(&'static Need),
    Machine,
    Engine(Kind),
    Cluster,
}

impl Name {
    fn bed(self) -> Result<Bed> {
        let name = match self {
            Self::Redis => "redis",
            Self::Supervisord => "supervisord",
            Self::Promtool => "promtool",
            Self::Faketime => "faketime",
            Self::Schemathesis => "schemathesis",
            Self::Vm => return Ok(Bed::Machine),
            Self::Docker => return Ok(Bed::Engine(Kind::Docker)),
            Self::Podman => return Ok(Bed::Engine(Kind::Podman)),
            Self::Kubernetes => return Ok(Bed::Cluster),
        };
        NEEDS
            .iter()
            .find(|need| need.name == name)
            .map(Bed::Program)
            .ok_or_else(|| Fail::new(format!("there is no testbed `{name}`")))
    }
}

/// Runs `cargo xtask testbed`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (Action::Up { name } | Action::Down { name } | Action::Status { name }) = args.action;
    match (&args.action, name.bed()?) {
        (Action::Up { .. }, Bed::Program(need)) => report(need, need.ensure()),
        (Action::Status { .. }, Bed::Program(need)) => report(need, need.look()),
        (Action::Down { .. }, Bed::Program(need)) => {
            println!(
                "{}: nothing to take down; tests start and end their own, and what is installed stays",
                need.program
            );
            Ok(())
        }
        (Action::Up { .. }, Bed::Machine) => vm::up().map_err(Fail::new),
        (Action::Status { .. }, Bed::Machine) => vm::status(),
        (Action::Down { .. }, Bed::Machine) => vm::down(),
        (Action::Up { .. }, Bed::Engine(kind)) => engines::raise(kind),
        (Action::Status { .. }, Bed::Engine(kind)) => engines::status(kind),
        (Action::Down { .. }, Bed::Engine(kind)) => engines::down(kind),
        (Action::Up { .. }, Bed::Cluster) => kubernetes::raise(),
        (Action::Status { .. }, Bed::Cluster) => kubernetes::status(),
        (Action::Down { .. }, Bed::Cluster) => kubernetes::down(),
    }
}

fn report(need: &Need, met: Met) -> Result<()> {
    println!("{}: {met}", need.program);
    match met {
        Met::Found(_) | Met::Installed(_) => Ok(()),
        Met::Missing(_) => Err(Fail::default().hint(need.mend())),
    }
}
