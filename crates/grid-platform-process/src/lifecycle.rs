//! Spawn and stop. What cannot be taken back half-way runs to its end in its node's turn, also when the
//! call that began it is dropped; between two such steps a drop is what a crash is, and the next call mends it.

use std::{sync::Arc, time::Duration};

use grid_platform_api::{
    Digest, Error, ErrorKind, Failure, FailureReason, NodeId, NodeUid, Program, Result,
    SpawnConfig, SpawnedNode, Timestamp, fault,
};
use grid_platform_host::work::{Turn, blocking, detached};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    cgroup,
    data::{Found, Purpose},
    error::{Context, PLATFORM, error},
    install::random,
    intent::{self, Goal, Intent},
    launch,
    node::{Node, Situation},
    platform::Inner,
    ports, ready, recover,
    store::NodeDir,
    supervise::{self, Asked},
    sweep,
    sys::{files, proc::Pinned},
    translate::Shim,
};

/// How long after the last signal an end may take until it counts as unconfirmed.
const KILL_LIMIT: Duration = Duration::from_secs(15);

/// [`Platform::spawn_node`](grid_platform_api::Platform::spawn_node).
pub(crate) async fn spawn(inner: &Arc<Inner>, config: SpawnConfig) -> Result<SpawnedNode> {
    config.validate()?;
    check_supported(inner, &config)?;
    let id = config.node_id.clone();
    let call = spawn_in_turn(Arc::clone(inner), config);
    let spawned = inner.locks.interruptible(&id, call).await?;
    fault::point("spawn-before-answer").cannot("answer")?;
    Ok(spawned)
}

/// Refuses what this platform or its settings do not have.
fn check_supported(inner: &Inner, config: &SpawnConfig) -> Result<()> {
    let unsupported =
        |what: &str, hint: &str| Err(Error::unsupported(PLATFORM, what).with_hint(hint));
    if matches!(config.program, Program::Image { .. }) {
        return unsupported(
            "run an image",
            "Name a program of the host, or use the `docker` or the `kubernetes` platform.",
        );
    }
    if config.storage_size_mb.is_some() {
        return unsupported(
            "limit the size of the data",
            "Leave `storage_size_mb` out, or put the storage root on a volume of that size.",
        );
    }
    let can = inner.capabilities();
    let limits = [
        (
            "memory_limit_mb",
            config.memory_limit_mb.is_some(),
            can.memory_limit,
        ),
        (
            "cpu_limit_millis",
            config.cpu_limit_millis.is_some(),
            can.cpu_limit,
        ),
        ("pids_limit", config.pids_limit.is_some(), can.pids_limit),
    ];
    for (name, wanted, can) in limits {
        if wanted && !can {
            return unsupported(
                &format!("keep `{name}`, as it cannot make cgroups here"),
                &format!("{}; or leave `{name}` out.", cgroup::HINT),
            );
        }
    }
    if config.run_as.is_some() && !can.user {
        return unsupported(
            "run a node as a user of its own, as the agent is not root",
            "Run the agent as root, or leave `run_as` out.",
        );
    }
    if config.adapter.contains_key(PLATFORM) {
        return Err(error(
            ErrorKind::InvalidConfig,
            "the process platform has no settings of its own in a request",
        )
        .with_hint("Take `adapter.process` out."));
    }
    if config.secrets.values().any(|it| it.is_withheld()) {
        return Err(error(
            ErrorKind::InvalidConfig,
            "the request names secrets without their values",
        )
        .with_hint("Give the values with the request: a stored request does not have them."));
    }
    launch::allow(&inner.config, &config.program)
}

/// Refuses a limit that this host could never reach: whoever asks for it means another host, or another unit.
fn check_memory(config: &SpawnConfig) -> Result<()> {
    let system = rustix::system::sysinfo();
    let bytes = system.totalram.saturating_mul(u64::from(system.mem_unit));
    let host_mb = bytes / (1024 * 1024);
    match config.memory_limit_mb.filter(|it| *it > host_mb) {
        Some(mb) => Err(error(
            ErrorKind::InvalidConfig,
            format!("`memory_limit_mb` is {mb}, and this host has {host_mb} MiB"),
        )
        .with_hint("Lower `memory_limit_mb`, or leave it out for no limit.")),
        None => Ok(()),
    }
}

