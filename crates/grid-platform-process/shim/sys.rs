//! The kernel, as far as std does not reach: each call wrapped once, so that the rest of the shim is safe code.
//!
//! Declared by hand for 64-bit Linux, where the numbers below are the same on x86_64 and aarch64 unless a `cfg` says otherwise.

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the shim's kernel numbers are known for x86_64 and aarch64 only");

use std::ffi::{CString, c_char, c_int, c_long, c_short, c_uint, c_ulong, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

pub(crate) const SIGHUP: i32 = 1;
pub(crate) const SIGINT: i32 = 2;
pub(crate) const SIGQUIT: i32 = 3;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGUSR1: i32 = 10;
pub(crate) const SIGUSR2: i32 = 12;
pub(crate) const SIGPIPE: i32 = 13;
pub(crate) const SIGALRM: i32 = 14;
pub(crate) const SIGTERM: i32 = 15;
pub(crate) const SIGCHLD: i32 = 17;
pub(crate) const SIGCONT: i32 = 18;
pub(crate) const SIGTSTP: i32 = 20;
pub(crate) const SIGTTIN: i32 = 21;
pub(crate) const SIGTTOU: i32 = 22;

pub(crate) const ECHILD: i32 = 10;
pub(crate) const EOPNOTSUPP: i32 = 95;

pub(crate) const O_NONBLOCK: i32 = 0o4000;
#[cfg(target_arch = "x86_64")]
pub(crate) const O_NOFOLLOW: i32 = 0o400_000;
#[cfg(target_arch = "aarch64")]
pub(crate) const O_NOFOLLOW: i32 = 0o100_000;

const O_APPEND: c_int = 0o2000;
const F_SETFD: c_int = 2;
const F_SETFL: c_int = 4;
const FD_CLOEXEC: c_int = 1;
const SFD_FLAGS: c_int = 0o2_004_000; // SFD_CLOEXEC | SFD_NONBLOCK
const SIG_SETMASK: c_int = 2;
const P_ALL: c_int = 0;
const P_PID: c_int = 1;
const WNOHANG: c_int = 1;
const WEXITED: c_int = 4;
const WNOWAIT: c_int = 0x0100_0000;
const CLD_EXITED: c_int = 1;
const PR_SET_PDEATHSIG: c_int = 1;
const PR_SET_CHILD_SUBREAPER: c_int = 36;
const PR_SET_NO_NEW_PRIVS: c_int = 38;
const RLIMIT_NOFILE: c_int = 7;
const PUNCH_HOLE_KEEP_SIZE: c_int = 3;
const SEEK_DATA: c_int = 3;
const SOL_SOCKET: c_int = 1;
const SO_PEERCRED: c_int = 17;
const MADV_DONTNEED: c_int = 4;
const PT_LOAD: u32 = 1;
const PF_W: u32 = 2;
#[cfg(target_arch = "x86_64")]
const SYS_RT_SIGACTION: c_long = 13;
#[cfg(target_arch = "aarch64")]
const SYS_RT_SIGACTION: c_long = 134;
const SYS_PIDFD_SEND_SIGNAL: c_long = 424;
const SYS_PIDFD_OPEN: c_long = 434;
const SYS_CLOSE_RANGE: c_long = 436;

pub(crate) const POLLIN: c_short = 1;

/// `struct pollfd`.
#[repr(C)]
pub(crate) struct PollFd {
    pub(crate) fd: RawFd,
    pub(crate) events: c_short,
    pub(crate) revents: c_short,
}

/// `sigset_t` of glibc and musl: 1024 bits.
#[repr(C)]
struct SigSet([u64; 16]);

/// `siginfo_t` of a SIGCHLD: 128 bytes, the union aligned to 8.
#[repr(C)]
struct SigInfo {
    signo: c_int,
    errno: c_int,
    code: c_int,
    pad: c_int,
    pid: c_int,
    uid: c_uint,
    status: c_int,
    rest: [c_int; 25],
}

#[repr(C)]
struct RLimit {
    soft: u64,
    hard: u64,
}

#[repr(C)]
struct UCred {
    pid: c_int,
    uid: c_uint,
    gid: c_uint,
}

/// `Elf64_Phdr`.
#[repr(C)]
struct Phdr {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

/// The head of `struct dl_phdr_info`, which is all that is read.
#[repr(C)]
struct PhdrInfo {
    addr: u64,
    name: *const c_char,
    phdr: *const Phdr,
    phnum: u16,
}

type PhdrCallback = extern "C" fn(*mut PhdrInfo, usize, *mut c_void) -> c_int;

unsafe extern "C" {
    safe fn fork() -> c_int;
    safe fn _exit(code: c_int) -> !;
    safe fn setsid() -> c_int;
    safe fn getppid() -> c_int;
    safe fn geteuid() -> c_uint;
    safe fn setuid(uid: c_uint) -> c_int;
    safe fn setgid(gid: c_uint) -> c_int;
    safe fn umask(mask: c_uint) -> c_uint;
    #[link_name = "kill"]
    safe fn c_kill(pid: c_int, signal: c_int) -> c_int;
    #[link_name = "dup2"]
    safe fn c_dup2(from: c_int, to: c_int) -> c_int;
    #[link_name = "fallocate"]
    safe fn c_fallocate(fd: c_int, mode: c_int, offset: i64, len: i64) -> c_int;
    #[cfg(target_env = "gnu")]
    safe fn malloc_trim(pad: usize) -> c_int;
    safe fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn setgroups(size: usize, list: *const c_uint) -> c_int;
    fn setrlimit(resource: c_int, limit: *const RLimit) -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char)
    -> c_int;
    #[link_name = "poll"]
    fn c_poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn signalfd(fd: c_int, mask: *const SigSet, flags: c_int) -> c_int;
    fn waitid(kind: c_int, id: c_uint, info: *mut SigInfo, options: c_int) -> c_int;
    fn getsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        len: *mut c_uint,
    ) -> c_int;
    fn madvise(addr: *mut c_void, len: usize, advice: c_int) -> c_int;
    fn dl_iterate_phdr(callback: PhdrCallback, data: *mut c_void) -> c_int;
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes over a descriptor that the shim was started with, and closes it on exec.
pub(crate) fn inherit(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes an int and touches no memory.
    check(unsafe { fcntl(fd, F_SETFD, FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open, or F_SETFD had failed, and the caller names each inherited one once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor from `first` up; on a kernel without the call (before 5.9) what was inherited stays.
pub(crate) fn close_from(first: c_uint) {
    // SAFETY: called before the shim opens anything, so no owner loses its descriptor.
    unsafe { syscall(SYS_CLOSE_RANGE, first, c_uint::MAX, 0 as c_uint) };
}

/// Makes writes append and block: what a program may have changed on the description that runs share.
pub(crate) fn set_append(file: &File) -> io::Result<()> {
    // SAFETY: F_SETFL takes an int and touches no memory.
    check(unsafe { fcntl(file.as_raw_fd(), F_SETFL, O_APPEND) }).map(drop)
}

/// Makes `to` the file.
pub(crate) fn dup_to(file: &File, to: RawFd) -> io::Result<()> {
    check(c_dup2(file.as_raw_fd(), to)).map(drop)
}

/// The mask of modes for files made from now on; the former one is returned.
pub(crate) fn set_umask(mask: u32) -> u32 {
    umask(mask)
}

/// EMFILE or ENFILE: the limit of open files, of the process or of the host.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// The user the shim acts as.
pub(crate) fn effective_uid() -> u32 {
    geteuid()
}

/// Makes orphaned descendants the shim's children.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: the option takes one integer.
    check(unsafe { prctl(PR_SET_CHILD_SUBREAPER, 1 as c_ulong) }).map(drop)
}

/// From now on no program that is executed gives the caller rights: not by a set-user-id bit, nor by capabilities of a file.
pub(crate) fn gain_nothing() -> io::Result<()> {
    // SAFETY: the option takes four integers, of which three have to be 0.
    check(unsafe {
        prctl(
            PR_SET_NO_NEW_PRIVS,
            1 as c_ulong,
            0 as c_ulong,
            0 as c_ulong,
            0 as c_ulong,
        )
    })
    .map(drop)
}

/// SIGKILL for the caller when its parent dies, if that is still `parent`.
pub(crate) fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: the option takes one integer.
    check(unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL as c_ulong) })?;
    if u32::try_from(getppid()) == Ok(parent) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(ECHILD))
    }
}

