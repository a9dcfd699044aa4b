//! Waiting until a start is what its caller calls ready.

use std::{path::Path, sync::Arc, time::Duration};

use grid_platform_api::{
    Error, ErrorKind, Failure, FailureReason, Health, ReadyMode, Result, SpawnedNode, Timestamp,
};
use grid_platform_host::work::detached;
use tokio::time::{Instant, sleep, timeout};

use super::{heal::heal_later, start, stop};
use crate::{
    error::error,
    nodes::{self, Node, Situation},
    platform::Inner,
    translate::{self, Goal, Phase, Policy},
};

/// How long the runtime may take from its answer to the execution of the program, and the engine to know of an end: a busy host
/// takes its time, and nothing else is waited for.
const EXEC_LIMIT: Duration = Duration::from_secs(10);

/// How much later than of an end the engine may hear that it was of the memory limit.
const NEWS_OF_MEMORY: Duration = Duration::from_secs(2);

/// How long after a wait that broke, or that came too early, the next one is begun.
const WAIT_PAUSE: Duration = Duration::from_millis(50);

/// What came of waiting.
enum Came {
    Ready,
    /// The program ended first.
    Ended,
    /// Its health check did not pass in time.
    Late(Duration),
}

/// Waits for the start that was just made; one that fails is ended, and stays failed.
pub(crate) async fn wait(mut started: Started, mode: ReadyMode) -> Result<SpawnedNode> {
    let waited = wait_out(&started.inner, &started.node, mode).await;
    // A start that is given up is settled; one that the engine could not be asked about is not.
    let settled = |e: &Error| e.kind() == ErrorKind::SpawnFailed;
    started.is_settled = waited.as_ref().err().is_none_or(settled);
    waited
}

/// A node that was started, and has yet to be waited for. Where that is dropped, or fails, what comes behind the wait is done
/// without it.
pub(crate) struct Started {
    inner: Arc<Inner>,
    node: Arc<Node>,
    is_settled: bool,
}

impl Started {
    pub(crate) fn new(inner: &Arc<Inner>, node: Arc<Node>) -> Self {
        Self {
            inner: Arc::clone(inner),
            node,
            is_settled: false,
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.is_settled {
            heal_later(&self.inner, &self.node);
        }
    }
}

async fn wait_out(inner: &Arc<Inner>, node: &Arc<Node>, mode: ReadyMode) -> Result<SpawnedNode> {
    let run = node.now().observed.started_at;
    let failure = match until(inner, node, mode, Instant::now(), run).await? {
        Came::Ready if mode == ReadyMode::Started => match not_executed(inner, node).await? {
            None => return Ok(SpawnedNode::clone(&node.shown())),
            Some(failure) => failure,
        },
        Came::Ready => match settle(inner, node, run).await? {
            None => return Ok(SpawnedNode::clone(&node.shown())),
            Some(ended) => early_end(inner, node, &ended).await,
        },
        Came::Ended => early_end(inner, node, &node.now()).await,
        Came::Late(limit) => unhealthy(inner, node, limit).await,
    };
    give_up(inner, node, run, failure).await
}

/// Waits for a start that was made before, and changes nothing: neither when it is not ready in time nor when it fails.
///
/// # Errors
/// `SpawnFailed` when it ended first; `Timeout` when it is not ready in time.
pub(crate) async fn join(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    mode: ReadyMode,
) -> Result<SpawnedNode> {
    let run = node.now().observed.started_at;
    // By the engine's clock, which may not be this host's: never longer than a start of its own would take.
    let ran = run.map(|it| Timestamp::now().duration_since(it));
    let ran = ran
        .and_then(|it| Duration::try_from(it).ok())
        .unwrap_or_default();
    let begin = Instant::now();
    let begin = match mode {
        ReadyMode::Alive { for_ } => begin.checked_sub(ran.min(for_)).unwrap_or(begin),
        _ => begin,
    };
    let failure = match until(inner, node, mode, begin, run).await? {
        Came::Ready => match settle(inner, node, run).await? {
            None => return Ok(SpawnedNode::clone(&node.shown())),
            Some(ended) => early_end(inner, node, &ended).await,
        },
        Came::Ended => {
            let shown = node.shown().state.failure().cloned();
            match shown {
                Some(failure) => failure,
                None => early_end(inner, node, &node.now()).await,
            }
        }
        Came::Late(limit) => {
            return Err(error(
                ErrorKind::Timeout,
                format!(
                    "the node `{}` was started before and is not ready after {limit:?}",
                    node.id
                ),
            )
            .with_hint("`grid logs ID` shows what the program says."));
        }
    };
    Err(Error::spawn_failed(&node.id, failure))
}

/// Waits until the mode is met, counted from `begin`, by the run that began at `run`.
///
/// # Errors
/// When the engine cannot be asked how the run is.
async fn until(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    mode: ReadyMode,
    begin: Instant,
    run: Option<Timestamp>,
) -> Result<Came> {
    match mode {
        ReadyMode::Started => Ok(Came::Ready),
        ReadyMode::Alive { for_ } => match is_over_by(inner, node, run, begin + for_).await? {
            true => Ok(Came::Ended),
            false => Ok(Came::Ready),
        },
        ReadyMode::Healthy { timeout } => {
            let mut news = node.subscribe();
            tokio::select! {
                biased;
                // The node as it is shown, with the image's own check where the request has none.
                _ = news.wait_for(|_| node.shown().health == Health::Healthy) => Ok(Came::Ready),
                over = is_over_by(inner, node, run, begin + timeout) => match over? {
                    true => Ok(Came::Ended),
                    false => Ok(Came::Late(timeout)),
                },
            }
        }
    }
}

/// Waits until a run is over, or for so long. That the call which waits comes back says nothing yet: the engine may have been
/// ended under it, and the program lives on.
async fn is_over_by(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    run: Option<Timestamp>,
    deadline: Instant,
) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !start::ends_within(inner, node, left).await {
            return Ok(false);
        }
        nodes::refresh(inner, &node.container).await?;
        let now = node.now();
        let runs = matches!(now.observed.phase, Phase::Running | Phase::Paused);
        if now.removed || !runs || now.observed.started_at != run {
            return Ok(true);
        }
        sleep(WAIT_PAUSE).await;
    }
}

