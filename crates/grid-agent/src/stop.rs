//! Ending all nodes of an agent that does not run.

use std::sync::Arc;

use futures::{StreamExt, stream};
use grid_platform_api::{DataPolicy, Error, ErrorKind, NodeId, Platform, Result, SpawnedNode};
use grid_proto::Want;

use crate::{
    PlatformConfig, Settings,
    agent::{blocking, open_desired},
    create_platform,
    state::{StateDir, state_path},
};

/// How many nodes are ended at a time.
const AT_A_TIME: usize = 16;

/// What [`stop_nodes`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// The nodes that were ended, by id.
    pub nodes: Vec<NodeId>,
    /// The removed nodes whose kept data was purged, by id.
    pub data: Vec<NodeId>,
}

/// Ends all nodes of this agent's state directory while no agent runs on it. With `purge` they are removed, their data
/// with them, and so is the data that earlier nodes left.
///
/// What is wanted stays: the next agent starts again the nodes that were running.
///
/// # Errors
/// `StateLocked` while an agent runs; the first node's that could not be ended, once all were tried.
pub async fn stop_nodes(settings: &Settings, purge: bool) -> Result<Stopped> {
    let path = state_path(settings)?.to_owned();
    let state = blocking(move || StateDir::open(&path)).await?;
    let platform = create_platform(&settings.agent.platform, PlatformConfig::of(settings)).await?;
    stop_all(&state, platform, purge).await
}

async fn stop_all(state: &StateDir, platform: Arc<dyn Platform>, purge: bool) -> Result<Stopped> {
    let nodes = platform.list_nodes().await?;
    let begun = nodes.iter().filter(|node| purge || !node.state.is_ended());
    let ids: Vec<NodeId> = begun.map(|node| node.node_id.clone()).collect();
    forget_applied(state, &ids).await?;
    let mut ends = stream::iter(nodes.clone())
        .map(|node| end(platform.as_ref(), node, purge))
        .buffer_unordered(AT_A_TIME);
    let mut first = Ok(());
    while let Some(ended) = ends.next().await {
        if let Err(error) = ended {
            tracing::error!(%error, hint = error.hint(), "a node could not be ended");
            first = first.and(Err(error));
        }
    }
    drop(ends);
    first?;
    let mut stopped = Stopped {
        nodes: nodes.into_iter().map(|node| node.node_id).collect(),
        data: Vec::new(),
    };
    if purge {
        for data in platform.list_data().await? {
            if data.created_by_platform {
                platform
                    .remove_node(&data.node_id, DataPolicy::Purge)
                    .await?;
                stopped.data.push(data.node_id);
            }
        }
    }
    Ok(stopped)
}

async fn end(platform: &dyn Platform, node: SpawnedNode, purge: bool) -> Result<()> {
    if purge {
        platform.remove_node(&node.node_id, DataPolicy::Purge).await
    } else {
        platform.stop_node(&node.node_id).await
    }
}

/// Makes the next agent act again on the wishes for these nodes: it would else leave a node that ended well as one that
/// ended under its own policy.
async fn forget_applied(state: &StateDir, ids: &[NodeId]) -> Result<()> {
    let (file, mut desired) = open_desired(state).await?;
    for id in ids {
        if let Some(entry) = desired.nodes.get_mut(id)
            && matches!(entry.wish.want, Want::Running(_))
        {
            entry.applied = None;
        }
    }
    blocking(move || file.save(&desired))
        .await
        .map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                "cannot note that the nodes are to start again",
            )
            .with_source(error)
        })
}
