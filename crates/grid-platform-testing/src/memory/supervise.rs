//! The supervisor of one life of a node: starts the program, asks after its health, starts it again by its policy,
//! and ends it. It belongs to the world and not to an adapter, so that it goes on when the adapter is gone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use grid_platform_api::{
    Exit, Failure, FailureReason, Health, HealthProbe, MAIN_PORT, NodeId, NodeState, NodeUid,
    Place, Program, ReadyMode, RestartMode, SpawnConfig, Timestamp,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Flaw,
    kernel::{End, Mail, Started},
    program::Image,
    record::{Order, Run, Store},
};
use crate::probe::Action;

/// How many log lines stand in a failure.
const TAIL: usize = 20;

pub(crate) struct Supervisor {
    pub(crate) store: Arc<Store>,
    pub(crate) id: NodeId,
    pub(crate) uid: NodeUid,
    pub(crate) config: SpawnConfig,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
}

/// How one run of the program was over.
enum Over {
    Ended(End),
    Stopped(End),
    NotHealthy,
}

impl Supervisor {
    pub(crate) async fn run(mut self) {
        let mut in_a_row = 0;
        loop {
            let started_at = Instant::now();
            let started = match self.start() {
                Ok(started) => started,
                Err(failure) => return self.fail(failure),
            };
            let pid = started.pid;
            let over = self.watch(started).await;
            if !self.store.has(Flaw::LeavesTheTree) {
                self.store.kernel.sweep(pid);
            }
            let mut end = match over {
                Over::Stopped(end) => {
                    self.rest(NodeState::Stopped {
                        exit: Some(end.exit),
                    });
                    if self.store.has(Flaw::RestartsWhatIsStopped) {
                        sleep(self.backoff(in_a_row)).await;
                        continue;
                    }
                    return;
                }
                Over::NotHealthy => {
                    let words = "the health check did not pass in time";
                    return self.fail(Failure::new(FailureReason::NotHealthy, words));
                }
                Over::Ended(end) => end,
            };
            end.out_of_memory &= !self.store.has(Flaw::ForgetsWhyMemory);
            let failure = failure_of(end);
            if !self.is_ready() {
                return self.fail(failure);
            }
            if started_at.elapsed() >= self.config.restart.reset_after {
                in_a_row = 0;
            }
            let wanted = match self.config.restart.mode {
                RestartMode::Never => false,
                RestartMode::OnFailure => !end.exit.is_success(),
                RestartMode::Always => true,
            };
            if !wanted || self.store.has(Flaw::NeverRestarts) {
                if end.exit.is_success() {
                    return self.rest(NodeState::Stopped {
                        exit: Some(end.exit),
                    });
                }
                return self.fail(failure);
            }
            if self
                .config
                .restart
                .max_restarts
                .is_some_and(|max| in_a_row >= max)
            {
                let words = format!(
                    "the program ended {} times in a row: {}",
                    in_a_row + 1,
                    failure.message
                );
                return self.fail(
                    Failure::new(FailureReason::RestartsExhausted, words).with_exit(end.exit),
                );
            }
            let wait = self.backoff(in_a_row);
            in_a_row += 1;
            let failure = self.with_tail(failure);
            self.update(|run| {
                run.state = NodeState::Pending;
                run.last_failure = (!end.exit.is_success()).then_some(failure);
                run.pid = None;
                run.health = Health::Unchecked;
                run.finished_at = Some(Timestamp::now());
            });
            tokio::select! {
                () = sleep(wait) => {}
                // A stop, or nobody is left who could want the node.
                _ = self.orders.recv() => return self.rest(NodeState::Stopped { exit: Some(end.exit) }),
            }
            self.update(|run| run.restarts += 1);
        }
    }

    fn backoff(&self, in_a_row: u32) -> Duration {
        let policy = &self.config.restart;
        let factor = 2u32.saturating_pow(in_a_row);
        policy
            .initial_backoff
            .saturating_mul(factor)
            .min(policy.max_backoff)
    }

    fn start(&self) -> Result<Started, Failure> {
        let image = self.image()?;
        let started = self.store.kernel.start(&self.store.owner, image);
        let checked = self.config.health.is_some();
        let ready = self.config.ready == ReadyMode::Started;
        let pid = started.pid;
        self.update(|run| {
            run.state = NodeState::Running;
            run.ready |= ready;
            run.pid = Some(pid);
            run.started_at = Some(Timestamp::now());
            run.finished_at = None;
            run.health = if checked {
                Health::Starting
            } else {
                Health::Unchecked
            };
        });
        Ok(started)
    }

