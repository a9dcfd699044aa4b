//! The grid as people are shown it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use grid_client::{Agent, Node, State};
use grid_platform_api::{NodeId, Progress};
use grid_proto::Fence;
use tokio_util::sync::CancellationToken;

use super::{Grid, Inner, fence};
use crate::{
    metrics::Snapshot,
    store::row::{AgentRow, NodeRow, Seen, TokenRow},
    view,
};

impl Grid {
    pub(crate) fn fence(&self) -> Fence {
        let inner = self.inner();
        fence(&inner.book)
    }

    pub(crate) fn token(&self, id: &str) -> Option<Arc<TokenRow>> {
        self.inner().book.tokens.get(id).cloned()
    }

    /// Cancelled once the token is deleted, for what goes on after its request was let in.
    pub(crate) fn revoked(&self, token: &str) -> CancellationToken {
        let mut inner = self.inner();
        if inner.book.tokens.contains_key(token) {
            inner.revoked.entry(token.to_owned()).or_default().clone()
        } else {
            let revoked = CancellationToken::new();
            revoked.cancel();
            revoked
        }
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
            for (id, agents) in &inner.unmanaged {
                let shown = agents
                    .iter()
                    .filter(|name| agent.is_none_or(|wanted| wanted == *name));
                all.extend(shown.map(|name| parts(&inner, name, id, None)));
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

    /// Agents that a new node is not placed on: lost ones. Unless an agent is `named`, those whose session has just
    /// ended wait too, as long as another one has a session: a closed stream is known at once, its reason is not.
    pub(crate) fn unheard_agents(&self, named: bool) -> HashSet<String> {
        let inner = self.inner();
        let mut known = inner.book.agents.keys();
        let wait = !named && known.any(|id| !inner.absent.contains(id));
        let absent = inner.absent.iter();
        absent
            .filter(|id| wait || inner.lost(id))
            .cloned()
            .collect()
    }

    /// Whether the node would come to run, or to run as is wished, by another try alone: by what was last seen of it,
    /// even when that is of the past.
    pub(crate) fn waits_for_a_wish(&self, row: &NodeRow) -> bool {
        let inner = self.inner();
        let seen = inner.seen(&row.agent, &row.id).map(|s| &**s);
        let state = view::state(Some(row), seen, false);
        // One that goes on running as it was before a change that failed waits too.
        matches!(state, State::Failed | State::Stopped) || view::is_given_up(row, seen)
    }

    /// Whether its agent has failed at what is wished, and waits for another wish.
    pub(crate) fn is_given_up(&self, row: &NodeRow) -> bool {
        let inner = self.inner();
        let seen = inner.seen(&row.agent, &row.id).map(|s| &**s);
        view::is_given_up(row, seen)
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
}

/// What a node is made of for people; cheap to take under the lock.
struct Parts {
    id: NodeId,
    agent: String,
    row: Option<Arc<NodeRow>>,
    seen: Option<Arc<Seen>>,
    platform: Option<Arc<AgentRow>>,
    unknown: bool,
    progress: Option<Progress>,
}

impl Parts {
    fn show(&self) -> Node {
        let mut node = view::node(
            &self.id,
            &self.agent,
            self.platform.as_ref().map(|a| a.info.platform.as_str()),
            self.row.as_deref(),
            self.seen.as_deref(),
            self.unknown,
        );
        node.progress.clone_from(&self.progress);
        node
    }
}

fn parts(inner: &Inner, agent: &str, id: &NodeId, row: Option<&Arc<NodeRow>>) -> Parts {
    Parts {
        id: id.clone(),
        agent: agent.to_owned(),
        row: row.cloned(),
        seen: inner.seen(agent, id).cloned(),
        platform: inner.platform(agent).cloned(),
        unknown: inner.unknown(agent, id),
        progress: inner
            .live
            .get(agent)
            .and_then(|live| live.progress.get(id))
            .cloned(),
    }
}

/// The first agent by name that has a node of this id which nobody wished for there.
fn unmanaged_on<'a>(inner: &'a Inner, id: &NodeId) -> Option<&'a str> {
    inner.unmanaged.get(id)?.first().map(String::as_str)
}

fn show_agent(inner: &Inner, row: &AgentRow) -> Agent {
    let live = inner.live.get(&row.id);
    let heard = live.and_then(|l| match &l.session {
        Some(session) => Some(session.heard().at),
        None => l.heard.map(|it| it.at),
    });
    let nodes = inner.book.load(&row.id).map_or(0, |l| l.nodes.len());
    view::agent(
        row,
        inner.lost(&row.id),
        live.is_some_and(|l| l.session.is_some() && l.told),
        nodes,
        heard.or(Some(row.connected_at)),
        live.and_then(|l| l.refused.clone()),
    )
}
