//! Health: the request's own check, asked at the published port, or else what the image's HEALTHCHECK says.

use std::sync::Arc;

use crate::{nodes::Node, platform::Inner};

/// Asks after a node's health through all its runs, until it is removed or the platform is dropped.
pub(crate) fn attend(_inner: &Arc<Inner>, _node: &Arc<Node>) {}
