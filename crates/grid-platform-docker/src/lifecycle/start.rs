//! Starting a container.

use std::{sync::Arc, time::Duration};

use bollard::{
    models::ContainerUpdateBody,
    query_parameters::{StartContainerOptions, WaitContainerOptionsBuilder},
};
use futures::StreamExt;
use grid_platform_api::{
    Error, ErrorKind, Failure, FailureReason, NodeId, ReadyMode, Result, SpawnConfig, fault,
};
use grid_platform_host::{
    data::{self, Marker},
    error::Context,
    files::Durable,
    ports,
    work::blocking,
};

use crate::{
    engine::{Engine, WORK},
    error::{Fault, error},
    nodes::{self, Found, Node},
    platform::Inner,
    translate::{self, DataPlace, Goal, Policy, Root},
    volumes,
};

/// How often a policy is changed of a container that ends each time at that moment.
const POLICY_TRIES: usize = 3;
/// How long the engine may take to know that a program has ended.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Whether an end of the first run is the waiting call's business: then the container has no policy until it is ready.
pub(crate) fn has_trial(inner: &Inner, config: &SpawnConfig) -> bool {
    inner.facts.updates && config.ready != ReadyMode::Started && Policy::of(config) != Policy::NONE
}

/// The policy that the container of a request starts with.
fn first_policy(inner: &Inner, config: &SpawnConfig) -> Policy {
    match has_trial(inner, config) {
        true => Policy::NONE,
        false => Policy::of(config),
    }
}

/// Starts a container that was just made.
///
/// # Errors
/// `PortInUse`, and nothing has run; `SpawnFailed`, and the node stays, failed.
pub(crate) async fn first(inner: &Arc<Inner>, id: &NodeId, container: &str) -> Result<Arc<Node>> {
    let started = start(&inner.engine, container).await;
    fault::point("docker-spawn-after-start").cannot("look at the node")?;
    let found = nodes::refresh(inner, container).await;
    let refusal = match started {
        Ok(()) => {
            return match found? {
                Found::Node(node) => Ok(node),
                _ => Err(gone(id)),
            };
        }
        Err(refusal) => refusal,
    };
    if let Some(taken) = port_in_use(id, &refusal) {
        return Err(taken);
    }
    let Ok(Found::Node(node)) = found else {
        return Err(refusal.into_error(format!("start the node `{id}`")));
    };
    Err(fail(inner, &node, refusal).await)
}

/// Starts a node that is there and does not run.
///
/// # Errors
/// `PortInUse`, and nothing has changed; `SpawnFailed`, and the node is failed.
pub(crate) async fn again(
    inner: &Arc<Inner>,
    node: &Arc<Node>,
    config: &SpawnConfig,
) -> Result<()> {
    let before = node.now();
    if inner.facts.same_host {
        for port in before.record.ports.values() {
            ports::probe(config.bind_address, *port)?;
        }
    }
    place(inner, node, config).await?;
    begin(inner, node).await?;
    fault::point("docker-start-after-note").cannot("start the node")?;
    set_policy(inner, node, &first_policy(inner, config)).await?;
    fault::point("docker-start-after-policy").cannot("start the node")?;
    let refusal = match start(&inner.engine, &node.container).await {
        Ok(()) => {
            return match nodes::refresh(inner, &node.container).await? {
                Found::Node(_) => Ok(()),
                _ => Err(gone(&node.id)),
            };
        }
        Err(refusal) => refusal,
    };
    if let Some(taken) = port_in_use(&node.id, &refusal) {
        // As it was before.
        set_goal(inner, node, before.goal).await?;
        set_policy(inner, node, &Policy::NONE).await?;
        return Err(taken);
    }
    Err(fail(inner, node, refusal).await)
}

/// Starts a node whose start was cut short, by what is there of its place.
///
/// # Errors
/// As [`again`].
pub(crate) async fn carry_on(inner: &Arc<Inner>, node: &Arc<Node>) -> Result<()> {
    // Nobody waits for it: its policy is in force at once.
    set_policy(inner, node, &Policy::of(&node.now().record.config)).await?;
    match start(&inner.engine, &node.container).await {
        Ok(()) => Ok(()),
        Err(refusal) => {
            nodes::refresh(inner, &node.container).await?;
            Err(fail(inner, node, refusal).await)
        }
    }
}

