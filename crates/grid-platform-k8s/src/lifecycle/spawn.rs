//! A node that shall run: its objects, its record, its pod.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use grid_platform_api::{
    Digest, Error, ErrorKind, Failure, FailureReason, NodeId, NodeState, NodeUid, Program, Result,
    SpawnConfig, SpawnedNode, Timestamp, fault,
};
use grid_platform_host::{
    error::Context,
    install::random,
    work::{Turn, detached},
};
use k8s_openapi::api::core::v1::{Secret, Service};
use tokio::time::{Instant, timeout_at};

use super::{ready, remove, stop};
use crate::{
    claims::{self, Change, Made, There},
    config::Allow,
    error::{Fault, PLATFORM, error},
    objects::{self, Trouble},
    platform::Inner,
    pods,
    registry::Entry,
    translate::{
        self, ClaimView, Goal, Notes, PodView, Record, account_of, inside_ports, is_limit_wanted,
        one_line, refusal,
    },
};

/// How often a node that nobody knew of may turn up where one is being made.
const TRIES: usize = 5;
/// How long a pod waits for its claim's volume. A pod that comes before it is looked at again by the scheduler after a second at the
/// earliest; a claim whose class waits for its first pod never has one by then.
const BOUND_LIMIT: Duration = Duration::from_millis(500);

/// [`Platform::spawn_node`](grid_platform_api::Platform::spawn_node).
pub(crate) async fn spawn(inner: &Arc<Inner>, config: SpawnConfig) -> Result<SpawnedNode> {
    config.validate()?;
    check_supported(inner, &config)?;
    let id = config.node_id.clone();
    let call = spawn_in_turn(Arc::clone(inner), config);
    let spawned = inner.locks.interruptible(&id, call).await?;
    fault::point("k8s-spawn-before-answer").cannot("answer")?;
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
    let absent = [
        ("pids_limit", config.pids_limit.is_some()),
        ("open_files_limit", config.open_files_limit.is_some()),
    ];
    for (name, wanted) in absent {
        if wanted {
            return unsupported(
                &format!("keep `{name}`, which a pod has no field for"),
                &format!("Leave `{name}` out; the hosts' kubelets may have a limit of their own."),
            );
        }
    }
    if config.storage_path.is_some() {
        return unsupported(
            "use a storage path, as data is in volumes of the cluster",
            "Leave `storage_path` out; `kubernetes.overlay.storage_class` says what volumes are.",
        );
    }
    if config.stop.signal != grid_platform_api::StopSignal::Term {
        return unsupported(
            &format!(
                "send `{}`, as a pod is ended by its image's stop signal",
                config.stop.signal.name()
            ),
            "Leave the signal out, and set `STOPSIGNAL` in the image if it is not `SIGTERM`.",
        );
    }
    if !config.secrets.is_empty() && inner.access.is_plain {
        return Err(error(
            ErrorKind::NotAllowed,
            format!("the request has secrets, and what goes to the cluster at `{}` can be read on its way", inner.access.server),
        )
        .with_hint("Name an `https://` server in the kubeconfig."));
    }
    if config.adapter.contains_key(PLATFORM) {
        return Err(error(
            ErrorKind::InvalidConfig,
            "the Kubernetes platform has no settings of its own in a request",
        )
        .with_hint("Take `adapter.kubernetes` out: `kubernetes.overlay` in the agent's settings is for all nodes."));
    }
    if config.secrets.values().any(|it| it.is_withheld()) {
        return Err(error(
            ErrorKind::InvalidConfig,
            "the request names secrets without their values",
        )
        .with_hint("Give the values with the request: a stored request does not have them."));
    }
    if let Allow::Only(allowed) = &inner.config.images
        && !allowed.iter().any(|it| covers(it, image))
    {
        return Err(error(
            ErrorKind::NotAllowed,
            format!("the image `{image}` is not one that may be a node"),
        )
        .with_hint("Add it to `images` in the agent's settings."));
    }
    account_of(&inner.config, config).map(drop)
}

/// Whether an allowed name covers a reference: the same text, or its repository without a version.
fn covers(allowed: &str, reference: &str) -> bool {
    let name = reference.split('@').next().unwrap_or(reference);
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let name = match name[last..].find(':') {
        Some(at) => &name[..last + at],
        None => name,
    };
    allowed == reference || allowed == name
}

