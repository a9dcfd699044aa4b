//! On which platform a local grid has its nodes.

use std::path::Path;

use grid_agent::{DockerSection, Images, Programs, Settings};
use grid_config::Environment;
use grid_platform_api::ErrorKind;
use serde::{Deserialize, Serialize};

use super::OwnImage;
use crate::error::{Error, Result};

/// The platform, and which engine of it: what the first `up` said, so that every later command means the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocalPlatform {
    pub(crate) name: Name,
    /// Of the docker platform.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) docker: DockerSection,
}

fn is_default(section: &DockerSection) -> bool {
    *section == DockerSection::default()
}

/// A platform that `grid up` knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Name {
    /// Processes of this host
    #[default]
    Process,
    /// Containers of a Docker engine
    Docker,
}

impl Name {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
        }
    }
}

impl LocalPlatform {
    /// The platform of that name, with the engine that the environment names.
    ///
    /// # Errors
    /// Those of the environment.
    pub(crate) fn new(name: Name, environment: &Environment) -> Result<Self> {
        let mut docker = DockerSection::default();
        if name == Name::Docker {
            docker.fill(environment)?;
        }
        Ok(Self { name, docker })
    }

    /// Whether a grid on this platform may be brought up as `wanted`.
    ///
    /// # Errors
    /// `Conflict`: its nodes are where they are.
    pub(super) fn admit(&self, wanted: &Self, root: &Path) -> Result<()> {
        let root = root.display();
        if self.name != wanted.name {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the grid in `{root}` is on the {} platform, not on {}",
                    self.name.as_str(),
                    wanted.name.as_str()
                ),
            )
            .with_hint("Name another directory by `--state-dir DIR`, or end this grid by `grid down --purge`."));
        }
        if !wanted.docker.agrees_with(&self.docker) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the grid in `{root}` is on the engine {}, and the environment now names {}",
                    self.docker.engine(),
                    wanted.docker.engine()
                ),
            )
            .with_hint("Unset `DOCKER_HOST` and `DOCKER_CONTEXT`, or name another directory by `--state-dir DIR`."));
        }
        Ok(())
    }

    /// Gives an agent's settings the platform, and what its user allows himself; `own` is the image of nodes that name
    /// none.
    pub(crate) fn set(&self, settings: &mut Settings, exe: &Path, own: impl FnOnce() -> OwnImage) {
        settings.agent.platform = self.name.as_str().to_owned();
        let mut args = ["storage", "--data-path", "{data_path}"]
            .map(str::to_owned)
            .to_vec();
        args.extend(["--listen", "{bind}:{port}"].map(str::to_owned));
        match self.name {
            Name::Process => {
                settings.storage.binary_path = Some(exe.to_owned());
                settings.storage.programs = Programs::Any;
            }
            Name::Docker => {
                let own = own();
                // What is bound in a container says nothing about who can reach it.
                args.extend(["--published", "{published}"].map(str::to_owned));
                settings.docker = self.docker.clone();
                settings.docker.images = Images::Any;
                settings.docker.image_archive = Some(own.archive);
                settings.storage.docker_image = Some(own.name);
            }
        }
        settings.storage.args = args;
        settings.storage.health_path = Some("/readyz".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_stays_on_its_platform_and_its_engine() {
        let root = Path::new("/g");
        let of = |variables: &[(&str, &str)]| {
            let environment = Environment::of(variables.iter().copied());
            LocalPlatform::new(Name::Docker, &environment).unwrap()
        };
        let process = LocalPlatform::default();
        let docker = of(&[("DOCKER_HOST", "unix:///a.sock")]);
        assert!(process.admit(&process, root).is_ok());
        let error = process.admit(&docker, root).unwrap_err();
        assert_eq!(error.report.kind, ErrorKind::Conflict);
        assert!(docker.admit(&docker, root).is_ok());
        assert!(docker.admit(&of(&[]), root).is_ok(), "nothing was said");
        let other = of(&[("DOCKER_HOST", "unix:///b.sock")]);
        let error = docker.admit(&other, root).unwrap_err();
        assert_eq!(
            error.report.message,
            "the grid in `/g` is on the engine unix:///a.sock, and the environment now names unix:///b.sock"
        );
        let text = serde_json::to_string(&docker).unwrap();
        assert_eq!(
            serde_json::from_str::<LocalPlatform>(&text).unwrap(),
            docker
        );
    }
}
