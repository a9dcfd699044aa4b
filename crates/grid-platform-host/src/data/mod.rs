//! Data directories: made, claimed and deleted relative to handles, through no link.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use grid_platform_api::{ErrorKind, NodeId, NodeUid, OwnerId, Result, checked};
use rustix::fs::{AtFlags, FileType, Gid, Uid};
use serde::{Deserialize, Serialize};

mod claim;
mod store;

pub use claim::{PathClaim, Purpose};
pub use store::{DataStore, Used};

use crate::{
    error::{Context, error},
    files::{self, Durable},
    mounts,
};

/// The file in a data directory that says whose it is. Without it the adapter did not make the directory.
pub const MARKER: &str = ".sutra-grid";
const MARKER_MAX: usize = 64 * 1024;

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Whose adapter made the directory.
    pub owner: OwnerId,
    /// For which node.
    pub node_id: NodeId,
    /// The incarnation that it was made for; later ones of the id use it again.
    pub uid: NodeUid,
}

/// Where data may be, by an adapter's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Where nodes that name no path have their data.
    pub data_path: PathBuf,
    /// Beneath which directories a request may name a path.
    pub roots: Vec<PathBuf>,
    /// The adapter's own state, which is never data.
    pub state_dir: PathBuf,
}

/// A place beneath one of the allowed roots.
pub struct Site {
    root: PathBuf,
    below: PathBuf,
}

/// What stands at a site.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A directory with a marker.
    Marked(Marker),
    /// A directory with an empty marker: one that was made here, before a loss of power took the marker's text.
    Blank,
    /// A directory that somebody else made.
    Unmarked,
}

impl Found {
    /// The marker.
    ///
    /// # Errors
    /// `OwnedByOther` where there is none.
    fn marked(self) -> Result<Marker> {
        match self {
            Self::Marked(marker) => Ok(marker),
            Self::Nothing | Self::Blank | Self::Unmarked => Err(error(
                ErrorKind::OwnedByOther,
                "the data was replaced while it was being deleted",
            )
            .with_hint("Look whose it is: `grid data ls` shows whose data is where.")),
        }
    }
}

impl Site {
    /// The place of `path`, which the settings must allow.
    ///
    /// # Errors
    /// `NotAllowed` outside the roots.
    pub fn of(places: &Places, path: &Path) -> Result<Self> {
        // What the adapter chooses itself is always allowed.
        let roots = places.roots.iter().chain([&places.data_path]);
        for root in roots {
            if let Ok(below) = path.strip_prefix(root) {
                let site = Self {
                    root: root.clone(),
                    // Without doubled slashes and dots.
                    below: below
                        .components()
                        .filter(|it| matches!(it, Component::Normal(_)))
                        .collect(),
                };
                site.keep_off(&places.state_dir)?;
                return Ok(site);
            }
        }
        let allowed: Vec<String> = places
            .roots
            .iter()
            .map(|it| format!("`{}`", it.display()))
            .collect();
        Err(error(
            ErrorKind::NotAllowed,
            format!(
                "the data path `{}` is outside the storage roots",
                path.display()
            ),
        )
        .with_hint(format!(
            "Use a path beneath {}, or add a root to `storage_roots` in the agent's settings.",
            allowed.join(" or ")
        )))
    }

    /// A root may be wide, `/` even: the adapter's own state is never data beneath it.
    fn keep_off(&self, state_dir: &Path) -> Result<()> {
        // Links beneath a root are not followed, those on the way to it and to the state are.
        let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let meets = overlap(&self.path(), state_dir)
            || overlap(
                &resolved(&self.root).join(&self.below),
                &resolved(state_dir),
            );
        if !meets {
            return Ok(());
        }
        Err(error(
            ErrorKind::NotAllowed,
            format!(
                "the data path `{}` meets the state directory `{}`",
                self.path().display(),
                state_dir.display()
            ),
        )
        .with_hint("Choose another `storage_path`."))
    }

    /// The place of a path that need not be allowed any more: to be looked at, and no more.
    pub fn any(path: &Path) -> Self {
        Self {
            root: path.parent().unwrap_or(path).to_owned(),
            below: path.file_name().map(PathBuf::from).unwrap_or_default(),
        }
    }

