#![doc = include_str!("../README.md")]

mod client;
mod error;
mod events;
mod logs;
mod sse;
mod types;

pub use client::Client;
pub use error::{Class, Error, Result};
pub use events::EventStream;
pub use logs::LogRecords;
pub use types::*;
