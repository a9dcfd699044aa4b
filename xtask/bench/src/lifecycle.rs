//! Start and stop of one node, of any platform that can run a program of this host.

use std::time::Duration;

use grid_platform_api::{
    DataPolicy, NodeId, Platform, Program as NodeProgram, ReadyMode, SpawnConfig,
};
use tokio::runtime::Runtime;

use crate::Result;
use crate::program::{Program, now};
use crate::report::Row;
use crate::stats::Subject;

/// A platform to be measured.
pub(crate) struct Nodes<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) platform: &'a dyn Platform,
    pub(crate) program: &'a Program,
}

impl<'a> Nodes<'a> {
    /// A round starts one node, and fills the times until its program's first instruction and until the call returned.
    pub(crate) fn spawn(&'a self, rows: [Row; 2]) -> Subject<'a> {
        let mut round = 0;
        Subject::times(rows, move || {
            round += 1;
            let id = NodeId::new(format!("start-{round}"))?;
            let times = self.start(&id)?;
            self.stop(&id)?;
            self.remove(&id)?;
            Ok(times)
        })
    }

    /// A round stops one node, and fills the times until the call returned, and of that what was behind the program's own end.
    pub(crate) fn stopping(&'a self, rows: [Row; 2]) -> Subject<'a> {
        let mut round = 0;
        Subject::times(rows, move || {
            round += 1;
            let id = NodeId::new(format!("stop-{round}"))?;
            self.start(&id)?;
            let times = self.stop(&id)?;
            self.remove(&id)?;
            Ok(times)
        })
    }

    /// What a node is asked for by.
    pub(crate) fn request(&self, id: &NodeId) -> Result<SpawnConfig> {
        let program = NodeProgram::binary(self.program.path(), [self.program.arg()]);
        let config = SpawnConfig::builder(id.as_str(), program).ready(ReadyMode::Started);
        Ok(config.build()?)
    }

    fn start(&self, id: &NodeId) -> Result<[Duration; 2]> {
        let config = self.request(id)?;
        let asked = now();
        self.runtime.block_on(self.platform.spawn_node(config))?;
        let returned = now();
        Ok([self.program.began()? - asked, returned - asked])
    }

    fn stop(&self, id: &NodeId) -> Result<[Duration; 2]> {
        let asked = now();
        self.runtime.block_on(self.platform.stop_node(id))?;
        let returned = now();
        // A program that had ended before says nothing, and that is told as an error.
        Ok([returned - asked, returned - self.program.ended()?])
    }

    fn remove(&self, id: &NodeId) -> Result<()> {
        let status = self.runtime.block_on(self.platform.get_node_status(id))?;
        self.runtime
            .block_on(self.platform.remove_node(id, DataPolicy::Purge))?;
        match status.state.failure() {
            None => Ok(()),
            Some(failure) => Err(format!("node `{id}` failed: {failure:?}").into()),
        }
    }
}
