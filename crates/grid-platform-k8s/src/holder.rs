//! Who holds a lease, as a text from which another process of the same host can tell that the holder is dead.

use std::{
    collections::BTreeSet,
    fmt, fs,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use grid_platform_api::Result;
use rustix::process::{Pid, test_kill_process};

use crate::owner::random;

/// The nonces of the holders in this process that are alive: an adapter that was dropped is as dead as a process.
static ALIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// One holder: `host/boot/pid namespace/pid/start/nonce`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The host's name, for people; in a pod it is the pod's.
    pub(crate) host: String,
    /// The host's boot: two hosts never have the same.
    boot: String,
    /// Where `pid` counts: two containers of one host have the same numbers.
    namespace: String,
    pub(crate) pid: u32,
    /// When the process started, in ticks since the boot.
    start: u64,
    /// Of the adapter within the process.
    nonce: String,
}

impl Holder {
    /// A new one in this process.
    ///
    /// # Errors
    /// `Internal` where the system has no random numbers.
    pub(crate) fn new() -> Result<Self> {
        let read = |path: &str| {
            fs::read_to_string(path)
                .map(|it| it.trim().replace('/', "_"))
                .unwrap_or_default()
        };
        let namespace = fs::read_link("/proc/self/ns/pid")
            .map(|it| it.to_string_lossy().replace('/', "_"))
            .unwrap_or_default();
        let pid = std::process::id();
        let nonce: String = random::<8>()?
            .iter()
            .map(|it| format!("{it:02x}"))
            .collect();
        Ok(Self {
            host: read("/proc/sys/kernel/hostname"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            namespace,
            pid,
            start: stat(pid).map_or(0, |it| it.start),
            nonce,
        })
    }

    /// Says that it is alive, until the guard is dropped.
    pub(crate) fn live(&self) -> Alive {
        alive().insert(self.nonce.clone());
        Alive(self.nonce.clone())
    }

    /// Whether it is certain that it is dead. A holder on another host, or in another container, never is.
    pub(crate) fn is_dead(&self) -> bool {
        let Ok(here) = Self::new() else { return false };
        if self.boot.is_empty() || self.boot != here.boot || self.namespace != here.namespace {
            return false;
        }
        if (self.pid, self.start) == (here.pid, here.start) {
            return !alive().contains(&self.nonce);
        }
        match stat(self.pid) {
            Some(found) => found.start != self.start || found.is_over,
            None => !exists(self.pid),
        }
    }
}

/// An adapter's holder is alive as long as this is.
#[derive(Debug)]
pub(crate) struct Alive(String);

impl Drop for Alive {
    fn drop(&mut self) {
        alive().remove(&self.0);
    }
}

fn alive() -> std::sync::MutexGuard<'static, BTreeSet<String>> {
    // The set is whole at every point where a panic could happen.
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            boot,
            namespace,
            pid,
            start,
            nonce,
        } = self;
        write!(f, "{host}/{boot}/{namespace}/{pid}/{start}/{nonce}")
    }
}

impl FromStr for Holder {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split('/').collect();
        let [host, boot, namespace, pid, start, nonce] = parts.as_slice() else {
            return Err(());
        };
        Ok(Self {
            host: (*host).to_owned(),
            boot: (*boot).to_owned(),
            namespace: (*namespace).to_owned(),
            pid: pid.parse().map_err(drop)?,
            start: start.parse().map_err(drop)?,
            nonce: (*nonce).to_owned(),
        })
    }
}

struct Stat {
    start: u64,
    /// It has ended, and its parent has not asked how.
    is_over: bool,
}

/// What `/proc` says of a process (proc_pid_stat(5)); `None` also where it is hidden.
fn stat(pid: u32) -> Option<Stat> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, brackets and spaces too: what counts stands behind the last one.
    let (_, tail) = line.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Stat {
        start: fields.get(22 - 3)?.parse().ok()?,
        is_over: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// Whether there is a process of that number, hidden or not.
fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_text_has_all_of_it() {
        let holder = Holder::new().unwrap();
        assert_eq!(holder.to_string().parse(), Ok(holder.clone()));
        assert!(!holder.boot.is_empty() && holder.start > 0, "{holder}");
        assert_eq!("somebody".parse::<Holder>(), Err(()));
        assert_eq!("a/b/c/d/e/f".parse::<Holder>(), Err(()));
    }

    #[test]
    fn a_dropped_adapter_is_dead_and_another_hosts_never_is() {
        let holder = Holder::new().unwrap();
        let alive = holder.live();
        assert!(!holder.is_dead());
        drop(alive);
        assert!(holder.is_dead());
        let elsewhere = Holder {
            boot: "another".to_owned(),
            ..holder.clone()
        };
        assert!(!elsewhere.is_dead());
        let in_a_container = Holder {
            namespace: "pid:[1]".to_owned(),
            ..holder
        };
        assert!(!in_a_container.is_dead());
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let holder = Holder {
            pid,
            start: stat(pid).unwrap().start,
            ..Holder::new().unwrap()
        };
        assert!(!holder.is_dead());
        let reused = Holder {
            start: holder.start + 1,
            ..holder.clone()
        };
        assert!(reused.is_dead());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(holder.is_dead());
    }
}
