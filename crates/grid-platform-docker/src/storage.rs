//! Data: whether agent and engine see one file system, and the directories of nodes where they do.

use std::{fs, path::Path};

use bollard::{
    models::{HostConfig, Mount, MountType},
    query_parameters::ListImagesOptions,
};
use grid_platform_api::{OwnerId, Result};
use grid_platform_host::{error::Context, install, work::blocking};

use crate::{
    config::DockerConfig,
    engine::{CALL, Engine},
    facts::Facts,
    helper,
};

/// Where data and secrets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// In directories that agent and engine both see, with owners that both understand.
    Shared,
    /// In volumes of the engine, for this reason.
    Volumes(String),
}

impl Storage {
    pub(crate) fn is_shared(&self) -> bool {
        *self == Self::Shared
    }
}

/// What begins the names of files by which the engine's sight is tried.
const SIGHT: &str = ".sutra-grid-sight-";

/// Looks where data can be.
///
/// # Errors
/// When the engine does not answer, or the directories cannot be written to.
pub(crate) async fn look(
    engine: &Engine,
    owner: &OwnerId,
    config: &DockerConfig,
    facts: &Facts,
) -> Result<Storage> {
    if facts.remaps_users {
        let why = "the engine gives users of containers other numbers on its host";
        return Ok(Storage::Volumes(why.to_owned()));
    }
    if grid_platform_host::users::own_uid() != 0 {
        let why = "the agent is not root, and cannot give a node its directory";
        return Ok(Storage::Volumes(why.to_owned()));
    }
    let name = format!("{SIGHT}{}", hex(&install::random::<8>()?));
    let places = [config.state_dir.clone(), config.data_path.clone()];
    let markers = places.map(|it| it.join(&name));
    let made = markers.clone();
    blocking(move || {
        for marker in &made {
            let what = format!("write `{}`", marker.display());
            fs::write(marker, "looks whether the engine sees this file\n").cannot(what)?;
        }
        Ok(())
    })
    .await?;
    let paths: Vec<&Path> = markers.iter().map(|it| it.as_path()).collect();
    let seen = sees(engine, owner, &paths).await;
    blocking(move || {
        for marker in &markers {
            fs::remove_file(marker).cannot(format!("delete `{}`", marker.display()))?;
        }
        Ok(())
    })
    .await?;
    Ok(match seen? {
        true => Storage::Shared,
        false => Storage::Volumes("the engine sees another file system".to_owned()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

/// Whether the engine sees all these files. It is asked to make a container of an image that does not exist, which mounts
/// them: an engine that looks at mounts first says which it misses, and makes nothing. One that looks at the image first is
/// asked with an image that it has, and the container is taken away again.
async fn sees(engine: &Engine, owner: &OwnerId, files: &[&Path]) -> Result<bool> {
    let nowhere = Path::new("/sutra-grid-is-nowhere");
    let tells = match try_to_make(engine, owner, NO_IMAGE, &[nowhere]).await? {
        Made::Refused => true,
        Made::NoImage => false,
        Made::Container => return Ok(false),
    };
    if tells {
        return Ok(matches!(
            try_to_make(engine, owner, NO_IMAGE, files).await?,
            Made::NoImage
        ));
    }
    let asked = engine.docker.list_images(None::<ListImagesOptions>);
    let images = engine.call("list the images", CALL, asked).await?;
    match images.first() {
        Some(image) => Ok(matches!(
            try_to_make(engine, owner, &image.id, files).await?,
            Made::Container
        )),
        // Nothing can be tried yet. An engine at a socket of this host most likely sees this host.
        None => Ok(engine.host.starts_with("unix://")),
    }
}

const NO_IMAGE: &str = "sutra-grid.invalid/none:none";

enum Made {
    Container,
    NoImage,
    Refused,
}

async fn try_to_make(
    engine: &Engine,
    owner: &OwnerId,
    image: &str,
    files: &[&Path],
) -> Result<Made> {
    let mounts = files.iter().zip(0..).map(|(file, number)| Mount {
        typ: Some(MountType::BIND),
        source: Some(file.to_string_lossy().into_owned()),
        target: Some(format!("/sight-{number}")),
        read_only: Some(true),
        ..Mount::default()
    });
    let host_config = HostConfig {
        mounts: Some(mounts.collect()),
        ..HostConfig::default()
    };
    match helper::make(engine, owner, None, image, host_config).await {
        Ok(made) => {
            helper::remove(engine, &made).await?;
            Ok(Made::Container)
        }
        Err(fault) if fault.status() == Some(404) => Ok(Made::NoImage),
        Err(fault) if fault.status().is_some() => Ok(Made::Refused),
        Err(fault) => Err(fault.into_error("try what the engine sees")),
    }
}
