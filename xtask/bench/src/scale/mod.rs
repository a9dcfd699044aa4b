//! Many nodes on this host: how fast they are there, and what they cost when nothing happens.

mod fleet;

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::bench::Bench;
use crate::cleared::Cleared;
use crate::grid::{Grid, adapter_dirs};
use crate::groups::Group;
use crate::http::Connection;
use crate::proc::{Memory, available, memory, open_files, parent, used};
use crate::program::{Program, What, now};
use crate::report::{Row, Unit};
use crate::stats::{Subject, timed};
use crate::{Result, process};
use fleet::Fleet;

/// A thousand of them.
pub(crate) const GROUP: Group = Group {
    name: "scale",
    about: "Nodes of the bare adapter, ready mode `Started`, intent and record durable, 16 spawns under way at once, as \
        an agent has them; the program is static and tiny. At rest they belong to the real agent, which adopted them, with its master beside \
        it. A shim's memory is what `smaps_rollup` tells; the host's is `MemAvailable` before the nodes and with them, when \
        whoever started them is gone.",
    programs: &[],
    measure,
};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let count = bench.sized(1000, 6);
    // Report pipe, socket and pidfd of each, and what is open for a moment.
    open_files(count as u64 * 6)?;
    let mut rows = many(bench, count)?;
    rows.extend(few(bench, bench.sized(100, 3))?);
    rows.extend(alone(bench)?);
    Ok(rows)
}

/// How long nothing is asked of anybody before what is idle is looked at.
fn settle(bench: &Bench) {
    std::thread::sleep(bench.sized(Duration::from_secs(3), Duration::from_millis(100)));
}

fn many(bench: &Bench, count: usize) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let program = Program::install(dir.path())?;
    let runtime = process::runtime()?;
    let dirs = adapter_dirs(dir.path());
    let cleared = Cleared::new(&dirs);
    let began = format!("{count} nodes spawned: until the last program's first instruction");
    let bare = format!(
        "bare: {count} children, one after the other, until the last one's first instruction"
    );
    let mut rows = [
        Row::time(&began).beside(&bare).at_most(3.0),
        Row::time(format!(
            "{count} nodes spawned: until the last call has returned"
        ))
        .at_most(3.0),
        Row::time(format!("{count} nodes stopped and removed")),
        Row::time(&bare),
    ];
    let rounds = bench.sized(3, 1);
    for round in 0..rounds {
        bench.step(&format!("{count} nodes, {} of {rounds}", round + 1));
        let fleet = Fleet::open(&runtime, &dirs)?;
        let times = fleet.spawn(&program, count)?;
        let (removed, ()) = timed(|| fleet.remove(&program))?;
        let bare = children(&program, count)?;
        for (row, time) in rows.iter_mut().zip([times[0], times[1], removed, bare]) {
            row.add(time.as_secs_f64());
        }
    }
    let mut rows = Vec::from(rows);
    bench.step(&format!("{count} nodes at rest"));
    settle(bench);
    let free = available()?;
    let fleet = Fleet::open(&runtime, &dirs)?;
    fleet.spawn(&program, count)?;
    rows.extend(bench.interleave(vec![Subject::time(
        Row::time(format!("list_nodes of {count}")).at_most(0.020),
        || fleet.list(count),
    )])?);
    drop(fleet);
    settle(bench);
    let taken = free as f64 - available()? as f64;
    let each = format!("the host's memory, each of {count} nodes with its program");
    rows.push(Row::of(each, Unit::Bytes).with(taken / count as f64));
    rows.extend(idle(bench, dir.path(), count)?);
    cleared.clear()?;
    program.all(What::Ends, count)?;
    Ok(rows)
}

