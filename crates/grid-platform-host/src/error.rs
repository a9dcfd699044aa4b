//! The system's refusals as the contract's errors. Which platform it was, its adapter says.

use std::{fmt::Display, io};

use grid_platform_api::{Error, ErrorKind};

pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, message)
}

/// Says what could not be done when the system refused it.
pub trait Context<T> {
    /// The value, or an error whose primary line is `cannot <what>`.
    fn cannot(self, what: impl Display) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn cannot(self, what: impl Display) -> Result<T, Error> {
        self.map_err(|error| refused(what, error.into()))
    }
}

/// The error of a refusal by the system.
pub fn refused(what: impl Display, error: io::Error) -> Error {
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
            Some("The platform needs Linux 5.10 or later."),
        ),
        _ => (ErrorKind::Internal, None),
    };
    let failed = Error::new(kind, format!("cannot {what}")).with_source(error);
    match hint {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    }
}

#[cfg(test)]
mod tests {
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
}
