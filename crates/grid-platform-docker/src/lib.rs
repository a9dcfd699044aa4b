#![doc = include_str!("../README.md")]

mod account;
mod config;
mod context;
mod engine;
mod error;
mod facts;
mod health;
mod helper;
mod identity;
mod images;
mod lifecycle;
mod logs;
mod network;
mod nodes;
mod notes;
mod platform;
mod probe;
mod secrets;
mod storage;
mod tar;
mod translate;
mod transport;
mod usage;
mod volumes;
mod watch;
mod words;

pub use config::{Allow, DockerConfig, Pull, Security};
pub use grid_platform_host::install::accept_copied_state;
pub use platform::DockerPlatform;
