//! Objects of a node's name that are somebody else's, and those that are being deleted.

use futures::future::try_join_all;
use grid_platform_api::{DataPolicy, ErrorKind, NodeId, Platform, SpawnConfig};
use grid_platform_testing::{Failed, Outcome, eventually, fails};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::bed::stage::{MOMENT, PATIENCE, Stage, text, uid};

/// What a node's objects are, and what errors call them.
const KINDS: [(&str, &str); 4] = [
    ("pods", "pod"),
    ("services", "service"),
    ("secrets", "secret"),
    ("persistentvolumeclaims", "persistentvolumeclaim"),
];

/// An object that somebody else made under a node's name. Nothing of the cluster's own does anything with it.
fn decoy(kind: &str, id: &NodeId, labels: &Value) -> Value {
    let (what, own) = match kind {
        "pods" => {
            let container = json!({ "name": "node", "image": "localhost/nobody:1" });
            let spec = json!({ "schedulerName": "nobody", "containers": [container] });
            ("Pod", json!({ "spec": spec }))
        }
        "services" => {
            let port = json!({ "port": 80 });
            let spec = json!({ "ports": [port], "selector": { "is": "mine" } });
            ("Service", json!({ "spec": spec }))
        }
        "secrets" => ("Secret", json!({ "data": { "mine": "bWluZQ==" } })),
        _ => {
            let size = json!({ "requests": { "storage": "1Mi" } });
            let spec = json!({
                "storageClassName": "nowhere", "accessModes": ["ReadWriteOnce"], "resources": size,
            });
            ("PersistentVolumeClaim", json!({ "spec": spec }))
        }
    };
    let mut object = own;
    object["apiVersion"] = json!("v1");
    object["kind"] = json!(what);
    object["metadata"] = json!({ "name": id.native_name(), "labels": labels });
    object
}

/// Whether a spawn, a stop and a remove leave everything as it is, whichever object is somebody else's.
async fn left_alone(labels: impl Fn(&NodeId) -> Value) -> Outcome {
    let stage = &Stage::open().await?;
    let (place, platform) = (&stage.place, &stage.platform);
    let cases = KINDS.map(|(kind, what)| {
        let id = place.id(kind);
        let labels = labels(&id);
        async move {
            let before = place.make(kind, &decoy(kind, &id, &labels))?;
            let request = stage.probe(kind, &[])?.secret("password", "one".into());
            let request = request.build()?;
            let error = fails(
                platform.spawn_node(request.clone()).await,
                ErrorKind::OwnedByOther,
            )?;
            let name = format!("the {what} `{}`", id.native_name());
            assert!(error.to_string().contains(&name), "{error}");
            assert!(error.hint().is_some_and(|it| it.contains("--show-labels")));
            let stopped = platform
                .stop_node(&id)
                .await
                .err()
                .ok_or("it was stopped")?;
            let expect = match kind {
                "persistentvolumeclaims" => ErrorKind::OwnedByOther,
                _ => ErrorKind::NotFound,
            };
            assert_eq!(stopped.kind(), expect, "{stopped}");
            platform.remove_node(&id, DataPolicy::Purge).await?;
            // And once more, after a remove.
            fails(platform.spawn_node(request).await, ErrorKind::OwnedByOther)?;
            assert_eq!(place.object(kind, &id)?, before);
            // What was made for the node that did not come to be is gone.
            for (other, _) in KINDS.into_iter().filter(|it| it.0 != kind) {
                let found = place.find(other, &id)?;
                let is_left = found.is_some_and(|it| it["metadata"]["deletionTimestamp"].is_null());
                assert!(!is_left, "{other} of {id} is left");
            }
            Outcome::Ok(())
        }
    });
    try_join_all(cases).await?;
    assert_eq!(platform.list_nodes().await?, []);
    assert_eq!(platform.list_data().await?, []);
    Ok(())
}

pub(crate) async fn what_somebody_else_made_is_left_alone() -> Outcome {
    left_alone(|_| json!({ "app": "mine" })).await
}

