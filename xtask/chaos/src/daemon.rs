//! Agent and master, started again whenever they end.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Result;
use crate::report::{Counts, count};

/// After an end that nobody caused: as a service manager waits.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an end that was asked for may take.
const GRACE: Duration = Duration::from_secs(20);

/// What is started, again and again.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) log: PathBuf,
}

#[derive(Default)]
struct State {
    /// The process that runs, by a handle that names no other.
    running: Option<(u32, OwnedFd)>,
    /// How long to wait before the next start, after an end of our making.
    pause: Option<Duration>,
    ending: bool,
    ends: Counts,
}

/// A program that is kept running.
pub(crate) struct Daemon {
    name: &'static str,
    state: Arc<Mutex<State>>,
    hold: watch::Sender<bool>,
    keeper: JoinHandle<io::Result<ExitStatus>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Daemon {
    /// Starts it.
    pub(crate) fn start(recipe: Recipe) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let hold = watch::channel(false).0;
        let name = recipe.name;
        let keeper = tokio::spawn(keep(recipe, Arc::clone(&state), hold.subscribe()));
        Self {
            name,
            state,
            hold,
            keeper,
        }
    }

    /// Its process, if one runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        locked(&self.state).running.as_ref().map(|(pid, _)| *pid)
    }

    /// Kills it; the next start comes after `pause`. Whether there was something to kill.
    pub(crate) fn kill(&self, pause: Duration) -> bool {
        self.end(Signal::KILL, pause).is_some()
    }

    /// Ends it by a signal; the next start comes after `pause`. The process that it was; none when there was nobody to signal.
    pub(crate) fn end(&self, signal: Signal, pause: Duration) -> Option<u32> {
        let mut state = locked(&self.state);
        let (pid, pidfd) = state.running.as_ref()?;
        let struck = pidfd_send_signal(pidfd, signal).is_ok().then_some(*pid)?;
        state.pause = Some(pause);
        Some(struck)
    }

    /// Keeps it from being started, or lets it.
    pub(crate) fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    /// How it ended by itself, so far.
    pub(crate) fn ends(&self) -> Counts {
        locked(&self.state).ends.clone()
    }

    /// Asks it to end, as a service manager does.
    pub(crate) async fn stop(self) -> Result<()> {
        {
            let mut state = locked(&self.state);
            state.ending = true;
            if let Some((_, pidfd)) = &state.running {
                pidfd_send_signal(pidfd, Signal::TERM)?;
            }
        }
        let status = tokio::time::timeout(GRACE, self.keeper)
            .await
            .map_err(|_| {
                format!("the {} did not end within {GRACE:?} of SIGTERM", self.name)
            })???;
        if status.success() {
            return Ok(());
        }
        Err(format!(
            "the {} ended with {status} when it was asked to end",
            self.name
        )
        .into())
    }
}

fn spawn(recipe: &Recipe) -> io::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&recipe.log)?;
    Command::new(&recipe.program)
        .args(&recipe.args)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .current_dir("/")
        .spawn()
}

async fn keep(
    recipe: Recipe,
    state: Arc<Mutex<State>>,
    mut hold: watch::Receiver<bool>,
) -> io::Result<ExitStatus> {
    loop {
        // The sender lives as long as who could wait for a start.
        let _ = hold.wait_for(|it| !*it).await;
        let mut child = spawn(&recipe)?;
        if let Some(pid) = child.id() {
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let pidfd = raw
                .map(|it| pidfd_open(it, PidfdFlags::empty()))
                .transpose()?;
            locked(&state).running = pidfd.map(|it| (pid, it));
        }
        let status = child.wait().await?;
        let pause = {
            let mut state = locked(&state);
            state.running = None;
            if state.ending {
                return Ok(status);
            }
            let pause = state.pause.take();
            if pause.is_none() {
                count(&mut state.ends, format!("{}, {status}", recipe.name));
            }
            pause.unwrap_or(PAUSE)
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_killed_or_ends_is_started_again_and_ends_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo started; trap 'exit 0' TERM; while :; do sleep 0.02; done";
        let daemon = Daemon::start(Recipe {
            name: "shell",
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            log: dir.path().join("log"),
        });
        let starts = |expect: usize| {
            let log = dir.path().join("log");
            async move {
                while std::fs::read_to_string(&log)
                    .unwrap_or_default()
                    .lines()
                    .count()
                    < expect
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        starts(1).await;
        let first = daemon.pid().unwrap();
        daemon.hold(true);
        assert!(daemon.kill(Duration::ZERO));
        while daemon.pid().is_some() {
            tokio::task::yield_now().await;
        }
        assert!(!daemon.kill(Duration::ZERO), "there is nothing to kill");
        daemon.hold(false);
        starts(2).await;
        assert_ne!(daemon.pid(), Some(first));
        assert!(daemon.ends().is_empty());
        daemon.stop().await.unwrap();
    }
}
