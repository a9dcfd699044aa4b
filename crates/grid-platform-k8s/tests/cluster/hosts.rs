//! Hosts that are lost: one is made that has no kubelet, and the test says what one would.

use std::{collections::BTreeMap, time::Duration};

use grid_platform_api::{
    DataPolicy, ErrorKind, FailureReason, Health, HealthCheck, NodeId, NodeState, Platform,
    SpawnConfig, SpawnedNode, StopPolicy, Timestamp,
};
use grid_platform_k8s::Toleration;
use grid_platform_testing::{Outcome, fails};
use serde_json::{Value, json};

use crate::{
    bed::Place,
    bed::stage::{Stage, said, uid},
};

/// Where hosts are.
const ALL: &str = "/api/v1/nodes";

/// The label by which one tells of which test it is: by its namespace.
const NAMESPACE: &str = "sutra-grid-test/namespace";

/// A host that nobody runs, on which only pods are put that ask for it.
struct Host<'a> {
    place: &'a Place,
    name: String,
}

impl<'a> Host<'a> {
    /// Its name in a place.
    fn name(place: &Place) -> String {
        // That of a process, so that it is known whose it is.
        let id = place.id("host");
        format!("{}-{id}", place.namespace().name())
    }

    fn make(place: &'a Place) -> Outcome<Self> {
        let (view, name) = (&place.bed.view, Self::name(place));
        // What killed runs left.
        for left in view.list(&format!("{ALL}?labelSelector={NAMESPACE}"))? {
            let meta = &left["metadata"];
            let of = meta["labels"][NAMESPACE].as_str().unwrap_or_default();
            if view.find(&format!("/api/v1/namespaces/{of}"))?.is_none() {
                let left = meta["name"].as_str().unwrap_or_default();
                view.delete(&format!("{ALL}/{left}"))?;
            }
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": {
                "kubernetes.io/hostname": name, NAMESPACE: place.namespace().name(),
            }},
            "spec": { "taints": [{ "key": "sutra-grid-test/host", "effect": "NoSchedule" }] },
        });
        view.create(ALL, &object)?;
        let host = Self { place, name };
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": now(), "lastTransitionTime": now(),
        });
        let room = json!({ "pods": "10", "cpu": "4", "memory": "4Gi" });
        let status = json!({ "status": {
            "conditions": [ready], "allocatable": room, "capacity": room,
        }});
        view.patch(&format!("{ALL}/{}/status", host.name), &status)?;
        Ok(host)
    }

    /// Says of a node's pod what its kubelet would.
    fn says(&self, id: &NodeId, status: Value) -> Outcome {
        let path = format!("{}/status", self.place.path("pods", id));
        self.place
            .bed
            .view
            .patch(&path, &json!({ "status": status }))?;
        Ok(())
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        let _ = self.place.bed.view.delete(&format!("{ALL}/{}", self.name));
    }
}

fn now() -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    json!(now.to_string())
}

/// The status of a pod that runs and is ready.
fn runs() -> Value {
    let condition =
        |name: &str| json!({ "type": name, "status": "True", "lastTransitionTime": now() });
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({
        "phase": "Running",
        "conditions": conditions,
        "containerStatuses": [{
            "name": "node", "ready": true, "started": true, "restartCount": 0,
            "image": "localhost/nobody:1", "imageID": "", "containerID": "containerd://1",
            "state": { "running": { "startedAt": now() } },
        }],
    })
}

/// An adapter whose nodes are put on that host.
async fn stage() -> Outcome<Stage> {
    let place = Place::new()?;
    let name = Host::name(&place);
    Stage::at(place, |it| {
        it.overlay.node_selector = BTreeMap::from([("kubernetes.io/hostname".to_owned(), name)]);
        // Whatever becomes of the host.
        it.overlay.tolerations = vec![Toleration {
            key: None,
            value: None,
            effect: None,
            seconds: None,
        }];
    })
    .await
}

