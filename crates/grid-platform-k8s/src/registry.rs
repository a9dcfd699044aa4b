//! All nodes in memory, as the cluster last said they are.
//!
//! What watches the cluster (`watch.rs`) and every answer to a call of ours bring claims and pods; the newer version of each counts.
//! One that was seen to be gone does not come back, however late something older is told of it. One that only was not ours any more, by its
//! labels or by what is written on it, comes back with a later version.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grid_platform_api::{Error, NodeId, NodeUid, SpawnedNode};
use tokio::sync::{broadcast, watch};

use crate::translate::{self, ClaimView, Facts, PodView, Record};

/// How many changes a watcher may be behind before it is told to start over.
const BACKLOG: usize = 1024;
/// How many objects that are gone are remembered. Beyond that, what is told of them is too old to come.
const GONE: usize = 4096;

/// News for watchers. What the node is now they read themselves, so that they are never told an old state last.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The node is new or changed.
    Changed(NodeId),
    /// The node is gone.
    Removed(NodeId, NodeUid),
    /// The cluster has said something about what the node waits for.
    Said(NodeId, String),
    /// Events of the cluster were lost, for this reason, and everything was read again.
    Resync(String),
}

/// What is known of one id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) claim: Option<Arc<ClaimView>>,
    pub(crate) pod: Option<Arc<PodView>>,
    /// The last pod that is gone, as it was last.
    pub(crate) last: Option<Arc<PodView>>,
    /// The cluster's own words about a pod, by its uid: a reason and a message.
    words: Option<(String, String, String)>,
    /// The last lines of a pod whose program failed for good, by its uid.
    tail: Option<(String, Vec<String>)>,
    shown: Option<Arc<SpawnedNode>>,
}

impl Entry {
    /// The record, where the claim is that of a node.
    pub(crate) fn record(&self) -> Option<&Record> {
        self.claim.as_ref()?.record.as_ref()
    }

    /// The pod of this incarnation.
    pub(crate) fn own_pod(&self) -> Option<&Arc<PodView>> {
        let record = self.record()?;
        self.pod
            .as_ref()
            .filter(|it| it.node_uid.as_ref() == Some(&record.uid))
    }

    /// The node as it is shown.
    pub(crate) fn shown(&self) -> Option<&SpawnedNode> {
        self.shown.as_deref()
    }

    fn show(&self) -> Option<SpawnedNode> {
        let claim = self.claim.as_ref()?;
        let record = claim.record.as_ref()?;
        let pod = self.own_pod();
        let of_pod = |uid: &String| pod.is_some_and(|it| it.uid == *uid);
        let words = self.words.as_ref().filter(|it| of_pod(&it.0));
        let tail = self.tail.as_ref().filter(|it| of_pod(&it.0));
        Some(translate::node(&Facts {
            record,
            claim,
            pod: pod.map(Arc::as_ref),
            words: words.map(|(_, reason, message)| (reason.as_str(), message.as_str())),
            tail: tail.map_or(&[], |it| it.1.as_slice()),
        }))
    }

    fn is_empty(&self) -> bool {
        self.claim.is_none() && self.pod.is_none()
    }
}

/// Which of our objects are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Claims,
    Pods,
}

/// All nodes.
pub(crate) struct Registry {
    state: Mutex<State>,
    version: watch::Sender<u64>,
    changes: broadcast::Sender<Change>,
    synced: watch::Sender<Synced>,
    /// Why the cluster does not tell of some objects, where it refuses to.
    refused: Mutex<BTreeMap<&'static str, Error>>,
}

/// Whether what is known is what is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    claims: bool,
    pods: bool,
    server: bool,
}

impl Synced {
    pub(crate) fn all(self) -> bool {
        self.claims && self.pods && self.server
    }
}

/// How an object went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// There is none of this uid, and never will be.
    ForGood,
    /// At this version it was not among ours.
    At(String),
}

