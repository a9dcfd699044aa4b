//! One node's life: the loop that starts, waits, stops, restarts and records.

use crate::child;
use crate::clients::Clients;
use crate::failure::{Failure, at, malformed};
use crate::fault;
use crate::log::{Log, Marks};
use crate::shared::launch::Launch;
use crate::shared::policy::{Next, Policy};
use crate::shared::record::State;
use crate::shared::words::{Report, Stage};
use crate::store::Store;
use crate::sys::{self, POLLIN, PollFd};
use crate::tree;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Waits longer than this would overflow clocks: 49 days.
const WAIT_MAX_MS: u64 = u32::MAX as u64;
/// A wait this long is an idle one.
const IDLE: Duration = Duration::from_secs(1);
const SWEEP_MAX: Duration = Duration::from_millis(100);

/// What of the launch file is kept while the program runs; the rest is read again for each start.
struct Settings {
    policy: Policy,
    stop_signal: i32,
    grace_ms: u64,
    cgroups: Vec<PathBuf>,
}

enum Phase {
    /// The program runs.
    Running { pid: u32, since: Instant },
    /// The program ended and was reaped; the rest of its tree is being killed.
    Sweeping {
        again: Duration,
        ran: Duration,
        ended: sys::Ended,
    },
    /// To be started again then.
    Backoff { until: Instant },
    /// Over, in a final state.
    Over,
}

/// A stop that was asked for.
struct Stop {
    due: Instant,
    killed: bool,
}

/// A node whose shim this is.
pub(crate) struct Node {
    settings: Settings,
    store: Store,
    log: Log,
    clients: Clients,
    signals: File,
    phase: Phase,
    stop: Option<Stop>,
    series: u64,
    oom_kills: u64,
    /// How long the first run is on trial, while it is.
    trial: Option<Duration>,
}

impl Node {
    /// Opens everything and makes the first start. What is returned with the node is for the report. A failure is recorded already.
    pub(crate) fn start(mut store: Store, marks: Option<Marks>) -> Result<(Node, Report), Failure> {
        let (launch, log, clients, signals) = match open(&mut store, marks) {
            Ok(it) => it,
            Err(failure) => return Err(record_failure(&mut store, failure)),
        };
        let settings = Settings {
            cgroups: launch
                .cgroup_procs
                .iter()
                .map(|it| OsStr::from_bytes(it).into())
                .collect(),
            stop_signal: launch.stop_signal,
            grace_ms: launch.grace_ms,
            policy: launch.policy.clone(),
        };
        let phase = Phase::Over;
        let mut node = Node {
            settings,
            store,
            log,
            clients,
            signals,
            phase,
            stop: None,
            series: 0,
            oom_kills: 0,
            trial: launch.trial_ms.map(Duration::from_millis),
        };
        match node.run(&launch) {
            Ok(report) => Ok((node, report)),
            Err(failure) => {
                node.clients.unlink();
                Err(record_failure(&mut node.store, failure))
            }
        }
    }

