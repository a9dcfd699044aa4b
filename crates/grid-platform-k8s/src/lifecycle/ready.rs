//! Waiting until a start is what its caller calls ready.

use std::{sync::Arc, time::Duration};

use grid_platform_api::{
    Error, ErrorKind, Failure, FailureReason, Health, ReadyMode, Result, SpawnedNode, Timestamp,
};
use grid_platform_host::work::detached;
use tokio::time::{Instant, timeout_at};

use super::spawn;
use crate::{
    error::error,
    logs,
    platform::Inner,
    translate::{self, ContainerState, Ended, Goal, PodPhase, PodView, Record, why_pending},
    watch::TAIL,
};

/// How much later than an end the cluster tells of it, at most: a kubelet looks at its containers once a second (`plegRelistPeriod` in its
/// `pkg/kubelet/kubelet.go`), and tells the API server behind that.
const NOTICED: Duration = Duration::from_millis(1300);

/// What came of waiting.
enum Came {
    Ready,
    /// The program ended first.
    Ended(Ended),
    /// It cannot start, or was not started in time.
    Never(Failure),
    /// Its health check did not pass in time.
    Late(Duration),
    /// The pod is gone, or is being ended by somebody else.
    Gone,
}

/// Waits for the start that was just made; one that fails is ended, and stays failed.
pub(super) async fn wait(
    inner: &Arc<Inner>,
    record: &Record,
    pod: &PodView,
    mode: ReadyMode,
) -> Result<SpawnedNode> {
    let came = until(inner, record, pod, mode, Duration::ZERO).await;
    let failure = match came {
        Came::Ready => return shown(inner, record),
        other => failure(inner, record, pod, other).await,
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
/// `SpawnFailed` when it ended first; `Timeout` when it is not ready in time.
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
        Came::Late(limit) => Err(error(
            ErrorKind::Timeout,
            format!("the node `{id}` was started before and is not ready after {limit:?}"),
        )
        .with_hint("`grid logs ID` shows what the program says.")),
        other => {
            let failure = failure(inner, record, pod, other).await;
            Err(Error::spawn_failed(id, failure))
        }
    }
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
    let id = &record.config.node_id;
    let restarts = pod.container.restarts;
    let mut news = inner.registry.version();
    let give_up = Instant::now() + inner.config.start_timeout();
    let mut runs_since: Option<Instant> = None;
    loop {
        let entry = inner.registry.get(id);
        let Some(now) = entry.own_pod().filter(|it| it.uid == pod.uid) else {
            return Came::Gone;
        };
        // What the cluster did to it says more than how its program ended of that.
        let was_given_up = now.phase == PodPhase::Failed && now.reason.is_some();
        if let Some(ended) = ended(now, restarts).filter(|_| !was_given_up) {
            return Came::Ended(ended);
        }
        if now.is_terminating {
            return Came::Gone;
        }
        let wake = if matches!(now.container.state, ContainerState::Running { .. }) {
            let since = *runs_since.get_or_insert_with(Instant::now);
            match mode {
                ReadyMode::Started => return Came::Ready,
                ReadyMode::Healthy { .. } if now.is_ready => return Came::Ready,
                ReadyMode::Healthy { timeout } if since.elapsed() >= timeout => {
                    return Came::Late(timeout);
                }
                ReadyMode::Healthy { timeout } => since + timeout,
                ReadyMode::Alive { for_ } => {
                    let enough = since + for_.saturating_sub(ran) + NOTICED;
                    if Instant::now() >= enough {
                        return Came::Ready;
                    }
                    enough
                }
            }
        } else {
            let why = why_pending(record, entry.claim.as_deref(), now);
            match why {
                Some((failure, false)) => return Came::Never(failure),
                Some((failure, true)) if Instant::now() >= give_up => return Came::Never(failure),
                None if Instant::now() >= give_up => return Came::Never(not_in_time(inner)),
                _ => give_up,
            }
        };
        // What cannot be heard of now is when the server is back.
        if let Ok(Err(_)) = timeout_at(wake, news.changed()).await {
            return Came::Gone;
        }
    }
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

async fn failure(inner: &Arc<Inner>, record: &Record, pod: &PodView, came: Came) -> Failure {
    let id = &record.config.node_id;
    let lines = || logs::last_lines(inner.as_ref(), id, TAIL);
    match came {
        Came::Ended(ended) => {
            let tail = lines().await;
            translate::early_end(record, &ended, tail)
        }
        Came::Never(failure) => failure,
        Came::Late(limit) => {
            let health = inner.registry.shown(id).map(|it| it.health.clone());
            let why = match health {
                Some(Health::Unhealthy { message }) => format!(": {message}"),
                _ => String::new(),
            };
            let mut failure = Failure::new(
                FailureReason::NotHealthy,
                format!("its health check did not pass within {limit:?}{why}"),
            );
            failure.log_tail = lines().await;
            failure
        }
        Came::Gone | Came::Ready => {
            let last = inner.registry.get(id).last.filter(|it| it.uid == pod.uid);
            match last
                .as_deref()
                .and_then(|it| ended(it, pod.container.restarts))
            {
                Some(ended) => translate::early_end(record, &ended, Vec::new()),
                None => Failure::new(
                    FailureReason::Interrupted,
                    "somebody deleted its pod before it was ready",
                ),
            }
        }
    }
}