#[derive(Default)]
struct State {
    entries: BTreeMap<NodeId, Entry>,
    /// How objects went, by their uids.
    gone: HashMap<String, Farewell>,
    gone_in_order: VecDeque<String>,
    /// The version of the last list of each kind.
    listed: HashMap<Kind, u64>,
}

impl State {
    fn is_gone(&self, uid: &str, version: &str) -> bool {
        match self.gone.get(uid) {
            Some(Farewell::ForGood) => true,
            Some(Farewell::At(last)) => !is_newer(version, last),
            None => false,
        }
    }

    /// Whether a list of this version is of a time before an earlier list: versions only grow, but where a backup was played back. Then
    /// what was gone may be there again.
    fn is_of_the_past(&mut self, kind: Kind, version: &str) -> bool {
        let Ok(version) = version.parse() else {
            return false;
        };
        let before = self.listed.insert(kind, version);
        let is_past = before.is_some_and(|it| version < it);
        if is_past {
            self.gone.clear();
            self.gone_in_order.clear();
        }
        is_past
    }

    /// Notes a version that a watch told: a list that was asked for behind it is of no earlier time, but where a backup was played back.
    fn heard(&mut self, kind: Kind, version: &str) {
        if let Ok(version) = version.parse::<u64>() {
            let last = self.listed.entry(kind).or_default();
            *last = version.max(*last);
        }
    }

    fn bury(&mut self, uid: &str, farewell: Farewell) {
        if let Some(known) = self.gone.get_mut(uid) {
            if *known != Farewell::ForGood {
                *known = farewell;
            }
            return;
        }
        self.gone.insert(uid.to_owned(), farewell);
        self.gone_in_order.push_back(uid.to_owned());
        if self.gone_in_order.len() > GONE
            && let Some(oldest) = self.gone_in_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }
}

/// Whether `now` is an earlier version than `before`, where both are numbers.
pub(crate) fn is_of_before(now: &str, before: &str) -> bool {
    match (now.parse::<u64>(), before.parse::<u64>()) {
        (Ok(now), Ok(before)) => now < before,
        _ => false,
    }
}

