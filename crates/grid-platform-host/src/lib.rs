#![doc = include_str!("../README.md")]
#![cfg(target_os = "linux")]

pub mod data;
pub mod error;
pub mod files;
pub mod health;
pub mod install;
pub mod mounts;
pub mod ports;
pub mod program;
pub mod users;
pub mod work;
