//! One run: a master, many agents with many nodes each, and what is asked of them in turn.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::followers::{Followed, Followers};
use super::master::{self, Master};
use super::simulator::{self, Simulator};
use super::spawns::{self, Spawned};
use super::{CLIENTS, Plan};
use crate::Result;
use crate::clients::together;
use crate::http::Connection;
use crate::proc::{self, used};
use crate::program::now;

/// Everything is waited for, and nothing for ever.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was measured of one plan.
#[derive(Debug)]
pub(crate) struct Scale {
    /// From the first dial to the last welcome.
    pub(crate) registered: Duration,
    pub(crate) spawned: Spawned,
    /// From the last acknowledgement until the master has seen every node run.
    pub(crate) settled: Duration,
    /// What one spawn took of the processors, until it was seen to run: the master's, the agents' and the clients'.
    pub(crate) spawn_cpu: [Duration; 3],
    pub(crate) spawns_per_commit: f64,
    /// With all followers there.
    pub(crate) followed: Spawned,
    pub(crate) events_per_second: f64,
    /// The master's, for each node there is.
    pub(crate) resident_per_node: f64,
    pub(crate) resident: u64,
    pub(crate) stored_per_node: f64,
    /// Agents that were lost, and sessions that were begun anew, while nothing happened.
    pub(crate) lost_in_quiet: u64,
    /// Of one processor, in the meantime: the master's and the agents'.
    pub(crate) quiet_cpu: [f64; 2],
    /// After a crash: until requests are answered, and until the master knows again how every node is.
    pub(crate) restarted: Duration,
    pub(crate) known_again: Duration,
    /// The last of the killed agents, and the last of the frozen ones.
    pub(crate) killed_seen: Duration,
    pub(crate) frozen_seen: Duration,
}

/// Runs one plan, with the master's program at `master` and its store on the disk of temporary files.
pub(crate) fn measure(plan: Plan, master: &Path) -> Result<Scale> {
    proc::open_files(3 * plan.agents as u64 + 1000)?;
    // The agents' own disks are other hosts': in memory, where there is room for files.
    let agents = agents_dir()?;
    let disk = tempfile::tempdir()?;
    let state = disk.path().join("master");
    let mut run = Run::start(
        plan,
        Master::start(master, &state, plan.pace)?,
        agents.path(),
    )?;
    let scale = run.all()?;
    run.end()?;
    Ok(scale)
}

fn agents_dir() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    Ok(match memory.is_dir() {
        true => tempfile::tempdir_in(memory)?,
        false => tempfile::tempdir()?,
    })
}

struct Run {
    plan: Plan,
    master: Master,
    /// Those that stay, those that are killed, those that are frozen.
    simulators: Vec<Simulator>,
    groups: [Range<usize>; 3],
}

impl Run {
    /// Makes a token for each agent, and starts the agents' processes.
    fn start(plan: Plan, master: Master, dir: &Path) -> Result<Self> {
        let (stay, all) = (plan.agents - 2 * plan.victims, plan.agents);
        let groups = [0..stay, stay..all - plan.victims, all - plan.victims..all];
        // Each is a commit; together they share them.
        together(CLIENTS, |first| {
            let mut connection = Connection::open(master.http)?.bearer(&master.token);
            for number in (first..all).step_by(CLIENTS) {
                let token = master::agent_token(&mut connection)?;
                std::fs::write(simulator::token_path(dir, number), token)?;
            }
            Ok(())
        })?;
        let simulators = groups
            .clone()
            .map(|group| Simulator::start(group, master.grpc, dir));
        Ok(Self {
            plan,
            simulators: simulators.into_iter().collect::<Result<_>>()?,
            master,
            groups,
        })
    }

    fn all(&mut self) -> Result<Scale> {
        let plan = self.plan;
        let nodes = plan.nodes();
        let registered = self.register()?;
        let empty = self.master.used()?;
        let store_empty = self.master.store_bytes()?;

        // A tenth is left for those who follow.
        let followed = (nodes / 10).max(1);
        let commits = |master: &Master| master.metric("grid_master_store_commits_total");
        let (before, commits_before) = (self.cpu()?, commits(&self.master)?);
        let spawned = self.spawn(0..nodes - followed)?;
        let shared = commits(&self.master)? - commits_before;
        let settled = self.settle(nodes - followed)?;
        let spawn_cpu = difference(self.cpu()?, before);
        let spawn_cpu = spawn_cpu.map(|it| it.div_f64((nodes - followed) as f64));
        let (followed, events_per_second) = self.follow(nodes - followed..nodes)?;

        let (lost_in_quiet, quiet_cpu) = self.quiet()?;
        let full = self.master.used()?;
        let stored = self.master.store_bytes()? - store_empty;
        let known_again = self.crash()?;
        let restarted = self.master.starting;
        let (killed_seen, frozen_seen) = self.lose()?;
        Ok(Scale {
            registered,
            spawns_per_commit: spawned.latencies.len() as f64 / shared.max(1) as f64,
            spawned,
            settled,
            spawn_cpu,
            followed,
            events_per_second,
            resident_per_node: full.resident.saturating_sub(empty.resident) as f64 / nodes as f64,
            resident: full.resident,
            stored_per_node: stored as f64 / nodes as f64,
            lost_in_quiet,
            quiet_cpu,
            restarted,
            known_again,
            killed_seen,
            frozen_seen,
        })
    }

    fn end(self) -> Result<()> {
        self.master.end()
    }

    /// Processor time of the master, of the simulators and of this process.
    fn cpu(&self) -> Result<[Duration; 3]> {
        let mut simulators = Duration::ZERO;
        for simulator in &self.simulators {
            simulators += used(simulator.child.pid())?.cpu;
        }
        let own = used(std::process::id())?.cpu;
        Ok([self.master.used()?.cpu, simulators, own])
    }

