//! Waiting until a start is what its caller calls ready.

use std::{io::Read, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use grid_platform_api::{
    Error, ErrorKind, Exit, Failure, FailureReason, Health, ReadyMode, RestartMode, Result,
    SpawnedNode,
};
use rustix::fs::StatVfsMountFlags;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    config::ProcessConfig,
    error::error,
    launch, lifecycle, logs,
    node::{Node, Situation, Started},
    platform::Inner,
    recover,
    shared::{
        record::State,
        words::{Report, Stage},
    },
    supervise::{self, REPORT_LIMIT, TAIL},
    sys::proc,
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
    let outcome = match executed(&inner.config, &mut news, generation).await {
        Ok(pid) => met(inner, node, &mut news, Run { generation, pid }, mode).await,
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
    // The program did nothing wrong: where it may be restarted, the same call can succeed.
    let again = failure.reason == FailureReason::Interrupted
        && node.now().intent.config.restart.mode != RestartMode::Never;
    Err(Error::spawn_failed(&node.id, failure).with_retryable(again))
}

/// Waits for a start that was made before, and changes nothing: neither when it is not ready in time nor when it fails.
///
/// # Errors
/// `SpawnFailed` when it ended first; `Timeout` when it is not ready in time.
pub(crate) async fn join(node: &Node, mode: ReadyMode) -> Result<SpawnedNode> {
    let mut news = node.subscribe();
    // Whoever made the start may be gone, and its supervisor not have come to the program yet.
    let mut ended = until(node, &mut news, REPORT_LIMIT, was_executed).await?;
    if ended.is_none() {
        ended = match mode {
            ReadyMode::Started => None,
            ReadyMode::Alive { for_ } => {
                let lives =
                    |it: &Situation| is_waiting(it) || ran_for(it).is_some_and(|ran| ran >= for_);
                until(node, &mut news, for_ + END_LIMIT, lives).await?
            }
            ReadyMode::Healthy { timeout } => {
                let healthy = |it: &Situation| it.health == Health::Healthy;
                until(node, &mut news, timeout, healthy).await?
            }
        };
    }
    let shown = node.shown();
    match (ended, mode) {
        (None, _) => Ok(SpawnedNode::clone(&shown)),
        (Some(ended), ReadyMode::Alive { for_ }) if lived(&ended, for_) => {
            Ok(SpawnedNode::clone(&shown))
        }
        (Some(ended), _) => {
            let failure = shown.state.failure().cloned();
            let failure = failure.unwrap_or_else(|| early_end(&ended));
            Err(Error::spawn_failed(&node.id, failure))
        }
    }
}

/// Waits until a start is as it is wanted: `None`; or until it has ended, and nobody is about to start it again.
///
/// # Errors
/// `Timeout` when it is neither in time.
async fn until(
    node: &Node,
    news: &mut News,
    limit: Duration,
    wanted: impl Fn(&Situation) -> bool,
) -> Result<Option<Situation>> {
    let deadline = Instant::now() + limit;
    loop {
        {
            let now = news.borrow_and_update();
            if wanted(&now) {
                return Ok(None);
            }
            if now.removed || now.shim == Shim::Gone && !recover::is_to_be_started(&now) {
                return Ok(Some(now.clone()));
            }
        }
        if Instant::now() >= deadline {
            return Err(error(
                ErrorKind::Timeout,
                format!(
                    "the node `{}` was started before and is not ready after {limit:?}",
                    node.id
                ),
            )
            .with_hint("`grid logs ID` shows what the program says."));
        }
        // An age is no news: it is looked at from time to time too.
        let look = Instant::now() + Duration::from_millis(20);
        let _ = timeout_at(look.min(deadline), news.changed()).await;
    }
}

/// Whether the program of this start was executed, by its supervisor's report or, where another adapter heard that, by
/// its record.
fn was_executed(situation: &Situation) -> bool {
    matches!(
        situation.started,
        Started::Reported(Report::Executed { .. })
    ) || situation.record().is_some_and(|it| it.started_ms != 0)
}

/// It waits out a back-off: that is up to its policy now.
fn is_waiting(situation: &Situation) -> bool {
    situation
        .record()
        .is_some_and(|it| it.state == State::Backoff)
}

fn ran_for(situation: &Situation) -> Option<Duration> {
    let record = situation.record().filter(|it| it.state == State::Running)?;
    // By the process's start, not by the clock: it may have been set since.
    proc::age(record.pid_start)
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
async fn executed(
    config: &ProcessConfig,
    news: &mut News,
    generation: u64,
) -> Result<u32, Unready> {
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
            Err(start_failure(config, &situation, stage, errno).into())
        }
        Started::Waiting | Started::Died => Err(Failure::new(
            FailureReason::PlatformRefused,
            "its supervisor ended before the program was started",
        )
        .into()),
    }
}

