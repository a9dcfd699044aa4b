//! The grid as it is now, in memory: what is wished, who is heard, what was seen.
//!
//! One lock guards it, held for lookups and never over I/O. What is wished comes only from the store, after it is
//! durable; what was seen comes from the agents and is stored lazily.

mod seen;
mod sessions;
mod show;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use grid_client::State;
use grid_platform_api::{ErrorReport, NodeId, Progress, Result};
use grid_proto::Fence;
use tokio_util::sync::CancellationToken;

use crate::{
    events::Events,
    link::{Heard, Session},
    metrics::Metrics,
    store::{
        Book, Delta, Listener, Load,
        row::{AgentRow, NodeRow, Seen, SeenRow, Wish},
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
    /// Agents that have no session.
    absent: BTreeSet<String>,
    /// Nodes that agents have and that nobody wished for there, with those agents.
    unmanaged: HashMap<NodeId, BTreeSet<String>>,
    /// How each wished node looked when it was last told of.
    glances: HashMap<NodeId, Glance>,
    /// By the id of a token that was used for something that lasts: ends that when the token is deleted.
    revoked: HashMap<String, CancellationToken>,
    /// Nodes whose `Seen` differs from the stored one.
    dirty: HashSet<NodeId>,
}

/// An agent, as far as it is heard.
#[derive(Default)]
struct Live {
    session: Option<Arc<Session>>,
    lost: bool,
    /// It has told which nodes it has: in its session, or in the last one if it was missed for less than it takes to
    /// be lost. Without that, what was seen is of the past.
    told: bool,
    /// When the last session of this master's life was heard last.
    heard: Option<Heard>,
    seen: HashMap<NodeId, Arc<Seen>>,
    /// How far it is with what wished nodes of its wait for. It is of its session.
    progress: HashMap<NodeId, Progress>,
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

    /// Whether nobody can say how a node of the agent is now.
    fn unknown(&self, agent: &str, id: &NodeId) -> bool {
        match self.live.get(agent) {
            Some(live) if live.told => false,
            // What is wished and was never seen is on its way.
            Some(live) if !live.lost && !live.seen.contains_key(id) => self
                .wish_of(agent, id)
                .is_none_or(|row| row.wish != Wish::Running),
            _ => true,
        }
    }

    fn platform(&self, agent: &str) -> Option<&Arc<AgentRow>> {
        self.book.agents.get(agent)
    }

    /// The agent of a session, unless a newer session speaks for it now.
    fn speaks_for(&mut self, session: &Arc<Session>) -> Option<&mut Live> {
        let live = self.live.get_mut(&session.agent)?;
        let current = live
            .session
            .as_ref()
            .is_some_and(|s| Arc::ptr_eq(s, session));
        current.then_some(live)
    }

    /// Keeps `unmanaged` in step, after what is wished of the agent's node or was seen of it has changed.
    fn sort_in(&mut self, agent: &str, id: &NodeId) {
        let is_there = self.seen(agent, id).is_some_and(|it| it.node.is_some());
        if is_there && self.wish_of(agent, id).is_none() {
            let agents = self.unmanaged.entry(id.clone()).or_default();
            agents.insert(agent.to_owned());
        } else if let Some(agents) = self.unmanaged.get_mut(id) {
            agents.remove(agent);
            if agents.is_empty() {
                self.unmanaged.remove(id);
            }
        }
    }

    /// Nobody speaks of the agent any more.
    fn forget(&mut self, agent: &str) {
        self.absent.remove(agent);
        let seen = self.live.remove(agent).map(|it| it.seen);
        for id in seen.into_iter().flatten().map(|(id, _)| id) {
            self.sort_in(agent, &id);
        }
    }

    /// The wish for a node, if it is a wish of this agent.
    fn wish_of(&self, agent: &str, id: &NodeId) -> Option<&Arc<NodeRow>> {
        self.book.nodes.get(id).filter(|row| row.agent == agent)
    }
}

impl Grid {
    /// The grid as the store has it: agents are given the time until they count as lost to be heard again, and how
    /// their nodes are is unknown until they have told.
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
            absent: live.keys().cloned().collect(),
            book,
            live,
            unmanaged: HashMap::new(),
            glances: HashMap::new(),
            revoked: HashMap::new(),
            dirty: HashSet::new(),
        };
        for row in inner.book.nodes.values() {
            let seen = inner.seen(&row.agent, &row.id);
            let glance = view::glance(row, seen.map(|s| &**s), inner.unknown(&row.agent, &row.id));
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
        let glance = view::glance(row, seen, inner.unknown(&row.agent, &row.id));
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
}

impl Listener for Grid {
    fn committed(&self, deltas: &[Delta]) {
        let mut inner = self.inner();
        let mut outboxes: HashMap<String, Arc<Session>> = HashMap::new();
        for delta in deltas {
            match delta {
                Delta::Agent(_, Some(row)) => self.agent_changed(&mut inner, row),
                Delta::Agent(id, None) => {
                    inner.forget(id);
                    let message = format!("the agent `{id}` is known by another name");
                    self.tell("agent.removed", None, Some(id), None, message);
                }
                Delta::Token(id, None) => {
                    if let Some(revoked) = inner.revoked.remove(id) {
                        revoked.cancel();
                    }
                }
                _ => {}
            }
            let before = match delta {
                Delta::Node(id, ..) => inner.book.nodes.get(id).map(|row| row.agent.clone()),
                _ => None,
            };
            inner.book.apply(delta);
            let Delta::Node(id, row, _) = delta else {
                continue;
            };
            let now = row.as_ref().map(|row| row.agent.clone());
            if before != now {
                for agent in before.iter().chain(&now) {
                    inner.sort_in(agent, id);
                }
            }
            let Some(agent) = now.or(before) else {
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
                    live.progress.remove(id);
                }
                inner.sort_in(&agent, id);
                if let Some(session) = &session {
                    session.outbox.forget();
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
        if inner.live.entry(id.clone()).or_default().session.is_none() {
            inner.absent.insert(id.clone());
        }
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
        lineage: book.lineage.clone(),
    }
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
        format!("there is no agent `{}`", grid_platform_api::printable(id)),
    )
    .with_hint("`grid agents` lists the agents; one is known once it has connected."))
}