/// A copy of this process, which has one thread: `None` in the child.
pub(crate) fn fork_process() -> io::Result<Option<u32>> {
    Ok(match check(fork())? {
        0 => None,
        pid => u32::try_from(pid).ok(),
    })
}

/// Ends the process without unwinding or clean-up.
pub(crate) fn exit_now(code: i32) -> ! {
    _exit(code)
}

/// A session and process group of its own.
pub(crate) fn new_session() -> io::Result<()> {
    check(setsid()).map(drop)
}

/// Exactly these supplementary groups.
pub(crate) fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length are of one slice.
    check(unsafe { setgroups(groups.len(), groups.as_ptr()) }).map(drop)
}

/// Real, effective and saved group.
pub(crate) fn set_gid(gid: u32) -> io::Result<()> {
    check(setgid(gid)).map(drop)
}

/// Real, effective and saved user.
pub(crate) fn set_uid(uid: u32) -> io::Result<()> {
    check(setuid(uid)).map(drop)
}

/// The soft and hard bound of open files.
pub(crate) fn set_nofile(limit: u64) -> io::Result<()> {
    let limit = RLimit {
        soft: limit,
        hard: limit,
    };
    // SAFETY: the struct lives through the call.
    check(unsafe { setrlimit(RLIMIT_NOFILE, &limit) }).map(drop)
}

