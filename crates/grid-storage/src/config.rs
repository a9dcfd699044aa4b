//! What a server is told at its start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where a server keeps its data, where it listens, and what it takes.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// The data directory: empty, absent, or made by this server before.
    pub data_path: PathBuf,
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The address at which others reach it, where that is not the one it listens on: a container's port is published
    /// by its engine. What is said of `listen` and loopback then holds of this one.
    pub published: Option<IpAddr>,
    /// A file whose trimmed content is the bearer token that requests must carry. Required
    /// when `listen` is not a loopback address.
    pub token_file: Option<PathBuf>,
    /// Bounds on what clients may do.
    pub limits: Limits,
}

impl StorageConfig {
    /// The data directory and the address, no token, default limits.
    pub fn new(data_path: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_path: data_path.into(),
            listen,
            published: None,
            token_file: None,
            limits: Limits::default(),
        }
    }
}

/// Bounds on what clients may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest body, in bytes; 64 GiB.
    pub max_object_bytes: u64,
    /// Connections open at a time, also bounded by half of the process's open files; 4096. When
    /// one more comes, the one that has been without a request for longest is closed; if each has
    /// one, the new one waits in the system's queue.
    pub max_connections: usize,
    /// How long a client may send or take nothing, how long a request's head may take, and how
    /// long a connection may be idle; 60 s. Who sends or takes less than 1 KiB a second over time
    /// has no longer either.
    pub stall_timeout: Duration,
    /// How long requests in flight may take to finish after the shutdown began; 10 s.
    pub drain_timeout: Duration,
    /// Bytes of free disk below which writes are refused, so that the index always has room to
    /// work; 32 MiB.
    pub min_free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_object_bytes: 64 << 30,
            max_connections: 4096,
            stall_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            min_free_bytes: 32 << 20,
        }
    }
}
