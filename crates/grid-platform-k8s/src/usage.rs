//! What a node uses: the cluster's metrics API, where there is one.

use std::sync::atomic::{AtomicBool, Ordering};

use grid_platform_api::{Error, ErrorKind, NodeId, NodeUsage, Result, Timestamp};
use serde::Deserialize;

use crate::{
    access::Access,
    error::{Fault, PLATFORM, error},
    platform::Inner,
    registry::Entry,
    translate::{CONTAINER, ContainerState, quantity},
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

/// The metrics API, as far as is known of it.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    is_there: AtomicBool,
}

impl Metrics {
    /// Whether the cluster had it when it was asked last.
    pub(crate) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Relaxed)
    }

    /// Whether the cluster has it, asked now; `None` where the caller may not ask that.
    ///
    /// # Errors
    /// When it does not answer, or the API server does not.
    pub(crate) async fn look(&self, access: &Access) -> Result<Option<bool>> {
        let fault = match get::<serde_json::Value>(access, METRICS).await {
            Ok(_) => return Ok(Some(self.know(true))),
            Err(fault) => fault,
        };
        match fault.status() {
            Some(404) => Ok(Some(self.know(false))),
            Some(403) => {
                self.know(true);
                Ok(None)
            }
            _ => Err(self.told(fault)),
        }
    }

    /// What is measured of a node's pod; of one that is not yet measured, nothing.
    async fn measured(&self, access: &Access, id: &NodeId) -> Result<PodMetrics> {
        let (namespace, pod) = (&access.namespace, id.native_name());
        let path = format!("{METRICS}/namespaces/{namespace}/pods/{pod}");
        let fault = match get(access, &path).await {
            Ok(metrics) => {
                self.know(true);
                return Ok(metrics);
            }
            Err(fault) => fault,
        };
        match fault.status() {
            // The answers where there is no such pod and where there is no such API differ by the server's version, and who
            // may not ask for metrics is told so where there are none too.
            Some(403 | 404) if self.look(access).await? == Some(false) => Err(unsupported()),
            Some(404) => Ok(PodMetrics::default()),
            _ => Err(self.told(fault)),
        }
    }

    fn know(&self, is_there: bool) -> bool {
        self.is_there.store(is_there, Ordering::Relaxed);
        is_there
    }

    /// The error of a request. With 503 the API server says that whoever serves the API does not answer.
    fn told(&self, fault: Fault) -> Error {
        if fault.status() != Some(503) {
            return fault.into_error();
        }
        self.know(true);
        let words = fault.message();
        let message = format!("the cluster's metrics API does not answer: {words}");
        error(ErrorKind::Unavailable, message)
            .with_hint("`kubectl get apiservice v1beta1.metrics.k8s.io` says why.")
    }
}

