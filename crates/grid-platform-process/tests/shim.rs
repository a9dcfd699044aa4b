//! The shim as a black box, and the formats it shares with the adapter.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics"
)]

#[path = "../shim/budget.rs"]
mod budget;
#[path = "../shim/shared/mod.rs"]
#[allow(dead_code, reason = "the shim and the adapter use the rest")]
mod shared;

#[path = "shim/cgroup.rs"]
mod cgroup;
#[path = "shim/harness.rs"]
mod harness;
#[path = "shim/log.rs"]
mod log;
#[path = "shim/memory.rs"]
mod memory;
#[path = "shim/restart.rs"]
mod restart;
#[path = "shim/socket.rs"]
mod socket;
#[path = "shim/start.rs"]
mod start;
#[path = "shim/stop.rs"]
mod stop;
