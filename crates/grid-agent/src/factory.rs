//! Platforms by name.

use std::{path::PathBuf, sync::Arc};

use grid_platform_api::{
    Check, Error, ErrorKind, Platform, Result,
    wrap::{Limit, Trace},
};

use crate::settings::{
    DockerSection, KubernetesSection, PortRange, Programs, Settings, known_platform,
};

/// How many spawns, and how many stops and removes, run at a time.
const CONCURRENT: usize = 16;

/// The namespace of an agent whose settings name none.
#[cfg(feature = "platform-kubernetes")]
const NAMESPACE: &str = "sutra-grid";

/// What [`create_platform`] makes a platform of; each platform takes what it knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlatformConfig {
    /// The program of nodes whose request names none; it is allowed to them. Empty: there is none.
    pub binary_path: String,
    /// Where the platform keeps its state: records, logs, its install id.
    pub state_dir: PathBuf,
    /// Where nodes that name no path have their data.
    pub data_path: PathBuf,
    /// Beneath which directories a request may name a path; empty: beneath `data_path`.
    pub storage_roots: Vec<PathBuf>,
    /// Which programs a request may name besides `binary_path`.
    pub programs: Programs,
    /// Which users a request may name besides the agent's own.
    pub users: Vec<String>,
    /// Where a program's bare name is looked up; empty: the platform's own choice.
    pub search_path: Vec<PathBuf>,
    /// From which ports a port of 0 is allocated; `None` is the platform's own choice.
    pub port_range: Option<PortRange>,
    /// The image of nodes whose request names none.
    pub docker_image: Option<String>,
    /// The engine, and what is allowed of it.
    pub docker: DockerSection,
    /// The namespace; `None` is `sutra-grid`.
    pub k8s_namespace: Option<String>,
    /// The kubeconfig file; `None` is the account of the pod that this is in.
    pub k8s_kubeconfig: Option<PathBuf>,
    /// The objects of nodes in the cluster, and what is allowed of it.
    pub kubernetes: KubernetesSection,
}

impl PlatformConfig {
    /// What the agent's settings say.
    pub fn of(settings: &Settings) -> Self {
        let storage = &settings.storage;
        let state = settings.agent.state_dir.clone().unwrap_or_default();
        let name = known_platform(&settings.agent.platform).map_or("process", |(name, _)| name);
        Self {
            binary_path: storage
                .binary_path
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            state_dir: state.join(name),
            data_path: storage
                .data_path
                .clone()
                .unwrap_or_else(|| state.join("data")),
            storage_roots: storage.storage_roots.clone(),
            programs: storage.programs.clone(),
            users: storage.users.clone(),
            search_path: storage.search_path.clone(),
            port_range: storage.port_range,
            docker_image: storage.docker_image.clone(),
            docker: settings.docker.clone(),
            k8s_namespace: storage.k8s_namespace.clone(),
            k8s_kubeconfig: storage.k8s_kubeconfig.clone(),
            kubernetes: settings.kubernetes.clone(),
        }
    }
}

/// Makes the platform of that name, with spans around its calls and a bound on how many run at a time.
///
/// The names are `process` (also `desktop`), `docker`, `kubernetes` (also `k8s`) and `systemd`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use grid_agent::{PlatformConfig, create_platform};
///
/// let config = PlatformConfig {
///     k8s_namespace: Some("sutra-grid".to_string()),
///     ..Default::default()
/// };
/// // There is no cluster without a kubeconfig, and in an agent without the feature no such platform.
/// let error = create_platform("kubernetes", config).await.err().unwrap();
/// let hint = error.hint().unwrap();
/// assert!(hint.contains("k8s_kubeconfig") || hint.contains("platform-kubernetes"));
/// # }
/// ```
///
/// # Errors
/// `InvalidConfig` for a name that is none; `Unsupported`, with the feature's name, for a platform that is not compiled
/// in; the platform's own when it cannot be opened.
pub async fn create_platform(name: &str, config: PlatformConfig) -> Result<Arc<dyn Platform>> {
    let Some((platform, feature)) = known_platform(name) else {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("`{}` is no platform", name.escape_debug()),
        )
        .with_hint("The platforms are `process`, `docker`, `kubernetes` and `systemd`."));
    };
    let inner = match platform {
        "process" => process(config).await?,
        "docker" => docker(config).await?,
        "kubernetes" => kubernetes(config).await?,
        _ => return Err(not_there_yet(platform, feature)),
    };
    let limited = Limit::new(inner, CONCURRENT);
    Ok(Arc::new(Trace::new(Arc::new(limited))))
}

