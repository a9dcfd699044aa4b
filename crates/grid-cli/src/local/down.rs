//! Taking a local grid down, by its supervisor or in place of one that was killed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    RunLock, StateDir,
    child::{GRACE, Keeper},
};
use crate::{
    error::{Error, Result},
    parts,
};

/// What becomes of the nodes when a grid is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Nodes {
    /// They run on, and the next `up` finds them.
    Leave,
    /// They are stopped; their wishes stay, so that the next `up` starts the same nodes.
    Stop,
    /// They are removed with their data, and the state directory is deleted.
    Purge,
}

/// What going down came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// Where the grid was.
    pub(crate) state_dir: std::path::PathBuf,
    /// Its data and its state are deleted.
    pub(crate) purged: bool,
}

/// The children of this supervisor, if it has any.
#[derive(Debug, Default)]
pub(crate) struct Keepers {
    pub(super) master: Option<Keeper>,
    pub(super) agent: Option<Keeper>,
}

/// Ends the agent, then the nodes as it is asked, then the master.
///
/// # Errors
/// A node that cannot be stopped; then nothing is deleted, and the same call can be made again.
pub(crate) async fn bring_down(
    state: &StateDir,
    exe: &Path,
    keepers: Keepers,
    nodes: Nodes,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Ended> {
    tell("ending the agent");
    if let Some(keeper) = keepers.agent {
        keeper.stop().await;
    }
    end_holder(state, "agent").await?;
    let ended = end_nodes(state, exe, nodes, tell).await;
    tell("ending the master");
    if let Some(keeper) = keepers.master {
        keeper.stop().await;
    }
    end_holder(state, "master").await?;
    ended?;
    let purged = nodes == Nodes::Purge;
    if purged {
        tell("deleting the state directory");
        state.delete()?;
    }
    Ok(Ended {
        state_dir: state.root().to_owned(),
        purged,
    })
}

async fn end_nodes(
    state: &StateDir,
    exe: &Path,
    nodes: Nodes,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    tell(match nodes {
        Nodes::Leave => return Ok(()),
        Nodes::Stop => "stopping the nodes",
        Nodes::Purge => "removing the nodes with their data",
    });
    parts::stop_nodes(state, exe, nodes == Nodes::Purge).await?;
    state.set_nodes_may_run(false)
}

/// Ends master and agent of a supervisor that was killed.
pub(super) async fn end_leftovers(state: &StateDir, tell: &(dyn Fn(&str) + Sync)) -> Result<()> {
    for part in ["agent", "master"] {
        if end_holder(state, part).await? {
            tell(&format!("ended the {part} of an earlier supervisor"));
        }
    }
    Ok(())
}

/// Ends who holds this part's lock; says whether anybody did.
async fn end_holder(state: &StateDir, part: &str) -> Result<bool> {
    let path = state.lock(part);
    let Some((pid, process)) = RunLock::held_by(&path)? else {
        return Ok(false);
    };
    process.end(GRACE).await.map_err(|error| {
        Error::failed(format!("cannot end the {part}, process {pid}")).with_source(&error)
    })?;
    Ok(true)
}
