//! Processes that are measured from outside: what they use, by `/proc`, and their end.

use std::io::BufReader;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};

use crate::Result;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// Processor time, its threads' and its own system calls' included.
    pub(crate) cpu: Duration,
    /// Resident memory now, in bytes.
    pub(crate) resident: u64,
    /// The most resident memory there was, in bytes.
    pub(crate) peak: u64,
}

/// Reads what the process uses.
pub(crate) fn used(pid: u32) -> Result<Used> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces and parentheses; what follows the last one is numbers.
    let (_, rest) = stat.rsplit_once(')').ok_or("a stat file without a name")?;
    let ticks = |index: usize| -> Result<u64> {
        let field = rest.split_ascii_whitespace().nth(index);
        Ok(field.ok_or("a short stat file")?.parse()?)
    };
    // utime and stime are the 14th and 15th field; the first of `rest` is the 3rd.
    let ticks = ticks(11)? + ticks(12)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Used {
        cpu: Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64),
        resident: kib(&status, "VmRSS:")? * 1024,
        peak: kib(&status, "VmHWM:")? * 1024,
    })
}

/// Has this process' peak be what is resident now, and gives that.
pub(crate) fn forget_peak() -> Result<u64> {
    std::fs::write("/proc/self/clear_refs", "5")?;
    Ok(used(std::process::id())?.peak)
}

/// What is in a process' memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Written by it, and its own alone.
    pub(crate) private_dirty: u64,
    /// Its own alone: nobody else would use it if it ended.
    pub(crate) private: u64,
    /// That, and its share of what it has with others.
    pub(crate) proportional: u64,
}

/// Reads what is in the process' memory.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let bytes = |name| Ok::<_, Box<dyn std::error::Error>>(kib(&text, name)? * 1024);
    let private_dirty = bytes("Private_Dirty:")?;
    Ok(Memory {
        private_dirty,
        private: private_dirty + bytes("Private_Clean:")?,
        proportional: bytes("Pss:")?,
    })
}

/// Memory of the host that can be had without swapping, in bytes.
pub(crate) fn available() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    Ok(kib(&text, "MemAvailable:")? * 1024)
}

/// The process that started it.
pub(crate) fn parent(pid: u32) -> Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(line
        .ok_or("a status file without a parent")?
        .trim()
        .parse()?)
}

/// The value of a line that tells KiB.
fn kib(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    Ok(value
        .ok_or_else(|| format!("`{name}` is not told"))?
        .trim()
        .parse()?)
}

/// Sends a signal to a child that was not awaited yet, so that its number is still its own.
pub(crate) fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.ok_or("a child without a pid")?, signal)?)
}

/// Asks a child to end, and waits; one that ends badly or not within a minute is an error.
pub(crate) fn end(mut child: Child) -> Result<()> {
    signal(&child, Signal::TERM)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("a child ended with {status}").into()),
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                return Err("a child did not end within a minute".into());
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Lets this process and its children have as many open files as they may.
///
/// # Errors
/// When that is less than `wanted`.
pub(crate) fn open_files(wanted: u64) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    match limit.maximum {
        Some(most) if most < wanted => Err(format!(
            "this takes {wanted} open files per process, and {most} are allowed: raise `ulimit -Hn`"
        )
        .into()),
        _ => Ok(()),
    }
}

/// A child that is killed when it is not ended in another way.
#[derive(Debug)]
pub(crate) struct Guarded(Option<Child>);

impl Guarded {
    pub(crate) fn new(child: Child) -> Self {
        Self(Some(child))
    }

    /// This program again, with arguments that are given to it, and with pipes to talk by.
    pub(crate) fn own(
        arguments: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<(Self, ChildStdin, BufReader<ChildStdout>)> {
        let mut child = arguments(&mut Command::new(std::env::current_exe()?))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("a child without an input")?;
        let output = child.stdout.take().ok_or("a child without an output")?;
        Ok((Self::new(child), input, BufReader::new(output)))
    }

    /// The child.
    ///
    /// # Errors
    /// When it was taken.
    pub(crate) fn get(&mut self) -> Result<&mut Child> {
        self.0
            .as_mut()
            .ok_or_else(|| "the child was ended before".into())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Kills it at once, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.0.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// See [`end`].
    pub(crate) fn end(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), end)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The error that leads here is the one to tell.
        let _ = self.kill();
    }
}