async fn spawn_in_turn(inner: Arc<Inner>, config: SpawnConfig) -> Result<SpawnedNode> {
    for _ in 0..TRIES {
        let turn = inner.turns.take(&config.node_id).await;
        inner.synced().await?;
        let entry = inner.registry.get(&config.node_id);
        if entry.record().is_some() {
            return spawn_present(&inner, config, entry, turn).await;
        }
        let mode = config.ready;
        let (making, request) = (Arc::clone(&inner), config.clone());
        let work = async move {
            let made = make(&making, request, entry.claim).await;
            drop(turn);
            made
        };
        if let Some(made) = detached(&inner.closing, work).await? {
            return ready::wait(&inner, &made.record, &made.pod, mode).await;
        }
    }
    Err(error(
        ErrorKind::Unavailable,
        "somebody else makes and removes the node's claim all the time",
    ))
}

/// A node that was made: its record, and the pod that was started for it.
struct New {
    record: Record,
    pod: PodView,
}

/// Makes a node that is not there, on kept data if there is any. `None` when it is there after all.
async fn make(
    inner: &Arc<Inner>,
    config: SpawnConfig,
    kept: Option<Arc<ClaimView>>,
) -> Result<Option<New>> {
    let id = config.node_id.clone();
    if let Some(going) = kept.as_ref().filter(|it| it.is_terminating) {
        claims::gone(inner, going).await?;
        return Ok(None);
    }
    // What an earlier node of the id left running would be on the same data.
    if inner.registry.get(&id).pod.is_some() {
        // One whose claim cannot be understood is no earlier one.
        if kept.is_none() && matches!(claims::look(inner, &id).await?, There::Ours(_)) {
            return Ok(None);
        }
        pods::end(inner, &id, config.stop.grace, false).await?;
    }
    let uid = NodeUid::from_bytes(random()?);
    let mut record = Record {
        version: Record::VERSION,
        uid: uid.clone(),
        digest: Digest::of(&config, &inner.install.key),
        inside: inside_ports(&config),
        config: without_secrets(config.clone()),
        ports: BTreeMap::new(),
        host: None,
        created_at: Timestamp::now(),
    };
    translate::check_room(&record)?;
    let beside = beside(inner, &uid, &config).await;
    fault::point("k8s-spawn-before-claim").cannot("make the claim")?;
    (record.host, record.ports) = match beside {
        Ok(place) => place,
        // An earlier call made a node and never heard so, nor has the watch yet.
        Err(_) if inner.registry.get(&id).record().is_some() => {
            clear(inner, &id, &uid).await?;
            return Ok(None);
        }
        Err(trouble) => {
            undo(inner, &id, &uid, &trouble).await;
            return Err(trouble.into_error());
        }
    };
    let claim = match claim(inner, &record, kept.as_deref()).await {
        Ok(Some(claim)) => claim,
        Ok(None) => {
            clear(inner, &id, &uid).await?;
            return Ok(None);
        }
        Err(trouble) => {
            undo(inner, &id, &uid, &trouble).await;
            return Err(trouble.into_error());
        }
    };
    fault::point("k8s-spawn-after-claim").cannot("make the pod")?;
    if kept.is_none() {
        bound(inner, &claim).await;
    }
    match pods::create(inner, &record).await {
        Ok(Ok(pod)) => {
            fault::point("k8s-spawn-after-pod").cannot("wait for the pod")?;
            Ok(Some(New { record, pod }))
        }
        Ok(Err(fault)) => Err(refused(inner, &record, fault).await),
        // Its place is somebody else's: there is no node then.
        Err(e) if e.kind() == ErrorKind::OwnedByOther || e.kind() == ErrorKind::NotAllowed => {
            let data = match kept {
                Some(_) => grid_platform_api::DataPolicy::Keep,
                None => grid_platform_api::DataPolicy::Purge,
            };
            remove::take_back(inner, &id, &record, data).await?;
            Err(e)
        }
        Err(e) => Err(e),
    }
}

/// The request as it is stored.
fn without_secrets(mut config: SpawnConfig) -> SpawnConfig {
    for value in config.secrets.values_mut() {
        *value = grid_platform_api::SecretValue::withheld();
    }
    config
}

