//! The platform's events, for as long as the agent lives.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use grid_platform_api::{Error, ErrorKind, NodeEvent, Platform, Result};
use tokio::sync::mpsc;

use crate::backoff::Backoff;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    longest: Duration::from_secs(10),
};

/// What the watch has to tell.
#[derive(Debug)]
pub(super) enum Told {
    Event(NodeEvent),
    /// The platform cannot be watched. A snapshot tells that it can again.
    Away,
}

/// Sends the platform's events until nobody takes them. Every `resync` the watch begins anew, with a snapshot: what an
/// event that never came would have told is then seen, and in order with the others.
pub(super) async fn watch(
    platform: Arc<dyn Platform>,
    resync: Duration,
    events: mpsc::Sender<Told>,
) {
    let mut failures = 0;
    loop {
        match watch_once(platform.as_ref(), resync, &events).await {
            Ok(()) if events.is_closed() => return,
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                let hint = error.hint();
                if failures == 1 {
                    tracing::warn!(%error, hint, "lost the platform's events, watching again");
                    // Nobody takes it any more when the agent ends.
                    drop(events.send(Told::Away).await);
                } else {
                    tracing::debug!(%error, failures, "the platform cannot be watched");
                }
                tokio::select! {
                    () = tokio::time::sleep(BACKOFF.wait(failures)) => {}
                    () = events.closed() => return,
                }
            }
        }
    }
}

/// One watch; `Ok` when it is time for the next or nobody takes events any more.
async fn watch_once(
    platform: &dyn Platform,
    resync: Duration,
    events: &mpsc::Sender<Told>,
) -> Result<()> {
    let until = tokio::time::sleep(resync);
    tokio::pin!(until);
    // An answer that is lost would else leave the agent without events for ever.
    let mut stream = tokio::select! {
        stream = platform.watch_nodes() => stream?,
        () = &mut until => return Err(unavailable("the platform cannot be watched: no answer")),
        () = events.closed() => return Ok(()),
    };
    loop {
        tokio::select! {
            () = &mut until => return Ok(()),
            () = events.closed() => return Ok(()),
            event = stream.next() => match event {
                Some(event) => {
                    if events.send(Told::Event(event?)).await.is_err() {
                        return Ok(());
                    }
                }
                None => return Err(unavailable("the platform's events ended")),
            },
        }
    }
}

fn unavailable(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}
