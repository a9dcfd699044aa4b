//! `[docker]`: what of a container engine is the agent's to say.

use std::path::PathBuf;

use grid_config::{ConfigError, Environment};
use serde::{Deserialize, Serialize};

use super::Images;

/// `[docker]`: of the docker platform.
///
/// Where `host`, `context`, `cert_path` and `config_file` are left out, the variables decide that Docker's own command
/// goes by: `DOCKER_HOST`, `DOCKER_CONTEXT`, `DOCKER_CERT_PATH`, `DOCKER_TLS_VERIFY` and `DOCKER_CONFIG`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DockerSection {
    /// Where the engine is: `unix:///PATH` or `tcp://HOST:PORT`. Left out, the context says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The Docker context that says where the engine is; left out, the one in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The directory of `ca.pem`, `cert.pem` and `key.pem`, by which a `tcp://` host is spoken to by TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_path: Option<PathBuf>,
    /// Docker's own `config.json`: contexts, and credentials of registries. Left out, the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_file: Option<PathBuf>,
    /// When images are pulled.
    pub pull: PullPolicy,
    /// A file of `docker save`, which is loaded when an image is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_archive: Option<PathBuf>,
    /// Which images a request may name besides `storage.docker_image`: `"any"`, or a list.
    pub images: Images,
    /// A network of the engine that nodes are in; left out, the platform's own choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The host name or address that endpoints have; left out, the address at which ports are published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_address: Option<String>,
    /// Who nodes run as whose request and image name no user but root: `UID` or `UID:GID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How much of a node's log the engine keeps, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_max_mb: Option<u32>,
    /// What is loosened of how nodes are kept in.
    pub security: SecuritySection,
}

/// `[docker.security]`. Everything is tight by default, and no request can loosen it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecuritySection {
    /// Images whose own user is root may run as root.
    pub run_as_image_user: bool,
    /// Capabilities that nodes have, by their names without `CAP_`.
    pub cap_add: Vec<String>,
    /// The image's file system can be written to.
    pub writable_root: bool,
    /// Programs may gain rights by set-user-id files.
    pub allow_new_privileges: bool,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// When the engine does not have it.
    #[default]
    IfMissing,
    /// Before each new node.
    Always,
    /// Never.
    Never,
}