/// Spawns, and says that it runs once it is on the host.
async fn started(stage: &Stage, host: &Host<'_>, request: &SpawnConfig) -> Outcome<SpawnedNode> {
    let id = &request.node_id;
    let say = async {
        let mut events = stage.platform.watch_nodes().await?;
        said(&mut events, id, ["Scheduled: "]).await?;
        host.says(id, runs())
    };
    let (spawned, said) = tokio::join!(stage.platform.spawn_node(request.clone()), say);
    said?;
    Ok(spawned?)
}

pub(crate) async fn an_evicted_node_says_so_and_starts_again() -> Outcome {
    let stage = stage().await?;
    let host = Host::make(&stage.place)?;
    let request = stage.probe("n", &[])?.build()?;
    let id = &request.node_id;
    let node = started(&stage, &host, &request).await?;
    assert!(node.state.is_running(), "{node:?}");
    let before = uid(&stage.place.object("pods", id)?);
    // As kubelets do where their host runs out of something.
    let full = "The node was low on resource: memory. ";
    host.says(
        id,
        json!({ "phase": "Failed", "reason": "Evicted", "message": full, "containerStatuses": null }),
    )?;
    let evicted = stage
        .wait(id, "the eviction", |it| it.state.is_ended())
        .await?;
    // As one whose pod somebody deleted: who wants it to run starts it again.
    assert_eq!(evicted.state, NodeState::Stopped { exit: None });
    let failure = evicted.last_failure.as_ref().ok_or("nothing is told")?;
    assert_eq!(failure.reason, FailureReason::Evicted, "{failure:?}");
    assert!(
        failure.message.contains(full.trim_end_matches(['.', ' '])),
        "{failure:?}"
    );
    let again = started(&stage, &host, &request).await?;
    assert!(again.state.is_running(), "{again:?}");
    assert_eq!(again.uid, node.uid);
    assert_eq!(again.last_failure.as_ref(), Some(failure), "it is told on");
    assert_ne!(uid(&stage.place.object("pods", id)?), before);
    Ok(())
}

pub(crate) async fn a_host_that_is_lost_leaves_a_stop_unconfirmed() -> Outcome {
    let stage = stage().await?;
    let host = Host::make(&stage.place)?;
    let quickly = StopPolicy {
        grace: Duration::from_secs(1),
        ..StopPolicy::default()
    };
    let request = stage.probe("n", &[])?.health(HealthCheck::tcp());
    let request = request.stop(quickly).build()?;
    let id = &request.node_id;
    let node = started(&stage, &host, &request).await?;
    assert!(node.state.is_running(), "{node:?}");
    // Nobody renews its lease: the control plane gives it up.
    let lost = stage
        .wait(id, "the loss", |it| {
            let reason = it.last_failure.as_ref().map(|it| it.reason);
            reason == Some(FailureReason::HostLost)
        })
        .await?;
    assert!(
        matches!(&lost.health, Health::Unhealthy { message } if message.contains(&host.name)),
        "{lost:?}"
    );
    assert!(!stage.platform.is_node_alive(id).await?);
    // A spawn does not start it a second time.
    let pod = uid(&stage.place.object("pods", id)?);
    stage.platform.spawn_node(request.clone()).await?;
    assert_eq!(uid(&stage.place.object("pods", id)?), pod);
    let error = fails(stage.platform.stop_node(id).await, ErrorKind::Unconfirmed)?;
    assert!(
        error.is_retryable() && error.to_string().contains(&host.name),
        "{error}"
    );
    assert!(
        error
            .hint()
            .is_some_and(|it| it.contains("two copies may live")),
        "{error:?}"
    );
    assert_eq!(
        uid(&stage.place.object("pods", id)?),
        pod,
        "it is not concluded to be gone"
    );
    // Neither is it started beside that.
    let second = stage.platform.spawn_node(request.clone()).await;
    fails(second, ErrorKind::Unconfirmed)?;
    // By force it is given up, which says so.
    stage.platform.force_stop_node(id).await?;
    assert_eq!(stage.place.find("pods", id)?, None);
    stage.platform.remove_node(id, DataPolicy::Purge).await?;
    Ok(())
}
