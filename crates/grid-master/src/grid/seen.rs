//! What agents have seen of their nodes.

use std::{collections::HashSet, sync::Arc};

use grid_platform_api::{ErrorReport, NodeId, Progress};
use grid_proto::Observation;

use super::{Grid, Inner};
use crate::{
    link::Session,
    store::row::{AppliedRow, Seen, SeenRow},
    view,
};

/// Nodes of one agent that nobody here wished for and that are shown: beyond these the agent is broken, or hostile.
const UNMANAGED: usize = 16_384;

impl Grid {
    /// All nodes of a session's agent: what is not among them is not there. The first time in its session the agent
    /// counts as connected, and how its nodes are is known again.
    pub(crate) fn observe_all(&self, session: &Arc<Session>, nodes: Vec<Observation>) {
        let agent = session.agent.as_str();
        let mut inner = self.inner();
        let Some(live) = inner.speaks_for(session) else {
            return;
        };
        let first = !std::mem::replace(&mut live.told, true);
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
        if first {
            let message = format!("the agent `{agent}` is connected");
            self.tell("agent.ready", None, Some(agent), None, message);
            self.look_at_all(&mut inner, agent);
        }
    }

    /// One node of a session's agent is new or changed.
    pub(crate) fn observe(&self, session: &Arc<Session>, observation: Observation) {
        let mut inner = self.inner();
        if inner.speaks_for(session).is_some() {
            self.observe_in(&mut inner, &session.agent, observation);
        }
    }

    fn observe_in(&self, inner: &mut Inner, agent: &str, observation: Observation) {
        let id = observation.node.node_id.clone();
        self.see(inner, agent, &id, |seen| {
            seen.managed = observation.managed;
            seen.node = Some(observation.node);
        });
    }

    /// A node's record is gone from its platform.
    pub(crate) fn gone(&self, session: &Arc<Session>, id: &NodeId, uid: &str) {
        let agent = session.agent.as_str();
        let mut inner = self.inner();
        if inner.speaks_for(session).is_none() {
            return;
        }
        let is_this = inner
            .seen(agent, id)
            .and_then(|s| s.node.as_ref())
            // The next incarnation may have been told of first.
            .is_some_and(|n| uid.is_empty() || n.uid.as_str() == uid);
        if is_this {
            self.see(&mut inner, agent, id, |seen| seen.node = None);
        }
    }

    /// How far a session's agent is with what a wished node waits for; `None` says that it is over.
    pub(crate) fn progress(&self, session: &Arc<Session>, id: &NodeId, progress: Option<Progress>) {
        let agent = session.agent.as_str();
        let mut inner = self.inner();
        if inner.wish_of(agent, id).is_none() {
            return;
        }
        let Some(live) = inner.speaks_for(session) else {
            return;
        };
        let Some(progress) = progress else {
            // What has come of it is told by what is seen next.
            live.progress.remove(id);
            return;
        };
        let message = format!("the node `{id}` waits: {progress}");
        if live.progress.insert(id.clone(), progress.clone()) != Some(progress) {
            let state = inner.glances.get(id).map(|it| it.state);
            self.tell("node.progress", Some(id), Some(agent), state, message);
        }
    }

    /// A generation was acted on. `true` when it was a tombstone, and is done.
    pub(crate) fn applied(
        &self,
        session: &Arc<Session>,
        id: &NodeId,
        generation: u64,
        error: Option<ErrorReport>,
        is_final: bool,
    ) -> bool {
        let agent = session.agent.as_str();
        let mut inner = self.inner();
        if inner.speaks_for(session).is_none() {
            return false;
        }
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
        done && row.wish.is_removed() && generation == row.generation
    }

    /// Changes what was seen of a node, and tells it if it shows.
    fn see(&self, inner: &mut Inner, agent: &str, id: &NodeId, change: impl FnOnce(&mut Seen)) {
        let wished = inner.wish_of(agent, id).is_some();
        let Some(live) = inner.live.get_mut(agent) else {
            return;
        };
        let before = live.seen.get(id).cloned();
        if before.is_none() && !wished && live.seen.len() >= UNMANAGED {
            return;
        }
        let mut seen = before.as_deref().cloned().unwrap_or_default();
        change(&mut seen);
        if before.as_deref() == Some(&seen) {
            return;
        }
        let seen = Arc::new(seen);
        live.seen.insert(id.clone(), seen.clone());
        inner.sort_in(agent, id);
        if wished {
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
