#![doc = include_str!("../README.md")]

mod applier;
mod commit;
mod config;
mod content;
mod dir;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod index;
mod journal;
mod key;
mod metrics;
mod overlay;
mod recover;
mod row;
mod server;
mod store;

pub use config::{Limits, StorageConfig};
pub use error::{Error, ErrorKind};
pub use index::Condition;
pub use key::{Key, MAX_KEY_BYTES};
pub use server::Server;
pub use store::{INLINE_BYTES, Listing, ObjectMeta, PutOptions, Store};
