//! The adapter's settings.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use grid_platform_api::Result;
use serde::{Deserialize, Serialize};

mod check;

/// The size of a claim that nobody says one of, in MiB.
pub(crate) const DEFAULT_STORAGE_MB: u64 = 1024;
/// `nonroot` of the images that have no users of their own, and its group.
pub(crate) const NOBODY: (i64, i64) = (65_532, 65_532);

/// Which images may be nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allow {
    /// Any image: for who runs the adapter for requests of his own.
    Any,
    /// These, as a request writes them. An empty list allows none.
    Only(Vec<String>),
}

impl Default for Allow {
    /// None at all: an agent's owner names what may run.
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

/// What kind of service leads to a node's ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// An address within the cluster.
    #[default]
    ClusterIp,
    /// A name within the cluster that leads to the pod itself.
    Headless,
    /// A port of every host of the cluster.
    NodePort,
}

/// A taint that a node's pod bears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    /// The taint's key; `None` is every taint.
    #[serde(default)]
    pub key: Option<String>,
    /// The taint's value; `None` is whatever value.
    #[serde(default)]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; `None` is every effect.
    #[serde(default)]
    pub effect: Option<String>,
    /// How long a `NoExecute` taint is borne, in seconds; `None` is for ever.
    #[serde(default)]
    pub seconds: Option<u32>,
}

/// What the cluster's owner adds to the objects of every node. No request can change it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overlay {
    /// The storage class of claims; `None` is the cluster's default class.
    pub storage_class: Option<String>,
    /// The size of a claim whose request names none, in MiB; `None` is 1024.
    pub storage_size_mb: Option<u64>,
    /// Labels that a host has to have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods bear.
    pub tolerations: Vec<Toleration>,
    /// `spec.affinity` of pods, as Kubernetes has it; `None` is none.
    pub affinity: Option<serde_json::Value>,
    /// The names of secrets with credentials of image registries.
    pub pull_secrets: Vec<String>,
    /// The service account of pods; its token is never mounted.
    pub service_account: Option<String>,
    /// Annotations of pods, services and claims.
    pub annotations: BTreeMap<String, String>,
    /// What kind of service leads to a node's ports.
    pub service: ServiceKind,
}

/// The settings of a `KubernetesPlatform`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The namespace of everything that the adapter makes. It has to exist.
    pub namespace: String,
    /// Which of several installations in one namespace this is; it names their ConfigMap, Secret and Lease.
    #[serde(default = "default_install")]
    pub install: String,
    /// The kubeconfig; `None` is the pod's own account within a cluster.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; `None` is its current one.
    #[serde(default)]
    pub context: Option<String>,
    /// Which images may be nodes.
    #[serde(default)]
    pub images: Allow,
    /// Who nodes run as whose request names no user: `UID` or `UID:GID`, numbers, not root's.
    #[serde(default = "default_user")]
    pub user: String,
    /// Which users a request may name, by number, besides the one of `user`: `UID` or `UID:GID`, one for each group that a user
    /// may be in.
    #[serde(default)]
    pub users: Vec<String>,
    /// The host name or address in endpoints of the service kind `node-port`; `None` is the address of the pod's host.
    #[serde(default)]
    pub advertise_address: Option<String>,
    /// How long a spawn waits for a place, an image and a volume, in seconds.
    #[serde(default = "default_start_timeout")]
    pub start_timeout_s: u64,
    /// What is added to the objects of every node.
    #[serde(default)]
    pub overlay: Overlay,
}

fn default_install() -> String {
    "default".to_owned()
}

fn default_user() -> String {
    format!("{}:{}", NOBODY.0, NOBODY.1)
}

fn default_start_timeout() -> u64 {
    300
}

impl KubernetesConfig {
    /// Everything at its default but the namespace.
    pub fn new(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            install: default_install(),
            kubeconfig: None,
            context: None,
            images: Allow::default(),
            user: default_user(),
            users: Vec::new(),
            advertise_address: None,
            start_timeout_s: default_start_timeout(),
            overlay: Overlay::default(),
        }
    }

    /// How long a spawn waits for a place, an image and a volume.
    pub(crate) fn start_timeout(&self) -> Duration {
        Duration::from_secs(self.start_timeout_s)
    }

    /// The user and group of [`user`](Self::user), as numbers.
    pub(crate) fn account(&self) -> Option<(i64, i64)> {
        pair(&self.user)
    }

    /// Checks all that can be checked without a cluster.
    ///
    /// # Errors
    /// `InvalidConfig` for the first fault found, with a hint.
    pub(crate) fn validate(&self) -> Result<()> {
        check::check(self)
    }
}

/// The number of a user or group, as far as the cluster takes them.
pub(crate) fn number(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let number: i64 = digits.then(|| text.parse().ok())??;
    (number <= i64::from(i32::MAX)).then_some(number)
}

/// The numbers of `UID` or `UID:GID`, of no root. A user without a group is its own group.
pub(crate) fn pair(text: &str) -> Option<(i64, i64)> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    let user = number(user).filter(|it| *it > 0)?;
    Some((user, number(group)?))
}
