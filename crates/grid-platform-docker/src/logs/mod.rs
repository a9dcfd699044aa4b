//! The nodes' logs, as the engine keeps them (tail.rs, follow.rs, cursor.rs, frames.rs).
//!
//! A position is the container's uid, a timestamp, the line's ordinal among those of that timestamp and a hash of the line: equal and
//! backward timestamps are told apart. On resume the log is read again from a point that certainly covers the position, and
//! what stands before the match is passed over; a match that rotation took away is a gap.

use std::sync::Arc;

use grid_platform_api::{Error, LogCursor, LogStream, NodeId, Result};

use crate::{error::PLATFORM, platform::Inner};

/// [`Platform::get_logs`](grid_platform_api::Platform::get_logs).
pub(crate) async fn tail(_inner: &Arc<Inner>, _id: &NodeId, _lines: usize) -> Result<Vec<String>> {
    Err(Error::unsupported(PLATFORM, "read logs"))
}

/// [`Platform::follow_logs`](grid_platform_api::Platform::follow_logs).
pub(crate) async fn follow(
    _inner: &Arc<Inner>,
    _id: &NodeId,
    _cursor: LogCursor,
) -> Result<LogStream> {
    Err(Error::unsupported(PLATFORM, "follow logs"))
}
