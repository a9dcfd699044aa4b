//! A process that is who it is: a pidfd, and the start time that tells it from a later one of the same number.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// Names a process: its number, when it started, in ticks since boot, and which boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    pub(crate) boot_id: String,
}

impl Identity {
    /// This process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            start_time: start_time(pid)?,
            boot_id: boot_id()?,
        })
    }

    /// A hold on the process; `None` when it is gone.
    pub(crate) fn open(&self) -> io::Result<Option<Process>> {
        if self.boot_id != boot_id()? {
            return Ok(None);
        }
        let Some(process) = Process::open(self.pid)? else {
            return Ok(None);
        };
        // The number cannot be given to another while it is held, so the start time read now is that of the held one.
        match start_time(self.pid) {
            Ok(time) if time == self.start_time => Ok(Some(process)),
            _ => Ok(None),
        }
    }
}

/// A hold on a process.
#[derive(Debug)]
pub(crate) struct Process {
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// A hold on the process that has this number now; `None` when none has.
    ///
    /// Only for a child that was not waited for yet; for others [`Identity::open`].
    pub(crate) fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self { fd: register(fd)? })),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal; a process that is gone is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.fd.get_ref(), signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when the process has ended.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.fd.readable().await.map(drop)
    }

    /// Asks it to end, and kills it if it has not after `grace`.
    pub(crate) async fn end(&self, grace: Duration) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            self.signal(Signal::KILL)?;
            self.ended().await?;
        }
        Ok(())
    }
}

#[allow(unsafe_code, reason = "tokio takes a raw descriptor to watch")]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the `AsyncFd`, which is never asked for it back nor given another, so it stays
    // open and the same for as long as it is watched.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// Field 22 of `/proc/PID/stat`, counted behind the last `)`: the name before it may hold anything.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("cannot understand `/proc/PID/stat`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_ended_and_its_name_outlives_it_harmlessly() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let process = identity.open().unwrap().unwrap();
        process.end(Duration::from_secs(10)).await.unwrap();
        child.wait().unwrap();
        process.signal(Signal::KILL).unwrap();
        assert!(identity.open().unwrap().is_none());
    }

    #[tokio::test]
    async fn another_start_time_is_another_process() {
        let own = Identity::own().unwrap();
        assert!(own.open().unwrap().is_some());
        let other = Identity {
            start_time: own.start_time + 1,
            ..own.clone()
        };
        assert!(other.open().unwrap().is_none());
    }
}
