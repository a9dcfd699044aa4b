//! Files relative to directory handles, durable writes, locks.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// A directory by its path; links on the way are followed, as the caller's own settings name it.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, DIR, Mode::empty())?)
}

/// A directory by its name in another one; not through a link.
pub fn open_dir_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<OwnedFd> {
    Ok(fs::openat(
        dir,
        name.as_ref(),
        DIR | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

/// A directory beneath another, through no link of any kind and never out of it.
pub fn open_dir_beneath(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match fs::openat2(&root, path, DIR, Mode::empty(), how) {
            // A rename elsewhere on the way made the kernel unsure: ask again (openat2(2)).
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// A directory by its name in another one, on the same mount; not through a link.
///
/// # Errors
/// EXDEV where something is mounted on it.
fn open_dir_here(dir: impl AsFd, name: impl AsRef<OsStr>, flags: OFlags) -> io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        match fs::openat2(&dir, name.as_ref(), flags, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// Makes a directory; `false` when something of that name is there.
pub fn make_dir_at(dir: impl AsFd, name: impl AsRef<OsStr>, mode: u32) -> io::Result<bool> {
    match fs::mkdirat(&dir, name.as_ref(), Mode::from_raw_mode(mode)) {
        Ok(()) => {
            // The process' umask may have taken bits away. By a handle: who may write in `dir` could have put a link there.
            fs::fchmod(open_dir_at(&dir, name)?, Mode::from_raw_mode(mode))?;
            Ok(true)
        }
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a file in a directory; not through a link.
pub fn open_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(fs::openat(dir, name.as_ref(), flags, Mode::empty())?.into())
}

/// Opens a file for writing, making it if it is not there; not through a link.
pub fn create_at(dir: impl AsFd, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(dir, name.as_ref(), flags, Mode::from_raw_mode(mode))?;
    Ok(file.into())
}

/// The bytes of a file; more than `max` is an error.
pub fn read_at(dir: impl AsFd, name: impl AsRef<OsStr>, max: usize) -> io::Result<Vec<u8>> {
    let file = open_at(dir, name)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(bytes)
}

/// Whether a write has to outlive the host's loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// When the call returns, it does.
    Yes,
    /// It is whole or not there for every reader, and may be gone after a loss of power.
    No,
}

/// Puts a whole file in the place of what was there.
pub fn replace_at(
    dir: impl AsFd,
    name: &str,
    bytes: &[u8],
    mode: u32,
    durable: Durable,
) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    write_new(&dir, &temporary, bytes, mode, durable)?;
    fs::renameat(&dir, &temporary, &dir, name)?;
    if durable == Durable::Yes {
        fs::fsync(&dir)?;
    }
    Ok(())
}

/// Writes a file that is made anew; what was there of that name is unlinked first. The directory is not synced.
pub fn write_new(
    dir: impl AsFd,
    name: &str,
    bytes: &[u8],
    mode: u32,
    durable: Durable,
) -> io::Result<File> {
    remove_at(&dir, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file: File = fs::openat(&dir, name, flags, Mode::from_raw_mode(mode))?.into();
    fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    file.write_all(bytes)?;
    if durable == Durable::Yes {
        file.sync_all()?;
    }
    Ok(file)
}

/// Unlinks a file; one that is not there is no error.
pub fn remove_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<()> {
    match fs::unlinkat(dir, name.as_ref(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Renames within or between directories; `false` when the new name is taken.
pub fn rename_new(
    from: impl AsFd,
    name: impl AsRef<OsStr>,
    to: impl AsFd,
    new: impl AsRef<OsStr>,
) -> io::Result<bool> {
    let flags = RenameFlags::NOREPLACE;
    match fs::renameat_with(from, name.as_ref(), to, new.as_ref(), flags) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// FNV-1a: names a content, and is no proof of it.
pub fn content_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Makes a directory's entries durable.
pub fn sync(dir: impl AsFd) -> io::Result<()> {
    Ok(fs::fsync(dir)?)
}

/// Takes an exclusive lock on the open file, if it is free.
pub fn try_lock(file: impl AsFd) -> io::Result<bool> {
    match fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The names in a directory.
pub fn names(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Deletes a directory and what is in it, through no link and in no other mount, with a bounded number of open handles whatever the depth:
/// directories are moved up into the one that is deleted before they are emptied.
pub fn remove_tree(parent: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<()> {
    let name = name.as_ref();
    let top = match open_dir_here(&parent, name, DIR) {
        Ok(top) => top,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut moved = 0_u64;
    loop {
        let mut dirs = empty_out(&top, &top, &mut moved)?;
        if dirs.is_empty() {
            break;
        }
        while let Some(dir) = dirs.pop() {
            // The owner may have taken his own right to look inside away.
            let _ = take_back(&top, &dir);
            let inner = open_dir_here(&top, &dir, DIR)?;
            dirs.extend(empty_out(&inner, &top, &mut moved)?);
            fs::unlinkat(&top, dir.as_os_str(), AtFlags::REMOVEDIR)?;
        }
    }
    fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Gives the owner of a directory all rights in it. Never through a link or in another mount: the user whose data is deleted may put one
/// there at any moment, and it would be another's file that changes.
fn take_back(dir: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = open_dir_here(dir, name, flags)?;
    // A handle that may not read is no use to fchmod(2).
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    Ok(fs::chmod(path, Mode::from_raw_mode(0o700))?)
}

/// Unlinks what is not a directory in `dir`, and moves the directories in it into `top`. Gives their names there.
fn empty_out(dir: &OwnedFd, top: &OwnedFd, moved: &mut u64) -> io::Result<Vec<OsString>> {
    let same = std::ptr::eq(dir, top);
    let mut dirs = Vec::new();
    for name in names(dir)? {
        let name = name.as_os_str();
        let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            fs::unlinkat(dir, name, AtFlags::empty())?;
        } else if same {
            dirs.push(name.to_owned());
        } else {
            // Moving a directory writes its `..`, which needs the right to write in it.
            let _ = take_back(dir, name);
            loop {
                *moved += 1;
                let new = OsString::from(format!(".moved-{moved}"));
                if rename_new(dir, name, top, &new)? {
                    dirs.push(new);
                    break;
                }
            }
        }
    }
    Ok(dirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_any_depth_goes_and_what_links_point_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        let top = dir.path().join("tree");
        std::fs::create_dir(&top).unwrap();
        // Deeper than descriptors or path names would reach if they were nested.
        let mut at = open_dir(&top).unwrap();
        for depth in 0..1200 {
            make_dir_at(&at, "d", if depth % 7 == 3 { 0o500 } else { 0o700 }).unwrap();
            at = open_dir_at(&at, "d").unwrap();
            if depth % 7 != 3 {
                write_new(&at, "f", b"1", 0o600, Durable::No).unwrap();
            }
        }
        std::os::unix::fs::symlink(&kept, top.join("link")).unwrap();
        drop(at);
        remove_tree(open_dir(dir.path()).unwrap(), "tree").unwrap();
        assert!(!top.exists());
        assert!(kept.join("file").exists());
        remove_tree(open_dir(dir.path()).unwrap(), "tree").unwrap();
    }

    #[test]
    fn rights_are_not_changed_through_a_link() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            let meta = std::fs::metadata(dir.path().join(name)).unwrap();
            meta.permissions().mode() & 0o777
        };
        let at = open_dir(dir.path()).unwrap();
        make_dir_at(&at, "shut", 0o711).unwrap();
        assert_eq!(mode("shut"), 0o711);
        std::fs::set_permissions(
            dir.path().join("shut"),
            std::fs::Permissions::from_mode(0o000),
        )
        .unwrap();
        std::os::unix::fs::symlink("shut", dir.path().join("link")).unwrap();
        assert!(take_back(&at, "link").is_err());
        assert_eq!(mode("shut"), 0);
        assert!(!make_dir_at(&at, "link", 0o755).unwrap());
        assert_eq!(mode("shut"), 0);
        take_back(&at, "shut").unwrap();
        assert_eq!(mode("shut"), 0o700);
    }

    #[test]
    fn no_link_is_followed_beneath_a_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/a/b")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", dir.path().join("root/link")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("root/inner")).unwrap();
        let root = open_dir(&dir.path().join("root")).unwrap();
        let check = |path: &str, expect: bool| {
            assert_eq!(
                open_dir_beneath(&root, Path::new(path)).is_ok(),
                expect,
                "{path}"
            );
        };
        check("", true);
        check("a/b", true);
        check("link", false);
        check("inner/b", false);
        check("../outside", false);
        check("a/../../outside", false);
    }
}
