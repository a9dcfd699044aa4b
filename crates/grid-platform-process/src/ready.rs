//! Waiting until a start is what its caller calls ready.

use std::{sync::Arc, time::Duration};

use grid_platform_api::{
    Error, ErrorKind, Exit, Failure, FailureReason, Health, Program, ReadyMode, Result,
    SpawnedNode, Timestamp,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    error::error,
    lifecycle, logs,
    node::{Node, Situation, Started},
    platform::Inner,
    shared::{record::State, words::Report},
    supervise::TAIL,
    translate::{self, Shim},
};

/// How long a shim that failed may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

type News = watch::Receiver<Situation>;

/// Waits for the start that was just made; one that fails is ended, and stays failed.
/// `log_from` is where the log ended before it.
pub(crate) async fn wait(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    mode: ReadyMode,
    log_from: u64,
) -> Result<SpawnedNode> {
    let mut news = node.subscribe();
    let generation = news.borrow().intent.generation;
    let outcome = match executed(&mut news, generation).await {
        Ok(pid) => met(&mut news, generation, pid, mode).await,
        Err(unready) => Err(unready),
    };
    let Err(Unready {
        mut failure,
        patient,
    }) = outcome
    else {
        return Ok(SpawnedNode::clone(&node.shown()));
    };
    failure.log_tail = logs::tail_from(inner, node, log_from, TAIL);
    // A program that has not ended by itself may be in the middle of something: it gets its grace.
    let grace = if patient { None } else { Some(0) };
    lifecycle::give_up(inner, node, generation, failure.clone(), grace).await?;
    Err(Error::spawn_failed(&node.id, failure))
}

/// Waits for a start that was made before, and changes nothing.
///
/// # Errors
/// `Timeout` when it is not ready in time; it runs on.
pub(crate) async fn join(node: &Arc<Node>, mode: ReadyMode) -> Result<SpawnedNode> {
    let mut news = node.subscribe();
    let (limit, wants): (Duration, &(dyn Fn(&Situation) -> bool + Sync)) = match mode {
        ReadyMode::Started => (Duration::ZERO, &|_| true),
        ReadyMode::Alive { for_ } => (for_ + END_LIMIT, &move |it| {
            it.shim == Shim::Gone || is_waiting(it) || ran_for(it).is_some_and(|ran| ran >= for_)
        }),
        ReadyMode::Healthy { timeout } => (timeout, &|it| {
            it.shim == Shim::Gone || it.health == Health::Healthy
        }),
    };
    let deadline = Instant::now() + limit;
    while !wants(&news.borrow_and_update()) {
        // An age is no news: it is looked at from time to time too.
        let look = Instant::now() + Duration::from_millis(20);
        let _ = timeout_at(look.min(deadline), news.changed()).await;
        if Instant::now() >= deadline {
            return Err(error(
                ErrorKind::Timeout,
                format!(
                    "the node `{}` runs and is not ready after {limit:?}",
                    node.id
                ),
            )
            .with_hint("`grid logs ID` shows what the program says."));
        }
    }
    Ok(SpawnedNode::clone(&node.shown()))
}

/// It waits out a back-off: that is up to its policy now.
fn is_waiting(situation: &Situation) -> bool {
    situation
        .record()
        .is_some_and(|it| it.state == State::Backoff)
}

fn ran_for(situation: &Situation) -> Option<Duration> {
    let record = situation.record().filter(|it| it.state == State::Running)?;
    let now = u64::try_from(Timestamp::now().as_millisecond()).ok()?;
    Some(Duration::from_millis(now.saturating_sub(record.started_ms)))
}

/// Why a start is not ready.
struct Unready {
    failure: Failure,
    /// Its program runs.
    patient: bool,
}

impl From<Failure> for Unready {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            patient: false,
        }
    }
}