/// Children of this process, ended again.
fn children(program: &Program, count: usize) -> Result<Duration> {
    let asked = now();
    let mut children = Vec::with_capacity(count);
    let started = (0..count).try_for_each(|_| {
        children.push(program.bare()?);
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    let began = started.and_then(|()| last(program, What::Began, count));
    for child in children {
        program.end_bare(child)?;
    }
    Ok(began? - asked)
}

/// When the last of so many did so.
fn last(program: &Program, what: What, count: usize) -> Result<Duration> {
    let all = program.all(what, count)?;
    Ok(all.into_iter().max().ok_or("there were none")?)
}

/// The real agent with so many nodes and nothing to do.
fn idle(bench: &Bench, dir: &Path, count: usize) -> Result<Vec<Row>> {
    let (master, agent) = (
        bench.own_program("grid-master")?,
        bench.own_program("grid-agent")?,
    );
    let (adopted, grid) = timed(|| Grid::start(dir, &master, &agent, count))?;
    settle(bench);
    let quiet = bench.sized(Duration::from_secs(20), Duration::from_millis(200));
    let before = used(grid.agent.pid())?;
    std::thread::sleep(quiet);
    let after = used(grid.agent.pid())?;
    grid.end()?;
    let of_core = (after.cpu - before.cpu).as_secs_f64() / quiet.as_secs_f64() * 100.0;
    let agent = |what: &str| format!("the agent with {count} nodes, {what}");
    Ok(vec![
        Row::time(agent(
            "and a master: from their start until the master knows all",
        ))
        .with(adopted.as_secs_f64()),
        Row::of(agent("idle: of a core"), Unit::Percent)
            .with(of_core)
            .at_most(1.0),
        Row::of(agent("idle: resident memory"), Unit::Bytes)
            .with(after.resident as f64)
            .at_most(30.0 * MIB),
    ])
}

fn few(bench: &Bench, count: usize) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let program = Program::install(dir.path())?;
    let runtime = process::runtime()?;
    let dirs = adapter_dirs(dir.path());
    let cleared = Cleared::new(&dirs);
    bench.step(&format!("the memory of {count} shims"));
    let fleet = Fleet::open(&runtime, &dirs)?;
    fleet.spawn(&program, count)?;
    settle(bench);
    let name = |what: &str| format!("a shim, one of {count}: {what}");
    let mut dirty = Row::of(name("Private_Dirty"), Unit::Bytes).at_most(256.0 * KIB);
    let mut proportional = Row::of(name("proportional memory (Pss)"), Unit::Bytes);
    for pid in fleet.programs(count)? {
        let memory = shim_of(pid)?;
        dirty.add(memory.private_dirty as f64);
        proportional.add(memory.proportional as f64);
    }
    fleet.remove(&program)?;
    drop(fleet);
    cleared.clear()?;
    Ok(vec![dirty, proportional])
}

/// What the supervisor of a node's program has in memory.
fn shim_of(program: u32) -> Result<Memory> {
    memory(parent(program)?)
}

/// One node whose agent was killed and has got another binary: nothing is shared with anybody.
fn alone(bench: &Bench) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let program = Program::install(dir.path())?;
    let cleared = Cleared::new(&adapter_dirs(dir.path()));
    let agent = dir.path().join("grid-agent");
    std::fs::copy(bench.own_program("grid-agent")?, &agent)?;
    let mut grid = Grid::start(dir.path(), &bench.own_program("grid-master")?, &agent, 0)?;
    let mut connection = Connection::open(grid.http())?.bearer(grid.token());
    let body = json!({"node_id": "alone", "binary": program.path(), "args": [program.arg()]});
    connection.request("POST", "/api/grid/spawn", body.to_string().as_bytes())?;
    let pid = program.began_as()?;
    grid.agent.kill()?;
    // By another file under its name, as packages do; what ran keeps nobody's pages but its own.
    std::fs::copy(program.path(), dir.path().join("other"))?;
    std::fs::rename(dir.path().join("other"), &agent)?;
    settle(bench);
    let memory = shim_of(pid)?;
    grid.end()?;
    cleared.clear()?;
    program.ended()?;
    let name = "a shim, the only one, its agent killed and the agent's binary replaced: private";
    Ok(vec![
        Row::of(name, Unit::Bytes)
            .with(memory.private as f64)
            .at_most(512.0 * KIB),
    ])
}
