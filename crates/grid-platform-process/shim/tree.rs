//! The program's tree: everything that descends from it, wherever it hides.

use crate::sys;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Kills what is left of the tree, once: children of the subreaper, and members of the node's cgroups. Children of what is killed
/// become the shim's children, so calling this until nothing is left finds everything.
pub(crate) fn kill(cgroups: &[PathBuf]) {
    for pid in children() {
        // A child is a zombie until the shim reaps it, so the pid is no other's.
        i32::try_from(pid)
            .into_iter()
            .for_each(|it| sys::kill(it, sys::SIGKILL));
    }
    for procs in cgroups {
        // Version 2 has a file that kills all members at once, those of cgroups below too.
        let all = OpenOptions::new()
            .write(true)
            .open(procs.with_file_name("cgroup.kill"));
        if all.and_then(|mut it| it.write_all(b"1")).is_ok() {
            continue;
        }
        for procs in with_those_below(procs) {
            for pid in members(&procs) {
                sys::kill_pinned(pid, || members(&procs).contains(&pid));
            }
        }
    }
}

/// Whether nobody is left in the node's cgroups, and in those that it made in them.
pub(crate) fn is_empty(cgroups: &[PathBuf]) -> bool {
    cgroups
        .iter()
        .all(|procs| match fs::read_to_string(procs.with_file_name("cgroup.events")) {
            // Version 2 says it of the whole tree.
            Ok(text) => !text.lines().any(|it| it == "populated 1"),
            // Mostly whoever is there is at the top.
            Err(_) => {
                members(procs).is_empty()
                    && with_those_below(procs).iter().all(|it| members(it).is_empty())
            }
        })
}

/// The `cgroup.procs` files of a cgroup and of those below, of which there are as many as root made: in version 1 nobody else
/// may. Each is looked into once, and a path has an end, so a program that makes more of them meanwhile does not keep the shim here.
fn with_those_below(procs: &Path) -> Vec<PathBuf> {
    let mut all = vec![procs.to_owned()];
    let mut next = 0;
    while let Some(dir) = all.get(next).and_then(|it| it.parent()) {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = entries
            .filter(|it| it.file_type().is_ok_and(|it| it.is_dir()))
            .map(|it| it.path().join("cgroup.procs"))
            .collect();
        all.extend(below);
        next += 1;
    }
    all
}

/// How often the OOM killer has struck in the node's cgroups so far.
pub(crate) fn oom_kills(cgroups: &[PathBuf]) -> u64 {
    cgroups
        .iter()
        .flat_map(|it| {
            [
                it.with_file_name("memory.events"),
                it.with_file_name("memory.oom_control"),
            ]
        })
        .filter_map(|it| fs::read_to_string(it).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|it| it.strip_prefix("oom_kill ")?.parse::<u64>().ok())
                .collect::<Vec<_>>()
        })
        .sum()
}

/// Field 22 of `/proc/PID/stat`: when the process started, in clock ticks since boot. 0 when it cannot be read.
pub(crate) fn start_time(pid: u32) -> u64 {
    stat_field(pid, 22).unwrap_or(0)
}

fn stat_field(pid: u32, field: usize) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name that may hold anything; the third follows the last `)`.
    let rest = stat.get(stat.iter().rposition(|it| *it == b')')? + 2..)?;
    rest.split(|it| *it == b' ')
        .nth(field.checked_sub(3)?)
        .and_then(number)
}

/// Processes of a cgroup that this pid namespace can name.
fn members(procs: &Path) -> Vec<u32> {
    numbers(&fs::read(procs).unwrap_or_default())
}

fn children() -> Vec<u32> {
    match fs::read("/proc/thread-self/children") {
        Ok(list) => numbers(&list),
        // A kernel without the list (CONFIG_PROC_CHILDREN): ask each process for its parent.
        Err(_) => {
            let own = u64::from(std::process::id());
            let all = fs::read_dir("/proc").into_iter().flatten().flatten();
            all.filter_map(|it| it.file_name().to_str()?.parse().ok())
                .filter(|pid| stat_field(*pid, 4) == Some(own))
                .collect()
        }
    }
}

fn numbers(list: &[u8]) -> Vec<u32> {
    list.split(u8::is_ascii_whitespace)
        .filter_map(number)
        .filter(|it| *it != 0)
        .collect()
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}