    fn register(&mut self) -> Result<Duration> {
        let started = Instant::now();
        for simulator in &mut self.simulators {
            simulator.go()?;
        }
        self.await_agents(self.plan.agents)?;
        Ok(started.elapsed())
    }

    /// Waits until so many agents have a session and have told of their nodes.
    fn await_agents(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let agents = self.agents()?;
            let connected = agents.iter().filter(|it| it["connected"] == true).count();
            if connected == count {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{connected} agents are connected, and not {count}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn agents(&self) -> Result<Vec<Value>> {
        match self.master.get("/api/grid/agents")? {
            Value::Array(agents) => Ok(agents),
            _ => Err("agents are no array".into()),
        }
    }

    fn spawn(&self, nodes: Range<usize>) -> Result<spawns::Spawned> {
        spawns::spawn(self.master.http, &self.master.token, nodes, CLIENTS)
    }

    /// Waits until so many nodes run.
    fn settle(&self, nodes: usize) -> Result<Duration> {
        let started = Instant::now();
        let sample = "grid_master_nodes{state=\"running\"}";
        self.master.await_metric(sample, nodes as u64, PATIENCE)?;
        Ok(started.elapsed())
    }

    /// Spawns with everybody following, until each was sent every event: the spawns, and events per second.
    fn follow(&self, nodes: Range<usize>) -> Result<(Spawned, f64)> {
        let (count, total) = (self.plan.followers, nodes.end);
        let before = self.master.quiet_event()?;
        let followers = Followers::start(count, self.master.http, &self.master.token)?;
        let started = now();
        let spawned = self.spawn(nodes)?;
        self.settle(total)?;
        let last = self.master.quiet_event()?;
        let all = followers.finish(last)?;
        let events = last - before;
        let whole = |it: &&Followed| {
            it.first == before + 1 && it.last == last && it.events == events && it.gaps == 0
        };
        if let Some(broken) = all.iter().find(|it| !whole(it)) {
            return Err(format!(
                "a follower was sent {broken:?} of the events {} to {last}",
                before + 1
            )
            .into());
        }
        let done = all.iter().map(|it| it.at).max().unwrap_or_default();
        let took = done.saturating_sub(started).as_secs_f64();
        Ok((spawned, events as f64 / took))
    }

    /// Asks for nothing for a while: agents lost or connected anew, and the part of a processor that the master and the
    /// simulators take.
    fn quiet(&self) -> Result<(u64, [f64; 2])> {
        let sessions = |master: &Master| master.metric("grid_master_sessions_total");
        let (before, started) = (self.cpu()?, Instant::now());
        let sessions_before = sessions(&self.master)?;
        std::thread::sleep(self.plan.quiet);
        let took = started.elapsed().as_secs_f64();
        let [master, simulators, _] = difference(self.cpu()?, before).map(|it| it.as_secs_f64());
        let again = sessions(&self.master)? - sessions_before;
        let lost = self.master.metric("grid_master_agents{state=\"lost\"}")?;
        Ok((again + lost, [master / took, simulators / took]))
    }

    /// Kills the master and starts it again: how long it takes until it knows how every node is.
    fn crash(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.master.crash()?;
        self.settle(self.plan.nodes())?;
        let took = started.elapsed();
        // Everything that was acknowledged is there, in its place.
        let agents = self.agents()?;
        let each = self.plan.nodes_each;
        if let Some(agent) = agents.iter().find(|it| it["nodes"] != each) {
            return Err(format!("an agent does not have its {each} nodes: {agent}").into());
        }
        self.await_agents(self.plan.agents)?;
        Ok(took)
    }

    /// Kills some agents and freezes others: until the last of each is shown as lost. Nobody else may be.
    fn lose(&mut self) -> Result<(Duration, Duration)> {
        let [_, killed, frozen] = self
            .groups
            .clone()
            .map(|group| group.map(simulator::name).collect::<BTreeSet<_>>());
        let mut cursor = self.master.quiet_event()?;
        let started = Instant::now();
        self.simulators[1].child.kill()?;
        proc::signal(self.simulators[2].child.get()?, Signal::STOP)?;
        let mut left = [killed.clone(), frozen.clone()];
        let mut seen = [Duration::ZERO; 2];
        while left.iter().any(|it| !it.is_empty()) {
            for event in self.master.events(Some(cursor))? {
                cursor = event["id"].as_u64().unwrap_or(cursor);
                if event["kind"] == "agent.lost" {
                    let name = event["agent"].as_str().unwrap_or_default();
                    for (left, seen) in left.iter_mut().zip(&mut seen) {
                        if left.remove(name) {
                            *seen = started.elapsed();
                        }
                    }
                }
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("agents are not shown as lost: {left:?}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for agent in self.agents()? {
            let name = agent["id"].as_str().unwrap_or_default();
            let gone = killed.contains(name) || frozen.contains(name);
            if (agent["state"] == "lost") != gone {
                return Err(format!("an agent is shown otherwise than it is: {agent}").into());
            }
        }
        let unknown = 2 * self.plan.victims * self.plan.nodes_each;
        let sample = "grid_master_nodes{state=\"unknown\"}";
        self.master.await_metric(sample, unknown as u64, PATIENCE)?;
        // Those that were only frozen come back with all they have.
        proc::signal(self.simulators[2].child.get()?, Signal::CONT)?;
        self.settle(self.plan.nodes() - unknown / 2)?;
        Ok((seen[0], seen[1]))
    }
}

fn difference(after: [Duration; 3], before: [Duration; 3]) -> [Duration; 3] {
    std::array::from_fn(|index| after[index].saturating_sub(before[index]))
}
