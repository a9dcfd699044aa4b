//! What a killed shim left running.

use std::time::Duration;

use grid_platform_api::{ErrorKind, NodeUid, Result};

use crate::{
    cgroup::Cgroups,
    error::{Context, error},
    sys::proc,
    translate::UID_VARIABLE,
};

/// How long a process that was killed may take to go: one that waits for a dead disk does not.
const LIMIT: Duration = Duration::from_secs(10);

/// Kills every process of the nodes: those that carry a node's uid in their environment, and those in its cgroups.
/// For one node or many it looks through all processes once.
///
/// # Errors
/// `Unconfirmed` when some do not go.
pub(crate) fn leftovers(uids: &[&NodeUid], cgroups: &Cgroups) -> Result<()> {
    if uids.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = uids
        .iter()
        .map(|it| format!("{UID_VARIABLE}={it}"))
        .collect();
    let mut gone = proc::kill_by_environment(&lines, LIMIT).cannot("look through the processes")?;
    for uid in uids {
        gone &= cgroups
            .kill(uid, LIMIT)
            .cannot("look through the node's cgroups")?;
    }
    confirm(gone)
}

/// Kills what is in the cgroups of a node that has ended: nothing, unless something joined them from elsewhere.
///
/// # Errors
/// `Unconfirmed` when some do not go.
pub(crate) fn cgroups(uid: &NodeUid, cgroups: &Cgroups) -> Result<()> {
    confirm(
        cgroups
            .kill(uid, LIMIT)
            .cannot("look through the node's cgroups")?,
    )
}

fn confirm(gone: bool) -> Result<()> {
    if gone {
        return Ok(());
    }
    Err(error(
        ErrorKind::Unconfirmed,
        "processes of the node were killed and are still there",
    )
    .with_hint("They wait for the kernel, most likely for a disk: mend that, and call again."))
}
