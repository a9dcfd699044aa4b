//! The process platform: a node started and stopped, beside a bare child of this process.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use grid_platform_api::{DataPolicy, NodeId, Platform, Program, ReadyMode, SpawnConfig};
use grid_platform_process::{Allow, ProcessConfig, ProcessPlatform};
use tokio::runtime::Runtime;

use crate::stats::{Row, Subject, interleave, timed};
use crate::{Result, durable_write};

/// A program that runs until it is told to end, and then ends at once.
const PROGRAM: &str = "/bin/sleep";
const ARGS: [&str; 1] = ["3600"];

/// Measures start (mode `Started`) and stop.
pub(crate) fn measure(rounds: usize) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let config = ProcessConfig {
        programs: Allow::Any,
        ..ProcessConfig::new(dir.path().join("state"), dir.path().join("data"))
    };
    let platform = runtime.block_on(ProcessPlatform::open(config))?;
    let nodes = Nodes {
        runtime: &runtime,
        platform: &platform,
    };
    interleave(subjects(&nodes, dir.path()), rounds)
}

fn subjects<'a>(nodes: &'a Nodes<'a>, dir: &'a Path) -> Vec<Subject<'a>> {
    let (mut started, mut written, mut stopped) = (0, 0, 0);
    vec![
        Subject::new(
            "process: spawn_node until `Started`, its intent and record durable",
            move || {
                started += 1;
                let id = NodeId::new(format!("start-{started}"))?;
                let (took, ()) = timed(|| nodes.start(&id))?;
                nodes.remove(&id)?;
                Ok(took)
            },
        ),
        Subject::new(
            "bare: one file made durable, then a child executed",
            move || {
                written += 1;
                let path = dir.join(format!("intent-{written}"));
                let (took, child) = timed(|| {
                    durable_write(&path, b"intent")?;
                    bare()
                })?;
                end(child)?;
                Ok(took)
            },
        ),
        Subject::new("bare: a child executed", || {
            let (took, child) = timed(bare)?;
            end(child)?;
            Ok(took)
        }),
        Subject::new(
            "process: stop_node until confirmed and durable",
            move || {
                stopped += 1;
                let id = NodeId::new(format!("stop-{stopped}"))?;
                nodes.start(&id)?;
                let (took, ()) = timed(|| nodes.stop(&id))?;
                nodes.remove(&id)?;
                Ok(took)
            },
        ),
        Subject::new("bare: a child killed and awaited", || {
            let child = bare()?;
            timed(|| end(child)).map(|(took, ())| took)
        }),
    ]
}

struct Nodes<'a> {
    runtime: &'a Runtime,
    platform: &'a ProcessPlatform,
}

impl Nodes<'_> {
    fn start(&self, id: &NodeId) -> Result<()> {
        let config = SpawnConfig::builder(id.as_str(), Program::binary(PROGRAM, ARGS))
            .ready(ReadyMode::Started)
            .build()?;
        self.runtime.block_on(self.platform.spawn_node(config))?;
        Ok(())
    }

    fn stop(&self, id: &NodeId) -> Result<()> {
        Ok(self.runtime.block_on(self.platform.stop_node(id))?)
    }

    fn remove(&self, id: &NodeId) -> Result<()> {
        // A node that had ended by itself was not what was measured.
        let status = self.runtime.block_on(self.platform.get_node_status(id))?;
        self.runtime
            .block_on(self.platform.remove_node(id, DataPolicy::Purge))?;
        match status.state.failure() {
            None => Ok(()),
            Some(failure) => Err(format!("node `{id}` failed: {failure:?}").into()),
        }
    }
}

/// A child as std starts it, by posix_spawn: it is executed when this returns.
fn bare() -> Result<Child> {
    let mut command = Command::new(PROGRAM);
    command
        .args(ARGS)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command.spawn()?)
}

fn end(mut child: Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}
