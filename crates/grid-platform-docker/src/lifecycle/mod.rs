//! Spawn, stop and remove.
//!
//! The container is the record: it is made with everything that a node is asked to be in its labels, before anything starts.
//! What is asked of it later (that it is stopped, that its start failed) is a note in the state, written before the engine is
//! asked. A crash between any two calls leaves what the next `open` or `spawn` carries on with (`heal.rs`).

mod create;
mod heal;
mod ready;
mod remove;
mod start;
mod stop;

use std::sync::Arc;

use grid_platform_api::{
    Error, ErrorKind, NodeId, Program, Result, SpawnConfig, SpawnedNode, fault,
};
use grid_platform_host::{
    error::Context,
    work::{Turn, detached},
};

use create::Outcome;
pub(crate) use heal::heal;
use ready::Started;
pub(crate) use remove::{list_data, remove};
pub(crate) use stop::stop;

use crate::{
    config::Allow,
    error::{PLATFORM, error},
    health,
    images::reference::covers,
    nodes::{self, Found, Node},
    platform::Inner,
    translate::{Goal, Phase},
};

/// [`Platform::spawn_node`](grid_platform_api::Platform::spawn_node).
pub(crate) async fn spawn(inner: &Arc<Inner>, config: SpawnConfig) -> Result<SpawnedNode> {
    config.validate()?;
    check_supported(inner, &config)?;
    let id = config.node_id.clone();
    let call = spawn_in_turn(Arc::clone(inner), config);
    let spawned = inner.locks.interruptible(&id, call).await?;
    fault::point("docker-spawn-before-answer").cannot("answer")?;
    Ok(spawned)
}

/// Refuses what this platform or its settings do not have.
fn check_supported(inner: &Inner, config: &SpawnConfig) -> Result<()> {
    let unsupported =
        |what: &str, hint: &str| Err(Error::unsupported(PLATFORM, what).with_hint(hint));
    let Program::Image { image, .. } = &config.program else {
        return unsupported(
            "run a program of the host",
            "Name an image, or use the `process` platform.",
        );
    };
    if config.storage_size_mb.is_some() {
        return unsupported(
            "limit the size of the data",
            "Leave `storage_size_mb` out, or put the storage root on a volume of that size.",
        );
    }
    if !config.secret_env.is_empty() {
        return unsupported(
            "give secrets by the environment, which `docker inspect` shows",
            "Leave `secret_env` out: the program finds its secrets as files in `{secrets_dir}`.",
        );
    }
    let at = &inner.engine.host;
    if !config.secrets.is_empty() && inner.engine.is_plain_beyond_host() {
        return Err(error(
            ErrorKind::NotAllowed,
            format!("the request has secrets, and what goes to the engine at `{at}` can be read on its way"),
        )
        .with_hint("Start the engine with `--tlsverify`, and set `docker.cert_path` to the certificates."));
    }
    let bind = config.bind_address;
    if config.health.is_some() && health::is_out_of_reach(at, bind) {
        return Err(error(
            ErrorKind::InvalidConfig,
            format!("the node's health cannot be asked: its ports are at `{bind}` of the host of `{at}` alone"),
        )
        .with_hint("Set `bind_address` to an address of that host which the agent reaches, or to `0.0.0.0`."));
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
                &format!("keep `{name}`, as the engine's host cannot"),
                &format!("`docker info` says why; or leave `{name}` out."),
            );
        }
    }
    if config.storage_path.is_some() && !can.storage_path {
        return unsupported(
            "use a storage path, as data is in volumes of the engine",
            "Leave `storage_path` out; `grid doctor` says why the engine does not use the agent's directories.",
        );
    }
    if let Some(path) = &config.storage_path
        && inner.storage.is_unseen(&inner.config, path)
    {
        return unsupported(
            &format!(
                "use the storage path `{}`, which the engine does not see as the agent does",
                path.display()
            ),
            "Name a path beneath a storage root that is a directory of the engine's host too.",
        );
    }
    if !can.restart_modes.contains(&config.restart.mode) {
        return unsupported(
            &format!(
                "restart by the policy `{}` on this engine",
                config.restart.mode
            ),
            "Use the policy `never`.",
        );
    }
    check_figures(inner, config)?;
    if config.adapter.contains_key(PLATFORM) {
        return Err(error(
            ErrorKind::InvalidConfig,
            "the Docker platform has no settings of its own in a request",
        )
        .with_hint("Take `adapter.docker` out."));
    }
    if config.secrets.values().any(|it| it.is_withheld()) {
        return Err(error(
            ErrorKind::InvalidConfig,
            "the request names secrets without their values",
        )
        .with_hint("Give the values with the request: a stored request does not have them."));
    }
    match &inner.config.images {
        Allow::Only(allowed) if !allowed.iter().any(|it| covers(it, image)) => Err(error(
            ErrorKind::NotAllowed,
            format!("the image `{image}` is not one that may be a node"),
        )
        .with_hint("Add it to `images` in the agent's settings.")),
        _ => Ok(()),
    }
}