fn not_there_yet(platform: &'static str, feature: &str) -> Error {
    let message = format!("this version has no {platform} platform yet");
    Error::new(ErrorKind::Unsupported, message)
        .with_platform(platform)
        .with_hint(format!(
            "It will be the feature `{feature}`; until then use `process`."
        ))
}

#[cfg(not(feature = "platform-process"))]
async fn process(_: PlatformConfig) -> Result<Arc<dyn Platform>> {
    let message = "the process platform is not compiled into this agent";
    Err(Error::new(ErrorKind::Unsupported, message)
        .with_platform("process")
        .with_hint("Build it with `cargo build --release --features platform-process`."))
}

#[cfg(feature = "platform-process")]
async fn process(config: PlatformConfig) -> Result<Arc<dyn Platform>> {
    use grid_platform_process::{Allow, ProcessConfig, ProcessPlatform};

    let mut process = ProcessConfig::new(config.state_dir, config.data_path);
    process.storage_roots = config.storage_roots;
    process.users = config.users;
    process.programs = match config.programs {
        Programs::Any => Allow::Any,
        Programs::Only(mut list) => {
            if !config.binary_path.is_empty() {
                list.push(config.binary_path.into());
            }
            Allow::Only(list)
        }
    };
    if !config.search_path.is_empty() {
        process.search_path = config.search_path;
    }
    if let Some(range) = config.port_range {
        process.port_range = (range.first, range.last);
    }
    Ok(Arc::new(ProcessPlatform::open(process).await?))
}

#[cfg(not(feature = "platform-docker"))]
async fn docker(_: PlatformConfig) -> Result<Arc<dyn Platform>> {
    let message = "the docker platform is not compiled into this agent";
    Err(Error::new(ErrorKind::Unsupported, message)
        .with_platform("docker")
        .with_hint("Build it with `cargo build --release --features platform-docker`."))
}

#[cfg(feature = "platform-docker")]
async fn docker(config: PlatformConfig) -> Result<Arc<dyn Platform>> {
    use grid_platform_docker::{Allow, DockerConfig, DockerPlatform, Pull, Security};

    use crate::settings::{Images, PullPolicy};

    let section = config.docker;
    let mut docker = DockerConfig::new(config.state_dir, config.data_path);
    docker.storage_roots = config.storage_roots;
    docker.users = config.users;
    docker.images = match section.images {
        Images::Any => Allow::Any,
        Images::Only(mut list) => {
            list.extend(config.docker_image);
            Allow::Only(list)
        }
    };
    docker.host = section.host;
    docker.context = section.context;
    docker.cert_path = section.cert_path;
    docker.config_file = section.config_file;
    docker.pull = match section.pull {
        PullPolicy::IfMissing => Pull::IfMissing,
        PullPolicy::Always => Pull::Always,
        PullPolicy::Never => Pull::Never,
    };
    docker.image_archive = section.image_archive;
    docker.network = section.network;
    docker.advertise_address = section.advertise_address;
    if let Some(user) = section.user {
        docker.user = user;
    }
    if let Some(mib) = section.log_max_mb {
        docker.log_max_bytes = u64::from(mib) << 20;
    }
    let security = section.security;
    docker.security = Security {
        run_as_image_user: security.run_as_image_user,
        cap_add: security.cap_add,
        writable_root: security.writable_root,
        allow_new_privileges: security.allow_new_privileges,
    };
    if let Some(range) = config.port_range {
        docker.port_range = (range.first, range.last);
    }
    Ok(Arc::new(DockerPlatform::open(docker).await?))
}