/// Whether `new` is a later version than `old`. The versions of one resource are compared as numbers where they are
/// numbers, as every server has them; where they are not, what comes later is newer.
fn is_newer(new: &str, old: &str) -> bool {
    match (new.parse::<u64>(), old.parse::<u64>()) {
        (Ok(new), Ok(old)) => new > old,
        _ => new != old,
    }
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            version: watch::channel(0).0,
            changes: broadcast::channel(BACKLOG).0,
            synced: watch::channel(Synced::default()).0,
            refused: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What it guards is whole at every point where a panic could happen.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of an id.
    pub(crate) fn get(&self, id: &NodeId) -> Entry {
        self.lock().entries.get(id).cloned().unwrap_or_default()
    }

    /// The node as it is shown.
    pub(crate) fn shown(&self, id: &NodeId) -> Option<Arc<SpawnedNode>> {
        self.lock().entries.get(id)?.shown.clone()
    }

    /// All nodes as they are shown, by id.
    pub(crate) fn list(&self) -> Vec<SpawnedNode> {
        let state = self.lock();
        let shown = state.entries.values().filter_map(|it| it.shown.as_deref());
        shown.cloned().collect()
    }

    /// Everything that is known, by id.
    pub(crate) fn all(&self) -> Vec<(NodeId, Entry)> {
        let state = self.lock();
        let pair = |(id, entry): (&NodeId, &Entry)| (id.clone(), entry.clone());
        state.entries.iter().map(pair).collect()
    }

    /// Changes with each piece of news.
    pub(crate) fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// News for watchers.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Tells who watches.
    pub(crate) fn tell(&self, change: Change) {
        // Nobody may be watching.
        let _ = self.changes.send(change);
    }

    /// Whether what is known is what is, and news of that.
    pub(crate) fn synced(&self) -> watch::Receiver<Synced> {
        self.synced.subscribe()
    }

    /// Notes whether the objects of a kind are heard of.
    pub(crate) fn set_synced(&self, kind: Kind, synced: bool) {
        self.synced.send_if_modified(|it| {
            let one = match kind {
                Kind::Claims => &mut it.claims,
                Kind::Pods => &mut it.pods,
            };
            std::mem::replace(one, synced) != synced
        });
    }

    /// Notes why the cluster does not tell of some objects; `None` when it does.
    pub(crate) fn set_refused(&self, what: &'static str, why: Option<Error>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(refused.insert(what, why)),
            None => drop(refused.remove(what)),
        }
    }

    /// Why the cluster does not tell of some objects, where it refuses to.
    pub(crate) fn refused(&self) -> Option<Error> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.values().next().map(Error::copied)
    }

    /// Notes whether the server answers.
    pub(crate) fn set_server(&self, answers: bool) {
        self.synced
            .send_if_modified(|it| std::mem::replace(&mut it.server, answers) != answers);
    }

    /// Changes what is known, by one step: nothing comes in between.
    fn step<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        drop(state);
        self.version.send_modify(|it| *it += 1);
        result
    }

    fn update_in<T>(
        &self,
        state: &mut State,
        id: &NodeId,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> T {
        let entry = state.entries.entry(id.clone()).or_default();
        let result = change(entry);
        let now = entry.show();
        match (&entry.shown, now) {
            (Some(before), Some(now)) if **before == now => {}
            (before, Some(now)) => {
                let replaced = before.as_ref().filter(|it| it.uid != now.uid);
                if let Some(before) = replaced {
                    self.tell(Change::Removed(id.clone(), before.uid.clone()));
                }
                entry.shown = Some(Arc::new(now));
                self.tell(Change::Changed(id.clone()));
            }
            (Some(before), None) => {
                self.tell(Change::Removed(id.clone(), before.uid.clone()));
                entry.shown = None;
            }
            (None, None) => {}
        }
        if entry.is_empty() {
            state.entries.remove(id);
        }
        result
    }

    /// Notes up to which version a watch told of a kind.
    pub(crate) fn heard(&self, kind: Kind, version: &str) {
        self.lock().heard(kind, version);
    }

    /// Takes in a claim; `false` when something newer is known.
    pub(crate) fn learn_claim(&self, view: ClaimView) -> bool {
        self.step(|state| {
            let is_gone = state.is_gone(&view.uid, &view.resource_version);
            !is_gone && self.take_claim(state, view, false)
        })
    }

    /// Takes in a claim if it is newer than what is known; with `anew` whatever is known.
    fn take_claim(&self, state: &mut State, view: ClaimView, anew: bool) -> bool {
        self.update_in(state, &view.node_id.clone(), |entry| {
            let known = entry.claim.as_ref();
            let newer =
                known.is_none_or(|it| is_newer(&view.resource_version, &it.resource_version));
            if newer || anew {
                entry.claim = Some(Arc::new(view));
            }
            newer || anew
        })
    }

    /// Takes in a pod, with the last lines of its log where they are known; `false` when something newer is known.
    pub(crate) fn learn_pod(&self, view: PodView, tail: Option<Vec<String>>) -> bool {
        self.step(|state| {
            let is_gone = state.is_gone(&view.uid, &view.resource_version);
            !is_gone && self.take_pod(state, view, tail, false)
        })
    }

    fn take_pod(
        &self,
        state: &mut State,
        view: PodView,
        tail: Option<Vec<String>>,
        anew: bool,
    ) -> bool {
        self.update_in(state, &view.node_id.clone(), |entry| {
            if let Some(tail) = tail {
                entry.tail = Some((view.uid.clone(), tail));
            }
            let known = entry.pod.as_ref();
            let newer =
                known.is_none_or(|it| is_newer(&view.resource_version, &it.resource_version));
            if newer || anew {
                if let Some(before) = known.filter(|it| it.uid != view.uid) {
                    entry.last = Some(Arc::clone(before));
                }
                entry.pod = Some(Arc::new(view));
            }
            newer || anew
        })
    }

    /// Whether the last lines of a pod's log are known.
    pub(crate) fn has_tail(&self, id: &NodeId, uid: &str) -> bool {
        let entry = self.get(id);
        entry.tail.is_some_and(|it| it.0 == uid)
    }

    /// Takes in what the cluster says of a pod.
    pub(crate) fn learn_words(&self, id: &NodeId, uid: &str, reason: &str, message: &str) {
        self.step(|state| {
            self.update_in(state, id, |entry| {
                // Why a claim has no volume is said now and then, that the scheduler waits for one all the time.
                let said = entry.words.as_ref().filter(|it| it.0 == uid);
                let keeps = reason == "FailedScheduling"
                    && said.is_some_and(|it| it.1 == "ProvisioningFailed");
                if !keeps && entry.pod.as_ref().is_some_and(|it| it.uid == uid) {
                    entry.words = Some((uid.to_owned(), reason.to_owned(), message.to_owned()));
                }
            });
        });
        self.tell(Change::Said(id.clone(), format!("{reason}: {message}")));
    }

    /// Takes out a claim that went.
    pub(crate) fn forget_claim(&self, id: &NodeId, uid: &str, farewell: Farewell) {
        self.step(|state| self.drop_claim(state, id, uid, farewell));
    }

    fn drop_claim(&self, state: &mut State, id: &NodeId, uid: &str, farewell: Farewell) {
        state.bury(uid, farewell);
        self.update_in(state, id, |entry| {
            entry.claim.take_if(|it| it.uid == uid);
        });
    }

    /// Takes out a pod that went.
    pub(crate) fn forget_pod(&self, id: &NodeId, uid: &str, farewell: Farewell) {
        self.step(|state| self.drop_pod(state, id, uid, farewell));
    }

    fn drop_pod(&self, state: &mut State, id: &NodeId, uid: &str, farewell: Farewell) {
        state.bury(uid, farewell);
        self.update_in(state, id, |entry| {
            if let Some(gone) = entry.pod.take_if(|it| it.uid == uid) {
                entry.last = Some(gone);
            }
        });
    }

    /// Takes in all claims that there were at a version: those that are known and not among them are gone, unless they are newer.
    pub(crate) fn reset_claims(&self, views: Vec<ClaimView>, version: &str) {
        let there: HashSet<String> = views.iter().map(|it| it.uid.clone()).collect();
        self.step(|state| {
            let anew = state.is_of_the_past(Kind::Claims, version);
            for view in views {
                if anew || !state.is_gone(&view.uid, &view.resource_version) {
                    self.take_claim(state, view, anew);
                }
            }
            let known = state.entries.iter().filter_map(|(id, entry)| {
                let claim = entry.claim.as_ref()?;
                Some((id.clone(), Arc::clone(claim)))
            });
            for (id, claim) in known.collect::<Vec<_>>() {
                let is_later = !anew && is_newer(&claim.resource_version, version);
                if !there.contains(&claim.uid) && !is_later {
                    self.drop_claim(state, &id, &claim.uid, Farewell::At(version.to_owned()));
                }
            }
        });
    }

    /// Takes in all pods that there were at a version, as [`reset_claims`](Self::reset_claims) does claims.
    pub(crate) fn reset_pods(&self, views: Vec<(PodView, Option<Vec<String>>)>, version: &str) {
        let there: HashSet<String> = views.iter().map(|it| it.0.uid.clone()).collect();
        self.step(|state| {
            let anew = state.is_of_the_past(Kind::Pods, version);
            for (view, tail) in views {
                if anew || !state.is_gone(&view.uid, &view.resource_version) {
                    self.take_pod(state, view, tail, anew);
                }
            }
            let known = state.entries.iter().filter_map(|(id, entry)| {
                let pod = entry.pod.as_ref()?;
                Some((id.clone(), Arc::clone(pod)))
            });
            for (id, pod) in known.collect::<Vec<_>>() {
                let is_later = !anew && is_newer(&pod.resource_version, version);
                if !there.contains(&pod.uid) && !is_later {
                    self.drop_pod(state, &id, &pod.uid, Farewell::At(version.to_owned()));
                }
            }
        });
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
