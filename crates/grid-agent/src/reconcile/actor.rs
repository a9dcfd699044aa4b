//! The one task that owns what is wanted and what is seen.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use grid_platform_api::{
    Error, ErrorKind, ErrorReport, NodeEvent, NodeId, Platform, Progress, Result, SpawnedNode,
};
use grid_proto::{Fence, Observation, Want, Wish};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{self, AbortHandle, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Change, Command, Outbox, Refused,
    decide::{Action, decide},
    settle::{KeepPorts, Settled, settle},
    watch::Told,
};
use crate::{
    backoff::Backoff,
    desired::{Applied, Desired, DesiredFile},
};

/// Between tries of one node.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(60),
};

/// A node that lasted this long after it was spawned again is spawned again at once the next time.
const LASTED: Duration = Duration::from_secs(60);

/// How long what is in flight may take when the agent ends. What takes longer is dropped, and found again by the next
/// agent: the contract has every call safe to lose.
const DRAIN: Duration = Duration::from_secs(5);

/// How long to wait before the desired set is tried to be written again.
const SAVE_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Actor {
    platform: Arc<dyn Platform>,
    file: Arc<DesiredFile>,
    desired: Desired,
    refused: BTreeMap<String, Refused>,
    outbox: Arc<Outbox>,
    fence: watch::Sender<Option<Fence>>,
    observed: BTreeMap<NodeId, SpawnedNode>,
    /// Whether the platform has told of all its nodes.
    synced: bool,
    /// Whether the platform's events were lost since.
    away: bool,
    /// A session waits to be told of everything.
    resend: bool,
    tasks: JoinSet<Settled>,
    running: HashMap<NodeId, Running>,
    owners: HashMap<task::Id, NodeId>,
    tries: HashMap<NodeId, Tries>,
    /// How far the calls in flight are, where the platform tells.
    progress: BTreeMap<NodeId, Progress>,
    /// Nodes that were spawned again though their wish was done, because they vanished or were stopped.
    respawns: HashMap<NodeId, Respawns>,
    keep_ports: (mpsc::Sender<KeepPorts>, mpsc::Receiver<KeepPorts>),
    /// What the turn that is not saved yet leads to.
    turn: Turn,
}

/// A node's call in flight.
struct Running {
    /// What it was begun for. A generation alone does not say: a restored store, or a new node under an old name, may
    /// count the same again.
    wish: Wish,
    /// Whether the platform's events told of the node meanwhile. They end with its state as it is; what the call saw
    /// may be older.
    told: bool,
    /// Told of each news of how far the call is.
    heard: watch::Sender<()>,
    abort: AbortHandle,
}

/// The failures in a row of a node's newest wish.
struct Tries {
    failures: u32,
    again_at: Instant,
    report: ErrorReport,
}

/// How often in a row a node was spawned again, so that one that vanishes at once is not spawned in a tight loop.
struct Respawns {
    count: u32,
    last: Instant,
    again_at: Instant,
}

/// What happens once the desired set is on disk.
#[derive(Default)]
struct Turn {
    dirty: bool,
    save_at: Option<Instant>,
    touched: BTreeSet<NodeId>,
    acknowledge: BTreeSet<NodeId>,
    answers: Vec<oneshot::Sender<Result<()>>>,
    kept: Vec<oneshot::Sender<Result<()>>>,
}

