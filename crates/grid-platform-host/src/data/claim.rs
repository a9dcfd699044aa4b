//! Whose a data path is: a node's, one's that is being made, or one's that was removed and left its data.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use grid_platform_api::{ErrorKind, NodeId, Result};

use super::{DataStore, Found, Site, Used, overlap};
use crate::error::error;

/// What a call wants a data path for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To make a node there: nobody else's data may be in it or around it, or the one's purge would take the other's.
    Make,
    /// To delete it: nobody else's data may be in it.
    Delete,
}

impl Purpose {
    fn is_against(self, path: &Path, other: &Path) -> bool {
        match self {
            Self::Make => overlap(path, other),
            Self::Delete => other.starts_with(path),
        }
    }

    fn hint(self, other: &NodeId, node: bool) -> String {
        match (self, node) {
            (Self::Make, true) => "Choose another `storage_path`.".to_owned(),
            (Self::Make, false) => format!(
                "Choose another `storage_path`, or delete that data if nobody needs it: `grid data purge {other}`."
            ),
            (Self::Delete, true) => format!(
                "Deleting it would delete the other's too: remove that node first, `grid rm {other} --purge`."
            ),
            (Self::Delete, false) => format!(
                "Deleting it would delete the other's too: delete that first, `grid data purge {other}`."
            ),
        }
    }
}

/// A data path that a call on a node has for itself, until it is dropped.
pub struct PathClaim {
    store: Arc<DataStore>,
    id: NodeId,
}

impl Drop for PathClaim {
    fn drop(&mut self) {
        self.store.claimed().remove(&self.id);
    }
}

impl DataStore {
    /// Takes a data path for a node. Reads the disk.
    ///
    /// # Errors
    /// `Conflict` when it meets the path of another node; `OwnedByOther` when it meets the data that another node left.
    pub fn claim(
        self: &Arc<Self>,
        id: &NodeId,
        path: &Path,
        purpose: Purpose,
        used: Used<'_>,
    ) -> Result<PathClaim> {
        let claim = self.claim_from_nodes(id, path, purpose, used)?;
        // After the nodes: one that is removed meanwhile was found there, or is remembered here.
        let left = self.leftovers(Some(path), used)?;
        // What was taken away by hand, or was never ours, is nobody's to lose.
        let counts = |path: &PathBuf| {
            !matches!(Site::any(path).look(), Ok(Found::Nothing | Found::Unmarked))
        };
        let met = left
            .values()
            .find(|it| it.node_id != *id && purpose.is_against(path, &it.path) && counts(&it.path));
        let Some(met) = met else { return Ok(claim) };
        let (path, left, other) = (path.display(), met.path.display(), &met.node_id);
        Err(error(
            ErrorKind::OwnedByOther,
            format!("the data path `{path}` overlaps `{left}`, which the node `{other}` left"),
        )
        .with_hint(purpose.hint(other, false)))
    }

    fn claim_from_nodes(
        self: &Arc<Self>,
        id: &NodeId,
        path: &Path,
        purpose: Purpose,
        used: Used<'_>,
    ) -> Result<PathClaim> {
        let mut claimed = self.claimed();
        let met = used()
            .into_iter()
            .chain(claimed.iter().map(|(id, path)| (id.clone(), path.clone())))
            .find(|(other, used)| other != id && purpose.is_against(path, used));
        if let Some((other, used)) = met {
            let (path, used) = (path.display(), used.display());
            return Err(error(
                ErrorKind::Conflict,
                format!("the data path `{path}` overlaps `{used}` of the node `{other}`"),
            )
            .with_hint(purpose.hint(&other, true)));
        }
        claimed.insert(id.clone(), path.to_owned());
        Ok(PathClaim {
            store: Arc::clone(self),
            id: id.clone(),
        })
    }
}
