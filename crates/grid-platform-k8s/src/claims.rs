//! Claims: the record of a node, what is asked of it, and its data.

use std::sync::Arc;

use grid_platform_api::{Error, ErrorKind, NodeId, Result};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, timeout_at};

use crate::{
    error::{Fault, error},
    platform::Inner,
    registry::Farewell,
    translate::{
        self, ClaimView, Notes, Read, Record, annotation, label, notes_text, read_claim,
        record_text,
    },
};

/// How often a change of a claim is tried again that somebody else changed meanwhile: the cluster itself does when it binds it.
const TRIES: usize = 10;
/// How long a claim may take to be gone, once nothing uses it.
const GONE_LIMIT: Duration = Duration::from_secs(60);

/// What there is under a name.
pub(crate) enum There {
    /// Nothing.
    Nothing,
    /// A claim of ours.
    Ours(Arc<ClaimView>),
}

/// The error of an object that has a node's name and is not one that this owner can use.
pub(crate) fn foreign(what: &str, id: &NodeId, namespace: &str, owner: Option<&str>) -> Error {
    let name = id.native_name();
    let whose = match owner {
        Some(_) => "belongs to another agent",
        None => "was not made by this agent",
    };
    error(
        ErrorKind::OwnedByOther,
        format!("the {what} `{name}` {whose}"),
    )
    .with_node(id)
    .with_hint(format!(
        "Look whose it is (`kubectl -n {namespace} get {what} {name} --show-labels`) and delete it, or choose another id."
    ))
}

/// The error of an object of ours that cannot be understood.
pub(crate) fn damaged(what: &str, id: &NodeId, namespace: &str, why: &str) -> Error {
    let name = id.native_name();
    error(
        ErrorKind::Corrupt,
        format!("the {what} `{name}` cannot be understood: {why}"),
    )
    .with_node(id)
    .with_hint(format!(
        "Somebody edited it (`kubectl -n {namespace} get {what} {name} -o yaml`): put back what was changed, or save its data and delete it."
    ))
}

/// The error of a pod of ours whose claim somebody took away, and with it the record of its node.
pub(crate) fn gone_beneath(id: &NodeId) -> Error {
    let name = id.native_name();
    error(
        ErrorKind::Corrupt,
        format!("the claim `{name}` of the node `{id}` is gone, and its pod runs on"),
    )
    .with_node(id)
    .with_hint(format!(
        "Save the data while the pod has it, then `grid rm {id}`, which ends the pod."
    ))
}

/// Asks the cluster for the claim of an id, and takes in what it says.
///
/// # Errors
/// `OwnedByOther`, `Corrupt`; when the cluster cannot be asked.
pub(crate) async fn look(inner: &Arc<Inner>, id: &NodeId) -> Result<There> {
    let name = id.native_name();
    let api = inner.access.api::<PersistentVolumeClaim>();
    // What comes to be known while the answer is under way is newer than it.
    let known = inner.registry.get(id).claim;
    let found = inner
        .access
        .call(format!("look at the claim `{name}`"), api.get_opt(&name))
        .await
        .map_err(Fault::into_error)?;
    let Some(found) = found else {
        if let Some(known) = known {
            inner
                .registry
                .forget_claim(id, &known.uid, Farewell::ForGood);
        }
        return Ok(There::Nothing);
    };
    read(inner, id, &found)
}

fn read(inner: &Arc<Inner>, id: &NodeId, claim: &PersistentVolumeClaim) -> Result<There> {
    let namespace = &inner.access.namespace;
    match read_claim(claim, &inner.install.owner) {
        Read::Ours(view) if view.node_id == *id => {
            inner.registry.learn_claim(view.clone());
            Ok(There::Ours(Arc::new(view)))
        }
        Read::Ours(_) => Err(foreign("persistentvolumeclaim", id, namespace, None)),
        Read::Theirs(owner) => Err(foreign(
            "persistentvolumeclaim",
            id,
            namespace,
            owner.as_deref(),
        )),
        Read::Damaged(why) => Err(damaged("persistentvolumeclaim", id, namespace, &why)),
    }
}

/// What came of making a claim.
pub(crate) enum Made {
    /// It is there now, with our record.
    Yes(Arc<ClaimView>),
    /// One of its name was there.
    Exists,
}

/// Makes the claim of a node: from here on its intent is durable.
///
/// # Errors
/// That nothing may be made now; what the cluster says is a fault.
pub(crate) async fn create(
    inner: &Arc<Inner>,
    record: &Record,
    notes: &Notes,
) -> Result<Result<Made, Fault>> {
    let id = &record.config.node_id;
    let claim = translate::claim(inner.frame(), record, notes);
    let api = inner.access.api::<PersistentVolumeClaim>();
    let made = inner
        .write(
            format!("make the claim `{}`", id.native_name()),
            api.create(&PostParams::default(), &claim),
        )
        .await?;
    Ok(match made {
        Ok(made) => {
            inner.take_claim(&made);
            match read_claim(&made, &inner.install.owner) {
                Read::Ours(view) => Ok(Made::Yes(Arc::new(view))),
                _ => Ok(Made::Exists),
            }
        }
        Err(fault) if fault.is_already_exists() => Ok(Made::Exists),
        Err(fault) => Err(fault),
    })
}

