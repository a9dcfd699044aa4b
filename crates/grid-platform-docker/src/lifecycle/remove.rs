//! Remove, and what becomes of the data.

use std::{fs, sync::Arc};

use bollard::query_parameters::RemoveContainerOptionsBuilder;
use grid_platform_api::{DataPolicy, ErrorKind, NodeData, NodeId, Result, fault};
use grid_platform_host::{
    data::{Found as Data, Kept, PathClaim, Purpose},
    error::Context,
    work::{blocking, detached},
};

use super::{ready::is_before_exec, start, stop};
use crate::{
    engine::WORK,
    error::error,
    nodes::{self, Found, Node},
    platform::Inner,
    translate::{DataPlace, Goal, Phase, Record},
    volumes,
};

/// [`Platform::remove_node`](grid_platform_api::Platform::remove_node).
pub(crate) async fn remove(inner: &Arc<Inner>, id: &NodeId, data: DataPolicy) -> Result<()> {
    let call = async {
        let turn = inner.turns.take(id).await;
        let node = inner.registry.get(id);
        let (removing, id) = (Arc::clone(inner), id.clone());
        let work = async move {
            let removed = match node {
                Some(node) => remove_in_turn(&removing, &node, data).await,
                None => remove_unknown(&removing, &id, data).await,
            };
            drop(turn);
            removed
        };
        detached(&inner.closing, work).await
    };
    inner.locks.interrupt(id, call).await?;
    fault::point("docker-remove-before-answer").cannot("answer")
}

/// Removes what is left of a node without a record.
async fn remove_unknown(inner: &Arc<Inner>, id: &NodeId, data: DataPolicy) -> Result<()> {
    // One of ours that nobody knew of would lose its data beneath it.
    match nodes::refresh(inner, &id.native_name()).await? {
        Found::Node(node) => return remove_in_turn(inner, &node, data).await,
        found @ Found::Damaged(_) => return Err(super::foreign(id, &found)),
        Found::Nothing | Found::Theirs(_) => {}
    }
    // A remove that was killed behind its container's end left them.
    let (engine, owner) = (&inner.engine, &inner.install.owner);
    volumes::remove(engine, owner, id, &volumes::secrets_name(id)).await?;
    let (clearing, left) = (Arc::clone(inner), id.clone());
    blocking(move || clearing.secrets.clear_left(&left, None)).await?;
    if data == DataPolicy::Keep {
        return Ok(());
    }
    let (purging, left) = (Arc::clone(inner), id.clone());
    blocking(move || purging.data.purge_left(&left, &|| purging.used())).await?;
    volumes::remove(engine, owner, id, &volumes::data_name(id)).await
}

async fn remove_in_turn(inner: &Arc<Inner>, node: &Arc<Node>, data: DataPolicy) -> Result<()> {
    // What is known may be a moment old.
    nodes::refresh(inner, &node.container).await?;
    let now = node.now();
    let record = Arc::clone(&now.record);
    let claim = match data {
        DataPolicy::Keep => None,
        // Refused before anything is ended or deleted.
        DataPolicy::Purge => {
            let (inner, id, record) = (Arc::clone(inner), node.id.clone(), Arc::clone(&record));
            blocking(move || may_purge(&inner, &id, &record)).await?
        }
    };
    if !now.removed && now.observed.phase.is_live() {
        if now.goal == Goal::Running {
            start::set_goal(inner, node, Goal::Stopped).await?;
        }
        stop::finish(inner, node).await?;
    }
    nothing_runs_unseen(inner, node).await?;
    fault::point("docker-remove-after-end").cannot("remove the node")?;
    let ours = remember(inner, node, &record, data).await?;
    fault::point("docker-remove-after-kept").cannot("remove the node")?;
    delete_container(inner, &node.id, &node.container).await?;
    fault::point("docker-remove-after-delete").cannot("remove the node")?;
    nodes::forget(inner, node);
    forget(inner, node, &record, data, ours).await?;
    drop(claim);
    Ok(())
}

/// Refuses to take a container away that does not run as far as its engine knows, and whose program runs: the engine was killed before it
/// noted the start, or lost count of two. Nothing would tell of the program any more, and the next node of the id would run beside it.
async fn nothing_runs_unseen(inner: &Inner, node: &Node) -> Result<()> {
    let now = node.now();
    let rests = matches!(now.observed.phase, Phase::Created | Phase::Exited);
    if now.removed || !rests || !inner.facts.same_host {
        return Ok(());
    }
    let container = node.container.clone();
    match blocking(move || Ok(runs_something(&container))).await? {
        true => Err(start::left_over(node)),
        false => Ok(()),
    }
}

/// Whether a program runs on this host that is a container's.
fn runs_something(container: &str) -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    pids.any(|pid| {
        // One that ends while it is looked at is none.
        let read = |what| fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
        read("cgroup").contains(container) && is_inside(&read("status")) && !is_before_exec(pid)
    })
}

/// Whether a process has a number within a container too, by its `status`: who watches a container from without may be in its cgroup.
fn is_inside(status: &str) -> bool {
    let numbers = status.lines().find_map(|it| it.strip_prefix("NSpid:"));
    numbers.is_some_and(|it| it.split_whitespace().count() > 1)
}

