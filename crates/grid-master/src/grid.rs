//! The grid as it is now, in memory: what is wished, who is heard, what was seen.
//!
//! One lock guards it, held for lookups and never over I/O. What is wished comes only from the store, after it is
//! durable; what was seen comes from the agents and is stored lazily.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use grid_client::{Agent, Node, State};
use grid_platform_api::{ErrorReport, NodeId, Result, Timestamp};
use grid_proto::{Fence, Observation};

use crate::{
    events::Events,
    link::Session,
    metrics::{Metrics, Snapshot},
    store::{
        Book, Delta, Listener, Load,
        row::{AgentRow, AppliedRow, NodeRow, Seen, SeenRow, TokenRow, Wish},
    },
    view::{self, Glance},
};

/// The grid in memory.
pub(crate) struct Grid {
    inner: Mutex<Inner>,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
}

struct Inner {
    book: Book,
    live: HashMap<String, Live>,
    /// How each wished node looked when it was last told of.
    glances: HashMap<NodeId, Glance>,
    /// Nodes whose `Seen` differs from the stored one.
    dirty: HashSet<NodeId>,
}

/// An agent, as far as it is heard.
#[derive(Default)]
struct Live {
    session: Option<Arc<Session>>,
    lost: bool,
    /// When the last session was heard last.
    heard: Option<Timestamp>,
    seen: HashMap<NodeId, Arc<Seen>>,
    /// Why it was refused when it last tried to connect.
    refused: Option<ErrorReport>,
}

impl Inner {
    fn seen(&self, agent: &str, id: &NodeId) -> Option<&Arc<Seen>> {
        self.live.get(agent)?.seen.get(id)
    }

    fn lost(&self, agent: &str) -> bool {
        self.live.get(agent).is_none_or(|l| l.lost)
    }

    fn platform(&self, agent: &str) -> Option<&Arc<AgentRow>> {
        self.book.agents.get(agent)
    }

    /// The wish for a node, if it is a wish of this agent.
    fn wish_of(&self, agent: &str, id: &NodeId) -> Option<&Arc<NodeRow>> {
        self.book.nodes.get(id).filter(|row| row.agent == agent)
    }
}

/// What a node is made of for people; cheap to take under the lock.
struct Parts {
    id: NodeId,
    agent: String,
    row: Option<Arc<NodeRow>>,
    seen: Option<Arc<Seen>>,
    platform: Option<Arc<AgentRow>>,
    lost: bool,
}

impl Parts {
    fn show(&self) -> Node {
        view::node(
            &self.id,
            &self.agent,
            self.platform.as_ref().map(|a| a.info.platform.as_str()),
            self.row.as_deref(),
            self.seen.as_deref(),
            self.lost,
        )
    }
}

