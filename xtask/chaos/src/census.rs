//! The judge: what is true of the system, beside what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::iter;
use std::path::Path;
use std::sync::Arc;

use grid_client::{Client, Desired, Node, NodeFilter, State};
use grid_platform_api::{ErrorKind, NodeId};
use grid_platform_testing::parse_boot;

use crate::Result;
use crate::fleet::{Kind, Slot, VERSION, Want};
use crate::platform::{Census, Ground, Living, Records};

/// What is looked at.
pub(crate) struct Judge<'a> {
    pub(crate) ground: &'a dyn Ground,
    pub(crate) slots: &'a [Arc<Slot>],
    /// Ids that others have, at which nodes are wished all the same.
    pub(crate) taken: &'a [NodeId],
}

/// A node that is shown with an error: any, where it is to run, and otherwise one that its agent does not try again after.
pub(crate) struct Failed {
    pub(crate) slot: Arc<Slot>,
    pub(crate) why: String,
    /// Its agent does not try again.
    pub(crate) is_given_up: bool,
}

/// What was found.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) wrong: Vec<String>,
    pub(crate) failed: Vec<Failed>,
    /// What programs have left beside themselves, each with its node.
    pub(crate) orphans: u64,
    /// What the platform has made outside of its own state.
    pub(crate) outside: u64,
    /// Boots that were left out, by their nodes: somebody's force may have let those programs live.
    pub(crate) left_over: BTreeMap<String, BTreeSet<u64>>,
    /// Things of others that are as they were.
    pub(crate) decoys: u64,
    /// Ids of others at which a node was refused for that reason.
    pub(crate) refused: Vec<NodeId>,
    /// Those where a start that was given up has left a node.
    pub(crate) left: Vec<NodeId>,
    /// Those of which there is no wish any more.
    pub(crate) forgotten: Vec<NodeId>,
}