async fn spawn_in_turn(inner: Arc<Inner>, config: SpawnConfig) -> Result<SpawnedNode> {
    let id = config.node_id.clone();
    let mut turn = inner.turns.take(&id).await;
    if let Some(blocked) = inner.blocked.get(&id) {
        return Err(blocked.error(&id));
    }
    let mode = config.ready;
    let Some(node) = inner.registry.get(&id) else {
        let made = Arc::clone(&inner);
        let node = blocking(move || in_turn(turn, || create(&made, config))).await?;
        return ready::wait(&inner, &node, mode, 0).await;
    };
    let intent = node.now().intent;
    if !config.same_request(&intent.config, &intent.digest, &inner.install.key) {
        return Err(error(
            ErrorKind::Conflict,
            format!("the node `{id}` exists with another request"),
        )
        .with_hint(format!(
            "Change it by `grid update {id}`, or remove it first, keeping its data: `grid rm {id}`."
        )));
    }
    inner.learn(&node, intent.generation, |_| {});
    let now = node.now();
    if has_living_shim(&now) {
        if now.intent.wants_running() {
            drop(turn);
            return ready::join(&node, mode).await;
        }
        // A stop was not confirmed: first things first.
        let (ending, ended) = (Arc::clone(&inner), Arc::clone(&node));
        let work = async move { finish(&ending, &ended, None).await.map(|()| turn) };
        turn = detached(&inner.closing, work).await?;
    }
    let log_from = crate::logs::end(&inner, &node);
    let again = Arc::clone(&inner);
    let node =
        blocking(move || in_turn(turn, || restart(&again, &node, &config).map(|()| node))).await?;
    ready::wait(&inner, &node, mode, log_from).await
}

pub(crate) fn in_turn<T>(turn: Turn, work: impl FnOnce() -> T) -> T {
    let result = work();
    drop(turn);
    result
}

/// A shim that lives and has not come to an end of its own.
pub(crate) fn has_living_shim(now: &Situation) -> bool {
    now.shim == Shim::Alive && !now.record().is_some_and(|it| it.state.is_final())
}

/// Whether nothing of the node can be left: its last shim saw its tree end, or never began one.
fn is_settled(now: &Situation) -> bool {
    now.stored
        .as_ref()
        .is_none_or(|it| it.record.state.is_final())
}

