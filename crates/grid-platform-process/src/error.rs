//! The system's errors as the contract's.

#[cfg(target_os = "linux")]
pub(crate) use grid_platform_host::error::{Context, refused};
#[cfg(target_os = "linux")]
pub(crate) use system::{error, named};

/// The platform's name in errors, nodes and settings.
pub(crate) const PLATFORM: &str = "process";

#[cfg(target_os = "linux")]
mod system {
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
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use grid_platform_api::ErrorKind;

    use super::*;

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
