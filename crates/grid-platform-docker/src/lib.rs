#![doc = include_str!("../README.md")]

mod config;
mod context;
mod engine;
mod error;
mod health;
mod images;
mod lifecycle;
mod logs;
mod network;
mod nodes;
mod platform;
mod probe;
mod secrets;
mod storage;
mod translate;
mod transport;
mod usage;
mod volumes;
mod watch;

pub use config::{Allow, DockerConfig, Pull, Security};
pub use platform::DockerPlatform;
