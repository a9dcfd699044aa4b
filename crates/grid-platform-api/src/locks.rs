//! Serial per id.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::{Error, ErrorKind, NodeId, Result};

/// Runs the calls that change one node one after the other, and lets a stop cancel a spawn in flight.
///
/// Adapters use it inside; [`wrap::Serial`](crate::wrap::Serial) puts it around one that does not. Calls on
/// different ids do not wait for each other.
#[derive(Debug, Default)]
pub struct NodeLocks {
    slots: Mutex<HashMap<NodeId, Arc<Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    turn: AsyncMutex<()>,
    /// How many interrupts there were; a spawn that sees it rise is superseded.
    interrupts: watch::Sender<u64>,
}

/// A call's hold on its slot; the last one to leave takes the slot out of the map.
struct Hold<'a> {
    locks: &'a NodeLocks,
    id: &'a NodeId,
    slot: Arc<Slot>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut slots = self.locks.slots();
        // Two are the map's and ours; under the map's lock nobody can add a third.
        if Arc::strong_count(&self.slot) == 2 {
            slots.remove(self.id);
        }
    }
}

impl NodeLocks {
    /// No calls yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Slot>>> {
        // The map is whole at every point where a panic could happen.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold<'a>(&'a self, id: &'a NodeId) -> Hold<'a> {
        let slot = Arc::clone(self.slots().entry(id.clone()).or_default());
        Hold {
            locks: self,
            id,
            slot,
        }
    }

    /// Runs `call` in its turn; an [`interrupt`](Self::interrupt) that comes meanwhile drops it.
    ///
    /// # Errors
    /// Those of `call`; `Superseded` when it was interrupted, waiting or running.
    pub async fn interruptible<T>(
        &self,
        id: &NodeId,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let hold = self.hold(id);
        let mut interrupts = hold.slot.interrupts.subscribe();
        let turn = async {
            let _turn = hold.slot.turn.lock().await;
            call.await
        };
        tokio::select! {
            // The interrupt is looked at first, so that a call whose turn comes with it does not begin.
            biased;
            _ = interrupts.changed() => Err(Error::new(
                ErrorKind::Superseded,
                format!("the spawn of `{id}` was superseded by a stop or a remove"),
            )
            .with_node(id)),
            result = turn => result,
        }
    }

    /// Cancels every [`interruptible`](Self::interruptible) call on `id`, then runs `call` in its turn.
    ///
    /// # Errors
    /// Those of `call`.
    pub async fn interrupt<T>(
        &self,
        id: &NodeId,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let hold = self.hold(id);
        hold.slot.interrupts.send_modify(|count| *count += 1);
        let _turn = hold.slot.turn.lock().await;
        call.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::future::pending;

    use super::*;

    fn id() -> NodeId {
        NodeId::new("n1").unwrap()
    }

    #[tokio::test]
    async fn an_interrupt_supersedes_what_runs_and_what_waits() {
        let locks = NodeLocks::new();
        let id = id();
        let (running, waiting, stop) = tokio::join!(
            biased;
            locks.interruptible(&id, pending::<Result<()>>()),
            locks.interruptible(&id, async { Ok(()) }),
            locks.interrupt(&id, async { Ok(7) }),
        );
        assert_eq!(running.unwrap_err().kind(), ErrorKind::Superseded);
        assert_eq!(waiting.unwrap_err().kind(), ErrorKind::Superseded);
        assert_eq!(stop.unwrap(), 7);
        assert!(locks.slots().is_empty(), "slots are taken out");
    }

    #[tokio::test]
    async fn a_later_spawn_waits_for_the_stop_and_runs() {
        let locks = NodeLocks::new();
        let id = id();
        let stopped = AtomicBool::new(false);
        let (go, gate) = tokio::sync::oneshot::channel::<()>();
        let (stop, spawn, _) = tokio::join!(
            biased;
            locks.interrupt(&id, async {
                gate.await.ok();
                stopped.store(true, Ordering::SeqCst);
                Ok(())
            }),
            locks.interruptible(&id, async { Ok(stopped.load(Ordering::SeqCst)) }),
            async { go.send(()) },
        );
        stop.unwrap();
        assert!(spawn.unwrap(), "the spawn ran after the stop");
    }

    #[tokio::test]
    async fn ids_do_not_wait_for_each_other() {
        let locks = NodeLocks::new();
        let other = NodeId::new("n2").unwrap();
        let id = id();
        let blocked = locks.interrupt(&id, pending::<Result<()>>());
        tokio::select! {
            biased;
            _ = blocked => panic!("never ends"),
            result = locks.interrupt(&other, async { Ok(1) }) => assert_eq!(result.unwrap(), 1),
        }
    }
}
