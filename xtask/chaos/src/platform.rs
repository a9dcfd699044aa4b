//! What differs from platform to platform: where the fault points are, who can be killed, and how a census is taken.
//! A platform is a [`Ground`] and a line in [`NAMES`] and [`open`].

mod docker;
mod kubernetes;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use grid_client::{Client, NodeSettings};
use grid_platform_api::{NodeId, checked};

use crate::plan::{Fault, Point, Weight};
use crate::proc::Process;
use crate::report::Counts;
use crate::{Args, Result};

/// The platforms that can be tried.
pub(crate) const NAMES: [&str; 3] = ["process", "docker", "kubernetes"];

/// Where a run has its things.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The run's own directory, on the host's disk.
    pub(crate) dir: PathBuf,
    /// The small disk that everything lies on which a grid must not lose.
    pub(crate) disk: PathBuf,
    /// Mounts and processes are the run's own.
    pub(crate) own_namespaces: bool,
}

impl Place {
    pub(crate) fn agent(&self) -> PathBuf {
        self.disk.join("agent")
    }

    pub(crate) fn master(&self) -> PathBuf {
        self.disk.join("master")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.disk.join("data")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

/// What runs of a node, as the system itself shows it.
#[derive(Debug, Default)]
pub(crate) struct Living {
    /// What keeps the program running.
    pub(crate) supervisors: Vec<Process>,
    pub(crate) programs: Vec<Process>,
    /// What a program has left beside itself, out of its session and its supervisor's sight.
    pub(crate) orphans: Vec<Process>,
}

impl Living {
    pub(crate) fn is_nobody(&self) -> bool {
        self.supervisors.is_empty() && self.is_ended()
    }

    /// Whether neither the program nor anything of its tree is there. Who kept it running may be on its way out.
    pub(crate) fn is_ended(&self) -> bool {
        self.programs.is_empty() && self.orphans.is_empty()
    }
}

/// What runs.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) nodes: BTreeMap<String, Living>,
    /// Everything else that could be of this run; zombies too.
    pub(crate) others: Vec<Process>,
}

/// What lies on the disk.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// The incarnation of each node that has a record.
    pub(crate) nodes: BTreeMap<String, String>,
    /// Where the data of each node is that has any, or had.
    pub(crate) data: BTreeMap<String, PathBuf>,
    /// Nodes that do not run, and that their platform would start by itself, each with the reason.
    pub(crate) revived: BTreeMap<String, String>,
    /// When programs of a node were started, in the kernel's ticks since boot, that somebody's force may have let live
    /// beside its own one.
    pub(crate) left_over: BTreeMap<String, BTreeSet<u64>>,
    /// What should not be there.
    pub(crate) left: Vec<String>,
    /// Of what the platform makes outside of its own state, so many things were looked at.
    pub(crate) outside: u64,
    /// Things of others, which the platform has to leave alone, that were looked at.
    pub(crate) decoys: u64,
}

/// A fault that was done at the end, if there is one: its name, and what is wrong behind it.
pub(crate) type LastFault = Option<(&'static str, Vec<String>)>;

/// What a position in a log says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Positions {
    /// The incarnation, and how many bytes its log had up to there.
    #[default]
    Offsets,
    /// The incarnation, and what only its platform can read.
    Opaque,
}

/// What a platform takes, and what it can show.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// How long a wish may go without an answer that settles it.
    pub(crate) patience: Duration,
    /// How long the grid may take to come to rest once it is left alone.
    pub(crate) rest: Duration,
    /// How long is waited between two looks whether it has.
    pub(crate) look_every: Duration,
    /// As that, between two looks whether a node runs twice.
    pub(crate) watch_every: Duration,
    /// How many times as long is waited between two faults as the plan says.
    pub(crate) slower: u64,
    /// How long a fault that meets nobody is tried again, until it counts as missed.
    pub(crate) persists: Duration,
    /// A fault that was missed all the same is wrong.
    pub(crate) insists: bool,
    /// How long armed points may wait for somebody before they are taken back.
    pub(crate) points_wait: Duration,
    /// How long a node is left alone between two wishes, in milliseconds.
    pub(crate) pause_ms: Range<u64>,
    /// How many logs are followed.
    pub(crate) followed: usize,
    /// Nodes are shown with the numbers that their programs have on this host.
    pub(crate) shows_pids: bool,
}

impl Default for Manner {
    /// Of what takes next to no time, on the agent's own host.
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(90),
            // A node whose start failed several times in a row is tried again after up to a minute.
            rest: Duration::from_secs(120),
            look_every: Duration::from_millis(50),
            watch_every: Duration::from_millis(100),
            slower: 1,
            persists: Duration::ZERO,
            insists: false,
            points_wait: Duration::from_secs(2),
            pause_ms: 150..1200,
            followed: 6,
            shows_pids: true,
        }
    }
}

/// Where nodes run.
pub(crate) trait Ground: Send + Sync {
    /// What it takes.
    fn manner(&self) -> Manner;

    /// What is done here.
    fn kinds(&self) -> Vec<Weight>;

    /// The fault points in the platform's adapter.
    fn points(&self) -> Vec<Point>;