pub(crate) async fn what_another_agent_made_is_left_alone() -> Outcome {
    left_alone(|id| {
        json!({
            "sutra.grid": "true",
            "sutra.node_id": id.as_str(),
            "sutra.owner": "0123456789abcdef0123456789abcdef",
            "sutra.node_uid": "00000000000000000000000000000000",
            "app.kubernetes.io/managed-by": "sutra-grid",
        })
    })
    .await
}

/// Spawns while something keeps what is in the way. It goes on only when that is let go.
async fn spawned_behind(
    stage: &Stage,
    request: SpawnConfig,
    held: &[&str],
) -> Outcome<Vec<(String, String)>> {
    let id = &request.node_id;
    let mut before = Vec::new();
    for kind in held {
        let object = stage.place.object(kind, id)?;
        let is_going = !text(&object, "/metadata/deletionTimestamp").is_empty();
        assert!(is_going, "the {kind} are not being deleted");
        before.push(((*kind).to_owned(), uid(&object)));
    }
    let spawn = stage.platform.spawn_node(request.clone());
    let let_go = async {
        sleep(MOMENT).await;
        for (kind, uid_before) in &before {
            assert_eq!(uid(&stage.place.object(kind, id)?), *uid_before, "{kind}");
            stage.place.release(kind, id)?;
        }
        Outcome::Ok(())
    };
    let (spawned, let_go) = tokio::join!(spawn, let_go);
    let_go?;
    assert!(spawned?.state.is_running());
    Ok(before)
}

pub(crate) async fn what_is_being_deleted_is_waited_out() -> Outcome {
    let stage = Stage::open().await?;
    let request = stage.probe("n", &[])?.secret("password", "one".into());
    let request = request.build()?;
    let id = request.node_id.clone();
    stage.platform.spawn_node(request.clone()).await?;
    for kind in ["pods", "services", "secrets"] {
        stage.place.hold(kind, &id)?;
    }
    // A remove waits for the pod, whatever keeps it.
    let pod = uid(&stage.place.object("pods", &id)?);
    let let_go = async {
        let gone = || async {
            let object = stage.place.object("pods", &id)?;
            // The kubelet is done with it, which takes its grace period away.
            let grace = &object["metadata"]["deletionGracePeriodSeconds"];
            Ok((*grace == 0).then_some(object))
        };
        let left = eventually(PATIENCE, "the pod's end", gone).await?;
        assert_eq!(uid(&left), pod);
        let claim = stage.place.object("persistentvolumeclaims", &id)?;
        assert!(!claim["metadata"]["annotations"]["sutra.grid/record"].is_null());
        stage.place.release("pods", &id)
    };
    let remove = stage.platform.remove_node(&id, DataPolicy::Purge);
    let (removed, let_go) = tokio::join!(remove, let_go);
    let_go?;
    removed?;
    assert_eq!(stage.place.find("pods", &id)?, None);
    let before = spawned_behind(&stage, request, &["services", "secrets"]).await?;
    for (kind, uid_before) in before {
        assert_ne!(uid(&stage.place.object(&kind, &id)?), uid_before, "{kind}");
    }
    Ok(())
}

pub(crate) async fn a_claim_that_is_being_deleted_is_waited_out() -> Outcome {
    let stage = Stage::open().await?;
    let request = stage.probe("n", &["upto=1", "put=key:old"])?.build()?;
    let id = request.node_id.clone();
    stage.platform.spawn_node(request.clone()).await?;
    stage.platform.remove_node(&id, DataPolicy::Keep).await?;
    let kind = "persistentvolumeclaims";
    stage.place.hold(kind, &id)?;
    stage.place.delete(kind, &id, false)?;
    let data = stage.platform.list_data().await?;
    assert_eq!(data.len(), 1, "{data:?}");
    let before = spawned_behind(&stage, request.clone(), &[kind]).await?;
    let claim = stage.place.object(kind, &id)?;
    assert_ne!(uid(&claim), before[0].1);
    // It is another volume: what the first one had is gone with it.
    let boots = eventually(PATIENCE, "the first boot", || async {
        let boots = stage.place.boots(&id)?;
        Ok((!boots.is_empty()).then_some(boots))
    })
    .await?;
    match boots.as_slice() {
        [only] if only.number == 1 => Ok(()),
        other => Err(Failed::new(format!("{other:?}"))),
    }
}
