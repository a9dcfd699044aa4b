//! That one agent acts: a Lease of the cluster, held by one adapter at a time.
//!
//! Whoever holds it renews it every 5 s, and writes only within 10 s of its last renewal by its own clock. Another one takes
//! it when its holder is known to be dead, or when it has seen it unchanged for 15 s by *its* own clock: the clocks of
//! two hosts are never compared. A write that was sent in time and is carried out late can still meet the next holder's:
//! what keeps the two apart then are the uids and versions that every write is conditional on.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use grid_platform_api::{Error, ErrorKind, Result};
use rustix::time::{ClockId, clock_gettime};
use tokio::{sync::watch, time::Instant};

use crate::{
    access::Access,
    config::KubernetesConfig,
    error::{PLATFORM, error},
    holder::Alive,
    keeper::{AGAIN, Attempt, DURATION, Keeper, SOON},
};

/// How long after the last renewal was sent the holder still writes: well before another one can take the lease.
const WRITE: Duration = Duration::from_secs(10);
/// How much sooner a write is over than another one can take the lease.
const MARGIN: Duration = Duration::from_secs(1);
/// How long an opener waits for a lease that somebody else holds.
const PATIENCE: Duration = Duration::from_secs(20);

/// How it stands with the lease, and so with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// It was renewed just now.
    Held,
    /// The server did not answer the last renewal: what is known of the cluster may be old.
    Silent,
    /// The server refuses to have it renewed.
    Refused,
    /// Somebody else has it, or may have.
    Lost,
}

/// The lease, held.
#[derive(Debug)]
pub(crate) struct Lease {
    shared: Arc<Shared>,
    /// Dropped with the lease, which ends the renewing and gives the lease back.
    _stop: watch::Sender<()>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    name: String,
    state: Mutex<State>,
    beat: watch::Sender<Beat>,
}

#[derive(Debug)]
struct State {
    /// When the last renewal that succeeded was sent; `None` while it is lost.
    renewed: Option<Moment>,
    /// Who has it, where it is somebody else.
    by: Option<String>,
    /// Why the server does not have it renewed, where it says so.
    why: Option<Error>,
    /// Gone once this holder must be taken for dead.
    alive: Option<Alive>,
}

impl Lease {
    /// Takes the lease, and renews it until this is dropped or `closing` ends; then it is given back, as long as the
    /// runtime is there.
    ///
    /// # Errors
    /// `StateLocked` while another one that lives holds it, after 20 s at the most; `OwnedByOther` for a Lease of that name
    /// that is not a grid's; the cluster's refusals.
    pub(crate) async fn take(
        access: &Access,
        config: &KubernetesConfig,
        closing: watch::Receiver<()>,
    ) -> Result<Arc<Self>> {
        let mut keeper = Keeper::new(access, config)?;
        let alive = keeper.me.live();
        let begin = Instant::now();
        let (sent, object) = loop {
            match keeper.attempt().await? {
                Attempt::Taken(sent, object) => break (sent, object),
                Attempt::Again(_) if begin.elapsed() < PATIENCE => tokio::time::sleep(SOON).await,
                Attempt::Again(fault) => return Err(fault.into_error()),
                Attempt::Busy(_) if begin.elapsed() < PATIENCE => tokio::time::sleep(AGAIN).await,
                Attempt::Busy(holder) => return Err(locked(access, &keeper.name, &holder)),
            }
        };
        let shared = Arc::new(Shared {
            name: keeper.name.clone(),
            state: Mutex::new(State {
                renewed: Some(sent),
                by: None,
                why: None,
                alive: Some(alive),
            }),
            beat: watch::Sender::new(Beat::Held),
        });
        let (stop, stopped) = watch::channel(());
        keeper.object = Some(object);
        tokio::spawn(keeper.keep(Arc::clone(&shared), closing, stopped));
        Ok(Arc::new(Self {
            shared,
            _stop: stop,
        }))
    }