/// Makes a node that is not there, and starts it.
fn create(inner: &Arc<Inner>, config: SpawnConfig) -> Result<Arc<Node>> {
    let id = config.node_id.clone();
    let mode = config.ready;
    check_memory(&config)?;
    let claim = inner.ports.claim(&config, inner.config.ports(), true)?;
    let uid = NodeUid::from_bytes(random()?);
    let path = match &config.storage_path {
        Some(path) => path.clone(),
        None => inner.data.usual(&id),
    };
    let site = inner.data.site(&path)?;
    let path = site.path();
    let path_claim = inner.claim_path(&id, &path, Purpose::Make)?;
    let found = site.check(&inner.install.owner, &id)?;
    let was_there = found != Found::Nothing;
    let data_marked = inner.data.is_ours(&id, &path, &found)?;
    let missing_parents = site.missing_parents();
    let intent = Intent {
        version: intent::VERSION,
        owner: inner.install.owner.clone(),
        uid: uid.clone(),
        digest: Digest::of(&config, &inner.install.key),
        ports: claim.ports.clone(),
        data_path: path,
        data_marked,
        created_at: Timestamp::now(),
        generation: 1,
        restarts: 0,
        goal: Goal::Running,
        config,
    };
    // Refusals of the user come before anything is made; a user that does not exist is a failure of the node.
    let account = match launch::account(&inner.config, &intent) {
        Err(e) if e.kind() != ErrorKind::SpawnFailed => return Err(e),
        other => other.ok().flatten(),
    };
    let dir = NodeDir::create(&inner.nodes_dir, &id)?;
    let made = || -> Result<Arc<Node>> {
        let what = format!("make the record of the node `{id}`");
        dir.write_secrets(&secrets(&intent.config), account.map(|it| (it.uid, it.gid)))
            .cannot(&what)?;
        dir.create_log().cannot(&what)?;
        dir.create_record().cannot(&what)?;
        fault::point("spawn-before-intent").cannot(&what)?;
        dir.write_first_intent(&inner.nodes_dir, &intent)?;
        Ok(inner
            .registry
            .insert(Situation::new(intent.clone(), None, Shim::Gone)))
    };
    let started = made()
        .and_then(|node| start_or_fail(inner, &node, intent, ready::trial(mode)).map(|()| node));
    match started {
        Ok(node) => {
            claim.keep();
            drop(path_claim);
            Ok(node)
        }
        Err(e) if e.kind() == ErrorKind::SpawnFailed => {
            claim.keep();
            Err(e)
        }
        Err(e) => {
            // Nothing ran: nothing stays.
            if let Some(node) = inner.registry.get(&id) {
                inner.registry.remove(&node);
            }
            let undone = files::remove_tree(&inner.nodes_dir, id.native_name());
            let _ = inner.cgroups.remove(&uid);
            if !was_there {
                let _ = site.purge(&inner.install.owner, &id, &uid);
                site.remove_parents(missing_parents);
            }
            if let Err(left) = undone {
                tracing::warn!(node = %id, error = %left, "the directory of a node that was not made stays");
            }
            Err(e)
        }
    }
}

fn secrets(config: &SpawnConfig) -> Vec<(&str, &[u8])> {
    config
        .secrets
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.expose()?)))
        .collect()
}

/// Starts a node that is there and does not run.
fn restart(inner: &Arc<Inner>, node: &Arc<Node>, config: &SpawnConfig) -> Result<()> {
    let now = node.now();
    for port in now.intent.ports.values() {
        ports::probe(config.bind_address, *port)?;
    }
    let dir = inner.node_dir(&node.id)?;
    if !is_settled(&now) {
        sweep::leftovers(&[&now.intent.uid], &inner.cgroups)?;
    }
    let mut intent = Intent::clone(&now.intent);
    intent.generation += 1;
    intent.restarts = 0;
    intent.goal = Goal::Running;
    let account = launch::account(&inner.config, &intent).ok().flatten();
    dir.write_secrets(&secrets(config), account.map(|it| (it.uid, it.gid)))
        .cannot(format!("write the secrets of the node `{}`", node.id))?;
    dir.write_intent(&intent)?;
    start_or_fail(inner, node, intent, ready::trial(config.ready)).inspect_err(|e| {
        if e.kind() != ErrorKind::SpawnFailed {
            give_up_start(inner, node, refused_start(e));
        }
    })
}

/// Why a node was not started that nothing is wrong with, with what is beneath it: a full disk is not found by "cannot write".
pub(crate) fn refused_start(error: &Error) -> Failure {
    Failure::new(FailureReason::PlatformRefused, error.copied().to_string())
}

/// Starts the shim, with its first run on trial or not; a node whose program or user is not there fails as if the shim had found it.
pub(crate) fn start_or_fail(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    intent: Intent,
    trial: Option<Duration>,
) -> Result<()> {
    let failure = match launch::account(&inner.config, &intent) {
        Err(e) if e.kind() == ErrorKind::SpawnFailed => e.failure().cloned(),
        Err(e) => return Err(e),
        Ok(_) => match launch::program_failure(&inner.config, &intent.config) {
            None => launch::data_failure(inner, node, &intent)?,
            failure => failure,
        },
    };
    let Some(failure) = failure else {
        return launch::start(inner, node, intent, trial);
    };
    inner
        .registry
        .update(node, |it| it.intent = Arc::new(intent));
    give_up_start(inner, node, failure.clone());
    Err(Error::spawn_failed(&node.id, failure))
}