#[cfg(not(feature = "platform-kubernetes"))]
async fn kubernetes(_: PlatformConfig) -> Result<Arc<dyn Platform>> {
    let message = "the kubernetes platform is not compiled into this agent";
    Err(Error::new(ErrorKind::Unsupported, message)
        .with_platform("kubernetes")
        .with_hint("Build it with `cargo build --release --features platform-kubernetes`."))
}

#[cfg(feature = "platform-kubernetes")]
async fn kubernetes(config: PlatformConfig) -> Result<Arc<dyn Platform>> {
    let config = cluster(config);
    Ok(Arc::new(
        grid_platform_k8s::KubernetesPlatform::open(config).await?,
    ))
}

/// Looks at what a platform needs without opening it, where opening it would change something that is not on this host;
/// `None` where it would not.
#[cfg(feature = "platform-kubernetes")]
pub(crate) async fn look(name: &str, config: PlatformConfig) -> Option<Result<Vec<Check>>> {
    known_platform(name).filter(|(name, _)| *name == "kubernetes")?;
    Some(grid_platform_k8s::KubernetesPlatform::look(&cluster(config)).await)
}

/// As with the platforms that are looked at without opening them: there is none in this agent.
#[cfg(not(feature = "platform-kubernetes"))]
pub(crate) async fn look(_: &str, _: PlatformConfig) -> Option<Result<Vec<Check>>> {
    None
}

/// What the adapter is told of the cluster and of what is allowed there.
#[cfg(feature = "platform-kubernetes")]
fn cluster(config: PlatformConfig) -> grid_platform_k8s::KubernetesConfig {
    use grid_platform_k8s::{Allow, KubernetesConfig, Overlay, ServiceKind, Toleration};

    use crate::settings::{Images, ServiceKind as Service};

    let section = config.kubernetes;
    let namespace = config.k8s_namespace.unwrap_or_else(|| NAMESPACE.to_owned());
    let mut cluster = KubernetesConfig::new(namespace);
    cluster.kubeconfig = config.k8s_kubeconfig;
    cluster.context = section.context;
    cluster.users = config.users;
    cluster.advertise_address = section.advertise_address;
    cluster.images = match section.images {
        Images::Any => Allow::Any,
        Images::Only(mut list) => {
            list.extend(config.docker_image);
            Allow::Only(list)
        }
    };
    if let Some(install) = section.install {
        cluster.install = install;
    }
    if let Some(user) = section.user {
        cluster.user = user;
    }
    if let Some(seconds) = section.start_timeout_s {
        cluster.start_timeout_s = seconds;
    }
    let toleration = |it: crate::settings::TolerationSection| Toleration {
        key: it.key,
        value: it.value,
        effect: it.effect,
        seconds: it.seconds,
    };
    let overlay = section.overlay;
    cluster.overlay = Overlay {
        storage_class: overlay.storage_class,
        storage_size_mb: overlay.storage_size_mb,
        node_selector: overlay.node_selector,
        tolerations: overlay.tolerations.into_iter().map(toleration).collect(),
        affinity: overlay.affinity,
        pull_secrets: overlay.pull_secrets,
        service_account: overlay.service_account,
        annotations: overlay.annotations,
        service: match overlay.service {
            Service::ClusterIp => ServiceKind::ClusterIp,
            Service::Headless => ServiceKind::Headless,
            Service::NodePort => ServiceKind::NodePort,
        },
    };
    cluster
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_platform_that_is_not_there_names_its_feature() {
        for (name, feature) in [
            #[cfg(not(feature = "platform-docker"))]
            ("docker", "platform-docker"),
            #[cfg(not(feature = "platform-kubernetes"))]
            ("k8s", "platform-kubernetes"),
            #[cfg(not(feature = "platform-kubernetes"))]
            ("kubernetes", "platform-kubernetes"),
            ("systemd", "platform-systemd"),
        ] {
            let result = create_platform(name, PlatformConfig::default()).await;
            let error = result.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
            assert!(error.hint().unwrap().contains(feature), "{name}");
        }
        let error = create_platform("dokcer", PlatformConfig::default())
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
}