impl Judge<'_> {
    /// Takes the census once. `known`: processes that are none of the platform's.
    pub(crate) async fn look(&self, client: &Client, known: &BTreeSet<u32>) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        let told = match client.nodes(&NodeFilter::default()).await {
            Ok(told) => told,
            Err(error) => {
                verdict
                    .wrong
                    .push(format!("the master does not answer: {error}"));
                return Ok(verdict);
            }
        };
        let census = self.ground.census()?;
        let records = self.ground.records()?;
        let orphans = census.nodes.values().map(|it| it.orphans.len() as u64);
        verdict.orphans = orphans.sum();
        verdict.outside = records.outside;
        verdict.left_over = records.left_over.clone();
        verdict.decoys = records.decoys;
        let nobody = Living::default();
        for slot in self.slots {
            let wants = slot.model.lock().await.wants.clone();
            let [want] = wants[..] else {
                verdict
                    .wrong
                    .push(format!("`{}` may be several things: {wants:?}", slot.id));
                continue;
            };
            let living = census.nodes.get(slot.id.as_str()).unwrap_or(&nobody);
            let node = told.iter().find(|it| it.id == slot.id);
            let is_failed = |node: &Node| match want {
                Want::Running { .. } => node.error.is_some() || is_given_up(node),
                Want::Stopped { .. } | Want::Absent { .. } => is_refused(node),
            };
            if let Some(node) = node.filter(|it| is_failed(it)) {
                let why = why(node);
                verdict.failed.push(Failed {
                    slot: Arc::clone(slot),
                    why,
                    is_given_up: is_given_up(node),
                });
            }
            let wrong = self.node(slot, want, living, node, &records).await;
            verdict.wrong.extend(
                wrong
                    .into_iter()
                    .map(|it| format!("`{}` ({want:?}): {it}", slot.id)),
            );
        }
        for id in self.taken {
            let Some(node) = told.iter().find(|it| it.id == *id) else {
                verdict.forgotten.push(id.clone());
                continue;
            };
            if node.uid.is_some() || node.pid.is_some() || node.state == State::Running {
                let words = format!("`{}` is somebody else's, and is shown as a node", node.id);
                verdict.wrong.push(words);
                if is_refused(node) {
                    verdict.left.push(id.clone());
                }
            }
            let kind = node.error.as_ref().map(|it| it.kind);
            if kind == Some(ErrorKind::OwnedByOther) {
                verdict.refused.push(node.id.clone());
            }
        }
        verdict
            .wrong
            .extend(self.strangers(&census, &records, known));
        Ok(verdict)
    }

    async fn node(
        &self,
        slot: &Slot,
        want: Want,
        living: &Living,
        node: Option<&Node>,
        records: &Records,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let uid = records.nodes.get(slot.id.as_str());
        let data = records.data.get(slot.id.as_str());
        let mut demand = |right: bool, words: &dyn Fn() -> String| {
            if !right {
                wrong.push(words());
            }
        };
        let (programs, supervisors) = (&living.programs, &living.supervisors);
        let orphans = &living.orphans;
        let list = |all: &[crate::proc::Process]| {
            all.iter()
                .map(|it| it.words())
                .collect::<Vec<_>>()
                .join("; ")
        };
        let shown = || {
            node.map_or("nothing".to_owned(), |it| {
                format!(
                    "{:?}, {:?}, generation {} of {}, {}",
                    it.desired,
                    it.state,
                    it.observed_generation,
                    it.generation,
                    why(it)
                )
            })
        };
        match want {
            Want::Running { version } => {
                demand(programs.len() == 1, &|| {
                    format!("{} programs run: {}", programs.len(), list(programs))
                });
                demand(supervisors.len() == 1, &|| {
                    format!(
                        "{} supervisors run: {}",
                        supervisors.len(),
                        list(supervisors)
                    )
                });
                let expect = usize::from(slot.leaves_an_orphan());
                demand(orphans.len() == expect, &|| {
                    format!(
                        "beside its program there are {}, and {expect} should be: {}",
                        orphans.len(),
                        list(orphans)
                    )
                });
                if let ([program], [supervisor]) = (&programs[..], &supervisors[..]) {
                    demand(program.parent == supervisor.pid, &|| {
                        format!("its program is not its supervisor's: {}", program.words())
                    });
                    let runs = program.variable(VERSION);
                    demand(runs == Some(&version.to_string()), &|| {
                        format!("it runs with the settings {runs:?}")
                    });
                    let shown = self.ground.manner().shows_pids.then_some(program.pid);
                    demand(node.is_some_and(|it| it.pid == shown), &|| {
                        format!(
                            "the master shows the pid {:?}, and it is {}",
                            node.and_then(|it| it.pid),
                            program.pid
                        )
                    });
                    if slot.kind == Kind::Probe {
                        let left_over = records.left_over.get(slot.id.as_str());
                        let boot = data.and_then(|it| last_boot(it, left_over));
                        demand(boot == Some((program.inner, program.start)), &|| {
                            format!(
                                "its last record of a boot is {boot:?}, and {} runs, started at {}",
                                program.inner, program.start
                            )
                        });
                    }
                }
                let good = |it: &Node| {
                    it.error.is_none()
                        && it.desired == Desired::Running
                        && it.state == State::Running
                        && it.observed_generation == it.generation
                };
                demand(node.is_some_and(good), &|| {
                    format!("the master shows {}", shown())
                });
                demand(uid.is_some(), &|| "it has no record".to_owned());
            }
            Want::Stopped { .. } => {
                demand(living.is_nobody(), &|| {
                    let all = [list(programs), list(supervisors), list(orphans)];
                    format!("it runs: {}", all.join(" "))
                });
                let good = |it: &Node| {
                    it.desired == Desired::Stopped
                        && it.state == State::Stopped
                        && it.observed_generation == it.generation
                };
                demand(node.is_some_and(good), &|| {
                    format!("the master shows {}", shown())
                });
                let revived = records.revived.get(slot.id.as_str());
                demand(revived.is_none(), &|| {
                    format!("it would be started by its platform: {revived:?}")
                });
            }
            Want::Absent { kept } => {
                demand(living.is_nobody(), &|| {
                    let all = [list(programs), list(supervisors), list(orphans)];
                    format!("it runs: {}", all.join(" "))
                });
                demand(node.is_none(), &|| format!("the master shows {}", shown()));
                demand(uid.is_none(), &|| "it has a record".to_owned());
                if !kept {
                    demand(data.is_none(), &|| "its data was not deleted".to_owned());
                } else if let Some(ledger) = &slot.ledger {
                    let holds = ledger.lock().await.holds_something();
                    demand(!holds || data.is_some(), &|| "its data is gone".to_owned());
                }
            }
        }
        if let (Some(node), Some(uid)) = (node, uid) {
            demand(node.uid.as_ref() == Some(uid), &|| {
                format!(
                    "the master shows the incarnation {:?}, and its record is of {uid}",
                    node.uid
                )
            });
        }
        wrong
    }

    fn strangers(&self, census: &Census, records: &Records, known: &BTreeSet<u32>) -> Vec<String> {
        let mut wrong: Vec<String> = records
            .left
            .iter()
            .map(|it| format!("left behind: {it}"))
            .collect();
        let ids: BTreeSet<&str> = self.slots.iter().map(|it| it.id.as_str()).collect();
        for (id, living) in &census.nodes {
            if !ids.contains(id.as_str()) {
                wrong.push(format!("an unknown node runs: `{id}`: {living:?}"));
            }
        }
        for id in records.nodes.keys().filter(|it| !ids.contains(it.as_str())) {
            wrong.push(format!("an unknown node has a record: `{id}`"));
        }
        let names = records.data.keys();
        wrong.extend(
            names
                .filter(|it| !ids.contains(it.as_str()))
                .map(|it| format!("left behind: `{it}` among the nodes' data")),
        );
        let strange = census.others.iter().filter(|it| !known.contains(&it.pid));
        wrong.extend(strange.map(|it| {
            let what = if it.is_zombie() {
                "a zombie"
            } else {
                "an orphan"
            };
            format!("{what}: {}", it.words())
        }));
        wrong
    }
}

