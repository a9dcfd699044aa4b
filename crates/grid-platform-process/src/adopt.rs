//! Opening the state: every node that there was is found, as it is.

use std::{collections::BTreeMap, ffi::OsStr, os::fd::OwnedFd, sync::Arc};

use futures::{StreamExt, stream};
use grid_platform_api::{Error, ErrorKind, NodeId, NodeLocks, NodeUid, RestartMode, Result};
use grid_platform_host::work::{Turns, blocking};
use tokio::sync::watch;

use crate::{
    cgroup::{self, Cgroups},
    config::{CgroupMode, ProcessConfig},
    data::DataStore,
    error::{Context, error},
    install::Install,
    intent::Intent,
    launch::ShimFile,
    lifecycle::{self, in_turn},
    node::{Registry, Situation},
    platform::Inner,
    ports::PortBook,
    recover,
    removal::TRASH,
    shared::record::{Record, State, Stored},
    store::{IntentRead, NodeDir},
    supervise::{self, Watched},
    sweep,
    sys::{exec::Child, files, proc},
    translate::{self, Shim},
};

/// How many nodes are started at once when the state is opened.
const STARTS: usize = 8;

/// A directory of our naming that is not ours to touch.
#[derive(Clone, Debug)]
pub(crate) struct Blocked {
    kind: ErrorKind,
    why: String,
}

impl Blocked {
    pub(crate) fn error(&self, id: &NodeId) -> Error {
        error(
            self.kind,
            format!("the record of the node `{id}` {}", self.why),
        )
        .with_node(id)
        .with_hint("`grid doctor` names the directory: look whose it is, and move it away.")
    }
}

/// Something that was found wrong.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) name: String,
    /// What was found.
    pub(crate) detail: String,
    /// What mends it.
    pub(crate) hint: String,
}

/// What opening does with a node.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// Its shim lives, and should.
    Watch,
    /// Its shim lives, and should not: a stop was cut short.
    FinishStop,
    /// It has ended, and rests.
    Rest,
    /// It has ended, and its shim did not see it.
    Settle,
    /// It is started.
    Start {
        /// Restarts counted so far.
        restarts: u64,
    },
    /// It was taken down, and its policy does not start it again.
    Interrupt,
}

/// What to do with a node. `alive` is what its lock says.
fn decide(intent: &Intent, record: Option<&Record>, alive: bool, boot_id: &str) -> Action {
    if alive {
        return if intent.wants_running() {
            Action::Watch
        } else {
            Action::FinishStop
        };
    }
    let settled = record.is_none_or(|it| it.state.is_final());
    if !intent.wants_running() {
        return if settled {
            Action::Rest
        } else {
            Action::Settle
        };
    }
    let current =
        record.filter(|it| it.generation == intent.generation && it.uid == intent.uid.as_str());
    let Some(record) = current else {
        // The intent was durable, and the start had not begun.
        return Action::Start {
            restarts: intent.restarts,
        };
    };
    // A host that goes down asks every shim to stop: that is no wish of ours.
    let by_host = record.state == State::Stopped && record.boot_id != boot_id;
    let on_trial = translate::ended_on_trial(intent, record);
    if record.state.is_final() && !by_host && !on_trial {
        return Action::Rest;
    }
    match intent.config.restart.mode {
        RestartMode::Never => Action::Interrupt,
        RestartMode::OnFailure | RestartMode::Always => Action::Start {
            restarts: record.restarts.saturating_add(1),
        },
    }
}

/// A node that was found.
struct Loaded {
    intent: Intent,
    stored: Option<Stored>,
    alive: bool,
    action: Action,
}

/// [`ProcessPlatform::open`](crate::ProcessPlatform::open).
pub(crate) async fn open(
    config: ProcessConfig,
    closing: watch::Receiver<()>,
) -> Result<Arc<Inner>> {
    config.validate()?;
    let (inner, loaded) = blocking(move || prepare(config, closing)).await?;
    let inner = Arc::new(inner);
    let starts: Vec<Start> = loaded
        .into_iter()
        .filter_map(|node| settle(&inner, node))
        .collect();
    stream::iter(starts)
        .for_each_concurrent(STARTS, |start| {
            let inner = Arc::clone(&inner);
            async move {
                let turn = inner.turns.take(&start.node.id).await;
                let start = blocking(move || {
                    in_turn(turn, || {
                        recover::start_again(&inner, &start.node, start.restarts)
                    });
                    Ok(())
                });
                if let Err(e) = start.await {
                    tracing::warn!(error = %e, "a node was not started again");
                }
            }
        })
        .await;
    let finished = Arc::clone(&inner);
    blocking(move || {
        finished.data.finish_purges(&|| finished.used());
        Ok(())
    })
    .await?;
    Ok(inner)
}

/// A node to be started once all are known.
struct Start {
    node: Arc<crate::node::Node>,
    restarts: u64,
}

