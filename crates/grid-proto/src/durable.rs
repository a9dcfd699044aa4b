//! Files that a crash leaves whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Replaces `path` by `bytes`, with mode 0600: after a crash at any instant the file has either the old bytes or the
/// new ones, and when this returns it has the new ones for good.
///
/// # Errors
/// Those of the file system; the old file is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_aside(path, bytes)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    sync_parent(path)
}

/// Makes `path` with `bytes` and mode 0600 as [`write()`] does, unless it is there: `false` then, and it is left as it is.
///
/// # Errors
/// Those of the file system.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let temporary = write_aside(path, bytes)?;
    // Unlike a rename, a link never replaces what another process put there meanwhile.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// The bytes in a file of their own next to `path`, on disk for good.
fn write_aside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut tag = [0; 8];
    getrandom::fill(&mut tag).map_err(io::Error::other)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.tmp", u64::from_ne_bytes(tag)));
    let temporary = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    match written {
        Ok(()) => Ok(temporary),
        Err(error) => {
            // What could not be written whole is not left lying about; the first error is the one to tell.
            drop(fs::remove_file(&temporary));
            Err(error)
        }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn writes_replace_and_creates_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(create(&path, b"one").unwrap());
        assert!(!create(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left"
        );
    }
}
