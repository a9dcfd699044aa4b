//! Namespaces, a disk that can be filled, and somebody who buries orphans.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::{Resource, Rlimit, WaitOptions, set_child_subreaper, setrlimit, wait};

use crate::Result;
use crate::proc;

/// Runs this program again as the first process of namespaces of its own, or, for who may not make any, as the one
/// whom orphans come to; what it ends with. With a network of its own where it says so.
pub(crate) fn enter(own_namespaces: bool, network: bool, args: &[String]) -> Result<ExitCode> {
    let program = std::env::current_exe()?;
    let mut command = if own_namespaces {
        let mut command = Command::new("unshare");
        // What is mounted and who lives in there goes with its first process, however that ends.
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        if network {
            command.arg("--net");
        }
        command.arg("--").arg(program);
        command
    } else {
        Command::new(program)
    };
    let status = command.args(args).stdin(Stdio::null()).status();
    let status = status.map_err(|e| format!("cannot run `unshare` of util-linux: {e}"))?;
    Ok(code(status.code()))
}

fn code(code: Option<i32>) -> ExitCode {
    match code {
        Some(0) => ExitCode::SUCCESS,
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    }
}

/// Starts this program once more and waits for it, burying whoever is left to this process, as a host's first process
/// does. Then ends what is left.
pub(crate) fn bury(args: &[String]) -> Result<ExitCode> {
    set_child_subreaper(Some(rustix::process::getpid()))?;
    // A process that aborts at a fault point is to leave nothing behind.
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    let run = Command::new(std::env::current_exe()?).args(args).spawn()?;
    let mut ended = None;
    while ended.is_none() {
        if let Some((pid, status)) = wait(WaitOptions::empty())?
            && u32::try_from(pid.as_raw_nonzero().get()).is_ok_and(|it| it == run.id())
        {
            ended = Some(status.exit_status());
        }
    }
    // In a namespace of its own all that is left ends with this process; elsewhere it is ended by hand.
    let me = std::process::id();
    loop {
        let left = proc::all()?;
        // What was started again of the host's cluster is to live on.
        let cluster = grid_testbed::kubernetes::Cluster::of_host();
        let cluster = cluster.dir().to_string_lossy();
        let is_of_cluster = |it: &proc::Process| it.args.iter().any(|it| it.contains(&*cluster));
        let left: Vec<_> = left
            .iter()
            .filter(|it| it.parent == me && !is_of_cluster(it))
            .collect();
        if left.is_empty() {
            return Ok(code(ended.flatten()));
        }
        for process in left {
            // One that has just ended is waited for all the same.
            let _ = process.kill();
        }
        wait(WaitOptions::empty())?;
    }
}

/// The cgroup beneath which the containers of the run in that directory are.
pub(crate) fn cgroup(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    // A cgroup's name is told to the engine as it is.
    let plain = |it: &char| it.is_ascii_alphanumeric() || *it == '-';
    name.chars().filter(plain).collect()
}

/// Removes the cgroups of a run that has ended.
pub(crate) fn sweep_cgroups(dir: &Path) {
    let name = cgroup(dir);
    let directories = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|it| it.path()).filter(|it| it.is_dir())
    };
    let root = Path::new("/sys/fs/cgroup");
    for parent in directories(root).chain([root.to_owned()]) {
        let ours = parent.join(&name);
        for cgroup in directories(&ours).chain([ours.clone()]) {
            // Most have none of the run's.
            let _ = fs::remove_dir(cgroup);
        }
    }
}

/// A disk of limited size.
pub(crate) struct Disk {
    path: PathBuf,
    bytes: u64,
    is_full: AtomicBool,
}

impl Disk {
    /// Mounts one on an empty directory. Wants a mount namespace of our own.
    pub(crate) fn mount(path: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(path)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let size = std::ffi::CString::new(format!("size={bytes}"))?;
        mount("tmpfs", path, "tmpfs", flags, Some(size.as_c_str()))?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            is_full: AtomicBool::new(false),
        })
    }

    /// Leaves no free byte for so long. Whether it was not full already.
    pub(crate) fn fill_for(self: &Arc<Self>, lasts: Duration) -> io::Result<bool> {
        if self.is_full.swap(true, Ordering::SeqCst) {
            return Ok(false);
        }
        self.fill()?;
        let disk = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            // A disk that stays full is seen by the census.
            let _ = disk.free();
            disk.is_full.store(false, Ordering::SeqCst);
        });
        Ok(true)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::SeqCst)
    }

    /// Waits until it is not full any more, which is soon.
    pub(crate) async fn has_room(&self) {
        while self.is_full() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Leaves no free byte, as far as others let it: what is written at the same instant may still find one.
    fn fill(&self) -> io::Result<()> {
        let mut used = self.used()?;
        loop {
            // It may have grown since.
            match self.resize(used) {
                Err(e) if e.raw_os_error() == Some(22) && used < self.bytes => used += 64 << 10,
                other => return other,
            }
        }
    }

    /// Gives back what was taken.
    fn free(&self) -> io::Result<()> {
        self.resize(self.bytes)
    }

    pub(crate) fn used(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }

    fn resize(&self, bytes: u64) -> io::Result<()> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        Ok(mount_remount(&self.path, flags, format!("size={bytes}"))?)
    }
}
