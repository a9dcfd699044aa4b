//! How this command fails: a report for people, a code for scripts.

use std::{error::Error as StdError, fmt, path::Path};

use grid_client::Class;
use grid_platform_api::{ErrorKind, ErrorReport};

/// The result of a command.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// The exit codes that `--help` promises; clap itself ends with 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
    Unreachable = 5,
    Timeout = 6,
}

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) report: Box<ErrorReport>,
    pub(crate) exit: Exit,
    /// The reader of our output is gone; there is nobody to tell.
    pub(crate) unheard: bool,
}

impl Error {
    /// A failure of this kind; `message` is its primary line: lower case, no full stop, things in backticks.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ErrorReport {
            kind,
            message: message.into(),
            retryable: false,
            operation: None,
            platform: None,
            node: None,
            hint: None,
            causes: Vec::new(),
            failure: None,
        }
        .into()
    }

    /// Something that no other kind tells.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A command line whose parts contradict each other.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidConfig, message).with_exit(Exit::Usage)
    }

    /// A call of the system about `path` that failed.
    pub(crate) fn io(what: &str, path: &Path, source: &std::io::Error) -> Self {
        Self::failed(format!("cannot {what} `{}`", path.display())).with_source(source)
    }

    pub(crate) fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
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

    /// The reader of our output is gone.
    pub(crate) fn unheard() -> Self {
        Self {
            unheard: true,
            ..Self::failed("nobody reads the output")
        }
    }
}

impl From<ErrorReport> for Error {
    fn from(report: ErrorReport) -> Self {
        let exit = exit_of(grid_client::Error::from(report.clone()).class());
        Self {
            report: Box::new(report),
            exit,
            unheard: false,
        }
    }
}

impl From<grid_client::Error> for Error {
    fn from(error: grid_client::Error) -> Self {
        Self {
            exit: exit_of(error.class()),
            report: Box::new(error.report().clone()),
            unheard: false,
        }
    }
}

impl From<grid_platform_api::Error> for Error {
    fn from(error: grid_platform_api::Error) -> Self {
        error.to_report().into()
    }
}

impl From<grid_config::ConfigError> for Error {
    fn from(error: grid_config::ConfigError) -> Self {
        let mut converted = Self::new(ErrorKind::InvalidConfig, error.to_string());
        converted.report.hint = error.hint().map(str::to_owned);
        converted
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report.message)
    }
}

impl StdError for Error {}

fn exit_of(class: Class) -> Exit {
    match class {
        Class::Failed => Exit::Failed,
        Class::NotFound => Exit::NotFound,
        Class::Conflict => Exit::Conflict,
        Class::Unreachable => Exit::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_their_exit_codes() {
        let check = |kind: ErrorKind, expect: Exit| {
            assert_eq!(Error::new(kind, "m").exit, expect, "{kind}");
        };
        check(ErrorKind::NotFound, Exit::NotFound);
        check(ErrorKind::Conflict, Exit::Conflict);
        check(ErrorKind::Unavailable, Exit::Unreachable);
        check(ErrorKind::NotAllowed, Exit::Failed);
        assert_eq!(Error::usage("m").exit, Exit::Usage);
    }
}