/// Makes durable that the node shall run from now on, and turns to a new start.
pub(crate) async fn begin(inner: &Arc<Inner>, node: &Arc<Node>) -> Result<()> {
    let before = node.now().observed;
    let (behind, log_from) = (before.started_at, before.finished_at);
    let (noting, id, uid) = (Arc::clone(inner), node.id.clone(), node.uid.clone());
    blocking(move || {
        noting.notes.change(&id, &uid, Durable::Yes, |it| {
            it.goal = Goal::Running;
            it.last_failure = None;
            it.stopped_by_other = false;
            it.behind = behind;
            it.log_from = log_from;
        })
    })
    .await?;
    inner.registry.update(node, |it| {
        it.goal = Goal::Running;
        it.last_failure = None;
        it.stopped_by_other = false;
        it.since = None;
        it.log_from = log_from;
        it.tail.clear();
    });
    Ok(())
}

/// Makes durable what is asked of the node.
pub(crate) async fn set_goal(inner: &Arc<Inner>, node: &Arc<Node>, goal: Goal) -> Result<()> {
    let (noting, id, uid) = (Arc::clone(inner), node.id.clone(), node.uid.clone());
    let next = goal.clone();
    blocking(move || {
        noting
            .notes
            .change(&id, &uid, Durable::Yes, |it| it.goal = next)
    })
    .await?;
    inner.registry.update(node, |it| it.goal = goal);
    Ok(())
}

/// Gives the container a restart policy, if it has another one.
pub(crate) async fn set_policy(inner: &Arc<Inner>, node: &Node, policy: &Policy) -> Result<()> {
    if node.now().observed.policy == *policy {
        return Ok(());
    }
    let mut left = POLICY_TRIES;
    loop {
        let body = ContainerUpdateBody {
            restart_policy: Some(policy.to_engine()),
            ..ContainerUpdateBody::default()
        };
        let asked = inner.engine.docker.update_container(&node.container, body);
        let fault = match inner.engine.ask(WORK, asked).await {
            Ok(_) => break,
            // It is gone, which the next look tells.
            Err(fault) if fault.status() == Some(404) => return Ok(()),
            Err(fault) => fault,
        };
        left -= 1;
        if left == 0 || !translate::is_ended_meanwhile(&fault.to_string()) {
            let what = format!("change the restart policy of the node `{}`", node.id);
            return Err(fault.into_error(what));
        }
        // Nothing was changed; in a moment the engine knows that it ended.
        ends_within(inner, node, END_LIMIT).await;
    }
    let policy = policy.clone();
    inner.registry.update(node, |it| {
        Arc::make_mut(&mut it.observed).policy = policy;
    });
    Ok(())
}

/// The engine's start, which returns when the program was executed.
async fn start(engine: &Engine, container: &str) -> Result<(), Fault> {
    let asked = engine
        .docker
        .start_container(container, None::<StartContainerOptions>);
    engine.ask(WORK, asked).await
}

/// Waits until the engine says that the container does not run, or for so long; `false` when it said nothing in that time. What
/// it says may be that it cannot wait: the next look tells how it is.
pub(crate) async fn ends_within(inner: &Inner, node: &Node, limit: Duration) -> bool {
    let options = WaitContainerOptionsBuilder::new()
        .condition("not-running")
        .build();
    let mut ended = inner
        .engine
        .docker
        .wait_container(&node.container, Some(options));
    tokio::time::timeout(limit, ended.next()).await.is_ok()
}

fn port_in_use(id: &NodeId, refusal: &Fault) -> Option<Error> {
    let words = refusal.to_string();
    translate::is_port_taken(&words).then(|| {
        error(
            ErrorKind::PortInUse,
            format!(
                "a port of the node `{id}` is taken: {}",
                translate::one_line(&words)
            ),
        )
        .with_hint("Choose another port, or 0 to have a free one allocated.")
    })
}

fn gone(id: &NodeId) -> Error {
    error(
        ErrorKind::Unavailable,
        format!("the container of the node `{id}` was removed meanwhile"),
    )
    .with_hint("The same call makes it anew.")
}

/// Makes durable that a start failed, and gives the error.
async fn fail(inner: &Arc<Inner>, node: &Arc<Node>, refusal: Fault) -> Error {
    let failure = match &refusal {
        Fault::Refused { message, .. } if translate::is_left_over(message) => {
            return left_over(node).with_source(refusal);
        }
        Fault::Refused { status, message } => match translate::known_start_failure(message) {
            Some(failure) => failure,
            None if translate::is_gone(message) => return gone(&node.id),
            // An engine that fails itself, or refuses this user, says nothing of the node.
            None if *status >= 500 || matches!(*status, 401 | 403) => {
                return refusal.into_error(not_started(node));
            }
            None => translate::start_failure(message),
        },
        _ => return refusal.into_error(not_started(node)),
    };
    failed(inner, node, failure).await
}

fn not_started(node: &Node) -> String {
    format!("start the node `{}`", node.id)
}

