//! The control plane at scale: one master, many agents with many nodes each.

pub(crate) mod followers;
pub(crate) mod master;
mod run;
pub(crate) mod simulator;
mod spawns;

use std::time::Duration;

use crate::Result;
use crate::bench::Bench;
use crate::groups::Group;
use crate::report::{Row, Unit};
use master::Pace;
use run::Scale;

/// One master, and simulated agents.
pub(crate) const GROUP: Group = Group {
    name: "control-plane",
    about: "The master's program with its store on this disk; simulated agents, which are the real agent over a platform \
        in memory, in processes of their own on the same cores, each with a connection of its own over loopback and 100 \
        nodes; spawns by 64 HTTP connections, one request at a time each; `--full` adds 2,000 and 5,000 agents.",
    programs: &[],
    measure,
};

/// Spawns under way at once.
const CLIENTS: usize = 64;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) agents: usize,
    pub(crate) nodes_each: usize,
    /// So many agents are killed, and as many frozen.
    pub(crate) victims: usize,
    pub(crate) followers: usize,
    /// How long nothing is asked of the master but to hold its agents.
    pub(crate) quiet: Duration,
    pub(crate) pace: Pace,
}

impl Plan {
    /// So many agents, and the pace that a master has by itself.
    fn of(agents: usize) -> Self {
        Self {
            agents,
            nodes_each: 100,
            victims: agents / 20,
            followers: 100,
            quiet: Duration::from_secs(30),
            pace: Pace {
                heartbeat: Duration::from_secs(2),
                lost_after: Duration::from_secs(10),
            },
        }
    }

    fn nodes(&self) -> usize {
        self.agents * self.nodes_each
    }

    /// To see that it runs.
    fn tiny() -> Self {
        Self {
            agents: 4,
            nodes_each: 2,
            victims: 1,
            followers: 3,
            quiet: Duration::from_millis(200),
            pace: Pace {
                heartbeat: Duration::from_millis(100),
                lost_after: Duration::from_secs(2),
            },
        }
    }
}

fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let master = bench.own_program("grid-master")?;
    let mut plans = vec![bench.sized(Plan::of(1000), Plan::tiny())];
    if bench.is_full() {
        plans.extend([2000, 5000].map(Plan::of));
    }
    let mut rows = Vec::new();
    for plan in plans {
        bench.step(&format!("{} agents", plan.agents));
        match run::measure(plan, &master) {
            Ok(scale) => rows.extend(told(plan, &scale)),
            // What the larger ones break of is a result, and no reason to keep the others' figures back.
            Err(error) if !rows.is_empty() => {
                let row = Row::time(format!("{} agents", plan.agents));
                rows.push(row.not_run(error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

/// The rows of one plan.
fn told(plan: Plan, scale: &Scale) -> Vec<Row> {
    let row = |what: &str, unit| Row::of(format!("{} agents: {what}", plan.agents), unit);
    let time = |what: &str, time: Duration| row(what, Unit::Time).with(time.as_secs_f64());
    let times = |what: &str, times: &[Duration]| {
        let mut row = row(what, Unit::Time);
        times.iter().for_each(|it| row.add(it.as_secs_f64()));
        row
    };
    let followed = |what: &str| format!("{what}, {} followers of events", plan.followers);
    let quiet = |what: &str| format!("{what}, in {} s at rest", plan.quiet.as_secs_f64());
    let [master, agents, clients] = scale.spawn_cpu;
    let [master_quiet, agents_quiet] = scale.quiet_cpu.map(|it| it * 100.0);
    vec![
        time("until all are registered", scale.registered),
        row("spawns acknowledged, durable", Unit::Rate).with(scale.spawned.per_second()),
        times(
            "one spawn until it is acknowledged",
            &scale.spawned.latencies,
        ),
        row("spawns that share a commit", Unit::Count).with(scale.spawns_per_commit),
        time(
            "from the last acknowledgement until all are seen to run",
            scale.settled,
        ),
        time("one spawn, processor time of the master", master),
        time("one spawn, processor time of the agents", agents),
        time("one spawn, processor time of the clients", clients),
        row(&followed("spawns acknowledged"), Unit::Rate).with(scale.followed.per_second()),
        row(
            &followed("events, each sent to all and none lost"),
            Unit::Rate,
        )
        .with(scale.events_per_second),
        row(&followed("events that reach followers"), Unit::Rate)
            .with(scale.events_per_second * plan.followers as f64),
        row("memory of the master", Unit::Bytes).with(scale.resident as f64),
        row("memory of the master, each node", Unit::Bytes).with(scale.resident_per_node),
        row("the master's store, each node", Unit::Bytes).with(scale.stored_per_node),
        row(&quiet("agents lost or connected anew"), Unit::Count)
            .with(scale.lost_in_quiet as f64)
            .at_most(0.0),
        row(&quiet("of a core, the master"), Unit::Percent).with(master_quiet),
        row(&quiet("of a core, the agents"), Unit::Percent).with(agents_quiet),
        time(
            "the master killed and started again, until it answers",
            scale.restarted,
        ),
        time(
            "the master killed and started again, until every node is known",
            scale.known_again,
        ),
        time(
            "agents killed, until the last is shown as lost",
            scale.killed_seen,
        )
        .at_most(15.0),
        time(
            "agents frozen, until the last is shown as lost",
            scale.frozen_seen,
        )
        .at_most(15.0),
    ]
}