fn start_failure(
    config: &ProcessConfig,
    situation: &Situation,
    stage: Stage,
    errno: i32,
) -> Failure {
    let mut failure = translate::start_failure(&situation.intent, Some(stage), errno);
    if stage == Stage::Exec
        && let Some(path) = launch::resolve(config, &situation.intent.config.program)
        && let Some((reason, why)) = looked_closer(&path, errno)
    {
        failure.reason = reason;
        failure.message = format!("{why}: `{}`", path.display());
    }
    failure
}

/// What the kernel's answer to an exec does not tell, and the file does.
fn looked_closer(path: &Path, errno: i32) -> Option<(FailureReason, &'static str)> {
    let meta = path.metadata().ok()?;
    match errno {
        // The file is there: it is its interpreter that is not.
        libc::ENOENT | libc::ENOTDIR => Some((
            FailureReason::BadProgramFormat,
            "the interpreter that the program names does not exist",
        )),
        libc::EACCES if !meta.is_file() => Some((
            FailureReason::NotExecutable,
            "the program is no regular file",
        )),
        libc::EACCES => {
            let mount = rustix::fs::statvfs(path).ok()?;
            if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
                return Some((
                    FailureReason::NotExecutable,
                    "the program is on a file system that is mounted `noexec`",
                ));
            }
            let is_script = || {
                let mut start = [0; 2];
                let read = std::fs::File::open(path).and_then(|mut it| it.read_exact(&mut start));
                read.is_ok() && start == *b"#!"
            };
            // A script for all users that cannot be run has an interpreter that cannot.
            let for_all = meta.permissions().mode() & 0o111 == 0o111;
            (for_all && is_script()).then_some((
                FailureReason::BadProgramFormat,
                "the interpreter that the program names may not be executed",
            ))
        }
        _ => None,
    }
}

/// A newer start took this one's place, or the node is gone: somebody else acts on it now.
fn superseded() -> Failure {
    Failure::new(
        FailureReason::PlatformRefused,
        "the node was started anew or removed meanwhile",
    )
}

/// The first run of a start.
#[derive(Clone, Copy)]
struct Run {
    generation: u64,
    pid: u32,
}

impl Run {
    /// Whether it is over.
    fn is_over(self, it: &Situation) -> bool {
        let runs = it.shim == Shim::Alive
            && it.record().is_none_or(|it| {
                it.pid == self.pid && matches!(it.state, State::Running | State::Stopping)
            });
        it.intent.generation != self.generation || !runs
    }
}

/// Waits until the mode is met by the first run. The shim judges as this does: an end on trial is final.
async fn met(
    inner: &Inner,
    node: &Node,
    news: &mut News,
    run: Run,
    mode: ReadyMode,
) -> Result<(), Unready> {
    match mode {
        ReadyMode::Started => Ok(()),
        ReadyMode::Alive { for_ } => match next(news, for_, |it| run.is_over(it)).await? {
            Some(ended) if !lived(&ended, for_) => Err(early_end(&ended).into()),
            _ => Ok(()),
        },
        ReadyMode::Healthy { timeout } => {
            let settled = |it: &Situation| run.is_over(it) || it.health == Health::Healthy;
            match next(news, timeout, settled).await? {
                Some(situation) if !run.is_over(&situation) => {
                    let told = match inner.node_dir(&node.id) {
                        Ok(dir) => supervise::say_ready(&dir).await,
                        Err(_) => false,
                    };
                    if told {
                        return Ok(());
                    }
                    // It ended in this very moment.
                    match next(news, END_LIMIT, |it| run.is_over(it)).await? {
                        Some(ended) => Err(early_end(&ended).into()),
                        None => Ok(()),
                    }
                }
                Some(ended) => Err(early_end(&ended).into()),
                None => Err(unhealthy(&news.borrow().health, timeout)),
            }
        }
    }
}

/// The first situation that is `wanted`; `None` when there is none in time.
async fn next(
    news: &mut News,
    limit: Duration,
    wanted: impl Fn(&Situation) -> bool,
) -> Result<Option<Situation>, Unready> {
    match timeout(limit, news.wait_for(|it| wanted(it))).await {
        Ok(Ok(situation)) => Ok(Some(situation.clone())),
        Ok(Err(_)) => Err(superseded().into()),
        Err(_) => Ok(None),
    }
}

