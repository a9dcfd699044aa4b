//! The system's errors as the contract's.

#[cfg(target_os = "linux")]
pub(crate) use system::{Context, error, named, refused};

/// The platform's name in errors, nodes and settings.
pub(crate) const PLATFORM: &str = "process";

#[cfg(target_os = "linux")]
mod system {
    use std::{fmt::Display, io};

    use grid_platform_api::{Error, ErrorKind};

    use super::PLATFORM;

    /// An error of this platform.
    pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, message).with_platform(PLATFORM)
    }

    /// Says in which call it happened. An error that knows no better mend names the command that looks for one.
    pub(crate) fn named(error: Error, operation: &'static str) -> Error {
        let error = error.with_platform(PLATFORM).with_operation(operation);
        match error.hint() {
            Some(_) => error,
            None => error.with_hint("`grid doctor` looks at what the platform needs on its host."),
        }
    }

    /// Says what could not be done when the system refused it.
    pub(crate) trait Context<T> {
        /// The value, or an error whose primary line is `cannot <what>`.
        fn cannot(self, what: impl Display) -> Result<T, Error>;
    }

    impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
        fn cannot(self, what: impl Display) -> Result<T, Error> {
            self.map_err(|error| refused(what, error.into()))
        }
    }

    /// The error of a refusal by the system.
    pub(crate) fn refused(what: impl Display, error: io::Error) -> Error {
        let (kind, hint) = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => (
                ErrorKind::Exhausted,
                Some("Free some disk space, or raise the quota."),
            ),
            Some(libc::EMFILE | libc::ENFILE) => (
                ErrorKind::Exhausted,
                Some(
                    "Raise the limit of open files (`ulimit -n`): each running node takes one descriptor of its agent.",
                ),
            ),
            Some(libc::ENOMEM | libc::EAGAIN) => (
                ErrorKind::Exhausted,
                Some("Free some memory, or raise the limit of processes (`ulimit -u`)."),
            ),
            Some(libc::EROFS) => (
                ErrorKind::PermissionDenied,
                Some("Mount the file system writable, or choose a place on another one."),
            ),
            Some(libc::ELOOP | libc::ENOTDIR) => (
                ErrorKind::Corrupt,
                Some(
                    "Something else stands where a file or directory of the agent should be, and no link is followed there: look whose it is, and move it away.",
                ),
            ),
            Some(libc::EBUSY | libc::EXDEV) => (
                ErrorKind::Conflict,
                Some("Unmount what is mounted there: it is not the agent's to delete."),
            ),
            Some(libc::EACCES | libc::EPERM) => (
                ErrorKind::PermissionDenied,
                Some("Give the agent's user the right to do that, or choose a place of its own."),
            ),
            Some(libc::ENOSYS) => (
                ErrorKind::Unsupported,
                Some("The process platform needs Linux 5.10 or later."),
            ),
            _ => (ErrorKind::Internal, None),
        };
        let failed = Error::new(kind, format!("cannot {what}"))
            .with_platform(PLATFORM)
            .with_source(error);
        match hint {
            Some(hint) => failed.with_hint(hint),
            None => failed,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io;

    use grid_platform_api::ErrorKind;

    use super::*;

    #[test]
    fn kinds_follow_the_systems_number() {
        let check = |errno: i32, expect: ErrorKind| {
            let error = refused("write `x`", io::Error::from_raw_os_error(errno));
            assert_eq!(error.kind(), expect, "{errno}");
            assert_eq!(error.to_string(), "cannot write `x`");
        };
        check(libc::ENOSPC, ErrorKind::Exhausted);
        check(libc::EMFILE, ErrorKind::Exhausted);
        check(libc::EACCES, ErrorKind::PermissionDenied);
        check(libc::EROFS, ErrorKind::PermissionDenied);
        check(libc::ELOOP, ErrorKind::Corrupt);
        check(libc::EXDEV, ErrorKind::Conflict);
        check(libc::ENOSYS, ErrorKind::Unsupported);
        check(libc::EIO, ErrorKind::Internal);
    }

    #[test]
    fn every_error_of_a_call_names_a_mend() {
        let vague = named(error(ErrorKind::Internal, "it went wrong"), "stop_node");
        assert!(vague.hint().is_some_and(|it| it.contains("grid doctor")));
        assert_eq!(vague.operation(), Some("stop_node"));
        assert_eq!(vague.platform(), Some(PLATFORM));
        let clear = named(vague.with_hint("Do this."), "stop_node");
        assert_eq!(clear.hint(), Some("Do this."));
    }
}
