//! Cgroups, version 2 or 1, where they can be made: they keep a node's limits, and its processes together.
//!
//! Each node gets a cgroup of its own, `<base>/sutra-grid-<owner>/<uid>`, in each hierarchy that its limits need, and
//! without limits in one: what its processes are found by when its shim was killed, whatever they did to hide.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use grid_platform_api::{NodeUid, OwnerId, SpawnConfig};
use rustix::fs::Access;

use crate::sys::proc::Pinned;

/// How long a cgroup whose last member has just ended may stay busy.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// The period in which processor time is counted, in µs: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

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

/// Controllers of version 1 in whose cgroups a process can be without further ado, the best first.
const PLAIN: [&str; 4] = ["pids", "freezer", "memory", "cpu"];

/// The hierarchies in which this owner can make cgroups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cgroups {
    controls: Vec<Control>,
    /// Where nodes without limits have theirs.
    home: Option<PathBuf>,
    parent: String,
}

impl Cgroups {
    /// None at all.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Finds out by trying.
    pub(crate) fn find(owner: &OwnerId) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mounts = parse_mounts(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        // Of the install id so much that two agents do not meet.
        let parent = format!("sutra-grid-{}", owner.as_str().get(..12).unwrap_or("x"));
        let mut controls = Vec::new();
        for resource in Resource::ALL {
            let control = mounts
                .iter()
                .flat_map(|mount| mount.controls(resource))
                .find(|control| control.works(&parent));
            controls.extend(control);
        }
        let home = homes(&mounts)
            .into_iter()
            .find(|(version, base)| can_hold(*version, base, &parent))
            .map(|(_, base)| base);
        Self {
            controls,
            home,
            parent,
        }
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

    /// The owner's own cgroups, in which those of its nodes are.
    fn parents(&self) -> Vec<PathBuf> {
        let bases = self.controls.iter().map(|it| &it.base).chain(&self.home);
        let mut parents: Vec<PathBuf> = bases.map(|it| it.join(&self.parent)).collect();
        parents.sort();
        parents.dedup();
        parents
    }

    /// Where the node's cgroups may be: those of an earlier request too.
    fn dirs(&self, uid: &NodeUid) -> impl Iterator<Item = PathBuf> {
        let uid = uid.as_str().to_owned();
        self.parents().into_iter().map(move |it| it.join(&uid))
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
        for procs in self.dirs(uid).map(|it| it.join("cgroup.procs")) {
            loop {
                let members = members(&procs)?;
                if members.is_empty() {
                    break;
                }
                if Instant::now() >= deadline {
                    return Ok(false);
                }
                for pid in members {
                    let Some(pinned) = Pinned::open(pid) else {
                        continue;
                    };
                    // Looked at again behind the handle: the number may have become a stranger's in between.
                    if self::members(&procs)?.contains(&pid) {
                        pinned.kill();
                        pinned.wait(deadline);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Removes the node's cgroups, and the owner's when they were the last ones.
    pub(crate) fn remove(&self, uid: &NodeUid) -> io::Result<()> {
        for dir in self.dirs(uid) {
            remove_dir(&dir)?;
            if let Some(parent) = dir.parent() {
                // Other nodes' cgroups may be in it.
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(())
    }

    /// Removes empty cgroups of nodes that are no more: a removal may have been cut short.
    pub(crate) fn remove_others(&self, known: &[&NodeUid]) {
        for parent in self.parents() {
            let Ok(entries) = fs::read_dir(&parent) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let is_known = known.iter().any(|it| *it.as_str() == *name);
                if !is_known && entry.file_type().is_ok_and(|it| it.is_dir()) {
                    // One with members stays.
                    let _ = fs::remove_dir(entry.path());
                }
            }
            let _ = fs::remove_dir(&parent);
        }
    }
}

/// Where a cgroup that only holds processes may be made, the best first: version 2, then 1.
fn homes(mounts: &[Mount]) -> Vec<(Version, PathBuf)> {
    let two = mounts.iter().filter(|it| it.version == Version::Two);
    let one = PLAIN.iter().flat_map(|plain| {
        mounts.iter().filter(move |it| {
            it.version == Version::One && it.controllers.iter().any(|name| name == plain)
        })
    });
    two.chain(one)
        .flat_map(|it| [&it.own, &it.point].map(|base| (it.version, base.clone())))
        .collect()
}

/// Whether a cgroup can be made here that processes of ours may join.
fn can_hold(version: Version, base: &Path, parent: &str) -> bool {
    let may_write = |file: &Path| rustix::fs::access(file, Access::WRITE_OK).is_ok();
    // Version 2 asks for the right to move from the place that both have in common.
    if version == Version::Two && !may_write(&base.join("cgroup.procs")) {
        return false;
    }
    let dir = base.join(parent);
    let made = fs::create_dir(&dir);
    let holds = may_write(&dir.join("cgroup.procs"))
        && (version == Version::One
            || fs::read_to_string(dir.join("cgroup.type"))
                .is_ok_and(|it| it.trim() != "domain invalid"));
    if made.is_ok() {
        let _ = fs::remove_dir(&dir);
    }
    holds
}

fn members(procs: &Path) -> io::Result<Vec<u32>> {
    match fs::read_to_string(procs) {
        Ok(text) => Ok(text.lines().filter_map(|it| it.parse().ok()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn make_dir(dir: &Path, controls: &[&Control]) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(dir);
    loop {
        match fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match fs::create_dir(parent) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                    _ => {}
                }
                for control in controls.iter().filter(|it| it.version == Version::Two) {
                    enable(parent, control.resource)?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            // Between the two calls the last node of the parent may take it away: then once more.
            other => return other,
        }
    }
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    let until = Instant::now() + BUSY_LIMIT;
    loop {
        match fs::remove_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The last member may be on its way out.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
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

impl Control {
    /// Whether a cgroup for the resource can be made here.
    fn works(&self, parent: &str) -> bool {
        let dir = self.base.join(parent);
        let made = fs::create_dir(&dir);
        let there = made.is_ok()
            || made
                .as_ref()
                .is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists);
        let works = there
            && match self.version {
                Version::One => dir.join("cgroup.procs").exists(),
                Version::Two => {
                    enable(&self.base, self.resource).is_ok() && enable(&dir, self.resource).is_ok()
                }
            };
        if made.is_ok() {
            let _ = fs::remove_dir(&dir);
        }
        works
    }
}

/// A mounted hierarchy and our own place in it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    controllers: Vec<String>,
    point: PathBuf,
    own: PathBuf,
}

impl Mount {
    /// Where cgroups for the resource may be made: beneath our own first, as a service manager delegates it, then at the top.
    fn controls(&self, resource: Resource) -> Vec<Control> {
        let named = self
            .controllers
            .iter()
            .any(|it| it == resource.controller());
        if self.version == Version::One && !named {
            return Vec::new();
        }
        [&self.own, &self.point]
            .map(|base| Control {
                resource,
                version: self.version,
                base: base.clone(),
            })
            .into()
    }
}

/// The hierarchies from `/proc/self/mountinfo` and `/proc/self/cgroup` (proc_pid_mountinfo(5), cgroups(7)).
fn parse_mounts(mountinfo: &str, cgroup: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ').skip(3);
            let (root, point) = (head.next()?, head.next()?);
            let mut tail = tail.split(' ');
            let version = match tail.next()? {
                "cgroup" => Version::One,
                "cgroup2" => Version::Two,
                _ => return None,
            };
            let options = tail.nth(1)?.split(',').map(str::to_owned).collect();
            let controllers: Vec<String> = match version {
                Version::One => options,
                Version::Two => Vec::new(),
            };
            let path = cgroup.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (names, path) = (fields.next()?, fields.next()?);
                let ours = match version {
                    Version::Two => names.is_empty(),
                    Version::One => names
                        .split(',')
                        .any(|name| !name.is_empty() && controllers.iter().any(|it| it == name)),
                };
                ours.then_some(path)
            })?;
            let point = PathBuf::from(point);
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            Some(Mount {
                version,
                controllers,
                own: point.join(below).components().collect(),
                point,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use grid_platform_api::Program;

    use super::*;

    #[test]
    fn hierarchies_and_our_place_in_them() {
        let mountinfo = "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                         31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                         32 24 0:28 /docker/x /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                         33 24 0:29 / /tmp rw - tmpfs tmpfs rw\n";
        let cgroup = "5:memory:/user/a\n4:cpu,cpuacct:/\n0::/docker/x/y\n";
        let mounts = parse_mounts(mountinfo, cgroup);
        let own: Vec<_> = mounts.iter().map(|it| it.own.to_str().unwrap()).collect();
        assert_eq!(
            own,
            [
                "/sys/fs/cgroup/memory/user/a",
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/unified/y"
            ]
        );
        let bases = |resource| -> Vec<PathBuf> {
            mounts
                .iter()
                .flat_map(|it| it.controls(resource))
                .map(|it| it.base)
                .collect()
        };
        assert_eq!(bases(Resource::Memory).len(), 4);
        assert_eq!(bases(Resource::Pids).len(), 2);
        let homes: Vec<_> = homes(&mounts)
            .into_iter()
            .map(|it| it.1.to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            homes,
            [
                "/sys/fs/cgroup/unified/y",
                "/sys/fs/cgroup/unified",
                "/sys/fs/cgroup/memory/user/a",
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/cpu,cpuacct"
            ]
        );
    }

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
