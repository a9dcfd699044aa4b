//! The master's settings.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use grid_platform_api::{Error, ErrorKind, Result};

/// What a master is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where its store, keys and tokens are; made if it does not exist.
    pub state_dir: PathBuf,
    /// Where people reach it (HTTP); port 0 takes a free one.
    pub http: SocketAddr,
    /// Where agents reach it (gRPC); port 0 takes a free one.
    pub grpc: SocketAddr,
    /// How often agent and master let each other know that they live.
    pub heartbeat: Duration,
    /// An agent that is silent for this long is shown as lost, and its nodes as unknown.
    pub lost_after: Duration,
    /// How many events are kept for those who resume.
    pub events_kept: usize,
    /// How long requests may go on once the master is asked to end.
    pub drain: Duration,
    /// Bounds on what clients may do. No key of the settings file.
    pub limits: Limits,
    /// Begins a new epoch: agents that have seen a newer state of the store than it holds now, because it was restored
    /// from a copy, listen to it again.
    pub new_epoch: bool,
}

/// Bounds on what clients may do, be they slow, broken or hostile. Each is far beyond what an honest client needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// People's connections that may be open at once, also bounded by a quarter of the process's open files; 8192.
    pub http_connections: usize,
    /// Agents' connections that may be open at once, also bounded by half of the process's open files; 32768. An agent
    /// has one for its session and one for each log that is read.
    pub grpc_connections: usize,
    /// How long a request's head may take, and how long a connection may have no request, or no call of an agent that is
    /// known; 30 s.
    pub head: Duration,
    /// How long a request's body may take; 30 s.
    pub body: Duration,
    /// How long an agent may take to say hello, or a log's first frame to come; 10 s.
    pub hello: Duration,
    /// How long a reader may take nothing of what is sent to it; 60 s. One that takes less than 1 KiB a second over time
    /// has no longer either.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            http_connections: 8192,
            grpc_connections: 32_768,
            head: Duration::from_secs(30),
            body: Duration::from_secs(30),
            hello: Duration::from_secs(10),
            stall: Duration::from_secs(60),
        }
    }
}

impl Settings {
    /// Settings with every default: HTTP on 127.0.0.1:9000, gRPC on 127.0.0.1:7000.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            http: SocketAddr::from(([127, 0, 0, 1], 9000)),
            grpc: SocketAddr::from(([127, 0, 0, 1], 7000)),
            heartbeat: Duration::from_secs(2),
            lost_after: Duration::from_secs(10),
            events_kept: 16_384,
            drain: Duration::from_secs(5),
            limits: Limits::default(),
            new_epoch: false,
        }
    }

    /// Checks what can be checked before anything is opened.
    ///
    /// # Errors
    /// `NotAllowed` for an address beyond loopback, `InvalidConfig` for figures that make no sense together.
    pub(crate) fn check(&self) -> Result<()> {
        for (what, key, address) in [("people", "http", self.http), ("agents", "grpc", self.grpc)] {
            if !address.ip().is_loopback() {
                return Err(Error::new(
                    ErrorKind::NotAllowed,
                    format!("`{key}` is `{address}`, and the master serves {what} on loopback only: it speaks without TLS, so that tokens and data would cross the network in the clear"),
                )
                .with_hint(format!(
                    "Set `{key}` to `127.0.0.1:{}`, and reach it from afar through a tunnel such as `ssh -L`.",
                    address.port()
                )));
            }
        }
        if self.http == self.grpc && self.http.port() != 0 {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("`http` and `grpc` are both `{}`", self.http),
            )
            .with_hint("Give each an address of its own."));
        }
        if self.heartbeat.is_zero() || self.lost_after < self.heartbeat * 2 {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!(
                    "`lost_after_ms` is {} and `heartbeat_ms` is {}",
                    self.lost_after.as_millis(),
                    self.heartbeat.as_millis()
                ),
            )
            .with_hint(
                "Let `lost_after_ms` be at least twice `heartbeat_ms`, and that more than 0.",
            ));
        }
        if self.events_kept == 0 {
            return Err(Error::new(ErrorKind::InvalidConfig, "`events_kept` is 0")
                .with_hint("Keep at least one event; 16384 is usual."));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        let check = |change: &dyn Fn(&mut Settings), expect: Option<ErrorKind>| {
            let mut settings = Settings::new("/x");
            change(&mut settings);
            let error = settings.check().err();
            assert_eq!(error.as_ref().map(Error::kind), expect);
            assert!(error.is_none_or(|e| e.hint().is_some()));
        };
        check(&|_| {}, None);
        check(&|s| s.http = "[::1]:0".parse().unwrap(), None);
        check(
            &|s| s.http = "0.0.0.0:9000".parse().unwrap(),
            Some(ErrorKind::NotAllowed),
        );
        check(
            &|s| s.grpc = "192.0.2.1:7000".parse().unwrap(),
            Some(ErrorKind::NotAllowed),
        );
        check(&|s| s.grpc = s.http, Some(ErrorKind::InvalidConfig));
        check(
            &|s| s.lost_after = s.heartbeat,
            Some(ErrorKind::InvalidConfig),
        );
        check(&|s| s.events_kept = 0, Some(ErrorKind::InvalidConfig));
    }
}