/// Waits until the program was executed.
async fn executed(news: &mut News, generation: u64) -> Result<u32, Unready> {
    let known =
        |it: &Situation| it.intent.generation != generation || it.started != Started::Waiting;
    let Ok(situation) = news.wait_for(known).await.map(|it| it.clone()) else {
        return Err(superseded().into());
    };
    match situation.started {
        _ if situation.intent.generation != generation => Err(superseded().into()),
        Started::Reported(Report::Executed { pid, .. }) => Ok(pid),
        Started::Reported(Report::Failed { stage, errno }) => {
            // It is about to end; nothing of it runs any more.
            let gone = news.wait_for(|it| it.shim == Shim::Gone);
            let _ = timeout(END_LIMIT, gone).await;
            Err(start_failure(&situation, stage, errno).into())
        }
        Started::Waiting | Started::Died => Err(Failure::new(
            FailureReason::PlatformRefused,
            "its supervisor ended before the program was started",
        )
        .into()),
    }
}

fn start_failure(situation: &Situation, stage: crate::shared::words::Stage, errno: i32) -> Failure {
    let mut failure = translate::start_failure(&situation.intent, Some(stage), errno);
    if let Program::Binary { path, .. } = &situation.intent.config.program
        && failure.reason == FailureReason::ProgramNotFound
        && path.exists()
    {
        // The file is there: it is its interpreter that is not.
        failure.reason = FailureReason::BadProgramFormat;
        failure.message = format!(
            "the interpreter that `{}` names does not exist",
            path.display()
        );
    }
    failure
}

/// A newer start took this one's place, or the node is gone: somebody else acts on it now.
fn superseded() -> Failure {
    Failure::new(
        FailureReason::PlatformRefused,
        "the node was started anew or removed meanwhile",
    )
}

/// Waits until the mode is met by the run of this process.
async fn met(news: &mut News, generation: u64, pid: u32, mode: ReadyMode) -> Result<(), Unready> {
    let over = move |it: &Situation| it.intent.generation != generation || !runs_as(it, pid);
    let (limit, healthy) = match mode {
        ReadyMode::Started => return Ok(()),
        ReadyMode::Alive { for_ } => (for_, false),
        ReadyMode::Healthy { timeout } => (timeout, true),
    };
    let settled = |it: &Situation| over(it) || healthy && it.health == Health::Healthy;
    let seen = timeout(limit, news.wait_for(settled))
        .await
        // A clone, so that nobody waits for this borrow.
        .map(|it| it.map(|it| it.clone()));
    match seen {
        Ok(Ok(situation)) if over(&situation) => Err(early_end(&situation).into()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(superseded().into()),
        Err(_) if !healthy => Ok(()),
        Err(_) => {
            let why = match &news.borrow().health {
                Health::Unhealthy { message } => format!(": {message}"),
                _ => String::new(),
            };
            Err(Unready {
                failure: Failure::new(
                    FailureReason::NotHealthy,
                    format!("its health check did not pass within {limit:?}{why}"),
                ),
                patient: true,
            })
        }
    }
}

/// Whether the node is still in the run of this process.
fn runs_as(situation: &Situation, pid: u32) -> bool {
    situation.shim == Shim::Alive
        && situation
            .record()
            .is_none_or(|it| it.pid == pid && matches!(it.state, State::Running | State::Stopping))
}

/// The failure of a program that ended before it was ready.
fn early_end(situation: &Situation) -> Failure {
    let Some(record) = situation.record() else {
        return superseded();
    };
    if let Some(failure) = situation
        .last_failure
        .clone()
        .or_else(|| translate::bad_end(&situation.intent, record))
    {
        return failure;
    }
    let exit = translate::exit(record).unwrap_or(Exit::Unknown);
    let message = match exit {
        Exit::Unknown => "its supervisor was killed before it was ready".to_owned(),
        exit => format!("its program ended with {exit} before it was ready"),
    };
    let reason = match exit {
        Exit::Unknown => FailureReason::Interrupted,
        _ => FailureReason::Exited,
    };
    Failure::new(reason, message).with_exit(exit)
}
