//! Simulated agents: the real agent over a platform in memory, many in one process.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::Arc;

use grid_platform_testing::World;
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::proc::Guarded;

/// What a process of simulated agents is started with.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the master listens for agents.
    #[arg(long)]
    master: SocketAddr,
    /// Where their tokens lie and their states are kept.
    #[arg(long)]
    dir: PathBuf,
    /// The number of the first agent.
    #[arg(long)]
    first: usize,
    /// How many there are.
    #[arg(long)]
    count: usize,
}

/// The name of an agent, by its number.
pub(crate) fn name(number: usize) -> String {
    format!("agent-{number:05}")
}

/// Where an agent's token lies.
pub(crate) fn token_path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("{}.token", name(number)))
}

/// The process: tells that it is ready, begins at the first line of its input, and ends with that.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut input = std::io::stdin().lock().lines();
    println!("ready");
    std::io::stdout().flush()?;
    if input.next().transpose()?.is_none() {
        return Ok(());
    }
    let stop = CancellationToken::new();
    let agents: Vec<_> = (args.first..args.first + args.count)
        .map(|number| {
            let mut settings = grid_agent::Settings::default();
            settings.agent.agent_id = Some(name(number));
            settings.agent.state_dir = Some(args.dir.join(name(number)));
            settings.agent.master_host = args.master.to_string();
            settings.agent.token_file = Some(token_path(&args.dir, number));
            settings.storage.binary_path = Some("memory:server".into());
            let stopped = stop.clone();
            // A world of its own each: another install, with its own ports and nodes.
            runtime.spawn(grid_agent::run_with(
                Arc::new(World::new().open()),
                settings,
                async move { stopped.cancelled().await },
            ))
        })
        .collect();
    // Nothing more is said; the end of the input is the end.
    for line in input {
        line?;
    }
    stop.cancel();
    for agent in agents {
        runtime.block_on(agent)??;
    }
    Ok(())
}

/// A running process of simulated agents.
#[derive(Debug)]
pub(crate) struct Simulator {
    pub(crate) child: Guarded,
    input: ChildStdin,
}

impl Simulator {
    /// Starts the process; its agents wait for [`go`](Self::go).
    pub(crate) fn start(agents: Range<usize>, master: SocketAddr, dir: &Path) -> Result<Self> {
        let (child, input, mut output) = Guarded::own(|it| {
            it.args(["agents", "--master", &master.to_string(), "--dir"])
                .arg(dir)
                .args(["--first", &agents.start.to_string()])
                .args(["--count", &agents.len().to_string()])
        })?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        if line.trim() != "ready" {
            return Err("a process of simulated agents did not start".into());
        }
        Ok(Self { child, input })
    }

    /// Lets its agents begin.
    pub(crate) fn go(&mut self) -> Result<()> {
        Ok(self.input.write_all(b"go\n")?)
    }
}
