//! Services and secrets: what a node has beside its pod and claim.

use std::{fmt::Debug, sync::Arc, time::Duration};

use grid_platform_api::{ErrorKind, NodeId, NodeUid, Result};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Secret, Service},
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
    core::PartialObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};

use crate::{
    claims::{self, There, foreign},
    error::{Fault, error},
    platform::Inner,
    translate::{Read, label, ownership},
};

/// How long a name may be taken by an object that is being deleted, and how often is looked.
const GONE_LIMIT: Duration = Duration::from_secs(30);
const GONE_PAUSE: Duration = Duration::from_millis(50);

/// An object beside a pod.
pub(crate) trait Beside:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
{
    /// What it is, as `kubectl` has it.
    const WHAT: &'static str;
}

impl Beside for Service {
    const WHAT: &'static str = "service";
}

impl Beside for Secret {
    const WHAT: &'static str = "secret";
}

/// Sees that an object of this incarnation is there, and gives it as it is. One of an earlier incarnation of ours is deleted first.
///
/// # Errors
/// `OwnedByOther`; the cluster's.
pub(crate) async fn ensure<K: Beside>(
    inner: &Arc<Inner>,
    id: &NodeId,
    uid: &NodeUid,
    object: &K,
) -> Result<K, Trouble> {
    let what = K::WHAT;
    let name = id.native_name();
    let api = inner.access.api::<K>();
    let deadline = Instant::now() + GONE_LIMIT;
    loop {
        let made = inner
            .write(
                format!("make the {what} `{name}`"),
                api.create(&PostParams::default(), object),
            )
            .await?;
        match made {
            Ok(made) => return Ok(made),
            Err(fault) if fault.is_already_exists() => {}
            Err(fault) => return Err(Trouble::Refused(fault)),
        }
        let there = inner
            .access
            .call(format!("look at the {what} `{name}`"), api.get_opt(&name))
            .await
            .map_err(Trouble::Refused)?;
        let Some(there) = there else {
            continue;
        };
        match ownership(there.meta(), &inner.install.owner) {
            Read::Ours(its) => {
                let deleted = there.meta().deletion_timestamp.is_some();
                if its.as_deref() == Some(uid.as_str()) && !deleted {
                    return Ok(there);
                }
                if !deleted {
                    is_left_over(inner, id, uid).await?;
                    delete_one::<K>(inner, id, &there.uid().unwrap_or_default()).await?;
                }
            }
            Read::Theirs(owner) => {
                let namespace = &inner.access.namespace;
                return Err(foreign(what, id, namespace, owner.as_deref()).into());
            }
            Read::Damaged(_) => return Err(foreign(what, id, &inner.access.namespace, None).into()),
        }
        if Instant::now() > deadline {
            return Err(error(
                ErrorKind::Unconfirmed,
                format!("the {what} `{name}` of an earlier node is deleted and still there"),
            )
            .with_hint(format!(
                "`kubectl -n {} get {what} {name} -o yaml` shows what keeps it; the same call succeeds once it is gone.",
                inner.access.namespace
            ))
            .into());
        }
        sleep(GONE_PAUSE).await;
    }
}

/// Sees that what is there under a node's name belongs to no other node than this incarnation: one whose claim was not known may have it.
///
/// # Errors
/// That there is one; `Corrupt` where it cannot be told; the cluster's.
async fn is_left_over(inner: &Arc<Inner>, id: &NodeId, uid: &NodeUid) -> Result<()> {
    match claims::look(inner, id).await? {
        There::Ours(claim) if claim.record.as_ref().is_some_and(|it| it.uid != *uid) => Err(error(
            ErrorKind::Unavailable,
            format!("the node `{id}` is made by somebody else just now"),
        )
        .with_hint("Try again: what it is then is looked at first.")),
        _ => Ok(()),
    }
}

/// Why an object is not there.
pub(crate) enum Trouble {
    /// The cluster did not do it.
    Refused(Fault),
    /// It cannot be.
    Other(grid_platform_api::Error),
}

impl From<grid_platform_api::Error> for Trouble {
    fn from(error: grid_platform_api::Error) -> Self {
        Self::Other(error)
    }
}

impl Trouble {
    pub(crate) fn into_error(self) -> grid_platform_api::Error {
        match self {
            Self::Refused(fault) => fault.into_error(),
            Self::Other(error) => error,
        }
    }
}

async fn delete_one<K: Beside>(inner: &Arc<Inner>, id: &NodeId, uid: &str) -> Result<()> {
    let name = id.native_name();
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let api = inner.access.api::<K>();
    let asked = inner
        .write(
            format!("delete the {} `{name}`", K::WHAT),
            api.delete(&name, &params),
        )
        .await?;
    match asked {
        Ok(_) => Ok(()),
        Err(fault) if fault.is_not_found() || fault.is_conflict() => Ok(()),
        Err(fault) => Err(fault.into_error()),
    }
}

/// Deletes the object of an id, if it is ours and of this incarnation (`None` is of any).
///
/// # Errors
/// The cluster's.
pub(crate) async fn delete<K: Beside>(
    inner: &Arc<Inner>,
    id: &NodeId,
    of: Option<&NodeUid>,
) -> Result<()> {
    let name = id.native_name();
    let api = inner.access.api::<K>();
    let there = inner
        .access
        .call(
            format!("look at the {} `{name}`", K::WHAT),
            api.get_opt(&name),
        )
        .await
        .map_err(Fault::into_error)?;
    let Some(there) = there else {
        return Ok(());
    };
    match ownership(there.meta(), &inner.install.owner) {
        Read::Ours(its) if of.is_none_or(|of| its.as_deref() == Some(of.as_str())) => {
            delete_one::<K>(inner, id, &there.uid().unwrap_or_default()).await
        }
        _ => Ok(()),
    }
}

/// All objects of this owner: of which node, of which incarnation.
///
/// # Errors
/// The cluster's.
pub(crate) async fn all<K: Beside>(inner: &Arc<Inner>) -> Result<Vec<(NodeId, Option<NodeUid>)>> {
    let api = inner.access.api::<K>();
    let owner = &inner.install.owner;
    let params =
        ListParams::default().labels(&format!("{}=true,{}={owner}", label::GRID, label::OWNER));
    let found = inner
        .access
        .call(format!("list the {}s", K::WHAT), api.list_metadata(&params))
        .await
        .map_err(Fault::into_error)?;
    let read = |it: &PartialObjectMeta<K>| {
        let id = NodeId::from_native_name(it.metadata.name.as_deref()?)?;
        let uid = it.labels().get(label::UID);
        Some((id, uid.and_then(|it| it.parse().ok())))
    };
    Ok(found.items.iter().filter_map(read).collect())
}