/// Takes a node in.
fn settle(inner: &Arc<Inner>, loaded: Loaded) -> Option<Start> {
    let Loaded {
        intent,
        stored,
        alive,
        action,
    } = loaded;
    let id = intent.config.node_id.clone();
    let generation = intent.generation;
    let child = stored
        .as_ref()
        .and_then(|it| Child::of(it.record.shim_pid, it.record.shim_start));
    inner.ports.note(&id, intent.ports.values());
    let shim = if alive { Shim::Alive } else { Shim::Gone };
    let mut situation = Situation::new(intent, stored, shim);
    if action == Action::Settle || action == Action::Interrupt {
        situation.settle();
    }
    let node = inner.registry.insert(situation);
    match action {
        Action::Watch | Action::FinishStop => {
            let watched = Watched {
                generation,
                child,
                report: None,
            };
            supervise::monitor(inner, &node, watched);
            if action == Action::FinishStop {
                recover::finish_stop(inner, &node);
            }
            None
        }
        Action::Rest | Action::Settle => {
            // With it come the last lines of one that failed.
            inner.learn(&node, generation, |_| {});
            None
        }
        Action::Interrupt => {
            let failure = translate::interrupted();
            lifecycle::give_up_start(inner, &node, failure);
            None
        }
        Action::Start { restarts } => Some(Start { node, restarts }),
    }
}

/// All of opening that is not starting.
fn prepare(config: ProcessConfig, closing: watch::Receiver<()>) -> Result<(Inner, Vec<Loaded>)> {
    let install = Install::open(&config.state_dir)?;
    let shim = ShimFile::install(&install.dir, &config.state_dir)?;
    let path = config.data_path.display();
    std::fs::create_dir_all(&config.data_path).cannot(format!("make the data path `{path}`"))?;
    files::make_dir_at(&install.dir, "nodes", 0o711).cannot("make the directory of nodes")?;
    let nodes_dir =
        files::open_dir_at(&install.dir, "nodes").cannot("open the directory of nodes")?;
    let data = DataStore::open(&install.dir, install.owner.clone(), config.places())?;
    let boot_id = proc::boot_id();
    let mut hall = Hall {
        install: &install,
        nodes: &nodes_dir,
        boot_id: &boot_id,
        loaded: Vec::new(),
        blocked: BTreeMap::new(),
        findings: Vec::new(),
        left: Vec::new(),
    };
    for name in files::names(&nodes_dir).cannot("read the directory of nodes")? {
        hall.admit(&name)?;
    }
    let (cgroups, damage) = match config.cgroups {
        CgroupMode::Auto => Cgroups::find(&install.owner, &install.dir)?,
        CgroupMode::Off => (Cgroups::none(), None),
    };
    if let Some(why) = damage {
        hall.find(
            cgroup::FILE,
            &why,
            "It was written anew. An earlier agent that ran elsewhere may have made cgroups that are not looked into any more.",
        );
    }
    let (loaded, blocked, findings, left) = (hall.loaded, hall.blocked, hall.findings, hall.left);
    // Once for all of them.
    let killed: Vec<&NodeUid> = loaded
        .iter()
        .filter(|it| {
            !it.alive
                && it
                    .stored
                    .as_ref()
                    .is_some_and(|it| !it.record.state.is_final())
        })
        .map(|it| &it.intent.uid)
        .chain(&left)
        .collect();
    sweep::leftovers(&killed, &cgroups)?;
    // What cannot be understood may run, in a cgroup that is empty between two runs.
    if blocked.is_empty() {
        let known: Vec<_> = loaded.iter().map(|it| &it.intent.uid).collect();
        cgroups.remove_others(&known);
    }
    let config = Arc::new(config);
    let inner = Inner {
        registry: Arc::new(Registry::new(Arc::clone(&config))),
        config,
        install,
        nodes_dir,
        data: Arc::new(data),
        shim,
        locks: NodeLocks::new(),
        turns: Turns::default(),
        ports: Arc::new(PortBook::default()),
        cgroups,
        blocked,
        findings,
        closing,
    };
    Ok((inner, loaded))
}

/// Where directories are looked at one by one.
struct Hall<'a> {
    install: &'a Install,
    nodes: &'a OwnedFd,
    boot_id: &'a str,
    loaded: Vec<Loaded>,
    blocked: BTreeMap<NodeId, Blocked>,
    findings: Vec<Finding>,
    /// Of what was put aside: whose processes a killed shim may have left.
    left: Vec<NodeUid>,
}

