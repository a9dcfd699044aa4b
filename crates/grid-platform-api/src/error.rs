//! The one public error of every platform.

use std::{error::Error as StdError, fmt};

use serde::{Deserialize, Serialize};

use crate::{Failure, NodeId};

/// The result of a platform call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No node of that id.
    NotFound,
    /// A node of that id exists with another request, or two nodes would share what only one may have.
    Conflict,
    /// A native object of our name belongs to somebody else, or to nobody that can be known.
    OwnedByOther,
    /// The requested port is taken.
    PortInUse,
    /// The request or a setting is malformed.
    InvalidConfig,
    /// The agent's settings do not allow what the request asks for.
    NotAllowed,
    /// This platform cannot do that; its [`Capabilities`](crate::Capabilities) say so.
    Unsupported,
    /// The platform (its daemon, its API) cannot be reached.
    Unavailable,
    /// The platform refused the caller.
    PermissionDenied,
    /// The answer would come from a cache that is not in step with the platform.
    Stale,
    /// The platform cannot confirm that nothing of the node is left.
    Unconfirmed,
    /// A stop or a remove came while the node was being spawned.
    Superseded,
    /// The node is known and the platform no longer has its logs.
    LogsUnavailable,
    /// The node's program did not become ready; [`Error::failure`] says why.
    SpawnFailed,
    /// The call took longer than its limit.
    Timeout,
    /// Another living process uses the same state.
    StateLocked,
    /// What is stored is damaged, or is not what this version wrote.
    Corrupt,
    /// The host is out of something: disk, memory, descriptors, ports.
    Exhausted,
    /// A fault of the operating system or of this program that no other kind tells.
    Internal,
}

impl ErrorKind {
    /// Whether the same call can succeed later without a change by its caller.
    ///
    /// [`Error::with_retryable`] overrides it for one error.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::Stale | Self::Unconfirmed | Self::Timeout | Self::Exhausted
        )
    }

    /// The kind in snake case, as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::OwnedByOther => "owned_by_other",
            Self::PortInUse => "port_in_use",
            Self::InvalidConfig => "invalid_config",
            Self::NotAllowed => "not_allowed",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::PermissionDenied => "permission_denied",
            Self::Stale => "stale",
            Self::Unconfirmed => "unconfirmed",
            Self::Superseded => "superseded",
            Self::LogsUnavailable => "logs_unavailable",
            Self::SpawnFailed => "spawn_failed",
            Self::Timeout => "timeout",
            Self::StateLocked => "state_locked",
            Self::Corrupt => "corrupt",
            Self::Exhausted => "exhausted",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed platform call: what, where, whether a retry can help, and what mends it.
