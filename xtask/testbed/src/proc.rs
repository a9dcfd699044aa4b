//! Processes of this host, found by what they run and ended by what they are.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that lives, by its number and its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number on this host.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub start_time: u64,
    /// The first 15 bytes of its program's name.
    pub name: String,
}

/// The process of this number, if it lives; a zombie does not.
pub(crate) fn look(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    Some(Process {
        pid,
        start_time: fields.nth(18)?.parse().ok()?,
        name: head.split_once('(')?.1.to_owned(),
    })
}

/// What a process is known by over its life: its number, and when it started in the kernel's ticks.
pub(crate) fn identity(pid: u32) -> Option<String> {
    look(pid).map(|it| format!("{} {}", it.pid, it.start_time))
}

/// The live processes of this host that the check is true of.
pub fn processes(matches: impl Fn(&Process) -> bool) -> Vec<Process> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    numbers
        .filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?))
        .filter(matches)
        .collect()
}

impl Process {
    /// Whether one of its arguments has the path in it.
    pub fn mentions(&self, path: &Path) -> bool {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
        line.contains(&*path.to_string_lossy())
    }

    /// Whether it is in a control group with this in its path, as the groups of a container have its id.
    pub fn is_in_group(&self, part: &str) -> bool {
        fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).is_ok_and(|it| it.contains(part))
    }

    fn lives(&self) -> bool {
        look(self.pid).is_some_and(|now| now.start_time == self.start_time)
    }

    /// Sends this very process a signal; one that has ended meanwhile gets none.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            && self.lives()
        {
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }

    /// Waits until it has ended; whether it has.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.lives() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_found_by_its_arguments_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut child = Command::new("sh")
            .args(["-c", "exec sleep 1000 #", path.to_str().unwrap()])
            .spawn()
            .unwrap();
        let by_number = look(child.id()).unwrap();
        assert!(identity(child.id()).is_some());
        by_number.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(by_number.wait(Duration::ZERO));
        assert_eq!(look(by_number.pid), None);
        // To one that has ended nothing is sent, whoever has its number.
        by_number.signal(Signal::KILL);
        let own = look(std::process::id()).unwrap();
        assert!(own.is_in_group("/") && !own.mentions(&path));
    }
}