/// [`Platform::get_usage`](grid_platform_api::Platform::get_usage). The processor's time is not told, as the metrics API knows a rate alone,
/// and neither is the disk's.
pub(crate) async fn read(inner: &Inner, entry: &Entry) -> Result<NodeUsage> {
    let (access, metrics) = (&inner.access, &inner.metrics);
    let limit = entry.record().and_then(|it| it.config.memory_limit_mb);
    let mut used = NodeUsage {
        at: Timestamp::now(),
        cpu_time_ms: None,
        memory_bytes: Some(0),
        memory_limit_bytes: limit.map(|mb| mb.saturating_mul(1024 * 1024)),
        disk_bytes: None,
        processes: None,
    };
    let pod = entry.own_pod();
    let Some((pod, ContainerState::Running { started_at })) =
        pod.map(|it| (it, &it.container.state))
    else {
        // What does not run uses nothing.
        let is_there = metrics.is_there() || metrics.look(access).await? != Some(false);
        return is_there.then_some(used).ok_or_else(unsupported);
    };
    let found = metrics.measured(access, &pod.node_id).await?;
    used.memory_bytes = found.memory_since(*started_at);
    if used.memory_bytes.is_some() {
        used.at = found.timestamp.unwrap_or(used.at);
    }
    Ok(used)
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
    /// The same, of a run that began then: what an earlier one used is told until it is measured anew.
    fn memory_since(&self, started_at: Option<Timestamp>) -> Option<u64> {
        let is_earlier = self
            .timestamp
            .zip(started_at)
            .is_some_and(|(at, started)| at < started);
        self.memory().filter(|_| !is_earlier)
    }

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
    use hyper::{Request, Response, StatusCode};
    use kube::client::Body;

    use super::*;
    use crate::transport;

    /// An API server with such answers to discovery and about pods.
    fn server(api: (u16, &'static str), pod: (u16, &'static str)) -> Access {
        let service = tower::service_fn(move |request: Request<Body>| async move {
            let is_of_a_pod =
                request.uri().path() == format!("{METRICS}/namespaces/grid/pods/sutra-grid-n");
            let (code, text) = if is_of_a_pod { pod } else { api };
            let mut answer = Response::new(Body::from(text.as_bytes().to_vec()));
            *answer.status_mut() = StatusCode::from_u16(code).unwrap();
            Ok::<_, std::io::Error>(answer)
        });
        let (client, calls) = transport::client_of(service, "grid");
        Access::with_client(client, "grid", calls)
    }

    #[tokio::test]
    async fn each_answer_is_told_from_the_others() {
        const MEASURED: (u16, &str) = (
            200,
            r#"{"containers": [{"name": "node", "usage": {"memory": "1Ki"}}]}"#,
        );
        const API: (u16, &str) = (200, r#"{"kind": "APIResourceList"}"#);
        const DOWN: (u16, &str) = (503, "service unavailable");
        const DENIED: (u16, &str) = (
            403,
            r#"{"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "pods.metrics.k8s.io \"n\" is forbidden: User \"u\" cannot get resource \"pods\" in API group \"metrics.k8s.io\" in the namespace \"grid\""}"#,
        );
        // Servers up to v1.37 answer so where nobody serves an API, and later ones as of an object that is not there.
        const PAGE: (u16, &str) = (404, "404 page not found\n");
        const ABSENT: (u16, &str) = (
            404,
            r#"{"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "the server could not find the requested resource"}"#,
        );
        let id = NodeId::new("n").unwrap();
        let check = async |api,
                           pod,
                           expect: std::result::Result<Option<u64>, ErrorKind>,
                           is_there: bool| {
            for was_there in [false, true] {
                let metrics = Metrics {
                    is_there: AtomicBool::new(was_there),
                };
                let found = metrics.measured(&server(api, pod), &id).await;
                let found = found.map(|it| it.memory()).map_err(|e| e.kind());
                assert_eq!(
                    (found, metrics.is_there()),
                    (expect, is_there),
                    "{api:?} {pod:?}"
                );
            }
        };
        check(API, MEASURED, Ok(Some(1024)), true).await;
        // Who may not ask what there is may have been given this.
        check(DENIED, MEASURED, Ok(Some(1024)), true).await;
        check(API, ABSENT, Ok(None), true).await;
        check(DENIED, ABSENT, Ok(None), true).await;
        check(API, DENIED, Err(ErrorKind::PermissionDenied), true).await;
        check(API, DOWN, Err(ErrorKind::Unavailable), true).await;
        check(DOWN, DOWN, Err(ErrorKind::Unavailable), true).await;
        for nobody in [PAGE, ABSENT] {
            check(nobody, nobody, Err(ErrorKind::Unsupported), false).await;
            check(nobody, DENIED, Err(ErrorKind::Unsupported), false).await;
        }
    }

    #[test]
    fn what_an_earlier_run_used_is_not_this_ones() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let container = ContainerMetrics {
            name: CONTAINER.to_owned(),
            usage: Amounts {
                memory: Some("1Ki".to_owned()),
            },
        };
        let measured = PodMetrics {
            timestamp: Some(at("2026-01-02T03:04:05Z")),
            containers: vec![container],
        };
        let since = |text| measured.memory_since(Some(at(text)));
        assert_eq!(since("2026-01-02T03:04:05Z"), Some(1024));
        assert_eq!(since("2026-01-02T03:04:06Z"), None);
        assert_eq!(measured.memory_since(None), Some(1024));
    }

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
