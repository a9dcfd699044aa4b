//! Pure: a request and its place as a launch; what is wanted and what is recorded as a node.

use std::{
    collections::BTreeMap,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use grid_platform_api::{
    Endpoint, Exit, Failure, FailureReason, Health, MAIN_PORT, NodeState, Place, RestartMode,
    SpawnConfig, SpawnedNode, Timestamp,
};

use crate::{
    error::PLATFORM,
    intent::{Goal, Intent},
    shared::{
        launch::{Launch, User},
        policy::{Next, Policy, Restart},
        record::{Record, State},
        words::Stage,
    },
    sys::users::Account,
};

/// The variable by which a node's processes are known when nothing else tells.
pub(crate) const UID_VARIABLE: &str = "SUTRA_NODE_UID";

/// What of a launch is the host's and not the request's.
pub(crate) struct Ground {
    /// The program, resolved.
    pub(crate) program: PathBuf,
    /// Where the secrets are.
    pub(crate) secrets_dir: Option<PathBuf>,
    /// Who it runs as; `None`: as the adapter does.
    pub(crate) account: Option<Account>,
    /// The `PATH` of programs that are given none.
    pub(crate) search_path: String,
    /// The node's cgroups.
    pub(crate) cgroup_procs: Vec<PathBuf>,
    /// How much log is kept.
    pub(crate) log_max_bytes: u64,
    /// How long an end of the first run is the spawning call's business, not the policy's.
    pub(crate) trial: Option<std::time::Duration>,
}

/// What the shim starts by.
pub(crate) fn launch(intent: &Intent, ground: Ground) -> Launch {
    let config = &intent.config;
    let place = Place {
        node_id: config.node_id.clone(),
        bind: config.bind_address,
        published: config.bind_address,
        ports: intent.ports.clone(),
        data_path: intent.data_path.to_string_lossy().into_owned(),
        secrets_dir: ground
            .secrets_dir
            .map(|it| it.to_string_lossy().into_owned()),
    };
    let mut env = BTreeMap::from([("PATH".to_owned(), ground.search_path)]);
    env.extend(place.environment());
    env.extend(config.env.iter().map(|(k, v)| (k.clone(), place.expand(v))));
    env.insert(UID_VARIABLE.to_owned(), intent.uid.to_string());
    // A secret's variable takes the place of a default, not beside it.
    env.retain(|name, _| !config.secret_env.contains_key(name));
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    Launch {
        uid: intent.uid.to_string(),
        generation: intent.generation,
        restarts: intent.restarts,
        program: bytes(&ground.program),
        args: config
            .program
            .args()
            .iter()
            .map(|arg| place.expand(arg).into_bytes())
            .collect(),
        env: env
            .into_iter()
            .map(|(name, value)| format!("{name}={value}").into_bytes())
            .collect(),
        env_secrets: config
            .secret_env
            .iter()
            .map(|(name, secret)| (name.clone().into_bytes(), secret.clone().into_bytes()))
            .collect(),
        dir: bytes(&intent.data_path),
        user: ground.account.map(|it| User {
            uid: it.uid,
            gid: it.gid,
            groups: it.groups,
        }),
        nofile: config.open_files_limit,
        cgroup_procs: ground.cgroup_procs.iter().map(|it| bytes(it)).collect(),
        stop_signal: config.stop.signal.number(),
        grace_ms: millis(config.stop.grace),
        policy: policy(config),
        log_max_bytes: Some(ground.log_max_bytes),
        trial_ms: ground.trial.map(millis),
    }
}

/// The restart policy in the shim's terms.
pub(crate) fn policy(config: &SpawnConfig) -> Policy {
    let restart = &config.restart;
    Policy {
        restart: match restart.mode {
            RestartMode::Never => Restart::Never,
            RestartMode::OnFailure => Restart::OnFailure,
            RestartMode::Always => Restart::Always,
        },
        backoff_initial_ms: millis(restart.initial_backoff),
        backoff_max_ms: millis(restart.max_backoff),
        reset_after_ms: millis(restart.reset_after),
        max_restarts: restart.max_restarts.map(u64::from),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a shim has the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shim {
    /// It lives, or is being started.
    Alive,
    /// It does not.
    Gone,
}

/// What a node is shown from.
pub(crate) struct Facts<'a> {
    pub(crate) intent: &'a Intent,
    pub(crate) record: Option<&'a Record>,
    pub(crate) shim: Shim,
    pub(crate) health: &'a Health,
    pub(crate) last_failure: Option<&'a Failure>,
    /// The last lines of a program that failed for good.
    pub(crate) tail: &'a [String],
    /// The host of endpoints.
    pub(crate) host: &'a str,
    /// The node's directory.
    pub(crate) handle: &'a str,
}

/// The node as people and callers see it.
pub(crate) fn node(facts: &Facts<'_>) -> SpawnedNode {
    let intent = facts.intent;
    // A record of an earlier start says nothing of this one.
    let current = facts
        .record
        .filter(|it| it.generation == intent.generation && it.uid == intent.uid.as_str());
    let mut state = state(intent, current, facts.shim);
    if let NodeState::Failed { failure } = &mut state
        && failure.log_tail.is_empty()
    {
        failure.log_tail = facts.tail.to_vec();
    }
    let runs = matches!(state, NodeState::Running | NodeState::Stopping);
    let pid = current
        .filter(|it| runs && facts.shim == Shim::Alive && it.pid != 0)
        .map(|it| it.pid);
    let health = match (&state, facts.health) {
        (_, Health::Unchecked) => Health::Unchecked,
        (NodeState::Running, health) => health.clone(),
        (NodeState::Pending, _) => Health::Starting,
        _ => Health::Unchecked,
    };
    SpawnedNode {
        node_id: intent.config.node_id.clone(),
        uid: intent.uid.clone(),
        platform: PLATFORM.to_owned(),
        native_handle: facts.handle.to_owned(),
        pid,
        health,
        endpoint: intent.ports.get(MAIN_PORT).map(|port| Endpoint {
            host: facts.host.to_owned(),
            port: *port,
        }),
        ports: intent.ports.clone(),
        restarts: u32::try_from(current.map_or(intent.restarts, |it| it.restarts))
            .unwrap_or(u32::MAX),
        last_failure: last_failure(intent, current, &state, facts.last_failure),
        created_at: intent.created_at,
        started_at: facts.record.and_then(|it| time(it.started_ms)),
        finished_at: facts
            .record
            .filter(|_| !matches!(state, NodeState::Running | NodeState::Stopping))
            .and_then(|it| time(it.finished_ms)),
        digest: intent.digest.clone(),
        image: None,
        data_path: Some(intent.data_path.clone()),
        labels: intent.config.labels.clone(),
        state,
    }
}

fn last_failure(
    intent: &Intent,
    current: Option<&Record>,
    state: &NodeState,
    remembered: Option<&Failure>,
) -> Option<Failure> {
    if let NodeState::Failed { failure } = state {
        return Some(failure.clone());
    }
    current
        .filter(|it| !it.state.is_final())
        .and_then(|it| bad_end(intent, it))
        .or_else(|| remembered.cloned())
}

fn time(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok().filter(|ms| *ms > 0)?).ok()
}

fn state(intent: &Intent, current: Option<&Record>, shim: Shim) -> NodeState {
    let recorded = current.map(|it| it.state);
    if shim == Shim::Alive && recorded.is_none_or(|it| !it.is_final()) {
        return match (intent.wants_running(), recorded) {
            (false, _) | (true, Some(State::Stopping)) => NodeState::Stopping,
            (true, Some(State::Running)) => NodeState::Running,
            (true, _) => NodeState::Pending,
        };
    }
    match &intent.goal {
        Goal::Failed { failure } => NodeState::Failed {
            failure: failure.clone(),
        },
        Goal::Stopped => NodeState::Stopped {
            exit: current.and_then(exit),
        },
        Goal::Running => match current {
            Some(record) if record.state.is_final() => ended(intent, record),
            // What the killed shim left is being ended; then it is `Failed`.
            Some(_) if intent.config.restart.mode == RestartMode::Never => NodeState::Stopping,
            _ => NodeState::Pending,
        },
    }
}

/// The state of a node whose shim recorded a final one.
fn ended(intent: &Intent, record: &Record) -> NodeState {
    if record.state == State::Stopped {
        return NodeState::Stopped { exit: exit(record) };
    }
    let mode = intent.config.restart.mode;
    match bad_end(intent, record) {
        Some(mut failure) => {
            // An end that the policy restarts is final only when the policy has no restart left.
            if mode != RestartMode::Never && record.restarts > intent.restarts {
                failure.message = format!(
                    "it used up its {} restarts; at last, {}",
                    intent.config.restart.max_restarts.unwrap_or_default(),
                    failure.message
                );
                failure.reason = FailureReason::RestartsExhausted;
            }
            NodeState::Failed { failure }
        }
        None if mode == RestartMode::Always => NodeState::Failed {
            failure: Failure::new(
                FailureReason::RestartsExhausted,
                "it ended well each time, and used up its restarts",
            )
            .with_exit(Exit::Code(0)),
        },
        None => NodeState::Stopped { exit: exit(record) },
    }
}

/// Whether the program ended while its spawn was waiting for it, so that its shim left the rest to that call: alone,
/// the policy would have started it again.
pub(crate) fn ended_on_trial(intent: &Intent, record: &Record) -> bool {
    let ran_ms = record.finished_ms.saturating_sub(record.started_ms);
    let failed = exit(record).is_some_and(|it| !it.is_success());
    record.state == State::Exited
        && record.restarts == intent.restarts
        && matches!(
            policy(&intent.config).after(0, ran_ms, failed),
            Next::Start { .. }
        )
}

/// The failure of a node that its shim's end took with it.
pub(crate) fn interrupted() -> Failure {
    Failure::new(
        FailureReason::Interrupted,
        "its supervisor or its host went away, and its policy does not start it again",
    )
    .with_exit(Exit::Unknown)
}

/// How the program ended, if that was seen.
pub(crate) fn exit(record: &Record) -> Option<Exit> {
    record
        .exit_code
        .map(Exit::Code)
        .or(record.signal.map(Exit::Signal))
}

/// The failure in a record; `None` when the program ended with code 0.
pub(crate) fn bad_end(intent: &Intent, record: &Record) -> Option<Failure> {
    if let Some(stage) = record.fail_stage.as_deref() {
        let errno = record.fail_errno.unwrap_or_default();
        return Some(start_failure(intent, Stage::parse(stage), errno));
    }
    let exit = exit(record)?;
    if record.oom {
        let limit = match intent.config.memory_limit_mb {
            Some(mb) => format!("it reached its memory limit of {mb} MiB"),
            None => "the host ran out of memory".to_owned(),
        };
        return Some(Failure::new(FailureReason::OutOfMemory, limit).with_exit(exit));
    }
    match exit {
        Exit::Code(0) => None,
        Exit::Code(code) => Some(
            Failure::new(
                FailureReason::Exited,
                format!("its program ended with exit code {code}"),
            )
            .with_exit(exit),
        ),
        Exit::Signal(signal) => Some(
            Failure::new(
                FailureReason::Signaled,
                format!("its program was ended by signal {signal}"),
            )
            .with_exit(exit),
        ),
        Exit::Unknown => {
            Some(Failure::new(FailureReason::Exited, "its program ended unseen").with_exit(exit))
        }
    }
}

/// The failure of a start that did not come to the program's first instruction.
pub(crate) fn start_failure(intent: &Intent, stage: Option<Stage>, errno: i32) -> Failure {
    let grid_platform_api::Program::Binary { path, .. } = &intent.config.program else {
        return Failure::new(FailureReason::PlatformRefused, "it has no program");
    };
    let (program, data) = (path.display(), intent.data_path.display());
    let why = std::io::Error::from_raw_os_error(errno);
    let user = intent
        .config
        .run_as
        .as_ref()
        .map_or("the agent's user", |it| it.user.as_str());
    let (reason, message) = match (stage, errno) {
        (Some(Stage::Exec), libc::ENOENT | libc::ENOTDIR) => (
            FailureReason::ProgramNotFound,
            // A script whose interpreter is missing fails just so.
            format!("the program `{program}`, or the interpreter that it names, does not exist"),
        ),
        (Some(Stage::Exec), libc::EACCES | libc::EPERM) => (
            FailureReason::NotExecutable,
            format!("the program `{program}` may not be executed by {user}"),
        ),
        (Some(Stage::Exec), libc::ENOEXEC) => (
            FailureReason::BadProgramFormat,
            format!("`{program}` is not a program for this machine"),
        ),
        (Some(Stage::Exec), libc::ELOOP) => (
            FailureReason::BadProgramFormat,
            format!("the program `{program}` is a circle of links or of interpreters"),
        ),
        (Some(Stage::Exec), libc::ETXTBSY) => (
            FailureReason::NotExecutable,
            format!("the program `{program}` is open for writing"),
        ),
        (Some(Stage::Exec), libc::E2BIG) => (
            FailureReason::PlatformRefused,
            "its arguments and environment, with their places filled in, are longer than the kernel takes".to_owned(),
        ),
        (Some(Stage::Groups | Stage::Gid | Stage::Uid), _) => (
            FailureReason::UserUnavailable,
            format!("it cannot run as {user}: {why}"),
        ),
        (Some(Stage::Dir), _) => (
            FailureReason::DataUnavailable,
            format!("{user} cannot enter the data path `{data}`: {why}"),
        ),
        (Some(Stage::Cgroup | Stage::Nofile), _) => (
            FailureReason::LimitUnavailable,
            format!("a limit cannot be set: {why}"),
        ),
        (stage, _) => (
            FailureReason::PlatformRefused,
            format!(
                "the start failed at `{}`: {why}",
                stage.map_or("unknown", Stage::as_str)
            ),
        ),
    };
    Failure::new(reason, message)
}

#[cfg(test)]
#[path = "translate_tests.rs"]
pub(crate) mod tests;
