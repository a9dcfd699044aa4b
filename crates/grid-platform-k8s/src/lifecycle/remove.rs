//! Remove, and what becomes of the data.

use std::sync::Arc;

use grid_platform_api::{DataPolicy, ErrorKind, NodeData, NodeId, Result, fault};
use grid_platform_host::{error::Context, work::detached};
use k8s_openapi::api::core::v1::{Secret, Service};

use super::stop::is_of;
use crate::{
    claims::{self, Change, There},
    objects,
    platform::Inner,
    pods,
    translate::{Goal, Record},
};

/// [`Platform::remove_node`](grid_platform_api::Platform::remove_node).
pub(crate) async fn remove(inner: &Arc<Inner>, id: &NodeId, data: DataPolicy) -> Result<()> {
    let call = async {
        let turn = inner.turns.take(id).await;
        inner.synced().await?;
        let (removing, id) = (Arc::clone(inner), id.clone());
        let work = async move {
            let record = removing.registry.get(&id).record().cloned();
            let removed = match record {
                Some(record) => finish(&removing, &record, data).await,
                None => remove_unknown(&removing, &id, data).await,
            };
            drop(turn);
            removed
        };
        detached(&inner.closing, work).await
    };
    inner.locks.interrupt(id, call).await?;
    fault::point("k8s-remove-before-answer").cannot("answer")
}

/// Removes a node, or goes on with that.
///
/// # Errors
/// `Unconfirmed`; the cluster's.
pub(super) async fn finish(inner: &Arc<Inner>, record: &Record, data: DataPolicy) -> Result<()> {
    let id = &record.config.node_id;
    let known = inner.registry.get(id).claim;
    let Some(claim) = known.filter(|it| is_of(it.record.as_ref(), record)) else {
        return remove_unknown(inner, id, data).await;
    };
    let mut notes = claim.notes.clone();
    // What was to be purged is purged, also when a later call would have kept it.
    let data = match notes.goal {
        Goal::Removing {
            data: DataPolicy::Purge,
        } => DataPolicy::Purge,
        _ => data,
    };
    notes.goal = Goal::Removing { data };
    let claim = match claim.notes == notes {
        true => claim,
        false => match claims::change(inner, &claim, Change::Notes(&notes)).await {
            Ok(claim) => claim,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return remove_unknown(inner, id, data).await;
            }
            Err(e) => return Err(e),
        },
    };
    fault::point("k8s-remove-after-note").cannot("remove the node")?;
    pods::end(inner, id, record.config.stop.grace, false).await?;
    fault::point("k8s-remove-after-end").cannot("remove the node")?;
    objects::delete::<Service>(inner, id, None).await?;
    fault::point("k8s-remove-after-service").cannot("remove the node")?;
    objects::delete::<Secret>(inner, id, None).await?;
    fault::point("k8s-remove-before-claim").cannot("remove the node")?;
    match data {
        DataPolicy::Keep if !claim.is_terminating => {
            match claims::change(inner, &claim, Change::Bare).await {
                Ok(_) => Ok(()),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                Err(e) => Err(e),
            }
        }
        _ => claims::delete(inner, &claim).await,
    }
}

/// Takes back a node that was just made and has no pod.
pub(super) async fn take_back(
    inner: &Arc<Inner>,
    id: &NodeId,
    record: &Record,
    data: DataPolicy,
) -> Result<()> {
    objects::delete::<Service>(inner, id, Some(&record.uid)).await?;
    objects::delete::<Secret>(inner, id, Some(&record.uid)).await?;
    fault::point("k8s-take-back-before-claim").cannot("take the node back")?;
    let known = inner.registry.get(id).claim;
    match known.filter(|it| is_of(it.record.as_ref(), record)) {
        Some(claim) => match data {
            DataPolicy::Keep => claims::change(inner, &claim, Change::Bare).await.map(drop),
            DataPolicy::Purge => claims::delete(inner, &claim).await,
        },
        None => Ok(()),
    }
}

/// Removes what is left of a node without a record.
async fn remove_unknown(inner: &Arc<Inner>, id: &NodeId, data: DataPolicy) -> Result<()> {
    // One of ours that nobody knew of would lose its data beneath it.
    let claim = match claims::look(inner, id).await {
        Ok(There::Ours(claim)) => Some(claim),
        Ok(There::Nothing) => None,
        // What is somebody else's is no node of ours.
        Err(e) if e.kind() == ErrorKind::OwnedByOther => return Ok(()),
        Err(e) => return Err(e),
    };
    if let Some(record) = claim.as_ref().and_then(|it| it.record.clone()) {
        return Box::pin(finish(inner, &record, data)).await;
    }
    match pods::end(
        inner,
        id,
        grid_platform_api::StopPolicy::default().grace,
        false,
    )
    .await
    {
        Err(e) if e.kind() == ErrorKind::OwnedByOther => {}
        other => other?,
    }
    objects::delete::<Service>(inner, id, None).await?;
    objects::delete::<Secret>(inner, id, None).await?;
    match (claim, data) {
        (Some(claim), DataPolicy::Purge) => claims::delete(inner, &claim).await,
        _ => Ok(()),
    }
}

/// [`Platform::list_data`](grid_platform_api::Platform::list_data).
pub(crate) fn list_data(inner: &Inner) -> Vec<NodeData> {
    let data = |(id, entry): (NodeId, crate::registry::Entry)| {
        let claim = entry.claim?;
        Some(NodeData {
            location: id.native_name(),
            node_id: id,
            in_use: claim.record.is_some(),
            created_by_platform: true,
            // What a claim asks for is not what is in it.
            bytes: None,
        })
    };
    inner.registry.all().into_iter().filter_map(data).collect()
}
