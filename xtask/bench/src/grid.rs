//! A whole grid that is measured: the real master and the real agent, each a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::control_plane::master::{Master, Pace};
use crate::proc::Guarded;

/// The pace that a master has by itself.
const PACE: Pace = Pace {
    heartbeat: Duration::from_secs(2),
    lost_after: Duration::from_secs(10),
};

/// The agent's directory in that of the grid.
const AGENT: &str = "agent";

/// A running grid with one agent, which may run any program.
pub(crate) struct Grid {
    master: Master,
    pub(crate) agent: Guarded,
    token_file: PathBuf,
}

/// Where the adapter of the grid's agent has its state, and where its nodes' data is.
pub(crate) fn adapter_dirs(dir: &Path) -> [PathBuf; 2] {
    let agent = dir.join(AGENT);
    [agent.join("process"), agent.join("data")]
}

impl Grid {
    /// Starts master and agent in this directory; the master knows this agent and its nodes when this returns.
    pub(crate) fn start(dir: &Path, master: &Path, agent: &Path, nodes: usize) -> Result<Self> {
        let master = Master::start(master, &dir.join("master"), PACE)?;
        let token_file = dir.join("master/tokens/admin");
        let child = Command::new(agent)
            .args(["--platform", "process", "--master"])
            .arg(master.grpc.to_string())
            .arg("--state-dir")
            .arg(dir.join(AGENT))
            .env("SUTRA_AGENT__STORAGE__PROGRAMS", "any")
            .env(
                "SUTRA_AGENT__AGENT__TOKEN_FILE",
                dir.join("master/tokens/agent"),
            )
            .env("SUTRA_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut grid = Self {
            master,
            agent: Guarded::new(child),
            token_file,
        };
        grid.await_agent(nodes)?;
        Ok(grid)
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.master.http
    }

    pub(crate) fn token(&self) -> &str {
        &self.master.token
    }

    /// The file with the token that the command wants.
    pub(crate) fn token_file(&self) -> &Path {
        &self.token_file
    }

    fn await_agent(&mut self, nodes: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let agents = self.master.get("/api/grid/agents")?;
            let known = self.master.get("/api/grid/nodes")?;
            let there = |value: &Value| value.as_array().map_or(0, Vec::len);
            if there(&agents) == 1 && there(&known) >= nodes {
                return Ok(());
            }
            if let Some(status) = self.agent.get()?.try_wait()? {
                return Err(format!("the agent ended with {status}").into());
            }
            if Instant::now() > deadline {
                return Err(format!("the master knows {} of {nodes} nodes", there(&known)).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends what still runs of both.
    pub(crate) fn end(self) -> Result<()> {
        self.agent.end()?;
        self.master.end()
    }
}