/// The last program that wrote down its boot in a node's data, but for those left over: its own number, and when it started.
fn last_boot(data: &Path, left_over: Option<&BTreeSet<u64>>) -> Option<(u32, u64)> {
    let text = fs::read_to_string(data.join("grid-probe.boots")).ok()?;
    let mut boots = text.lines().rev().map(|it| Some(parse_boot(it)?.1));
    let boot = boots.find(|it| {
        let start = it.as_ref().map(|it| it.start_time);
        !start.is_some_and(|it| left_over.is_some_and(|all| all.contains(&it)))
    })??;
    Some((boot.pid, boot.start_time))
}

/// Nodes of which more than one program runs at this moment.
pub(crate) fn twice(census: &Census) -> Vec<(String, Vec<(u32, u64)>)> {
    let double = census
        .nodes
        .iter()
        .filter(|(_, living)| living.programs.len() > 1 || living.orphans.len() > 1);
    double
        .map(|(id, living)| {
            (
                id.clone(),
                living
                    .programs
                    .iter()
                    .chain(&living.orphans)
                    .map(|it| (it.pid, it.start))
                    .collect(),
            )
        })
        .collect()
}

/// Whether a node that is to run stays as it is until somebody wishes it anew. What its agent tries again by itself, and a node
/// that somebody else stopped, come to run in time.
fn is_given_up(node: &Node) -> bool {
    match &node.error {
        Some(error) => !error.retryable,
        None => {
            node.state == State::Failed || node.state == State::Stopped && node.failure.is_some()
        }
    }
}

/// Whether what is wished cannot be done, as far as its agent knows, until it is wished anew.
pub(crate) fn is_refused(node: &Node) -> bool {
    node.error.as_ref().is_some_and(|it| !it.retryable)
}

/// What is wrong with it, without names.
pub(crate) fn why(node: &Node) -> String {
    match (&node.error, &node.failure) {
        (Some(error), _) => {
            let all = iter::once(&error.message).chain(&error.causes);
            let all: Vec<String> = all.map(|it| without_names(it)).collect();
            format!("{}: {}", error.kind, all.join(": "))
        }
        (None, Some(failure)) => {
            let words = without_names(&failure.message);
            format!("{:?}: {words}", failure.reason)
        }
        (None, None) => "no reason shown".to_owned(),
    }
}

/// What is between backticks left out, so that what happened to many nodes is counted as one.
fn without_names(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .map(|(index, it)| if index % 2 == 0 { it } else { "`…`" })
        .collect()
}
