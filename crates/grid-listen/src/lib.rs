#![doc = include_str!("../README.md")]

mod connection;
mod door;
mod files;
mod held;
mod idle;
mod patience;

pub use connection::Connection;
pub use door::{Door, Limits};
pub use files::{open_files, raise_open_files};
pub use held::Held;
pub use idle::{Busy, Visit};
pub use patience::Patience;
