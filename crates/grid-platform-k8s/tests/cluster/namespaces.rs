//! What a namespace may have, and what becomes of nodes in one that goes.

use futures::StreamExt;
use grid_platform_api::{Error, ErrorKind, FailureReason, NodeEvent, Platform};
use grid_platform_testing::{Failed, Outcome, eventually, fails};
use grid_testbed::kubernetes::View;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    bed::Place,
    bed::stage::{PATIENCE, Stage},
};

/// Sets what a namespace may have, and returns once that holds.
async fn limit(place: &Place, name: &str, hard: Value) -> Outcome {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": { "name": name }, "spec": { "hard": hard },
    });
    place.make("resourcequotas", &quota)?;
    let path = place.namespace().path(&format!("resourcequotas/{name}"));
    // Until a controller has counted what is used, the server says so instead.
    eventually(PATIENCE, "the quota", || async {
        let quota = place.bed.view.find(&path)?.unwrap_or_default();
        Ok((quota["status"]["hard"] == hard).then_some(()))
    })
    .await
}

async fn lift(place: &Place, name: &str) -> Outcome {
    let path = format!("resourcequotas/{name}");
    let view = &place.bed.view;
    Ok(view.delete(&place.namespace().path(&path))?)
}

pub(crate) async fn a_quota_is_a_reason_with_its_figures() -> Outcome {
    let stage = Stage::at(Place::apart()?, |_| {}).await?;
    let place = &stage.place;
    limit(place, "no-pods", json!({ "pods": "0" })).await?;
    let request = stage.probe("n", &[])?.build()?;
    let id = request.node_id.clone();
    let refused = stage.platform.spawn_node(request.clone()).await;
    let error = fails(refused, ErrorKind::SpawnFailed)?;
    let failure = error.failure().ok_or("no failure")?;
    assert_eq!(failure.reason, FailureReason::QuotaExceeded, "{error}");
    assert!(
        failure.message.contains("exceeded quota: no-pods"),
        "{error}"
    );
    let node = stage.platform.get_node_status(&id).await?;
    assert_eq!(node.state.failure(), Some(failure), "it is listed");
    lift(place, "no-pods").await?;

    limit(place, "memory", json!({ "limits.memory": "64Mi" })).await?;
    let large = stage.probe("large", &[])?.memory_limit_mb(96).build()?;
    let error = fails(
        stage.platform.spawn_node(large).await,
        ErrorKind::SpawnFailed,
    )?;
    let failure = error.failure().ok_or("no failure")?;
    assert_eq!(failure.reason, FailureReason::QuotaExceeded, "{error}");
    assert!(
        failure.message.contains("limited: limits.memory=64Mi"),
        "{error}"
    );
    lift(place, "memory").await?;
    // The quota's cache is some seconds behind.
    let again = eventually(PATIENCE, "a start without quota", || async {
        match stage.platform.spawn_node(request.clone()).await {
            Ok(node) => Ok(Some(node)),
            Err(e)
                if e.failure()
                    .is_some_and(|it| it.reason == FailureReason::QuotaExceeded) =>
            {
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    })
    .await?;
    assert_eq!(again.uid, node.uid);
    assert!(again.state.is_running());

    // What is refused before there is a claim leaves nothing.
    let count = json!({ "persistentvolumeclaims": "2" });
    limit(place, "claims", count).await?;
    let one_more = stage.probe("more", &[])?.secret("password", "one".into());
    let one_more = one_more.build()?;
    let id = one_more.node_id.clone();
    let refused = stage.platform.spawn_node(one_more).await;
    let error = fails(refused, ErrorKind::Exhausted)?;
    assert!(error.to_string().contains("the quota `claims`"), "{error}");
    for kind in ["pods", "services", "secrets", "persistentvolumeclaims"] {
        assert_eq!(place.find(kind, &id)?, None, "{kind}");
    }
    fails(
        stage.platform.get_node_status(&id).await,
        ErrorKind::NotFound,
    )?;
    Ok(())
}

pub(crate) async fn a_limit_that_a_quota_wants_is_asked_for() -> Outcome {
    let stage = Stage::at(Place::apart()?, |_| {}).await?;
    limit(&stage.place, "memory", json!({ "limits.memory": "64Mi" })).await?;
    let request = stage.probe("n", &[])?.build()?;
    let id = request.node_id.clone();
    let refused = stage.platform.spawn_node(request).await;
    let error = fails(refused, ErrorKind::SpawnFailed)?;
    let failure = error.failure().ok_or("no failure")?;
    assert_eq!(failure.reason, FailureReason::LimitUnavailable, "{error}");
    assert!(
        failure.message.contains("must specify limits.memory"),
        "{error}"
    );
    assert!(
        error.hint().is_some_and(|it| !it.contains("role.yaml")),
        "{error:?}"
    );
    let node = stage.platform.get_node_status(&id).await?;
    assert_eq!(node.state.failure(), Some(failure), "it is listed");
    // What has the limit runs.
    let small = stage.probe("small", &[])?.memory_limit_mb(32).build()?;
    let small = stage.platform.spawn_node(small).await?;
    assert_eq!(stage.ask(&small, "boot").await?, "1");
    Ok(())
}

/// What keeps a namespace in its last state when that is deleted, until this is dropped.
struct Held<'a>(&'a View, String);

impl<'a> Held<'a> {
    fn make(place: &'a Place) -> Outcome<Self> {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "held", "finalizers": ["sutra-grid-test/held"] },
        });
        place.make("configmaps", &object)?;
        let path = place.namespace().path("configmaps/held");
        Ok(Self(&place.bed.view, path))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self
            .0
            .patch(&self.1, &json!({ "metadata": { "finalizers": null } }));
    }
}

