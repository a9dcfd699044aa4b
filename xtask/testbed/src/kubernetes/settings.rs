//! What the processes of a cluster are told.

use std::path::Path;

use serde_json::{Value, json};

use super::pki::Pki;

/// The node's name.
pub(super) const NODE: &str = "sutra-grid-testbed";
/// Whom the cluster takes its kubelet for.
pub(super) const NODE_USER: &str = "system:node:sutra-grid-testbed";
/// The node's address, which is the loopback interface's beside its own, so that the host and its pods reach it.
pub(super) const NODE_ADDRESS: &str = "10.214.255.1";
/// The bridge that pods are at.
pub(super) const BRIDGE: &str = "sutragrid-k8s";
/// The pods' addresses, and the one of the bridge.
pub(super) const PODS: &str = "10.214.0.0/22";
pub(super) const GATEWAY: &str = "10.214.0.1/22";
/// The services' addresses; the first is the API server's.
pub(super) const SERVICES: &str = "10.214.128.0/22";
pub(super) const FIRST_SERVICE: &str = "10.214.128.1";
/// Where the API server listens.
pub(super) const API_PORT: u16 = 26443;
/// Where the kubelet listens.
pub(super) const KUBELET_PORT: u16 = 10250;
/// Where etcd listens, to this host alone, and to others of its kind.
const ETCD_PORTS: (u16, u16) = (22379, 22380);
/// Below the ports that Linux takes for outgoing connections, and above those that tests give out.
const NODE_PORTS: &str = "32100-32699";
/// More than the 110 that a node has unless it is told.
const MOST_PODS: u32 = 400;
/// The image of the process that holds a pod together.
pub(super) const PAUSE: &str = "localhost/sutra-grid-testbed/pause:1";

/// Where the API server is.
pub(super) fn server() -> String {
    format!("https://{NODE_ADDRESS}:{API_PORT}")
}

pub(super) fn etcd(dir: &Path) -> Vec<String> {
    let (clients, peers) = ETCD_PORTS;
    let clients = format!("http://127.0.0.1:{clients}");
    let peers = format!("http://127.0.0.1:{peers}");
    words(
        "etcd",
        &[
            ("name", "testbed"),
            ("data-dir", &path(dir, "etcd")),
            ("listen-client-urls", &clients),
            ("advertise-client-urls", &clients),
            ("listen-peer-urls", &peers),
            ("initial-advertise-peer-urls", &peers),
            ("initial-cluster", &format!("testbed={peers}")),
            ("log-level", "warn"),
        ],
    )
}

pub(super) fn api_server(bin: &Path, pki: &Pki) -> Vec<String> {
    words(
        &path(bin, "kube-apiserver"),
        &[
            (
                "etcd-servers",
                &format!("http://127.0.0.1:{}", ETCD_PORTS.0),
            ),
            ("bind-address", NODE_ADDRESS),
            ("secure-port", &API_PORT.to_string()),
            ("advertise-address", NODE_ADDRESS),
            ("tls-cert-file", &pki.file("apiserver.crt")),
            ("tls-private-key-file", &pki.file("apiserver.key")),
            ("client-ca-file", &pki.file("ca.crt")),
            ("token-auth-file", &pki.file("tokens.csv")),
            ("authorization-mode", "Node,RBAC"),
            ("enable-admission-plugins", "NodeRestriction"),
            ("allow-privileged", "true"),
            ("service-cluster-ip-range", SERVICES),
            ("service-node-port-range", NODE_PORTS),
            ("service-account-issuer", "https://kubernetes.default.svc"),
            (
                "service-account-signing-key-file",
                &pki.file("accounts.key"),
            ),
            ("service-account-key-file", &pki.file("accounts.pub")),
            ("kubelet-certificate-authority", &pki.file("ca.crt")),
            (
                "kubelet-client-certificate",
                &pki.file("apiserver-kubelet.crt"),
            ),
            ("kubelet-client-key", &pki.file("apiserver-kubelet.key")),
            ("kubelet-preferred-address-types", "InternalIP"),
            ("profiling", "false"),
        ],
    )
}

pub(super) fn controllers(bin: &Path, pki: &Pki) -> Vec<String> {
    let own = words(
        &path(bin, "kube-controller-manager"),
        &[
            (
                "kubeconfig",
                &pki.file("kube-controller-manager.kubeconfig"),
            ),
            ("use-service-account-credentials", "true"),
            (
                "service-account-private-key-file",
                &pki.file("accounts.key"),
            ),
            ("root-ca-file", &pki.file("ca.crt")),
            ("leader-elect", "false"),
            ("secure-port", "0"),
            ("port", "0"),
            ("enable-hostpath-provisioner", "true"),
            ("flex-volume-plugin-dir", &path(&pki.0, "flexvolume")),
            ("pvclaimbinder-sync-period", "5s"),
            // As quick as a small machine that tests keep busy allows.
            ("node-monitor-period", "2s"),
            ("node-monitor-grace-period", "20s"),
            ("kube-api-qps", "200"),
            ("kube-api-burst", "400"),
        ],
    );
    // The folders of volumes are open to the users that nodes run as.
    let open = ["sh", "-c", "umask 0 && exec \"$0\" \"$@\""];
    open.iter().map(|it| (*it).to_owned()).chain(own).collect()
}