    /// The whole path.
    pub fn path(&self) -> PathBuf {
        if self.below.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(&self.below)
        }
    }

    fn open_root(&self) -> io::Result<OwnedFd> {
        files::open_dir(&self.root)
    }

    /// The directory itself.
    pub fn open(&self) -> io::Result<OwnedFd> {
        files::open_dir_beneath(self.open_root()?, &self.below)
    }

    /// The directory that holds it, and its name there.
    fn open_parent(&self) -> io::Result<(OwnedFd, OsString)> {
        let (Some(parent), Some(name)) = (self.below.parent(), self.below.file_name()) else {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        };
        let parent = files::open_dir_beneath(self.open_root()?, parent)?;
        Ok((parent, name.to_owned()))
    }

    /// Looks what is there.
    ///
    /// # Errors
    /// `NotAllowed` for a link or a file on the way; `OwnedByOther` for a marker that cannot be understood.
    pub fn look(&self) -> Result<Found> {
        match self.open() {
            Ok(dir) => self.look_in(dir),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(e) => Err(self.refused(e)),
        }
    }

    fn look_in(&self, dir: impl AsFd) -> Result<Found> {
        let path = self.path();
        match files::read_at(dir, MARKER, MARKER_MAX) {
            Ok(bytes) if bytes.is_empty() => Ok(Found::Blank),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Found::Marked)
                .map_err(|e| {
                    error(
                        ErrorKind::OwnedByOther,
                        format!("`{}/{MARKER}` cannot be understood", path.display()),
                    )
                    .with_source(e)
                    .with_hint("Look whose the directory is, or choose another `storage_path`.")
                }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Unmarked),
            // A link, a directory or something endless in its place is none of ours.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ELOOP | libc::EISDIR | libc::EFBIG | libc::ENXIO)
                ) =>
            {
                Err(error(
                    ErrorKind::OwnedByOther,
                    format!("`{}/{MARKER}` is no marker of ours", path.display()),
                )
                .with_source(e)
                .with_hint("Look whose the directory is, or choose another `storage_path`."))
            }
            Err(e) => Err(crate::error::refused(
                format!("read `{}/{MARKER}`", path.display()),
                e,
            )),
        }
    }

    fn refused(&self, source: io::Error) -> grid_platform_api::Error {
        let path = self.path();
        let not_allowed = match source.raw_os_error() {
            Some(libc::ELOOP) => error(
                ErrorKind::NotAllowed,
                format!("the data path `{}` leads through a link", path.display()),
            )
            .with_hint("Name the directory itself: links beneath a storage root are not followed."),
            Some(libc::ENOTDIR) => error(
                ErrorKind::NotAllowed,
                format!("the data path `{}` leads through a file", path.display()),
            )
            .with_hint("Choose another `storage_path`."),
            Some(libc::EXDEV) => error(
                ErrorKind::NotAllowed,
                format!("the data path `{}` leads out of its root", path.display()),
            )
            .with_hint("Choose another `storage_path`."),
            _ => {
                let what = format!("open the data path `{}`", path.display());
                return crate::error::refused(what, source);
            }
        };
        not_allowed.with_source(source)
    }

    /// Looks, and refuses what a node must not use.
    ///
    /// # Errors
    /// `OwnedByOther` when it was made for another owner or node.
    pub fn check(&self, owner: &OwnerId, id: &NodeId) -> Result<Found> {
        let found = self.look()?;
        if let Found::Marked(marker) = &found {
            let path = self.path();
            let whose = if marker.owner != *owner {
                "another agent".to_owned()
            } else if marker.node_id != *id {
                format!("the node `{}`", marker.node_id)
            } else {
                return Ok(found);
            };
            return Err(error(
                ErrorKind::OwnedByOther,
                format!("the data path `{}` was made for {whose}", path.display()),
            )
            .with_hint(
                "Choose another `storage_path`; `grid data ls` shows whose data is where.",
            ));
        }
        Ok(found)
    }

    /// Makes the directory if it is not there. It appears whole, with its marker, or not at all; the durable writes that
    /// follow make it durable. Gives whether it was made. An empty marker is filled in only where it is `ours`: anybody
    /// could have put one into a directory that was there before.
    pub fn ensure(&self, marker: &Marker, user: Option<(u32, u32)>, ours: bool) -> Result<bool> {
        match self.check(&marker.owner, &marker.node_id)? {
            Found::Nothing => {}
            Found::Marked(_) | Found::Unmarked => return Ok(false),
            Found::Blank if !ours => return Ok(false),
            Found::Blank => {
                let what = format!("mark the data path `{}`", self.path().display());
                let dir = self.open().cannot(&what)?;
                let text = serde_json::to_vec(marker)
                    .map_err(io::Error::from)
                    .cannot(&what)?;
                files::replace_at(&dir, MARKER, &text, 0o644, Durable::Yes).cannot(what)?;
                return Ok(false);
            }
        }
        let what = format!("make the data path `{}`", self.path().display());
        self.make_parents().map_err(|e| self.refused(e))?;
        let (parent, name) = self.open_parent().map_err(|e| self.refused(e))?;
        let temporary = format!("{MARKER}-new-{}", marker.uid);
        files::remove_tree(&parent, &temporary).cannot(&what)?;
        files::make_dir_at(&parent, &temporary, 0o700).cannot(&what)?;
        let made = || -> io::Result<bool> {
            let dir = files::open_dir_at(&parent, &temporary)?;
            let text = serde_json::to_vec(marker)?;
            files::write_new(&dir, MARKER, &text, 0o644, Durable::No)?;
            if let Some((uid, gid)) = user {
                rustix::fs::fchown(&dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            }
            files::rename_new(&parent, &temporary, &parent, &name)
        };
        match made() {
            Ok(true) => Ok(true),
            other => {
                // Best effort: the name is never taken for data.
                let _ = files::remove_tree(&parent, &temporary);
                other.cannot(&what)?;
                // Somebody was faster: look at what he made.
                self.check(&marker.owner, &marker.node_id).map(|_| false)
            }
        }
    }

    /// How many directories on the way to it are not there.
    pub fn missing_parents(&self) -> usize {
        let Ok(root) = self.open_root() else { return 0 };
        self.parents()
            .take_while(|it| {
                // A link or a file in the way is somebody's, and so is what takes its place later.
                files::open_dir_beneath(&root, it)
                    .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
            })
            .count()
    }

    /// Takes directories on the way to it away again, that were made for it and are empty.
    pub fn remove_parents(&self, count: usize) {
        let Ok(root) = self.open_root() else { return };
        for path in self.parents().take(count) {
            let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
                return;
            };
            let removed = files::open_dir_beneath(&root, above)
                .is_ok_and(|dir| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).is_ok());
            if !removed {
                return;
            }
        }
    }

    /// The directories on the way to it, the nearest first.
    fn parents(&self) -> impl Iterator<Item = &Path> {
        self.below
            .ancestors()
            .skip(1)
            .filter(|it| !it.as_os_str().is_empty())
    }

    fn make_parents(&self) -> io::Result<()> {
        let Some(parents) = self.below.parent() else {
            return Ok(());
        };
        let mut at = self.open_root()?;
        for part in parents {
            match files::open_dir_beneath(&at, Path::new(part)) {
                Ok(next) => at = next,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    files::make_dir_at(&at, part, 0o755)?;
                    at = files::open_dir_beneath(&at, Path::new(part))?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Refuses when something is mounted in the directory: that would be deleted with it, and is not the node's.
    ///
    /// # Errors
    /// `Conflict`, with the mount point.
    pub fn holds_no_mount(&self) -> Result<()> {
        let path = self.path();
        let what = || format!("look for mounts in the data path `{}`", path.display());
        let Some(point) = mounts::beneath(&path).cannot(what())? else {
            return Ok(());
        };
        Err(error(
            ErrorKind::Conflict,
            format!(
                "`{}` is mounted in the data path `{}`",
                point.display(),
                path.display()
            ),
        )
        .with_hint("Unmount it first, then remove the node again: what is mounted there is not deleted with a node."))
    }

    /// Deletes the directory, if the marker says that it was made for this owner and node. By another name first:
    /// a crash leaves all of it or a name that [`finish`](Self::finish_purge) finds.
    ///
    /// # Errors
    /// `OwnedByOther`; the system's refusals.
    pub fn purge(&self, owner: &OwnerId, id: &NodeId, uid: &NodeUid) -> Result<()> {
        if matches!(self.check(owner, id)?, Found::Marked(_)) {
            self.holds_no_mount()?;
            let what = format!("delete the data path `{}`", self.path().display());
            let (parent, name) = self.open_parent().cannot(&what)?;
            rustix::fs::renameat(&parent, &name, &parent, trash(uid)).cannot(&what)?;
            // Looked at again where nobody expects it: in between, another directory could have come under the name.
            let moved = Self {
                root: self.root.clone(),
                below: self.below.with_file_name(trash(uid)),
            };
            if let Err(e) = moved.check(owner, id).and_then(Found::marked) {
                files::rename_new(&parent, trash(uid), &parent, &name).cannot(what)?;
                return Err(e);
            }
        }
        self.finish_purge(uid)
    }

    /// Deletes what an interrupted purge left.
    pub fn finish_purge(&self, uid: &NodeUid) -> Result<()> {
        let what = format!("delete the data path `{}`", self.path().display());
        match self.open_parent() {
            Ok((parent, _)) => files::remove_tree(&parent, trash(uid)).cannot(what),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            // A root itself was never made by us.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(()),
            Err(e) => Err(self.refused(e)),
        }
    }

    /// What the directory takes on disk, in bytes; a file of several names counts once.
    pub fn disk_bytes(&self) -> io::Result<u64> {
        let top = self.open()?;
        let mut total = 0_u64;
        let mut linked = std::collections::BTreeSet::new();
        let mut open = vec![PathBuf::new()];
        while let Some(path) = open.pop() {
            // What goes away while it is counted is no error.
            let Ok(dir) = files::open_dir_beneath(&top, &path) else {
                continue;
            };
            for name in files::names(&dir)? {
                let stat = rustix::fs::statat(&dir, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW);
                let Ok(stat) = stat else { continue };
                let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if is_dir {
                    open.push(path.join(&name));
                } else if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                    continue;
                }
                // Blocks are of 512 bytes, whatever the file system's own size (stat(2)).
                total = total.saturating_add(
                    u64::try_from(stat.st_blocks)
                        .unwrap_or(0)
                        .saturating_mul(512),
                );
            }
        }
        Ok(total)
    }
}

fn trash(uid: &NodeUid) -> String {
    format!("{MARKER}-trash-{uid}")
}

/// Whether one path is the other or lies in it.
pub fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// What is remembered of data whose node was removed: `data/<path's hash>.json`, one file each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The node that left it.
    pub node_id: NodeId,
    /// Its last incarnation.
    pub uid: NodeUid,
    /// Where it is.
    pub path: PathBuf,
    /// It is being deleted.
    pub purge: bool,
}

