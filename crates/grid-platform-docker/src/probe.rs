//! Whether nodes can run: the engine, its version, the rights, the image, and the mend of what is missing.

use std::sync::Arc;

use grid_platform_api::{Error, PlatformInfo, Result};

use crate::{error::PLATFORM, platform::Inner};

/// [`Platform::probe`](grid_platform_api::Platform::probe).
pub(crate) async fn look(_inner: &Arc<Inner>) -> Result<PlatformInfo> {
    Err(Error::unsupported(PLATFORM, "look at the engine"))
}
