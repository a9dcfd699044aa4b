//! Pods: the runs of a node.

use std::{sync::Arc, time::Duration};

use grid_platform_api::{ErrorKind, NodeId, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use tokio::time::{Instant, timeout_at};

use crate::{
    claims::foreign,
    error::{Fault, error},
    platform::Inner,
    registry::Farewell,
    translate::{self, PodView, Read, Record, grace_seconds, read_pod},
};

/// How much longer than its grace a pod may take until it is gone: a busy kubelet takes some ten seconds, an old one always does.
const END_LIMIT: Duration = Duration::from_secs(60);
/// And one whose host is silent: nobody there hears that it shall end.
const LOST_LIMIT: Duration = Duration::from_secs(10);
/// How often a pod of the name turns up that was in the way.
const TRIES: usize = 5;

/// Makes the pod of a node; one that an earlier call made for the same incarnation is as good. What is left of another incarnation
/// is ended first.
///
/// # Errors
/// `OwnedByOther`; the cluster's refusal as a fault.
pub(crate) async fn create(inner: &Arc<Inner>, record: &Record) -> Result<Result<PodView, Fault>> {
    let id = &record.config.node_id;
    let name = id.native_name();
    let pod = translate::pod(inner.frame(), record);
    let against = translate::violations(&pod);
    if !against.is_empty() {
        return Err(error(
            ErrorKind::NotAllowed,
            format!(
                "the pod of `{id}` would not pass the `restricted` level: {}",
                against.join("; ")
            ),
        )
        .with_hint("Change what `kubernetes.overlay` adds to it."));
    }
    let api = inner.access.api::<Pod>();
    for _ in 0..TRIES {
        let made = inner
            .write(
                format!("make the pod `{name}`"),
                api.create(&PostParams::default(), &pod),
            )
            .await?;
        match made {
            Ok(made) => return view(inner, id, &made).map(Ok),
            Err(fault) if fault.is_already_exists() => {}
            Err(fault) => return Ok(Err(fault)),
        }
        let Some(there) = look(inner, id).await? else {
            continue;
        };
        let is_own = there.node_uid.as_ref() == Some(&record.uid);
        if is_own && !there.is_terminating && is_live(record, &there) {
            return Ok(Ok(there));
        }
        end(inner, id, record.config.stop.grace, false).await?;
    }
    Err(error(
        ErrorKind::Unavailable,
        format!("somebody else makes the pod `{name}` all the time"),
    ))
}

/// Whether the pod's program runs or is about to.
pub(crate) fn is_live(record: &Record, pod: &PodView) -> bool {
    use translate::PodPhase::{Pending, Running, Unknown};
    // What others put beside it may run on.
    matches!(pod.phase, Pending | Running | Unknown) && !translate::is_over(record, pod)
}

fn view(inner: &Arc<Inner>, id: &NodeId, pod: &Pod) -> Result<PodView> {
    let namespace = &inner.access.namespace;
    inner.take_pod(pod);
    match read_pod(pod, &inner.install.owner) {
        Read::Ours(view) if view.node_id == *id => Ok(view),
        Read::Theirs(owner) => Err(foreign("pod", id, namespace, owner.as_deref())),
        Read::Ours(_) | Read::Damaged(_) => Err(foreign("pod", id, namespace, None)),
    }
}

/// Asks the cluster for the pod of an id, and takes in what it says.
///
/// # Errors
/// `OwnedByOther`; when the cluster cannot be asked.
pub(crate) async fn look(inner: &Arc<Inner>, id: &NodeId) -> Result<Option<PodView>> {
    match find(inner, id).await? {
        Some(pod) => view(inner, id, &pod).map(Some),
        None => Ok(None),
    }
}

/// Asks the cluster for the pod of an id, whosever it is; that there is none is taken in.
async fn find(inner: &Arc<Inner>, id: &NodeId) -> Result<Option<Pod>> {
    let name = id.native_name();
    let api = inner.access.api::<Pod>();
    // What comes to be known while the answer is under way is newer than it.
    let known = inner.registry.get(id).pod;
    let found = inner
        .access
        .call(format!("look at the pod `{name}`"), api.get_opt(&name))
        .await
        .map_err(Fault::into_error)?;
    if let (None, Some(known)) = (&found, known) {
        inner.registry.forget_pod(id, &known.uid, Farewell::ForGood);
    }
    Ok(found)
}

/// As [`look`], where a pod of somebody else's that has nothing of the node's is none.
///
/// # Errors
/// `OwnedByOther` for one that has the node's data; when the cluster cannot be asked.
async fn look_for_ours(inner: &Arc<Inner>, id: &NodeId) -> Result<Option<PodView>> {
    let Some(pod) = find(inner, id).await? else {
        return Ok(None);
    };
    match view(inner, id, &pod) {
        Err(e) if e.kind() == ErrorKind::OwnedByOther && !has_data(&pod, id) => Ok(None),
        view => view.map(Some),
    }
}

/// Whether a pod has the data of this id's node, whosever it is.
fn has_data(pod: &Pod, id: &NodeId) -> bool {
    let volumes = pod.spec.iter().flat_map(|it| it.volumes.iter().flatten());
    let mut claims = volumes.filter_map(|it| it.persistent_volume_claim.as_ref());
    claims.any(|it| it.claim_name == id.native_name())
}

/// Ends the pod of an id, whatever incarnation it is of, and returns when the cluster confirms that it is gone: with `force` it is taken
/// out of the cluster's books at once, and its program may live on.
///
/// # Errors
/// `Unconfirmed` when it is not gone in time; `OwnedByOther` where somebody else's has the node's data; the cluster's.
pub(crate) async fn end(
    inner: &Arc<Inner>,
    id: &NodeId,
    grace: Duration,
    force: bool,
) -> Result<()> {
    let name = id.native_name();
    let api = inner.access.api::<Pod>();
    // What is known may be behind what the caller was told.
    let mut pod = match inner.registry.get(id).pod {
        Some(pod) => Some(PodView::clone(&pod)),
        None => look_for_ours(inner, id).await?,
    };
    while let Some(now) = pod {
        let params = DeleteParams {
            grace_period_seconds: Some(if force { 0 } else { grace_seconds(grace) }),
            preconditions: Some(Preconditions {
                uid: Some(now.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let asked = inner
            .write(format!("end the pod `{name}`"), api.delete(&name, &params))
            .await?;
        let refused = match asked {
            Ok(_) => {
                wait_gone(inner, id, &now, grace).await;
                None
            }
            Err(fault) if fault.is_not_found() || fault.is_conflict() => Some(fault),
            Err(fault) => return Err(fault.into_error()),
        };
        pod = match (look_for_ours(inner, id).await?, refused) {
            (Some(left), None) if left.uid == now.uid => return Err(unconfirmed(inner, &left)),
            // Not for its uid: what looks into requests has a word in it too.
            (Some(left), Some(fault)) if left.uid == now.uid => return Err(fault.into_error()),
            (other, _) => other,
        };
    }
    Ok(())
}

/// Waits until a pod is gone, or for as long as that may take.
async fn wait_gone(inner: &Inner, id: &NodeId, pod: &PodView, grace: Duration) {
    let mut news = inner.registry.version();
    let begin = Instant::now();
    loop {
        let now = inner.registry.get(id).pod.filter(|it| it.uid == pod.uid);
        let Some(now) = now else {
            return;
        };
        let patience = if now.is_host_lost {
            LOST_LIMIT
        } else {
            END_LIMIT
        };
        if timeout_at(begin + grace + patience, news.changed())
            .await
            .is_err()
        {
            return;
        }
    }
}

fn unconfirmed(inner: &Inner, pod: &PodView) -> grid_platform_api::Error {
    let id = &pod.node_id;
    let host = pod.host.as_deref().unwrap_or("no host");
    let why = match pod.is_host_lost {
        true => format!("its host `{host}` cannot be reached"),
        false => format!("its host `{host}` has not said so"),
    };
    error(
        ErrorKind::Unconfirmed,
        format!("the end of the node `{id}` is not confirmed: {why}"),
    )
    .with_hint(format!(
        "`kubectl -n {namespace} describe pod {name}` says more. If its host is surely dead, `kubectl -n {namespace} delete pod {name} --grace-period=0 --force` gives it up; if it is not, two copies may live then.",
        namespace = inner.access.namespace,
        name = id.native_name()
    ))
}
