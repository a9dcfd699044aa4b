//! The engine's errors as the contract's.

use std::{fmt, io, time::Duration};

use bollard::errors::Error as Client;
use grid_platform_api::{Error, ErrorKind};

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
    /// It cannot be reached, or the connection broke.
    Unreachable(io::Error),
    /// It answered what cannot be understood.
    Strange(String),
}

impl From<Client> for Fault {
    fn from(error: Client) -> Self {
        match error {
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
            Client::IOError { err } => Self::Unreachable(err),
            Client::HyperResponseError { err } => Self::Unreachable(io::Error::other(err)),
            Client::HyperLegacyError { err } => Self::Unreachable(io::Error::other(err)),
            Client::SocketNotFoundError(path) => Self::Unreachable(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no socket `{path}`"),
            )),
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
            Self::Unreachable(error) => error.fmt(f),
            Self::Strange(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable(error) => error.source(),
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

    /// The contract's error: `cannot <what>`.
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
            Self::Refused { .. } | Self::Strange(_) => (ErrorKind::Internal, None),
            Self::Silent(_) => (
                ErrorKind::Timeout,
                Some("The engine hangs: look at its log (`journalctl -u docker`), and restart it."),
            ),
            Self::Unreachable(e) if is_forbidden(e) => (
                ErrorKind::PermissionDenied,
                Some("Add the agent's user to the `docker` group, or set `host`."),
            ),
            Self::Unreachable(_) => (
                ErrorKind::Unavailable,
                Some("Start the engine (`systemctl start docker`), or set `host`."),
            ),
        };
        let failed = error(kind, format!("cannot {what}")).with_source(self);
        match hint {
            Some(hint) => failed.with_hint(hint),
            None => failed,
        }
    }
}

/// Whether the system refused the connection for lack of rights, at any depth.
fn is_forbidden(error: &io::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = next {
        let refused = current
            .downcast_ref::<io::Error>()
            .is_some_and(|it| it.kind() == io::ErrorKind::PermissionDenied);
        if refused {
            return true;
        }
        next = current.source();
    }
    false
}