/// Replaces the process. Returns only to say why not.
pub(crate) fn exec(program: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let list = |it: &[CString]| {
        it.iter()
            .map(|it| it.as_ptr())
            .chain([ptr::null()])
            .collect::<Vec<_>>()
    };
    let (args, env) = (list(args), list(env));
    // SAFETY: both lists end with null and point into strings that live through the call.
    unsafe { execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Sends a signal to a process, or with a negative number to a group. One that is gone is no error worth telling.
pub(crate) fn kill(pid: i32, signal: i32) {
    c_kill(pid, signal);
}

/// Sends SIGKILL to the process that is `pid` now, if `still` holds after the process was pinned.
pub(crate) fn kill_pinned(pid: u32, still: impl FnOnce() -> bool) {
    // SAFETY: two integers.
    let Ok(fd) = c_int::try_from(unsafe { syscall(SYS_PIDFD_OPEN, pid as c_int, 0 as c_uint) })
    else {
        return;
    };
    if fd < 0 {
        return;
    }
    // SAFETY: the call has just made the descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if still() {
        // SAFETY: a null siginfo is allowed; the rest are integers.
        unsafe {
            syscall(
                SYS_PIDFD_SEND_SIGNAL,
                fd.as_raw_fd(),
                SIGKILL,
                ptr::null::<c_void>(),
                0 as c_uint,
            )
        };
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) pid: u32,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// A child that has ended and is not reaped yet, if there is one. ECHILD: there are no children at all.
pub(crate) fn ended_child() -> io::Result<Option<Ended>> {
    let mut info = SigInfo {
        signo: 0,
        errno: 0,
        code: 0,
        pad: 0,
        pid: 0,
        uid: 0,
        status: 0,
        rest: [0; 25],
    };
    // SAFETY: the struct has the size and layout of siginfo_t and lives through the call.
    check(unsafe { waitid(P_ALL, 0, &mut info, WEXITED | WNOHANG | WNOWAIT) })?;
    let exited = info.code == CLD_EXITED;
    Ok(u32::try_from(info.pid)
        .ok()
        .filter(|pid| *pid != 0)
        .map(|pid| Ended {
            pid,
            exit_code: exited.then_some(info.status),
            signal: (!exited).then_some(info.status),
        }))
}

/// Forgets an ended child, whose pid may then be another's. Waits for one that has not ended.
pub(crate) fn reap(pid: u32) {
    // SAFETY: a null siginfo is allowed.
    while check(unsafe { waitid(P_PID, pid, ptr::null_mut(), WEXITED) })
        .is_err_and(|it| it.kind() == io::ErrorKind::Interrupted)
    {}
}

fn sig_set(signals: &[i32]) -> SigSet {
    // Signal n is bit n-1; all that the shim names are below 64.
    SigSet(std::array::from_fn(|word| {
        if word == 0 {
            signals.iter().fold(0, |bits, it| bits | 1 << (it - 1))
        } else {
            0
        }
    }))
}

/// Blocks `blocked` and delivers `told` through a descriptor.
pub(crate) fn signal_file(blocked: &[i32], told: &[i32]) -> io::Result<File> {
    let (blocked, told) = (sig_set(blocked), sig_set(told));
    // SAFETY: both sets live through the calls; no old set is asked for.
    check(unsafe { sigprocmask(SIG_SETMASK, &blocked, ptr::null_mut()) })?;
    // SAFETY: as above.
    let fd = check(unsafe { signalfd(-1, &told, SFD_FLAGS) })?;
    // SAFETY: the call has just made the descriptor.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Every signal at its default and none blocked.
pub(crate) fn default_signals() -> io::Result<()> {
    // The kernel's own `struct sigaction`, all zero: SIG_DFL. By number, because libc hides two signals that may have been ignored for us.
    let default = [0_u64; 4];
    for it in 1..=64 as c_int {
        // SAFETY: the struct lives through the call; no old one is asked for. KILL and STOP are refused, which is no matter.
        unsafe {
            syscall(
                SYS_RT_SIGACTION,
                it,
                default.as_ptr(),
                ptr::null::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: the set lives through the call.
    check(unsafe { sigprocmask(SIG_SETMASK, &sig_set(&[]), ptr::null_mut()) }).map(drop)
}

/// Waits until a descriptor is ready or `timeout_ms` have passed.
pub(crate) fn poll(fds: &mut [PollFd], timeout_ms: i32) {
    // SAFETY: pointer and length are of one slice. An interrupted wait is as good as one that timed out.
    if unsafe { c_poll(fds.as_mut_ptr(), fds.len() as c_ulong, timeout_ms) } < 0 {
        fds.iter_mut().for_each(|it| it.revents = 0);
    }
}

/// The user at the other end of a unix socket.
pub(crate) fn peer_uid(socket: &impl AsRawFd) -> io::Result<u32> {
    let mut cred = UCred {
        pid: 0,
        uid: u32::MAX,
        gid: 0,
    };
    let mut len = size_of::<UCred>() as c_uint;
    // SAFETY: the struct is of the length that is passed and lives through the call.
    check(unsafe {
        getsockopt(
            socket.as_raw_fd(),
            SOL_SOCKET,
            SO_PEERCRED,
            ptr::from_mut(&mut cred).cast(),
            &mut len,
        )
    })?;
    Ok(cred.uid)
}

/// Gives the blocks of a range back to the file system; the file keeps its size.
pub(crate) fn punch_hole(file: &File, from: u64, to: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(from), i64::try_from(to.saturating_sub(from)))
    else {
        return Ok(());
    };
    if len == 0 {
        return Ok(());
    }
    check(c_fallocate(
        file.as_raw_fd(),
        PUNCH_HOLE_KEEP_SIZE,
        offset,
        len,
    ))
    .map(drop)
}

/// The offset of the first byte that is not in a hole; `None` in an empty file or where holes are not told.
pub(crate) fn first_data(file: &File) -> Option<u64> {
    u64::try_from(lseek(file.as_raw_fd(), 0, SEEK_DATA)).ok()
}

/// Gives memory back before a long wait: what the heap does not need, and read-only segments, which are the same in their files whenever
/// they are wanted again.
pub(crate) fn slim() {
    // SAFETY: the callback has the signature that the call wants and needs no data.
    unsafe { dl_iterate_phdr(drop_segments, ptr::null_mut()) };
    #[cfg(target_env = "gnu")]
    malloc_trim(0);
}

extern "C" fn drop_segments(info: *mut PhdrInfo, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr passes a valid description, whose program headers are an array of this length.
    let (base, headers) = unsafe {
        let info = &*info;
        (
            info.addr,
            std::slice::from_raw_parts(info.phdr, usize::from(info.phnum)),
        )
    };
    for it in headers
        .iter()
        .filter(|it| it.kind == PT_LOAD && it.flags & PF_W == 0)
    {
        // The kernel maps whole pages around a segment, all of the same file. Where pages are larger than 4 KiB the call may refuse:
        // then the segment stays, which costs clean memory only.
        let start = (base + it.vaddr) & !4095;
        let len = (base + it.vaddr + it.memsz).saturating_sub(start);
        // SAFETY: a segment that was never writable carries no relocation: its pages come back from the file as they were.
        unsafe { madvise(start as *mut c_void, len as usize, MADV_DONTNEED) };
    }
    0
}
