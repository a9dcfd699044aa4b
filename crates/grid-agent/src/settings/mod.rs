//! The agent's settings.

mod docker;
mod foreign;
mod images;
mod kubernetes;
mod values;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use grid_config::{ConfigError, Environment, Loader, Sources};
use grid_platform_api::{HealthCheck, NodeId, Program};
use serde::{Deserialize, Serialize};

use crate::master::MasterAddress;
pub use docker::{DockerSection, PullPolicy, SecuritySection};
pub use images::Images;
pub use kubernetes::{KubernetesSection, OverlaySection, ServiceKind, TolerationSection};
pub use values::{LogFormat, PortRange, Programs};

/// The settings of an agent: what stands in `grid-agent.toml`.
///
/// `Default` is an agent of a master on this host, on the process platform, that allows no program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The agent itself.
    pub agent: AgentSection,
    /// What its nodes are, and what is allowed to them.
    pub storage: StorageSection,
    /// Of the docker platform: its engine.
    pub docker: DockerSection,
    /// Of the kubernetes platform: the objects of nodes.
    pub kubernetes: KubernetesSection,
}

/// `[agent]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSection {
    /// The platform: `process` (also `desktop`), `docker`, `kubernetes` (also `k8s`) or `systemd`.
    pub platform: String,
    /// The agent's name, unique in its grid, in a node id's grammar; left out, the host's name made to fit.
    pub agent_id: Option<String>,
    /// Where the master listens for agents: `host:port` or `http://host:port`.
    pub master_host: String,
    /// How many nodes it may be given; 0 is no limit.
    pub max_storage_nodes: u32,
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// Where the agent keeps its state; left out, `agent` in the state directory of the system or the user.
    pub state_dir: Option<PathBuf>,
    /// The file with the agent's token.
    pub token_file: Option<PathBuf>,
    /// How it logs.
    pub log_format: LogFormat,
    /// Where fault points are armed: see [`grid_platform_api::fault`].
    #[cfg(feature = "fault-points")]
    pub fault_dir: Option<PathBuf>,
}

impl Default for AgentSection {
    fn default() -> Self {
        Self {
            platform: "process".to_owned(),
            agent_id: None,
            master_host: "127.0.0.1:7000".to_owned(),
            max_storage_nodes: 0,
            labels: BTreeMap::new(),
            state_dir: None,
            token_file: None,
            log_format: LogFormat::Text,
            #[cfg(feature = "fault-points")]
            fault_dir: None,
        }
    }
}

/// `[storage]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageSection {
    /// Of platforms that run programs of the host: the program of nodes whose request names none. It is always allowed.
    pub binary_path: Option<PathBuf>,
    /// Its arguments, or those of `docker_image`, with `{port}`, `{bind}`, `{data_path}`, `{node_id}` and `{secrets_dir}`.
    pub args: Vec<String>,
    /// The path of its HTTP health check; left out, there is none.
    pub health_path: Option<String>,
    /// Where nodes that name no path have their data; left out, `data` in the agent's state directory.
    pub data_path: Option<PathBuf>,
    /// Beneath which directories a request may name a path; empty: beneath `data_path`.
    pub storage_roots: Vec<PathBuf>,
    /// Which programs a request may name: `"any"`, or a list of absolute paths and bare names.
    pub programs: Programs,
    /// Which users a request may name besides the agent's own.
    pub users: Vec<String>,
    /// From which ports a port of 0 is allocated: `"20000-29999"`.
    pub port_range: Option<PortRange>,
    /// Where a program's bare name is looked up: no key of the file, but the agent's own `PATH`. Empty: the platform's
    /// choice.
    #[serde(skip)]
    pub search_path: Vec<PathBuf>,
    /// Of the docker and kubernetes platforms: the image of nodes whose request names none. It is always allowed.
    pub docker_image: Option<String>,
    /// Of the kubernetes platform: the namespace of all that the agent makes there, which has to exist. Left out,
    /// `sutra-grid`.
    pub k8s_namespace: Option<String>,
    /// Of the kubernetes platform: the kubeconfig file. Left out, what `KUBECONFIG` names, else `~/.kube/config` if it
    /// is there, else the account of the pod that the agent is in.
    pub k8s_kubeconfig: Option<PathBuf>,
}

