//! Data: whether agent and engine see one file system, and the directories of nodes where they do.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

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
    /// In directories that agent and engine both see, with owners that both understand: beneath these.
    Shared(Vec<PathBuf>),
    /// In volumes of the engine, for this reason.
    Volumes(String),
}

impl Storage {
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// Whether a path that a request may name lies where the engine sees other files.
    pub(crate) fn is_unseen(&self, config: &DockerConfig, path: &Path) -> bool {
        let Self::Shared(seen) = self else {
            return true;
        };
        let is_beneath = |root: &Path| path.starts_with(root);
        // One beneath no root at all is refused for that.
        config.roots().into_iter().any(is_beneath) && !seen.iter().any(|it| is_beneath(it))
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
    let both = [config.state_dir.clone(), config.data_path.clone()];
    if !is_seen(engine, owner, both.to_vec()).await? {
        let why = "the engine sees another file system";
        return Ok(Storage::Volumes(why.to_owned()));
    }
    let mut roots = vec![config.data_path.clone()];
    for root in &config.storage_roots {
        if roots.contains(root) {
            continue;
        }
        // One that is not there, or cannot be written to, has no room for a node either.
        match is_seen(engine, owner, vec![root.clone()]).await {
            Ok(true) => roots.push(root.clone()),
            Ok(false) => {}
            Err(e) => {
                tracing::warn!(root = %root.display(), error = %e, "a storage root is of no use")
            }
        }
    }
    Ok(Storage::Shared(roots))
}

/// Whether the engine sees these directories as they are seen here.
async fn is_seen(engine: &Engine, owner: &OwnerId, dirs: Vec<PathBuf>) -> Result<bool> {
    // Only this adapter writes files of its owner, one at a time: what has the prefix was left by one that was killed.
    let prefix = format!("{SIGHT}{owner}-");
    let name = format!("{prefix}{}", hex(&install::random::<8>()?));
    let markers: Vec<PathBuf> = dirs.iter().map(|it| it.join(&name)).collect();
    let made = markers.clone();
    blocking(move || {
        for dir in &dirs {
            sweep(dir, &prefix).cannot(format!("read `{}`", dir.display()))?;
        }
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
    seen
}

/// Deletes what is called so in a directory.
fn sweep(dir: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|it| it.starts_with(prefix))
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_adapter_left_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let names = [".sight-a-1", ".sight-a-2", ".sight-b-1", "data"];
        for name in names {
            fs::write(dir.path().join(name), "").unwrap();
        }
        sweep(dir.path(), ".sight-a-").unwrap();
        let left: Vec<&str> = names
            .into_iter()
            .filter(|it| dir.path().join(it).exists())
            .collect();
        assert_eq!(left, [".sight-b-1", "data"]);
    }

    #[test]
    fn a_path_is_used_beneath_a_root_that_both_see() {
        let mut config = DockerConfig::new("/s", "/d");
        config.storage_roots = vec!["/seen".into(), "/unseen".into()];
        let storage = Storage::Shared(vec!["/d".into(), "/seen".into()]);
        let check = |path: &str, unseen: bool| {
            let found = storage.is_unseen(&config, Path::new(path));
            assert_eq!(found, unseen, "{path}");
        };
        check("/seen/n1", false);
        check("/unseen/n1", true);
        check("/d/n1", false);
        check("/elsewhere", false);
        // The roots that are seen may hold others that are not, and the other way round.
        config.storage_roots = vec!["/a".into(), "/a/b".into()];
        let inner = Storage::Shared(vec!["/a/b".into()]);
        assert!(!inner.is_unseen(&config, Path::new("/a/b/n1")));
        assert!(inner.is_unseen(&config, Path::new("/a/n1")));
        assert!(Storage::Volumes(String::new()).is_unseen(&config, Path::new("/a/n1")));
    }
}
