//! The link to the master: one session at a time, dialled again for as long as the agent lives.

mod logs;
mod questions;
mod session;

use std::{path::PathBuf, sync::Arc, time::Duration};

use grid_platform_api::{Error, Platform};
use grid_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, master::MasterAddress, reconcile::Reconciler};

/// Between two dials of the master.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    longest: Duration::from_secs(5),
};

/// What the link needs to know and to use.
pub(crate) struct Link {
    pub(crate) master: MasterAddress,
    pub(crate) token_file: Option<PathBuf>,
    /// All but the place in the grid's history, which is read anew for each session.
    pub(crate) hello: v1::Hello,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) reconciler: Reconciler,
}

impl Link {
    /// Keeps a session with the master until `shutdown`. What goes wrong is told once and tried again.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut failures = 0;
        let mut last = String::new();
        while !shutdown.is_cancelled() {
            let mut met = false;
            let ended = tokio::select! {
                () = shutdown.cancelled() => break,
                ended = session::session(&self, &mut met) => ended,
            };
            self.reconciler.outbox.clear();
            // A master that this agent refuses is not dialled any faster for having welcomed it.
            if met && ended.as_ref().map_or_else(Error::is_retryable, |()| true) {
                failures = 0;
                last.clear();
            }
            failures += 1;
            let wait = BACKOFF.wait(failures);
            if let Err(error) = ended {
                last = self.complain(&error, last, wait);
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Logs an error that was not the last one; gives its words.
    fn complain(&self, error: &Error, last: String, wait: Duration) -> String {
        let words = error.to_report().to_string();
        let (master, kind, hint) = (&self.master, error.kind(), error.hint());
        let causes = error.to_report().causes.join(": ");
        if words == last {
            tracing::debug!(%master, %kind, %error, ?wait, "no session");
        } else if error.is_retryable() {
            tracing::warn!(%master, %kind, %error, causes, hint, "no session with the master, dialling again; nodes go on");
        } else {
            tracing::error!(%master, %kind, %error, causes, hint, "no session with the master, dialling again; nodes go on");
        }
        words
    }
}
