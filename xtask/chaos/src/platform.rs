//! What differs from platform to platform: where the fault points are, who can be killed, and how a census is taken.
//! A platform is a [`Ground`] and a line in [`NAMES`] and [`open`].

mod process;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use grid_platform_api::NodeId;

use crate::plan::Point;
use crate::proc::Process;

/// The platforms that can be tried.
pub(crate) const NAMES: [&str; 1] = ["process"];

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
    /// What should not be there.
    pub(crate) left: Vec<String>,
    /// Of what the platform makes outside of its own state, so many things were looked at.
    pub(crate) outside: u64,
}

/// Where nodes run.
pub(crate) trait Ground: Send + Sync {
    /// The fault points in the platform's adapter.
    fn points(&self) -> Vec<Point>;

    /// Asks the system what runs.
    fn census(&self) -> io::Result<Census>;

    /// Looks at what the adapter keeps, and at what it should not have left.
    fn records(&self) -> io::Result<Records>;

    /// A node's log as it lies on the disk.
    fn log(&self, id: &NodeId) -> io::Result<Vec<u8>>;

    /// Takes away what the adapter leaves on purpose, and nobody needs after the run.
    fn clean_up(&self);
}

/// The ground of that name.
pub(crate) fn open(name: &str, place: &Place) -> Option<Box<dyn Ground>> {
    match name {
        "process" => Some(Box::new(process::Processes::new(place.clone()))),
        _ => None,
    }
}