/// What a claim's annotations and labels become.
pub(crate) enum Change<'a> {
    /// The record of a new node, on kept data.
    Record(&'a Record, &'a Notes),
    /// What is asked of its node.
    Notes(&'a Notes),
    /// No record: kept data.
    Bare,
}

impl Change<'_> {
    fn metadata(&self) -> Value {
        match self {
            Self::Record(record, notes) => json!({
                "labels": { label::UID: record.uid.as_str() },
                "annotations": {
                    annotation::RECORD: record_text(record),
                    annotation::NOTES: notes_text(notes),
                },
            }),
            Self::Notes(notes) => {
                json!({ "annotations": { annotation::NOTES: notes_text(notes) } })
            }
            Self::Bare => json!({
                "labels": { label::UID: null },
                "annotations": { annotation::RECORD: null, annotation::NOTES: null },
            }),
        }
    }
}

/// Changes a claim of ours, which is the one that is known: nothing is written onto another one of its name, and onto nothing that
/// was changed meanwhile but by who binds it.
///
/// # Errors
/// `NotFound` when it is gone; `Conflict` when its record is another one by now; the cluster's.
pub(crate) async fn change(
    inner: &Arc<Inner>,
    known: &ClaimView,
    change: Change<'_>,
) -> Result<Arc<ClaimView>> {
    let id = &known.node_id;
    let name = id.native_name();
    let api = inner.access.api::<PersistentVolumeClaim>();
    let mut now = Arc::new(known.clone());
    for _ in 0..TRIES {
        let mut metadata = change.metadata();
        metadata["uid"] = json!(now.uid);
        metadata["resourceVersion"] = json!(now.resource_version);
        let patch = json!({ "metadata": metadata });
        let patched = inner
            .write(
                format!("change the claim `{name}`"),
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)),
            )
            .await?;
        match patched {
            Ok(claim) => {
                return match read(inner, id, &claim)? {
                    There::Ours(view) => Ok(view),
                    There::Nothing => Err(Error::not_found(id)),
                };
            }
            Err(fault) if fault.is_conflict() => match look(inner, id).await? {
                There::Ours(view) if view.uid == known.uid && view.record == known.record => {
                    now = view;
                }
                // An earlier call did it and never heard so.
                There::Ours(view)
                    if view.uid == known.uid
                        && view.record.is_none()
                        && matches!(change, Change::Bare) =>
                {
                    return Ok(view);
                }
                There::Ours(_) => {
                    return Err(error(
                        ErrorKind::Conflict,
                        format!("the node `{id}` was changed by somebody else meanwhile"),
                    )
                    .with_retryable(true)
                    .with_hint("Try again: what it is now is looked at first."));
                }
                There::Nothing => return Err(Error::not_found(id)),
            },
            Err(fault) if fault.is_not_found() => {
                inner
                    .registry
                    .forget_claim(id, &known.uid, Farewell::ForGood);
                return Err(Error::not_found(id));
            }
            Err(fault) => return Err(fault.into_error()),
        }
    }
    Err(error(
        ErrorKind::Unavailable,
        format!("somebody else changes the claim `{name}` all the time"),
    ))
}

/// Deletes a claim of ours, and returns when it is gone.
///
/// # Errors
/// `Unconfirmed` when something keeps it; the cluster's.
pub(crate) async fn delete(inner: &Arc<Inner>, known: &ClaimView) -> Result<()> {
    let id = &known.node_id;
    let name = id.native_name();
    let api = inner.access.api::<PersistentVolumeClaim>();
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(known.uid.clone()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let asked = inner
        .write(
            format!("delete the claim `{name}`"),
            api.delete(&name, &params),
        )
        .await?;
    match asked {
        Ok(_) => {}
        Err(fault) if fault.is_not_found() || fault.is_conflict() => {
            inner
                .registry
                .forget_claim(id, &known.uid, Farewell::ForGood);
            return Ok(());
        }
        Err(fault) => return Err(fault.into_error()),
    }
    gone(inner, known).await
}

/// Waits until a claim is gone that was deleted.
///
/// # Errors
/// `Unconfirmed` when something keeps it; the cluster's.
pub(crate) async fn gone(inner: &Arc<Inner>, known: &ClaimView) -> Result<()> {
    let id = &known.node_id;
    let name = id.native_name();
    let is_gone = |inner: &Inner| {
        let claim = inner.registry.get(id).claim;
        claim.is_none_or(|it| it.uid != known.uid)
    };
    let mut news = inner.registry.version();
    let deadline = Instant::now() + GONE_LIMIT;
    while !is_gone(inner) {
        if timeout_at(deadline, news.changed()).await.is_err() {
            break;
        }
    }
    let api = inner.access.api::<PersistentVolumeClaim>();
    let left = inner
        .access
        .call(format!("look at the claim `{name}`"), api.get_opt(&name))
        .await
        .map_err(Fault::into_error)?;
    match left.filter(|it| it.uid().as_deref() == Some(&known.uid)) {
        None => {
            inner
                .registry
                .forget_claim(id, &known.uid, Farewell::ForGood);
            Ok(())
        }
        Some(left) => {
            let keeps = left.finalizers().join("`, `");
            Err(error(
                ErrorKind::Unconfirmed,
                format!("the claim `{name}` is deleted and still there: `{keeps}` keeps it"),
            )
            .with_hint(format!(
                "`kubectl -n {} describe pvc {name}` shows what uses it; the same call succeeds once it is gone.",
                inner.access.namespace
            )))
        }
    }
}
