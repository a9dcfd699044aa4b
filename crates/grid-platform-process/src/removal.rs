//! Remove, and what becomes of the data.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use grid_platform_api::{DataPolicy, NodeData, NodeId, NodeUid, Result};

use crate::{
    data::{Found, Kept, Site},
    error::Context,
    intent::{Goal, Intent},
    lifecycle::{blocking, detached, finish, has_living_shim, in_turn},
    node::Node,
    platform::{Inner, Turn},
    sys::files,
};

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
                detached(inner, work).await
            }
            None if data == DataPolicy::Purge => {
                let (inner, id) = (Arc::clone(inner), id.clone());
                blocking(move || in_turn(turn, || purge_kept(&inner, &id))).await
            }
            None => Ok(()),
        }
    };
    inner.locks.interrupt(id, call).await
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
        Site::of(&inner.config, &now.intent.data_path)?.check(&inner.install.owner, &node.id)?;
    }
    if has_living_shim(&now) && now.intent.wants_running() {
        let mut intent = Intent::clone(&now.intent);
        intent.goal = Goal::Stopped;
        let intent = Arc::new(intent);
        let (to_write, dir) = (Arc::clone(&intent), inner.node_dir(&node.id)?);
        blocking(move || dir.write_intent(&to_write)).await?;
        inner.registry.update(&node, |it| it.intent = intent);
    }
    finish(&inner, &node, None).await?;
    blocking(move || in_turn(turn, || delete(&inner, &node, data))).await
}

/// Deletes the record of a node that has ended, and its data if that is wanted.
fn delete(inner: &Inner, node: &Node, data: DataPolicy) -> Result<()> {
    let intent = node.now().intent;
    let id = &node.id;
    let what = format!("delete the record of the node `{id}`");
    // The lock says that no shim lives; with it none can be started any more.
    let _lock = inner.node_dir(id)?.lock(id)?;
    let site = Site::of(&inner.config, &intent.data_path);
    let ours = match &site {
        Ok(site) => matches!(site.check(&intent.owner, id), Ok(Found::Marked(_))),
        // The settings no longer allow the place: the data stays, and is remembered.
        Err(_) => true,
    };
    let kept = Kept {
        node_id: id.clone(),
        uid: node.uid.clone(),
        path: intent.data_path.clone(),
        purge: data == DataPolicy::Purge,
    };
    if ours {
        inner.kept.put(&kept)?;
    }
    // While the record is there: without it nobody would know of them after a crash. A start makes them anew.
    inner
        .cgroups
        .remove(&node.uid, &intent.config)
        .cannot(format!("remove the cgroups of the node `{id}`"))?;
    let trash = trash_name(&node.uid);
    files::remove_tree(&inner.nodes_dir, &trash).cannot(&what)?;
    rustix::fs::renameat(
        &inner.nodes_dir,
        id.native_name(),
        &inner.nodes_dir,
        trash.as_str(),
    )
    .cannot(&what)?;
    files::sync(&inner.nodes_dir).cannot(&what)?;
    inner.registry.remove(node);
    inner.ports.release(id, intent.ports.values());
    files::remove_tree(&inner.nodes_dir, &trash).cannot(&what)?;
    if data == DataPolicy::Purge {
        site?.purge(&intent.owner, id, &node.uid)?;
        if ours {
            inner.kept.forget(&kept)?;
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

/// Deletes the data that earlier nodes of this id left.
fn purge_kept(inner: &Inner, id: &NodeId) -> Result<()> {
    for mut kept in leftovers(inner)?.into_values() {
        if kept.node_id == *id {
            kept.purge = true;
            inner.kept.put(&kept)?;
            finish_purge(inner, &kept)?;
        }
    }
    Ok(())
}

/// Deletes data whose deletion was decided.
pub(crate) fn finish_purge(inner: &Inner, kept: &Kept) -> Result<()> {
    let site = Site::of(&inner.config, &kept.path)?;
    site.purge(&inner.install.owner, &kept.node_id, &kept.uid)?;
    inner.kept.forget(kept)
}

/// Data of this owner without a node: what is remembered, and what is found where nodes have their data by default.
fn leftovers(inner: &Inner) -> Result<BTreeMap<PathBuf, Kept>> {
    let mut all = inner.kept.all()?;
    let names = files::open_dir(&inner.config.data_path).and_then(files::names);
    for name in names.cannot(format!("read `{}`", inner.config.data_path.display()))? {
        let path = inner.config.data_path.join(name);
        if let Ok(site) = Site::of(&inner.config, &path)
            && let Ok(Found::Marked(marker)) = site.look()
            && marker.owner == inner.install.owner
        {
            all.entry(path.clone()).or_insert(Kept {
                node_id: marker.node_id,
                uid: marker.uid,
                path,
                purge: false,
            });
        }
    }
    for node in inner.registry.all() {
        all.remove(&node.now().intent.data_path);
    }
    Ok(all)
}

/// [`Platform::list_data`](grid_platform_api::Platform::list_data).
pub(crate) async fn list_data(inner: &Arc<Inner>) -> Result<Vec<NodeData>> {
    let inner = Arc::clone(inner);
    blocking(move || {
        let entry = |id: &NodeId, path: &Path, in_use: bool| {
            let site = Site::any(path);
            let marked = matches!(site.check(&inner.install.owner, id), Ok(Found::Marked(_)));
            (marked || in_use).then(|| NodeData {
                node_id: id.clone(),
                location: path.to_string_lossy().into_owned(),
                in_use,
                created_by_platform: marked,
                bytes: site.disk_bytes().ok(),
            })
        };
        let mut all: Vec<NodeData> = inner
            .registry
            .all()
            .iter()
            .filter_map(|node| entry(&node.id, &node.now().intent.data_path, true))
            .collect();
        let left = leftovers(&inner)?;
        all.extend(
            left.values()
                .filter_map(|it| entry(&it.node_id, &it.path, false)),
        );
        all.sort_by(|a, b| (&a.node_id, &a.location).cmp(&(&b.node_id, &b.location)));
        Ok(all)
    })
    .await
}
