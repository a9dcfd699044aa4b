//! The program that the bench has started: its very first act is to read the clock, so that nothing of its own is
//! measured with who started it. Built by `build.rs`, without std and libc: with them, what comes before `main` would be
//! part of every figure.
//!
//! Its argument is a FIFO. It writes there when it began, waits for SIGTERM, writes when it heard that, and ends. Without an
//! argument it says to standard output that it heeds SIGTERM, and with a number it writes so many lines there.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(crate) const WRITE: usize = 1;
    pub(crate) const SIGPROCMASK: usize = 14;
    pub(crate) const GETPID: usize = 39;
    pub(crate) const SIGTIMEDWAIT: usize = 128;
    pub(crate) const CLOCK_GETTIME: usize = 228;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const OPENAT: usize = 257;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(crate) const OPENAT: usize = 56;
    pub(crate) const WRITE: usize = 64;
    pub(crate) const EXIT_GROUP: usize = 94;
    pub(crate) const CLOCK_GETTIME: usize = 113;
    pub(crate) const SIGPROCMASK: usize = 135;
    pub(crate) const SIGTIMEDWAIT: usize = 137;
    pub(crate) const GETPID: usize = 172;
}

const CLOCK_MONOTONIC: usize = 1;
const SIG_BLOCK: usize = 0;
/// Signal n is bit n-1: SIGTERM is 15.
const TERM: u64 = 1 << 14;
const SET_SIZE: usize = 8;
/// The current directory, in place of a directory's descriptor.
const AT_FDCWD: usize = -100_isize as usize;
const WRITE_ONLY: usize = 1;

// The kernel's stack of a new program: the number of arguments, then a pointer to each.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {}", "ud2", sym begin);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x0, sp", "bl {}", "brk #1", sym begin);

#[cfg(target_arch = "x86_64")]
fn call(number: usize, args: [usize; 4]) -> isize {
    let result;
    // SAFETY: the pointers among the arguments point to values that live through the call and are of the size it takes.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], out("rcx") _, out("r11") _);
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn call(number: usize, args: [usize; 4]) -> isize {
    let result;
    // SAFETY: the pointers among the arguments point to values that live through the call and are of the size it takes.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") args[0] => result, in("x1") args[1], in("x2") args[2],
            in("x3") args[3]);
    }
    result
}

/// Nanoseconds of the clock that all processes of the host share.
fn now() -> u64 {
    let mut time = [0_u64; 2];
    call(
        number::CLOCK_GETTIME,
        [CLOCK_MONOTONIC, (&raw mut time) as usize, 0, 0],
    );
    time[0] * 1_000_000_000 + time[1]
}

/// One message: what happened, to whom, when. So few bytes are written whole or not at all.
#[repr(C)]
struct Message {
    what: u32,
    pid: u32,
    at: u64,
}

extern "C" fn begin(stack: *const usize) -> ! {
    let began = now();
    let terminate = TERM;
    call(
        number::SIGPROCMASK,
        [SIG_BLOCK, (&raw const terminate) as usize, 0, SET_SIZE],
    );
    // SAFETY: behind the number of arguments and the program's own name stands the first argument, or a null pointer.
    let path = unsafe { *stack.add(2) };
    let lines = number_at(path as *const u8);
    if let Some(lines) = lines {
        write_lines(lines);
    }
    if path == 0 {
        let ready = b"ready\n";
        write(ready.as_ptr(), ready.len());
    }
    let silent = path == 0 || lines.is_some();
    let fifo = match silent {
        true => 0,
        false => call(number::OPENAT, [AT_FDCWD, path, WRITE_ONLY, 0]) as usize,
    };
    let pid = call(number::GETPID, [0; 4]) as u32;
    let tell = |what, at| {
        if silent {
            return;
        }
        let message = Message { what, pid, at };
        let written = call(
            number::WRITE,
            [fifo, (&raw const message) as usize, size_of::<Message>(), 0],
        );
        if written != size_of::<Message>() as isize {
            end(1);
        }
    };
    tell(1, began);
    while call(
        number::SIGTIMEDWAIT,
        [(&raw const terminate) as usize, 0, 0, SET_SIZE],
    ) < 0
    {}
    tell(2, now());
    end(0)
}

/// The number that the text is, which ends with a zero byte; `None` for other text, and for none.
fn number_at(mut text: *const u8) -> Option<u64> {
    if text.is_null() {
        return None;
    }
    let mut number = None;
    loop {
        // SAFETY: the text goes on up to its zero byte, and this goes no further.
        let byte = unsafe { *text };
        match byte {
            0 => return number,
            b'0'..=b'9' => number = Some(number.unwrap_or(0) * 10 + u64::from(byte - b'0')),
            _ => return None,
        }
        // SAFETY: the byte was not the last one.
        text = unsafe { text.add(1) };
    }
}

/// A line's bytes, its end included, and the digits of its number at its beginning.
const LINE: usize = 128;
const DIGITS: usize = 20;
/// Lines are written so many at a time, as programs with a buffer do.
const AT_ONCE: usize = 64;

/// Lines to be written. They are in the program's file, because filling them takes a function of libc.
struct Lines(UnsafeCell<[u8; LINE * AT_ONCE]>);

// SAFETY: there is one thread.
unsafe impl Sync for Lines {}

static LINES: Lines = Lines(UnsafeCell::new([b'.'; LINE * AT_ONCE]));

/// Writes lines that begin with their number, from 1 on.
fn write_lines(lines: u64) {
    // SAFETY: nobody else takes it; this is called once.
    let buffer = unsafe { &mut *LINES.0.get() };
    let mut written = 0;
    while written < lines {
        let mut filled = 0;
        for line in buffer.as_chunks_mut::<LINE>().0 {
            if written == lines {
                break;
            }
            written += 1;
            let mut rest = written;
            for digit in line[..DIGITS].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            line[LINE - 1] = b'\n';
            filled += LINE;
        }
        write(buffer.as_ptr(), filled);
    }
}

/// Writes all of so many bytes to standard output.
fn write(bytes: *const u8, count: usize) {
    let mut done = 0;
    while done < count {
        match call(number::WRITE, [1, bytes as usize + done, count - done, 0]) {
            some @ 1.. => done += some as usize,
            _ => end(3),
        }
    }
}

fn end(code: usize) -> ! {
    loop {
        call(number::EXIT_GROUP, [code, 0, 0, 0]);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    end(2)
}
