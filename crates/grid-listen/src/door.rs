//! Where connections come in.

use std::{io, sync::Arc, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{Connection, idle::Idle};

/// How long to wait when the system has no descriptor for a connection, so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(50);

/// What connections may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many may be open at a time; at least one.
    pub connections: usize,
    /// How long one may have no request. `None` where the protocol has a limit of its own for that.
    pub idle: Option<Duration>,
    /// The [patience](crate::Patience) with a peer that takes what is sent to it.
    pub stall: Duration,
}

/// A listener that lets in a bounded number of connections.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    limits: Limits,
    places: Arc<Semaphore>,
    idle: Arc<Idle>,
    /// Accepted, and waiting for a place.
    held: Option<TcpStream>,
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Idle(..)")
    }
}

impl Door {
    /// A door over `listener`.
    pub fn new(listener: TcpListener, limits: Limits) -> Self {
        let connections = limits.connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            listener,
            limits,
            places: Arc::new(Semaphore::new(connections)),
            idle: Arc::new(Idle::default()),
            held: None,
        }
    }

    /// The next connection. When there is no place for it, the one that has been without a request for longest is
    /// closed. Nothing is lost when the future is dropped.
    pub async fn accept(&mut self) -> Connection {
        loop {
            let place = match self.held {
                Some(_) => self.place().await,
                None => {
                    match self.listener.accept().await {
                        Ok((stream, _)) => self.held = Some(stream),
                        Err(error) => self.refused(&error).await,
                    }
                    continue;
                }
            };
            let (Some(stream), Some(place)) = (self.held.take(), place) else {
                continue;
            };
            // Answers are small and awaited: better sent at once than gathered.
            let _ = stream.set_nodelay(true);
            return Connection::new(stream, self.limits, self.idle.place(), place);
        }
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let free = self.places.clone();
            if let Ok(place) = free.clone().try_acquire_owned() {
                return Some(place);
            }
            if self.idle.close_oldest() {
                // Its place is free in a moment. The semaphore is never closed.
                return free.acquire_owned().await.ok();
            }
            tokio::select! {
                place = free.acquire_owned() => return place.ok(),
                () = self.idle.added.notified() => {}
            }
        }
    }

    async fn refused(&self, error: &io::Error) {
        // The client went away before it was accepted.
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        // Out of descriptors, most likely: the system says so whether or not somebody waits to be let in.
        if self.somebody_waits() {
            tracing::warn!(%error, "a connection cannot be accepted");
            self.idle.close_oldest();
        }
        tokio::time::sleep(PAUSE).await;
    }

    fn somebody_waits(&self) -> bool {
        let mut listener = [PollFd::new(&self.listener, PollFlags::IN)];
        // Where the system does not say, it is taken for granted.
        poll(&mut listener, Some(&Timespec::default())) != Ok(0)
    }
}