/// Records that a node was not started and will not be by itself. Nothing of it is left.
pub(crate) fn give_up_start(inner: &Inner, node: &Node, failure: Failure) {
    let mut intent = Intent::clone(&node.now().intent);
    intent.goal = Goal::Failed { failure };
    let written = inner
        .node_dir(&node.id)
        .and_then(|dir| dir.write_intent(&intent));
    if let Err(e) = written {
        tracing::warn!(node = %node.id, error = %e, "the failure of a node is not on disk");
    }
    inner.registry.update(node, |it| {
        it.intent = Arc::new(intent);
        // In one step: nobody is shown a node that only stopped.
        if !is_settled(it) {
            it.settle();
        }
        it.shim = Shim::Gone;
    });
}

/// [`Platform::stop_node`](grid_platform_api::Platform::stop_node).
pub(crate) async fn stop(inner: &Arc<Inner>, id: &NodeId) -> Result<()> {
    inner.node(id)?;
    let call = async {
        let turn = inner.turns.take(id).await;
        let node = inner.node(id)?;
        detached(
            &inner.closing,
            end(Arc::clone(inner), node, Goal::Stopped, None, turn),
        )
        .await
    };
    inner.locks.interrupt(id, call).await?;
    fault::point("stop-before-answer").cannot("answer")
}

/// Ends a start that did not become ready.
pub(crate) async fn give_up(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    generation: u64,
    failure: Failure,
    grace_ms: Option<u64>,
) -> Result<()> {
    let turn = inner.turns.take(&node.id).await;
    if node.now().intent.generation != generation {
        return Ok(());
    }
    let goal = Goal::Failed { failure };
    let work = end(Arc::clone(inner), Arc::clone(node), goal, grace_ms, turn);
    detached(&inner.closing, work).await
}

/// Makes the goal durable, then ends what runs.
async fn end(
    inner: Arc<Inner>,
    node: Arc<Node>,
    goal: Goal,
    grace_ms: Option<u64>,
    turn: Turn,
) -> Result<()> {
    inner.learn(&node, node.now().intent.generation, |_| {});
    let now = node.now();
    let at_rest = !has_living_shim(&now) && is_settled(&now);
    let goal = match (goal, node.shown().state.failure()) {
        // It stays as it is, unless its policy is about to start it again.
        (Goal::Stopped, Some(_)) if at_rest && !recover::is_up_to_policy(&now) => return Ok(()),
        (Goal::Stopped, Some(failure)) if at_rest => Goal::Failed {
            failure: failure.clone(),
        },
        (goal, _) => goal,
    };
    if now.intent.goal != goal {
        let mut intent = Intent::clone(&now.intent);
        intent.goal = goal;
        let intent = Arc::new(intent);
        if !inner.lost_dir(&node.id) {
            let (to_write, dir) = (Arc::clone(&intent), inner.node_dir(&node.id)?);
            blocking(move || {
                fault::point("stop-before-intent").cannot("write the record of the node")?;
                dir.write_intent(&to_write)
            })
            .await?;
        }
        inner.registry.update(&node, |it| it.intent = intent);
        fault::point("stop-after-intent").cannot("stop the node")?;
    }
    let result = finish(&inner, &node, grace_ms).await;
    drop(turn);
    result
}

