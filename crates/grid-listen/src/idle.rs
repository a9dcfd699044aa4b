//! Which connections have no request, the longest waiting first.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use futures::task::AtomicWaker;
use tokio::sync::Notify;

/// The connections of one door that have no request.
#[derive(Default)]
pub(crate) struct Idle {
    queue: Mutex<Queue>,
    /// One more connection has no request.
    pub(crate) added: Notify,
}

#[derive(Default)]
struct Queue {
    next: u64,
    /// By ticket: who has waited longest has the lowest.
    waiting: BTreeMap<u64, Arc<Place>>,
}

/// One connection's place.
pub(crate) struct Place {
    idle: Arc<Idle>,
    times: Mutex<Times>,
    waker: AtomicWaker,
}

struct Times {
    /// How many requests it has; none means that it waits with `ticket`.
    requests: usize,
    ticket: u64,
    since: Instant,
    /// It was closed to make room, or is gone.
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Idle {
    /// Closes the connection that has been without a request for longest. `false` when each has one.
    pub(crate) fn close_oldest(&self) -> bool {
        let oldest = lock(&self.queue).waiting.pop_first();
        let Some((_, place)) = oldest else {
            return false;
        };
        lock(&place.times).closed = true;
        place.waker.wake();
        true
    }

    /// A new connection's place; it has no request yet.
    pub(crate) fn place(self: &Arc<Self>) -> Arc<Place> {
        let place = Arc::new(Place {
            idle: self.clone(),
            times: Mutex::new(Times {
                requests: 0,
                ticket: 0,
                since: Instant::now(),
                closed: false,
            }),
            waker: AtomicWaker::new(),
        });
        let mut queue = lock(&self.queue);
        place.wait(&mut queue, &mut lock(&place.times));
        place
    }
}

impl Place {
    fn wait(self: &Arc<Self>, queue: &mut Queue, times: &mut Times) {
        times.ticket = queue.next;
        times.since = Instant::now();
        queue.next += 1;
        queue.waiting.insert(times.ticket, self.clone());
        self.idle.added.notify_one();
    }

    /// Since when it has no request; `None` while it has one.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let times = lock(&self.times);
        (times.requests == 0).then_some(times.since)
    }

    /// Ready when the connection was closed to make room.
    pub(crate) fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        match lock(&self.times).closed {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// The connection is gone.
    pub(crate) fn leave(&self) {
        let mut queue = lock(&self.idle.queue);
        let mut times = lock(&self.times);
        times.closed = true;
        if times.requests == 0 {
            queue.waiting.remove(&times.ticket);
        }
    }
}

/// A connection as its server sees it.
#[derive(Clone)]
pub struct Visit(pub(crate) Arc<Place>);

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Visit(..)")
    }
}

impl Visit {
    /// Notes a request: until the guard is dropped, the connection is not closed to make room, nor for being idle.
    pub fn busy(&self) -> Busy {
        let mut queue = lock(&self.0.idle.queue);
        let mut times = lock(&self.0.times);
        if times.requests == 0 {
            queue.waiting.remove(&times.ticket);
        }
        times.requests += 1;
        drop((queue, times));
        Busy(self.0.clone())
    }
}

/// A request in flight.
pub struct Busy(Arc<Place>);

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Busy")
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.idle.queue);
        let mut times = lock(&self.0.times);
        times.requests -= 1;
        if times.requests == 0 && !times.closed {
            self.0.wait(&mut queue, &mut times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(place: &Place) -> bool {
        lock(&place.times).closed
    }

    #[test]
    fn who_waits_longest_goes_first_and_who_has_a_request_stays() {
        let idle = Arc::new(Idle::default());
        let places: Vec<_> = (0..4).map(|_| idle.place()).collect();
        let busy = Visit(places[0].clone()).busy();
        let twice = Visit(places[1].clone()).busy();
        let again = Visit(places[1].clone()).busy();
        assert!(idle.close_oldest() && closed(&places[2]));
        drop(twice);
        places[3].leave();
        assert!(!idle.close_oldest(), "each has a request, or is gone");
        drop(again);
        drop(busy);
        assert!(idle.close_oldest() && closed(&places[1]) && !closed(&places[0]));
        assert!(idle.close_oldest() && closed(&places[0]));
        assert!(lock(&idle.queue).waiting.is_empty());
    }

    #[test]
    fn a_request_that_outlives_its_connection_leaves_nothing_behind() {
        let idle = Arc::new(Idle::default());
        let place = idle.place();
        let busy = Visit(place.clone()).busy();
        place.leave();
        drop(busy);
        assert!(lock(&idle.queue).waiting.is_empty());
        assert!(place.idle_since().is_some());
    }
}
