//! What a session has still to be told.
//!
//! Changes of wishes are noted by id and read when they are sent, so that a slow agent costs no memory and gets the
//! newest wish.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, PoisonError},
};

use grid_platform_api::{Error, ErrorKind, NodeId, Result};
use grid_proto::v1::from_master::Message;
use tokio::sync::Notify;

/// Questions and logs that may wait to be sent.
const MESSAGES: usize = 1024;

/// What is to be sent.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// The whole desired set.
    pub(crate) all: bool,
    /// A wish is gone, which only the whole set can say; it can wait for the next heartbeat, and for others like it.
    forgotten: bool,
    /// Single wishes; the whole set has them too.
    pub(crate) nodes: BTreeSet<NodeId>,
    pub(crate) messages: VecDeque<Message>,
}

/// The outbox of one session.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pending: Mutex<Pending>,
    notify: Notify,
}

impl Outbox {
    fn with<T>(&self, change: impl FnOnce(&mut Pending) -> T) -> T {
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a node's wish changed; [`wake`](Self::wake) sends it.
    pub(crate) fn node(&self, id: NodeId) {
        self.with(|p| p.nodes.insert(id));
    }

    /// Notes that a wish is gone; [`take_forgotten`](Self::take_forgotten) tells.
    pub(crate) fn forget(&self) {
        self.with(|p| p.forgotten = true);
    }

    /// Whether a wish is gone since this was last asked.
    pub(crate) fn take_forgotten(&self) -> bool {
        self.with(|p| std::mem::take(&mut p.forgotten))
    }

    /// Notes that the whole set is to be sent; [`wake`](Self::wake) sends it.
    pub(crate) fn all(&self) {
        self.with(|p| p.all = true);
    }

    /// Sends what was noted.
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Sends a message behind those that wait.
    ///
    /// # Errors
    /// `Exhausted` when too many wait.
    pub(crate) fn message(&self, message: Message) -> Result<()> {
        self.with(|p| {
            if p.messages.len() >= MESSAGES {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    "the agent has too many questions to answer",
                )
                .with_hint("Try again; if it lasts, look into the agent's log."));
            }
            p.messages.push_back(message);
            Ok(())
        })?;
        self.wake();
        Ok(())
    }

    /// Waits until something was noted, and takes it.
    pub(crate) async fn take(&self) -> Pending {
        self.notify.notified().await;
        self.with(|p| {
            let forgotten = p.forgotten && !p.all;
            let pending = std::mem::take(p);
            p.forgotten = forgotten;
            pending
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_of_one_node_are_sent_once() {
        let outbox = Outbox::default();
        let id = |text: &str| NodeId::new(text).unwrap();
        for name in ["a", "b", "a"] {
            outbox.node(id(name));
            outbox.wake();
        }
        let pending = outbox.take().await;
        assert_eq!(
            pending.nodes.into_iter().collect::<Vec<_>>(),
            [id("a"), id("b")]
        );
        assert!(!pending.all);
    }

    #[tokio::test]
    async fn what_is_gone_waits_for_the_next_whole_set() {
        let outbox = Outbox::default();
        outbox.forget();
        outbox.node(NodeId::new("a").unwrap());
        outbox.wake();
        assert!(!outbox.take().await.all, "a change does not resend all");
        assert!(outbox.take_forgotten() && !outbox.take_forgotten());
        outbox.forget();
        outbox.all();
        outbox.wake();
        assert!(outbox.take().await.all && !outbox.take_forgotten());
    }

    #[test]
    fn messages_are_bounded() {
        let outbox = Outbox::default();
        let message = || Message::Heartbeat(grid_proto::v1::Heartbeat { sequence: 0 });
        for _ in 0..MESSAGES {
            outbox.message(message()).unwrap();
        }
        let error = outbox.message(message()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
    }
}
