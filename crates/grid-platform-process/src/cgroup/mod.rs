//! Cgroups, version 2 or 1, where they can be made: they keep a node's limits, and its processes together.
//!
//! Each node gets a cgroup of its own, `<base>/sutra-grid-<owner>/<uid>`, in each hierarchy that its limits need, and
//! without limits in one: what its processes are found by when its shim was killed, whatever they did to hide.

use std::{
    ffi::OsStr,
    fs, io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use grid_platform_api::{NodeUid, OwnerId, Result, SpawnConfig, checked};

use crate::{
    error::Context,
    sys::files::{self, Durable},
};

mod mounts;
mod tree;

/// How long a cgroup whose last member has just ended may stay busy.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// The period in which processor time is counted, in µs: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;
/// How often a cgroup is made anew that is taken away meanwhile.
const MAKE_ATTEMPTS: u32 = 16;
/// The file of the state directory that says where there may be cgroups.
pub(crate) const FILE: &str = "cgroups";
const FILE_MAX: usize = 1024 * 1024;

/// What mends it when cgroups keep no limits.
pub(crate) const HINT: &str = "Run the agent as root, or in a subgroup of a delegated cgroup: `Delegate=yes` and \
     `DelegateSubgroup=agent` in its systemd unit, or a unit of `systemctl --user`";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A resource that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Memory,
    Cpu,
    Pids,
}

