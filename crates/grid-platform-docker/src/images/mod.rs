//! Images: is one there, and if not from where it comes.
//!
//! What is known of an image is kept by its reference, so that a spawn asks the engine once for each image and not for each node;
//! [`Images::forget`] is called when the engine tells of a change, and when it says that an image is not there after all.

mod archive;
mod credentials;
pub(crate) mod docker_config;
pub(crate) mod progress;
mod pull;
pub(crate) mod reference;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bollard::models::ImageInspect;
use grid_platform_api::{Error, Failure, FailureReason, NodeId, Progress, Result};
use tokio::sync::{Mutex as AsyncMutex, broadcast};

use self::progress::Telling;
use crate::{
    config::{DockerConfig, Pull},
    engine::{CALL, Engine},
    error::Fault,
};

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
    /// The directories that it keeps in volumes, in order.
    pub(crate) volumes: Vec<String>,
}

/// What is known of images.
#[derive(Default)]
pub(crate) struct Images {
    known: Mutex<Known>,
    telling: Telling,
    /// Held while an archive is loaded: many nodes of one image would else each send it whole.
    loading: AsyncMutex<()>,
}

#[derive(Default)]
struct Known {
    images: HashMap<String, Arc<Image>>,
    /// Rises when something is forgotten: an answer that was asked for before is not kept.
    forgotten: u64,
}

impl Images {
    /// The image of that reference: as it is known, as the engine has it, or after it was pulled or loaded.
    ///
    /// Dropping the future ends a pull or a load.
    ///
    /// # Errors
    /// `SpawnFailed` with `ImageNotFound` or `ImagePullFailed`; what keeps the engine from answering.
    pub(crate) async fn ensure(
        &self,
        engine: &Engine,
        config: &DockerConfig,
        node: &NodeId,
        reference: &str,
    ) -> Result<Arc<Image>> {
        let teller = self.telling.of(node);
        if config.pull == Pull::Always {
            pull::pull(engine, config, node, reference, &teller).await?;
            self.forget(Some(reference));
        }
        if let Some(image) = self.look(engine, reference).await? {
            return Ok(image);
        }
        let mut loaded = None;
        if let Some(path) = &config.image_archive {
            let _turn = self.loading.lock().await;
            // Whose turn it was before may have loaded it.
            if let Some(image) = self.look(engine, reference).await? {
                return Ok(image);
            }
            loaded = Some(archive::load(engine, path, reference, &teller).await?);
            if let Some(image) = self.look(engine, reference).await? {
                return Ok(image);
            }
        }
        if config.pull == Pull::IfMissing {
            pull::pull(engine, config, node, reference, &teller).await?;
            if let Some(image) = self.look(engine, reference).await? {
                return Ok(image);
            }
        }
        Err(missing(node, reference, config, loaded.as_deref()))
    }

    /// The image as it is known or as the engine has it; `None` where it is not there.
    ///
    /// # Errors
    /// What keeps the engine from answering.
    pub(crate) async fn look(
        &self,
        engine: &Engine,
        reference: &str,
    ) -> Result<Option<Arc<Image>>> {
        let forgotten = {
            let known = self.known();
            if let Some(image) = known.images.get(reference) {
                return Ok(Some(Arc::clone(image)));
            }
            known.forgotten
        };
        let asked = engine.ask(CALL, engine.docker.inspect_image(reference));
        let image = match asked.await {
            Ok(inspected) => Arc::new(translate(reference, inspected)),
            // An engine looks for what cannot be, and may say that it is not there.
            Err(fault) if let Some(error) = pull::refused_as_reference(reference, &fault) => {
                return Err(error);
            }
            Err(fault) if fault.status() == Some(404) => return Ok(None),
            Err(fault) => return Err(fault.into_error(format!("look for the image `{reference}`"))),
        };
        let mut known = self.known();
        if known.forgotten == forgotten {
            known
                .images
                .insert(reference.to_owned(), Arc::clone(&image));
        }
        Ok(Some(image))
    }

    /// Forgets what is known of an image of that reference; of all without one.
    pub(crate) fn forget(&self, reference: Option<&str>) {
        let mut known = self.known();
        known.forgotten += 1;
        match reference {
            Some(reference) => drop(known.images.remove(reference)),
            None => known.images.clear(),
        }
    }

