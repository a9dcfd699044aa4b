//! What tests need from outside: bring it up, take it down, look.

use clap::{Subcommand, ValueEnum};

use crate::fail::{Fail, Result};
use crate::needs::{Met, NEEDS, Need};

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
}

impl Name {
    fn need(self) -> Result<&'static Need> {
        let name = match self {
            Self::Redis => "redis",
            Self::Supervisord => "supervisord",
            Self::Promtool => "promtool",
            Self::Faketime => "faketime",
            Self::Schemathesis => "schemathesis",
        };
        NEEDS
            .iter()
            .find(|need| need.name == name)
            .ok_or_else(|| Fail::new(format!("there is no testbed `{name}`")))
    }
}

/// Runs `cargo xtask testbed`.
pub(crate) fn run(args: &Args) -> Result<()> {
    match args.action {
        Action::Up { name } => report(name.need()?, name.need()?.ensure()),
        Action::Status { name } => report(name.need()?, name.need()?.look()),
        Action::Down { name } => {
            println!(
                "{}: nothing to take down; tests start and end their own, and what is installed stays",
                name.need()?.program
            );
            Ok(())
        }
    }
}

fn report(need: &Need, met: Met) -> Result<()> {
    println!("{}: {met}", need.program);
    match met {
        Met::Found(_) | Met::Installed(_) => Ok(()),
        Met::Missing(_) => Err(Fail::default().hint(need.mend())),
    }
}
