//! Images: is one there, and if not from where it comes (pull.rs, auth.rs, archive.rs, progress.rs).
//!
//! What is known of an image is kept by its reference, so that a spawn asks the engine once for each image and not for each node;
//! [`Images::forget`] is called when the engine tells of a change, and when it says that an image is not there after all.

use std::sync::Arc;

use grid_platform_api::{ErrorKind, Result};

use crate::{config::DockerConfig, engine::Engine, error::error};

/// What a node needs to know of its image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    /// The image's id: `sha256:…`.
    pub(crate) id: String,
    /// As which registry's content it was pulled, if it was: `name@sha256:…`.
    pub(crate) digest: Option<String>,
    /// The user that it names: a name or a number, with or without a group; empty for root.
    pub(crate) user: String,
    /// The TCP ports that it exposes, in order.
    pub(crate) exposed_tcp: Vec<u16>,
    /// It has a health check of its own.
    pub(crate) has_healthcheck: bool,
    /// It has an entrypoint or a command: something runs if the request names no arguments.
    pub(crate) has_program: bool,
}

/// What is known of images.
#[derive(Default)]
pub(crate) struct Images {}

impl Images {
    /// The image of that reference: as it is known, as the engine has it, or after it was pulled or loaded.
    ///
    /// # Errors
    /// `SpawnFailed` with `ImageNotFound` or `ImagePullFailed`; what keeps the engine from answering.
    pub(crate) async fn ensure(
        &self,
        _engine: &Engine,
        _config: &DockerConfig,
        reference: &str,
    ) -> Result<Arc<Image>> {
        Err(error(
            ErrorKind::Unsupported,
            format!("cannot look for the image `{reference}`"),
        ))
    }

    /// Forgets what is known of an image of that reference; of all without one.
    pub(crate) fn forget(&self, _reference: Option<&str>) {}
}
