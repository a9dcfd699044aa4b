//! The engine's errors as the contract's.

use std::{fmt, io, time::Duration};

use bollard::errors::Error as Client;
use grid_platform_api::{Error, ErrorKind};

use crate::transport::{Obstacle, Why};

/// The platform's name in errors, nodes and settings.
pub(crate) const PLATFORM: &str = "docker";

/// An error of this platform.
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, message).with_platform(PLATFORM)
}

/// Says in which call it happened. An error that knows no better mend names the command that looks for one.
pub(crate) fn named(error: Error, operation: &'static str) -> Error {
    let error = error.with_platform(PLATFORM).with_operation(operation);
    match error.hint() {
        Some(_) => error,
        None => error.with_hint("`grid doctor` looks at what the platform needs."),
    }
}

/// Why the engine did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It answered with this status and these words.
    Refused {
        /// The status of HTTP.
        status: u16,
        /// Its words.
        message: String,
    },
    /// No answer came within this time.
    Silent(Duration),
    /// It cannot be reached.
    Away(Obstacle),
    /// The connection broke in the middle of its answer.
    Broken(io::Error),
    /// It answered what cannot be understood.
    Strange(String),
}

/// Whether these words of an engine say that its own runtime was ended beneath it.
fn is_ending(words: &str) -> bool {
    [
        "transport is closing",
        "connection error: desc",
        "error reading from server: EOF",
        "context canceled",
        "ttrpc: closed",
    ]
    .iter()
    .any(|it| words.contains(it))
}

