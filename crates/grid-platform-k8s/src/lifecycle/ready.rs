//! Waiting until a start is what its caller calls ready.

use std::{sync::Arc, time::Duration};

use grid_platform_api::{
    Error, ErrorKind, Failure, FailureReason, Health, NodeState, ReadyMode, Result, SpawnedNode,
    Timestamp,
};
use grid_platform_host::work::detached;
use tokio::time::{Instant, timeout_at};

use super::spawn;
use crate::{
    error::error,
    logs,
    platform::Inner,
    pods,
    registry::Entry,
    translate::{self, ContainerState, Ended, Goal, PodView, Record, why_pending},
    watched::TAIL,
};

/// How much later than an end the cluster tells of it, at most: a kubelet looks at its containers once a second (`plegRelistPeriod` in its
/// `pkg/kubelet/kubelet.go`), and tells the API server behind that.
const NOTICED: Duration = Duration::from_millis(1300);
/// How long the cluster may take to tell of an end that the log tells of: much longer than that.
const TOLD: Duration = Duration::from_secs(10);

/// What came of waiting.
enum Came {
    Ready,
    /// The program ended first.
    Ended(Ended),
    /// It cannot start, or was not started in time.
    Never(Failure),
    /// Its health check did not pass in time.
    Late(Duration),
    /// The pod is gone, is being ended by somebody else, or lost its place: why. Its program did not end of itself.
    Lost(Failure),
    /// It cannot be told: the cluster does not answer.
    Unsure(Error),
}

/// Waits for the start that was just made; one that fails is ended, and stays failed. One whose pod was taken away did not fail, and can be
/// made again.
pub(super) async fn wait(
    inner: &Arc<Inner>,
    record: &Record,
    pod: &PodView,
    mode: ReadyMode,
) -> Result<SpawnedNode> {
    let came = until(inner, record, pod, mode, Duration::ZERO).await;
    let failure = match came {
        Came::Ready => return shown(inner, record),
        Came::Lost(failure) => return Err(lost(record, failure)),
        Came::Unsure(why) => return Err(why),
        Came::Ended(ended) => early_end(inner, record, &ended).await,
        Came::Never(failure) => failure,
        Came::Late(limit) => unhealthy(inner, record, limit).await,
    };
    let (ending, its, pod_uid) = (Arc::clone(inner), record.clone(), pod.uid.clone());
    let work = async move {
        let id = &its.config.node_id;
        let _turn = ending.turns.take(id).await;
        let entry = ending.registry.get(id);
        let is_ours = entry.record().is_some_and(|it| it.uid == its.uid)
            && entry.claim.is_some_and(|it| it.notes.goal == Goal::Running)
            && entry.pod.is_none_or(|it| it.uid == pod_uid);
        Ok(match is_ours {
            true => spawn::fail(&ending, &its, failure).await,
            // Somebody else acts on it now.
            false => Error::spawn_failed(id, failure),
        })
    };
    Err(detached(&inner.closing, work).await?)
}

/// Waits for a start that was made before, and changes nothing: neither when it is not ready in time nor when it fails.
///
/// # Errors
/// `SpawnFailed` when it ended first; `Timeout` when it is not ready in time; `Stale` while the cluster does not answer.
pub(super) async fn join(
    inner: &Arc<Inner>,
    record: &Record,
    pod: &PodView,
    mode: ReadyMode,
) -> Result<SpawnedNode> {
    // By the clock of the pod's host, which may not be this one's: never longer than a start of its own would take.
    let ran = match &pod.container.state {
        ContainerState::Running {
            started_at: Some(at),
        } => Duration::try_from(Timestamp::now().duration_since(*at)).unwrap_or_default(),
        _ => Duration::ZERO,
    };
    let id = &record.config.node_id;
    match until(inner, record, pod, mode, ran).await {
        Came::Ready => shown(inner, record),
        Came::Lost(failure) => Err(lost(record, failure)),
        Came::Unsure(why) => Err(why),
        Came::Ended(ended) => Err(Error::spawn_failed(
            id,
            early_end(inner, record, &ended).await,
        )),
        Came::Never(failure) => Err(Error::spawn_failed(id, failure)),
        Came::Late(limit) => Err(error(
            ErrorKind::Timeout,
            format!("the node `{id}` was started before and is not ready after {limit:?}"),
        )
        .with_hint("`grid logs ID` shows what the program says.")),
    }
}

