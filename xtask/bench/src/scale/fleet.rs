//! Many nodes of one adapter.

use std::path::PathBuf;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use grid_platform_api::{NodeId, Platform};
use grid_platform_process::ProcessPlatform;
use tokio::runtime::Runtime;

use super::last;
use crate::Result;
use crate::cleared::{CONCURRENT, any_program, remove_all};
use crate::lifecycle::Nodes;
use crate::program::{Program, What, now};

/// An adapter with its nodes.
pub(super) struct Fleet<'a> {
    runtime: &'a Runtime,
    platform: ProcessPlatform,
}

impl<'a> Fleet<'a> {
    /// Opens the adapter whose state and data are in these directories.
    pub(super) fn open(runtime: &'a Runtime, [state, data]: &[PathBuf; 2]) -> Result<Self> {
        let platform = runtime.block_on(ProcessPlatform::open(any_program(state, data)))?;
        Ok(Self { runtime, platform })
    }

    /// Starts so many nodes: the times until the last one's first instruction and until the last call has returned.
    pub(super) fn spawn(&self, program: &Program, count: usize) -> Result<[Duration; 2]> {
        let nodes = Nodes {
            runtime: self.runtime,
            platform: &self.platform,
            program,
        };
        let requests = (0..count)
            .map(|number| nodes.request(&NodeId::new(format!("node-{number}"))?))
            .collect::<Result<Vec<_>>>()?;
        let asked = now();
        let spawned = stream::iter(requests)
            .map(|it| self.platform.spawn_node(it))
            .buffer_unordered(CONCURRENT)
            .try_collect::<Vec<_>>();
        self.runtime.block_on(spawned)?;
        let returned = now();
        Ok([last(program, What::Began, count)? - asked, returned - asked])
    }

    /// How long a list of the nodes takes, each of which has to run.
    pub(super) fn list(&self, count: usize) -> Result<Duration> {
        let asked = now();
        let nodes = self.runtime.block_on(self.platform.list_nodes())?;
        let took = now() - asked;
        let running = nodes.iter().filter(|it| it.pid.is_some()).count();
        if running != count {
            return Err(format!("{running} of {count} nodes run").into());
        }
        Ok(took)
    }

    /// The processes of the nodes' programs.
    pub(super) fn programs(&self, count: usize) -> Result<Vec<u32>> {
        let nodes = self.runtime.block_on(self.platform.list_nodes())?;
        let pids: Vec<_> = nodes.iter().filter_map(|it| it.pid).collect();
        if pids.len() != count {
            return Err(format!("{} of {count} nodes run", pids.len()).into());
        }
        Ok(pids)
    }

    /// Removes every node, and sees that each program was asked to end.
    pub(super) fn remove(&self, program: &Program) -> Result<()> {
        let removed = self.runtime.block_on(remove_all(&self.platform))?;
        program.all(What::Ends, removed)?;
        Ok(())
    }
}