/// The memory of kept data.
pub struct KeptData {
    dir: OwnedFd,
}

impl KeptData {
    /// Opens the list in a state directory, making it if it is not there.
    ///
    /// # Errors
    /// The system's refusals.
    pub fn open(state: impl AsFd) -> Result<Self> {
        files::make_dir_at(&state, "data", 0o700).cannot("make the list of kept data")?;
        let dir = files::open_dir_at(&state, "data").cannot("open the list of kept data")?;
        Ok(Self { dir })
    }

    fn name(kept: &Kept) -> String {
        // One file a path, and the node's id so that people find their way.
        let hash = files::content_hash(kept.path.as_os_str().as_bytes());
        format!("{}-{hash:016x}.json", kept.node_id)
    }

    /// Remembers, durably.
    pub fn put(&self, kept: &Kept) -> Result<()> {
        let what = format!("remember the data of the node `{}`", kept.node_id);
        let text = serde_json::to_vec(kept)
            .map(checked::seal)
            .map_err(io::Error::from)
            .cannot(&what)?;
        files::replace_at(&self.dir, &Self::name(kept), &text, 0o600, Durable::Yes).cannot(what)
    }

    /// Forgets.
    pub fn forget(&self, kept: &Kept) -> Result<()> {
        files::remove_at(&self.dir, Self::name(kept))
            .and_then(|()| files::sync(&self.dir))
            .cannot(format!("forget the data of the node `{}`", kept.node_id))
    }

    /// All that is remembered, by path.
    pub fn all(&self) -> Result<BTreeMap<PathBuf, Kept>> {
        let mut all = BTreeMap::new();
        let names = match files::names(&self.dir) {
            // Somebody deleted the state directory: nothing is remembered.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.cannot("read the list of kept data")?,
        };
        for name in names {
            let is_entry = Path::new(&name).extension() == Some(OsStr::new("json"));
            let read = files::read_at(&self.dir, &name, MARKER_MAX).ok();
            let kept =
                read.and_then(|it| serde_json::from_slice::<Kept>(checked::open(&it).ok()?).ok());
            match kept {
                Some(kept) if is_entry => {
                    all.insert(kept.path.clone(), kept);
                }
                _ if is_entry => {
                    tracing::warn!(file = %name.display(), "an entry of the list of kept data cannot be understood")
                }
                _ => {}
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests;