pub(crate) async fn a_namespace_that_is_deleted_takes_no_node() -> Outcome {
    let stage = Stage::at(Place::apart()?, |_| {}).await?;
    let place = &stage.place;
    let namespace = place.namespace().name();
    let node = stage
        .platform
        .spawn_node(stage.probe("n", &[])?.build()?)
        .await?;
    let mut events = stage.platform.watch_nodes().await?;
    let held = Held::make(place)?;
    place.namespace().delete()?;
    let told = |error: Error| {
        let gone = format!("the namespace `{namespace}` is being deleted");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.to_string().contains(&gone), "{error:?}");
        let mend = format!("`kubectl create namespace {namespace}`");
        assert!(
            error.hint().is_some_and(|it| it.contains(&mend)),
            "{error:?}"
        );
    };
    let in_time = async |what: &str, name: &str| {
        let request = stage.probe(name, &[])?.secret("password", "one".into());
        match timeout(PATIENCE, stage.platform.spawn_node(request.build()?)).await {
            Ok(spawned) => Ok(spawned.err().ok_or("it was spawned")?),
            Err(_) => Err(Failed::new(format!("{what} hangs"))),
        }
    };
    told(in_time("a spawn", "late").await?);
    // The node goes with its namespace, and who watches is told.
    let removed = async {
        while let Some(event) = events.next().await {
            if let NodeEvent::Removed { node_id, uid } = event?
                && node_id == node.node_id
            {
                return Ok(uid);
            }
        }
        Err(Failed::new("the events ended"))
    };
    let removed = timeout(PATIENCE, removed).await;
    assert_eq!(removed.map_err(|_| "it is not told")??, node.uid);
    assert_eq!(stage.platform.list_nodes().await?, []);
    assert!(!stage.platform.is_node_alive(&node.node_id).await?);
    fails(
        stage.platform.stop_node(&node.node_id).await,
        ErrorKind::NotFound,
    )?;
    // By now the lease is gone too.
    told(in_time("a spawn without lease", "later").await?);
    let other = place.config("other");
    let opened = timeout(PATIENCE, grid_platform_k8s::KubernetesPlatform::open(other)).await;
    told(
        opened
            .map_err(|_| "an open hangs")?
            .err()
            .ok_or("it was opened")?,
    );

    drop(held);
    Ok(())
}
