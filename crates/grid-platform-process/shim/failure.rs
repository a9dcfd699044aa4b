//! A start that failed: where and why.

use crate::shared::words::Stage;
use std::io;

/// Where a start failed and the kernel's number for why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) errno: i32,
}

/// Names the stage of an error, for `map_err`.
pub(crate) fn at(stage: Stage) -> impl Fn(io::Error) -> Failure {
    move |error| Failure {
        stage,
        errno: error.raw_os_error().unwrap_or(EINVAL),
    }
}

/// What is malformed rather than refused by the kernel.
pub(crate) const EINVAL: i32 = 22;

/// The failure of something malformed.
pub(crate) fn malformed(stage: Stage) -> Failure {
    Failure {
        stage,
        errno: EINVAL,
    }
}
