//! What a node uses: the cluster's metrics API, where there is one.

use std::sync::atomic::Ordering;

use grid_platform_api::{Error, NodeId, NodeUsage, Result, Timestamp};
use kube::core::response::reason;
use serde::Deserialize;

use crate::{
    access::Access,
    error::{Fault, PLATFORM},
    platform::Inner,
    registry::Entry,
    translate::{CONTAINER, quantity},
};

/// The metrics API, which is an add-on of a cluster.
const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// What the metrics API says of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodMetrics {
    timestamp: Option<Timestamp>,
    containers: Vec<ContainerMetrics>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerMetrics {
    name: String,
    usage: Amounts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Amounts {
    memory: Option<String>,
}

/// Whether the cluster has the metrics API.
///
/// # Errors
/// When that cannot be told: neither the API server answers, nor what it would ask.
pub(crate) async fn has_metrics(access: &Access) -> Result<bool> {
    match get::<serde_json::Value>(access, METRICS).await {
        Ok(_) => Ok(true),
        Err(fault) if fault.is_not_found() => Ok(false),
        Err(fault) => Err(fault.into_error()),
    }
}

/// [`Platform::get_usage`](grid_platform_api::Platform::get_usage). The processor's time is not told, as the metrics API knows a rate alone,
/// and neither is the disk's.
pub(crate) async fn read(inner: &Inner, entry: &Entry) -> Result<NodeUsage> {
    // It may have been installed since, or taken away.
    let has = &inner.has_metrics;
    if !has.load(Ordering::Relaxed) {
        if !has_metrics(&inner.access).await? {
            return Err(unsupported());
        }
        has.store(true, Ordering::Relaxed);
    }
    let limit = entry.record().and_then(|it| it.config.memory_limit_mb);
    let mut used = NodeUsage {
        at: Timestamp::now(),
        cpu_time_ms: None,
        memory_bytes: Some(0),
        memory_limit_bytes: limit.map(|mb| mb.saturating_mul(1024 * 1024)),
        disk_bytes: None,
        processes: None,
    };
    // A node without a pod uses nothing.
    if let Some(pod) = entry.own_pod() {
        let Some(metrics) = measured(&inner.access, &pod.node_id).await? else {
            has.store(false, Ordering::Relaxed);
            return Err(unsupported());
        };
        used.memory_bytes = metrics.memory();
        used.at = metrics.timestamp.unwrap_or(used.at);
    }
    Ok(used)
}

/// What is measured of a node's pod; `None` where there is no metrics API.
async fn measured(access: &Access, id: &NodeId) -> Result<Option<PodMetrics>> {
    let (namespace, pod) = (&access.namespace, id.native_name());
    let path = format!("{METRICS}/namespaces/{namespace}/pods/{pod}");
    match get(access, &path).await {
        Ok(metrics) => Ok(Some(metrics)),
        // The API is there, and has not measured it yet.
        Err(fault) if fault.is_not_found() && fault.reason() == reason::NOT_FOUND => {
            Ok(Some(PodMetrics::default()))
        }
        // Nobody is there to give a reason.
        Err(fault) if fault.is_not_found() => Ok(None),
        Err(fault) => Err(fault.into_error()),
    }
}

/// The error where there is no metrics API.
fn unsupported() -> Error {
    Error::unsupported(PLATFORM, "tell what a node uses")
        .with_hint("Install the cluster's metrics server.")
}

async fn get<T: serde::de::DeserializeOwned>(access: &Access, path: &str) -> Result<T, Fault> {
    let what = "ask the metrics API";
    let request = hyper::Request::get(path).body(Vec::new());
    let request = request.map_err(|it| access.fault(what, kube::Error::HttpError(it)))?;
    access.call(what, access.client.request(request)).await
}

impl PodMetrics {
    /// The memory of the node's container, in bytes; `None` while it is not measured.
    fn memory(&self) -> Option<u64> {
        let node = self.containers.iter().find(|it| it.name == CONTAINER)?;
        let bytes = quantity(node.usage.memory.as_deref()?)?;
        // The cast keeps to what the type holds.
        Some(bytes.ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_container_is_measured() {
        let check = |json: serde_json::Value, memory: Option<u64>| {
            let metrics: PodMetrics = serde_json::from_value(json).unwrap();
            assert_eq!(metrics.memory(), memory, "{metrics:?}");
        };
        let of = |name: &str, usage: serde_json::Value| {
            serde_json::json!({
                "kind": "PodMetrics",
                "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {"name": "sutra-grid-n", "namespace": "grid"},
                "timestamp": "2026-01-02T03:04:05Z",
                "window": "15s",
                "containers": [
                    {"name": "proxy", "usage": {"cpu": "1", "memory": "1Gi"}},
                    {"name": name, "usage": usage},
                ],
            })
        };
        let usage = |memory: &str| serde_json::json!({"cpu": "12345n", "memory": memory});
        check(of("node", usage("1234Ki")), Some(1234 * 1024));
        check(of("node", usage("12Mi")), Some(12 << 20));
        check(of("node", usage("4096")), Some(4096));
        check(of("node", usage("1500m")), Some(2));
        check(of("node", usage("129e6")), Some(129_000_000));
        check(of("node", usage("0")), Some(0));
        check(of("node", usage("")), None);
        check(of("node", usage("much")), None);
        check(of("node", serde_json::json!({"cpu": "1m"})), None);
        check(of("other", usage("1Ki")), None);
        check(serde_json::json!({}), None);
    }
}