///
/// [`fmt::Display`] gives the primary line alone (lower case, no full stop); the binary that ends the
/// chain prints [`Error::report`] once.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    retryable: bool,
    operation: Option<&'static str>,
    platform: Option<&'static str>,
    node: Option<NodeId>,
    hint: Option<String>,
    failure: Option<Failure>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` is its primary line: lower case, no full stop, things in backticks.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            retryable: kind.is_retryable(),
            operation: None,
            platform: None,
            node: None,
            hint: None,
            failure: None,
            source: None,
        }))
    }

    /// [`ErrorKind::NotFound`] for a node.
    pub fn not_found(id: &NodeId) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no node `{id}`"))
            .with_node(id)
            .with_hint("`grid nodes` lists the nodes that exist.")
    }

    /// [`ErrorKind::Unsupported`] for an operation of a platform.
    pub fn unsupported(platform: &'static str, what: &str) -> Self {
        Self::new(
            ErrorKind::Unsupported,
            format!("the {platform} platform cannot do this: {what}"),
        )
        .with_platform(platform)
    }

    /// [`ErrorKind::SpawnFailed`] with the reason of the program's end.
    pub fn spawn_failed(id: &NodeId, failure: Failure) -> Self {
        let mut error = Self::new(
            ErrorKind::SpawnFailed,
            format!("the node `{id}` did not become ready: {}", failure.message),
        )
        .with_node(id);
        if let Some(hint) = failure.reason.hint() {
            error = error.with_hint(hint);
        }
        error.0.failure = Some(failure);
        error
    }

    /// The same error for one more of those who wait for one outcome; what was beneath it is in its primary line.
    #[must_use]
    pub fn copied(&self) -> Self {
        let report = self.to_report();
        let words: Vec<_> = std::iter::once(report.message)
            .chain(report.causes)
            .collect();
        let mut copy = Self::new(report.kind, words.join(": ")).with_retryable(report.retryable);
        copy.0.hint = report.hint;
        copy
    }

    /// Adds a sentence that names the command, key or feature that mends the fault.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the error beneath this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Names the operation, by the trait's method name. The first name given is kept.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Names the platform. The first name given is kept.
    #[must_use]
    pub fn with_platform(mut self, platform: &'static str) -> Self {
        self.0.platform.get_or_insert(platform);
        self
    }

    /// Names the node. The first name given is kept.
    #[must_use]
    pub fn with_node(mut self, id: &NodeId) -> Self {
        self.0.node.get_or_insert_with(|| id.clone());
        self
    }

    /// Says whether a retry can help, where the kind's own answer is wrong.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call can succeed later without a change by its caller.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// The method that failed, if known.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The platform that failed, if known.
    pub fn platform(&self) -> Option<&'static str> {
        self.0.platform
    }

    /// The node it was about, if any.
    pub fn node(&self) -> Option<&NodeId> {
        self.0.node.as_ref()
    }

    /// The sentence that names the mend.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// How the program ended, for [`ErrorKind::SpawnFailed`].
    pub fn failure(&self) -> Option<&Failure> {
        self.0.failure.as_ref()
    }

    /// The whole error as data, for wires and JSON.
    pub fn to_report(&self) -> ErrorReport {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        ErrorReport {
            kind: self.0.kind,
            message: self.0.message.clone(),
            retryable: self.0.retryable,
            operation: self.0.operation.map(str::to_owned),
            platform: self.0.platform.map(str::to_owned),
            node: self.0.node.clone(),
            hint: self.0.hint.clone(),
            causes,
            failure: self.0.failure.clone(),
        }
    }

    /// The whole chain as people read it:
    ///
    /// ```
    /// use grid_platform_api::{Error, ErrorKind};
    /// let error = Error::new(ErrorKind::Unavailable, "cannot reach the engine at `unix:///x`")
    ///     .with_source(std::io::Error::other("connection refused"))
    ///     .with_hint("Start the engine.");
    /// assert_eq!(
    ///     error.report(),
    ///     "error: cannot reach the engine at `unix:///x`\n  caused by: connection refused\nhint: Start the engine.\n"
    /// );
    /// ```
    pub fn report(&self) -> String {
        self.to_report().to_string()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("retryable", &self.0.retryable)
            .field("operation", &self.0.operation)
            .field("platform", &self.0.platform)
            .field("node", &self.0.node)
            .field("hint", &self.0.hint)
            .field("failure", &self.0.failure)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// An [`Error`] as data: what crosses a wire or stands in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// What went wrong.
    pub kind: ErrorKind,
    /// The primary line.
    pub message: String,
    /// Whether a retry can help.
    #[serde(default)]
    pub retryable: bool,
    /// The trait's method that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The platform's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The node it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The sentence that names the mend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The errors beneath, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// How the program ended, for [`ErrorKind::SpawnFailed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        for cause in &self.causes {
            writeln!(f, "  caused by: {cause}")?;
        }
        if let Some(failure) = &self.failure
            && !failure.log_tail.is_empty()
        {
            writeln!(f, "  its last lines:")?;
            for line in &failure.log_tail {
                writeln!(f, "    {line}")?;
            }
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "hint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_text_is_its_json() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::OwnedByOther,
            ErrorKind::LogsUnavailable,
            ErrorKind::StateLocked,
        ] {
            assert_eq!(
                serde_json::to_value(kind).unwrap(),
                serde_json::Value::from(kind.as_str())
            );
        }
    }

    #[test]
    fn a_copy_says_all_that_the_first_one_says() {
        let error = Error::new(ErrorKind::Exhausted, "cannot write `x`")
            .with_source(std::io::Error::other("the disk is full"))
            .with_hint("Free some space.")
            .with_retryable(false);
        let copy = error.copied();
        assert_eq!(copy.to_string(), "cannot write `x`: the disk is full");
        assert_eq!(copy.kind(), error.kind());
        assert_eq!(copy.hint(), error.hint());
        assert!(!copy.is_retryable());
    }

    #[test]
    fn first_context_wins_and_report_round_trips() {
        let id = NodeId::new("n1").unwrap();
        let error = Error::not_found(&id)
            .with_operation("stop_node")
            .with_operation("outer")
            .with_platform("process");
        assert_eq!(error.operation(), Some("stop_node"));
        let report = error.to_report();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<ErrorReport>(&json).unwrap(), report);
    }
}
