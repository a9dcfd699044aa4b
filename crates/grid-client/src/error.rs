//! What a call of the master can fail with.

use std::{error::Error as StdError, fmt};

use grid_platform_api::{ErrorKind, ErrorReport};

use crate::ErrorBody;

/// The result of a call of the master.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: what went wrong, as the master or this client tells it, and what mends it.
///
/// [`fmt::Display`] gives the primary line alone; [`Error::report`] holds the causes and the hint.
#[derive(Clone)]
pub struct Error {
    report: Box<ErrorReport>,
    status: Option<u16>,
}

/// What a script tells errors apart by. The `grid` command has an exit code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Refused or failed, and none of the others.
    Failed,
    /// What was named does not exist.
    NotFound,
    /// What was asked for contradicts what is there.
    Conflict,
    /// The master, or the agent that would have to answer, cannot be reached.
    Unreachable,
}

impl Error {
    /// An error of this client's own.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            report: Box::new(ErrorReport {
                kind,
                message: message.into(),
                retryable: kind.is_retryable(),
                operation: None,
                platform: None,
                node: None,
                hint: None,
                causes: Vec::new(),
                failure: None,
            }),
            status: None,
        }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.report.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_source(mut self, source: &dyn StdError) -> Self {
        let mut next = Some(source);
        while let Some(cause) = next {
            self.report.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    /// A transport's error: no answer came, or it broke off.
    pub(crate) fn transport(base: &str, error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_timeout() && !error.is_connect() {
            return Self::new(
                ErrorKind::Timeout,
                format!("the master at `{base}` did not answer in time"),
            )
            .with_hint("`grid doctor` says what is wrong with it.");
        }
        Self::new(
            ErrorKind::Unavailable,
            format!("cannot reach the master at `{base}`"),
        )
        .with_source(innermost(&error))
        .with_hint("Start it with `grid up`, or name the one that runs by `--master URL` or `--state-dir DIR`.")
    }

    /// An answer with a status that tells of a failure.
    pub(crate) fn answer(base: &str, status: u16, body: &[u8]) -> Self {
        if let Ok(ErrorBody { error }) = serde_json::from_slice(body) {
            return Self {
                report: Box::new(error),
                status: Some(status),
            };
        }
        let kind = match status {
            401 | 403 => ErrorKind::PermissionDenied,
            502..=504 => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
        let mut error = Self::new(
            kind,
            format!("`{base}` answered with status {status} and not as a master does"),
        )
        .with_hint("Check the URL: people's port is 9000 by default, agents' port is 7000.");
        error.status = Some(status);
        error
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.report.kind
    }

    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether the same call can succeed later without a change by its caller.
    pub fn is_retryable(&self) -> bool {
        self.report.retryable
    }

    /// What a script tells errors apart by.
    pub fn class(&self) -> Class {
        match (self.status, self.report.kind) {
            (_, ErrorKind::NotFound) | (Some(404), _) => Class::NotFound,
            (_, ErrorKind::Conflict | ErrorKind::OwnedByOther | ErrorKind::PortInUse)
            | (Some(409), _) => Class::Conflict,
            (_, ErrorKind::Unavailable) | (None, ErrorKind::Timeout) => Class::Unreachable,
            _ => Class::Failed,
        }
    }

    /// The whole error as data; its `Display` is what people read.
    pub fn report(&self) -> &ErrorReport {
        &self.report
    }
}

/// What lies beneath all layers; the layers of a transport only say that they are layers.
fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

impl From<ErrorReport> for Error {
    fn from(report: ErrorReport) -> Self {
        Self {
            report: Box::new(report),
            status: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("status", &self.status)
            .field("report", &self.report)
            .finish()
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_kind_and_status() {
        let check = |status: u16, body: &str, expect: Class| {
            let error = Error::answer("http://x", status, body.as_bytes());
            assert_eq!(error.class(), expect, "{status} {body}");
            assert_eq!(error.status(), Some(status));
        };
        let body = |kind: &str| format!(r#"{{"error":{{"kind":"{kind}","message":"m"}}}}"#);
        check(404, &body("not_found"), Class::NotFound);
        check(409, &body("conflict"), Class::Conflict);
        check(409, &body("port_in_use"), Class::Conflict);
        check(503, &body("unavailable"), Class::Unreachable);
        check(504, &body("timeout"), Class::Failed);
        check(422, &body("not_allowed"), Class::Failed);
        check(404, "<html>", Class::NotFound);
        check(502, "bad gateway", Class::Unreachable);
        check(401, "", Class::Failed);
    }

    #[test]
    fn a_stranger_is_told_from_a_master() {
        let error = Error::answer("http://127.0.0.1:80", 418, b"teapot");
        assert_eq!(
            error.report().to_string(),
            "error: `http://127.0.0.1:80` answered with status 418 and not as a master does\nhint: Check the URL: \
             people's port is 9000 by default, agents' port is 7000.\n"
        );
    }
}
