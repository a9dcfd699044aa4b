//! What an adapter's author writes so that the suite can run.

use std::{
    any::Any,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use grid_platform_api::{Capabilities, NodeId, Platform, Program, SpawnedNode, async_trait};

use crate::{Outcome, PATIENCE, probe};

/// One kind of platform, as the suite gets it.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// The first part of the tests' names: `process`, `docker`, `memory-limit`.
    fn name(&self) -> &str;

    /// Whether its platforms live in tokio's time alone, with no system beneath them. Then a case runs in paused time,
    /// where every wait is over as soon as nothing else can happen.
    fn is_simulated(&self) -> bool {
        false
    }

    /// The longest that a case may take. Far beyond what any needs: it is there so that a platform that hangs is a failure
    /// with a name.
    fn case_limit(&self) -> Duration {
        Duration::from_secs(90)
    }

    /// How long all of a case's nodes may take to be removed behind it.
    fn clean_limit(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// What this kind of platform can do here; asked once, before the first case.
    ///
    /// # Errors
    /// What is missing on this machine. Then no case runs, and every one is reported as not run, with these words.
    async fn survey(&self) -> Outcome<Survey>;

    /// A place for one case: nothing in it, and nothing of another case seen from it.
    ///
    /// # Errors
    /// Fails the case.
    async fn fixture(&self) -> Outcome<Box<dyn Fixture>>;
}

/// What cases are chosen by.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survey {
    /// What the platform says it can do. A case checks that an opened one says the same.
    pub capabilities: Capabilities,
    /// How many bytes of a node's log are kept in the fixtures, if that is little enough (some MiB) to be overrun by
    /// a test. `None` leaves the cases about retention out.
    pub log_budget: Option<u64>,
    /// A user that [`SpawnConfig::run_as`](grid_platform_api::SpawnConfig::run_as) may name here, and its number.
    /// `None` leaves the cases about users out: only root can change user.
    pub other_user: Option<(String, u32)>,
    /// The system may lose how a program ended that it ended itself; then [`Exit::Unknown`](grid_platform_api::Exit::Unknown)
    /// is the truth.
    pub ends_get_lost: bool,
    /// The system takes each of a program's two outputs by itself, and not the order between them.
    pub outputs_are_apart: bool,
    /// The longest that a case waits for a node to start, to end or to answer.
    pub patience: Duration,
    /// Secrets are files of the system's, which the node's own group reads: mode 440 and not 400.
    pub secrets_by_group: bool,
}

impl Survey {
    /// A survey with nothing but capabilities.
    pub fn new(capabilities: Capabilities) -> Self {
        Self {
            capabilities,
            log_budget: None,
            other_user: None,
            ends_get_lost: false,
            outputs_are_apart: false,
            patience: PATIENCE,
            secrets_by_group: false,
        }
    }

    /// The mode of a secret's file, as digits.
    pub(crate) fn secret_mode(&self) -> &'static str {
        if self.secrets_by_group { "440" } else { "400" }
    }
}

