//! All data of one owner: of nodes that are there, and of nodes that were removed and left theirs.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grid_platform_api::{NodeData, NodeId, OwnerId, Result};

use super::{Found, Kept, KeptData, Places, Purpose, Site, overlap};
use crate::{error::Context, files};

/// The nodes that there are, each with its data path, at the moment of the call.
pub type Used<'a> = &'a (dyn Fn() -> Vec<(NodeId, PathBuf)> + 'a);

/// Where data may be and whose it is.
pub struct DataStore {
    owner: OwnerId,
    places: Places,
    kept: KeptData,
    /// Data paths of calls that are at work on them.
    claimed: Mutex<BTreeMap<NodeId, PathBuf>>,
}

impl DataStore {
    /// Opens the memory of kept data in a state directory.
    ///
    /// # Errors
    /// The system's refusals.
    pub fn open(state: impl AsFd, owner: OwnerId, places: Places) -> Result<Self> {
        Ok(Self {
            owner,
            places,
            kept: KeptData::open(state)?,
            claimed: Mutex::default(),
        })
    }

    pub(super) fn claimed(&self) -> MutexGuard<'_, BTreeMap<NodeId, PathBuf>> {
        // The map is whole at every point where a panic could happen.
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a path, which the settings must allow.
    ///
    /// # Errors
    /// `NotAllowed` outside the roots.
    pub fn site(&self, path: &Path) -> Result<Site> {
        Site::of(&self.places, path)
    }

    /// The memory of kept data.
    pub fn kept(&self) -> &KeptData {
        &self.kept
    }

    /// Where a node that names no path has its data.
    pub fn usual(&self, id: &NodeId) -> PathBuf {
        self.places.data_path.join(id.as_str())
    }

    /// Whether what stands at a site was made for this node, as far as can be known: anybody can copy a marker, so only
    /// data that is remembered, or is at the node's usual place, is ours.
    ///
    /// # Errors
    /// The system's refusals.
    pub fn is_ours(&self, id: &NodeId, path: &Path, found: &Found) -> Result<bool> {
        Ok(match found {
            Found::Nothing => true,
            Found::Unmarked => false,
            Found::Marked(_) | Found::Blank => {
                path == self.usual(id)
                    || self
                        .kept
                        .all()?
                        .get(path)
                        .is_some_and(|it| it.node_id == *id)
            }
        })
    }

    /// Data of this owner without a node: what is remembered, and what is found where nodes have their data by default.
    /// All of it, or what meets a path.
    ///
    /// # Errors
    /// The system's refusals.
    pub fn leftovers(
        &self,
        near: Option<&Path>,
        used: Used<'_>,
    ) -> Result<BTreeMap<PathBuf, Kept>> {
        let is_near = |path: &Path| near.is_none_or(|it| overlap(it, path));
        let mut all = self.kept.all()?;
        all.retain(|path, _| is_near(path));
        let data_path = &self.places.data_path;
        let names = files::open_dir(data_path).and_then(files::names);
        for name in names.cannot(format!("read `{}`", data_path.display()))? {
            let path = data_path.join(&name);
            if is_near(&path)
                && let Ok(site) = self.site(&path)
                && let Ok(Found::Marked(marker)) = site.look()
                && marker.owner == self.owner
                // A marker elsewhere than at its node's usual place may be a copy.
                && name == *marker.node_id.as_str()
            {
                all.entry(path.clone()).or_insert(Kept {
                    node_id: marker.node_id,
                    uid: marker.uid,
                    path,
                    purge: false,
                });
            }
        }
        for (_, path) in used() {
            all.remove(&path);
        }
        Ok(all)
    }

    /// Deletes the data that a node of this id left.
    ///
    /// # Errors
    /// `Conflict` and `OwnedByOther` when it cannot go without another's; the system's refusals.
    pub fn purge_left(self: &Arc<Self>, id: &NodeId, used: Used<'_>) -> Result<()> {
        for mut kept in self.leftovers(None, used)?.into_values() {
            if kept.node_id == *id {
                let _claim = self.claim(id, &kept.path, Purpose::Delete, used)?;
                kept.purge = true;
                self.kept.put(&kept)?;
                self.finish_purge(&kept)?;
            }
        }
        Ok(())
    }

    /// Deletes data whose deletion was decided.
    ///
    /// # Errors
    /// `OwnedByOther`; the system's refusals.
    pub fn finish_purge(&self, kept: &Kept) -> Result<()> {
        let site = self.site(&kept.path)?;
        site.purge(&self.owner, &kept.node_id, &kept.uid)?;
        self.kept.forget(kept)
    }

    /// Carries on with the deletions that a crash cut short.
    pub fn finish_purges(self: &Arc<Self>, used: Used<'_>) {
        let Ok(all) = self.kept.all() else { return };
        let taken = used();
        for kept in all.into_values().filter(|it| it.purge) {
            // The node is still there: its removal was cut short before, and has to be asked for again.
            let done = if taken.iter().any(|(_, path)| *path == kept.path) {
                self.kept.forget(&kept)
            } else if taken.iter().any(|(_, path)| path.starts_with(&kept.path)) {
                // What came to lie in it meanwhile is not deleted with it.
                self.kept.put(&Kept {
                    purge: false,
                    ..kept.clone()
                })
            } else {
                // Nor is what another node left in it.
                self.claim(&kept.node_id, &kept.path, Purpose::Delete, used)
                    .and_then(|_claim| self.finish_purge(&kept))
            };
            if let Err(e) = done {
                tracing::warn!(node = %kept.node_id, error = %e, "data whose deletion was asked for is still there");
            }
        }
    }

    /// All data of this owner, by node. Of each node that there is: its path, and whether the adapter made what is there.
    ///
    /// # Errors
    /// The system's refusals.
    pub fn list(&self, nodes: &dyn Fn() -> Vec<(NodeId, PathBuf, bool)>) -> Result<Vec<NodeData>> {
        let entry = |id: &NodeId, path: &Path, in_use: bool, ours: bool| {
            let site = Site::any(path);
            let marked = ours && matches!(site.check(&self.owner, id), Ok(Found::Marked(_)));
            (marked || in_use).then(|| NodeData {
                node_id: id.clone(),
                location: path.to_string_lossy().into_owned(),
                in_use,
                created_by_platform: marked,
                bytes: site.disk_bytes().ok(),
            })
        };
        let mut all: Vec<NodeData> = nodes()
            .iter()
            .filter_map(|(id, path, ours)| entry(id, path, true, *ours))
            .collect();
        let used = || {
            nodes()
                .into_iter()
                .map(|(id, path, _)| (id, path))
                .collect()
        };
        let left = self.leftovers(None, &used)?;
        all.extend(
            left.values()
                .filter_map(|it| entry(&it.node_id, &it.path, false, true)),
        );
        all.sort_by(|a, b| (&a.node_id, &a.location).cmp(&(&b.node_id, &b.location)));
        Ok(all)
    }
}
