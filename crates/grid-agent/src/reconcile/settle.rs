//! Acting on one node once: look, decide, do.

use std::{collections::BTreeMap, sync::Arc};

use grid_platform_api::{
    DataPolicy, Error, ErrorKind, NodeId, Platform, PlatformExt, Result, SpawnConfig, SpawnedNode,
};
use grid_proto::Want;
use tokio::sync::{mpsc, oneshot};

use super::decide::{Action, decide};
use crate::desired::Entry;

/// What came of acting on a node.
#[derive(Debug)]
pub(crate) struct Settled {
    /// The generation that was acted on.
    pub(crate) generation: u64,
    /// What was done.
    pub(crate) action: Action,
    /// The node as it was last seen; an error when it could not be looked at.
    pub(crate) observed: Result<Option<SpawnedNode>>,
    /// Whether it worked.
    pub(crate) result: Result<()>,
}

impl Settled {
    /// Why it did not work, and whether trying the same again is of no use.
    pub(crate) fn failure(&self) -> Option<(&Error, bool)> {
        let error = self.result.as_ref().err()?;
        let kind = error.kind();
        let ends = matches!(self.action, Action::Stop | Action::Remove(_));
        let last = match kind {
            // Somebody else's stop came in between, and the wish still stands.
            ErrorKind::Superseded => false,
            _ if error.is_retryable() => false,
            // A node that shall end must end: only what the platform will never do is given up.
            _ if ends => matches!(
                kind,
                ErrorKind::OwnedByOther
                    | ErrorKind::Unsupported
                    | ErrorKind::NotAllowed
                    | ErrorKind::InvalidConfig
            ),
            _ => true,
        };
        Some((error, last))
    }
}

/// The ports that a node had, to be on disk before its record goes.
#[derive(Debug)]
pub(crate) struct KeepPorts {
    pub(crate) node_id: NodeId,
    pub(crate) ports: BTreeMap<String, u16>,
    /// Told when they are.
    pub(crate) kept: oneshot::Sender<Result<()>>,
}

/// Looks at the node, decides, and does what is to be done. It may be dropped at any point and begun again.
pub(crate) async fn settle(
    platform: Arc<dyn Platform>,
    entry: Entry,
    keep_ports: mpsc::Sender<KeepPorts>,
) -> Settled {
    let node_id = entry.wish.node_id.clone();
    let settled = |action, observed, result| Settled {
        generation: entry.wish.generation,
        action,
        observed,
        result,
    };
    // What the actor knows comes by events and may lag: the platform is asked before anything is done.
    let before = match platform.find_node(&node_id).await {
        Ok(before) => before,
        Err(error) => {
            let unseen = Error::new(ErrorKind::Stale, "the node could not be looked at");
            return settled(Action::Leave, Err(unseen), Err(error));
        }
    };
    let action = decide(Some(&entry), before.as_ref());
    let result = match (action, &entry.wish.want) {
        (Action::Leave | Action::Note, _) => return settled(action, Ok(before), Ok(())),
        (Action::Spawn, Want::Running(config)) => {
            let spawned = platform.spawn_node(with_ports(config, &entry.ports)).await;
            match (spawned, before) {
                (Err(error), Some(before)) if error.kind() == ErrorKind::Conflict => {
                    update(platform.as_ref(), config, &entry.ports, before, keep_ports).await
                }
                (Ok(node), _) => return settled(action, Ok(Some(node)), Ok(())),
                (Err(error), _) => Err(error),
            }
        }
        (Action::Stop, _) => match platform.stop_node(&node_id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        },
        (Action::Remove(data), _) => platform.remove_node(&node_id, data).await,
        // `decide` spawns only what shall run.
        (Action::Spawn, _) => Ok(()),
    };
    let after = platform.find_node(&node_id).await;
    settled(action, after, result)
}

/// The node is there with other settings: stops it, removes it with its data kept, and spawns it on the ports it had.
async fn update(
    platform: &dyn Platform,
    config: &SpawnConfig,
    known: &BTreeMap<String, u16>,
    before: SpawnedNode,
    keep_ports: mpsc::Sender<KeepPorts>,
) -> Result<()> {
    let node_id = config.node_id.clone();
    let open = config.ports.iter().filter(|(_, port)| **port == 0);
    let ports: BTreeMap<_, _> = open
        .filter_map(|(name, _)| {
            let port = before.ports.get(name).or(known.get(name))?;
            Some((name.clone(), *port))
        })
        .collect();
    if !ports.is_empty() {
        let (kept, told) = oneshot::channel();
        let request = KeepPorts {
            node_id: node_id.clone(),
            ports: ports.clone(),
            kept,
        };
        let ended = || Error::new(ErrorKind::Superseded, "the agent is ending");
        keep_ports.send(request).await.map_err(|_| ended())?;
        told.await.map_err(|_| ended())??;
    }
    platform.stop_node(&node_id).await?;
    platform.remove_node(&node_id, DataPolicy::Keep).await?;
    platform.spawn_node(with_ports(config, &ports)).await?;
    Ok(())
}

/// The request with the ports that it leaves open filled in where they are known.
fn with_ports(config: &SpawnConfig, known: &BTreeMap<String, u16>) -> SpawnConfig {
    let mut config = config.clone();
    for (name, port) in &mut config.ports {
        if *port == 0
            && let Some(known) = known.get(name)
        {
            *port = *known;
        }
    }
    config
}
