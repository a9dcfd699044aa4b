//! The data directory: whose it is, which format it has, and who holds it.
//!
//! ```text
//! FORMAT        one line, written last: the directory is a complete store from then on
//! FORMAT.new    the same line, while a store is being made
//! LOCK          locked (flock) by the server that has the store open; holds its pid
//! journal-0,1   changes that are durable and not yet in the index
//! index.redb    rows: key -> checksum, size, times, small bodies
//! objects/      content files of the larger bodies
//! ```

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::{Error, ErrorKind};
use crate::journal;

const FORMAT: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
const LOCK: &str = "LOCK";
const INDEX: &str = "index.redb";
const OBJECTS: &str = "objects";
/// What may stand in a store that is still being made.
const OURS: [&str; 6] = [FORMAT_NEW, LOCK, INDEX, OBJECTS, "journal-0", "journal-1"];
const FORMAT_PREFIX: &str = "sutra grid-storage data, format ";
const FORMAT_VERSION: u32 = 1;

/// Names that may stand beside a store and are never touched: the platform's marker, and what
/// ext4 puts at the root of a fresh volume.
const TOLERATED: [&str; 2] = [".sutra-grid", "lost+found"];

/// A data directory that this process alone holds, until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// The system lets go of the lock when this is closed, however the process ends.
    _lock: File,
    new: bool,
}

impl DataDir {
    /// Makes the directory if it is not there, checks that it is a store's (or empty), and
    /// locks it.
    pub(crate) fn claim(path: &Path) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| {
                Error::io(
                    format!("make the data directory `{}`", path.display()),
                    source,
                )
            })?;
        let names = names(path).map_err(|source| {
            Error::io(
                format!("list the data directory `{}`", path.display()),
                source,
            )
        })?;
        let new = check_names(path, &names)?;
        if new {
            write_durably(path, FORMAT_NEW).map_err(|source| {
                Error::io(format!("begin a new store in `{}`", path.display()), source)
            })?;
        } else {
            check_format(path)?;
        }
        let lock = lock(path)?;
        // Another process may have finished the store between the look and the lock.
        let new = new && !path.join(FORMAT).exists();
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
            new,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is no complete store yet. What is there then was never acknowledged.
    pub(crate) fn is_new(&self) -> bool {
        self.new
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.join(INDEX)
    }

    pub(crate) fn objects_path(&self) -> PathBuf {
        self.path.join(OBJECTS)
    }

    /// Clears what an interrupted first start left, and makes the empty parts.
    pub(crate) fn begin(&self) -> io::Result<()> {
        match std::fs::remove_file(self.index_path()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(source),
            _ => {}
        }
        match DirBuilder::new().mode(0o700).create(self.objects_path()) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(source),
            _ => Ok(()),
        }
    }

    /// Declares the store complete.
    pub(crate) fn complete(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        std::fs::rename(self.path.join(FORMAT_NEW), self.path.join(FORMAT))?;
        File::open(&self.path)?.sync_all()?;
        self.new = false;
        // Its own name, and those of directories made with it, are entries of its parents.
        // Those that may not be opened were not made by this process.
        for parent in std::fs::canonicalize(&self.path)?.ancestors().skip(1) {
            if let Ok(parent) = File::open(parent) {
                parent.sync_all()?;
            }
        }
        Ok(())
    }

    /// Whether the parts of a complete store are all there.
    pub(crate) fn check_parts(&self) -> Result<(), Error> {
        let index_len = std::fs::metadata(self.index_path())
            .map(|meta| meta.len())
            .unwrap_or(0);
        if index_len == 0 {
            return Err(damaged(
                &self.path,
                format!("`{INDEX}` is missing or empty"),
            ));
        }
        if let Some(missing) = journal::paths(&self.path)
            .iter()
            .find(|path| !path.is_file())
        {
            return Err(damaged(
                &self.path,
                format!("`{}` is missing", missing.display()),
            ));
        }
        if !self.objects_path().is_dir() {
            return Err(damaged(&self.path, format!("`{OBJECTS}/` is missing")));
        }
        Ok(())
    }
}

/// The error for a store whose parts cannot be used.
pub(crate) fn damaged(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::DamagedData,
        format!("the store at `{}` is damaged: {problem}", path.display()),
        "Restore the directory from a backup, or start on another `--data-path`; nothing was changed.",
    )
}