/// Refuses limits that the engine's host could never reach or keep: whoever asks for them means another host or unit.
fn check_figures(inner: &Inner, config: &SpawnConfig) -> Result<()> {
    /// The engine makes no container with less (docker run(1), `--memory`).
    const LEAST_MB: u64 = 6;
    let host_mb = inner.facts.memory_mb;
    let Some(mb) = config.memory_limit_mb else {
        return Ok(());
    };
    let why = match mb {
        mb if host_mb > 0 && mb > host_mb => format!("the engine's host has {host_mb} MiB"),
        mb if mb < LEAST_MB => format!("the engine takes no less than {LEAST_MB} MiB"),
        _ => return Ok(()),
    };
    Err(error(
        ErrorKind::InvalidConfig,
        format!("`memory_limit_mb` is {mb}, and {why}"),
    )
    .with_hint("Change `memory_limit_mb`, or leave it out for no limit."))
}

/// How often a node that nobody knew of may turn up where one is being made.
const TRIES: usize = 3;

async fn spawn_in_turn(inner: Arc<Inner>, config: SpawnConfig) -> Result<SpawnedNode> {
    for _ in 0..TRIES {
        let turn = inner.turns.take(&config.node_id).await;
        if let Some(node) = present(&inner, &config.node_id).await? {
            return spawn_present(&inner, config, node, turn).await;
        }
        let mode = config.ready;
        if let Outcome::Made(started) = create::create(&inner, config.clone(), turn).await? {
            return ready::wait(started, mode).await;
        }
    }
    Err(error(
        ErrorKind::Unavailable,
        "somebody else makes and removes the node's container all the time",
    ))
}

/// Spawns a node that is there.
async fn spawn_present(
    inner: &Arc<Inner>,
    config: SpawnConfig,
    node: Arc<Node>,
    mut turn: Turn,
) -> Result<SpawnedNode> {
    let (id, mode) = (&config.node_id, config.ready);
    let now = node.now();
    let record = &now.record;
    if !config.same_request(&record.config, &record.digest, &inner.install.key) {
        return Err(error(
            ErrorKind::Conflict,
            format!("the node `{id}` exists with another request"),
        )
        .with_hint(format!(
            "Change it by `grid update {id}`, or remove it first, keeping its data: `grid rm {id}`."
        )));
    }
    if now.observed.phase.is_live() {
        if now.goal == Goal::Running {
            drop(turn);
            return ready::join(inner, &node, mode).await;
        }
        // A stop was cut short: first things first.
        let (ending, ended) = (Arc::clone(inner), Arc::clone(&node));
        let work = async move { stop::finish(&ending, &ended).await.map(|()| turn) };
        turn = detached(&inner.closing, work).await?;
    }
    let again = Arc::clone(inner);
    let work = async move {
        let started = start::again(&again, &node, &config).await;
        drop(turn);
        started.map(|()| Started::new(&again, node))
    };
    let started = detached(&inner.closing, work).await?;
    ready::wait(started, mode).await
}

/// The node of that id as the engine has it now; `None` when there is none.
async fn present(inner: &Arc<Inner>, id: &NodeId) -> Result<Option<Arc<Node>>> {
    let Some(node) = inner.registry.get(id) else {
        return Ok(None);
    };
    match nodes::refresh(inner, &node.container).await? {
        // One that somebody else removes at this moment is as good as gone: a new one waits for its name.
        Found::Node(node) if node.now().observed.phase == Phase::Removing => {
            nodes::forget(inner, &node);
            Ok(None)
        }
        Found::Node(node) => Ok(Some(node)),
        Found::Nothing => Ok(None),
        other => Err(foreign(id, &other)),
    }
}

/// The error of a container that has a node's name or place and is not one that this owner can use.
pub(crate) fn foreign(id: &NodeId, found: &Found) -> Error {
    let name = id.native_name();
    let (kind, why) = match found {
        Found::Damaged(why) => (ErrorKind::Corrupt, format!("cannot be understood: {why}")),
        Found::Theirs(Some(_)) => (
            ErrorKind::OwnedByOther,
            "belongs to another agent".to_owned(),
        ),
        _ => (
            ErrorKind::OwnedByOther,
            "was not made by this agent".to_owned(),
        ),
    };
    error(kind, format!("the container `{name}` {why}"))
        .with_node(id)
        .with_hint(format!(
            "Look whose it is (`docker inspect {name}`) and rename or remove it, or choose another id."
        ))
}

/// What to say of an id that no node here has: that there is none, or whose the container of its name is.
pub(crate) async fn unknown(inner: &Arc<Inner>, id: &NodeId) -> Error {
    match nodes::refresh(inner, &id.native_name()).await {
        Ok(found @ (Found::Theirs(_) | Found::Damaged(_))) => foreign(id, &found),
        Ok(Found::Nothing | Found::Node(_)) => Error::not_found(id),
        Err(e) => e,
    }
}