/// Sees that secret and service are there; gives where clients reach the node.
async fn beside(
    inner: &Arc<Inner>,
    uid: &NodeUid,
    config: &SpawnConfig,
) -> Result<(Option<String>, BTreeMap<String, u16>), Trouble> {
    let id = &config.node_id;
    if let Some(secret) = translate::secret(inner.frame(), uid, config) {
        objects::ensure::<Secret>(inner, id, uid, &secret).await?;
        fault::point("k8s-spawn-after-secret").cannot("make the service")?;
    }
    match translate::service(inner.frame(), uid, config, &inside_ports(config)) {
        Some(service) => {
            let made = objects::ensure::<Service>(inner, id, uid, &service).await?;
            Ok(translate::service_place(inner.frame(), &made))
        }
        None => Ok((None, BTreeMap::new())),
    }
}

/// Makes the claim, or puts the record onto kept data. `None` when there is a node by now.
async fn claim(
    inner: &Arc<Inner>,
    record: &Record,
    kept: Option<&ClaimView>,
) -> Result<Option<Arc<ClaimView>>, Trouble> {
    let notes = Notes::default();
    if let Some(kept) = kept {
        return match claims::change(inner, kept, Change::Record(record, &notes)).await {
            Ok(claim) => Ok(Some(claim)),
            // It was deleted, or is a node by now.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => Ok(None),
            Err(e) => Err(e.into()),
        };
    }
    match claims::create(inner, record, &notes).await? {
        Ok(Made::Yes(claim)) => Ok(Some(claim)),
        Ok(Made::Exists) => match claims::look(inner, &record.config.node_id).await? {
            There::Nothing => Ok(None),
            There::Ours(claim) if claim.record.as_ref() == Some(record) => Ok(Some(claim)),
            There::Ours(_) => Ok(None),
        },
        Err(fault) => Err(Trouble::Refused(fault)),
    }
}

/// Deletes what was made for a node that did not come to be. Where an answer was lost it may have come to be all the same: then it stays,
/// and the next spawn or `open` finds it.
async fn undo(inner: &Arc<Inner>, id: &NodeId, uid: &NodeUid, trouble: &Trouble) {
    let may_be_done = match trouble {
        Trouble::Refused(fault) => fault.is_lost(),
        Trouble::Other(e) => e.is_retryable(),
    };
    if may_be_done {
        return;
    }
    if let Err(e) = clear(inner, id, uid).await {
        tracing::warn!(node = %id, error = %e, "what was made for the node stays until it is spawned again");
    }
}

async fn clear(inner: &Arc<Inner>, id: &NodeId, uid: &NodeUid) -> Result<()> {
    objects::delete::<Service>(inner, id, Some(uid)).await?;
    objects::delete::<Secret>(inner, id, Some(uid)).await
}

/// Waits until a claim that was just made has its volume, or for as long as is worth while.
async fn bound(inner: &Arc<Inner>, claim: &ClaimView) {
    let mut news = inner.registry.version();
    let deadline = Instant::now() + BOUND_LIMIT;
    loop {
        let now = inner.registry.get(&claim.node_id).claim;
        if now.is_none_or(|it| it.is_bound || it.uid != claim.uid) {
            return;
        }
        if timeout_at(deadline, news.changed()).await.is_err() {
            return;
        }
    }
}

/// The error of a pod that the cluster did not make. One that it never will is the node's failure.
async fn refused(inner: &Arc<Inner>, record: &Record, fault: Fault) -> Error {
    let words = one_line(&fault.to_string());
    let reason = match refusal(&words) {
        Some(reason) => reason,
        None if fault.status() == Some(422) => FailureReason::PlatformRefused,
        None => return fault.into_error(),
    };
    let failure = Failure::new(reason, format!("the cluster did not make its pod: {words}"));
    let error = fail(inner, record, failure).await;
    match is_limit_wanted(&words) {
        true => error.with_hint("A quota of the namespace wants that limit of every node: `grid update ID --memory-limit-mb N`, or `--cpu-limit-millis N`, sets it."),
        false => error,
    }
}

/// Notes that a start failed, and ends what runs of it. Gives the error of the start.
pub(super) async fn fail(inner: &Arc<Inner>, record: &Record, failure: Failure) -> Error {
    let id = &record.config.node_id;
    let goal = Goal::Failed {
        failure: failure.clone(),
    };
    match stop::end(inner, record, goal, false).await {
        Ok(()) => Error::spawn_failed(id, failure),
        Err(e) if e.kind() == ErrorKind::NotFound => Error::spawn_failed(id, failure),
        Err(e) => e,
    }
}