impl Actor {
    pub(super) fn new(
        platform: Arc<dyn Platform>,
        file: DesiredFile,
        desired: Desired,
        outbox: Arc<Outbox>,
        fence: watch::Sender<Option<Fence>>,
    ) -> Self {
        Self {
            platform,
            file: Arc::new(file),
            desired,
            refused: BTreeMap::new(),
            outbox,
            fence,
            observed: BTreeMap::new(),
            synced: false,
            away: false,
            resend: false,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            owners: HashMap::new(),
            tries: HashMap::new(),
            progress: BTreeMap::new(),
            respawns: HashMap::new(),
            keep_ports: mpsc::channel(16),
            turn: Turn::default(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut events: mpsc::Receiver<Told>,
        shutdown: CancellationToken,
    ) {
        loop {
            let wake = self.next_wake();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(command) = commands.recv() => self.command(command),
                Some(told) = events.recv() => self.told(told),
                Some(request) = self.keep_ports.1.recv() => self.keep(request),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.wake(),
            }
            // What is there already shares one write of the desired set.
            while let Ok(command) = commands.try_recv() {
                self.command(command);
            }
            while let Ok(told) = events.try_recv() {
                self.told(told);
            }
            while let Ok(request) = self.keep_ports.1.try_recv() {
                self.keep(request);
            }
            while let Some(ended) = self.tasks.try_join_next_with_id() {
                self.ended(ended);
            }
            self.finish_turn(true).await;
        }
        drop((commands, events));
        self.drain().await;
    }

    /// Lets what is in flight come to its end, for a while, and begins nothing.
    async fn drain(&mut self) {
        let until = Instant::now() + DRAIN;
        while !self.tasks.is_empty() {
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                Some(request) = self.keep_ports.1.recv() => self.keep(request),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
            }
            self.finish_turn(false).await;
        }
        self.tasks.shutdown().await;
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Change(change, answer) => match self.change(change) {
                Ok(()) => self.turn.answers.push(answer),
                // Nobody waits for the answer any more when its session has ended.
                Err(error) => drop(answer.send(Err(error))),
            },
            Command::Resend => self.resend = true,
            Command::IsWanted(id, answer) => {
                let entry = self.desired.nodes.get(&id);
                let wanted =
                    entry.is_some_and(|entry| !matches!(entry.wish.want, Want::Removed(_)));
                // Who asked may be gone by now.
                let _ = answer.send(wanted);
            }
        }
    }

    fn change(&mut self, change: Change) -> Result<()> {
        if let Some(seen) = &self.desired.fence {
            seen.admits(&change.fence)?;
        }
        if self.desired.fence.as_ref() != Some(&change.fence) {
            self.desired.fence = Some(change.fence.clone());
            self.turn.dirty = true;
        }
        if change.all {
            self.forget_all_but(&change);
            self.refused.clear();
        }
        for wish in change.wishes {
            let id = wish.node_id.clone();
            self.refused.remove(id.as_str());
            if self.desired.nodes.get(&id).map(|entry| &entry.wish) != Some(&wish) {
                let new = !self.desired.nodes.contains_key(&id);
                self.desired.accept(wish);
                // What failed, or did not last, was another wish's.
                self.tries.remove(&id);
                self.respawns.remove(&id);
                self.turn.dirty = true;
                if new {
                    self.tell(&id);
                }
            }
            self.turn.touched.insert(id);
        }
        for refused in change.refused {
            tracing::warn!(
                node = refused.node_id,
                generation = refused.generation,
                error = refused.report.message,
                hint = refused.report.hint,
                "refused what the master wants"
            );
            let report = Some(&refused.report);
            self.outbox
                .applied(&refused.node_id, refused.generation, report, true);
            self.refused.insert(refused.node_id.clone(), refused);
        }
        Ok(())
    }

    /// The wishes that a whole set no longer holds: a removed node's tombstone was acknowledged, or the master has no
    /// wish any more, and then the node is left as it is.
    fn forget_all_but(&mut self, change: &Change) {
        let mut listed: BTreeSet<&str> = BTreeSet::new();
        listed.extend(change.wishes.iter().map(|wish| wish.node_id.as_str()));
        listed.extend(change.refused.iter().map(|it| it.node_id.as_str()));
        let known = self.desired.nodes.keys();
        let gone: Vec<NodeId> = known
            .filter(|id| !listed.contains(id.as_str()))
            .cloned()
            .collect();
        for id in gone {
            self.desired.nodes.remove(&id);
            self.tries.remove(&id);
            self.respawns.remove(&id);
            self.turn.dirty = true;
            self.tell(&id);
            self.turn.touched.insert(id);
        }
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Event(event) => self.event(event),
            Told::Away => self.away = true,
        }
    }

    fn event(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Snapshot { nodes } => {
                if !self.synced || self.away {
                    self.synced = true;
                    self.away = false;
                    // Whatever kept the platform away is over: nobody waits out a back-off for it.
                    self.tries
                        .values_mut()
                        .for_each(|it| it.again_at = Instant::now());
                }
                self.running.values_mut().for_each(|it| it.told = true);
                let seen: BTreeSet<_> = nodes.iter().map(|node| node.node_id.clone()).collect();
                let known = self.observed.values();
                let gone: Vec<_> = known
                    .filter(|it| !seen.contains(&it.node_id))
                    .cloned()
                    .collect();
                for node in gone {
                    self.unsee(&node.node_id);
                }
                nodes.into_iter().for_each(|node| self.see(node));
                self.turn.touched.extend(self.desired.nodes.keys().cloned());
            }
            NodeEvent::Changed { node } => {
                self.told_of(&node.node_id);
                self.see(*node);
            }
            NodeEvent::Removed { node_id, uid } => {
                self.told_of(&node_id);
                // An older incarnation's end says nothing about the one that is there.
                if self
                    .observed
                    .get(&node_id)
                    .is_some_and(|node| node.uid == uid)
                {
                    self.unsee(&node_id);
                }
            }
            NodeEvent::Progress { node_id, progress } => {
                // What no call waits for is of one that has just ended.
                if let Some(running) = self.running.get(&node_id) {
                    running.heard.send_replace(());
                    let told = Some(progress.clone());
                    self.outbox.progress(node_id.clone(), told);
                    self.progress.insert(node_id, progress);
                }
            }
            NodeEvent::Resync { reason } => tracing::debug!(reason, "the platform lost events"),
        }
    }

    fn told_of(&mut self, id: &NodeId) {
        if let Some(running) = self.running.get_mut(id) {
            running.told = true;
        }
    }

    fn see(&mut self, node: SpawnedNode) {
        let id = node.node_id.clone();
        if self.observed.get(&id) != Some(&node) {
            self.observed.insert(id.clone(), node);
            self.tell(&id);
            self.turn.touched.insert(id);
        }
    }

    fn unsee(&mut self, id: &NodeId) {
        if let Some(node) = self.observed.remove(id) {
            self.outbox.gone(id.clone(), node.uid);
            self.turn.touched.insert(id.clone());
        }
    }

    fn observation(&self, node: &SpawnedNode) -> Observation {
        let id = &node.node_id;
        Observation {
            node: node.clone(),
            managed: self.desired.nodes.contains_key(id) || self.refused.contains_key(id.as_str()),
        }
    }

    fn tell(&self, id: &NodeId) {
        if let Some(node) = self.observed.get(id) {
            self.outbox.seen(self.observation(node));
        }
    }

    fn keep(&mut self, request: KeepPorts) {
        if let Some(entry) = self.desired.nodes.get_mut(&request.node_id) {
            entry.ports = request.ports;
            self.turn.dirty = true;
        }
        self.turn.kept.push(request.kept);
    }

    fn ended(&mut self, ended: Result<(task::Id, Settled), JoinError>) {
        let (task, settled) = match ended {
            Ok((task, settled)) => (task, Some(settled)),
            Err(error) if error.is_cancelled() => (error.id(), None),
            Err(error) => {
                tracing::error!(%error, "acting on a node failed in an unforeseen way");
                (error.id(), Some(Settled::broken_off()))
            }
        };
        let Some(id) = self.owners.remove(&task) else {
            return;
        };
        self.turn.touched.insert(id.clone());
        if self.progress.remove(&id).is_some() {
            self.outbox.progress(id.clone(), None);
        }
        if let (Some(running), Some(settled)) = (self.running.remove(&id), settled) {
            self.settled(&id, running, settled);
        }
    }

    fn settled(&mut self, id: &NodeId, running: Running, settled: Settled) {
        match &settled.observed {
            _ if running.told => {}
            Ok(Some(node)) => self.see(node.clone()),
            Ok(None) => self.unsee(id),
            Err(_) => {}
        }
        let Some(entry) = self.desired.nodes.get_mut(id) else {
            return;
        };
        if entry.wish != running.wish {
            return;
        }
        let generation = entry.wish.generation;
        let done = |error: Option<ErrorReport>| Some(Applied { generation, error });
        match settled.failure() {
            None => {
                self.tries.remove(id);
                if !entry.is_applied() {
                    tracing::info!(node = %id, generation, action = ?settled.action, "done");
                    entry.applied = done(None);
                    self.turn.dirty = true;
                    self.respawns.remove(id);
                } else if settled.action == Action::Spawn {
                    tracing::info!(node = %id, generation, "was gone or stopped, and runs again");
                    self.respawned(id);
                }
                self.turn.acknowledge.insert(id.clone());
            }
            Some((error, true)) => {
                tracing::warn!(node = %id, generation, kind = %error.kind(), %error, hint = error.hint(), "failed, and waits for a new wish");
                self.tries.remove(id);
                entry.applied = done(Some(error.to_report()));
                self.turn.dirty = true;
                self.turn.acknowledge.insert(id.clone());
            }
            Some((error, false)) => {
                let report = error.to_report();
                let before = self.tries.get(id);
                let failures = before.map_or(1, |it| it.failures.saturating_add(1));
                let wait = BACKOFF.wait(failures);
                if before.is_some_and(|it| it.report.message == report.message) {
                    tracing::debug!(node = %id, %error, failures, ?wait, "failed again");
                } else {
                    tracing::warn!(node = %id, kind = %error.kind(), %error, hint = error.hint(), ?wait, "failed, trying again");
                }
                let tries = Tries {
                    failures,
                    again_at: Instant::now() + wait,
                    report,
                };
                self.tries.insert(id.clone(), tries);
                self.turn.acknowledge.insert(id.clone());
            }
        }
    }

    fn respawned(&mut self, id: &NodeId) {
        let now = Instant::now();
        let before = self.respawns.get(id).filter(|it| now - it.last < LASTED);
        let count = before.map_or(1, |it| it.count.saturating_add(1));
        let respawns = Respawns {
            count,
            last: now,
            again_at: now + BACKOFF.wait(count),
        };
        self.respawns.insert(id.clone(), respawns);
    }

    /// When something is due by time alone.
    fn next_wake(&self) -> Option<Instant> {
        // Until the desired set is on disk nothing is done, whatever is due.
        if self.turn.save_at.is_some() {
            return self.turn.save_at;
        }
        let now = Instant::now();
        let tries = self.tries.iter().map(|(id, it)| (id, it.again_at));
        // One that is over says nothing: the node may be well.
        let respawns = self.respawns.iter().map(|(id, it)| (id, it.again_at));
        let waits = tries.chain(respawns.filter(|(_, at)| *at > now));
        let waits = waits.filter(|(id, _)| self.synced && !self.running.contains_key(*id));
        waits.map(|(_, at)| at).min()
    }

    fn wake(&mut self) {
        let now = Instant::now();
        let tries = self.tries.iter().map(|(id, it)| (id, it.again_at));
        let respawns = self.respawns.iter().map(|(id, it)| (id, it.again_at));
        let due = tries.chain(respawns).filter(|(_, at)| *at <= now);
        self.turn.touched.extend(due.map(|(id, _)| id.clone()));
    }

    /// Puts the desired set on disk if it changed, and only then does and tells what follows from it.
    async fn finish_turn(&mut self, act: bool) {
        if self.turn.dirty
            && let Err(error) = self.save().await
        {
            tracing::error!(error = %error.report().trim_end(), "cannot keep what is wanted; nothing is done until it can");
            self.turn.save_at = Some(Instant::now() + SAVE_AGAIN);
            // A disk that is full now may not be later.
            let broken = || error.copied().with_retryable(true);
            let waiting = self.turn.answers.drain(..).chain(self.turn.kept.drain(..));
            waiting.for_each(|answer| drop(answer.send(Err(broken()))));
            return;
        }
        let turn = std::mem::take(&mut self.turn);
        self.fence.send_if_modified(|fence| {
            let changed = *fence != self.desired.fence;
            fence.clone_from(&self.desired.fence);
            changed
        });
        // Who asked may be gone by now; that takes nothing back.
        let told = turn.answers.into_iter().chain(turn.kept);
        told.for_each(|answer| drop(answer.send(Ok(()))));
        turn.acknowledge.iter().for_each(|id| self.acknowledge(id));
        if self.resend && self.synced {
            self.resend_all();
        }
        if act && self.synced {
            turn.touched.iter().for_each(|id| self.consider(id));
        }
    }

    async fn save(&mut self) -> Result<()> {
        let (file, desired) = (Arc::clone(&self.file), self.desired.clone());
        let saved = tokio::task::spawn_blocking(move || file.save(&desired)).await;
        saved.map_err(|e| Error::new(ErrorKind::Internal, "saving was cut short").with_source(e))?
    }

    fn acknowledge(&self, id: &NodeId) {
        let Some(entry) = self.desired.nodes.get(id) else {
            return;
        };
        let generation = entry.wish.generation;
        match (&entry.applied, self.tries.get(id)) {
            (_, Some(tries)) => {
                let report = Some(&tries.report);
                self.outbox.applied(id.as_str(), generation, report, false);
            }
            (Some(applied), _) if applied.generation == generation => {
                let error = applied.error.as_ref();
                self.outbox.applied(id.as_str(), generation, error, true);
            }
            _ => {}
        }
    }

    fn resend_all(&mut self) {
        self.resend = false;
        let all = self.observed.values().map(|node| self.observation(node));
        self.outbox.restart(all.collect());
        self.desired
            .nodes
            .keys()
            .for_each(|id| self.acknowledge(id));
        for (id, refused) in &self.refused {
            let report = Some(&refused.report);
            self.outbox.applied(id, refused.generation, report, true);
        }
        for (id, progress) in &self.progress {
            self.outbox.progress(id.clone(), Some(progress.clone()));
        }
    }

    /// Begins what is to be done about a node, unless it is being done or waits out a back-off.
    fn consider(&mut self, id: &NodeId) {
        let entry = self.desired.nodes.get(id);
        if let Some(running) = self.running.get(id) {
            // The latest wish wins: what was begun for another is dropped, and its end brings us here again.
            if entry.map(|it| &it.wish) != Some(&running.wish) {
                running.abort.abort();
            }
            return;
        }
        let Some(entry) = entry else {
            return;
        };
        if decide(Some(entry), self.observed.get(id)) == Action::Leave {
            // It came right by itself, and nothing is to be tried again.
            self.tries.remove(id);
            return;
        }
        let now = Instant::now();
        let tries = self.tries.get(id);
        let respawns = self.respawns.get(id).filter(|_| entry.is_applied());
        let waits = [tries.map(|it| it.again_at), respawns.map(|it| it.again_at)];
        if waits.into_iter().flatten().any(|at| at > now) {
            return;
        }
        let platform = Arc::clone(&self.platform);
        let (news, heard) = watch::channel(());
        let act = settle(platform, entry.clone(), self.keep_ports.0.clone(), heard);
        let abort = self.tasks.spawn(act);
        self.owners.insert(abort.id(), id.clone());
        let running = Running {
            wish: entry.wish.clone(),
            told: false,
            heard: news,
            abort,
        };
        self.running.insert(id.clone(), running);
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;
