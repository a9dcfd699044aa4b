#![doc = include_str!("../README.md")]

mod environment;
mod error;
mod explain;
mod file;
mod loader;
mod source;
mod text;

pub use environment::Environment;
pub use error::ConfigError;
pub use loader::{Loaded, Loader};
pub use source::{Source, Sources};
