//! The thread that brings the journal's full file into the index.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Error;
use crate::index::{Index, Totals};
use crate::journal::Changes;
use crate::overlay::Overlay;

/// How long to wait before a transaction that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Changes for the index, and the totals to store with them.
#[derive(Debug)]
struct Work {
    changes: Arc<Changes>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct State {
    work: Option<Work>,
    /// Why the last try failed, until one succeeds.
    failure: Option<Error>,
    closing: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    index: Arc<Index>,
    overlay: Arc<Overlay>,
}

/// The thread, as the committing thread sees it.
#[derive(Debug)]
pub(crate) struct Applier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Applier {
    pub(crate) fn start(index: Arc<Index>, overlay: Arc<Overlay>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            index,
            overlay,
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("storage-applier".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits until the index has taken in all it was given. Returns the failure instead, if it
    /// cannot: then it keeps trying, and so may the caller.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        let mut state = self.shared.lock();
        loop {
            if state.work.is_none() {
                return Ok(());
            }
            if let Some(failure) = &state.failure {
                return Err(failure.share());
            }
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives it the changes that were set aside. Only after [`Applier::wait`].
    pub(crate) fn begin(&self, changes: Arc<Changes>, totals: Totals) {
        self.shared.lock().work = Some(Work { changes, totals });
        self.shared.changed.notify_all();
    }
}

impl Drop for Applier {
    /// Lets the work at hand end; what cannot be applied is in the journal for the next open.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the applying thread panicked; the next start replays the journal");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let Some(work) = &state.work else {
                if state.closing {
                    return;
                }
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (changes, totals) = (Arc::clone(&work.changes), work.totals);
            drop(state);
            let applied = self.index.apply(&changes, totals);
            if applied.is_ok() {
                self.overlay.thaw();
            } else if let Err(error) = self.index.reopen() {
                // redb does nothing more after a failed write until it is opened again.
                tracing::error!(%error, "the index cannot be reopened");
            }
            state = self.lock();
            match applied {
                Ok(_) => {
                    state.work = None;
                    state.failure = None;
                    self.changed.notify_all();
                }
                Err(error) => {
                    if state.failure.is_none() {
                        tracing::error!(%error, "the index cannot take in the journal; it is tried again");
                    }
                    state.failure = Some(error);
                    self.changed.notify_all();
                    if state.closing {
                        return;
                    }
                    let waited = self
                        .changed
                        .wait_timeout_while(state, RETRY, |state| !state.closing);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}