    /// Lives until the node is over, and gives back who waits for that.
    pub(crate) fn live(mut self) -> Clients {
        loop {
            let now = Instant::now();
            self.act(now);
            if matches!(self.phase, Phase::Over) {
                self.clients.unlink();
                return self.clients;
            }
            let wait = self.due().saturating_duration_since(Instant::now());
            if wait >= IDLE {
                sys::slim();
            }
            let mut fds = vec![PollFd {
                fd: self.signals.as_raw_fd(),
                events: POLLIN,
                revents: 0,
            }];
            fds.extend(self.clients.poll_fds());
            // Rounded up, so that a wake is never early.
            sys::poll(
                &mut fds,
                i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX),
            );
            self.take_signals();
            let asked = self
                .clients
                .serve(fds.get(1..).unwrap_or_default(), self.store.seq());
            if asked.ready {
                self.trial = None;
            }
            asked
                .stops
                .into_iter()
                .for_each(|grace_ms| self.ask_stop(grace_ms));
            self.reap();
        }
    }

    /// Starts the program.
    fn run(&mut self, launch: &Launch) -> Result<Report, Failure> {
        let record = &mut self.store.record;
        (record.state, record.next_start_ms) = (State::Starting, 0);
        self.save()?;
        self.log.expect_growth()?;
        self.oom_kills = tree::oom_kills(&self.settings.cgroups);
        let pid = child::spawn(launch, self.log.file())?;
        let _ = fault::point("shim-after-fork");
        let start = tree::start_time(pid);
        self.phase = Phase::Running {
            pid,
            since: Instant::now(),
        };
        let record = &mut self.store.record;
        (record.state, record.pid, record.pid_start) = (State::Running, pid, start);
        // How the last run ended stays: whoever comes later is told why there was a restart.
        (record.started_ms, record.finished_ms) = (now_ms(), 0);
        // The program runs: a disk that fails now is no reason to end it.
        let _ = self.save();
        Ok(Report::Executed { pid, start })
    }

    fn save(&mut self) -> Result<(), Failure> {
        self.store.save()?;
        self.clients.changed(self.store.seq());
        Ok(())
    }

    /// When `act` has something to do, if nothing else happens.
    fn due(&self) -> Instant {
        let log = self.log.due();
        let phase = match &self.phase {
            Phase::Running { .. } => self.stop.as_ref().filter(|it| !it.killed).map(|it| it.due),
            Phase::Sweeping { again, .. } => Some(Instant::now() + *again),
            Phase::Backoff { until } => Some(*until),
            Phase::Over => None,
        };
        phase.map_or(log, |it| it.min(log))
    }

    /// Does what is due.
    fn act(&mut self, now: Instant) {
        if self.log.due() <= now {
            self.look_at_log(now);
        }
        match &mut self.phase {
            Phase::Running { pid, .. } => {
                if let Some(stop) = self.stop.as_mut().filter(|it| !it.killed && it.due <= now) {
                    stop.killed = true;
                    kill_main(*pid);
                    tree::kill(&self.settings.cgroups);
                }
            }
            Phase::Sweeping { .. } => self.sweep(now),
            Phase::Backoff { until } if *until <= now => self.start_again(),
            Phase::Backoff { .. } | Phase::Over => {}
        }
    }

    fn take_signals(&mut self) {
        // signalfd_siginfo: 128 bytes each, the number first. SIGCHLD only has to wake.
        let mut info = [0; 128];
        while self
            .signals
            .read(&mut info)
            .is_ok_and(|it| it == info.len())
        {
            let [a, b, c, d, ..] = info;
            if matches!(i32::from_le_bytes([a, b, c, d]), sys::SIGTERM | sys::SIGINT) {
                self.ask_stop(None);
            }
        }
    }

    fn ask_stop(&mut self, grace_ms: Option<u64>) {
        let grace = self
            .settings
            .grace_ms
            .min(grace_ms.unwrap_or(u64::MAX))
            .min(WAIT_MAX_MS);
        let due = Instant::now() + Duration::from_millis(grace);
        let first = self.stop.is_none();
        let stop = self.stop.get_or_insert(Stop { due, killed: false });
        stop.due = stop.due.min(due);
        match self.phase {
            Phase::Running { pid, .. } if first => {
                if let (Ok(pid), true) = (i32::try_from(pid), grace > 0) {
                    sys::kill(pid, self.settings.stop_signal);
                    // A program that is halted hears it only when it goes on.
                    sys::kill(pid, sys::SIGCONT);
                }
                self.store.record.state = State::Stopping;
                let _ = self.save();
            }
            Phase::Backoff { .. } => self.end(State::Stopped),
            _ => {}
        }
    }

    /// Buries the dead. The main process's group is killed while its zombie still holds the number.
    fn reap(&mut self) {
        while let Ok(Some(ended)) = sys::ended_child() {
            match self.phase {
                Phase::Running { pid, since } if pid == ended.pid => {
                    kill_main(pid);
                    self.store.record.finished_ms = now_ms();
                    self.phase = Phase::Sweeping {
                        again: Duration::ZERO,
                        ran: since.elapsed(),
                        ended,
                    };
                }
                _ => {}
            }
            sys::reap(ended.pid);
        }
    }

    /// Kills what is left of the tree; when nothing is, decides what follows.
    fn sweep(&mut self, now: Instant) {
        tree::kill(&self.settings.cgroups);
        self.reap();
        let alone = sys::ended_child().is_err_and(|it| it.raw_os_error() == Some(sys::ECHILD));
        let Phase::Sweeping { again, ran, ended } = &mut self.phase else {
            return;
        };
        if !alone || !tree::is_empty(&self.settings.cgroups) {
            *again = (*again * 2).clamp(Duration::from_millis(1), SWEEP_MAX);
            return;
        }
        let (ran, ended) = (*ran, *ended);
        let clean = ended.exit_code == Some(0);
        let struck = tree::oom_kills(&self.settings.cgroups) > self.oom_kills;
        let record = &mut self.store.record;
        (record.exit_code, record.signal, record.oom) =
            (ended.exit_code, ended.signal, struck && !clean);
        (record.fail_stage, record.fail_errno) = (None, None);
        (record.pid, record.pid_start) = (0, 0);
        // What the program wrote last is within the budget and in the index, too.
        self.look_at_log(now);
        self.follow(ran, !clean, State::Exited);
    }

    /// After an end: stopped, started again after a while, or over with `last`.
    fn follow(&mut self, ran: Duration, failure: bool, last: State) {
        if self.stop.is_some() {
            return self.end(State::Stopped);
        }
        // Whoever waits for the first run to be ready decides what follows its end, not the policy.
        if self.trial.take().is_some_and(|it| ran < it) {
            return self.end(last);
        }
        let ran_ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
        match self.settings.policy.after(self.series, ran_ms, failure) {
            Next::End => self.end(last),
            Next::Start { wait_ms, series } => {
                let wait_ms = wait_ms.min(WAIT_MAX_MS);
                self.series = series;
                self.phase = Phase::Backoff {
                    until: Instant::now() + Duration::from_millis(wait_ms),
                };
                let record = &mut self.store.record;
                (record.state, record.next_start_ms) =
                    (State::Backoff, now_ms().saturating_add(wait_ms));
                let _ = self.save();
            }
        }
    }

    fn start_again(&mut self) {
        self.store.record.restarts += 1;
        if let Err(failure) = read_launch().and_then(|it| self.run(&it)) {
            note_failure(&mut self.store, failure);
            self.follow(Duration::ZERO, true, State::Failed);
        }
    }

    fn end(&mut self, state: State) {
        let record = &mut self.store.record;
        (record.state, record.next_start_ms) = (state, 0);
        let _ = self.save();
        self.phase = Phase::Over;
    }

    fn look_at_log(&mut self, now: Instant) {
        let mut marks = Marks {
            low: self.store.record.log_low,
            base: self.store.record.log_base,
        };
        let mut found = self.log.look(now, now_ms(), marks);
        while let Some(next) = found {
            let former = std::mem::replace(&mut marks, next);
            (self.store.record.log_low, self.store.record.log_base) = (next.low, next.base);
            // What is not durably given up is not dropped.
            if self.save().is_err() {
                return;
            }
            found = self.log.drop_below(former, next);
        }
    }
}

