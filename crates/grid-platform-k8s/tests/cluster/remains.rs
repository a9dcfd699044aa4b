//! What an agent leaves that was killed between two calls, and an agent that lives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use grid_platform_api::{DataPolicy, ErrorKind, NodeId, NodeState, Platform, Timestamp};
use grid_platform_testing::{Failed, Outcome, eventually, fails};
use serde_json::{Value, json};

use crate::{
    bed::Place,
    bed::stage::{PATIENCE, Stage, text, uid},
};

pub(crate) async fn a_node_without_its_pod_is_listed_and_starts_on_its_data() -> Outcome {
    let stage = Stage::open().await?;
    let actions = ["upto=1", "put=key:kept"];
    let request = stage.probe("n", &actions)?.secret("password", "one".into());
    let request = request.build()?;
    let id = request.node_id.clone();
    let node = stage.platform.spawn_node(request.clone()).await?;
    assert_eq!(stage.ask(&node, "boot").await?, "1");
    let place = stage.close();
    // As it is when the agent was killed behind the claim; for the rest of the objects somebody cleaned up.
    for kind in ["pods", "services", "secrets"] {
        place.delete(kind, &id, true)?;
    }
    let gone = || async { Ok(place.census(&id)?.is_empty().then_some(())) };
    eventually(PATIENCE, "the program's end", gone).await?;

    let stage = Stage::at(place, |_| {}).await?;
    let listed = stage.platform.list_nodes().await?;
    let shown: Vec<_> = listed.iter().map(|it| (&it.node_id, &it.uid)).collect();
    assert_eq!(shown, [(&id, &node.uid)]);
    assert_eq!(listed[0].state, NodeState::Stopped { exit: None });
    let again = stage.platform.spawn_node(request).await?;
    assert_eq!(again.uid, node.uid);
    assert_eq!(stage.ask(&again, "get=key").await?, "kept");
    assert_eq!(stage.ask(&again, "secret=password").await?, "440 one");
    // Its service is another one by now, and the record has its address.
    let service = stage.place.object("services", &id)?;
    let host = again.endpoint.as_ref().map(|it| it.host.as_str());
    assert_eq!(host, Some(text(&service, "/spec/clusterIP")));
    assert_eq!(stage.place.boots(&id)?.len(), 2);
    Ok(())
}

pub(crate) async fn a_record_that_somebody_edited_is_no_node_that_went() -> Outcome {
    let stage = Stage::open().await?;
    let request = stage.probe("n", &[])?.secret("password", "one".into());
    let request = request.build()?;
    let id = request.node_id.clone();
    let node = stage.platform.spawn_node(request.clone()).await?;
    let kinds = ["pods", "services", "secrets", "persistentvolumeclaims"];
    let uids = |place: &Place| -> Outcome<Vec<String>> {
        let uids = kinds.map(|kind| Ok(uid(&place.object(kind, &id)?)));
        uids.into_iter().collect()
    };
    let before = uids(&stage.place)?;
    let claim = stage.place.object("persistentvolumeclaims", &id)?;
    let notes = claim["metadata"]["annotations"]["sutra.grid/notes"].clone();
    let edit = |place: &Place, notes: &Value| {
        let change = json!({ "metadata": { "annotations": { "sutra.grid/notes": notes } } });
        place.change("persistentvolumeclaims", &id, &change)
    };
    edit(&stage.place, &json!("whatever"))?;
    let stage = Stage::at(stage.close(), |_| {}).await?;
    let platform = &stage.platform;
    let purge = DataPolicy::Purge;
    fails(platform.get_node_status(&id).await, ErrorKind::Corrupt)?;
    let spawned = fails(platform.spawn_node(request).await, ErrorKind::Corrupt)?;
    assert!(
        spawned.to_string().contains("sutra.grid/notes"),
        "{spawned}"
    );
    fails(platform.stop_node(&id).await, ErrorKind::Corrupt)?;
    fails(platform.remove_node(&id, purge).await, ErrorKind::Corrupt)?;
    assert_eq!(uids(&stage.place)?, before, "all of it is left as it is");
    assert_eq!(stage.ask(&node, "boot").await?, "1");
    // Put back as it was it is the node again, which has run all the time.
    edit(&stage.place, &notes)?;
    let again = stage
        .wait(&id, "the node", |it| it.state.is_running())
        .await?;
    assert_eq!(again.uid, node.uid);
    assert_eq!(uids(&stage.place)?, before);
    Ok(())
}

/// A secret, a service and a pod as the adapter makes them, with no claim beside them.
fn orphans(place: &Place, owner: &Value, id: &NodeId) -> Outcome<Vec<(&'static str, String)>> {
    let install = place.own_config().install;
    let labels = json!({
        "sutra.grid": "true", "sutra.node_id": id.as_str(), "sutra.owner": owner,
        "sutra.node_uid": "0123456789abcdef0123456789abcdef", "sutra.install": install,
    });
    let metadata = json!({ "name": id.native_name(), "labels": labels });
    let object = |kind: &str, part: &str, value: Value| json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, part: value });
    let ports = json!({ "ports": [{ "name": "main", "port": 20000 }] });
    let container = json!({ "name": "node", "image": "localhost/nobody:1" });
    let pod = json!({ "schedulerName": "nobody", "containers": [container] });
    let all = [
        (
            "secrets",
            object("Secret", "data", json!({ "old": "b2xk" })),
        ),
        ("services", object("Service", "spec", ports)),
        ("pods", object("Pod", "spec", pod)),
    ];
    let made = all.map(|(kind, it)| Ok((kind, uid(&place.make(kind, &it)?))));
    made.into_iter().collect()
}