impl Grid {
    /// The grid as the store has it: agents are given the time until they count as lost to be heard again.
    pub(crate) fn new(
        book: Book,
        seen: HashMap<NodeId, SeenRow>,
        events: Events,
        metrics: Metrics,
    ) -> Self {
        let mut live: HashMap<String, Live> = book
            .agents
            .values()
            .map(|row| {
                let live = Live {
                    lost: row.lost,
                    heard: Some(row.connected_at),
                    ..Live::default()
                };
                (row.id.clone(), live)
            })
            .collect();
        for (id, row) in seen {
            let wished = book.nodes.get(&id).is_some_and(|w| w.agent == row.agent);
            if let (true, Some(live)) = (wished, live.get_mut(&row.agent)) {
                live.seen.insert(id, Arc::new(row.seen));
            }
        }
        let mut inner = Inner {
            book,
            live,
            glances: HashMap::new(),
            dirty: HashSet::new(),
        };
        for row in inner.book.nodes.values() {
            let seen = inner.seen(&row.agent, &row.id);
            let glance = view::glance(row, seen.map(|s| &**s), inner.lost(&row.agent));
            inner.glances.insert(row.id.clone(), glance);
        }
        Self {
            inner: Mutex::new(inner),
            events,
            metrics,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What people are shown.

    pub(crate) fn fence(&self) -> Fence {
        let inner = self.inner();
        fence(&inner.book)
    }

    pub(crate) fn token(&self, id: &str) -> Option<Arc<TokenRow>> {
        self.inner().book.tokens.get(id).cloned()
    }

    pub(crate) fn tokens(&self) -> Vec<Arc<TokenRow>> {
        let mut tokens: Vec<_> = self.inner().book.tokens.values().cloned().collect();
        tokens.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        tokens
    }

    pub(crate) fn node(&self, id: &NodeId) -> Option<Node> {
        let parts = {
            let inner = self.inner();
            match inner.book.nodes.get(id) {
                Some(row) => Some(parts(&inner, &row.agent, id, Some(row))),
                None => unmanaged_on(&inner, id).map(|agent| parts(&inner, agent, id, None)),
            }
        };
        parts.map(|p| p.show())
    }

    /// All nodes, or an agent's, by id; unmanaged ones too.
    pub(crate) fn nodes(&self, agent: Option<&str>) -> Vec<Node> {
        let mut all = Vec::new();
        {
            let inner = self.inner();
            match agent {
                None => all.extend(
                    inner
                        .book
                        .nodes
                        .values()
                        .map(|row| parts(&inner, &row.agent, &row.id, Some(row))),
                ),
                Some(agent) => {
                    let ids = inner.book.load(agent).into_iter().flat_map(|l| &l.nodes);
                    all.extend(
                        ids.filter_map(|id| inner.book.nodes.get(id))
                            .map(|row| parts(&inner, agent, &row.id, Some(row))),
                    );
                }
            }
            for (name, live) in &inner.live {
                if agent.is_some_and(|wanted| wanted != name) {
                    continue;
                }
                all.extend(
                    live.seen
                        .iter()
                        .filter(|(id, seen)| {
                            seen.node.is_some() && inner.wish_of(name, id).is_none()
                        })
                        .map(|(id, _)| parts(&inner, name, id, None)),
                );
            }
        }
        let mut nodes: Vec<Node> = all.iter().map(Parts::show).collect();
        nodes.sort_by(|a, b| (&a.id, &a.agent).cmp(&(&b.id, &b.agent)));
        nodes
    }

    /// The wish for a node, and the agent that has it; for an unmanaged node only the agent.
    pub(crate) fn find(&self, id: &NodeId) -> Option<(String, Option<Arc<NodeRow>>)> {
        let inner = self.inner();
        match inner.book.nodes.get(id) {
            Some(row) => Some((row.agent.clone(), Some(row.clone()))),
            None => unmanaged_on(&inner, id).map(|agent| (agent.to_owned(), None)),
        }
    }

    pub(crate) fn agents(&self) -> Vec<Agent> {
        let inner = self.inner();
        inner
            .book
            .agents
            .values()
            .map(|row| show_agent(&inner, row))
            .collect()
    }

    pub(crate) fn agent(&self, id: &str) -> Option<Agent> {
        let inner = self.inner();
        inner.book.agents.get(id).map(|row| show_agent(&inner, row))
    }

    /// Agents that are not heard.
    pub(crate) fn lost_agents(&self) -> HashSet<String> {
        let inner = self.inner();
        let known = inner.book.agents.keys();
        known.filter(|id| inner.lost(id)).cloned().collect()
    }

    /// How the node is, by what was last seen of it even when its agent is lost.
    pub(crate) fn last_state(&self, row: &NodeRow) -> State {
        let inner = self.inner();
        let seen = inner.seen(&row.agent, &row.id);
        view::state(Some(row), seen.map(|s| &**s), false)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let inner = self.inner();
        let mut nodes: BTreeMap<&'static str, u64> = [
            "pending", "running", "stopping", "stopped", "failed", "unknown",
        ]
        .map(|state| (state, 0))
        .into();
        for glance in inner.glances.values() {
            *nodes.entry(glance.state.as_str()).or_default() += 1;
        }
        let lost = inner.live.values().filter(|l| l.lost).count() as u64;
        Snapshot {
            nodes: nodes.into_iter().collect(),
            agents: vec![("ready", inner.live.len() as u64 - lost), ("lost", lost)],
            revision: inner.book.revision,
        }
    }

    // Sessions.

    pub(crate) fn session(&self, agent: &str) -> Option<Arc<Session>> {
        self.inner().live.get(agent)?.session.clone()
    }

    /// The install that an agent's id belongs to, while it is heard.
    pub(crate) fn connected_install(&self, agent: &str) -> Option<String> {
        let inner = self.inner();
        let live = inner.live.get(agent)?;
        live.session.as_ref().map(|s| s.install_id.clone())
    }

    /// A session has begun: it takes the place of an older one.
    pub(crate) fn connect(&self, agent: &str, session: &Arc<Session>) {
        let mut inner = self.inner();
        let live = inner.live.entry(agent.to_owned()).or_default();
        if let Some(older) = live.session.replace(session.clone()) {
            older.end();
        }
        live.lost = false;
        live.refused = None;
        live.heard = Some(Timestamp::now());
        self.metrics.sessions.inc();
        self.tell(
            "agent.ready",
            None,
            Some(agent),
            None,
            format!("the agent `{agent}` is connected"),
        );
        self.look_at_all(&mut inner, agent);
    }

    /// A session has ended. `true` when the agent has no other by now.
    pub(crate) fn disconnect(&self, agent: &str, session: &Arc<Session>) -> bool {
        let mut inner = self.inner();
        let Some(live) = inner.live.get_mut(agent) else {
            return false;
        };
        let current = live
            .session
            .as_ref()
            .is_some_and(|s| Arc::ptr_eq(s, session));
        if current {
            live.heard = Some(session.heard());
            live.session = None;
        }
        current
    }

    /// Shows an agent as lost that has no session and was not heard after `since`. `false` when it is not so, or is
    /// shown already.
    pub(crate) fn lose(&self, agent: &str, since: Timestamp) -> bool {
        let mut inner = self.inner();
        match inner.live.get_mut(agent) {
            Some(live)
                if live.session.is_none()
                    && !live.lost
                    && live.heard.is_none_or(|heard| heard <= since) =>
            {
                live.lost = true;
            }
            _ => return false,
        }
        self.tell(
            "agent.lost",
            None,
            Some(agent),
            None,
            format!("the agent `{agent}` is silent; its nodes are unknown"),
        );
        self.look_at_all(&mut inner, agent);
        true
    }

    /// Remembers why an agent was refused, for people to see.
    pub(crate) fn refused(&self, agent: &str, error: ErrorReport) {
        self.metrics.refused_sessions.inc();
        let mut inner = self.inner();
        let Some(live) = inner.live.get_mut(agent) else {
            return;
        };
        let message = format!("the agent `{agent}` is refused: {}", error.message);
        if live.refused.as_ref() != Some(&error) {
            live.refused = Some(error);
            self.tell("agent.refused", None, Some(agent), None, message);
        }
    }

    /// Everything wished of an agent, with the fence at this moment.
    pub(crate) fn desired(&self, agent: &str) -> (Fence, Vec<Arc<NodeRow>>) {
        let inner = self.inner();
        let ids = inner.book.load(agent).into_iter().flat_map(|l| &l.nodes);
        let rows = ids.filter_map(|id| inner.book.nodes.get(id)).cloned();
        (fence(&inner.book), rows.collect())
    }

    /// What is wished of these nodes of an agent.
    pub(crate) fn wishes(
        &self,
        agent: &str,
        ids: impl IntoIterator<Item = NodeId>,
    ) -> (Fence, Vec<Arc<NodeRow>>) {
        let inner = self.inner();
        let rows = ids
            .into_iter()
            .filter_map(|id| inner.wish_of(agent, &id).cloned());
        (fence(&inner.book), rows.collect())
    }

    // What was seen.

    /// All nodes of an agent: what is not among them is not there.
    pub(crate) fn observe_all(&self, agent: &str, nodes: Vec<Observation>) {
        let mut inner = self.inner();
        let Some(live) = inner.live.get(agent) else {
            return;
        };
        let listed: HashSet<&NodeId> = nodes.iter().map(|o| &o.node.node_id).collect();
        let gone: Vec<NodeId> = live
            .seen
            .iter()
            .filter(|(id, seen)| seen.node.is_some() && !listed.contains(id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.see(&mut inner, agent, &id, |seen| seen.node = None);
        }
        for observation in nodes {
            self.observe_in(&mut inner, agent, observation);
        }
    }

    /// One node of an agent is new or changed.
    pub(crate) fn observe(&self, agent: &str, observation: Observation) {
        self.observe_in(&mut self.inner(), agent, observation);
    }

    fn observe_in(&self, inner: &mut Inner, agent: &str, observation: Observation) {
        let id = observation.node.node_id.clone();
        self.see(inner, agent, &id, |seen| {
            seen.managed = observation.managed;
            seen.node = Some(observation.node);
        });
    }

    /// A node's record is gone from its platform.
    pub(crate) fn gone(&self, agent: &str, id: &NodeId, uid: &str) {
        let mut inner = self.inner();
        let is_this = inner
            .seen(agent, id)
            .and_then(|s| s.node.as_ref())
            // The next incarnation may have been told of first.
            .is_some_and(|n| uid.is_empty() || n.uid.as_str() == uid);
        if is_this {
            self.see(&mut inner, agent, id, |seen| seen.node = None);
        }
    }

    /// A generation was acted on. `true` when it was a tombstone, and is done.
    pub(crate) fn applied(
        &self,
        agent: &str,
        id: &NodeId,
        generation: u64,
        error: Option<ErrorReport>,
        is_final: bool,
    ) -> bool {
        let mut inner = self.inner();
        let Some(row) = inner.wish_of(agent, id).cloned() else {
            return false;
        };
        let done = error.is_none();
        self.see(&mut inner, agent, id, |seen| {
            let applied = &mut seen.applied;
            if generation < applied.generation {
                return;
            }
            let acted = if done || is_final { generation } else { 0 };
            *applied = AppliedRow {
                acted: applied.acted.max(acted),
                generation,
                error,
                is_final,
            };
        });
        done && row.wish.is_removed() && generation >= row.generation
    }

    /// Changes what was seen of a node, and tells it if it shows.
    fn see(&self, inner: &mut Inner, agent: &str, id: &NodeId, change: impl FnOnce(&mut Seen)) {
        let Some(live) = inner.live.get_mut(agent) else {
            return;
        };
        let before = live.seen.get(id).cloned();
        let mut seen = before.as_deref().cloned().unwrap_or_default();
        change(&mut seen);
        if before.as_deref() == Some(&seen) {
            return;
        }
        let seen = Arc::new(seen);
        live.seen.insert(id.clone(), seen.clone());
        if inner.wish_of(agent, id).is_some() {
            inner.dirty.insert(id.clone());
            self.look_at(inner, id);
            return;
        }
        let shown = |seen: &Seen| {
            seen.node
                .as_ref()
                .map(|_| view::state(None, Some(seen), false))
        };
        match (before.as_deref().and_then(shown), shown(&seen)) {
            (was, Some(now)) if was != Some(now) => {
                let state = now.as_str();
                let message = format!(
                    "the node `{id}`, which nobody here wished for, is {state} on `{agent}`"
                );
                self.tell("node.changed", Some(id), Some(agent), Some(now), message);
            }
            (Some(_), None) => {
                if let Some(live) = inner.live.get_mut(agent) {
                    live.seen.remove(id);
                }
                let message = format!("the node `{id}` is gone from `{agent}`");
                self.tell("node.removed", Some(id), Some(agent), None, message);
            }
            _ => {}
        }
    }

    fn look_at_all(&self, inner: &mut Inner, agent: &str) {
        let ids: Vec<NodeId> = inner
            .book
            .load(agent)
            .map(|l: &Load| l.nodes.iter().cloned().collect())
            .unwrap_or_default();
        for id in ids {
            self.look_at(inner, &id);
        }
    }

    /// Tells of a wished node if it looks otherwise than when it was last told of.
    fn look_at(&self, inner: &mut Inner, id: &NodeId) {
        let Some(row) = inner.book.nodes.get(id) else {
            return;
        };
        let seen = inner.seen(&row.agent, id).map(|s| &**s);
        let glance = view::glance(row, seen, inner.lost(&row.agent));
        let before = inner.glances.get(id);
        if before == Some(&glance) {
            return;
        }
        let kind = match before {
            Some(_) => "node.changed",
            None => "node.created",
        };
        let message = say(row, before, &glance);
        self.tell(
            kind,
            Some(id),
            Some(&row.agent),
            Some(glance.state),
            message,
        );
        inner.glances.insert(id.clone(), glance);
    }

    fn tell(
        &self,
        kind: &'static str,
        node: Option<&NodeId>,
        agent: Option<&str>,
        state: Option<State>,
        message: String,
    ) {
        self.metrics.events.inc();
        self.events.tell(kind, node, agent, state, message);
    }

    /// What was seen since this was last asked, for the store.
    pub(crate) fn take_dirty(&self) -> Vec<(NodeId, SeenRow)> {
        let mut inner = self.inner();
        let dirty = std::mem::take(&mut inner.dirty);
        dirty
            .into_iter()
            .filter_map(|id| {
                let agent = inner.book.nodes.get(&id)?.agent.clone();
                let seen = (**inner.seen(&agent, &id)?).clone();
                Some((id, SeenRow { agent, seen }))
            })
            .collect()
    }
}

impl Listener for Grid {
    fn committed(&self, deltas: &[Delta]) {
        let mut inner = self.inner();
        let mut outboxes: HashMap<String, Arc<Session>> = HashMap::new();
        for delta in deltas {
            if let Delta::Agent(row) = delta {
                self.agent_changed(&mut inner, row);
            }
            let removed = match delta {
                Delta::Node(id, None, _) => inner.book.nodes.get(id).cloned(),
                _ => None,
            };
            inner.book.apply(delta);
            let Delta::Node(id, row, _) = delta else {
                continue;
            };
            let Some(agent) = row.as_ref().or(removed.as_ref()).map(|r| r.agent.clone()) else {
                continue;
            };
            let session = inner.live.get(&agent).and_then(|l| l.session.clone());
            if row.is_some() {
                if let Some(session) = &session {
                    session.outbox.node(id.clone());
                }
                self.look_at(&mut inner, id);
            } else {
                inner.glances.remove(id);
                if let Some(live) = inner.live.get_mut(&agent) {
                    live.seen.remove(id);
                }
                if let Some(session) = &session {
                    session.outbox.all();
                }
                let message = format!("the node `{id}` is removed from `{agent}`");
                self.tell("node.removed", Some(id), Some(&agent), None, message);
            }
            if let Some(session) = session {
                outboxes.insert(agent, session);
            }
        }
        drop(inner);
        for session in outboxes.values() {
            session.outbox.wake();
        }
    }

    fn book(&self) -> Book {
        self.inner().book.clone()
    }

    fn measured(&self, changes: usize, took: Duration) {
        self.metrics.committed(changes, took);
    }
}

impl Grid {
    fn agent_changed(&self, inner: &mut Inner, row: &AgentRow) {
        let id = &row.id;
        let before = inner.book.agents.get(id).is_some_and(|old| old.cordoned);
        inner.live.entry(id.clone()).or_default();
        match (before, row.cordoned) {
            (false, true) => {
                let message = format!("no new nodes are placed on the agent `{id}`");
                self.tell("agent.cordoned", None, Some(id), None, message);
            }
            (true, false) => {
                let message = format!("new nodes are placed on the agent `{id}` again");
                self.tell("agent.uncordoned", None, Some(id), None, message);
            }
            _ => {}
        }
    }
}

fn fence(book: &Book) -> Fence {
    Fence {
        grid_id: book.grid_id.clone(),
        epoch: book.epoch,
        revision: book.revision,
    }
}

fn parts(inner: &Inner, agent: &str, id: &NodeId, row: Option<&Arc<NodeRow>>) -> Parts {
    Parts {
        id: id.clone(),
        agent: agent.to_owned(),
        row: row.cloned(),
        seen: inner.seen(agent, id).cloned(),
        platform: inner.platform(agent).cloned(),
        lost: inner.lost(agent),
    }
}

/// The first agent by name that has a node of this id which nobody wished for.
fn unmanaged_on<'a>(inner: &'a Inner, id: &NodeId) -> Option<&'a str> {
    let mut having: Vec<&str> = inner
        .live
        .iter()
        .filter(|(_, live)| live.seen.get(id).is_some_and(|s| s.node.is_some()))
        .map(|(name, _)| name.as_str())
        .collect();
    having.sort_unstable();
    having.first().copied()
}