/// Whether the first run lasted so long before it ended.
fn lived(ended: &Situation, wanted: Duration) -> bool {
    ended.record().is_some_and(|it| {
        let ran = Duration::from_millis(it.finished_ms.saturating_sub(it.started_ms));
        it.restarts > ended.intent.restarts || it.state == State::Backoff || ran >= wanted
    })
}

fn unhealthy(health: &Health, limit: Duration) -> Unready {
    let why = match health {
        Health::Unhealthy { message } => format!(": {message}"),
        _ => String::new(),
    };
    Unready {
        failure: Failure::new(
            FailureReason::NotHealthy,
            format!("its health check did not pass within {limit:?}{why}"),
        ),
        patient: true,
    }
}

/// How long an end of the first run is the waiting call's business and not the policy's.
pub(crate) fn trial(mode: ReadyMode) -> Option<Duration> {
    match mode {
        ReadyMode::Started => None,
        ReadyMode::Alive { for_ } => Some(for_),
        // The call's clock starts a little later than the shim's; it says when it is done.
        ReadyMode::Healthy { timeout } => Some(timeout + END_LIMIT),
    }
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use grid_platform_api::{Program, SpawnConfig};

    use super::*;
    use crate::{
        intent::Goal,
        node::Registry,
        shared::record::{Record, Stored},
        translate::tests::{intent, recorded},
    };

    /// A node whose supervisor was started a moment ago and has said nothing yet.
    fn started() -> (Registry, Arc<Node>) {
        let config = SpawnConfig::builder("n", Program::binary("/x", [""; 0]));
        let intent = intent(config.build().unwrap(), Goal::Running);
        let registry = Registry::new(Arc::new(ProcessConfig::new("/s", "/d")));
        let node = registry.insert(Situation::new(intent, None, Shim::Alive));
        (registry, node)
    }

    fn learn(registry: &Registry, node: &Node, seq: u64, record: Record) {
        registry.update(node, |it| it.learn(Some(Stored { seq, record })));
    }

    #[tokio::test]
    async fn who_joins_a_start_waits_until_the_program_is_executed() {
        let (registry, node) = started();
        let mut joined = Box::pin(join(&node, ReadyMode::Started));
        assert!(joined.as_mut().now_or_never().is_none());
        let starting = Record {
            pid: 0,
            started_ms: 0,
            ..recorded(State::Starting)
        };
        learn(&registry, &node, 1, starting);
        assert!(joined.as_mut().now_or_never().is_none());
        learn(&registry, &node, 2, recorded(State::Running));
        assert_eq!(joined.await.unwrap().pid, Some(77));
    }

    #[tokio::test]
    async fn who_joins_a_start_that_fails_is_told_when_nobody_starts_it_again() {
        for mode in [ReadyMode::Started, ReadyMode::default()] {
            let (registry, node) = started();
            let mut joined = Box::pin(join(&node, mode));
            // Killed before it came to the program: the policy has the next word.
            registry.update(&node, |it| it.shim = Shim::Gone);
            assert!(joined.as_mut().now_or_never().is_none());
            let failure = Failure::new(FailureReason::Interrupted, "why");
            registry.update(&node, |it| {
                let mut intent = it.intent.as_ref().clone();
                intent.goal = Goal::Failed {
                    failure: failure.clone(),
                };
                it.intent = Arc::new(intent);
            });
            let error = joined.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SpawnFailed);
            assert_eq!(error.failure(), Some(&failure));
        }
    }

    #[tokio::test]
    async fn who_joins_a_start_that_lived_as_long_as_is_asked_is_told_that_it_is_ready() {
        let (registry, node) = started();
        let lived = Record {
            pid: 0,
            finished_ms: 1250,
            exit_code: Some(1),
            ..recorded(State::Exited)
        };
        learn(&registry, &node, 1, lived);
        registry.update(&node, |it| {
            it.shim = Shim::Gone;
            let mut intent = it.intent.as_ref().clone();
            intent.goal = Goal::Failed {
                failure: Failure::new(FailureReason::RestartsExhausted, "why"),
            };
            it.intent = Arc::new(intent);
        });
        let alive = |ms| ReadyMode::Alive {
            for_: Duration::from_millis(ms),
        };
        assert!(join(&node, alive(250)).await.is_ok());
        let error = join(&node, alive(251)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SpawnFailed);
    }
}
