//! `[kubernetes]`: what of a cluster is the agent's to say.

use std::{
    collections::BTreeMap,
    env::{join_paths, split_paths},
    path::PathBuf,
};

use grid_config::{ConfigError, Environment};
use serde::{Deserialize, Serialize};

use super::Images;

/// `[kubernetes]`: of the kubernetes platform, beside `storage.k8s_namespace` and `storage.k8s_kubeconfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesSection {
    /// Which of several agents in one namespace this is; it names their ConfigMap, Secret and Lease. Left out,
    /// `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
    /// The context of the kubeconfig; left out, its current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Which images a request may name besides `storage.docker_image`: `"any"`, or a list.
    pub images: Images,
    /// Who nodes run as whose request names no user: `UID` or `UID:GID`, numbers, not root's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The host name or address in endpoints of the service kind `node-port`; left out, the address of the pod's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_address: Option<String>,
    /// How long a start waits for a place, an image and a volume, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timeout_s: Option<u64>,
    /// What is added to the objects of every node.
    pub overlay: OverlaySection,
}

/// `[kubernetes.overlay]`: what the agent's owner adds to the objects of every node. No request can change it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OverlaySection {
    /// What kind of service leads to a node's ports.
    pub service: ServiceKind,
    /// The storage class of claims; left out, the cluster's default class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// The size of a claim whose request names none, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_size_mb: Option<u64>,
    /// Labels that a host has to have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods bear.
    pub tolerations: Vec<TolerationSection>,
    /// `spec.affinity` of pods, as Kubernetes has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<serde_json::Value>,
    /// The names of secrets with credentials of image registries.
    pub pull_secrets: Vec<String>,
    /// The service account of pods; its token is never mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Annotations of pods, services and claims.
    pub annotations: BTreeMap<String, String>,
}

/// `[[kubernetes.overlay.tolerations]]`: a taint that pods bear.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TolerationSection {
    /// The taint's key; left out, every taint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The taint's value; left out, whatever value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; left out, every effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// How long a `NoExecute` taint is borne, in seconds; left out, for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
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

impl KubernetesSection {
    /// The first key that is not at its default.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let default = Self::default();
        macro_rules! given {
            ($($key:ident)*) => {
                [$((concat!("kubernetes.", stringify!($key)), self.$key != default.$key)),*]
            };
        }
        let given = given![
            install context images user advertise_address start_timeout_s overlay
        ];
        given.into_iter().find(|(_, it)| *it).map(|(key, _)| key)
    }
}

/// The kubeconfig as `kubectl` finds it: the file or files of `KUBECONFIG`, else `~/.kube/config` if there is one.
/// `None` leaves the account of the pod that the agent is in. Paths become absolute.
///
/// # Errors
/// A path of which nobody can tell where it is.
pub(super) fn kubeconfig(environment: &Environment) -> Result<Option<PathBuf>, ConfigError> {
    let Some(listed) = environment.path_of("KUBECONFIG") else {
        let own = environment.home().map(|it| it.join(".kube/config"));
        return Ok(own.filter(|it| it.is_file()));
    };
    let mut files: Vec<PathBuf> = split_paths(&listed)
        .filter(|it| !it.as_os_str().is_empty())
        .collect();
    for file in &mut files {
        super::absolute(file)?;
    }
    let joined = join_paths(files).map_err(|error| {
        ConfigError::new(format!("the variable `KUBECONFIG` cannot be used: {error}"))
            .with_hint("Name one file by `storage.k8s_kubeconfig`.")
    })?;
    Ok(Some(joined.into()).filter(|it: &PathBuf| !it.as_os_str().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_is_found_as_kubectl_finds_it() {
        let home = tempfile::tempdir().unwrap();
        let check = |variables: &[(&str, &str)], expect: Option<&str>| {
            let found = kubeconfig(&Environment::of(variables.iter().copied())).unwrap();
            assert_eq!(found, expect.map(PathBuf::from), "{variables:?}");
        };
        let at = home.path().to_str().unwrap();
        check(&[], None);
        check(&[("HOME", at)], None);
        let own = home.path().join(".kube/config");
        std::fs::create_dir(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "").unwrap();
        check(&[("HOME", at)], own.to_str());
        check(&[("HOME", at), ("KUBECONFIG", "/k")], Some("/k"));
        check(&[("KUBECONFIG", "/k:/l::")], Some("/k:/l"));
        check(&[("KUBECONFIG", ":")], None);
        let here = std::path::absolute("k").unwrap();
        check(&[("KUBECONFIG", "k")], here.to_str());
    }

    #[test]
    fn every_key_is_missed_where_it_is_given() {
        let json = serde_json::json!({
            "install": "x", "context": "x", "images": "any", "user": "1", "advertise_address": "x",
            "start_timeout_s": 1,
            "overlay": {
                "service": "node-port", "storage_class": "x", "storage_size_mb": 1, "node_selector": {"a": "b"},
                "tolerations": [{"key": "a"}], "affinity": {"nodeAffinity": {}}, "pull_secrets": ["x"],
                "service_account": "x", "annotations": {"a": "b"},
            },
        });
        assert_eq!(KubernetesSection::default().first_given(), None);
        let all: KubernetesSection = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(
            serde_json::to_value(&all).unwrap(),
            json,
            "none is forgotten"
        );
        for (key, value) in json.as_object().unwrap() {
            let one = serde_json::json!({ key: value });
            let section: KubernetesSection = serde_json::from_value(one).unwrap();
            let expect = format!("kubernetes.{key}");
            assert_eq!(section.first_given(), Some(expect.as_str()));
        }
    }

    #[test]
    fn kinds_of_services_are_written_as_the_adapter_writes_them() {
        for (kind, text) in [
            (ServiceKind::ClusterIp, "cluster-ip"),
            (ServiceKind::Headless, "headless"),
            (ServiceKind::NodePort, "node-port"),
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), text);
        }
    }
}