/// The place of one case: a state that platforms are opened over, and an eye on it from outside.
///
/// The suite opens one platform at a time by [`open`](Self::open) and drops it before it opens the next, as if the
/// process that held it had died. Nodes live on in between where the capability `nodes_outlive_adapter` says so.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// A new adapter over the fixture's state, as the same owner. All earlier ones were dropped.
    ///
    /// # Errors
    /// Fails the case.
    async fn open(&self) -> Outcome<Arc<dyn Platform>>;

    /// An adapter of another owner on the same host, engine or cluster, with a state of its own.
    ///
    /// # Errors
    /// Fails the case.
    async fn open_stranger(&self) -> Outcome<Arc<dyn Platform>>;

    /// The probe program, as this platform runs it, with these [actions](crate::probe) as its arguments.
    ///
    /// # Errors
    /// When the probe cannot be brought to where the platform finds it.
    fn probe(&self, actions: &[&str]) -> Outcome<Program>;

    /// A program that cannot be started. [`BadProgram::NoImage`] is asked for only with the capability
    /// `image_programs`.
    ///
    /// # Errors
    /// When it cannot be made.
    fn bad_program(&self, which: BadProgram) -> Outcome<Program>;

    /// The node's processes that live now, as the system has them and not as the platform does; a zombie does not
    /// live. [`HostPlace`](crate::HostPlace) is the one for processes of this host.
    ///
    /// # Errors
    /// When nobody can be asked; never answers short.
    async fn census(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>>;

    /// The boot records that the probe left in the node's data, oldest first; none if there is no data.
    ///
    /// # Errors
    /// When the data cannot be looked into.
    async fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>>;

    /// Has the running probe of `node` perform an [action](crate::probe), and gives its answer.
    ///
    /// # Errors
    /// When the probe cannot be reached, or says that it cannot.
    async fn ask(&self, node: &SpawnedNode, action: &str) -> Outcome<String> {
        let endpoint = node.endpoint.as_ref().ok_or("the node has no endpoint")?;
        probe::ask(&endpoint.host, endpoint.port, action).await
    }

    /// Takes a port as a program that is no node would.
    ///
    /// # Errors
    /// When there is none.
    async fn occupy_port(&self) -> Outcome<PortHold> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Ok(PortHold::new(listener.local_addr()?.port(), listener))
    }

    /// A path that a request may name as its storage path, not there yet, another at each call. Asked for only with
    /// the capability `storage_path`.
    fn storage_path(&self) -> PathBuf;

    /// Makes a small file where a node's data could be, and the folder it is in: data that no platform made.
    ///
    /// # Errors
    /// When it cannot be made.
    async fn put_file(&self, path: &Path) -> Outcome {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        Ok(std::fs::write(path, "kept")?)
    }

    /// Whether a file is there.
    ///
    /// # Errors
    /// When that cannot be told.
    async fn has_file(&self, path: &Path) -> Outcome<bool> {
        Ok(path.try_exists()?)
    }

    /// Ends what is left of the case and says what it was. The suite has removed all nodes and dropped the platform
    /// by then: what is found is the platform's leak.
    ///
    /// It is called after a panic too; what a fixture must undo even if this is never called belongs into its `Drop`.
    ///
    /// # Errors
    /// Names what was left: processes, containers, volumes, sockets, files.
    async fn clean_up(&self) -> Outcome;
}

/// How a program cannot be started. Where images are run it is the image's entrypoint that is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadProgram {
    /// It does not exist.
    Missing,
    /// It is a file that may not be executed.
    NotExecutable,
    /// It is an executable file and not a program.
    BadFormat,
    /// It is an image that is nowhere.
    NoImage,
}

/// A process that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveProcess {
    /// Its id, in the eyes of whoever took the census.
    pub pid: u32,
    /// When it started, in any unit: with the pid it is an identity.
    pub start_time: u64,
    /// What it runs, for the report.
    pub command: String,
}

/// A start of the probe, as the probe itself wrote it down in its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Which start on this data it was, from 1.
    pub number: u32,
    /// Its process id, as it saw it.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub start_time: u64,
    /// The user it ran as.
    pub uid: u32,
    /// When it wrote this, in milliseconds since 1970.
    pub at_ms: u64,
    /// Its arguments, without its own name.
    pub argv: Vec<String>,
    /// The names of its environment, in order.
    pub env_names: Vec<String>,
}

/// A port that is taken until this is dropped.
pub struct PortHold {
    /// The port.
    pub port: u16,
    _holder: Box<dyn Any + Send + Sync>,
}

impl PortHold {
    /// A port that is taken as long as `holder` lives.
    pub fn new(port: u16, holder: impl Any + Send + Sync) -> Self {
        Self {
            port,
            _holder: Box::new(holder),
        }
    }
}
