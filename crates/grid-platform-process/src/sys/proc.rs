//! Processes as `/proc` shows them.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    thread,
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
    /// How much memory it can address, in bytes: nothing once it has ended, nor as a part of the kernel.
    size: u64,
    /// Where its code ends in that: at 0 in the middle of an exec.
    code_end: u64,
    /// Where its environment begins and ends.
    environment: (u64, u64),
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
        size: number(23)?,
        code_end: number(27)?,
        environment: (number(50)?, number(51)?),
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
pub(crate) fn pids() -> io::Result<Vec<u32>> {
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

/// Kills every process whose environment has one of the lines, by handles and again until none is found.
/// `false` when some live after `limit`.
pub(crate) fn kill_by_environment(lines: &[String], limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let mut found = false;
        for pid in pids()? {
            match carries(pid, lines) {
                Some(false) => continue,
                Some(true) => {}
                // In the next round it shows which program it became.
                None => {
                    found = true;
                    continue;
                }
            }
            let Some(pinned) = Pinned::open(pid) else {
                continue;
            };
            found = true;
            // Looked at again behind the handle: the number may have become a stranger's in between.
            if carries(pid, lines) == Some(true) {
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
        thread::yield_now();
    }
}

/// The environment that the process was executed with; empty where it shows none.
fn environment(pid: u32) -> io::Result<Vec<u8>> {
    let file = fs::File::open(format!("/proc/{pid}/environ"))?;
    let mut bytes = vec![0; 32 * 1024];
    loop {
        // All at once: what is read by pieces ends where the process comes to another program meanwhile.
        let count = file.read_at(&mut bytes, 0)?;
        if count < bytes.len() {
            bytes.truncate(count);
            return Ok(bytes);
        }
        bytes.resize(2 * count, 0);
    }
}

/// Whether the process's environment has one of the lines; `None` in the middle of an exec, when it shows none at all.
fn carries(pid: u32, lines: &[String]) -> Option<bool> {
    // What was opened may be the memory of the program before, which is gone when it is read: the next look has the new one.
    for _ in 0..8 {
        // Not ours to read, or gone: not ours to kill.
        let Ok(bytes) = environment(pid) else {
            return Some(false);
        };
        if !bytes.is_empty() {
            let mut entries = bytes.split(|byte| *byte == 0);
            return Some(entries.any(|entry| lines.iter().any(|it| it.as_bytes() == entry)));
        }
        match stat(pid) {
            Some(Stat {
                size: 1..,
                code_end: 0,
                ..
            }) => return None,
            Some(Stat {
                size: 1..,
                environment: (start, end),
                ..
            }) if start < end => {}
            // It has ended, is a part of the kernel, or has no environment.
            _ => return Some(false),
        }
    }
    // It has taken it away from itself.
    Some(false)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let line = "12 (a) R 1 (b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21 22 23 \
             24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                name: "a) R 1 (b) c".into(),
                state: 'S',
                ticks: 11 + 12 + 13 + 14,
                start: 4711,
                pages: 21,
                size: 20,
                code_end: 24,
                environment: (47, 48),
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

    /// Between two programs a process has neither the environment of the one nor that of the other.
    #[test]
    fn a_process_that_goes_from_program_to_program_is_never_taken_for_one_without_the_line() {
        let script = "exec sh -c \"$SCRIPT\"";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .env_clear()
            .env("SCRIPT", script)
            .env("PATH", "/usr/bin:/bin")
            .env("MARK", "it")
            .spawn()
            .unwrap();
        let lines = ["MARK=it".to_owned()];
        let looks: Vec<Option<bool>> = (0..20_000).map(|_| carries(child.id(), &lines)).collect();
        let killed = kill_by_environment(&lines, Duration::from_secs(60));
        // It is there as a zombie until it is waited for, which is none.
        assert_eq!(carries(child.id(), &lines), Some(false));
        child.wait().unwrap();
        assert!(killed.unwrap());
        assert!(!looks.contains(&Some(false)));
        assert!(looks.contains(&Some(true)));
    }
}
