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

/// Ends the agent, then the nodes, then the master; their wishes stay, so that the next `up` starts the same nodes.
/// With `purge` the nodes are removed with their data, and the state directory is deleted.
///
/// # Errors
/// A node that cannot be stopped; then nothing is deleted, and the same call can be made again.
pub(crate) async fn bring_down(
    state: &StateDir,
    exe: &Path,
    keepers: Keepers,
    purge: bool,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Ended> {
    tell("ending the agent");
    if let Some(keeper) = keepers.agent {
        keeper.stop().await;
    }
    end_holder(state, "agent").await?;
    tell(if purge {
        "removing the nodes with their data"
    } else {
        "stopping the nodes"
    });
    let nodes = parts::stop_nodes(state, exe, purge).await;
    tell("ending the master");
    if let Some(keeper) = keepers.master {
        keeper.stop().await;
    }
    end_holder(state, "master").await?;
    nodes?;
    if purge {
        tell("deleting the state directory");
        state.delete()?;
    }
    Ok(Ended {
        state_dir: state.root().to_owned(),
        purged: purge,
    })
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