fn names(path: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(path)? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Whether the directory is still to become a store; an error if it is someone else's.
fn check_names(path: &Path, names: &BTreeSet<String>) -> Result<bool, Error> {
    if names.contains(FORMAT) {
        return Ok(false);
    }
    let begun = names.contains(FORMAT_NEW);
    let foreign = names.iter().find(|name| {
        let tolerated = TOLERATED.contains(&name.as_str());
        let ours = begun && OURS.contains(&name.as_str());
        !tolerated && !ours
    });
    match foreign {
        None => Ok(true),
        Some(name) => Err(Error::new(
            ErrorKind::ForeignData,
            format!(
                "`{}` is not a store: it holds `{name}` and no `{FORMAT}` file",
                path.display()
            ),
            "Give an empty directory, or one that this server made, as `--data-path`.",
        )),
    }
}

fn check_format(path: &Path) -> Result<(), Error> {
    let mut text = String::new();
    File::open(path.join(FORMAT))
        .and_then(|file| file.take(256).read_to_string(&mut text))
        .map_err(|source| {
            damaged(path, format!("`{FORMAT}` cannot be read")).with_source(source)
        })?;
    let version = text
        .strip_prefix(FORMAT_PREFIX)
        .and_then(|rest| rest.trim_end().parse::<u32>().ok());
    match version {
        Some(FORMAT_VERSION) => Ok(()),
        Some(other) => Err(Error::new(
            ErrorKind::UnsupportedFormat,
            format!(
                "the store at `{}` has format {other}; this server reads format {FORMAT_VERSION}",
                path.display()
            ),
            "Run the version of `grid` that wrote it.",
        )),
        None => Err(Error::new(
            ErrorKind::ForeignData,
            format!(
                "`{}` is not a store: its `{FORMAT}` file is not ours",
                path.display()
            ),
            "Give an empty directory, or one that this server made, as `--data-path`.",
        )),
    }
}

fn write_durably(path: &Path, name: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path.join(name))?;
    writeln!(file, "{FORMAT_PREFIX}{FORMAT_VERSION}")?;
    file.sync_all()?;
    File::open(path)?.sync_all()
}

fn lock(path: &Path) -> Result<File, Error> {
    let what = |source| {
        Error::io(
            format!("lock the data directory `{}`", path.display()),
            source,
        )
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK))
        .map_err(what)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The pid is a help to people, no more: the lock itself is the system's.
            let _ = (&file).take(32).read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => String::new(),
                pid => format!(" (pid {pid})"),
            };
            return Err(Error::new(
                ErrorKind::Locked,
                format!(
                    "another server{holder} has the store at `{}` open",
                    path.display()
                ),
                "Stop that server, or start this one on another `--data-path`.",
            ));
        }
        Err(errno) => return Err(what(errno.into())),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(what)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide_whose_directory_it_is() {
        let check = |names: &[&str], expect: Result<bool, ErrorKind>| {
            let set = names.iter().map(|name| (*name).to_owned()).collect();
            let found = check_names(Path::new("/data"), &set).map_err(|error| error.kind());
            assert_eq!(found, expect, "{names:?}");
        };
        check(&[], Ok(true));
        check(&[".sutra-grid"], Ok(true));
        check(&["lost+found", ".sutra-grid"], Ok(true));
        check(&["FORMAT.new"], Ok(true));
        check(
            &["FORMAT.new", "LOCK", "index.redb", "objects", ".sutra-grid"],
            Ok(true),
        );
        check(&["FORMAT", "LOCK", "index.redb", "objects"], Ok(false));
        check(&["FORMAT", "notes.txt"], Ok(false));
        check(&["LOCK"], Err(ErrorKind::ForeignData));
        check(&["index.redb"], Err(ErrorKind::ForeignData));
        check(&["FORMAT.new", "notes.txt"], Err(ErrorKind::ForeignData));
        check(&[".hidden"], Err(ErrorKind::ForeignData));
        check(&["appendonly.aof"], Err(ErrorKind::ForeignData));
    }

    #[test]
    fn a_format_of_another_time_or_maker_is_refused() {
        let check = |text: &str, expect: Result<(), ErrorKind>| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FORMAT), text).unwrap();
            assert_eq!(
                check_format(dir.path()).map_err(|error| error.kind()),
                expect,
                "{text:?}"
            );
        };
        check("sutra grid-storage data, format 1\n", Ok(()));
        check(
            "sutra grid-storage data, format 2\n",
            Err(ErrorKind::UnsupportedFormat),
        );
        check("", Err(ErrorKind::ForeignData));
        check("17\n", Err(ErrorKind::ForeignData));
        check(
            "sutra grid-storage data, format x\n",
            Err(ErrorKind::ForeignData),
        );
    }
}