/// A platform's name in its one spelling, and the Cargo feature that compiles it in; `None` for none of ours.
pub(crate) fn known_platform(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "process" | "desktop" => ("process", "platform-process"),
        "docker" => ("docker", "platform-docker"),
        "kubernetes" | "k8s" => ("kubernetes", "platform-kubernetes"),
        "systemd" => ("systemd", "platform-systemd"),
        _ => return None,
    })
}

impl Settings {
    /// A loader with the variables that agents know: `SUTRA_MASTER`, `PLATFORM`, and `SUTRA_AGENT__SECTION__KEY`.
    /// Add a file and flags, then give it to [`Settings::load`].
    pub fn loader(environment: Environment) -> Loader {
        Loader::new(environment)
            .variable("SUTRA_MASTER", "agent.master_host")
            .variable("PLATFORM", "agent.platform")
            .environment_prefix("SUTRA_AGENT")
    }

    /// Reads and checks the settings, and fills in what depends on the host.
    ///
    /// # Errors
    /// The first fault found, with its key, its place and the mend.
    pub fn load(loader: Loader, environment: &Environment) -> Result<Self, ConfigError> {
        let loaded = loader.load::<Self>()?;
        loaded.settings.check(&loaded.sources)?;
        loaded.settings.fill(environment)
    }

    /// Checks settings that were made in code, and fills in what depends on the host.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn complete(self, environment: &Environment) -> Result<Self, ConfigError> {
        self.check(&Sources::default())?;
        self.fill(environment)
    }

    /// Fills in what was left out and depends on the host, and makes every path absolute.
    fn fill(mut self, environment: &Environment) -> Result<Self, ConfigError> {
        let agent = &mut self.agent;
        if agent.agent_id.is_none() {
            agent.agent_id = Some(name_of_host(&environment.hostname()));
        }
        let state = match agent.state_dir.take() {
            Some(dir) => dir,
            None => environment.state_dir()?.join("agent"),
        };
        let platform = known_platform(&agent.platform).map(|(name, _)| name);
        // The data of pods is in the cluster.
        if self.storage.data_path.is_none() && platform != Some("kubernetes") {
            self.storage.data_path = Some(state.join("data"));
        }
        agent.state_dir = Some(state);
        let paths = [
            &mut agent.state_dir,
            &mut agent.token_file,
            &mut self.storage.data_path,
            &mut self.storage.k8s_kubeconfig,
        ];
        for path in paths.into_iter().flatten() {
            absolute(path)?;
        }
        match platform {
            Some("docker") => self.docker.fill(environment)?,
            Some("kubernetes") if self.storage.k8s_kubeconfig.is_none() => {
                self.storage.k8s_kubeconfig = kubernetes::kubeconfig(environment)?;
            }
            _ => {}
        }
        let mut programs: Vec<_> = self.storage.binary_path.iter_mut().collect();
        if let Programs::Only(list) = &mut self.storage.programs {
            programs.extend(list);
        }
        for program in programs {
            // A bare name is looked up on the search path; anything else is a place.
            if program.components().count() > 1 {
                absolute(program)?;
            }
        }
        for path in &mut self.storage.storage_roots {
            absolute(path)?;
        }
        if self.storage.search_path.is_empty() {
            self.storage.search_path = environment.search_path();
            // What lies on a relative path depends on where the agent was started.
            self.storage.search_path.retain(|path| path.is_absolute());
        }
        Ok(self)
    }

    fn check(&self, sources: &Sources) -> Result<(), ConfigError> {
        let about = |key: &str, problem: String| {
            let source = sources.of(key);
            ConfigError::about(key, &source, problem)
        };
        let Some((platform, _)) = known_platform(&self.agent.platform) else {
            let problem = format!("is `{}`, which is no platform", self.agent.platform);
            return Err(about("agent.platform", problem)
                .with_hint("The platforms are `process`, `docker`, `kubernetes` and `systemd`."));
        };
        if let Some(id) = &self.agent.agent_id
            && let Err(error) = NodeId::new(id.as_str())
        {
            return Err(
                about("agent.agent_id", format!("is `{id}`, which is no name"))
                    .with_hint(error.hint().unwrap_or_default()),
            );
        }
        if let Err(error) = self.agent.master_host.parse::<MasterAddress>() {
            return Err(about("agent.master_host", error.problem).with_hint(error.hint));
        }
        if let Some((key, owner)) = foreign::first(self, platform) {
            let problem =
                format!("is a setting of the {owner} platform, and the platform is `{platform}`");
            return Err(about(key, problem).with_hint(format!(
                "Remove it, or set `agent.platform` to `{owner}` in an agent built with the feature `platform-{owner}`."
            )));
        }
        if self.storage.binary_path.is_none() && self.storage.docker_image.is_none() {
            let of_program = [
                ("storage.args", !self.storage.args.is_empty()),
                ("storage.health_path", self.storage.health_path.is_some()),
            ];
            if let Some((key, _)) = of_program.iter().find(|(_, given)| *given) {
                return Err(
                    about(key, "belongs to a program, and none is set".to_owned()).with_hint(
                        match platform {
                            "docker" | "kubernetes" => "Set `storage.docker_image` too.",
                            _ => "Set `storage.binary_path` too.",
                        },
                    ),
                );
            }
        }
        if let Some(path) = &self.storage.health_path
            && !path.starts_with('/')
        {
            let problem = format!("is `{path}`, which is no path");
            return Err(about("storage.health_path", problem)
                .with_hint("Start it with `/`, as in `/healthz`."));
        }
        Ok(())
    }

    /// The agent's name; settings that were not [completed](Self::complete) may have none.
    pub fn agent_id(&self) -> &str {
        self.agent.agent_id.as_deref().unwrap_or("agent")
    }

    /// The program of nodes whose request names none, with its health check.
    pub fn default_program(&self) -> (Option<Program>, Option<HealthCheck>) {
        let args = || self.storage.args.iter().cloned();
        let program = match runs_images(&self.agent.platform) {
            true => self
                .storage
                .docker_image
                .as_ref()
                .map(|image| Program::image(image, args())),
            false => self
                .storage
                .binary_path
                .as_ref()
                .map(|path| Program::binary(path, args())),
        };
        let health = self.storage.health_path.as_ref().map(HealthCheck::http);
        (program, health)
    }
}

