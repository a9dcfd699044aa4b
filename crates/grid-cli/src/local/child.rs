//! Keeping a child running.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{process::Command, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{ChildStatus, Status, logfile, process::Process};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A child that ran this long was well; its next end is a new story.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// How long master and agent may take to end before they are killed; what they acknowledged is durable.
pub(super) const GRACE: Duration = Duration::from_secs(15);

/// Writes what the supervisor has to say.
pub(crate) type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// What to keep running.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) log: PathBuf,
    /// The command line, made anew for each start.
    pub(super) command: Box<dyn Fn() -> Command + Send + Sync>,
    /// Where its status is kept.
    pub(super) status: fn(&mut Status) -> &mut ChildStatus,
}

/// A child that is started again whenever it ends.
#[derive(Debug)]
pub(crate) struct Keeper {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn start(spec: Spec, status: watch::Sender<Status>, say: Say) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep(spec, status, say, stop.clone()));
        Self { stop, task }
    }

    /// Ends the child and starts it no more; returns when it is gone.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        // A task that panicked keeps nothing running.
        self.task.await.ok();
    }
}

/// A child's place in the whole status.
struct Slot {
    whole: watch::Sender<Status>,
    part: fn(&mut Status) -> &mut ChildStatus,
}

impl Slot {
    fn set(&self, change: impl FnOnce(&mut ChildStatus)) {
        self.whole.send_modify(|whole| change((self.part)(whole)));
    }
}

async fn keep(spec: Spec, status: watch::Sender<Status>, say: Say, stop: CancellationToken) {
    let slot = Slot {
        whole: status,
        part: spec.status,
    };
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let started = Instant::now();
        let how = run(&spec, &slot, &stop).await;
        slot.set(|child| {
            child.pid = None;
            child.last_end = Some(how.clone());
        });
        if stop.is_cancelled() {
            return;
        }
        if started.elapsed() >= WELL_AFTER {
            pause = FIRST_PAUSE;
        }
        say(&format!(
            "the {} ended ({how}); starting it again in {}",
            spec.name,
            humantime::format_duration(pause)
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Runs the child once and says how it ended.
async fn run(spec: &Spec, slot: &Slot, stop: &CancellationToken) -> String {
    let spawn = || {
        let log = logfile::open(&spec.log)?;
        (spec.command)()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at the terminal is for the supervisor, which ends its children in their order.
            .process_group(0)
            .current_dir("/")
            .spawn()
    };
    let mut child = match spawn() {
        Ok(child) => child,
        Err(error) => return format!("it cannot be executed: {error}"),
    };
    let pid = child.id();
    slot.set(|status| {
        status.pid = pid;
        status.starts += 1;
    });
    tokio::select! {
        ended = child.wait() => return words(ended),
        () = stop.cancelled() => {}
    }
    // It is a child that was not waited for, so its number is its own.
    let process = pid.and_then(|pid| Process::open(pid).ok().flatten());
    if let Some(process) = process {
        process.end(GRACE).await.ok();
    } else {
        child.start_kill().ok();
    }
    words(child.wait().await)
}

fn words(ended: std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match ended {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unseen end".to_owned(),
        },
        Err(error) => format!("an unseen end: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &std::path::Path, script: &'static str) -> Spec {
        Spec {
            name: "master",
            log: dir.join("x.log"),
            command: Box::new(move || {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", script]);
                command
            }),
            status: |status| &mut status.master,
        }
    }

    #[tokio::test]
    async fn a_child_that_ends_is_started_again_until_it_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, mut status) = watch::channel(Status::default());
        let keeper = Keeper::start(
            shell(dir.path(), "echo out; echo err >&2; exit 7"),
            sender,
            Arc::new(|_| {}),
        );
        let seen = status
            .wait_for(|status| status.master.starts >= 3)
            .await
            .unwrap()
            .master
            .clone();
        assert_eq!(seen.last_end.as_deref(), Some("exit code 7"));
        keeper.stop().await;
        assert_eq!(status.borrow().master.pid, None);
        let lines = logfile::last_lines(&dir.path().join("x.log"), 0, 2);
        assert_eq!(lines, ["out", "err"]);
    }

    #[tokio::test]
    async fn a_running_child_is_asked_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, mut status) = watch::channel(Status::default());
        let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
        let keeper = Keeper::start(shell(dir.path(), script), sender, Arc::new(|_| {}));
        status
            .wait_for(|status| status.master.pid.is_some())
            .await
            .unwrap();
        while logfile::last_lines(&dir.path().join("x.log"), 0, 1) != ["ready"] {
            tokio::task::yield_now().await;
        }
        keeper.stop().await;
        assert_eq!(
            status.borrow().master.last_end.as_deref(),
            Some("exit code 0")
        );
    }

    #[tokio::test]
    async fn a_child_that_cannot_be_executed_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, mut status) = watch::channel(Status::default());
        let mut spec = shell(dir.path(), "");
        spec.command = Box::new(|| Command::new("/nonexistent/program"));
        let keeper = Keeper::start(spec, sender, Arc::new(|_| {}));
        let how = status
            .wait_for(|status| status.master.last_end.is_some())
            .await
            .unwrap()
            .master
            .last_end
            .clone()
            .unwrap();
        assert!(how.starts_with("it cannot be executed"), "{how}");
        keeper.stop().await;
    }
}