/// Spawns a node that is there.
async fn spawn_present(
    inner: &Arc<Inner>,
    config: SpawnConfig,
    entry: Entry,
    turn: Turn,
) -> Result<SpawnedNode> {
    let (id, mode) = (config.node_id.clone(), config.ready);
    let (Some(claim), Some(record)) = (entry.claim.clone(), entry.record().cloned()) else {
        return Err(Error::not_found(&id));
    };
    if let Goal::Removing { data } = claim.notes.goal {
        // A remove was cut short: first things first.
        let (removing, known) = (Arc::clone(inner), record.clone());
        let work = async move {
            let removed = remove::finish(&removing, &known, data).await;
            drop(turn);
            removed
        };
        detached(&inner.closing, work).await?;
        return Box::pin(spawn_in_turn(Arc::clone(inner), config)).await;
    }
    if !config.same_request(&record.config, &record.digest, &inner.install.key) {
        return Err(error(
            ErrorKind::Conflict,
            format!("the node `{id}` exists with another request"),
        )
        .with_hint(format!(
            "Change it by `grid update {id}`, or remove it first, keeping its data: `grid rm {id}`."
        )));
    }
    if claim.is_terminating {
        return Err(error(
            ErrorKind::Unavailable,
            format!("somebody deleted the claim of the node `{id}`: its data goes with its pod"),
        )
        .with_hint(format!(
            "Save the data, then `grid rm {id}`: a node on a claim that is being deleted would lose it."
        )));
    }
    let mut entry = entry;
    if entry.pod.is_none() {
        // A start that an earlier call made is as good, also before it is heard of.
        pods::look(inner, &id).await?;
        entry = inner.registry.get(&id);
    }
    if let Some(pod) = entry.own_pod()
        && claim.notes.goal == Goal::Running
        && !pod.is_terminating
        && pods::is_live(&record, pod)
    {
        drop(turn);
        return ready::join(inner, &record, pod, mode).await;
    }
    let (starting, request) = (Arc::clone(inner), config);
    let work = async move {
        let started = again(&starting, &claim, record, &request).await;
        drop(turn);
        started
    };
    let New { record, pod } = detached(&inner.closing, work).await?;
    ready::wait(inner, &record, &pod, mode).await
}

/// Starts a node again that does not run.
async fn again(
    inner: &Arc<Inner>,
    claim: &ClaimView,
    mut record: Record,
    config: &SpawnConfig,
) -> Result<New> {
    let id = &config.node_id;
    let before = inner.registry.shown(id);
    // Where none is known, the cluster was asked just now.
    if inner.registry.get(id).pod.is_some() {
        pods::end(inner, id, config.stop.grace, false).await?;
    }
    let place = beside(inner, &record.uid, config).await;
    let (host, ports) = place.map_err(Trouble::into_error)?;
    // What befell a pod that somebody took away is told on; of a start that was asked for everything begins anew.
    let was_taken = |it: &Arc<SpawnedNode>| it.state == NodeState::Stopped { exit: None };
    let notes = Notes {
        last_failure: before
            .filter(|it| claim.notes.goal == Goal::Running && was_taken(it))
            .and_then(|it| it.last_failure.clone()),
        ..Notes::default()
    };
    // A service that somebody deleted comes back at another address.
    let moved = (&record.host, &record.ports) != (&host, &ports);
    (record.host, record.ports) = (host, ports);
    let change = match moved {
        true => Change::Record(&record, &notes),
        false => Change::Notes(&notes),
    };
    claims::change(inner, claim, change).await?;
    fault::point("k8s-start-after-note").cannot("make the pod")?;
    match pods::create(inner, &record).await? {
        Ok(pod) => {
            fault::point("k8s-start-after-pod").cannot("wait for the pod")?;
            Ok(New { record, pod })
        }
        Err(fault) => Err(refused(inner, &record, fault).await),
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn an_allowed_name_covers_its_versions_or_one() {
        let check = |allowed: &str, reference: &str, expect: bool| {
            assert_eq!(covers(allowed, reference), expect, "{allowed} {reference}");
        };
        check("redis", "redis", true);
        check("redis", "redis:7", true);
        check("redis", "redis@sha256:00", true);
        check("redis", "redis:7@sha256:00", true);
        check("redis:7", "redis:7", true);
        check("redis:7", "redis:8", false);
        check("redis", "evil/redis", false);
        check("host:5000/redis", "host:5000/redis:7", true);
        check("host", "host:5000/redis", false);
    }
}