    /// How far the images of nodes are, as they are pulled and loaded.
    pub(crate) fn progress(&self) -> broadcast::Receiver<(NodeId, Progress)> {
        self.telling.subscribe()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // It is whole at every point where a panic could happen.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the engine says of an image.
fn translate(reference: &str, inspected: ImageInspect) -> Image {
    let config = inspected.config.unwrap_or_default();
    let mut exposed_tcp: Vec<u16> = config
        .exposed_ports
        .unwrap_or_default()
        .iter()
        .filter_map(|text| match text.split_once('/') {
            Some((port, "tcp")) => port.parse().ok(),
            Some(_) => None,
            None => text.parse().ok(),
        })
        .collect();
    exposed_tcp.sort_unstable();
    exposed_tcp.dedup();
    // What it was pulled as under this name comes first; one image may have many names.
    let name = reference::split(reference).0;
    let digests = inspected.repo_digests.unwrap_or_default();
    let of_name = |it: &&String| {
        it.split_once('@')
            .is_some_and(|(whole, _)| whole == name || whole.ends_with(&format!("/{name}")))
    };
    let digest = digests.iter().find(of_name).or(digests.first()).cloned();
    let mut volumes = config.volumes.unwrap_or_default();
    volumes.sort_unstable();
    Image {
        id: inspected.id.unwrap_or_default(),
        digest,
        user: config.user.unwrap_or_default(),
        exposed_tcp,
        volumes,
    }
}

/// The error of an image that is nowhere to be had, with the ways to have it.
fn missing(
    node: &NodeId,
    reference: &str,
    config: &DockerConfig,
    loaded: Option<&[String]>,
) -> Error {
    let mut message = format!("the engine has no image `{reference}`");
    match (&config.image_archive, loaded) {
        (Some(path), Some([])) => {
            message += &format!(", and the archive `{}` does not hold it", path.display());
        }
        (Some(path), Some(names)) => {
            let names = names.join("`, `");
            message += &format!(", and the archive `{}` holds `{names}`", path.display());
        }
        _ => {}
    }
    let get = match config.pull {
        Pull::Never => format!(
            "`docker.pull` is `never`: get it by `docker pull {reference}`, make it by `docker build -t {reference} .`"
        ),
        _ => format!("Make it by `docker build -t {reference} .`"),
    };
    let failure = Failure::new(FailureReason::ImageNotFound, message);
    Error::spawn_failed(node, failure).with_hint(format!(
        "{get}, or name a file that `docker save {reference}` made by `docker.image_archive`."
    ))
}

/// Whether an error of a create or a start says that the image is not there after all.
pub(crate) fn is_missing(fault: &Fault) -> bool {
    match fault {
        Fault::Refused { status, message } => {
            *status == 404 && message.to_ascii_lowercase().contains("no such image")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod table {
    use bollard::models::ImageConfig;

    use super::*;

    #[test]
    fn an_image_is_what_a_node_needs_to_know() {
        let inspected = ImageInspect {
            id: Some("sha256:1".into()),
            repo_digests: Some(vec![
                "other@sha256:2".into(),
                "localhost:5000/team/app@sha256:3".into(),
            ]),
            config: Some(ImageConfig {
                user: Some("redis".into()),
                exposed_ports: Some(vec!["6379/tcp".into(), "53/udp".into(), "80/tcp".into()]),
                volumes: Some(vec!["/data".into(), "/a".into()]),
                ..ImageConfig::default()
            }),
            ..ImageInspect::default()
        };
        let image = translate("localhost:5000/team/app:1", inspected.clone());
        let expect = Image {
            id: "sha256:1".into(),
            digest: Some("localhost:5000/team/app@sha256:3".into()),
            user: "redis".into(),
            exposed_tcp: vec![80, 6379],
            volumes: vec!["/a".into(), "/data".into()],
        };
        assert_eq!(image, expect);
        // Podman gives the whole name where the reference has a short one.
        assert_eq!(translate("team/app", inspected).digest, expect.digest);
        let bare = translate("x", ImageInspect::default());
        assert_eq!(bare, Image::default());
    }

    #[test]
    fn a_missing_image_names_the_ways_to_have_it() {
        let node = NodeId::new("n1").unwrap();
        let mut config = DockerConfig::new("/s", "/d");
        config.pull = Pull::Never;
        let error = missing(&node, "redis:7", &config, None);
        assert_eq!(
            error.failure().unwrap().reason,
            FailureReason::ImageNotFound
        );
        for part in ["docker pull redis:7", "docker build", "image_archive"] {
            assert!(error.hint().unwrap().contains(part), "{part}");
        }
        config.image_archive = Some("/a.tar".into());
        let error = missing(&node, "redis:7", &config, Some(&["redis:6".into()]));
        assert!(
            error
                .to_string()
                .ends_with("and the archive `/a.tar` holds `redis:6`"),
            "{error}"
        );
    }
}
