//! No node of a group stays behind it.

use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt, TryStreamExt};
use grid_platform_api::{DataPolicy, Platform};
use grid_platform_process::{Allow, ProcessConfig, ProcessPlatform};

use crate::{Result, process};

/// How many calls are under way at once where many nodes are meant: so many an agent has.
pub(crate) const CONCURRENT: usize = 16;

/// The settings of an adapter that may run anything.
pub(crate) fn any_program(state: &Path, data: &Path) -> ProcessConfig {
    ProcessConfig {
        programs: Allow::Any,
        ..ProcessConfig::new(state, data)
    }
}

/// Removes every node with its data, and gives how many there were.
pub(crate) async fn remove_all(platform: &ProcessPlatform) -> Result<usize> {
    let nodes = platform.list_nodes().await?;
    let count = nodes.len();
    stream::iter(nodes)
        .map(async |it| platform.remove_node(&it.node_id, DataPolicy::Purge).await)
        .buffer_unordered(CONCURRENT)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(count)
}

/// Leaves no node of an adapter, however the measuring ends. Declared before whoever uses the adapter's directories.
pub(crate) struct Cleared {
    dirs: Option<[PathBuf; 2]>,
}

impl Cleared {
    /// Of the adapter whose state and data are in these.
    pub(crate) fn new(dirs: &[PathBuf; 2]) -> Self {
        Self {
            dirs: Some(dirs.clone()),
        }
    }

    /// Removes what is there; an error if that fails.
    pub(crate) fn clear(mut self) -> Result<()> {
        self.dirs.take().map_or(Ok(()), |dirs| remove(&dirs))
    }
}

impl Drop for Cleared {
    fn drop(&mut self) {
        let Some(dirs) = self.dirs.take() else { return };
        if let Err(error) = remove(&dirs) {
            eprintln!("nodes stay in `{}`: {error}", dirs[0].display());
        }
    }
}

fn remove([state, data]: &[PathBuf; 2]) -> Result<()> {
    if !state.exists() {
        return Ok(());
    }
    process::runtime()?.block_on(async {
        let platform = ProcessPlatform::open(any_program(state, data)).await?;
        remove_all(&platform).await.map(drop)
    })
}
