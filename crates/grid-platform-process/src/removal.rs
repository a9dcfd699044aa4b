//! Remove, and what becomes of the data.

use std::sync::Arc;

use grid_platform_api::{DataPolicy, NodeData, NodeId, NodeUid, Result, fault};

use crate::{
    data::{Found, Kept, PathClaim, Purpose},
    error::Context,
    intent::{Goal, Intent},
    lifecycle::{finish, has_living_shim, in_turn},
    node::Node,
    platform::Inner,
    sweep,
    sys::files,
};
use grid_platform_host::work::{Turn, blocking, detached};

/// [`Platform::remove_node`](grid_platform_api::Platform::remove_node).
pub(crate) async fn remove(inner: &Arc<Inner>, id: &NodeId, data: DataPolicy) -> Result<()> {
    if let Some(blocked) = inner.blocked.get(id) {
        return Err(blocked.error(id));
    }
    let call = async {
        let turn = inner.turns.take(id).await;
        match inner.registry.get(id) {
            Some(node) => {
                let work = remove_in_turn(Arc::clone(inner), node, data, turn);
                detached(&inner.closing, work).await
            }
            None if data == DataPolicy::Purge => {
                let (inner, id) = (Arc::clone(inner), id.clone());
                let purge = move || inner.data.purge_left(&id, &|| inner.used());
                blocking(move || in_turn(turn, purge)).await
            }
            None => Ok(()),
        }
    };
    inner.locks.interrupt(id, call).await?;
    fault::point("remove-before-answer").cannot("answer")
}

async fn remove_in_turn(
    inner: Arc<Inner>,
    node: Arc<Node>,
    data: DataPolicy,
    turn: Turn,
) -> Result<()> {
    let now = node.now();
    if data == DataPolicy::Purge {
        // Refused before anything is ended or deleted.
        let (inner, node, intent) = (
            Arc::clone(&inner),
            Arc::clone(&node),
            Arc::clone(&now.intent),
        );
        blocking(move || may_purge(&inner, &node.id, &intent).map(drop)).await?;
    }
    if has_living_shim(&now) && now.intent.wants_running() {
        let mut intent = Intent::clone(&now.intent);
        intent.goal = Goal::Stopped;
        let intent = Arc::new(intent);
        if !inner.lost_dir(&node.id) {
            let (to_write, dir) = (Arc::clone(&intent), inner.node_dir(&node.id)?);
            blocking(move || dir.write_intent(&to_write)).await?;
        }
        inner.registry.update(&node, |it| it.intent = intent);
    }
    finish(&inner, &node, None).await?;
    blocking(move || in_turn(turn, || delete(&inner, &node, data))).await
}

/// Takes the data of a node to delete it; `None` when there is none that was made for it.
fn may_purge(inner: &Arc<Inner>, id: &NodeId, intent: &Intent) -> Result<Option<PathClaim>> {
    let path = &intent.data_path;
    let site = inner.data.site(path)?;
    let found = site.check(&inner.install.owner, id)?;
    if !intent.data_marked || !matches!(found, Found::Marked(_)) {
        return Ok(None);
    }
    site.holds_no_mount()?;
    inner.claim_path(id, path, Purpose::Delete).map(Some)
}

/// Deletes the record of a node that has ended, and its data if that is wanted.
fn delete(inner: &Arc<Inner>, node: &Node, data: DataPolicy) -> Result<()> {
    let intent = node.now().intent;
    let id = &node.id;
    let _claim = match data {
        DataPolicy::Purge => may_purge(inner, id, &intent)?,
        DataPolicy::Keep => None,
    };
    let what = format!("delete the record of the node `{id}`");
    fault::point("remove-after-end").cannot(&what)?;
    // Somebody deleted the record before us: there is nothing to lock, to remember or to delete but the data.
    let lost = inner.lost_dir(id);
    // The lock says that no shim lives; with it none can be started any more.
    let _lock = match lost {
        false => Some(inner.node_dir(id)?.lock(id)?),
        true => None,
    };
    sweep::cgroups(&node.uid, &inner.cgroups)?;
    let site = inner.data.site(&intent.data_path);
    let ours = match &site {
        // It was there before, whatever lies in it now.
        _ if !intent.data_marked => false,
        Ok(site) => match site.check(&intent.owner, id) {
            Ok(Found::Marked(_)) => true,
            // Its volume may come back.
            Ok(Found::Nothing) => true,
            _ => false,
        },
        // The settings no longer allow the place: the data stays, and is remembered.
        Err(_) => true,
    };
    let kept = Kept {
        node_id: id.clone(),
        uid: node.uid.clone(),
        path: intent.data_path.clone(),
        purge: data == DataPolicy::Purge,
    };
    if ours && !lost {
        inner.data.kept().put(&kept)?;
    }
    fault::point("remove-after-kept").cannot(&what)?;
    // While the record is there: without it nobody would know of them after a crash. A start makes them anew.
    inner
        .cgroups
        .remove(&node.uid)
        .cannot(format!("remove the cgroups of the node `{id}`"))?;
    let trash = trash_name(&node.uid);
    if !lost {
        files::remove_tree(&inner.nodes_dir, &trash).cannot(&what)?;
        rustix::fs::renameat(
            &inner.nodes_dir,
            id.native_name(),
            &inner.nodes_dir,
            trash.as_str(),
        )
        .cannot(&what)?;
        fault::point("remove-after-rename").cannot(&what)?;
        files::sync(&inner.nodes_dir).cannot(&what)?;
    }
    inner.registry.remove(node);
    inner.ports.release(id, intent.ports.values());
    files::remove_tree(&inner.nodes_dir, &trash).cannot(&what)?;
    if data == DataPolicy::Purge && ours {
        fault::point("remove-before-purge").cannot(&what)?;
        site?.purge(&intent.owner, id, &node.uid)?;
        if !lost {
            inner.data.kept().forget(&kept)?;
        }
    }
    Ok(())
}

/// The name that the directory of a removed node has until it is deleted.
pub(crate) fn trash_name(uid: &NodeUid) -> String {
    format!("{TRASH}{uid}")
}

/// What such names begin with.
pub(crate) const TRASH: &str = ".trash-";

/// [`Platform::list_data`](grid_platform_api::Platform::list_data).
pub(crate) async fn list_data(inner: &Arc<Inner>) -> Result<Vec<NodeData>> {
    let inner = Arc::clone(inner);
    blocking(move || {
        inner.data.list(&|| {
            let nodes = inner.registry.all();
            let entry = |node: &Arc<Node>| {
                let intent = node.now().intent;
                let path = intent.data_path.clone();
                (node.id.clone(), path, intent.data_marked)
            };
            nodes.iter().map(entry).collect()
        })
    })
    .await
}
