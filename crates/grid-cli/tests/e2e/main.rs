//! The real `grid` command, run as people run it: each test has a state directory of its own, ports that the system
//! chooses, and leaves no process behind, even when it fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a helper that cannot go on ends its test"
)]

mod agents;
mod faketime;
mod faults;
mod foreground;
mod hostile;
mod hunt;
mod main_job;
mod race;
mod redis;
mod sentinel;
mod storage;
mod stores;
mod support;
mod tour;
