//! The one error of this crate, as people and programs see it.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// What went wrong, in terms a caller can act on.
///
/// [`ErrorKind::as_str`] is the `kind` of the HTTP API's error documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The data directory holds files of something else.
    ForeignData,
    /// The data directory is a store's, but parts of it are missing or unreadable.
    DamagedData,
    /// The data directory was written by another version of the format.
    UnsupportedFormat,
    /// Another server holds the data directory.
    Locked,
    /// A bearer token is needed to listen here, or the token file is unusable.
    Token,
    /// The listen address cannot be bound.
    Listen,
    /// A request does not carry the right bearer token.
    Unauthorized,
    /// A key outside the grammar of [`crate::Key`].
    InvalidKey,
    /// A header or a query parameter that cannot be used.
    InvalidRequest,
    /// No such object or route.
    NotFound,
    /// The route exists, but not for this method.
    MethodNotAllowed,
    /// A condition of the request (`If-Match`, `If-None-Match`) does not hold.
    PreconditionFailed,
    /// The requested range lies outside the object.
    RangeNotSatisfiable,
    /// The object is larger than the server takes.
    TooLarge,
    /// The body ended early, or stalled for longer than the server waits.
    IncompleteBody,
    /// The body does not have the checksum that the client sent with it.
    ChecksumMismatch,
    /// The disk has no room; nothing was stored.
    StorageFull,
    /// What is stored does not have the checksum that it was stored with.
    Corrupt,
    /// The server is starting or draining, or its index is being reopened.
    Unavailable,
    /// The operating system refused a read or a write.
    Io,
}

impl ErrorKind {
    /// The kind's name in the HTTP API: stable, lower-case, underscores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ForeignData => "foreign_data",
            Self::DamagedData => "damaged_data",
            Self::UnsupportedFormat => "unsupported_format",
            Self::Locked => "locked",
            Self::Token => "token",
            Self::Listen => "listen",
            Self::Unauthorized => "unauthorized",
            Self::InvalidKey => "invalid_key",
            Self::InvalidRequest => "invalid_request",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PreconditionFailed => "precondition_failed",
            Self::RangeNotSatisfiable => "range_not_satisfiable",
            Self::TooLarge => "too_large",
            Self::IncompleteBody => "incomplete_body",
            Self::ChecksumMismatch => "checksum_mismatch",
            Self::StorageFull => "storage_full",
            Self::Corrupt => "corrupt",
            Self::Unavailable => "unavailable",
            Self::Io => "io",
        }
    }
}

/// An error with a kind, a lower-case primary line, and a hint that names the mend.
///
/// `Display` is the primary line alone; the cause, if any, is in
/// [`std::error::Error::source`].
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The primary line: lower-case, no full stop.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// A sentence that names what mends it; empty where nothing does.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    pub(crate) fn new(
        kind: ErrorKind,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: hint.into(),
            source: None,
        }
    }

    pub(crate) fn with_source(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// An I/O error met while doing `what`; a full disk becomes [`ErrorKind::StorageFull`], and
    /// a want of descriptors, which passes, [`ErrorKind::Unavailable`].
    pub(crate) fn io(what: impl fmt::Display, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::full().with_source(source);
        }
        if is_out_of_files(&source) {
            return Self::new(
                ErrorKind::Unavailable,
                format!("cannot {what}: the server has no more open files"),
                "Try again, with fewer uploads and downloads at once, or raise the limit of open files (`ulimit -n`).",
            )
            .with_source(source);
        }
        Self::new(
            ErrorKind::Io,
            format!("cannot {what}"),
            "Check the disk and the permissions of the data directory.",
        )
        .with_source(source)
    }

    pub(crate) fn full() -> Self {
        Self::new(
            ErrorKind::StorageFull,
            "no room left on the disk of the data directory; nothing was stored",
            "Delete objects, or give the node a larger volume, then send the object again.",
        )
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(
            ErrorKind::Corrupt,
            message,
            "Write the object again from its source, and check the disk: the stored bytes changed after they were written.",
        )
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(
            ErrorKind::Unavailable,
            message,
            "Try again; `/readyz` answers 200 when the server is ready.",
        )
    }

    /// The same error for each of several callers of one shared commit.
    pub(crate) fn share(&self) -> Self {
        Self {
            kind: self.kind,
            message: self.message.clone(),
            hint: self.hint.clone(),
            source: None,
        }
    }
}

/// Whether the system said that there is no room: no space, no quota, or the file-size limit.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether this process, or the host, has no descriptor left.
fn is_out_of_files(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