/// The owner of what an adapter makes here.
async fn owner(stage: &Stage) -> Outcome<Value> {
    let install = &stage.platform.config().install;
    let map = format!("configmaps/sutra-grid.{install}");
    let map = stage
        .place
        .bed
        .view
        .find(&stage.place.namespace().path(&map))?;
    Ok(map.ok_or("there is no ConfigMap")?["data"]["owner"].clone())
}

pub(crate) async fn what_belongs_to_no_node_is_taken_away() -> Outcome {
    let stage = Stage::open().await?;
    let owner = owner(&stage).await?;
    let place = stage.close();
    let id = place.id("orphan");
    orphans(&place, &owner, &id)?;
    // Of a name that only looks like it.
    let other = place.id("other");
    let mine = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": other.native_name() },
    });
    place.make("secrets", &mine)?;
    let stage = Stage::at(place, |_| {}).await?;
    for kind in ["secrets", "services"] {
        assert_eq!(stage.place.find(kind, &id)?, None, "{kind}");
    }
    // What takes longer is gone on with behind the open.
    let gone = || async { Ok(stage.place.find("pods", &id)?.is_none().then_some(())) };
    eventually(PATIENCE, "the pod's end", gone).await?;
    assert!(
        stage.place.find("secrets", &other)?.is_some(),
        "it is no node's"
    );
    assert_eq!(stage.platform.list_nodes().await?, []);
    Ok(())
}

pub(crate) async fn what_is_in_the_way_of_a_spawn_and_ours_is_replaced() -> Outcome {
    let stage = Stage::open().await?;
    let owner = owner(&stage).await?;
    let request = stage.probe("n", &[])?.secret("password", "one".into());
    let request = request.build()?;
    let id = request.node_id.clone();
    let before = orphans(&stage.place, &owner, &id)?;
    let node = stage.platform.spawn_node(request).await?;
    assert_eq!(stage.ask(&node, "secret=password").await?, "440 one");
    for (kind, uid_before) in before {
        let object = stage.place.object(kind, &id)?;
        assert_ne!(uid(&object), uid_before, "{kind}");
        let of = &object["metadata"]["labels"]["sutra.node_uid"];
        assert_eq!(of, node.uid.as_str(), "{kind}");
    }
    Ok(())
}

/// Somebody's lease that is renewed from elsewhere until this is dropped.
struct Elsewhere(
    Arc<AtomicBool>,
    Option<std::thread::JoinHandle<Result<(), String>>>,
);

impl Elsewhere {
    fn hold(place: &Place, holder: &str) -> Outcome<Self> {
        let install = place.own_config().install;
        let name = format!("sutra-grid.{install}");
        let now = || json!(format!("{:.6}", Timestamp::now()));
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": name,
                "labels": { "sutra.grid": "true", "sutra.install": install },
            },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": now() },
        });
        let view = place.bed.view.clone();
        let api = "apis/coordination.k8s.io/v1";
        view.create(&place.namespace().path_of(api, "leases"), &lease)?;
        let path = place.namespace().path_of(api, &format!("leases/{name}"));
        let goes_on = Arc::new(AtomicBool::new(true));
        let watched = Arc::clone(&goes_on);
        let renewing = std::thread::spawn(move || {
            while watched.load(Ordering::Relaxed) {
                view.patch(&path, &json!({ "spec": { "renewTime": now() } }))?;
                std::thread::park_timeout(Duration::from_secs(2));
            }
            Ok(())
        });
        Ok(Self(goes_on, Some(renewing)))
    }

    fn end(mut self) -> Outcome {
        self.0.store(false, Ordering::Relaxed);
        let renewing = self.1.take().ok_or("it has ended")?;
        renewing.thread().unpark();
        let ended = renewing.join().map_err(|_| "it broke")?;
        ended.map_err(Failed::new)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

pub(crate) async fn a_lease_of_an_agent_that_lives_is_not_taken() -> Outcome {
    let place = Place::new()?;
    let elsewhere = Elsewhere::hold(&place, "host-7/another-boot/pid:[1]/4242/17/nonce")?;
    let opened = grid_platform_k8s::KubernetesPlatform::open(place.own_config()).await;
    let error = fails(opened.map(drop), ErrorKind::StateLocked)?;
    place.note(&place.own_config().install);
    assert!(
        error.to_string().contains("process 4242 on `host-7`"),
        "{error}"
    );
    assert!(
        error.to_string().contains(place.namespace().name()),
        "{error}"
    );
    assert!(
        error
            .hint()
            .is_some_and(|it| it.contains("kubernetes.install"))
    );
    // One that is silent is followed.
    elsewhere.end()?;
    let platform = place.open(place.own_config()).await?;
    assert_eq!(platform.list_nodes().await?, []);
    drop(platform);
    Ok(())
}