    /// What of the agent's settings is the platform's, as TOML that ends within `[storage]`; there it takes `of_the_host` over where
    /// nodes have data and ports of the agent's own host.
    fn settings(&self, of_the_host: &str) -> String;

    /// Says in a request what runs: the probe with these arguments, or without any the agent's own program.
    fn dress(&self, probe: Option<Vec<String>>, settings: &mut NodeSettings);

    /// Says that all is as it should be, and that faults are about to strike.
    fn begin(&self);

    /// Lets a fault of the platform's own strike. Whether it met somebody.
    fn strike<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Result<bool>>;

    /// Ends what lasts of those faults.
    fn calm(&self) -> BoxFuture<'_, Result<()>>;

    /// Asks the system what runs.
    fn census(&self) -> io::Result<Census>;

    /// Looks at what the adapter keeps, and at what it should not have left or touched.
    fn records(&self) -> io::Result<Records>;

    /// Whether a node has data, or what once was some.
    fn has_data(&self, id: &NodeId) -> io::Result<bool>;

    /// Where clients of this host reach the node that asked for this port, as `HOST:PORT`; none while that cannot be said.
    fn address(&self, id: &NodeId, port: u16) -> Option<String>;

    /// A node's log as it is kept; `InvalidData` when the platform itself has broken it for good.
    fn log(&self, id: &NodeId) -> io::Result<Vec<u8>>;

    /// What positions in logs say.
    fn positions(&self) -> Positions;

    /// Whether a log may have lost lines that nobody can tell of, since the last [`begin`](Self::begin): what keeps logs was
    /// killed, or had no room.
    fn loses_lines(&self) -> bool;

    /// What a node may fail of here, besides what it may anywhere.
    fn excuses(&self) -> &'static [&'static str];

    /// Whether a node failed of what the platform itself has broken, which is mended now, as a person would. The port is the one
    /// that was asked for.
    fn mend<'a>(
        &'a self,
        id: &'a NodeId,
        port: Option<u16>,
        why: &str,
    ) -> BoxFuture<'a, Result<bool>>;

    /// What the platform itself has left or broken, and was mended.
    fn mended(&self) -> Counts;

    /// Ids that somebody else has taken: nodes that are wished there are refused.
    fn taken(&self) -> Vec<NodeId>;

    /// A fault that there is once in a run, when all nodes are gone.
    fn last_fault<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<LastFault>>;

    /// How the platform's own daemons ended, other than by our hand.
    fn ends(&self) -> Counts;

    /// Writes down what is known of the platform, for who looks for the reason of something.
    fn keep_evidence(&self);

    /// Takes away what the adapter leaves on purpose, and nobody needs after the run.
    fn clean_up(&self) -> BoxFuture<'_, Result<()>>;
}

/// The folders of nodes' data on this host, by their names.
fn data_folders(place: &Place) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(place.data()).into_iter().flatten().flatten();
    entries
        .map(|it| (it.file_name().to_string_lossy().into_owned(), it.path()))
        .collect()
}

/// What a file holds that an adapter sealed.
fn sealed_json(path: &Path) -> io::Result<serde_json::Value> {
    let sealed = fs::read(path)?;
    let text = checked::open(&sealed).map_err(io::Error::other)?;
    Ok(serde_json::from_slice(text)?)
}

/// Whether nodes of that platform have a network of the run's own.
pub(crate) fn has_own_network(name: &str) -> bool {
    name == "docker"
}

/// Whether nodes of that platform are on a cluster, which is the host's and not the run's own.
pub(crate) fn is_on_a_cluster(name: &str) -> bool {
    name == "kubernetes"
}

/// The ground of that name.
pub(crate) async fn open(args: &Args, place: &Place) -> Result<Arc<dyn Ground>> {
    match args.platform.as_str() {
        "process" => Ok(Arc::new(process::Processes::new(args, place)?)),
        "docker" => Ok(Arc::new(docker::Containers::open(args, place).await?)),
        "kubernetes" => Ok(kubernetes::Pods::open(args, place).await?),
        name => Err(format!("there is no platform `{name}`").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan::COMMON_POINTS;

    /// The names of points in the sources beneath a directory.
    fn points_in(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                points_in(&path, found);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let names = text.split("fault::point(\"").skip(1);
                found.extend(names.filter_map(|it| Some(it.split_once('"')?.0.to_owned())));
            }
        }
    }

    #[test]
    fn every_point_of_the_code_is_in_the_plan_and_the_other_way_round() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates");
        let check = |members: &[&str], points: &[Point]| {
            let mut found = BTreeSet::new();
            members
                .iter()
                .for_each(|it| points_in(&root.join(it), &mut found));
            let known = points.iter().map(|it| it.name.to_owned());
            assert_eq!(found, known.collect());
        };
        check(&["grid-platform-process"], process::POINTS);
        check(&["grid-platform-docker"], docker::POINTS);
        check(&["grid-platform-k8s"], kubernetes::POINTS);
        // Of what platforms share.
        check(
            &["grid-agent", "grid-master", "grid-platform-host"],
            COMMON_POINTS,
        );
    }
}
