//! What an earlier adapter was killed in the middle of.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use grid_platform_api::{ErrorKind, NodeId, NodeUid, Result, StopPolicy, fault};
use grid_platform_host::error::Context;
use k8s_openapi::api::core::v1::{Secret, Service};
use tokio::time::sleep;

use super::{remove, stop};
use crate::{
    claims::{self, There},
    objects,
    platform::Inner,
    pods,
    registry::Entry,
    translate::Goal,
};

/// The first and the longest wait before something is tried again.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(60);

/// Looks through all that there is when the platform is opened: stops and removes that were cut short are finished in the background, and
/// what belongs to no node is taken away. A node whose start was cut short is shown as stopped with no end of its own, which its next
/// spawn carries on with.
///
/// # Errors
/// When the cluster cannot be asked.
pub(crate) async fn heal(inner: &Arc<Inner>) -> Result<()> {
    let all = inner.registry.all();
    let mut nodes: BTreeMap<NodeId, NodeUid> = BTreeMap::new();
    for (id, entry) in all {
        if let Some(record) = entry.record() {
            nodes.insert(id.clone(), record.uid.clone());
        }
        if wants_healing(&entry) {
            let healing = Arc::clone(inner);
            tokio::spawn(async move {
                let mut closing = healing.closing.clone();
                tokio::select! {
                    _ = closing.changed() => {}
                    () = finish_at_last(&healing, &id) => {}
                }
            });
        }
    }
    let services = objects::all::<Service>(inner).await?;
    for (id, uid) in left_over(inner, &nodes, services).await {
        objects::delete::<Service>(inner, &id, uid.as_ref()).await?;
    }
    fault::point("k8s-heal-after-services").cannot("take away what belongs to no node")?;
    let secrets = objects::all::<Secret>(inner).await?;
    for (id, uid) in left_over(inner, &nodes, secrets).await {
        objects::delete::<Secret>(inner, &id, uid.as_ref()).await?;
    }
    Ok(())
}

/// Those of the objects that belong to no node.
async fn left_over(
    inner: &Arc<Inner>,
    nodes: &BTreeMap<NodeId, NodeUid>,
    objects: Vec<(NodeId, Option<NodeUid>)>,
) -> Vec<(NodeId, Option<NodeUid>)> {
    let mut left = Vec::new();
    for (id, uid) in objects {
        let is_left = match (nodes.get(&id), &uid) {
            // One that does not say of which incarnation it is stays with the node that there is.
            (Some(node), Some(uid)) => node != uid,
            (Some(_), None) => false,
            (None, _) => has_no_node(inner, &id).await,
        };
        if is_left {
            left.push((id, uid));
        }
    }
    left
}

/// Whether an id of which nothing is known has no node: one whose claim cannot be understood has one, and all that is its own stays.
async fn has_no_node(inner: &Arc<Inner>, id: &NodeId) -> bool {
    match claims::look(inner, id).await {
        Ok(There::Nothing) => true,
        Ok(There::Ours(claim)) => claim.record.is_none(),
        // There was nothing of ours to begin with but what is left over.
        Err(e) if e.kind() == ErrorKind::OwnedByOther => true,
        Err(e) => {
            tracing::warn!(node = %id, error = %e, "what there is of the node is left alone");
            false
        }
    }
}

fn wants_healing(entry: &Entry) -> bool {
    let Some(claim) = entry.claim.as_ref().filter(|it| it.record.is_some()) else {
        // Nobody's run, on data that was kept or on none.
        return entry.pod.is_some();
    };
    match claim.notes.goal {
        Goal::Running => entry.pod.is_some() && entry.own_pod().is_none(),
        Goal::Stopped | Goal::GivenUp | Goal::Failed { .. } => entry.pod.is_some(),
        Goal::Removing { .. } => true,
    }
}

/// Tries until it is done, or cannot be.
async fn finish_at_last(inner: &Arc<Inner>, id: &NodeId) {
    let mut pause = SOON;
    while let Err(e) = finish(inner, id).await {
        tracing::warn!(node = %id, error = %e, "what was begun with the node is not finished yet");
        if !e.is_retryable() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LATE);
    }
}

async fn finish(inner: &Arc<Inner>, id: &NodeId) -> Result<()> {
    let _turn = inner.turns.take(id).await;
    // It may be another by now.
    let entry = inner.registry.get(id);
    if !wants_healing(&entry) {
        return Ok(());
    }
    let (Some(claim), Some(record)) = (&entry.claim, entry.record()) else {
        if !has_no_node(inner, id).await {
            return Ok(());
        }
        return pods::end(inner, id, StopPolicy::default().grace, false).await;
    };
    match &claim.notes.goal {
        Goal::Running => pods::end(inner, id, record.config.stop.grace, false).await,
        Goal::Removing { data } => remove::finish(inner, record, *data).await,
        goal => stop::end(inner, record, goal.clone(), false).await,
    }
}
