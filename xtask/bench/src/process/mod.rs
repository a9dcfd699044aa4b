//! The process platform: one node started and stopped, beside a bare child of this process and beside process managers.

mod bare;
mod manager;
mod pm2;
mod supervisord;

use grid_platform_process::ProcessPlatform;
use manager::Manager;
use tokio::runtime::Runtime;

use crate::Result;
use crate::bench::Bench;
use crate::cleared::{Cleared, any_program};
use crate::groups::Group;
use crate::lifecycle::Nodes;
use crate::program::Program;
use crate::report::Row;

/// Start and stop.
pub(crate) const GROUP: Group = Group {
    name: "process",
    about: "One node at a time in the bare adapter, ready mode `Started`, intent and record durable; the program is \
        static, reads the clock as its first act, and ends on SIGTERM. Peers start and stop the same program.",
    programs: &[supervisord::NAME, pm2::NAME],
    measure,
};

const SPAWN_BEGAN: &str = "spawn_node: until the program's first instruction";
const SPAWN: &str = "spawn_node: until the call returns";
const STOP: &str = "stop_node: until the call returns";

fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let program = Program::install(dir.path())?;
    let runtime = runtime()?;
    let dirs = ["state", "data"].map(|it| dir.path().join(it));
    let cleared = Cleared::new(&dirs);
    let config = any_program(&dirs[0], &dirs[1]);
    let platform = runtime.block_on(ProcessPlatform::open(config))?;
    let nodes = Nodes {
        runtime: &runtime,
        platform: &platform,
        program: &program,
    };
    // What a peer that is there breaks of is no reason to keep the node's figures back.
    let supervisord = supervisord::Supervisord::start(bench, dir.path(), &program)
        .unwrap_or_else(|error| Err(error.to_string()));
    let pm2 =
        pm2::Pm2::start(bench, dir.path(), &program).unwrap_or_else(|error| Err(error.to_string()));
    let bare = bare::Bare::new(dir.path(), &program)?;
    let mut subjects = vec![
        nodes.spawn([
            Row::time(SPAWN_BEGAN)
                .beside(bare::BEGAN)
                .at_most(0.003)
                .at_most_times(3.0),
            Row::time(SPAWN).beside(bare::WRITTEN),
        ]),
        bare.start_durably(),
        bare.start(),
        nodes.stopping([
            Row::time(STOP).beside(bare::STOP).at_most(0.010),
            Row::time("stop_node: from the program's own end until the call returns")
                .at_most(0.003),
        ]),
        bare.stop(),
    ];
    let mut missing = Vec::new();
    let peers = [
        (
            supervisord.as_ref().map(|it| it as &dyn Manager),
            supervisord::rows(),
        ),
        (pm2.as_ref().map(|it| it as &dyn Manager), pm2::rows()),
    ];
    for (peer, rows) in peers {
        match peer {
            Ok(peer) => subjects.extend(manager::subjects(peer, &program, rows)),
            Err(why) => missing.extend(rows.map(|row| row.not_run(why))),
        }
    }
    let mut rows = bench.interleave(subjects)?;
    rows.extend(missing);
    drop(platform);
    cleared.clear()?;
    Ok(rows)
}

/// The runtime that an agent has.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}
