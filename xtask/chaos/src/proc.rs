//! What the kernel says of processes.

use std::fs;
use std::io;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The number that it has for itself, where it lives in a table of processes of its own.
    pub(crate) inner: u32,
    pub(crate) parent: u32,
    /// Field 22 of `/proc/PID/stat`: with the pid it names one process of this boot.
    pub(crate) start: u64,
    pub(crate) state: char,
    pub(crate) args: Vec<String>,
    pub(crate) environment: Vec<String>,
    pub(crate) cwd: Option<PathBuf>,
}

impl Process {
    /// The value of a variable of its environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let of = |entry: &'_ str| entry.strip_prefix(name)?.strip_prefix('=').map(str::len);
        self.environment
            .iter()
            .find_map(|it| of(it).map(|length| &it[it.len() - length..]))
    }

    /// Whether it has ended and waits for its parent.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// How it is called in a list of faults.
    pub(crate) fn words(&self) -> String {
        format!(
            "{} (parent {}, state {}): {}",
            self.pid,
            self.parent,
            self.state,
            self.args.join(" ")
        )
    }

    /// Kills this very process, and no other that has its number by now. Whether it was there.
    pub(crate) fn kill(&self) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        let same = look(self.pid).is_some_and(|it| it.start == self.start && !it.is_zombie());
        same && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
    }
}

/// Every process that `/proc` shows, zombies too.
pub(crate) fn all() -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|it| it.parse().ok()) {
            // One that ends while it is looked at is none.
            all.extend(look(pid));
        }
    }
    Ok(all)
}

/// The process of that number.
pub(crate) fn look(pid: u32) -> Option<Process> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // The name before the last bracket may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    let status = fs::read_to_string(dir.join("status")).unwrap_or_default();
    let inner = status
        .lines()
        .find_map(|it| it.strip_prefix("NSpid:")?.split_whitespace().last());
    let list = |name: &str| -> Vec<String> {
        let bytes = fs::read(dir.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.split_terminator('\0').map(str::to_owned).collect()
    };
    Some(Process {
        pid,
        // One that ends while it is looked at has none.
        inner: inner.and_then(|it| it.parse().ok()).unwrap_or(pid),
        parent,
        start,
        state,
        args: list("cmdline"),
        environment: list("environ"),
        cwd: fs::read_link(dir.join("cwd")).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_parent_and_environment() {
        let me = look(std::process::id()).unwrap();
        assert_eq!(me.parent, std::os::unix::process::parent_id());
        assert!(!me.is_zombie());
        assert_eq!(me.inner, me.pid);
        assert_eq!(me.variable("PATH"), std::env::var("PATH").ok().as_deref());
        assert_eq!(me.variable("PAT"), None);
        assert!(
            all()
                .unwrap()
                .iter()
                .any(|it| it.pid == me.pid && it.start == me.start)
        );
    }

    #[test]
    fn a_child_is_killed_and_one_with_another_start_time_is_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let seen = look(child.id()).unwrap();
        let other = Process {
            start: seen.start + 1,
            ..seen.clone()
        };
        assert!(!other.kill());
        assert!(child.try_wait().unwrap().is_none());
        assert!(seen.kill());
        assert!(!child.wait().unwrap().success());
        assert!(!seen.kill(), "it is gone");
    }
}