fn show_agent(inner: &Inner, row: &AgentRow) -> Agent {
    let live = inner.live.get(&row.id);
    let heard = live.and_then(|l| match &l.session {
        Some(session) => Some(session.heard()),
        None => l.heard,
    });
    let nodes = inner.book.load(&row.id).map_or(0, |l| l.nodes.len());
    view::agent(
        row,
        inner.lost(&row.id),
        live.and_then(|l| l.session.as_ref())
            .is_some_and(|s| s.has_reported()),
        nodes,
        heard,
        live.and_then(|l| l.refused.clone()),
    )
}

/// What changed of a node, in words.
fn say(row: &NodeRow, before: Option<&Glance>, now: &Glance) -> String {
    let (id, agent, state) = (&row.id, &row.agent, now.state.as_str());
    match before {
        None => format!("the node `{id}` is placed on `{agent}`"),
        Some(b) if b.generation != now.generation => match row.wish {
            Wish::Running => format!("the node `{id}` shall run (generation {})", now.generation),
            Wish::Stopped => format!("the node `{id}` shall stop (generation {})", now.generation),
            Wish::Removed { .. } => format!("the node `{id}` shall be removed"),
        },
        Some(b) if b.error != now.error && now.error.is_some() => {
            let error = now.error.as_deref().unwrap_or_default();
            format!("the node `{id}` is {state}: {error}")
        }
        Some(b) if b.state != now.state => format!("the node `{id}` is {state} on `{agent}`"),
        Some(b) if b.restarts < now.restarts => {
            format!("the node `{id}` was restarted ({} times)", now.restarts)
        }
        Some(b) if b.health != now.health => format!("the node `{id}` is {}", now.health),
        Some(_) => format!("the node `{id}` is {state}"),
    }
}

/// `NotFound` for an agent.
pub(crate) fn no_agent<T>(id: &str) -> Result<T> {
    Err(grid_platform_api::Error::new(
        grid_platform_api::ErrorKind::NotFound,
        format!("there is no agent `{}`", id.escape_debug()),
    )
    .with_hint("`grid agents` lists the agents; one is known once it has connected."))
}
