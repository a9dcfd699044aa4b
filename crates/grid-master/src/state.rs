//! The state directory: who may use it, and the files in it that people and other programs read.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use grid_client::Role;
use grid_platform_api::{Error, ErrorKind, Result};
use grid_proto::durable;

use crate::{
    auth,
    store::{Birth, row::TokenRow},
};

/// What mends a damaged store.
pub(crate) const RESTORE: &str = "Put a copy of the state directory back and start once with `--new-epoch`, or move the file away to begin an empty grid.";

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

fn fault(what: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::PermissionDenied
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("cannot {what} `{}`", path.display()))
        .with_source(error)
        .with_hint("Choose a directory that this user may write by `--state-dir`.")
}

impl StateDir {
    /// Takes the directory, which is made if it does not exist.
    ///
    /// # Errors
    /// `StateLocked` when another master has it; `PermissionDenied` and others of the file system.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        make_dir(path)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| fault("open", &lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::StateLocked,
                format!(
                    "another master uses the state directory `{}`",
                    path.display()
                ),
            )
            .with_hint("End it, or give this one another `--state-dir`.")),
            Err(TryLockError::Error(error)) => Err(fault("lock", &lock_path, error)),
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Refuses a store that was cut to nothing: it would be taken for that of a first start, whose tokens take the place
    /// of those that are nowhere else. A first start that was interrupted has made none.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn refuse_emptied(&self, store: &Path) -> Result<()> {
        let emptied = fs::metadata(store).is_ok_and(|it| it.len() == 0);
        if !emptied || !self.file("tokens").exists() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("the store `{}` is empty and was not", store.display()),
        )
        .with_hint(RESTORE))
    }

    /// Makes the first tokens and writes each to `tokens/<role>`; what is stored of them is returned.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn birth(&self) -> Result<Birth> {
        let dir = self.file("tokens");
        make_dir(&dir)?;
        let roles = [Role::Admin, Role::Read, Role::Agent];
        let tokens = roles
            .into_iter()
            .map(|role| -> Result<TokenRow> {
                let note = "made at the first start".to_owned();
                let (row, value) = auth::mint(role, Some(note))?;
                let path = dir.join(role.as_str());
                durable::write(&path, format!("{value}\n").as_bytes())
                    .map_err(|e| fault("write", &path, e))?;
                Ok(row)
            })
            .collect::<Result<_>>()?;
        Ok(Birth {
            grid_id: auth::hex(&auth::random::<16>()?),
            tokens,
        })
    }

    /// Tells other programs where this master is, by `addresses.json`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn publish(&self, http: SocketAddr, grpc: SocketAddr) -> Result<()> {
        let path = self.file("addresses.json");
        let json = serde_json::json!({
            "http": http.to_string(),
            "grpc": grpc.to_string(),
            "pid": std::process::id(),
        });
        durable::write(&path, format!("{json}\n").as_bytes()).map_err(|e| fault("write", &path, e))
    }

    /// Takes back what [`publish`](Self::publish) told.
    pub(crate) fn unpublish(&self) {
        // What is left after a kill -9 is overwritten by the next start.
        let _ = fs::remove_file(self.file("addresses.json"));
    }
}

/// Makes the directory for this user alone; one that is there is made so.
fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(|e| fault("make the directory", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_master_per_directory_and_files_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let state = StateDir::take(&path).unwrap();
        let error = StateDir::take(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StateLocked);
        // What an interrupted first start has left is begun again; a store that was used is not.
        let store = state.file("store.redb");
        fs::write(&store, "").unwrap();
        state.refuse_emptied(&store).unwrap();
        let birth = state.birth().unwrap();
        assert_eq!(birth.tokens.len(), 3);
        let error = state.refuse_emptied(&store).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        fs::remove_file(&store).unwrap();
        state.refuse_emptied(&store).unwrap();
        for name in ["tokens/admin", "tokens/read", "tokens/agent"] {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        drop(state);
        StateDir::take(&path).unwrap();
    }
}
