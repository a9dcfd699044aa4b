//! The connection to the engine: where it is, which version is spoken, and that every call has its limit.
//!
//! Where the engine is say the settings, a Docker context or the default (`context.rs`).

use std::{future::Future, time::Duration};

use bollard::{Docker, errors::Error as Client};
use grid_platform_api::Result;

use crate::{config::DockerConfig, error::Fault};

/// How long an ordinary call may take: one that neither waits for a program nor moves data.
pub(crate) const CALL: Duration = Duration::from_secs(30);
/// How long a create, a start or a remove may take, which wait for the disk and the kernel.
pub(crate) const WORK: Duration = Duration::from_secs(120);

/// The engine, as one adapter speaks to it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    /// The client. Its own limit is out of the way: each call has one here.
    pub(crate) docker: Docker,
    /// Where the engine is, as people write it.
    pub(crate) host: String,
}

impl Engine {
    /// Finds the engine, connects and agrees on a version.
    ///
    /// # Errors
    /// `Unavailable`, `PermissionDenied`, `Timeout`; `Unsupported` for an engine that is too old; `InvalidConfig`.
    pub(crate) async fn connect(config: &DockerConfig) -> Result<Self> {
        let host = config
            .host
            .clone()
            .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        let docker =
            Docker::connect_with_unix(&host, 24 * 60 * 60, bollard::API_DEFAULT_VERSION)
                .map_err(|e| Fault::from(e).into_error(format!("reach the engine at `{host}`")))?;
        let docker = docker
            .negotiate_version()
            .await
            .map_err(|e| Fault::from(e).into_error(format!("reach the engine at `{host}`")))?;
        Ok(Self { docker, host })
    }

    /// One call, within its limit; the caller looks at what the engine refuses.
    ///
    /// # Errors
    /// The engine's refusal, or that it did not answer.
    pub(crate) async fn ask<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Client>>,
    ) -> Result<T, Fault> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(Fault::from),
            Err(_) => Err(Fault::Silent(limit)),
        }
    }

    /// One call, within its limit, whose refusal is an error: `cannot <what>`.
    ///
    /// # Errors
    /// The contract's error for the engine's.
    pub(crate) async fn call<T>(
        &self,
        what: &'static str,
        limit: Duration,
        call: impl Future<Output = Result<T, Client>>,
    ) -> Result<T> {
        self.ask(limit, call)
            .await
            .map_err(|fault| fault.into_error(what))
    }
}
