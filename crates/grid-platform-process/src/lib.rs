#![doc = include_str!("../README.md")]

mod config;
mod error;

#[cfg(target_os = "linux")]
mod adopt;
#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod health;
#[cfg(target_os = "linux")]
mod intent;
#[cfg(target_os = "linux")]
mod launch;
#[cfg(target_os = "linux")]
mod lifecycle;
#[cfg(target_os = "linux")]
mod logs;
#[cfg(target_os = "linux")]
mod node;
#[cfg(target_os = "linux")]
mod platform;
#[cfg(target_os = "linux")]
mod probe;
#[cfg(target_os = "linux")]
mod ready;
#[cfg(target_os = "linux")]
mod recover;
#[cfg(target_os = "linux")]
mod removal;
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "the shim uses the other half")]
#[path = "../shim/shared/mod.rs"]
mod shared;
#[cfg(all(test, target_os = "linux"))]
mod shared_properties;
#[cfg(target_os = "linux")]
mod store;
#[cfg(target_os = "linux")]
mod supervise;
#[cfg(target_os = "linux")]
mod sweep;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
mod translate;
#[cfg(target_os = "linux")]
mod usage;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(target_os = "linux")]
use grid_platform_host::{data, install, ports};

pub use config::{Allow, CgroupMode, ProcessConfig};
#[cfg(not(target_os = "linux"))]
pub use elsewhere::{ProcessPlatform, accept_copied_state};
#[cfg(target_os = "linux")]
pub use grid_platform_host::install::accept_copied_state;
#[cfg(target_os = "linux")]
pub use platform::ProcessPlatform;
