//! Secrets: files of the node's user, in a directory of the state that the engine mounts.
//!
//! Where the engine does not see the state they are in a volume (`volumes.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use grid_platform_api::{NodeId, NodeUid, Result, SpawnConfig};
use grid_platform_host::{
    error::Context,
    files::{self, Durable},
};
use rustix::fs::{Gid, Uid};

use crate::tar::Owner;

/// The directory of all secrets.
pub(crate) struct Secrets {
    dir: OwnedFd,
    path: PathBuf,
    /// Incarnations of which is not known whether they came to be.
    left: Mutex<BTreeMap<NodeId, BTreeSet<NodeUid>>>,
}

impl Secrets {
    /// Opens the directory in a state directory, making it if it is not there.
    ///
    /// # Errors
    /// The system's refusals.
    pub(crate) fn open(state: &OwnedFd, path: &Path) -> Result<Self> {
        // The engine passes through it as root.
        files::make_dir_at(state, "secrets", 0o700).cannot("make the directory of secrets")?;
        Ok(Self {
            dir: files::open_dir_at(state, "secrets").cannot("open the directory of secrets")?,
            path: path.join("secrets"),
            left: Mutex::default(),
        })
    }

    /// Where the secrets of an incarnation are.
    pub(crate) fn place(&self, uid: &NodeUid) -> PathBuf {
        self.path.join(uid.as_str())
    }

    /// Writes the secrets of an incarnation, whole files in the place of what was there. The directory stays the one that
    /// a container has mounted.
    ///
    /// # Errors
    /// The system's refusals.
    pub(crate) fn write(
        &self,
        id: &NodeId,
        uid: &NodeUid,
        config: &SpawnConfig,
        user: Owner,
    ) -> Result<()> {
        if config.secrets.is_empty() {
            return Ok(());
        }
        let written = || -> io::Result<()> {
            let owner = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
            files::make_dir_at(&self.dir, uid.as_str(), 0o500)?;
            let dir = files::open_dir_at(&self.dir, uid.as_str())?;
            rustix::fs::fchown(&dir, owner.0, owner.1)?;
            for (name, value) in &config.secrets {
                let temporary = format!(".{name}.tmp");
                let bytes = value.expose().unwrap_or_default();
                let file = files::write_new(&dir, &temporary, bytes, 0o400, Durable::No)?;
                rustix::fs::fchown(&file, owner.0, owner.1)?;
                rustix::fs::renameat(&dir, temporary.as_str(), &dir, name.as_str())?;
            }
            Ok(())
        };
        written().cannot(format!("write the secrets of the node `{id}`"))
    }

    /// Deletes the secrets of an incarnation.
    ///
    /// # Errors
    /// The system's refusals.
    pub(crate) fn remove(&self, uid: &NodeUid) -> Result<()> {
        files::remove_tree(&self.dir, uid.as_str()).cannot("delete the secrets of a node")
    }

    /// Remembers that those of an incarnation lie there, and may be in use or not.
    pub(crate) fn leave(&self, id: &NodeId, uid: &NodeUid) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.entry(id.clone()).or_default().insert(uid.clone());
    }

    /// Deletes those that were left of a node, but for the incarnation that there is.
    ///
    /// # Errors
    /// The system's refusals.
    pub(crate) fn clear_left(&self, id: &NodeId, live: Option<&NodeUid>) -> Result<()> {
        let left = self
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        let mut left = left.into_iter().flatten();
        left.try_for_each(|uid| match Some(&uid) == live {
            true => Ok(()),
            false => self.remove(&uid),
        })
    }

    /// The incarnations whose secrets are there.
    ///
    /// # Errors
    /// The system's refusals.
    pub(crate) fn all(&self) -> Result<Vec<NodeUid>> {
        let names = files::names(&self.dir).cannot("read the directory of secrets")?;
        let uid = |it: OsString| NodeUid::try_from(it.into_string().ok()?).ok();
        Ok(names.into_iter().filter_map(uid).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use grid_platform_api::Program;

    use super::*;

    #[test]
    fn secrets_are_files_that_are_replaced_where_they_are() {
        let place = tempfile::tempdir().unwrap();
        let state = files::open_dir(place.path()).unwrap();
        let secrets = Secrets::open(&state, place.path()).unwrap();
        let uid = NodeUid::from_bytes([7; 16]);
        let own = grid_platform_host::users::own_uid();
        let user = Owner {
            uid: own,
            gid: rustix::process::getegid().as_raw(),
        };
        let write = |value: &str| {
            let config = SpawnConfig::builder("n1", Program::image("i", [""; 0]))
                .secret("api.key", value.into())
                .build()
                .unwrap();
            secrets.write(&config.node_id, &uid, &config, user).unwrap();
            let file = secrets.place(&uid).join("api.key");
            let meta = std::fs::metadata(&file).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, 0o400);
            assert_eq!(meta.uid(), own);
            assert_eq!(std::fs::read_to_string(file).unwrap(), value);
            std::fs::metadata(secrets.place(&uid)).unwrap().ino()
        };
        let inode = write("one");
        assert_eq!(write("two"), inode);
        assert_eq!(std::fs::read_dir(secrets.place(&uid)).unwrap().count(), 1);
        assert_eq!(secrets.all().unwrap(), std::slice::from_ref(&uid));
        let id = NodeId::new("n1").unwrap();
        secrets.leave(&id, &uid);
        secrets.clear_left(&id, Some(&uid)).unwrap();
        assert_eq!(secrets.all().unwrap(), std::slice::from_ref(&uid));
        secrets.leave(&id, &uid);
        secrets.clear_left(&id, None).unwrap();
        assert_eq!(secrets.all().unwrap(), []);
    }
}