impl Resource {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    fn controller(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    fn is_limited(self, config: &SpawnConfig) -> bool {
        match self {
            Self::Memory => config.memory_limit_mb.is_some(),
            Self::Cpu => config.cpu_limit_millis.is_some(),
            Self::Pids => config.pids_limit.is_some(),
        }
    }

    /// What is written where: the name of a file, its text, and whether it may be missing.
    fn settings(self, version: Version, config: &SpawnConfig) -> Vec<(&'static str, String, bool)> {
        let bytes = config.memory_limit_mb.unwrap_or_default() * 1024 * 1024;
        let quota = (u64::from(config.cpu_limit_millis.unwrap_or_default()) * CPU_PERIOD_US / 1000)
            // The kernel's least.
            .max(1000);
        let pids = config.pids_limit.unwrap_or_default();
        match (self, version) {
            // Swap is no way around the limit; some kernels count none.
            (Self::Memory, Version::One) => vec![
                ("memory.limit_in_bytes", bytes.to_string(), false),
                ("memory.memsw.limit_in_bytes", bytes.to_string(), true),
            ],
            (Self::Memory, Version::Two) => vec![
                ("memory.max", bytes.to_string(), false),
                ("memory.swap.max", "0".to_owned(), true),
            ],
            (Self::Cpu, Version::One) => vec![
                ("cpu.cfs_period_us", CPU_PERIOD_US.to_string(), false),
                ("cpu.cfs_quota_us", quota.to_string(), false),
            ],
            (Self::Cpu, Version::Two) => {
                vec![("cpu.max", format!("{quota} {CPU_PERIOD_US}"), false)]
            }
            (Self::Pids, _) => vec![("pids.max", pids.to_string(), false)],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Control {
    resource: Resource,
    version: Version,
    base: PathBuf,
}

/// The hierarchies in which this owner can make cgroups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cgroups {
    controls: Vec<Control>,
    /// Where nodes without limits have theirs.
    home: Option<PathBuf>,
    /// Of the owner's cgroups, in which those of its nodes are, the names that they all have.
    parent: String,
    /// All of them, those of earlier adapters too: where one can be made depends on where its maker runs.
    parents: Vec<PathBuf>,
}

impl Cgroups {
    /// None at all.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Finds out by trying, and writes down in the state directory where there may be some. With it comes what is wrong
    /// with what an earlier adapter wrote there.
    ///
    /// # Errors
    /// When the state directory cannot be read, or something new not be written.
    pub(crate) fn find(owner: &OwnerId, state: impl AsFd) -> Result<(Self, Option<String>)> {
        let mounts = mounts::mounts();
        // Of the install id so much that two agents do not meet.
        let parent = format!("sutra-grid-{}", owner.as_str().get(..12).unwrap_or("x"));
        let controls = mounts::controls(&mounts, &parent);
        // With the limited ones where version 2 is: one place to look into.
        let home = controls
            .iter()
            .find(|it| it.version == Version::Two)
            .map(|it| it.base.clone())
            .or_else(|| mounts::home(&mounts, &parent));
        let mut parents: Vec<PathBuf> = controls
            .iter()
            .map(|it| &it.base)
            .chain(&home)
            .map(|it| it.join(&parent))
            .collect();
        let text = match files::read_at(&state, FILE, FILE_MAX) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.cannot("read where there may be cgroups")?,
        };
        let (known, damage) = match checked::open(&text).map(paths) {
            Ok(Some(known)) => (known, None),
            Ok(None) => (Vec::new(), Some("has a line that is no path".to_owned())),
            Err(e) => (Vec::new(), Some(e.to_string())),
        };
        // After the host was started anew there are none of them.
        let there = |it: &&PathBuf| it.ends_with(&parent) && it.is_dir();
        parents.extend(known.iter().filter(there).cloned());
        parents.sort();
        parents.dedup();
        // Only when there is something new: where nothing can be written, what is known serves.
        if parents.iter().any(|it| !known.contains(it)) {
            let lines: Vec<u8> = parents
                .iter()
                .flat_map(|it| [it.as_os_str().as_bytes(), b"\n"].concat())
                .collect();
            files::replace_at(&state, FILE, &checked::seal(lines), 0o600, Durable::Yes)
                .cannot("write down where there may be cgroups")?;
        }
        let found = Self {
            controls,
            home,
            parent,
            parents,
        };
        Ok((found, damage))
    }

    fn has(&self, resource: Resource) -> bool {
        self.controls.iter().any(|it| it.resource == resource)
    }

    /// Whether memory can be limited.
    pub(crate) fn memory(&self) -> bool {
        self.has(Resource::Memory)
    }

    /// Whether processor time can be limited.
    pub(crate) fn cpu(&self) -> bool {
        self.has(Resource::Cpu)
    }

    /// Whether the number of processes can be limited.
    pub(crate) fn pids(&self) -> bool {
        self.has(Resource::Pids)
    }

    /// The directories that the node's limits need, each once, with the controls in it.
    fn limits<'a>(
        &'a self,
        uid: &NodeUid,
        config: &SpawnConfig,
    ) -> Vec<(PathBuf, Vec<&'a Control>)> {
        let mut dirs: Vec<(PathBuf, Vec<&Control>)> = Vec::new();
        for control in self
            .controls
            .iter()
            .filter(|it| it.resource.is_limited(config))
        {
            let dir = control.base.join(&self.parent).join(uid.as_str());
            match dirs.iter_mut().find(|it| it.0 == dir) {
                Some((_, controls)) => controls.push(control),
                None => dirs.push((dir, vec![control])),
            }
        }
        dirs
    }

    /// Where the node's cgroups may be: those of an earlier request too.
    fn dirs(&self, uid: &NodeUid) -> impl Iterator<Item = PathBuf> {
        self.parents.iter().map(|it| it.join(uid.as_str()))
    }

    /// Makes the node's cgroups, with its limits. The files by which a process joins them.
    pub(crate) fn create(&self, uid: &NodeUid, config: &SpawnConfig) -> io::Result<Vec<PathBuf>> {
        let dirs = self.limits(uid, config);
        for (dir, controls) in &dirs {
            make_dir(dir, controls)?;
            for control in controls {
                for (file, text, optional) in control.resource.settings(control.version, config) {
                    match fs::write(dir.join(file), text) {
                        Err(e) if optional && e.kind() == io::ErrorKind::NotFound => {}
                        other => other?,
                    }
                }
            }
        }
        let mut procs: Vec<PathBuf> = dirs.iter().map(|it| it.0.join("cgroup.procs")).collect();
        if let (true, Some(home)) = (procs.is_empty(), &self.home) {
            let dir = home.join(&self.parent).join(uid.as_str());
            match make_dir(&dir, &[]) {
                Ok(()) => procs.push(dir.join("cgroup.procs")),
                // Nobody asked for it: the node runs as well without.
                Err(e) => tracing::warn!(dir = %dir.display(), error = %e, "a node has no cgroup"),
            }
        }
        Ok(procs)
    }

    /// Kills what is left in the node's cgroups; `false` when something lives after `limit`.
    pub(crate) fn kill(&self, uid: &NodeUid, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        for dir in self.dirs(uid) {
            while tree::is_populated(&dir)? {
                if Instant::now() >= deadline {
                    return Ok(false);
                }
                tree::kill(&dir, deadline)?;
            }
        }
        Ok(true)
    }

    /// Removes the node's cgroups, and the owner's when they were the last ones.
    pub(crate) fn remove(&self, uid: &NodeUid) -> io::Result<()> {
        for dir in self.dirs(uid) {
            tree::remove(&dir, Instant::now() + BUSY_LIMIT)?;
            if let Some(parent) = dir.parent() {
                // Other nodes' cgroups may be in it.
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(())
    }

    /// Removes empty cgroups of nodes that are no more: a removal may have been cut short.
    pub(crate) fn remove_others(&self, known: &[&NodeUid]) {
        for parent in &self.parents {
            let Ok(entries) = fs::read_dir(parent) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let is_known = known.iter().any(|it| *it.as_str() == *name);
                if !is_known && entry.file_type().is_ok_and(|it| it.is_dir()) {
                    // One with members stays.
                    let _ = tree::remove(&entry.path(), Instant::now());
                }
            }
            let _ = fs::remove_dir(parent);
        }
    }
}

/// A list of absolute paths, one a line; `None` when it has something else.
fn paths(text: &[u8]) -> Option<Vec<PathBuf>> {
    let lines = text.split(|it| *it == b'\n').filter(|it| !it.is_empty());
    lines
        .map(|it| PathBuf::from(OsStr::from_bytes(it)))
        .map(|it| it.is_absolute().then_some(it))
        .collect()
}

/// Makes a node's cgroup, anew when there is an empty one: nothing of former limits is left in it.
fn make_dir(dir: &Path, controls: &[&Control]) -> io::Result<()> {
    let mut result = Ok(());
    for _ in 0..MAKE_ATTEMPTS {
        let _ = tree::remove(dir, Instant::now());
        result = try_make_dir(dir, controls);
        // Between two calls the last node of the parent may take it away: then once more.
        match &result {
            Err(e) if is_gone(e) => {}
            _ => break,
        }
    }
    result
}

fn try_make_dir(dir: &Path, controls: &[&Control]) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(dir);
    make_one(parent)?;
    // Each time: a service manager turns off what none of its own needs, and a node with other limits came first.
    for control in controls.iter().filter(|it| it.version == Version::Two) {
        enable(&control.base, control.resource)?;
        enable(parent, control.resource)?;
    }
    make_one(dir)
}

fn make_one(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Whether the cgroup of a file is not there, or not any more.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Has the children of a cgroup of version 2 controlled.
fn enable(dir: &Path, resource: Resource) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    let has = |text: String| {
        text.split_whitespace()
            .any(|it| it == resource.controller())
    };
    if has(fs::read_to_string(&file)?) {
        return Ok(());
    }
    fs::write(&file, format!("+{}", resource.controller()))
}

#[cfg(test)]
mod tests {
    use grid_platform_api::Program;

    use super::*;

    #[test]
    fn limits_in_the_kernels_words() {
        let config = SpawnConfig::builder("a", Program::binary("/a", [""; 0]))
            .memory_limit_mb(64)
            .cpu_limit_millis(1500)
            .pids_limit(20)
            .build()
            .unwrap();
        let check = |resource: Resource, version, expect: &[(&str, &str)]| {
            let settings = resource.settings(version, &config);
            let got: Vec<_> = settings.iter().map(|it| (it.0, it.1.as_str())).collect();
            assert_eq!(got, expect);
        };
        let bytes = "67108864";
        check(
            Resource::Memory,
            Version::One,
            &[
                ("memory.limit_in_bytes", bytes),
                ("memory.memsw.limit_in_bytes", bytes),
            ],
        );
        check(
            Resource::Memory,
            Version::Two,
            &[("memory.max", bytes), ("memory.swap.max", "0")],
        );
        check(
            Resource::Cpu,
            Version::One,
            &[
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "150000"),
            ],
        );
        check(Resource::Cpu, Version::Two, &[("cpu.max", "150000 100000")]);
        check(Resource::Pids, Version::Two, &[("pids.max", "20")]);
    }
}
