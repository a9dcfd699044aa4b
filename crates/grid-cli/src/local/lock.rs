//! Lock files that say who holds them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::process::Identity;
use crate::error::{Error, Result};

/// A lock of this process, until it ends however it ends.
#[derive(Debug)]
pub(crate) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock; `None` when another process holds it.
    pub(crate) fn take(path: &Path) -> Result<Option<Self>> {
        take(path)
            .map(|file| file.map(|_file| Self { _file }))
            .map_err(|error| Error::io("lock", path, &error))
    }

    /// Who took the lock last. Whether it still lives, and so still holds it, is for [`Identity::open`] to say:
    /// trying the lock to find out would keep others from taking it.
    pub(crate) fn holder(path: &Path) -> Result<Option<Identity>> {
        match std::fs::read(path) {
            // A name that was not written to its end is that of a process that was killed doing so.
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read the lock", path, &error)),
        }
    }
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
        let identity = serde_json::to_vec(&Identity::own()?)?;
        file.set_len(0)?;
        file.write_all(&identity)?;
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
        drop(lock);
        assert!(RunLock::take(&path).unwrap().is_some());
    }

    #[test]
    fn a_torn_name_is_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        std::fs::write(&path, "{\"pid\":").unwrap();
        assert!(RunLock::holder(&path).unwrap().is_none());
    }
}