/// The error of a start that was undone by somebody else: the next one can be another.
fn lost(record: &Record, failure: Failure) -> Error {
    Error::spawn_failed(&record.config.node_id, failure).with_retryable(true)
}

fn shown(inner: &Arc<Inner>, record: &Record) -> Result<SpawnedNode> {
    let id = &record.config.node_id;
    match inner.registry.shown(id) {
        Some(node) => Ok(SpawnedNode::clone(&node)),
        None => Err(Error::not_found(id)),
    }
}

/// Waits until the mode is met by this pod, whose program has run for so long.
async fn until(
    inner: &Arc<Inner>,
    record: &Record,
    pod: &PodView,
    mode: ReadyMode,
    ran: Duration,
) -> Came {
    let mut wait = Wait {
        restarts: pod.container.restarts,
        give_up: Instant::now() + inner.config.start_timeout(),
        runs_since: None,
        failed_exec: (ran >= TOLD).then_some(false),
        mode,
        ran,
    };
    let id = &record.config.node_id;
    let mut news = inner.registry.version();
    // What is known may be of before an outage: nothing is given up by that.
    let mut is_fresh = false;
    loop {
        let entry = inner.registry.get(id);
        let wake = match wait.look(inner, record, pod, &entry) {
            Look::Log => {
                wait.failed_exec = Some(logs::tells_of_failed_exec(inner.as_ref(), id).await);
                continue;
            }
            Look::Over(came @ (Came::Ready | Came::Ended(_))) => return came,
            Look::Over(came) if is_fresh => return came,
            Look::Over(_) => {
                let looked = async {
                    inner.synced().await?;
                    pods::look(inner, id).await
                };
                if let Err(why) = looked.await {
                    return Came::Unsure(why);
                }
                is_fresh = true;
                continue;
            }
            Look::Wait(wake) => wake,
        };
        is_fresh = false;
        // It ends with the platform.
        if let Ok(Err(_)) = timeout_at(wake, news.changed()).await {
            return Came::Lost(gone());
        }
    }
}

/// What one look at the node says.
enum Look {
    Over(Came),
    /// What the log says has to be known first.
    Log,
    /// Nothing yet: until something happens, or then.
    Wait(Instant),
}

/// What is waited for.
struct Wait {
    mode: ReadyMode,
    /// How long the program had run when the wait began.
    ran: Duration,
    /// How often it had been started again by then.
    restarts: u32,
    give_up: Instant,
    runs_since: Option<Instant>,
    /// Whether the log says that the program could not be executed, once it was looked at. A runtime tells of a container's start before
    /// it executes the program: that this failed is in the log at once, and the cluster tells of the end only later.
    failed_exec: Option<bool>,
}