/// Takes the data of a node to delete it; `None` when there is none that was made for it.
fn may_purge(inner: &Arc<Inner>, id: &NodeId, record: &Record) -> Result<Option<PathClaim>> {
    let DataPlace::Path { path, ours } = &record.data else {
        return Ok(None);
    };
    let site = inner.data.site(path)?;
    let found = site.check(&inner.install.owner, id)?;
    if !ours || !matches!(found, Data::Marked(_)) {
        return Ok(None);
    }
    site.holds_no_mount()?;
    inner
        .data
        .claim(id, path, Purpose::Delete, &|| inner.used())
        .map(Some)
}

/// Remembers the data of a node whose record is about to go, and what is to become of it. Gives what is remembered.
async fn remember(
    inner: &Arc<Inner>,
    node: &Node,
    record: &Record,
    data: DataPolicy,
) -> Result<Option<Kept>> {
    let DataPlace::Path { path, ours: true } = &record.data else {
        return Ok(None);
    };
    let (inner, path) = (Arc::clone(inner), path.clone());
    let (id, uid) = (node.id.clone(), node.uid.clone());
    blocking(move || {
        let ours = match inner.data.site(&path) {
            // Its volume may come back.
            Ok(site) => matches!(
                site.check(&inner.install.owner, &id),
                Ok(Data::Marked(_) | Data::Nothing)
            ),
            // The settings no longer allow the place: the data stays, and is remembered.
            Err(_) => true,
        };
        let kept = Kept {
            node_id: id,
            uid,
            path,
            purge: data == DataPolicy::Purge,
        };
        if !ours {
            return Ok(None);
        }
        inner.data.kept().put(&kept)?;
        Ok(Some(kept))
    })
    .await
}

/// Forgets a node whose container is gone, and deletes its data if that is wanted.
async fn forget(
    inner: &Arc<Inner>,
    node: &Node,
    record: &Record,
    data: DataPolicy,
    kept: Option<Kept>,
) -> Result<()> {
    let (owner, id) = (&inner.install.owner, &node.id);
    if let DataPlace::Volume { name } = &record.data {
        if !record.config.secrets.is_empty() {
            volumes::remove(&inner.engine, owner, id, &volumes::secrets_name(id)).await?;
        }
        if data == DataPolicy::Purge {
            volumes::remove(&inner.engine, owner, id, name).await?;
        }
    }
    let (inner, id, uid) = (Arc::clone(inner), id.clone(), node.uid.clone());
    blocking(move || {
        inner.secrets.remove(&uid)?;
        inner.secrets.clear_left(&id, None)?;
        inner.notes.forget(&id)?;
        match kept {
            Some(kept) if kept.purge => inner.data.finish_purge(&kept),
            _ => Ok(()),
        }
    })
    .await
}

/// Deletes a container, and returns when it is gone. Its image's own nameless volumes go with it.
pub(crate) async fn delete_container(inner: &Inner, id: &NodeId, container: &str) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    let asked = inner
        .engine
        .docker
        .remove_container(container, Some(options));
    match inner.engine.ask(WORK, asked).await {
        Ok(()) => Ok(()),
        Err(fault) if fault.status() == Some(404) => Ok(()),
        // Somebody else removes it at this moment.
        Err(fault) if fault.status() == Some(409) => Err(error(
            ErrorKind::Unconfirmed,
            format!("the container of the node `{id}` is being removed by somebody else"),
        )
        .with_source(fault)
        .with_hint("The same call succeeds once it is gone.")),
        Err(fault) => Err(fault.into_error(format!("remove the container of the node `{id}`"))),
    }
}

/// [`Platform::list_data`](grid_platform_api::Platform::list_data).
pub(crate) async fn list_data(inner: &Arc<Inner>) -> Result<Vec<NodeData>> {
    let on_disk = Arc::clone(inner);
    let mut all = blocking(move || {
        on_disk.data.list(&|| {
            let nodes = on_disk.registry.all();
            let entry = |node: &Arc<Node>| match &node.now().record.data {
                DataPlace::Path { path, ours } => Some((node.id.clone(), path.clone(), *ours)),
                DataPlace::Volume { .. } => None,
            };
            nodes.iter().filter_map(entry).collect()
        })
    })
    .await?;
    let in_use = |id: &NodeId| {
        let node = inner.registry.get(id);
        node.is_some_and(|it| matches!(it.now().record.data, DataPlace::Volume { .. }))
    };
    all.extend(volumes::list(&inner.engine, &inner.install.owner, in_use).await?);
    all.sort_by(|a, b| (&a.node_id, &a.location).cmp(&(&b.node_id, &b.location)));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_a_container_has_a_number_there() {
        assert!(is_inside("Name:\tx\nNSpid:\t4711\t1\nNSsid:\t1\n"));
        assert!(!is_inside("Name:\tconmon\nNSpid:\t4711\nNSsid:\t1\n"));
        assert!(!is_inside(""));
    }
}