impl From<Client> for Fault {
    fn from(error: Client) -> Self {
        match error {
            // Podman has no status of its own for a name that is taken.
            Client::DockerResponseServerError {
                status_code: 500,
                message,
            } if message.contains("name") && message.contains("is already in use by") => {
                Self::Refused {
                    status: 409,
                    message,
                }
            }
            // It answers still, and what does its work is gone: it is being ended.
            Client::DockerResponseServerError {
                status_code: 500,
                message,
            } if is_ending(&message) => Self::Broken(io::Error::other(message)),
            Client::DockerResponseServerError {
                status_code,
                message,
            } => Self::Refused {
                status: status_code,
                message,
            },
            Client::DockerStreamError { error } => Self::Refused {
                status: 500,
                message: error,
            },
            Client::IOError { err } => match err.downcast::<Obstacle>() {
                Ok(obstacle) => Self::Away(obstacle),
                Err(err) => Self::Broken(err),
            },
            Client::HyperResponseError { err } => Self::Broken(io::Error::other(err)),
            Client::RequestTimeoutError => Self::Silent(Duration::ZERO),
            other => Self::Strange(other.to_string()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { message, .. } => f.write_str(message.trim()),
            Self::Silent(limit) => write!(f, "no answer within {limit:?}"),
            Self::Away(obstacle) => obstacle.fmt(f),
            Self::Broken(error) => error.fmt(f),
            Self::Strange(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Broken(error) => error.source(),
            _ => None,
        }
    }
}

impl Fault {
    /// The status of the engine's answer, if there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The contract's error: `cannot <what>`, or that the engine cannot be reached.
    pub(crate) fn into_error(self, what: impl fmt::Display) -> Error {
        let (kind, hint) = match &self {
            Self::Refused {
                status: 401 | 403, ..
            } => (
                ErrorKind::PermissionDenied,
                Some("The engine refuses this user: look at its authorization plugins."),
            ),
            Self::Refused { message, .. } if message.contains("no space left on device") => (
                ErrorKind::Exhausted,
                Some("Free some disk space where the engine keeps its data (`docker system df`)."),
            ),
            // It failed at it, or what stands before it did; what it says of the request itself has another status.
            Self::Refused {
                status: 500 | 502..=504,
                ..
            } => (
                ErrorKind::Unavailable,
                Some(
                    "The engine failed at it, and it is tried again: look at the engine's log (`journalctl -u docker`).",
                ),
            ),
            Self::Refused { .. } | Self::Strange(_) => (ErrorKind::Internal, None),
            Self::Silent(_) => (
                ErrorKind::Timeout,
                Some(
                    "The engine hangs: look at its log (`journalctl -u docker`), and restart it (`sudo systemctl restart docker`).",
                ),
            ),
            Self::Broken(_) => (
                ErrorKind::Unavailable,
                Some(
                    "The engine is restarting, or was ended: it is tried again, and `sudo systemctl start docker` starts it.",
                ),
            ),
            Self::Away(_) => return self.away(),
        };
        let failed = error(kind, format!("cannot {what}")).with_source(self);
        match hint {
            Some(hint) => failed.with_hint(hint),
            None => failed,
        }
    }

    /// The error of an engine that cannot be reached. What it was to do says nothing about that.
    fn away(self) -> Error {
        let Self::Away(obstacle) = &self else {
            return error(ErrorKind::Internal, "the engine was reached");
        };
        let (kind, hint) = match &obstacle.why {
            Why::Connect(e) if e.kind() == io::ErrorKind::PermissionDenied => (
                ErrorKind::PermissionDenied,
                "Add the agent's user to the `docker` group and start the agent in a new login, or name an engine of that user's by `docker.host` or `DOCKER_HOST`.",
            ),
            Why::Connect(_) => (
                ErrorKind::Unavailable,
                "Start the engine (`sudo systemctl start docker`; on macOS open Docker Desktop), or name another one by `docker.host` or `DOCKER_HOST`.",
            ),
            Why::Lost(_) => (
                ErrorKind::Unavailable,
                "The engine is restarting, or was ended: it is tried again, and `sudo systemctl start docker` starts it.",
            ),
            Why::Untrusted(_) => (
                ErrorKind::PermissionDenied,
                "Put the certificate of the authority that signed the engine's into `ca.pem` in `docker.cert_path`, and name the engine as its certificate does.",
            ),
            Why::Unknown(_) => (
                ErrorKind::PermissionDenied,
                "Put a certificate that the engine's own authority signed into `cert.pem` in `docker.cert_path`, and its key into `key.pem`.",
            ),
            Why::NotTls(_) => (
                ErrorKind::InvalidConfig,
                "Start the engine with `--tlsverify`, or unset `docker.cert_path` and `DOCKER_CERT_PATH`.",
            ),
            Why::WantsTls => (
                ErrorKind::InvalidConfig,
                "Set `docker.cert_path` or `DOCKER_CERT_PATH` to the directory of `ca.pem`, `cert.pem` and `key.pem`.",
            ),
            Why::NotAnEngine(_) => (
                ErrorKind::InvalidConfig,
                "Something else listens there: name the engine by `docker.host` or `DOCKER_HOST`.",
            ),
            Why::TooOld(_) => (
                ErrorKind::Unsupported,
                "Upgrade it: Docker Engine 20.10 and Podman 3 speak 1.41.",
            ),
            Why::TooNew(_) => (
                ErrorKind::Unsupported,
                "Upgrade the agent: this one is too old for that engine.",
            ),
        };
        let message = format!("cannot reach the Docker engine at `{}`", obstacle.at);
        error(kind, message).with_source(self).with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_being_ended_is_unavailable_and_no_refusal() {
        let check = |status_code, message: &str, expect| {
            let fault = Fault::from(Client::DockerResponseServerError {
                status_code,
                message: message.to_owned(),
            });
            let error = fault.into_error("start it");
            assert_eq!(error.kind(), expect, "{message}");
        };
        let closing = "Cannot update container 6626138a5aa0: transport is closing: unavailable";
        check(500, closing, ErrorKind::Unavailable);
        let gone = "connection error: desc = \"transport: Error while dialing dial unix:///run/containerd.sock: timeout\": unavailable";
        check(500, gone, ErrorKind::Unavailable);
        check(
            404,
            "No such container: transport is closing",
            ErrorKind::Internal,
        );
        check(500, "the moon is full", ErrorKind::Unavailable);
        check(503, "", ErrorKind::Unavailable);
        check(501, "not here", ErrorKind::Internal);
        check(400, "the moon is full", ErrorKind::Internal);
        check(
            500,
            "write /x: no space left on device",
            ErrorKind::Exhausted,
        );
    }
}
