//! What is somebody else's in the namespace: made before the agent comes, and to be found as it was made.

use std::io;
use std::time::Duration;

use grid_platform_api::{NATIVE_PREFIX, NodeId};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::PROBE;
use super::site::Site;
use crate::Result;

/// The owner of those that have our labels.
const OTHER: &str = "0123456789abcdef0123456789abcdef";
/// How long the cluster may take to have them as they stay.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who gives no pod a host.
const NOBODY: &str = "nobody";

/// What kind of object one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Runs.
    Pod,
    /// Waits for ever: nobody has a reason to touch it.
    WaitingPod,
    Claim,
    Service,
    Secret,
    Settings,
    Lease,
}

/// Each with its name, and the node of which it says to be by our labels, if it does.
const DECOYS: [(Kind, &str, Option<&str>); 12] = [
    // Our name, and nothing of ours.
    (Kind::WaitingPod, "sutra-grid-taken-1", None),
    (Kind::Claim, "sutra-grid-taken-2", None),
    // All of ours but the owner.
    (Kind::Claim, "sutra-grid-taken-3", Some("taken-3")),
    (Kind::Pod, "sutra-grid-taken-4", Some("taken-4")),
    // Of a node that there is here too, under a name of its own.
    (Kind::WaitingPod, "somebody-elses", Some("probe-1")),
    (Kind::Claim, "somebody-elses", Some("store-0")),
    // What a node has beside its pod.
    (Kind::Service, "sutra-grid-taken-5", None),
    (Kind::Secret, "sutra-grid-taken-6", Some("taken-6")),
    // Under the name of a node that has none.
    (Kind::Secret, "sutra-grid-store-0", None),
    // Of another agent.
    (Kind::Settings, "sutra-grid.other", None),
    (Kind::Secret, "sutra-grid.other", None),
    (Kind::Lease, "sutra-grid.other", None),
];

pub(super) struct Decoys(Vec<Known>);

struct Known {
    kind: Kind,
    path: String,
    uid: String,
    /// What nobody may change.
    seen: Value,
}

impl Kind {
    fn path(self, site: &Site) -> String {
        match self {
            Self::Pod | Self::WaitingPod => site.path("pods"),
            Self::Claim => site.path("persistentvolumeclaims"),
            Self::Service => site.path("services"),
            Self::Secret => site.path("secrets"),
            Self::Settings => site.path("configmaps"),
            Self::Lease => site.path_of("apis/coordination.k8s.io/v1", "leases"),
        }
    }

    fn body(self) -> Value {
        let pod = |more: Value| {
            let mut spec = json!({
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "node",
                    "image": PROBE.as_str(),
                    "env": [{ "name": "SUTRA_DATA_PATH", "value": "/tmp" }],
                    "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
                }],
                "volumes": [{ "name": "tmp", "emptyDir": {} }],
            });
            for (key, value) in more.as_object().into_iter().flatten() {
                spec[key] = value.clone();
            }
            json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec })
        };
        match self {
            Self::Pod => pod(json!({})),
            Self::WaitingPod => pod(json!({ "schedulerName": NOBODY })),
            Self::Claim => json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "1Mi" } },
                },
            }),
            Self::Service => {
                json!({ "apiVersion": "v1", "kind": "Service", "spec": { "ports": [{ "port": 80 }] } })
            }
            Self::Secret => {
                json!({ "apiVersion": "v1", "kind": "Secret", "stringData": { "key": "value" } })
            }
            Self::Settings => {
                json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "owner": OTHER } })
            }
            Self::Lease => json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "spec": { "holderIdentity": "somebody", "leaseDurationSeconds": 15 },
            }),
        }
    }

    /// Whether the cluster has it as it stays.
    fn is_settled(self, object: &Value) -> bool {
        match self {
            Self::Pod => object["status"]["containerStatuses"][0]["ready"] == true,
            Self::Claim => {
                object["status"]["phase"] == "Bound" && object["metadata"]["finalizers"].is_array()
            }
            _ => true,
        }
    }

    /// What nobody may change.
    fn look(self, object: &Value) -> Value {
        let meta = &object["metadata"];
        match self {
            // Its host tells of it anew whenever it is asked again.
            Self::Pod => {
                let container = &object["status"]["containerStatuses"][0];
                json!([
                    meta["uid"],
                    meta["labels"],
                    meta["annotations"],
                    meta["deletionTimestamp"],
                    container["containerID"],
                    container["restartCount"],
                ])
            }
            _ => json!([meta["uid"], meta["resourceVersion"]]),
        }
    }
}

fn metadata(name: &str, node: Option<&str>) -> Value {
    let Some(node) = node else {
        return json!({ "name": name });
    };
    json!({
        "name": name,
        "labels": {
            "sutra.grid": "true",
            "sutra.node_id": node,
            "sutra.owner": OTHER,
            "sutra.node_uid": OTHER,
            "sutra.install": "other",
            "app.kubernetes.io/name": "sutra-grid-node",
            "app.kubernetes.io/instance": node,
            "app.kubernetes.io/managed-by": "sutra-grid",
        },
        "annotations": { "sutra.grid/notes": "{\"goal\":{\"kind\":\"running\"}}" },
    })
}

impl Decoys {
    /// Makes them, and waits until the cluster has them as they stay.
    pub(super) async fn make(site: &Site) -> Result<Self> {
        for (kind, name, node) in DECOYS {
            let mut body = kind.body();
            body["metadata"] = metadata(name, node);
            site.call("POST", &kind.path(site), Some(&body))?;
        }
        let until = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        for (kind, name, _) in DECOYS {
            let path = format!("{}/{name}", kind.path(site));
            let object = loop {
                let object = site.find(&path)?.ok_or("a decoy is gone")?;
                if kind.is_settled(&object) {
                    break object;
                }
                if Instant::now() >= until {
                    return Err(format!("the decoy `{path}` does not come: {object}").into());
                }
                sleep(Duration::from_millis(100)).await;
            };
            all.push(Known {
                kind,
                path,
                uid: object["metadata"]["uid"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                seen: kind.look(&object),
            });
        }
        Ok(Self(all))
    }

    pub(super) fn has(&self, uid: &str) -> bool {
        self.0.iter().any(|it| it.uid == uid)
    }

    /// Looks at each: how many are as they were, and what befell the others.
    pub(super) fn look(&self, site: &Site) -> io::Result<(u64, Vec<String>)> {
        let (mut unharmed, mut wrong) = (0, Vec::new());
        for known in &self.0 {
            let now = site.find(&known.path)?;
            let seen = now.as_ref().map(|it| known.kind.look(it));
            if seen.as_ref() == Some(&known.seen) {
                unharmed += 1;
            } else {
                wrong.push(format!(
                    "somebody else's `{}` was {} and is {seen:?}: {now:?}",
                    known.path, known.seen
                ));
            }
        }
        Ok((unharmed, wrong))
    }

    /// The ids whose names they have.
    pub(super) fn taken() -> Vec<NodeId> {
        let names = DECOYS
            .iter()
            .filter_map(|(_, name, _)| name.strip_prefix(NATIVE_PREFIX))
            .filter(|it| it.starts_with("taken-"));
        names.filter_map(|it| NodeId::new(it).ok()).collect()
    }
}