/// The error of a start that is in the way of itself: an engine that was killed in the middle of one, or under a program that
/// ended meanwhile, may keep a container's shim for ever. It says nothing of the node, which starts once that is gone.
pub(crate) fn left_over(node: &Node) -> Error {
    error(
        ErrorKind::Unavailable,
        format!(
            "an engine that was killed has left something of the node `{}` that it knows nothing of",
            node.id
        ),
    )
    .with_hint(format!(
        "End the process `containerd-shim-runc-v2` that has `-id {}` among its arguments, with its children: the node is then started.",
        node.container
    ))
}

/// Makes durable that a node failed, which does not run, and gives the error.
pub(crate) async fn failed(inner: &Arc<Inner>, node: &Arc<Node>, failure: Failure) -> Error {
    let goal = Goal::Failed {
        failure: failure.clone(),
    };
    let noted = async {
        set_goal(inner, node, goal).await?;
        // An engine that is restarted would try it again.
        set_policy(inner, node, &Policy::NONE).await
    };
    if let Err(e) = noted.await {
        tracing::warn!(node = %node.id, error = %e, "the failure of a node is not noted");
    }
    let root = match translate::lacks_rights(&failure.log_tail) {
        true => node.now().record.root,
        false => Root::NotAsked,
    };
    let error = Error::spawn_failed(&node.id, failure);
    match root {
        Root::NotAsked => error,
        Root::Refused => error.with_hint(
            "Set `docker.security.run_as_image_user = true`, with `docker.security.cap_add = [\"CHOWN\", \"DAC_OVERRIDE\", \"FOWNER\", \"SETGID\", \"SETUID\"]` for an entrypoint that takes its data over and drops its rights; or name the image's own user by `docker.user`.",
        ),
        Root::Granted => error.with_hint(
            "Add what the image's entrypoint needs to `docker.security.cap_add`: most take `CHOWN`, `DAC_OVERRIDE`, `FOWNER`, `SETGID` and `SETUID`.",
        ),
    }
}

/// Sees that the data is where it was, and puts the secrets where the program finds them.
async fn place(inner: &Arc<Inner>, node: &Arc<Node>, config: &SpawnConfig) -> Result<()> {
    let record = node.now().record;
    // As it was decided when the container was made.
    let user = node.now().observed.user.ok_or_else(|| {
        error(
            ErrorKind::Corrupt,
            format!(
                "the container of the node `{}` has no user by numbers",
                node.id
            ),
        )
    })?;
    let began = node.now().observed.started_at.is_some();
    match &record.data {
        DataPlace::Volume { .. } => {
            let secrets = volumes::secrets_name(&node.id);
            let filled = (!config.secrets.is_empty()).then_some((secrets.as_str(), config));
            // What made it may not have come as far as to make these.
            let data = (!began).then(|| volumes::data_name(&node.id));
            let (engine, owner) = (&inner.engine, &inner.install.owner);
            for name in data.iter().chain(filled.is_some().then_some(&secrets)) {
                volumes::ensure(engine, owner, &node.id, &node.uid, name).await?;
            }
            if data.is_none() && filled.is_none() {
                return Ok(());
            }
            let image = node.now().observed.image.clone();
            volumes::prepare(
                engine,
                owner,
                &node.id,
                &image,
                data.as_deref(),
                filled,
                user,
            )
            .await
        }
        DataPlace::Path { path, ours } => {
            let (looking, id) = (Arc::clone(inner), node.id.clone());
            let (path, ours, uid, config) = (path.clone(), *ours, node.uid.clone(), config.clone());
            let missing = blocking(move || {
                looking.secrets.write(&id, &uid, &config, user)?;
                looking.secrets.clear_left(&id, Some(&uid))?;
                let site = looking.data.site(&path)?;
                if !began {
                    // Nothing can be in it yet: what made the container may not have come as far as to make it.
                    let marker = Marker {
                        owner: looking.install.owner.clone(),
                        node_id: id,
                        uid,
                    };
                    let user = Some((user.uid, user.gid));
                    return site.ensure(&marker, user, ours).map(|_| None);
                }
                // It was there then, and is not made again: an empty one in its place would hide that the data is elsewhere.
                let why = match site.check(&looking.install.owner, &id) {
                    Ok(data::Found::Nothing) => "is gone",
                    Ok(data::Found::Unmarked) if ours => {
                        "is another directory than the one that was made for the node"
                    }
                    Err(e) if e.kind() == ErrorKind::OwnedByOther => {
                        "was made for another node or agent"
                    }
                    Err(e) => return Err(e),
                    Ok(_) => return Ok(None),
                };
                let message = format!("its data directory `{}` {why}", path.display());
                Ok(Some(Failure::new(FailureReason::DataUnavailable, message)))
            })
            .await?;
            match missing {
                Some(failure) => Err(failed(inner, node, failure).await),
                None => Ok(()),
            }
        }
    }
}