impl DockerSection {
    /// The first key that is not at its default.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let default = Self::default();
        let given = [
            ("docker.host", self.host != default.host),
            ("docker.context", self.context != default.context),
            ("docker.cert_path", self.cert_path != default.cert_path),
            (
                "docker.config_file",
                self.config_file != default.config_file,
            ),
            ("docker.pull", self.pull != default.pull),
            (
                "docker.image_archive",
                self.image_archive != default.image_archive,
            ),
            ("docker.images", self.images != default.images),
            ("docker.network", self.network != default.network),
            (
                "docker.advertise_address",
                self.advertise_address != default.advertise_address,
            ),
            ("docker.user", self.user != default.user),
            ("docker.log_max_mb", self.log_max_mb != default.log_max_mb),
            ("docker.security", self.security != default.security),
        ];
        given.into_iter().find(|(_, it)| *it).map(|(key, _)| key)
    }

    /// Fills in what was left out, as Docker's own command would find it, so that the same engine is meant from now on
    /// whatever the environment of a later process says. Paths become absolute.
    ///
    /// # Errors
    /// A variable that is not UTF-8, or a path of which nobody can tell where it is.
    pub fn fill(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        if self.host.is_none() && self.context.is_none() {
            self.host = environment.text("DOCKER_HOST")?;
            if self.host.is_none() {
                self.context = environment.text("DOCKER_CONTEXT")?;
            }
        }
        if self.config_file.is_none() {
            let home = || Some(environment.home()?.join(".docker"));
            let directory = environment.path_of("DOCKER_CONFIG").or_else(home);
            self.config_file = directory.map(|it| it.join("config.json"));
        }
        let tls = self
            .host
            .as_ref()
            .is_some_and(|it| !it.starts_with("unix:"));
        if tls && self.cert_path.is_none() {
            self.cert_path = environment.path_of("DOCKER_CERT_PATH");
            let beside = || Some(self.config_file.as_deref()?.parent()?.to_owned());
            if self.cert_path.is_none() && environment.text("DOCKER_TLS_VERIFY")?.is_some() {
                self.cert_path = beside();
            }
        }
        let paths = [
            &mut self.cert_path,
            &mut self.config_file,
            &mut self.image_archive,
        ];
        for path in paths.into_iter().flatten() {
            super::absolute(path)?;
        }
        Ok(())
    }

    /// Whether the engine that is meant here is the one that is meant there; what is left out here may be anything.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let place = |it: &Self| (it.host.clone(), it.context.clone());
        let here = place(self);
        here == (None, None) || here == place(other)
    }

    /// Where the engine is, for people.
    pub fn engine(&self) -> String {
        match (&self.host, &self.context) {
            (Some(host), _) => host.clone(),
            (None, Some(context)) => format!("of the context {context}"),
            (None, None) => "that Docker's own settings name".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(mut section: DockerSection, variables: &[(&str, &str)]) -> DockerSection {
        let environment = Environment::of(variables.iter().copied());
        section.fill(&environment).unwrap();
        section
    }

    #[test]
    fn what_was_left_out_is_found_as_docker_finds_it() {
        let it = filled(DockerSection::default(), &[("HOME", "/h")]);
        assert_eq!(
            (&it.host, &it.context, &it.cert_path),
            (&None, &None, &None)
        );
        assert_eq!(it.config_file, Some("/h/.docker/config.json".into()));

        let variables = [
            ("HOME", "/h"),
            ("DOCKER_HOST", "tcp://e:2376"),
            ("DOCKER_CONTEXT", "far"),
            ("DOCKER_CERT_PATH", "/c"),
            ("DOCKER_CONFIG", "/d"),
        ];
        let it = filled(DockerSection::default(), &variables);
        assert_eq!(it.host.as_deref(), Some("tcp://e:2376"));
        assert_eq!((it.context, it.cert_path), (None, Some("/c".into())));
        assert_eq!(it.config_file, Some("/d/config.json".into()));

        let of_settings = DockerSection {
            context: Some("near".into()),
            ..DockerSection::default()
        };
        let it = filled(of_settings, &variables);
        assert_eq!((it.host, it.context.as_deref()), (None, Some("near")));
        assert_eq!(it.cert_path, None, "a context has its own");

        let verify = [
            ("HOME", "/h"),
            ("DOCKER_HOST", "tcp://e:2376"),
            ("DOCKER_TLS_VERIFY", "1"),
        ];
        let it = filled(DockerSection::default(), &verify);
        assert_eq!(it.cert_path, Some("/h/.docker".into()));
        let socket = [("DOCKER_HOST", "unix:///s"), ("DOCKER_CERT_PATH", "/c")];
        let it = filled(DockerSection::default(), &socket);
        assert_eq!((it.cert_path, it.config_file), (None, None));
    }

    #[test]
    fn every_key_is_missed_where_it_is_given() {
        let json = serde_json::json!({
            "host": "x", "context": "x", "cert_path": "x", "config_file": "x", "pull": "never", "image_archive": "x",
            "images": "any", "network": "x", "advertise_address": "x", "user": "1", "log_max_mb": 1,
            "security": {"writable_root": true},
        });
        assert_eq!(DockerSection::default().first_given(), None);
        for (key, value) in json.as_object().unwrap() {
            let one = serde_json::json!({ key: value });
            let section: DockerSection = serde_json::from_value(one).unwrap();
            let expect = format!("docker.{key}");
            assert_eq!(section.first_given(), Some(expect.as_str()));
        }
    }
}
