//! Who is heard: sessions begin, end and are missed.

use std::sync::Arc;

use grid_platform_api::{ErrorReport, NodeId, Result};
use grid_proto::Fence;
use tokio::time::Instant;

use super::{Grid, fence};
use crate::{
    link::{Heard, Session},
    store::row::NodeRow,
};

impl Grid {
    pub(crate) fn session(&self, agent: &str) -> Option<Arc<Session>> {
        self.inner().live.get(agent)?.session.clone()
    }

    /// The install that an agent's id belongs to, while it is heard.
    pub(crate) fn connected_install(&self, agent: &str) -> Option<String> {
        let inner = self.inner();
        let live = inner.live.get(agent)?;
        live.session.as_ref().map(|s| s.install_id.clone())
    }

    /// A session has begun: it takes the place of an older one. How the agent's nodes are is unknown until it has told.
    pub(crate) fn connect(&self, agent: &str, session: &Arc<Session>) {
        let mut inner = self.inner();
        let live = inner.live.entry(agent.to_owned()).or_default();
        if let Some(older) = live.session.replace(session.clone()) {
            older.replace();
        }
        live.lost = false;
        // Not told as events: it tells in a moment, and most nodes are as they were.
        live.told = false;
        live.progress.clear();
        live.refused = None;
        live.heard = Some(Heard::now());
        inner.absent.remove(agent);
        self.metrics.sessions.inc();
    }

    /// A session has ended. `true` when the agent has no other by now.
    pub(crate) fn disconnect(&self, session: &Arc<Session>) -> bool {
        let mut inner = self.inner();
        let Some(live) = inner.speaks_for(session) else {
            return false;
        };
        live.heard = Some(session.heard());
        live.session = None;
        live.progress.clear();
        inner.absent.insert(session.agent.clone());
        true
    }

    /// Shows an agent as lost that has no session and was not heard after `since`. `false` when it is not so, or is
    /// shown already.
    pub(crate) fn lose(&self, agent: &str, since: Instant) -> bool {
        let mut inner = self.inner();
        match inner.live.get_mut(agent) {
            Some(live)
                if live.session.is_none()
                    && !live.lost
                    && live.heard.is_none_or(|heard| heard.instant <= since) =>
            {
                live.lost = true;
                live.told = false;
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

    /// Whether an agent that has seen this may listen to this store.
    ///
    /// # Errors
    /// Those of [`Fence::admits`], and `Stale` where this store was never at what it has seen, whatever the figures.
    pub(crate) fn admits(&self, seen: &Fence) -> Result<()> {
        let inner = self.inner();
        let here = fence(&inner.book);
        seen.admits(&here)?;
        // A new epoch is begun on purpose. An agent of an earlier version knows of no lineage.
        let asked = seen.epoch == here.epoch && !seen.lineage.is_empty();
        if asked && !inner.book.was_at(&seen.lineage, seen.revision) {
            return Err(seen.unknown());
        }
        Ok(())
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
}