pub(super) fn scheduler(bin: &Path, pki: &Pki) -> Vec<String> {
    words(
        &path(bin, "kube-scheduler"),
        &[
            ("kubeconfig", &pki.file("kube-scheduler.kubeconfig")),
            ("leader-elect", "false"),
            ("secure-port", "0"),
            ("port", "0"),
            ("kube-api-qps", "200"),
            ("kube-api-burst", "400"),
        ],
    )
}

pub(super) fn kubelet(bin: &Path, dir: &Path, pki: &Pki) -> Vec<String> {
    let containerd = format!("unix://{}", path(dir, "containerd.sock"));
    words(
        &path(bin, "kubelet"),
        &[
            ("config", &path(dir, "kubelet.json")),
            ("kubeconfig", &pki.file("kubelet.kubeconfig")),
            ("root-dir", &path(dir, "kubelet")),
            ("cert-dir", &path(dir, "kubelet-pki")),
            ("container-runtime", "remote"),
            ("container-runtime-endpoint", &containerd),
            ("image-service-endpoint", &containerd),
            ("hostname-override", NODE),
            ("node-ip", NODE_ADDRESS),
            ("pod-infra-container-image", PAUSE),
            // One more than by default. The collector, each minute, takes a container that is made and not started yet for a dead one:
            // with one, it then deletes the run before, which the next line of the log is in (`pkg/kubelet/kuberuntime/kuberuntime_gc.go`).
            ("maximum-dead-containers-per-container", "2"),
        ],
    )
}

pub(super) fn kubelet_settings(dir: &Path, pki: &Pki) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "port": KUBELET_PORT,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "tlsCertFile": pki.file("kubelet.crt"),
        "tlsPrivateKeyFile": pki.file("kubelet.key"),
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": pki.file("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": ["pods"],
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "resolvConf": "",
        // There is none; where the kubelet is told of none, it warns of each pod.
        "clusterDNS": ["10.214.128.10"],
        "clusterDomain": "cluster.local",
        // A test's disk may be nearly full: that is not what is looked at.
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
        "maxPods": MOST_PODS,
        "serializeImagePulls": false,
        // What would be put beside this directory.
        "featureGates": { "DevicePlugins": false },
        "volumePluginDir": path(dir, "flexvolume"),
        // As quick as it can be.
        "syncFrequency": "1s",
        "nodeStatusUpdateFrequency": "1s",
        "nodeStatusReportFrequency": "60s",
        "nodeLeaseDurationSeconds": 20,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "eventRecordQPS": 100,
        "eventBurst": 200,
    })
}

pub(super) fn proxy(bin: &Path, dir: &Path) -> Vec<String> {
    words(
        &path(bin, "kube-proxy"),
        &[("config", &path(dir, "kube-proxy.json"))],
    )
}

pub(super) fn proxy_settings(pki: &Pki) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": pki.file("kube-proxy.kubeconfig") },
        "hostnameOverride": NODE,
        "bindAddress": NODE_ADDRESS,
        "healthzBindAddress": format!("{NODE_ADDRESS}:10256"),
        "metricsBindAddress": format!("{NODE_ADDRESS}:10249"),
        "clusterCIDR": PODS,
        "mode": "iptables",
        "iptables": { "syncPeriod": "30s", "minSyncPeriod": "0s" },
        // The host's limits are left as they are.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    })
}

/// The network of pods: containerd has them join it.
pub(super) fn network(dir: &Path) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "testbed",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": path(dir, "addresses"),
                    "ranges": [[{ "subnet": PODS }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "loopback" },
        ],
    })
}

pub(super) fn containerd(dir: &Path) -> Vec<String> {
    words("containerd", &[("config", &path(dir, "containerd.toml"))])
}

pub(super) fn containerd_settings(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/containerd/root"
state = "{dir}/containerd/state"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  # Where this may not be lowered, no container could be started.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/network"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/containerd/opt"
"#
    )
}

/// The class of storage that claims get which name none.
pub(super) fn storage_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "standard",
            "annotations": { "storageclass.kubernetes.io/is-default-class": "true" },
        },
        "provisioner": "kubernetes.io/host-path",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    })
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn words(program: &str, flags: &[(&str, &str)]) -> Vec<String> {
    let flags = flags
        .iter()
        .map(|(name, value)| format!("--{name}={value}"));
    std::iter::once(program.to_owned()).chain(flags).collect()
}
