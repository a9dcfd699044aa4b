//! The connection to the engine: where it is, which version is spoken, and that every call has its limit.
//!
//! Where the engine is say the settings, a Docker context or the default (`context.rs`); how it is reached says
//! `transport.rs`. Nothing is held open between calls, so that an engine that was restarted, or is another version
//! since, is spoken to as if it had never been away.

use std::{future::Future, sync::Arc, time::Duration};

use bollard::{Docker, errors::Error as Client};
use futures::{Stream, StreamExt};
use grid_platform_api::{ErrorKind, Result, fault};

use crate::{
    config::DockerConfig,
    context,
    error::{Fault, error},
    transport::{ApiVersion, Transport},
};

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
    transport: Arc<Transport>,
}

impl Engine {
    /// Finds the engine, connects and agrees on a version.
    ///
    /// # Errors
    /// `Unavailable`, `PermissionDenied`, `Timeout`; `Unsupported` for an engine that is too old; `InvalidConfig`.
    pub(crate) async fn connect(config: &DockerConfig) -> Result<Self> {
        let engine = Self::find(config).await?;
        engine.version().await?;
        Ok(engine)
    }

    /// Finds the engine, and does not ask whether it is there.
    ///
    /// # Errors
    /// `InvalidConfig` for settings, a context or certificates that are none.
    pub(crate) async fn find(config: &DockerConfig) -> Result<Self> {
        let settings = config.clone();
        let address = tokio::task::spawn_blocking(move || context::resolve(&settings))
            .await
            .map_err(|e| {
                error(ErrorKind::Internal, "reading settings was cut short").with_source(e)
            })??;
        let transport = Transport::new(address);
        let docker = transport
            .client()
            .map_err(|e| Fault::from(e).into_error("make a client of the engine"))?;
        Ok(Self {
            docker,
            host: transport.address().to_string(),
            transport,
        })
    }

    /// The version of the API that is spoken; whether the engine answers at all.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub(crate) async fn version(&self) -> Result<ApiVersion> {
        let asked = async { self.transport.version().await.map_err(Client::from) };
        self.call("ask the engine for its version", CALL, asked)
            .await
    }

    /// Whether what is sent to the engine, secrets too, can be read on its way.
    pub(crate) fn is_plain_beyond_host(&self) -> bool {
        self.transport.address().is_plain_beyond_host()
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
        let limit = fault::figure("docker-limit-ms")
            .map(Duration::from_millis)
            .map_or(limit, |it| it.min(limit));
        let between = async {
            fault::point("docker-call-before").map_err(Client::from)?;
            let answer = call.await?;
            fault::point("docker-call-after").map_err(Client::from)?;
            Ok(answer)
        };
        match tokio::time::timeout(limit, between).await {
            Ok(answer) => answer.map_err(|it: Client| Fault::from(it)),
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

    /// The next of a stream's items, within a limit of its own: a stream may go on for ever, and each wait may not.
    ///
    /// # Errors
    /// The engine's refusal, or that nothing came in time. `Ok(None)` is the end.
    pub(crate) async fn next<T>(
        &self,
        limit: Duration,
        stream: &mut (impl Stream<Item = Result<T, Client>> + Unpin),
    ) -> Result<Option<T>, Fault> {
        self.ask(limit, async { stream.next().await.transpose() })
            .await
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
pub(crate) mod tests;

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tls;