/// Ends what runs of a node whose goal says so already, and returns when nothing is left.
pub(crate) async fn finish(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    grace_ms: Option<u64>,
) -> Result<()> {
    let now = node.now();
    if now.shim == Shim::Gone && is_settled(&now) {
        return Ok(());
    }
    let grace = grace_ms.map_or(now.intent.config.stop.grace, Duration::from_millis);
    let deadline = Instant::now() + grace + KILL_LIMIT;
    let stored = if inner.lost_dir(&node.id) {
        if let Some(shim) = supervise::shim(now.record()) {
            end_unasked(&node.id, shim, Signal::TERM, deadline).await?;
        }
        None
    } else {
        let dir = inner.node_dir(&node.id)?;
        ask_until_gone(&dir, &node.id, grace_ms, deadline).await?;
        dir.read_record()
    };
    let clean = stored.as_ref().is_some_and(|it| it.record.state.is_final());
    let (sweeping, intent) = (Arc::clone(inner), Arc::clone(&now.intent));
    blocking(move || {
        fault::point("stop-after-end").cannot("look at what is left of the node")?;
        if !clean {
            sweep::leftovers(&[&intent.uid], &sweeping.cgroups)?;
        }
        // A node that rests needs none; what cannot be removed now is removed with the node.
        let _ = sweeping.cgroups.remove(&intent.uid);
        Ok(())
    })
    .await?;
    let generation = now.intent.generation;
    inner.registry.update(node, |it| {
        if it.intent.generation == generation {
            it.learn(stored);
            if !clean {
                // Nothing is left, whatever the record says of the moment before.
                it.settle();
            }
            it.shim = Shim::Gone;
        }
    });
    Ok(())
}

/// Asks the node's shim to stop it until it is gone; one that does not answer in all that time is killed.
///
/// # Errors
/// `Unconfirmed` when the tree does not go by the deadline.
async fn ask_until_gone(
    dir: &NodeDir,
    id: &NodeId,
    grace_ms: Option<u64>,
    deadline: Instant,
) -> Result<()> {
    let free = || {
        dir.try_lock()
            .map(|it| it.is_some())
            .cannot(format!("look at the lock of the node `{id}`"))
    };
    let recorded = || supervise::shim(dir.read_record().as_ref().map(|it| &it.record));
    let mut silent = false;
    loop {
        match timeout_at(deadline, supervise::ask_to_stop(dir, grace_ms)).await {
            Ok(Asked::Stopped) => return Ok(()),
            Ok(Asked::NoAnswer) if free()? => return Ok(()),
            Ok(Asked::NoAnswer) if Instant::now() < deadline => {
                silent = true;
                // Who runs as the shim's user can halt it.
                if let Some(shim) = recorded() {
                    shim.send(Signal::CONT);
                }
                sleep(Duration::from_millis(2)).await;
            }
            // It lives and says nothing: halted again and again, hung, or of a version that speaks otherwise.
            Ok(Asked::NoAnswer) | Err(_) if silent => {
                let Some(shim) = recorded() else {
                    return Err(unknown_shim(id));
                };
                tracing::warn!(node = %id, "a supervisor that does not answer is killed");
                return end_unasked(id, shim, Signal::KILL, Instant::now() + KILL_LIMIT).await;
            }
            Ok(Asked::NoAnswer) | Err(_) => return Err(unconfirmed(id)),
        }
    }
}

/// Ends a shim that cannot be asked, by a signal; what it leaves is for a sweep.
///
/// # Errors
/// `Unconfirmed` when it does not end by the deadline.
async fn end_unasked(id: &NodeId, shim: Pinned, signal: Signal, deadline: Instant) -> Result<()> {
    let id = id.clone();
    blocking(move || {
        shim.send(signal);
        shim.send(Signal::CONT);
        if shim.wait(deadline.into_std()) {
            Ok(())
        } else {
            Err(unconfirmed(&id))
        }
    })
    .await
}

fn unconfirmed(id: &NodeId) -> Error {
    error(
        ErrorKind::Unconfirmed,
        format!("the node `{id}` was killed and has not ended"),
    )
    .with_hint(
        "Its processes wait for the kernel, most likely for a disk: mend that, and stop it again.",
    )
}

fn unknown_shim(id: &NodeId) -> Error {
    error(
        ErrorKind::Unconfirmed,
        format!(
            "the supervisor of the node `{id}` does not answer, and its record cannot be understood"
        ),
    )
    .with_hint(format!(
        "Use the version of the agent that started it, or end it by hand: `ps` shows it as `sutra-grid-shim {}`, and it stops its node on SIGTERM.",
        id.native_name()
    ))
}
