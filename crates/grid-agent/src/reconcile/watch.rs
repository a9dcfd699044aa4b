//! The platform's events, for as long as the agent lives.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use grid_platform_api::{NodeEvent, Platform, Result};
use tokio::sync::mpsc;

use crate::backoff::Backoff;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    longest: Duration::from_secs(10),
};

/// Sends the platform's events until nobody takes them. Every `resync` the watch begins anew, with a snapshot: what an
/// event that never came would have told is then seen, and in order with the others.
pub(super) async fn watch(
    platform: Arc<dyn Platform>,
    resync: Duration,
    events: mpsc::Sender<NodeEvent>,
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
    events: &mpsc::Sender<NodeEvent>,
) -> Result<()> {
    let mut stream = platform.watch_nodes().await?;
    let until = tokio::time::sleep(resync);
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => return Ok(()),
            () = events.closed() => return Ok(()),
            event = stream.next() => match event {
                Some(event) => {
                    if events.send(event?).await.is_err() {
                        return Ok(());
                    }
                }
                None => {
                    return Err(grid_platform_api::Error::new(
                        grid_platform_api::ErrorKind::Unavailable,
                        "the platform's events ended",
                    ));
                }
            },
        }
    }
}
