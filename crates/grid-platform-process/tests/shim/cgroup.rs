//! Cgroups of both versions, where this machine lets us make some.

use super::harness::{Node, is_gone, is_root, not_run, skip, until};
use super::shared::policy::Restart;
use super::shared::record::State;
use super::shared::words::{Report, Stage};
use std::fs;
use std::path::{Path, PathBuf};

/// A cgroup that is removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    /// A child of the test's own cgroup in this hierarchy; `controller` is empty for version 2.
    ///
    /// A machine has one version or the other, seldom both: the version that is absent is no fault of CI.
    fn make(controller: &str, name: &str) -> Option<Cgroup> {
        if !is_root() {
            skip(name, "root");
            return None;
        }
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own
            .lines()
            .find_map(|it| {
                it.split_once(':')?
                    .1
                    .strip_prefix(controller)?
                    .strip_prefix(":/")
            })?
            .to_owned();
        let roots = if controller.is_empty() {
            vec!["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        } else {
            vec!["/sys/fs/cgroup/memory"]
        };
        let root = roots
            .into_iter()
            .map(Path::new)
            .find(|it| it.join("cgroup.procs").exists())?;
        let dir = root
            .join(path)
            .join(format!("shim-test-{name}-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        Some(Cgroup(dir))
    }

    fn procs(&self) -> Vec<u8> {
        self.0
            .join("cgroup.procs")
            .into_os_string()
            .into_encoded_bytes()
    }

    fn members(&self) -> Vec<u32> {
        fs::read_to_string(self.0.join("cgroup.procs"))
            .unwrap()
            .lines()
            .map(|it| it.parse().unwrap())
            .collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn joins_and_is_emptied(test: &str, controller: &str) {
    let Some(cgroup) = Cgroup::make(controller, test) else {
        return not_run(test, "a writable cgroup of this version");
    };
    let mut node = Node::script("sleep 1000 & echo $! > member; exec sleep 1000");
    node.launch.cgroup_procs = vec![cgroup.procs()];
    let (mut shim, pid) = node.run();
    let member = node.pid_in("member");
    let mut members = cgroup.members();
    members.sort_unstable();
    let mut expect = vec![pid, member];
    expect.sort_unstable();
    // The shim itself stays outside.
    assert_eq!(members, expect);
    // A process that is no descendant, but was put there, goes too.
    let mut stranger = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    // In one that the node made in its own.
    let mut below = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let nested = cgroup.0.join("below/further");
    fs::create_dir_all(&nested).unwrap();
    fs::write(cgroup.0.join("cgroup.procs"), stranger.id().to_string()).unwrap();
    fs::write(nested.join("cgroup.procs"), below.id().to_string()).unwrap();
    shim.stop(None);
    assert!(
        [pid, member, stranger.id(), below.id()]
            .into_iter()
            .all(is_gone)
    );
    stranger.wait().unwrap();
    below.wait().unwrap();
    assert_eq!(cgroup.members(), Vec::<u32>::new());
    fs::remove_dir(&nested).unwrap();
    fs::remove_dir(nested.parent().unwrap()).unwrap();
}

#[test]
fn a_cgroup_of_version_1_is_joined_and_emptied() {
    joins_and_is_emptied("v1", "memory");
}

#[test]
fn a_cgroup_of_version_2_is_joined_and_emptied() {
    joins_and_is_emptied("v2", "");
}

#[test]
fn the_oom_killer_is_told_from_a_kill() {
    let Some(cgroup) = Cgroup::make("memory", "oom") else {
        return not_run(
            "the_oom_killer_is_told_from_a_kill",
            "a writable memory cgroup of version 1",
        );
    };
    fs::write(cgroup.0.join("memory.limit_in_bytes"), "16M").unwrap();
    // Swap would only make it slow.
    let _ = fs::write(cgroup.0.join("memory.memsw.limit_in_bytes"), "16M");
    // A tail without a line feed holds what it reads.
    let mut node = Node::script(
        "echo x >> runs; test $(wc -l < runs) = 1 && exec tail /dev/zero; kill -KILL $$",
    )
    .restarting(Restart::OnFailure, Some(1));
    node.launch.cgroup_procs = vec![cgroup.procs()];
    (
        node.launch.policy.backoff_initial_ms,
        node.launch.policy.backoff_max_ms,
    ) = (300, 300);
    let (mut shim, _) = node.run();
    let record = node.record_in(State::Backoff);
    assert_eq!((record.oom, record.signal), (true, Some(9)));
    shim.wait();
    // The second run was killed, too, but not for its memory.
    let record = node.record();
    assert_eq!(
        (record.restarts, record.oom, record.signal),
        (1, false, Some(9))
    );
}

#[test]
fn a_cgroup_that_cannot_be_joined_is_told() {
    let Some(cgroup) = Cgroup::make("memory", "gone") else {
        return not_run(
            "a_cgroup_that_cannot_be_joined_is_told",
            "a writable memory cgroup of version 1",
        );
    };
    let mut node = Node::script("exit 1").restarting(Restart::Always, Some(1));
    node.launch.cgroup_procs = vec![cgroup.procs()];
    drop(cgroup);
    assert_eq!(
        node.start().report,
        Some(Report::Failed {
            stage: Stage::Cgroup,
            errno: 2
        })
    );
    until("the lock is free", || node.lock_is_free().then_some(()));
}
