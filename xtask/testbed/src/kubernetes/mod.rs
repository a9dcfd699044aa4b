//! A Kubernetes cluster of one node that is the tests' own, and eyes on any cluster that share nothing with the adapter.

mod cluster;
mod host;
mod namespace;
mod parts;
mod pki;
mod pods;
mod settings;
mod view;

pub use cluster::Cluster;
pub use namespace::{Namespace, ServedApi, sweep_dead};
pub use parts::{Part, Paused};
pub use pods::{folder_of, processes_of};
pub use view::View;

/// The version of the servers.
pub const VERSION: &str = "1.20.2";

/// The programs of Kubernetes that a cluster is made of, as they are built.
pub const PROGRAMS: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "pause",
];

/// The programs of Debian's that a cluster needs, and their packages.
pub const NEEDS: &[(&str, &str)] = &[
    ("kubectl", "kubernetes-client"),
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
];

/// The variable of the environment by which clients are told of a cluster that is there.
pub const VARIABLE: &str = "KUBECONFIG";

/// A name for these bytes that others do not get.
pub fn short_sum(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let sum = Sha256::digest(bytes);
    sum.iter().take(5).map(|it| format!("{it:02x}")).collect()
}

/// A view of the cluster that tests use: the one that `KUBECONFIG` names, else this host's own.
///
/// # Errors
/// Why there is none, as part of a sentence.
pub fn find() -> Result<View, String> {
    if let Some(config) = std::env::var_os(VARIABLE).filter(|it| !it.is_empty()) {
        return View::of(config.as_ref()).map_err(|why| format!("`{VARIABLE}` is set, and {why}"));
    }
    Cluster::of_host().look()
}