    /// Whether this one may write now, and how long a write that begins now may take: it is over before another one can take the lease.
    ///
    /// # Errors
    /// One that a retry can help, while the lease is somebody else's or could not be renewed in time: `Unavailable`, or why the
    /// server refuses to have it renewed.
    pub(crate) fn check(&self) -> Result<Duration> {
        let state = self.shared.state();
        let name = &self.shared.name;
        let since = state.renewed.map(|it| it.elapsed());
        if let Some(since) = since.filter(|it| *it < WRITE) {
            return Ok((DURATION - MARGIN).saturating_sub(since));
        }
        if let Some(why) = &state.why {
            return Err(why.copied().with_platform(PLATFORM).with_retryable(true));
        }
        match (&state.renewed, &state.by) {
            (Some(_), _) => Err(error(
                ErrorKind::Unavailable,
                format!("the lease `{name}` could not be renewed in time"),
            )
            .with_hint(
                "Nothing is changed until the API server answers again: `kubectl get --raw /readyz` says how it is.",
            )),
            (None, by) => Err(error(
                ErrorKind::Unavailable,
                match by {
                    Some(by) => format!("the lease `{name}` is held by {by}"),
                    None => format!("the lease `{name}` was lost"),
                },
            )
            .with_hint(
                "One agent acts in an installation: stop the other one, or give this one another `kubernetes.install`.",
            )),
        }
    }

    /// How it stands, and every change of it.
    pub(crate) fn heartbeat(&self) -> watch::Receiver<Beat> {
        self.shared.beat.subscribe()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The next one in this process need not wait until it was given back.
        self.shared.give_up();
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is whole at every point where a panic could happen.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn renewed(&self, sent: Moment) {
        let mut state = self.state();
        state.renewed = Some(sent);
        state.by = None;
        state.why = None;
        drop(state);
        if self.say(Beat::Held) {
            tracing::info!(lease = self.name, "the lease is held again");
        }
    }

    pub(crate) fn lost(&self, by: String) {
        let mut state = self.state();
        state.renewed = None;
        state.by = Some(by.clone());
        state.why = None;
        drop(state);
        if self.say(Beat::Lost) {
            tracing::error!(lease = self.name, by, "the lease was lost");
        }
    }

    /// It could not be renewed. A lease that is lost stays lost.
    pub(crate) fn failed(&self, why: Error) {
        let beat = match why.kind() {
            // Not so for one that says more than that, such as that the namespace is being deleted.
            ErrorKind::Unavailable | ErrorKind::Timeout if why.is_retryable() => Beat::Silent,
            _ => Beat::Refused,
        };
        if self.say(beat) {
            tracing::warn!(lease = self.name, "{why}");
        }
        self.state().why = (beat == Beat::Refused).then_some(why);
    }

    /// This holder writes no more, and need not be waited for.
    pub(crate) fn give_up(&self) {
        let mut state = self.state();
        state.renewed = None;
        state.alive = None;
    }

    /// Whether it is news.
    fn say(&self, beat: Beat) -> bool {
        self.beat
            .send_if_modified(|it| std::mem::replace(it, beat) != beat)
    }
}

/// A moment by this host's clocks, which goes on while the host sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    awake: Instant,
    with_sleep: Duration,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            awake: Instant::now(),
            with_sleep: since_boot(),
        }
    }

    fn elapsed(&self) -> Duration {
        let slept_too = since_boot().saturating_sub(self.with_sleep);
        self.awake.elapsed().max(slept_too)
    }
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

fn locked(access: &Access, name: &str, holder: &str) -> Error {
    error(
        ErrorKind::StateLocked,
        format!(
            "the installation `{name}` in the namespace `{}` is in use by {holder}",
            access.namespace
        ),
    )
    .with_hint(
        "Stop that agent, or give this one another `kubernetes.install` or another namespace.",
    )
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
