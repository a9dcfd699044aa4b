//! What a cluster's own parts do: admission, whoever binds claims and keeps them while a pod uses them, and the kubelet of its one host.

use std::time::Duration;

use grid_platform_api::Timestamp;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Fake, objects::Objects, request::Asked};
use crate::translate::CONTAINER;

/// How long a pod takes to start, and to end.
const START: Duration = Duration::from_millis(40);
const END: Duration = Duration::from_millis(30);
/// How much later the kubelet tells of an end than of the start before it, when it is slow.
pub(crate) const LATE: Duration = Duration::from_secs(4);
/// How long a claim takes to be bound, and to be let go.
const CLAIM: Duration = Duration::from_millis(10);
/// What keeps a claim that is in use.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// How the host and what is before it behave.
#[derive(Default)]
pub(crate) struct Host {
    /// A container is put into each pod, before the others, which never is ready.
    pub(crate) has_sidecar: bool,
    /// What the program of each pod wrote last.
    pub(crate) says: Option<&'static str>,
    /// The runtime cannot execute the program of any pod. The kubelet tells of the end some time after it told of the start.
    pub(crate) cannot_execute: bool,
}

impl Host {
    /// What admission makes of an object.
    pub(super) fn admit(&self, resource: &str, object: &mut Value) {
        match resource {
            "persistentvolumeclaims" => {
                object["metadata"]["finalizers"] = json!([PROTECTION]);
                object["status"] = json!({"phase": "Pending"});
            }
            "services" if object["spec"]["clusterIP"].is_null() => {
                object["spec"]["clusterIP"] = "10.96.0.7".into();
            }
            "pods" => {
                object["status"] = json!({"phase": "Pending"});
                let containers = object["spec"]["containers"].as_array_mut().unwrap();
                if self.has_sidecar {
                    containers.insert(0, json!({"name": "proxy", "image": "proxy:1"}));
                }
            }
            _ => {}
        }
    }

    /// What a container wrote.
    pub(super) fn log(&self, container: &str) -> String {
        let said = match self.says {
            Some(words) => words.to_owned(),
            None => format!("{container} says so"),
        };
        format!("2026-01-02T03:04:05.000000001Z {said}\n")
    }

    /// The status of a pod that runs.
    fn running(&self) -> Value {
        let now = Timestamp::now().to_string();
        let container = |name: &str, ready: bool| {
            json!({
                "name": name, "ready": ready, "started": true, "restartCount": 0,
                "image": "demo:1", "imageID": "sha256:00", "containerID": format!("runtime://{name}"),
                "state": {"running": {"startedAt": now}}, "lastState": {},
            })
        };
        let mut containers = vec![container(CONTAINER, true)];
        if self.has_sidecar {
            containers.insert(0, container("proxy", false));
        }
        let all = if self.has_sidecar { "False" } else { "True" };
        json!({
            "phase": "Running", "podIP": "10.1.0.9", "hostIP": "10.0.0.1",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
                {"type": "ContainersReady", "status": all, "lastTransitionTime": now},
                {"type": "Ready", "status": all, "lastTransitionTime": now},
            ],
            "containerStatuses": containers,
        })
    }
}

/// An object that is still the one with that uid.
fn same(objects: &Objects, resource: &str, name: &str, uid: &Value) -> Option<Value> {
    let there = objects.get(resource, name)?;
    (there["metadata"]["uid"] == *uid).then(|| there.clone())
}

fn is_going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Whether a pod has a claim among its volumes.
fn uses(pod: &Value, claim: &str) -> bool {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut claims = volumes.map(|it| &it["persistentVolumeClaim"]["claimName"]);
    claims.any(|it| it == claim)
}

impl Fake {
    /// What the cluster does because of a request that was done.
    pub(super) fn follow_up(&self, asked: &Asked) {
        let name = match asked.verb {
            "POST" => asked.body["metadata"]["name"].as_str().map(str::to_owned),
            "DELETE" => asked.name.clone(),
            _ => None,
        };
        let Some(name) = name else {
            return;
        };
        let Some(object) = self.get(&asked.resource, &name) else {
            self.let_claims_go();
            return;
        };
        let (this, uid) = (self.clone(), object["metadata"]["uid"].clone());
        match (asked.verb, asked.resource.as_str()) {
            ("POST", "pods") => drop(tokio::spawn(async move {
                sleep(START).await;
                let is_executed = this.start(&name, &uid);
                if !is_executed {
                    sleep(LATE).await;
                    this.fail(&name, &uid);
                }
            })),
            ("DELETE", "pods") => drop(tokio::spawn(async move {
                sleep(END).await;
                this.end(&name, &uid);
            })),
            ("POST", "persistentvolumeclaims") => drop(tokio::spawn(async move {
                sleep(CLAIM).await;
                this.bind(&name, &uid);
            })),
            ("DELETE", "persistentvolumeclaims") => drop(tokio::spawn(async move {
                sleep(CLAIM).await;
                this.let_claims_go();
            })),
            _ => {}
        }
    }

    /// Tells of a pod's start; says whether its program was executed.
    fn start(&self, name: &str, uid: &Value) -> bool {
        let mut state = self.state();
        if same(&state.objects, "pods", name, uid).is_some_and(|it| !is_going(&it)) {
            let status = state.host.running();
            state.objects.edit("pods", name, |it| {
                it["spec"]["nodeName"] = "host-1".into();
                it["status"] = status;
            });
            state.tell();
        }
        !state.host.cannot_execute
    }

    /// Tells of the end of a program that could not be executed.
    fn fail(&self, name: &str, uid: &Value) {
        let mut state = self.state();
        if same(&state.objects, "pods", name, uid).is_some() {
            state.objects.edit("pods", name, |it| {
                let statuses = it["status"]["containerStatuses"].as_array_mut();
                let mut statuses = statuses.into_iter().flatten();
                let status = statuses.find(|it| it["name"] == CONTAINER).unwrap();
                status["ready"] = false.into();
                status["state"] = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
            });
            state.tell();
        }
    }

    fn end(&self, name: &str, uid: &Value) {
        let mut state = self.state();
        if same(&state.objects, "pods", name, uid).is_some() {
            let now = Timestamp::now().to_string();
            state.objects.edit("pods", name, |it| {
                let statuses = it["status"]["containerStatuses"].as_array_mut();
                for status in statuses.into_iter().flatten() {
                    let began = status["state"]["running"]["startedAt"].clone();
                    status["ready"] = false.into();
                    status["state"] = json!({"terminated": {
                        "exitCode": 0, "reason": "Completed", "startedAt": began, "finishedAt": now,
                    }});
                }
            });
            state.objects.remove("pods", name);
            state.tell();
        }
        drop(state);
        self.let_claims_go();
    }

    fn bind(&self, name: &str, uid: &Value) {
        let mut state = self.state();
        if same(&state.objects, "persistentvolumeclaims", name, uid).is_some() {
            state.objects.edit("persistentvolumeclaims", name, |it| {
                it["status"]["phase"] = "Bound".into();
            });
            state.tell();
        }
    }

    /// Takes away the claims that are deleted and that no pod uses.
    fn let_claims_go(&self) {
        let mut state = self.state();
        for claim in state.objects.all("persistentvolumeclaims") {
            let name = claim["metadata"]["name"].as_str().unwrap();
            let is_used = state.objects.all("pods").iter().any(|it| uses(it, name));
            if is_going(&claim) && !is_used {
                state.objects.remove("persistentvolumeclaims", name);
            }
        }
        state.tell();
    }
}