/// Records that there is no node because its first start failed. If that fails, too, the report still tells.
fn record_failure(store: &mut Store, failure: Failure) -> Failure {
    note_failure(store, failure);
    store.record.state = State::Failed;
    let _ = store.save();
    failure
}

/// Notes a start that failed, but does not save.
fn note_failure(store: &mut Store, failure: Failure) {
    let record = &mut store.record;
    (record.fail_stage, record.fail_errno) =
        (Some(failure.stage.as_str().to_owned()), Some(failure.errno));
    (record.exit_code, record.signal, record.oom) = (None, None, false);
    record.finished_ms = now_ms();
}

type Opened = (Launch, Log, Clients, File);

fn open(store: &mut Store, marks: Option<Marks>) -> Result<Opened, Failure> {
    let launch = read_launch()?;
    let record = &mut store.record;
    (record.uid, record.generation, record.restarts) =
        (launch.uid.clone(), launch.generation, launch.restarts);
    // A SIGCHLD that the adapter ignored would be ignored here, too, and ends would be lost.
    sys::default_signals().map_err(at(Stage::Signals))?;
    // All that could end or halt the shim, but for KILL, STOP and its own faults.
    let told = [sys::SIGCHLD, sys::SIGTERM, sys::SIGINT];
    let others = [
        sys::SIGHUP,
        sys::SIGQUIT,
        sys::SIGUSR1,
        sys::SIGUSR2,
        sys::SIGPIPE,
        sys::SIGALRM,
    ];
    let halts = [sys::SIGTSTP, sys::SIGTTIN, sys::SIGTTOU];
    let signals = sys::signal_file(&[&told[..], &others, &halts].concat(), &told)
        .map_err(at(Stage::Signals))?;
    sys::become_subreaper().map_err(at(Stage::Signals))?;
    let (log, marks) = Log::open(launch.log_max_bytes, marks)?;
    (record.log_low, record.log_base) = (marks.low, marks.base);
    Ok((launch, log, Clients::bind()?, signals))
}

fn read_launch() -> Result<Launch, Failure> {
    let bytes = fs::read("launch").map_err(at(Stage::Launch))?;
    Launch::decode(&bytes).map_err(|_| malformed(Stage::Launch))
}

/// SIGKILL to the main process and its group. The number is theirs until the shim reaps the main process.
fn kill_main(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        sys::kill(pid, sys::SIGKILL);
        sys::kill(-pid, sys::SIGKILL);
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
}

/// Writes the report; who is gone is not missed.
pub(crate) fn tell(report: &mut File, line: Report) {
    let _ = report.write_all(line.encode().as_bytes());
}