/// Gives a node that is ready the policy of its request; what it was when it ended before that.
async fn settle(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    run: Option<Timestamp>,
) -> Result<Option<Situation>> {
    let now = node.now();
    if now.observed.policy == Policy::of(&now.record.config) {
        return Ok(None);
    }
    let (settling, settled) = (Arc::clone(inner), Arc::clone(node));
    let work = async move {
        // A stop waits for this turn, and takes the policy away again.
        let _turn = settling.turns.take(&settled.id).await;
        let now = settled.now();
        if now.removed || now.goal != Goal::Running || now.observed.started_at != run {
            return Ok(None);
        }
        start::set_policy(&settling, &settled, &Policy::of(&now.record.config)).await?;
        nodes::refresh(&settling, &settled.container).await?;
        let now = settled.now();
        // Nobody starts it again that ended before it had its policy.
        let ended = now.observed.started_at == run && now.observed.phase == Phase::Exited;
        Ok(ended.then_some(now))
    };
    detached(&inner.closing, work).await
}

/// Why a program was not executed whose container was started. The engine's runtime has answered by then, and finds out behind
/// that answer whether the kernel takes the program for one; where its processes are this host's, that is waited for.
async fn not_executed(inner: &Arc<Inner>, node: &Arc<Node>) -> Result<Option<Failure>> {
    let pid = node.now().observed.pid.filter(|_| inner.facts.same_host);
    if let Some(pid) = pid {
        let deadline = Instant::now() + EXEC_LIMIT;
        while is_before_exec(pid) && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
        // The engine is told of an end behind it.
        while !Path::new(&format!("/proc/{pid}")).exists() && is_by(node, pid) {
            nodes::refresh(inner, &node.container).await?;
            if !is_by(node, pid) || Instant::now() >= deadline {
                break;
            }
            sleep(WAIT_PAUSE).await;
        }
    }
    let now = node.now();
    if !matches!(now.observed.phase, Phase::Exited | Phase::Restarting) {
        return Ok(None);
    }
    let failure = early_end(inner, node, &now).await;
    let executed = !matches!(
        failure.reason,
        FailureReason::BadProgramFormat | FailureReason::NotExecutable
    );
    Ok((!executed).then_some(failure))
}

/// Whether the engine takes the node for running, by this process.
fn is_by(node: &Node, pid: u32) -> bool {
    let now = node.now();
    !now.removed && now.observed.pid == Some(pid)
}

/// Whether a container's first process is still the runtime's own, which executes the program last of all.
pub(crate) fn is_before_exec(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .is_ok_and(|it| it.starts_with("runc:[") || it.starts_with("crun"))
}

/// The failure of a program that ended before it was ready, with its last lines.
async fn early_end(inner: &Arc<Inner>, node: &Node, ended: &Situation) -> Failure {
    let ended = &with_news_of_memory(inner, node, ended).await;
    let tail = nodes::last_lines(inner, &node.container, ended.log_from).await;
    translate::early_end(&ended.record, &ended.observed, tail)
}

/// An end with what the engine may tell of its memory limit behind it.
async fn with_news_of_memory(inner: &Arc<Inner>, node: &Node, ended: &Situation) -> Situation {
    let seen = &ended.observed;
    let may_be = ended.record.config.memory_limit_mb.is_some() && inner.facts.memory_limit;
    if !may_be || seen.out_of_memory || !translate::is_killed(seen) {
        return ended.clone();
    }
    let run = seen.started_at;
    let mut news = node.subscribe();
    let told = news
        .wait_for(|it| it.removed || it.observed.out_of_memory || it.observed.started_at != run);
    match timeout(NEWS_OF_MEMORY, told).await {
        Ok(Ok(now)) if now.observed.started_at == run => now.clone(),
        _ => ended.clone(),
    }
}

async fn unhealthy(inner: &Arc<Inner>, node: &Node, limit: Duration) -> Failure {
    let why = match &node.shown().health {
        Health::Unhealthy { message } => format!(": {message}"),
        _ => String::new(),
    };
    let mut failure = Failure::new(
        FailureReason::NotHealthy,
        format!("its health check did not pass within {limit:?}{why}"),
    );
    failure.log_tail = nodes::last_lines(inner, &node.container, node.now().log_from).await;
    failure
}

/// Ends a start that did not become ready, and gives its error.
async fn give_up(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    run: Option<Timestamp>,
    failure: Failure,
) -> Result<SpawnedNode> {
    let (ending, ended, why) = (Arc::clone(inner), Arc::clone(node), failure.clone());
    let work = async move {
        let _turn = ending.turns.take(&ended.id).await;
        let now = ended.now();
        if now.removed || now.goal != Goal::Running || now.observed.started_at != run {
            // Somebody else acts on it now.
            return Ok(Error::spawn_failed(&ended.id, why));
        }
        let error = start::failed(&ending, &ended, why).await;
        stop::finish(&ending, &ended).await?;
        Ok(error)
    };
    Err(detached(&inner.closing, work).await?)
}
