//! Lock files that say who holds them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::process::{Identity, Process};
use crate::error::{Error, Result};

/// A lock of this process, until it ends however it ends.
#[derive(Debug)]
pub(crate) struct RunLock {
    file: File,
}

/// What a lock file says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    holder: Identity,
    place: Place,
}

/// Which file it is that is locked: a copy of it, or of its directory, says the same and is held by nobody.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    file: (u64, u64),
    dir: (u64, u64),
}

impl Place {
    fn of(file: &File, path: &Path) -> io::Result<Self> {
        let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let dir = path.parent().unwrap_or(Path::new("."));
        Ok(Self {
            file: id(file.metadata()?),
            dir: id(std::fs::metadata(dir)?),
        })
    }
}

impl RunLock {
    /// Takes the lock; `None` when another process holds it.
    pub(crate) fn take(path: &Path) -> Result<Option<Self>> {
        take(path)
            .map(|file| file.map(|file| Self { file }))
            .map_err(|error| Error::io("lock", path, &error))
    }

    /// Who took the lock last and did not let it go. Whether it still lives, and so still holds it, is for
    /// [`Identity::open`] to say: trying the lock to find out would keep others from taking it.
    pub(crate) fn holder(path: &Path) -> Result<Option<Identity>> {
        match read(path) {
            Ok(holder) => Ok(holder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read the lock", path, &error)),
        }
    }

    /// A hold on the process that holds the lock of a part, which only the caller's own children take: they try again.
    pub(crate) fn held_by(path: &Path) -> Result<Option<(u32, Process)>> {
        if Self::take(path)?.is_some() {
            return Ok(None);
        }
        let Some(holder) = Self::holder(path)? else {
            return Ok(None);
        };
        let process = holder
            .open()
            .map_err(|error| Error::io("look for the holder of", path, &error))?;
        Ok(process.map(|process| (holder.pid, process)))
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // A process that lives on without the lock is not to be taken for its holder.
        self.file.set_len(0).ok();
    }
}

fn read(path: &Path) -> io::Result<Option<Identity>> {
    let mut file = File::open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    // A name that was not written to its end is that of a process that was killed doing so.
    let Ok(stored) = serde_json::from_slice::<Stored>(&text) else {
        return Ok(None);
    };
    Ok((stored.place == Place::of(&file, path)?).then_some(stored.holder))
}

fn take(path: &Path) -> io::Result<Option<File>> {
    loop {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if !is_still(&file, path)? {
            // A purge deleted the file between the opening and the lock; the lock would bind nobody.
            continue;
        }
        let stored = serde_json::to_vec(&Stored {
            holder: Identity::own()?,
            place: Place::of(&file, path)?,
        })?;
        file.set_len(0)?;
        file.write_all(&stored)?;
        return Ok(Some(file));
    }
}

fn is_still(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok(there.ino() == held.ino() && there.dev() == held.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        assert!(RunLock::holder(&path).unwrap().is_none());
        let lock = RunLock::take(&path).unwrap().unwrap();
        assert!(RunLock::take(&path).unwrap().is_none());
        let holder = RunLock::holder(&path).unwrap().unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(holder.open().unwrap().is_some());
        assert!(RunLock::held_by(&path).unwrap().is_some());
        drop(lock);
        assert!(RunLock::holder(&path).unwrap().is_none());
        assert!(RunLock::held_by(&path).unwrap().is_none());
        assert!(RunLock::take(&path).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_copy_of_a_lock_is_held_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let _lock = RunLock::take(&path).unwrap().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        // A second name of the same file is locked as the first is, and yet not the place that was locked.
        let linked = elsewhere.join("linked.lock");
        std::fs::hard_link(&path, &linked).unwrap();
        let copied = elsewhere.join("copied.lock");
        std::fs::copy(&path, &copied).unwrap();
        for other in [linked, copied] {
            assert!(RunLock::holder(&other).unwrap().is_none());
            assert!(RunLock::held_by(&other).unwrap().is_none());
        }
    }

    #[test]
    fn a_torn_name_is_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        std::fs::write(&path, "{\"pid\":").unwrap();
        assert!(RunLock::holder(&path).unwrap().is_none());
    }
}
