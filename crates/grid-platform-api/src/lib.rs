#![doc = include_str!("../README.md")]

mod bounds;
mod capability;
pub mod checked;
mod digest;
mod error;
mod ext;
mod failure;
pub mod fault;
mod id;
mod locks;
mod node;
mod place;
mod platform;
mod policy;
mod secret;
mod spawn;
mod stream;
pub mod wrap;

pub use capability::{Capabilities, Check, CheckStatus, NodeUsage, PlatformInfo};
pub use digest::{Digest, DigestKey};
pub use error::{Error, ErrorKind, ErrorReport, Result};
pub use ext::PlatformExt;
pub use failure::{Exit, Failure, FailureReason};
pub use id::{NATIVE_PREFIX, NodeId, NodeUid, OwnerId, printable};
pub use locks::NodeLocks;
pub use node::{Endpoint, Health, NodeData, NodeState, SpawnedNode};
pub use place::Place;
pub use platform::Platform;
pub use policy::{
    DataPolicy, HealthCheck, HealthProbe, ReadyMode, RestartMode, RestartPolicy, StopPolicy,
    StopSignal,
};
pub use secret::SecretValue;
pub use spawn::{MAIN_PORT, Program, RunAs, SpawnConfig, SpawnConfigBuilder};
pub use stream::{
    LogCursor, LogItem, LogLine, LogPosition, LogSource, LogStream, NodeEvent, NodeEventStream,
    Progress,
};

// The types of other crates in this crate's signatures, so that an embedder needs no versions of its own.
pub use async_trait::async_trait;
pub use bytes::Bytes;
pub use jiff::Timestamp;
