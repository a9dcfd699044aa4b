//! The agent's state directory and its lock.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use grid_platform_api::{Error, ErrorKind, Result};

use crate::Settings;

/// How long a lock that is held is asked for again. An agent that was killed while it started a program leaves a child
/// behind that has the lock too, until that child executes the program.
const PATIENCE: Duration = Duration::from_secs(1);

/// The agent's hold on its state directory, until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Where the state is; settings that were not loaded may not say it.
pub(crate) fn state_path(settings: &Settings) -> Result<&Path> {
    settings.agent.state_dir.as_deref().ok_or_else(|| {
        Error::new(ErrorKind::InvalidConfig, "`agent.state_dir` is not set")
            .with_hint("Name a directory by `agent.state_dir` or `--state-dir`.")
    })
}

impl StateDir {
    /// Makes the directory (mode 0700) if it is not there, and locks it. Blocks, for a second when it is held.
    ///
    /// # Errors
    /// `StateLocked` while another agent holds it; `Internal` when the file system fails.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fault = |what: &str, error| {
            Error::new(
                ErrorKind::Internal,
                format!("cannot {what} the state directory `{}`", path.display()),
            )
            .with_source(error)
            .with_hint("Choose a directory that this user may write, by `agent.state_dir` or `--state-dir`.")
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| fault("make", e))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("agent.lock"))
            .map_err(|e| fault("write to", e))?;
        let until = Instant::now() + PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    let message = format!(
                        "another agent uses the state directory `{}`",
                        path.display()
                    );
                    return Err(Error::new(ErrorKind::StateLocked, message).with_hint(
                        "End that agent first, or give this one a directory of its own by `--state-dir`.",
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(fault("lock", error)),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/agent");
        let first = StateDir::open(&path).unwrap();
        let error = StateDir::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StateLocked);
        assert!(error.hint().is_some());
        drop(first);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_names_the_setting() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = StateDir::open(&dir.path().join("file/agent")).unwrap_err();
        assert!(error.hint().unwrap().contains("agent.state_dir"));
    }
}