/// Whether what runs on the platform is images, and not programs of the host.
fn runs_images(platform: &str) -> bool {
    known_platform(platform).is_some_and(|(name, _)| matches!(name, "docker" | "kubernetes"))
}

fn absolute(path: &mut PathBuf) -> Result<(), ConfigError> {
    *path = std::path::absolute(Path::new(path)).map_err(|error| {
        ConfigError::new(format!(
            "cannot tell where `{}` is: {error}",
            path.display()
        ))
        .with_hint("Write the path absolute.")
    })?;
    Ok(())
}

/// The host's name made an agent's: lower case, other characters as `-`, a letter first, at most 40 characters.
fn name_of_host(host: &str) -> String {
    let first_label = host.split('.').next().unwrap_or_default();
    let mut name: String = first_label
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "agent-");
    }
    name.truncate(NodeId::MAX_LEN);
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_fit() {
        let check = |host: &str, expect: &str| {
            assert_eq!(name_of_host(host), expect);
            assert!(NodeId::new(expect).is_ok(), "{expect}");
        };
        check("web-1", "web-1");
        check("Web_1.example.com", "web-1");
        check("9front", "agent-9front");
        check("", "agent");
        check("-x-", "agent--x");
        check(&"a".repeat(60), &"a".repeat(40));
    }

    #[test]
    fn settings_made_in_code_are_completed() {
        let environment = Environment::of([("HOME", "/home/me"), ("PATH", "/opt/bin:bin")]);
        let mut settings = Settings::default();
        settings.agent.state_dir = Some("/s/agent".into());
        settings.storage.binary_path = Some("redis-server".into());
        settings.storage.programs = Programs::Only(vec!["bin/server".into(), "sh".into()]);
        let done = settings.clone().complete(&environment).unwrap();
        assert!(NodeId::new(done.agent_id()).is_ok());
        assert_eq!(done.storage.data_path, Some("/s/agent/data".into()));
        assert_eq!(done.storage.binary_path, Some("redis-server".into()));
        let place = std::path::absolute("bin/server").unwrap();
        let programs = Programs::Only(vec![place, "sh".into()]);
        assert_eq!(done.storage.programs, programs);
        assert_eq!(done.storage.search_path, [PathBuf::from("/opt/bin")]);
        assert_eq!(done.clone().complete(&environment).unwrap(), done);

        settings.agent.agent_id = Some("Not A Name".into());
        let error = settings.complete(&environment).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`agent.agent_id` is `Not A Name`, which is no name"
        );
    }
}
