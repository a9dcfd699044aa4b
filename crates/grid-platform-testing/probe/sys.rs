//! The few calls of the system that the standard library does not have.

#![allow(
    unsafe_code,
    reason = "signals, sessions and the user's number are calls of libc"
)]

use std::ffi::{c_int, c_long};

/// glibc and musl both have 1024 bits.
#[repr(C)]
struct SignalSet([u64; 16]);

unsafe extern "C" {
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, number: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwait(set: *const SignalSet, number: *mut c_int) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn raise(number: c_int) -> c_int;
    fn setsid() -> c_int;
    fn getuid() -> u32;
    fn clock() -> c_long;
}

const SIG_BLOCK: c_int = 0;
const SIG_UNBLOCK: c_int = 1;
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;

/// HUP, INT, QUIT, USR1, USR2, TERM: those that a platform may be told to stop a node with.
const FOLLOWED: [c_int; 6] = [1, 2, 3, 10, 12, 15];

fn set(numbers: &[c_int]) -> SignalSet {
    let mut set = SignalSet([0; 16]);
    // SAFETY: the set is as large as the library's own and lives through the calls.
    unsafe {
        sigemptyset(&mut set);
        for number in numbers {
            sigaddset(&mut set, *number);
        }
    }
    set
}

/// Keeps the followed signals from ending the program, in this thread and those made later.
pub(crate) fn block_signals() {
    // SAFETY: the set is valid, and the old mask is not asked for.
    unsafe { pthread_sigmask(SIG_BLOCK, &set(&FOLLOWED), std::ptr::null_mut()) };
}

/// Waits for the next followed signal.
pub(crate) fn next_signal() -> c_int {
    let mut number = 0;
    // SAFETY: both pointers are valid through the call.
    while unsafe { sigwait(&set(&FOLLOWED), &mut number) } != 0 {}
    number
}

/// Ends the program by a signal, if it is one that ends programs.
pub(crate) fn die_by(number: c_int) {
    // SAFETY: plain calls with numbers; the set is valid.
    unsafe {
        signal(number, SIG_DFL);
        pthread_sigmask(SIG_UNBLOCK, &set(&[number]), std::ptr::null_mut());
        raise(number);
    }
}

/// Makes this process the first of a session of its own, deaf to the followed signals.
pub(crate) fn leave_session_and_ignore_signals() {
    // SAFETY: plain calls with numbers.
    unsafe {
        setsid();
        for number in FOLLOWED {
            signal(number, SIG_IGN);
        }
    }
}

/// Processor time that this program has used, in microseconds: POSIX fixes the unit.
pub(crate) fn cpu_time_us() -> c_long {
    // SAFETY: it takes nothing.
    unsafe { clock() }
}

/// The user's number.
pub(crate) fn uid() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { getuid() }
}
