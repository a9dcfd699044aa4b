//! What happened, kept for those who follow: a bounded ring in memory.
//!
//! Ids are handed out from blocks that are reserved durably, so that an id is never used twice: after a restart the
//! ids go on in a later block, and a follower that resumes with an id of before is told to read the lists again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grid_client::{Event, State};
use grid_platform_api::{NodeId, Timestamp};
use tokio::sync::watch;

/// Event ids that one reservation covers.
pub(crate) const BLOCK: u64 = 1 << 20;
/// Events that one answer takes at once, so that a follower far behind costs bounded memory.
const PAGE: usize = 512;

/// An event and its JSON, made once for all followers.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) id: u64,
    pub(crate) kind: &'static str,
    pub(crate) json: String,
}

/// What a follower gets next.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) events: Vec<Arc<Told>>,
    /// Where to go on.
    pub(crate) cursor: u64,
}

/// The ring.
pub(crate) struct Events {
    ring: Mutex<Ring>,
    capacity: usize,
    newest: watch::Sender<u64>,
}

struct Ring {
    /// The id of the next event.
    next: u64,
    kept: VecDeque<Arc<Told>>,
}

impl Events {
    /// A ring of `capacity` events whose first id is `first`.
    pub(crate) fn new(first: u64, capacity: usize) -> Self {
        Self {
            ring: Mutex::new(Ring {
                next: first,
                kept: VecDeque::new(),
            }),
            capacity,
            newest: watch::Sender::new(first.saturating_sub(1)),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells an event; returns its id.
    pub(crate) fn tell(
        &self,
        kind: &'static str,
        node: Option<&NodeId>,
        agent: Option<&str>,
        state: Option<State>,
        message: String,
    ) -> u64 {
        let mut ring = self.ring();
        let id = ring.next;
        ring.next += 1;
        let event = Event {
            id,
            at: Timestamp::now().to_string(),
            kind: kind.to_owned(),
            node: node.cloned(),
            agent: agent.map(str::to_owned),
            message,
            state,
        };
        // Texts, numbers and nothing else: it always has a JSON form.
        let json = serde_json::to_string(&event).unwrap_or_default();
        ring.kept.push_back(Arc::new(Told { id, kind, json }));
        if ring.kept.len() > self.capacity {
            ring.kept.pop_front();
        }
        drop(ring);
        self.newest.send_replace(id);
        id
    }

    /// The id of the newest event, for a follower that wants what comes.
    pub(crate) fn newest(&self) -> u64 {
        self.ring().next - 1
    }

    /// The oldest cursor: everything that is kept lies behind it.
    pub(crate) fn oldest(&self) -> u64 {
        let ring = self.ring();
        ring.kept.front().map_or(ring.next, |told| told.id) - 1
    }

    /// Wakes when there is something new.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What lies behind `cursor`, led by a `resync` where something between is no longer kept.
    pub(crate) fn after(&self, cursor: u64) -> Page {
        let ring = self.ring();
        let first = ring.kept.front().map_or(ring.next, |told| told.id);
        let mut page = Page {
            events: Vec::new(),
            cursor,
        };
        let known = cursor.saturating_add(1) >= first && cursor < ring.next;
        if !known {
            page.cursor = first - 1;
            page.events.push(Arc::new(resync(page.cursor)));
        }
        let skip = usize::try_from(page.cursor + 1 - first).unwrap_or(usize::MAX);
        page.events
            .extend(ring.kept.iter().skip(skip).take(PAGE).cloned());
        if let Some(last) = page.events.last() {
            page.cursor = last.id;
        }
        page
    }
}

fn resync(id: u64) -> Told {
    let event = Event {
        id,
        at: Timestamp::now().to_string(),
        kind: "resync".to_owned(),
        node: None,
        agent: None,
        message: "events before this one are no longer kept: read the lists again".to_owned(),
        state: None,
    };
    Told {
        id,
        kind: "resync",
        json: serde_json::to_string(&event).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(page: &Page) -> Vec<(u64, &'static str)> {
        page.events.iter().map(|e| (e.id, e.kind)).collect()
    }

    #[test]
    fn resuming() {
        let events = Events::new(11, 3);
        assert_eq!(ids(&events.after(10)), []);
        for _ in 0..5 {
            events.tell("k", None, None, None, String::new());
        }
        // 13 to 15 are kept.
        let check = |cursor, expect: &[(u64, &str)], next| {
            let page = events.after(cursor);
            assert_eq!(ids(&page), expect, "{cursor}");
            assert_eq!(page.cursor, next, "{cursor}");
        };
        check(15, &[], 15);
        check(14, &[(15, "k")], 15);
        check(12, &[(13, "k"), (14, "k"), (15, "k")], 15);
        let all = [(12, "resync"), (13, "k"), (14, "k"), (15, "k")];
        check(11, &all, 15);
        check(0, &all, 15);
        // An id that was never handed out is of another store.
        check(16, &all, 15);
        check(u64::MAX - 1, &all, 15);
        assert_eq!((events.oldest(), events.newest()), (12, 15));
    }

    #[test]
    fn a_follower_far_behind_gets_pages() {
        let events = Events::new(1, 2000);
        for _ in 0..1200 {
            events.tell("k", None, None, None, String::new());
        }
        let (mut cursor, mut seen) = (0, 0);
        loop {
            let page = events.after(cursor);
            if page.events.is_empty() {
                break;
            }
            seen += page.events.len();
            cursor = page.cursor;
        }
        assert_eq!((cursor, seen), (1200, 1200));
    }
}
