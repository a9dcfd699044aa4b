//! Starting the shim by `posix_spawn`: the child borrows this process' memory until it executes, so that a large
//! process pays no more than a small one, and no code of ours runs between fork and exec.

use std::{
    ffi::{CStr, c_char},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    ptr,
};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::io::unix::AsyncFd;

use super::proc::{self, Pinned};

/// A child of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    pid: u32,
    start: u64,
}

/// What the new program finds open.
pub(crate) struct Descriptors<'a> {
    /// 0, 1 and 2.
    pub(crate) null: &'a OwnedFd,
    /// 3.
    pub(crate) lock: &'a OwnedFd,
    /// 4.
    pub(crate) report: &'a OwnedFd,
    /// Its working directory.
    pub(crate) dir: &'a OwnedFd,
}

fn check(result: i32) -> io::Result<()> {
    // These calls return the number instead of setting errno.
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

/// Executes `program` in a session of its own, with an empty environment and an empty signal mask.
#[allow(
    unsafe_code,
    reason = "std can hand over neither descriptors nor a session without running code after a full fork"
)]
pub(crate) fn spawn(program: &CStr, args: &[&CStr], fds: &Descriptors<'_>) -> io::Result<Child> {
    // Out of the way of the numbers that are assigned below, so that none is overwritten before it is copied.
    let lift = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 10);
    let (null, lock) = (lift(fds.null)?, lift(fds.lock)?);
    let (report, dir) = (lift(fds.report)?, lift(fds.dir)?);
    let mut argv: Vec<*mut c_char> = args.iter().map(|it| it.as_ptr().cast_mut()).collect();
    argv.push(ptr::null_mut());
    let envp: [*mut c_char; 1] = [ptr::null_mut()];

    let mut actions = Actions::new()?;
    let actions_ptr = actions.as_mut_ptr();
    let mut attributes = Attributes::new()?;
    let attributes_ptr = attributes.as_mut_ptr();
    let mut pid = 0;
    // SAFETY: actions and attributes are initialized and live through the calls; the descriptors are open;
    // argv and envp end with null and point to strings that live through the call.
    unsafe {
        for (from, to) in [(&null, 0), (&null, 1), (&null, 2), (&lock, 3), (&report, 4)] {
            check(libc::posix_spawn_file_actions_adddup2(
                actions_ptr,
                from.as_raw_fd(),
                to,
            ))?;
        }
        check(libc::posix_spawn_file_actions_addfchdir_np(
            actions_ptr,
            dir.as_raw_fd(),
        ))?;
        let mut mask = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut mask);
        check(libc::posix_spawnattr_setsigmask(attributes_ptr, &mask))?;
        let flags = libc::POSIX_SPAWN_SETSID | libc::POSIX_SPAWN_SETSIGMASK as libc::c_short;
        check(libc::posix_spawnattr_setflags(attributes_ptr, flags))?;
        check(libc::posix_spawn(
            &mut pid,
            program.as_ptr(),
            actions_ptr,
            attributes_ptr,
            argv.as_ptr(),
            envp.as_ptr(),
        ))?;
    }
    let pid = u32::try_from(pid).map_err(io::Error::other)?;
    let start = proc::stat(pid).map_or(0, |it| it.start);
    Ok(Child { pid, start })
}

/// `posix_spawn_file_actions_t`, destroyed with the value.
struct Actions(Box<libc::posix_spawn_file_actions_t>);

impl Actions {
    #[allow(unsafe_code, reason = "posix_spawn's own initializer")]
    fn new() -> io::Result<Self> {
        // SAFETY: plain data that the initializer fills; the box keeps its address.
        unsafe {
            let mut it = Box::new(std::mem::zeroed());
            check(libc::posix_spawn_file_actions_init(&mut *it))?;
            Ok(Self(it))
        }
    }

    fn as_mut_ptr(&mut self) -> *mut libc::posix_spawn_file_actions_t {
        &mut *self.0
    }
}

impl Drop for Actions {
    #[allow(unsafe_code, reason = "posix_spawn's own destructor")]
    fn drop(&mut self) {
        // SAFETY: initialized by `new` and destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut *self.0) };
    }
}

/// `posix_spawnattr_t`, destroyed with the value.
struct Attributes(Box<libc::posix_spawnattr_t>);

impl Attributes {
    #[allow(unsafe_code, reason = "posix_spawn's own initializer")]
    fn new() -> io::Result<Self> {
        // SAFETY: plain data that the initializer fills; the box keeps its address.
        unsafe {
            let mut it = Box::new(std::mem::zeroed());
            check(libc::posix_spawnattr_init(&mut *it))?;
            Ok(Self(it))
        }
    }

    fn as_mut_ptr(&mut self) -> *mut libc::posix_spawnattr_t {
        &mut *self.0
    }
}

impl Drop for Attributes {
    #[allow(unsafe_code, reason = "posix_spawn's own destructor")]
    fn drop(&mut self) {
        // SAFETY: initialized by `new` and destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&mut *self.0) };
    }
}

impl Child {
    /// The process with this number and start time, if it is a child of this process: of an adapter that
    /// lived here before.
    pub(crate) fn of(pid: u32, start: u64) -> Option<Self> {
        let id = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let same = proc::stat(pid).is_some_and(|it| it.start == start);
        (same && waitid(WaitId::Pid(id), look).is_ok()).then_some(Self { pid, start })
    }

    /// Waits for its end and takes its remains away, so that no zombie stays.
    #[allow(
        unsafe_code,
        reason = "tokio registers descriptors by a promise that they stay open"
    )]
    pub(crate) async fn reap(self) {
        let Some(pinned) = Pinned::open(self.pid) else {
            return;
        };
        // Whoever else reaps in this process may have been first, and the number a stranger's.
        if proc::stat(self.pid).is_none_or(|it| it.start != self.start) {
            return;
        }
        // SAFETY: an `OwnedFd` is open for as long as it lives, and always gives the same number.
        let Ok(fd) = (unsafe { AsyncFd::register(pinned.into_fd()) }) else {
            return;
        };
        if fd.readable().await.is_ok() {
            let _ = waitid(WaitId::PidFd(fd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}
