//! Which hierarchies there are, and where in them cgroups may be made.

use std::{
    cmp::Reverse,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::Access;

use super::{Control, Resource, Version, enable};
use crate::sys::users;

/// Controllers of version 1 in whose cgroups a process can be without further ado, the best first.
const PLAIN: [&str; 4] = ["pids", "freezer", "memory", "cpu"];

/// A mounted hierarchy and our own place in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    version: Version,
    controllers: Vec<String>,
    point: PathBuf,
    own: PathBuf,
}

/// The hierarchies of this process.
pub(super) fn mounts() -> Vec<Mount> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

impl Mount {
    /// Where in it cgroups may be made, the nearest first: beneath our own, as a service manager delegates it; beneath
    /// those above it that are ours too, of which it is a part; then at the top, where root may.
    fn places(&self) -> Vec<PathBuf> {
        let own_uid = users::own_uid();
        // Root owns them all, also those that a service manager keeps for itself.
        let is_ours =
            |dir: &Path| own_uid != 0 && fs::metadata(dir).is_ok_and(|it| it.uid() == own_uid);
        let mut places = vec![self.own.clone()];
        if self.version == Version::Two {
            let above = self.own.ancestors().skip(1);
            let above = above.take_while(|it| it.starts_with(&self.point) && is_ours(it));
            places.extend(above.map(Path::to_owned));
        }
        places.push(self.point.clone());
        places.dedup();
        places
    }

    fn has(&self, resource: Resource) -> bool {
        self.controllers
            .iter()
            .any(|it| it == resource.controller())
    }
}

/// What keeps limits: all in one place where version 2 does, because a process is in one cgroup of it; the rest in the
/// hierarchies of version 1.
pub(super) fn controls(mounts: &[Mount], parent: &str) -> Vec<Control> {
    let mut controls = unified(mounts, parent);
    for resource in Resource::ALL {
        if controls.iter().any(|it| it.resource == resource) {
            continue;
        }
        let control = mounts
            .iter()
            .filter(|it| it.version == Version::One && it.has(resource))
            .flat_map(Mount::places)
            .map(|base| Control {
                resource,
                version: Version::One,
                base,
            })
            .find(|it| it.works(parent));
        controls.extend(control);
    }
    controls
}

/// The place of version 2 that keeps the most.
fn unified(mounts: &[Mount], parent: &str) -> Vec<Control> {
    let mut places: Vec<(PathBuf, Vec<Resource>)> = mounts
        .iter()
        .filter(|it| it.version == Version::Two)
        .flat_map(Mount::places)
        .map(|base| (offered(&base), base))
        .map(|(offered, base)| (base, offered))
        .collect();
    places.sort_by_key(|it| Reverse(it.1.len()));
    let controls = |(base, offered): (PathBuf, Vec<Resource>)| -> Vec<Control> {
        offered
            .into_iter()
            .map(|resource| Control {
                resource,
                version: Version::Two,
                base: base.clone(),
            })
            .filter(|it| it.works(parent))
            .collect()
    };
    places
        .into_iter()
        .map(controls)
        .find(|it| !it.is_empty())
        .unwrap_or_default()
}

/// What the children of a cgroup of version 2 could be limited in. Looks, and changes nothing: to have children
/// controlled for memory is refused while the cgroup has processes of its own, and to have them controlled for the rest
/// makes it a place in which no other child can have processes.
fn offered(base: &Path) -> Vec<Resource> {
    let file = |name: &str| base.join(name);
    let is_top = !file("cgroup.type").exists();
    let can_have =
        is_top || (is_domain(base) && fs::read(file("cgroup.procs")).is_ok_and(|it| it.is_empty()));
    // A process is moved by who may write to the place that is above both, which is this one.
    let may = ["", "cgroup.procs", "cgroup.subtree_control"]
        .iter()
        .all(|name| may_write(&file(name)));
    if !can_have || !may {
        return Vec::new();
    }
    let controllers = fs::read_to_string(file("cgroup.controllers")).unwrap_or_default();
    Resource::ALL
        .into_iter()
        .filter(|it| {
            controllers
                .split_whitespace()
                .any(|name| name == it.controller())
        })
        .collect()
}

fn is_domain(dir: &Path) -> bool {
    fs::read_to_string(dir.join("cgroup.type")).is_ok_and(|it| it.trim() == "domain")
}

fn may_write(file: &Path) -> bool {
    rustix::fs::access(file, Access::WRITE_OK).is_ok()
}

impl Control {
    /// Whether a cgroup for the resource can be made here.
    fn works(&self, parent: &str) -> bool {
        tried(&self.base.join(parent), |dir| match self.version {
            Version::One => dir.join("cgroup.procs").exists(),
            Version::Two => {
                enable(&self.base, self.resource).is_ok()
                    && enable(dir, self.resource).is_ok()
                    && is_domain(dir)
            }
        })
    }
}

/// Where a cgroup that only holds processes is made, if there is a place: version 2 comes first, then 1.
pub(super) fn home(mounts: &[Mount], parent: &str) -> Option<PathBuf> {
    homes(mounts)
        .into_iter()
        .find(|(version, base)| can_hold(*version, base, parent))
        .map(|(_, base)| base)
}

fn homes(mounts: &[Mount]) -> Vec<(Version, PathBuf)> {
    let two = mounts.iter().filter(|it| it.version == Version::Two);
    let one = PLAIN.iter().flat_map(|plain| {
        mounts.iter().filter(move |it| {
            it.version == Version::One && it.controllers.iter().any(|name| name == plain)
        })
    });
    two.chain(one)
        .flat_map(|it| it.places().into_iter().map(|base| (it.version, base)))
        .collect()
}

/// Whether a cgroup can be made here that processes of ours may join.
fn can_hold(version: Version, base: &Path, parent: &str) -> bool {
    // Version 2 asks for the right to move from the place that both have in common.
    if version == Version::Two && !may_write(&base.join("cgroup.procs")) {
        return false;
    }
    tried(&base.join(parent), |dir| {
        may_write(&dir.join("cgroup.procs")) && (version == Version::One || is_domain(dir))
    })
}

/// Looks at a cgroup, which is made for that if it is not there.
fn tried(dir: &Path, look: impl FnOnce(&Path) -> bool) -> bool {
    let made = fs::create_dir(dir).is_ok();
    let found = look(dir);
    if made {
        let _ = fs::remove_dir(dir);
    }
    found
}

/// The hierarchies from `/proc/self/mountinfo` and `/proc/self/cgroup` (proc_pid_mountinfo(5), cgroups(7)).
fn parse(mountinfo: &str, cgroup: &str) -> Vec<Mount> {
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
    use super::*;

    #[test]
    fn hierarchies_and_our_place_in_them() {
        let mountinfo = "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                         31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                         32 24 0:28 /docker/x /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                         33 24 0:29 / /tmp rw - tmpfs tmpfs rw\n";
        let cgroup = "5:memory:/user/a\n4:cpu,cpuacct:/\n0::/docker/x/y\n";
        let mounts = parse(mountinfo, cgroup);
        let own: Vec<_> = mounts.iter().map(|it| it.own.to_str().unwrap()).collect();
        assert_eq!(
            own,
            [
                "/sys/fs/cgroup/memory/user/a",
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/unified/y"
            ]
        );
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
                "/sys/fs/cgroup/cpu,cpuacct"
            ]
        );
    }
}