    /// Attends a running program until it is over.
    async fn watch(&mut self, mut started: Started) -> Over {
        let ready = self.is_ready();
        let ready_at = match self.config.ready {
            ReadyMode::Started => None,
            ReadyMode::Alive { for_: wait } | ReadyMode::Healthy { timeout: wait } => {
                (!ready).then(|| Instant::now() + wait)
            }
        };
        let mut due = ready_at;
        let health = self.config.health.clone();
        let mut ask_at = health.as_ref().map(|_| Instant::now());
        let mut bad = 0;
        loop {
            tokio::select! {
                end = started.ended() => return Over::Ended(end),
                _ = self.orders.recv() => return Over::Stopped(self.end(started).await),
                () = at(due) => {
                    if !matches!(self.config.ready, ReadyMode::Alive { .. }) {
                        self.kill(started).await;
                        return Over::NotHealthy;
                    }
                    due = None;
                    self.update(|run| run.ready = true);
                }
                () = at(ask_at) => {
                    let Some(check) = &health else { continue };
                    ask_at = Some(Instant::now() + check.interval);
                    match self.ask(&check.probe, check.timeout).await {
                        Ok(()) => {
                            bad = 0;
                            due = due.filter(|_| !matches!(self.config.ready, ReadyMode::Healthy { .. }));
                            self.show_health(Health::Healthy);
                        }
                        Err(message) => {
                            bad += 1;
                            if bad >= check.threshold && ready_health(&self.health()) {
                                self.show_health(Health::Unhealthy { message });
                            }
                        }
                    }
                }
            }
        }
    }

    /// The node's stop: its signal, its grace, a kill.
    async fn end(&self, mut started: Started) -> End {
        self.update(|run| run.state = NodeState::Stopping);
        let stop = &self.config.stop;
        let signal = if self.store.has(Flaw::AlwaysSendsTerm) {
            15
        } else {
            stop.signal.number()
        };
        let grace = if self.store.has(Flaw::GivesNoGrace) {
            Duration::ZERO
        } else {
            stop.grace
        };
        self.store.kernel.signal(started.pid, signal);
        match timeout(grace, started.ended()).await {
            Ok(end) => end,
            Err(_) => self.kill(started).await,
        }
    }

    async fn kill(&self, mut started: Started) -> End {
        self.store.kernel.signal(started.pid, 9);
        started.ended().await
    }

