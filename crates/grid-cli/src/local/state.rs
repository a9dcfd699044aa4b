//! The state directory of `grid up`.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use grid_platform_api::ErrorKind;
use serde::{Deserialize, Serialize};

use super::LocalPlatform;
use crate::error::{Error, Result};

/// What `grid up` makes in it; `down --purge` deletes these and nothing else.
const PARTS: [&str; 5] = ["agent", "data", "logs", "master", "run"];
const MARKER: &str = "grid.json";

/// The state directory: where everything is that belongs to one local grid.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
}

/// The file that says whose directory this is.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    version: u32,
    /// The first nodes were made; from then on the grid's own wishes say what there is.
    nodes_made: bool,
    /// The number of this file's inode: a copy has another one.
    inode: u64,
    /// The platform of its nodes; one that was made before there was a choice has processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<LocalPlatform>,
}

/// What a directory's marker says before anything is known.
const FRESH: Marker = Marker {
    version: 1,
    nodes_made: false,
    inode: 0,
    platform: None,
};

/// The newest version of the marker. Only who knows of platforms reads it where the platform is not processes.
const NEWEST: u32 = 2;

impl StateDir {
    /// `root` is absolute.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn master(&self) -> PathBuf {
        self.root.join("master")
    }

    pub(crate) fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.root.join("logs").join(format!("{part}.log"))
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn lock(&self, part: &str) -> PathBuf {
        self.run().join(format!("{part}.lock"))
    }

    pub(crate) fn token(&self, role: &str) -> PathBuf {
        self.master().join("tokens").join(role)
    }

    pub(crate) fn admin_token(&self) -> PathBuf {
        self.token("admin")
    }

    /// Whether a place is among what master, agent and supervisor keep for themselves: no place for a node's data.
    pub(crate) fn keeps(&self, place: &Path) -> bool {
        let root = self.root.canonicalize();
        let root = root.as_deref().unwrap_or(&self.root);
        place.starts_with(root) && !place.starts_with(root.join("data"))
    }

    /// Whether `grid up` made it.
    pub(crate) fn exists(&self) -> bool {
        self.root.join(MARKER).exists()
    }

    /// Makes the directory and its parts.
    ///
    /// # Errors
    /// It holds files of something else: a purge would delete them. It is a copy: its nodes are another grid's.
    pub(crate) fn prepare(&self) -> Result<()> {
        let make = |path: &Path, mode: u32| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .map_err(|error| {
                    Error::io("make the directory", path, &error)
                        .with_hint("Name one that can be written by `--state-dir DIR`.")
                })
        };
        make(&self.root, 0o755)?;
        let _turn = self.lock_root()?;
        if !self.exists() {
            self.refuse_strangers()?;
            self.write_marker(FRESH)?;
        }
        self.refuse_copy()?;
        // Programs that run as other users have to get through to their data.
        make(&self.data(), 0o755)?;
        for private in ["agent", "logs", "master", "run"] {
            make(&self.root.join(private), 0o700)?;
        }
        Ok(())
    }

    /// Keeps others who prepare the directory waiting; what one is making is nothing strange to the next.
    fn lock_root(&self) -> Result<fs::File> {
        let lock = || {
            let root = fs::File::open(&self.root)?;
            rustix::fs::flock(&root, rustix::fs::FlockOperation::LockExclusive)?;
            Ok(root)
        };
        lock().map_err(|error: io::Error| Error::io("lock the directory", &self.root, &error))
    }

    fn refuse_strangers(&self) -> Result<()> {
        let mut entries = fs::read_dir(&self.root)
            .map_err(|error| Error::io("read the directory", &self.root, &error))?;
        if entries.next().is_none() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::OwnedByOther,
            format!(
                "`{}` holds files that `grid up` did not make",
                self.root.display()
            ),
        )
        .with_hint(
            "Name an empty directory, or one that does not exist yet, by `--state-dir DIR`.",
        ))
    }

    /// Two grids of one state would take each other's nodes for their own. What makes a copy the one that counts is the
    /// platform's `accept-copy`, which its agent deletes when it has accepted the copy too.
    fn refuse_copy(&self) -> Result<()> {
        let path = self.root.join(MARKER);
        let marker = self.marker()?;
        let inode = fs::metadata(&path)
            .map_err(|error| Error::io("look at", &path, &error))?
            .ino();
        if marker.inode == inode {
            return Ok(());
        }
        let name = marker
            .platform
            .as_ref()
            .map_or("process", |it| it.name.as_str());
        let platform = self.agent().join(name);
        let accept = platform.join("accept-copy");
        if accept.exists() || !platform.exists() {
            return self.write_marker(marker);
        }
        Err(Error::new(
            ErrorKind::OwnedByOther,
            format!(
                "the state directory `{}` is a copy of another one",
                self.root.display()
            ),
        )
        .with_hint(format!(
            "If the other one is not used any more, run `touch {}` and try again; if it is, delete this copy.",
            accept.display()
        )))
    }

    /// Whether nodes may run: an agent was started here, and the nodes were not stopped since.
    pub(crate) fn nodes_may_run(&self) -> bool {
        self.nodes_note().exists()
    }

    /// Notes whether nodes may run.
    pub(crate) fn set_nodes_may_run(&self, may_run: bool) -> Result<()> {
        let path = self.nodes_note();
        let noted = if may_run {
            fs::write(&path, "")
        } else {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        noted.map_err(|error| Error::io("note in", &path, &error))
    }

    fn nodes_note(&self) -> PathBuf {
        self.run().join("nodes-may-run")
    }

    /// Whether the first nodes were made.
    pub(crate) fn nodes_made(&self) -> Result<bool> {
        Ok(self.marker()?.nodes_made)
    }

    fn marker(&self) -> Result<Marker> {
        let path = self.root.join(MARKER);
        let text = fs::read(&path).map_err(|error| Error::io("read", &path, &error))?;
        let marker: Marker = serde_json::from_slice(&text).map_err(|error| {
            Error::new(
                ErrorKind::Corrupt,
                format!("cannot understand `{}`", path.display()),
            )
            .with_source(&error)
        })?;
        if !(1..=NEWEST).contains(&marker.version) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "`{}` was made by another version of `grid`",
                    self.root.display()
                ),
            )
            .with_hint("Use the newer `grid`, or another `--state-dir DIR`."));
        }
        Ok(marker)
    }

    /// Notes that the first nodes were made.
    pub(crate) fn set_nodes_made(&self) -> Result<()> {
        let _turn = self.lock_root()?;
        let marker = Marker {
            nodes_made: true,
            ..self.marker()?
        };
        self.write_marker(marker)
    }

    /// The platform of its nodes; processes where nobody has said otherwise yet.
    pub(crate) fn platform(&self) -> Result<LocalPlatform> {
        Ok(match self.exists() {
            true => self.marker()?.platform.unwrap_or_default(),
            false => LocalPlatform::default(),
        })
    }

    /// Notes on which platform the nodes are, the first time; later it has to be the same.
    ///
    /// # Errors
    /// `Conflict` when it is another one, or another engine.
    pub(crate) fn set_platform(&self, wanted: LocalPlatform) -> Result<()> {
        let _turn = self.lock_root()?;
        let marker = self.marker()?;
        let process = LocalPlatform::default();
        match &marker.platform {
            Some(known) => known.admit(&wanted, &self.root),
            // From before there was a choice.
            None if self.agent().join(process.name.as_str()).exists() => {
                process.admit(&wanted, &self.root)
            }
            None => self.write_marker(Marker {
                version: if wanted == process { 1 } else { NEWEST },
                platform: (wanted != process).then_some(wanted),
                ..marker
            }),
        }
    }

    /// Forgets on which platform the nodes are, if none was made yet: the next `up` may name another engine.
    pub(crate) fn forget_platform(&self) -> Result<()> {
        let _turn = self.lock_root()?;
        match self.marker()? {
            made if made.nodes_made => Ok(()),
            marker => self.write_marker(Marker {
                platform: None,
                ..marker
            }),
        }
    }

    fn write_marker(&self, marker: Marker) -> Result<()> {
        let path = self.root.join(MARKER);
        let fresh = self.root.join("grid.json.new");
        let write = || {
            let mut file = fs::File::create(&fresh)?;
            let marker = Marker {
                inode: file.metadata()?.ino(),
                ..marker
            };
            serde_json::to_writer(&mut file, &marker)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            fs::File::open(&self.root)?.sync_all()
        };
        write().map_err(|error| Error::io("write", &path, &error))
    }

    /// Deletes the directory: what `grid up` made, and then the directory if nothing else is in it.
    pub(crate) fn delete(&self) -> Result<()> {
        let absent = |result: io::Result<()>, path: &Path| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("delete", path, &error))
            }
            _ => Ok(()),
        };
        for part in PARTS {
            let path = self.root.join(part);
            absent(fs::remove_dir_all(&path), &path)?;
        }
        for file in [MARKER, "grid.json.new"] {
            let path = self.root.join(file);
            absent(fs::remove_file(&path), &path)?;
        }
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            result => absent(result, &self.root),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::platform::Name;

    #[test]
    fn a_strangers_directory_is_refused_and_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let error = StateDir::new(dir.path().into()).prepare().unwrap_err();
        assert_eq!(error.report.kind, ErrorKind::OwnedByOther);
        assert!(dir.path().join("data").exists());
    }

    #[test]
    fn a_copy_is_refused_until_it_is_accepted_and_a_moved_one_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::new(dir.path().join("first"));
        first.prepare().unwrap();
        let moved = StateDir::new(dir.path().join("moved"));
        fs::rename(first.root(), moved.root()).unwrap();
        moved.prepare().unwrap();
        let copy = StateDir::new(dir.path().join("copy"));
        let platform = copy.agent().join("process");
        fs::create_dir_all(&platform).unwrap();
        fs::copy(moved.root().join(MARKER), copy.root().join(MARKER)).unwrap();
        let error = copy.prepare().unwrap_err();
        assert_eq!(error.report.kind, ErrorKind::OwnedByOther);
        fs::write(platform.join("accept-copy"), "").unwrap();
        copy.prepare().unwrap();
        fs::remove_file(platform.join("accept-copy")).unwrap();
        copy.prepare().unwrap();
    }

    #[test]
    fn a_platform_is_forgotten_until_there_are_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("grid"));
        state.prepare().unwrap();
        let on = |host| {
            let environment = grid_config::Environment::of([("DOCKER_HOST", host)]);
            LocalPlatform::new(Name::Docker, &environment).unwrap()
        };
        let (first, second) = (on("unix:///a.sock"), on("unix:///b.sock"));
        state.set_platform(first.clone()).unwrap();
        assert!(state.set_platform(second.clone()).is_err());
        state.forget_platform().unwrap();
        state.set_platform(second.clone()).unwrap();
        state.set_nodes_made().unwrap();
        state.forget_platform().unwrap();
        assert_eq!(state.platform().unwrap(), second);
        assert!(state.set_platform(first).is_err());
    }

    #[test]
    fn many_can_prepare_it_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("grid"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    state.prepare().unwrap();
                    state.set_nodes_made().unwrap();
                });
            }
        });
        assert!(state.nodes_made().unwrap());
    }

    #[test]
    fn what_was_made_is_deleted_and_what_was_added_stays() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path().join("grid"));
        state.prepare().unwrap();
        assert!(!state.nodes_made().unwrap());
        state.set_nodes_made().unwrap();
        state.prepare().unwrap();
        assert!(state.nodes_made().unwrap());
        fs::write(state.root().join("notes.txt"), "mine").unwrap();
        state.delete().unwrap();
        assert_eq!(fs::read_dir(state.root()).unwrap().count(), 1);
        fs::remove_file(state.root().join("notes.txt")).unwrap();
        state.delete().unwrap();
        assert!(!state.root().exists());
        state.delete().unwrap();
    }
}