impl Wait {
    fn look(&mut self, inner: &Inner, record: &Record, pod: &PodView, entry: &Entry) -> Look {
        let Some(now) = entry.own_pod().filter(|it| it.uid == pod.uid) else {
            // It may have ended of itself before that.
            let last = entry.last.as_ref();
            let last = last.filter(|it| it.uid == pod.uid && !it.is_terminating);
            return Look::Over(match last.and_then(|it| ended(it, self.restarts)) {
                Some(ended) => Came::Ended(ended),
                None => Came::Lost(gone()),
            });
        };
        // What the cluster did to it says more than how its program ended of that.
        if translate::was_taken(now) {
            let why = why_pending(record, entry.claim.as_deref(), now);
            return Look::Over(Came::Lost(why.map_or_else(gone, |it| it.0)));
        }
        // Who deletes it ends its program.
        if now.is_terminating {
            return Look::Over(Came::Lost(gone()));
        }
        if let Some(ended) = ended(now, self.restarts) {
            return Look::Over(Came::Ended(ended));
        }
        if matches!(now.container.state, ContainerState::Running { .. }) {
            return self.running(now);
        }
        let is_late = Instant::now() >= self.give_up;
        match why_pending(record, entry.claim.as_deref(), now) {
            Some((failure, false)) => Look::Over(Came::Never(failure)),
            Some((failure, true)) if is_late => {
                let failure = as_shown(entry).unwrap_or(failure);
                Look::Over(Came::Never(failure))
            }
            None if is_late => Look::Over(Came::Never(not_in_time(inner))),
            _ => Look::Wait(self.give_up),
        }
    }

    fn running(&mut self, now: &PodView) -> Look {
        let since = *self.runs_since.get_or_insert_with(Instant::now);
        match self.mode {
            ReadyMode::Started => match self.failed_exec {
                None => Look::Log,
                // A program may write such words itself, and runs on.
                Some(true) if since.elapsed() < TOLD => Look::Wait(since + TOLD),
                Some(_) => Look::Over(Came::Ready),
            },
            ReadyMode::Healthy { .. } if now.is_ready => Look::Over(Came::Ready),
            ReadyMode::Healthy { timeout } if since.elapsed() >= timeout => {
                Look::Over(Came::Late(timeout))
            }
            ReadyMode::Healthy { timeout } => Look::Wait(since + timeout),
            ReadyMode::Alive { for_ } => {
                let enough = since + for_.saturating_sub(self.ran) + NOTICED;
                match Instant::now() >= enough {
                    true => Look::Over(Came::Ready),
                    false => Look::Wait(enough),
                }
            }
        }
    }
}

fn gone() -> Failure {
    Failure::new(
        FailureReason::Interrupted,
        "somebody deleted its pod before it was ready",
    )
}

/// Why a node does not run yet as it is shown, which the cluster's events have their part in.
fn as_shown(entry: &Entry) -> Option<Failure> {
    let shown = entry.shown()?;
    let is_pending = shown.state == NodeState::Pending;
    shown.last_failure.clone().filter(|_| is_pending)
}

/// How the run that is waited for ended, if it did.
fn ended(pod: &PodView, restarts: u32) -> Option<Ended> {
    match &pod.container.state {
        ContainerState::Ended(ended) => Some(ended.clone()),
        // Its policy has started it again by now, or waits to.
        _ if pod.container.restarts > restarts => {
            Some(pod.container.last.clone().unwrap_or_default())
        }
        ContainerState::Waiting { .. } => pod.container.last.clone(),
        _ => None,
    }
}

fn not_in_time(inner: &Inner) -> Failure {
    Failure::new(
        FailureReason::PlatformRefused,
        format!(
            "its pod was not started within {:?}",
            inner.config.start_timeout()
        ),
    )
}

/// The failure of a program that ended before it was ready, with its last lines.
async fn early_end(inner: &Arc<Inner>, record: &Record, ended: &Ended) -> Failure {
    let tail = logs::last_lines(inner.as_ref(), &record.config.node_id, TAIL).await;
    translate::early_end(record, ended, tail)
}

async fn unhealthy(inner: &Arc<Inner>, record: &Record, limit: Duration) -> Failure {
    let id = &record.config.node_id;
    let health = inner.registry.shown(id).map(|it| it.health.clone());
    let why = match health {
        Some(Health::Unhealthy { message }) => format!(": {message}"),
        _ => String::new(),
    };
    let mut failure = Failure::new(
        FailureReason::NotHealthy,
        format!("its health check did not pass within {limit:?}{why}"),
    );
    failure.log_tail = logs::last_lines(inner.as_ref(), id, TAIL).await;
    failure
}