    async fn ask(&self, probe: &HealthProbe, limit: Duration) -> Result<(), String> {
        let (HealthProbe::Tcp { port } | HealthProbe::Http { port, .. }) = probe;
        let name = port.as_deref().unwrap_or(MAIN_PORT);
        let port = self.ports().get(name).copied().unwrap_or(0);
        let kernel = &self.store.kernel;
        if matches!(probe, HealthProbe::Tcp { .. }) {
            return if kernel.is_bound(port) {
                Ok(())
            } else {
                Err("connection refused".to_owned())
            };
        }
        let (answer, asked) = oneshot::channel();
        kernel
            .post(port, Mail::Healthz(answer))
            .ok_or("connection refused")?;
        match timeout(limit, asked).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("the answer was 503".to_owned()),
            Ok(Err(_)) => Err("connection reset".to_owned()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    fn ports(&self) -> BTreeMap<String, u16> {
        let disk = self.store.disk();
        disk.nodes
            .get(&self.id)
            .map(|r| r.ports.clone())
            .unwrap_or_default()
    }

    fn is_ready(&self) -> bool {
        let disk = self.store.disk();
        disk.nodes.get(&self.id).is_some_and(|r| r.run.ready)
    }

    fn health(&self) -> Health {
        let disk = self.store.disk();
        disk.nodes
            .get(&self.id)
            .map(|r| r.run.health.clone())
            .unwrap_or_default()
    }

    /// Shows what the check says; only a change is one.
    fn show_health(&self, health: Health) {
        let makes_ready = matches!(self.config.ready, ReadyMode::Healthy { .. })
            && health == Health::Healthy
            && !self.is_ready();
        if self.health() != health || makes_ready {
            self.update(|run| {
                run.health = health;
                run.ready |= makes_ready;
            });
        }
    }

    fn update(&self, change: impl FnOnce(&mut Run)) {
        self.store.update(&self.id, &self.uid, change);
    }

    fn rest(&self, state: NodeState) {
        self.update(|run| lay_down(run, state));
    }

    fn fail(&self, failure: Failure) {
        let failure = self.with_tail(failure);
        self.update(|run| {
            run.last_failure = Some(failure.clone());
            lay_down(run, NodeState::Failed { failure });
        });
    }

    fn with_tail(&self, mut failure: Failure) -> Failure {
        let disk = self.store.disk();
        if let Some(record) = disk.nodes.get(&self.id) {
            failure.log_tail = record.log.tail(TAIL);
        }
        failure
    }

    /// The program as it would be executed, or why it cannot be.
    fn image(&self) -> Result<Image, Failure> {
        let disk = self.store.disk();
        let record = disk
            .nodes
            .get(&self.id)
            .ok_or_else(|| Failure::new(FailureReason::PlatformRefused, "the record is gone"))?;
        let config = &self.config;
        let place = Place {
            node_id: self.id.clone(),
            bind: config.bind_address,
            published: config.bind_address,
            ports: record.ports.clone(),
            data_path: record.data_path.display().to_string(),
            secrets_dir: (!record.secrets.is_empty()).then(|| format!("/secrets/{}", self.uid)),
        };
        let name = match &config.program {
            Program::Binary { path, .. } => path.display().to_string(),
            Program::Image { image, .. } => image.clone(),
        };
        let argv: Vec<String> = config
            .program
            .args()
            .iter()
            .map(|a| place.expand(a))
            .collect();
        let actions = actions_of(
            &name,
            &argv,
            matches!(config.program, Program::Image { .. }),
        )?;
        let mut env = place.environment();
        env.extend(config.env.iter().map(|(k, v)| (k.clone(), place.expand(v))));
        for (variable, secret) in &config.secret_env {
            let value = record
                .secrets
                .get(secret)
                .and_then(|s| s.expose())
                .unwrap_or_default();
            env.insert(
                variable.clone(),
                String::from_utf8_lossy(value).into_owned(),
            );
        }
        if self.store.has(Flaw::PutsSecretsIntoTheEnvironment) {
            for (secret, value) in &record.secrets {
                let value =
                    String::from_utf8_lossy(value.expose().unwrap_or_default()).into_owned();
                env.insert(secret.to_uppercase().replace(['-', '.'], "_"), value);
            }
        }
        if self.store.has(Flaw::InheritsTheEnvironment) {
            env.extend(std::env::vars());
        }
        Ok(Image {
            actions,
            argv,
            env,
            secrets: record.secrets.clone(),
            user: user_number(config)?,
            open_files: config.open_files_limit.unwrap_or(1024),
            memory_limit_bytes: config.memory_limit_mb.map(|mb| mb << 20),
            log: Arc::clone(&record.log),
            place,
        })
    }
}

fn lay_down(run: &mut Run, state: NodeState) {
    run.state = state;
    run.pid = None;
    run.health = Health::Unchecked;
    run.finished_at = Some(Timestamp::now());
}

/// What a program of this name does at its start: only the probe's arguments mean something here.
fn actions_of(name: &str, argv: &[String], is_image: bool) -> Result<Vec<Action>, Failure> {
    let refused = |reason, words: &str| Err(Failure::new(reason, format!("`{name}` {words}")));
    match name {
        "memory:probe" => {
            let parsed: Result<Vec<Action>, String> =
                argv.iter().map(|a| Action::parse(a)).collect();
            parsed.map_err(|words| Failure::new(FailureReason::Exited, words))
        }
        "memory:missing" if is_image => refused(FailureReason::ImageNotFound, "does not exist"),
        "memory:missing" => refused(FailureReason::ProgramNotFound, "does not exist"),
        "memory:not-executable" => refused(FailureReason::NotExecutable, "may not be executed"),
        "memory:bad-format" => refused(FailureReason::BadProgramFormat, "is not a program"),
        _ => Ok(Vec::new()),
    }
}

/// The simulated host has the users `root` and `nobody`, and every number.
fn user_number(config: &SpawnConfig) -> Result<u32, Failure> {
    match config.run_as.as_ref().map(|r| r.user.as_str()) {
        None | Some("root") => Ok(0),
        Some("nobody") => Ok(65534),
        Some(other) => other.parse().map_err(|_| {
            Failure::new(
                FailureReason::UserUnavailable,
                format!("there is no user `{other}`"),
            )
        }),
    }
}

fn failure_of(end: End) -> Failure {
    let reason = match end.exit {
        _ if end.out_of_memory => FailureReason::OutOfMemory,
        Exit::Signal(_) => FailureReason::Signaled,
        Exit::Code(_) | Exit::Unknown => FailureReason::Exited,
    };
    Failure::new(reason, format!("the program ended with {}", end.exit)).with_exit(end.exit)
}

/// A healthy node becomes unhealthy by the threshold, and so does one that never answered well.
fn ready_health(now: &Health) -> bool {
    matches!(now, Health::Healthy | Health::Starting)
}

/// Waits for the time, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
