//! Processes as `/proc` shows them.

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// One process, as its `stat` line has it (proc_pid_stat(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Its name, without the brackets.
    pub(crate) name: String,
    /// `R`, `S`, `Z`, ...
    pub(crate) state: char,
    /// Processor time of its own and of its reaped children, in ticks.
    pub(crate) ticks: u64,
    /// When it started, in ticks since boot.
    pub(crate) start: u64,
    /// Resident pages.
    pub(crate) pages: u64,
}

/// Reads a process; `None` when there is none of that number.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(line: &str) -> Option<Stat> {
    // The name may hold anything, brackets and spaces too: what counts stands behind the last one.
    let (head, tail) = line.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        name: head.split_once('(')?.1.to_owned(),
        state: fields.first()?.chars().next()?,
        ticks: number(14)? + number(15)? + number(16)? + number(17)?,
        start: number(22)?,
        pages: number(24)?,
    })
}

/// Whether the process with this number and start time runs: a zombie does not.
pub(crate) fn is_running(pid: u32, start: u64) -> bool {
    stat(pid).is_some_and(|it| it.start == start && !matches!(it.state, 'Z' | 'X'))
}

/// How long a process that started so many ticks after the boot has run at least; the host's clock may have been set
/// meanwhile.
pub(crate) fn age(start: u64) -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let uptime = text.split_whitespace().next()?.parse().ok()?;
    let uptime = Duration::try_from_secs_f64(uptime).ok()?;
    // Ticks are whole ones: it may have started at the end of its tick.
    let start = (start + 1) as f64 / rustix::param::clock_ticks_per_second().max(1) as f64;
    Some(uptime.saturating_sub(Duration::try_from_secs_f64(start).ok()?))
}

/// The id of this boot; empty where the kernel does not tell.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|it| it.trim().to_owned())
        .unwrap_or_default()
}

/// The numbers of all processes.
pub(crate) fn pids() -> std::io::Result<Vec<u32>> {
    Ok(fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// The process's descendants, itself left out.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children
                .split_whitespace()
                .filter_map(|it| it.parse::<u32>().ok());
            for child in children {
                // A child of a child that was handed up meanwhile could be met twice.
                if !found.contains(&child) {
                    found.push(child);
                    open.push(child);
                }
            }
        }
    }
    found
}

/// A process that is held on to, so that its number cannot become another's.
pub(crate) struct Pinned(OwnedFd);

impl Pinned {
    /// Pins the process that has this number now.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(Self)
    }

    /// Pins the process with this number and start time, if it runs.
    pub(crate) fn of(pid: u32, start: u64) -> Option<Self> {
        let pinned = Self::open(pid)?;
        is_running(pid, start).then_some(pinned)
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        self.send(Signal::KILL);
    }

    /// Sends it a signal.
    pub(crate) fn send(&self, signal: Signal) {
        // It may be gone already.
        let _ = pidfd_send_signal(&self.0, signal);
    }

    /// Waits until it has ended; `false` when `deadline` passes first.
    pub(crate) fn wait(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    /// The descriptor.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }
}

/// Kills every process whose environment has the line, by handles and again until none is found.
/// `false` when some live after `limit`.
pub(crate) fn kill_by_environment(lines: &[String], limit: Duration) -> std::io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let mut found = false;
        for pid in pids()? {
            let path = format!("/proc/{pid}/environ");
            if !has_line(&path, lines) {
                continue;
            }
            let Some(pinned) = Pinned::open(pid) else {
                continue;
            };
            // Looked at again behind the handle: the number may have become a stranger's in between.
            if has_line(&path, lines) {
                found = true;
                pinned.kill();
                pinned.wait(deadline);
            }
        }
        if !found {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

fn has_line(environ: impl AsRef<Path>, lines: &[String]) -> bool {
    // Not ours to read, or gone: not ours to kill.
    let Ok(bytes) = fs::read(environ) else {
        return false;
    };
    !bytes.is_empty()
        && bytes
            .split(|byte| *byte == 0)
            .any(|entry| lines.iter().any(|line| line.as_bytes() == entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let line =
            "12 (a) R 1 (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21 22\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                name: "a) R 1 (b) c".into(),
                state: 'S',
                ticks: 11 + 12 + 13 + 14,
                start: 4711,
                pages: 21,
            }
        );
        assert_eq!(parse_stat("12 (a"), None);
        assert_eq!(parse_stat("12 (a) S 1"), None);
    }

    #[test]
    fn this_process_runs_and_is_no_other() {
        let pid = std::process::id();
        let start = stat(pid).unwrap().start;
        assert!(is_running(pid, start));
        assert!(!is_running(pid, start + 1));
    }
}