impl Hall<'_> {
    fn admit(&mut self, name: &OsStr) -> Result<()> {
        let text = name.to_string_lossy();
        if text.starts_with(TRASH) {
            return files::remove_tree(self.nodes, name).cannot(format!("delete `{text}`"));
        }
        let Some(id) = NodeId::from_native_name(&text) else {
            self.find(
                &text,
                "is no node's directory",
                "Move it out of the directory `nodes`.",
            );
            return Ok(());
        };
        let what = format!("open the directory of the node `{id}`");
        let dir = NodeDir::open(self.nodes, &id).cannot(&what)?;
        let lock = dir.try_lock().cannot(&what)?;
        let alive = lock.is_none();
        let intent = match dir.read_intent() {
            IntentRead::Found(intent) if intent.config.node_id == id => *intent,
            IntentRead::Missing if !alive => {
                // Nothing was promised: the record is the first thing that is durable.
                return match dir.stranger(&id)? {
                    None => files::remove_tree(self.nodes, name).cannot(what),
                    Some(strange) => {
                        let why = format!(
                            "is missing, and beside it lies `{strange}`, which is no part of a node"
                        );
                        self.put_aside(&id, alive, &why)
                    }
                };
            }
            other => {
                let why = match other {
                    IntentRead::Found(_) => "is of another node".to_owned(),
                    IntentRead::Missing => "is missing".to_owned(),
                    IntentRead::Damaged(why) => format!("cannot be understood: {why}"),
                };
                return self.put_aside(&id, alive, &why);
            }
        };
        if intent.owner != self.install.owner {
            let why = "belongs to another owner";
            self.find(
                id.as_str(),
                why,
                "Give it back to the agent whose it is, or move it away.",
            );
            let kind = ErrorKind::OwnedByOther;
            self.blocked.insert(
                id,
                Blocked {
                    kind,
                    why: why.to_owned(),
                },
            );
            return Ok(());
        }
        let mut stored = dir.read_record();
        if stored.is_none() && !alive && dir.record_is_damaged() {
            stored = Some(self.replace_record(&id, &dir, &intent)?);
        }
        let action = decide(
            &intent,
            stored.as_ref().map(|it| &it.record),
            alive,
            self.boot_id,
        );
        self.loaded.push(Loaded {
            intent,
            stored,
            alive,
            action,
        });
        Ok(())
    }

    fn find(&mut self, name: &str, why: &str, hint: &str) {
        let name = name.escape_debug().to_string();
        tracing::warn!(what = %name, why, "found in the state directory");
        self.findings.push(Finding {
            detail: format!("`{name}` {why}"),
            name: "records".to_owned(),
            hint: hint.to_owned(),
        });
    }

    /// Moves a directory that cannot be understood out of the way, unless its node runs.
    fn put_aside(&mut self, id: &NodeId, alive: bool, why: &str) -> Result<()> {
        if alive {
            self.find(
                id.as_str(),
                why,
                "Its node runs: put `intent.json` back from a backup.",
            );
            let kind = ErrorKind::Corrupt;
            self.blocked.insert(
                id.clone(),
                Blocked {
                    kind,
                    why: why.to_owned(),
                },
            );
            return Ok(());
        }
        // Its record still tells of its processes, which would be doubled when the node is made anew.
        let record = NodeDir::open(self.nodes, id)
            .ok()
            .and_then(|it| it.read_record());
        let unsettled = record.filter(|it| !it.record.state.is_final());
        self.left
            .extend(unsettled.and_then(|it| NodeUid::try_from(it.record.uid).ok()));
        let place = self.to_quarantine(self.nodes, &id.native_name(), &id.native_name())?;
        self.find(
            id.as_str(),
            &format!("{why}; it was moved to `quarantine/{place}`"),
            "Look into it, and delete it when nothing in it is needed.",
        );
        Ok(())
    }

    /// Takes a record away that cannot be understood: what it said is unknown, so the node was running as far as we know.
    fn replace_record(&mut self, id: &NodeId, dir: &NodeDir, intent: &Intent) -> Result<Stored> {
        let place =
            self.to_quarantine(dir.fd(), "record", &format!("{}-record", id.native_name()))?;
        self.find(
            id.as_str(),
            &format!("has a damaged record, moved to `quarantine/{place}`; the node counts as interrupted"),
            "Check the disk: a loss of power damages one half of a record at most.",
        );
        Ok(Stored {
            seq: 0,
            record: Record {
                boot_id: self.boot_id.to_owned(),
                uid: intent.uid.to_string(),
                generation: intent.generation,
                state: State::Running,
                restarts: intent.restarts,
                ..Record::default()
            },
        })
    }

    fn to_quarantine(&self, from: &OwnedFd, name: &str, wanted: &str) -> Result<String> {
        let what = format!("move `{name}` into the quarantine");
        files::make_dir_at(&self.install.dir, "quarantine", 0o700).cannot(&what)?;
        let quarantine = files::open_dir_at(&self.install.dir, "quarantine").cannot(&what)?;
        for number in 0_u32.. {
            let place = format!("{wanted}-{number}");
            if files::rename_new(from, name, &quarantine, &place).cannot(&what)? {
                return Ok(place);
            }
        }
        Err(error(ErrorKind::Internal, format!("cannot {what}")))
    }
}

#[cfg(test)]
#[path = "adopt_tests.rs"]
mod tests;
