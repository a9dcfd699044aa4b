//! Why a node does not run, in the cluster's own words.

use std::collections::BTreeMap;

use grid_platform_api::{
    DataPolicy, ErrorKind, FailureReason, NodeState, Platform, Program, RestartMode, SpawnedNode,
};
use grid_platform_testing::{BadProgram, Outcome, eventually, fails};
use serde_json::json;

use crate::bed::{
    Place,
    stage::{PATIENCE, Stage, said, text, uid},
};

/// Whether the node waits for something of this kind, and says so.
fn waits_for(node: &SpawnedNode, reason: FailureReason) -> bool {
    let why = node.last_failure.as_ref().map(|it| it.reason);
    node.state == NodeState::Pending && why == Some(reason)
}

/// What a node says of how it last ended, or why it does not run.
fn words(node: &SpawnedNode) -> &str {
    let failure = node.last_failure.as_ref();
    failure.map_or("", |it| it.message.as_str())
}

pub(crate) async fn an_image_that_is_nowhere_is_named() -> Outcome {
    let stage = Stage::with(|it| it.start_timeout_s = 300).await?;
    let image = stage.place.bed.bad_image(BadProgram::NoImage)?;
    let mut request = stage.probe("n", &[])?.build()?;
    request.program = Program::image(image.clone(), [""; 0]);
    let id = request.node_id.clone();
    let mut events = stage.platform.watch_nodes().await?;
    let seen = async {
        let pending = stage
            .wait(&id, "the reason", |it| {
                waits_for(it, FailureReason::ImagePullFailed)
            })
            .await?;
        assert!(words(&pending).contains(&image), "{pending:?}");
        for told in said(&mut events, &id, ["Pulling: ", "BackOff: "]).await? {
            assert!(told.contains(&image), "{told}");
        }
        // Nobody waits for the rest of the five minutes, nor for a kubelet that forgets a pod which never ran once a minute.
        stage.platform.force_stop_node(&id).await?;
        stage.platform.remove_node(&id, DataPolicy::Purge).await?;
        Outcome::Ok(())
    };
    let (spawned, seen) = tokio::join!(stage.platform.spawn_node(request), seen);
    seen?;
    fails(spawned, ErrorKind::Superseded)?;
    for kind in ["pods", "services", "persistentvolumeclaims"] {
        assert_eq!(stage.place.find(kind, &id)?, None, "{kind}");
    }
    Ok(())
}

pub(crate) async fn a_node_that_no_host_takes_has_the_schedulers_words() -> Outcome {
    let nowhere = BTreeMap::from([("example.org/disk".to_owned(), "fast".to_owned())]);
    let stage = Stage::with(|it| {
        it.overlay.node_selector = nowhere;
        it.start_timeout_s = 5;
    })
    .await?;
    let request = stage.probe("n", &[])?.build()?;
    let id = request.node_id.clone();
    let mut events = stage.platform.watch_nodes().await?;
    let seen = async {
        let pending = stage
            .wait(&id, "the reason", |it| {
                waits_for(it, FailureReason::Unschedulable)
            })
            .await?;
        assert!(
            words(&pending).contains("nodes are available"),
            "{pending:?}"
        );
        said(&mut events, &id, ["FailedScheduling: "]).await
    };
    let (spawned, told) = tokio::join!(stage.platform.spawn_node(request), seen);
    assert!(told?[0].contains("nodes are available"));
    let error = fails(spawned, ErrorKind::SpawnFailed)?;
    let failure = error.failure().ok_or("no failure")?;
    assert_eq!(failure.reason, FailureReason::Unschedulable);
    assert!(failure.message.contains("nodes are available"), "{error}");
    let node = stage.platform.get_node_status(&id).await?;
    assert_eq!(node.state.failure(), Some(failure), "it stays failed");
    assert_eq!(
        stage.place.find("pods", &id)?,
        None,
        "nothing may start yet"
    );
    Ok(())
}

pub(crate) async fn a_host_that_refuses_a_pod_is_a_reason() -> Outcome {
    let nowhere = BTreeMap::from([("example.org/disk".to_owned(), "fast".to_owned())]);
    let stage = Stage::with(|it| it.overlay.node_selector = nowhere).await?;
    let request = stage.probe("n", &[])?.build()?;
    let id = request.node_id.clone();
    let host = stage.place.bed.host()?;
    let bind = async {
        stage
            .wait(&id, "the reason", |it| {
                waits_for(it, FailureReason::Unschedulable)
            })
            .await?;
        // Somebody who does not look where a pod may be, as schedulers of their own do.
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": { "name": id.native_name() },
            "target": { "apiVersion": "v1", "kind": "Node", "name": host },
        });
        let path = format!("pods/{}/binding", id.native_name());
        stage.place.make(&path, &binding)
    };
    let (spawned, bound) = tokio::join!(stage.platform.spawn_node(request), bind);
    bound?;
    let error = fails(spawned, ErrorKind::SpawnFailed)?;
    let failure = error.failure().ok_or("no failure")?;
    assert_eq!(failure.reason, FailureReason::Unschedulable, "{error}");
    assert!(
        failure.message.contains("its host does not take it"),
        "{error}"
    );
    Ok(())
}

pub(crate) async fn a_claim_that_gets_no_volume_is_a_reason() -> Outcome {
    let stage = Stage::with(|it| {
        it.overlay.storage_class = Some("nowhere".to_owned());
        it.start_timeout_s = 5;
    })
    .await?;
    let request = stage.probe("n", &[])?.build()?;
    let id = request.node_id.clone();
    let mut events = stage.platform.watch_nodes().await?;
    let seen = async {
        stage
            .wait(&id, "the reason", |it| {
                waits_for(it, FailureReason::VolumePending)
            })
            .await?;
        said(&mut events, &id, ["ProvisioningFailed: "]).await
    };
    let (spawned, told) = tokio::join!(stage.platform.spawn_node(request), seen);
    let told = told?;
    assert!(told[0].contains("\"nowhere\" not found"), "{told:?}");
    let error = fails(spawned, ErrorKind::SpawnFailed)?;
    let failure = error.failure().ok_or("no failure")?;
    assert_eq!(failure.reason, FailureReason::VolumePending, "{error}");
    // The cluster's word on the class, which is what has to be mended, and not that the scheduler waits for it.
    assert!(failure.message.contains("\"nowhere\" not found"), "{error}");
    Ok(())
}

pub(crate) async fn a_program_that_keeps_failing_shows_its_restarts() -> Outcome {
    let stage = Stage::open().await?;
    // The first run serves until it is asked to end, those behind it end at once.
    let request = stage
        .probe("n", &["listen", "upto=1", "wait=600000", "exit=3"])?
        .restart(RestartMode::Always);
    let node = stage.platform.spawn_node(request.build()?).await?;
    let id = &node.node_id;
    stage.end(&node, "exit=3").await?;
    let failing = stage
        .wait(id, "the back-off", |it| {
            it.restarts > 0 && waits_for(it, FailureReason::Exited)
        })
        .await?;
    assert!(words(&failing).contains('3'), "{failing:?}");
    // The kubelet's own count, as it is by now.
    let status = eventually(PATIENCE, "the kubelet's back-off", || async {
        let pod = stage.place.object("pods", id)?;
        let status = pod["status"]["containerStatuses"][0].clone();
        let reason = text(&status, "/state/waiting/reason") == "CrashLoopBackOff";
        Ok(reason.then_some(status))
    })
    .await?;
    let count = status["restartCount"].as_u64().ok_or("no count")?;
    stage
        .wait(id, "the same count", |it| u64::from(it.restarts) >= count)
        .await?;
    assert!(!stage.platform.is_node_alive(id).await?, "it waits");
    Ok(())
}

pub(crate) async fn a_node_out_of_memory_says_so_while_it_goes_on() -> Outcome {
    let stage = Stage::open().await?;
    let request = stage
        .probe("n", &[])?
        .memory_limit_mb(48)
        .restart(RestartMode::Always);
    let node = stage.platform.spawn_node(request.build()?).await?;
    stage.end(&node, "eat=512").await?;
    let again = stage
        .wait(&node.node_id, "the next run", |it| {
            it.state.is_running() && it.restarts == 1
        })
        .await?;
    let failure = again.last_failure.clone().ok_or("no failure is told")?;
    assert_eq!(failure.reason, FailureReason::OutOfMemory);
    assert!(failure.message.contains("48 MiB"), "{failure:?}");
    assert_eq!(stage.ask(&again, "boot").await?, "2");
    Ok(())
}

/// A node whose pod is taken away: the next spawn starts it, once, on its data. `take` returns once it is shown as ended.
async fn taken_away(
    stage: Stage,
    take: impl AsyncFnOnce(&Stage, &SpawnedNode) -> Outcome,
) -> Outcome {
    let request = stage
        .probe("n", &["upto=1", "put=key:kept"])?
        .restart(RestartMode::Always)
        .build()?;
    let node = stage.platform.spawn_node(request.clone()).await?;
    let id = &node.node_id;
    assert_eq!(stage.ask(&node, "boot").await?, "1");
    let before = uid(&stage.place.object("pods", id)?);
    take(&stage, &node).await?;
    let again = stage.platform.spawn_node(request).await?;
    assert_eq!(again.uid, node.uid, "it is the same node");
    assert_eq!(again.endpoint, node.endpoint);
    assert_eq!(stage.ask(&again, "get=key").await?, "kept");
    assert_eq!(stage.ask(&again, "boot").await?, "2");
    assert_ne!(uid(&stage.place.object("pods", id)?), before);
    let boots = stage.place.boots(id)?;
    assert_eq!(boots.len(), 2, "{boots:?}");
    assert_eq!(stage.place.census(id)?.len(), 1);
    Ok(())
}

/// Waits until the node is shown as ended, and its pod is no more.
async fn gone(stage: &Stage, node: &SpawnedNode) -> Outcome {
    let id = &node.node_id;
    stage.wait(id, "the end", |it| it.state.is_ended()).await?;
    assert_eq!(stage.place.find("pods", id)?, None);
    Ok(())
}

pub(crate) async fn a_pod_that_is_deleted_comes_back_by_a_spawn() -> Outcome {
    taken_away(Stage::open().await?, async |stage, node| {
        stage.place.delete("pods", &node.node_id, false)?;
        gone(stage, node).await
    })
    .await
}

pub(crate) async fn a_pod_that_is_evicted_comes_back_by_a_spawn() -> Outcome {
    taken_away(Stage::open().await?, async |stage, node| {
        let name = node.node_id.native_name();
        // As `kubectl drain` asks for it.
        let eviction = json!({
            "apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": { "name": name },
        });
        let path = format!("pods/{name}/eviction");
        stage.place.make(&path, &eviction)?;
        gone(stage, node).await
    })
    .await
}

pub(crate) async fn a_node_that_fills_its_hosts_disk_is_evicted_by_the_kubelet() -> Outcome {
    let stage = Stage::at(Place::apart()?, |_| {}).await?;
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "disk" },
        "spec": { "limits": [{ "type": "Container", "default": { "ephemeral-storage": "2Mi" } }] },
    });
    stage.place.make("limitranges", &range)?;
    taken_away(stage, async |stage, node| {
        // Its log lies on the host, and not in its data. It may be evicted before all is written.
        stage.end(node, "flood=6291456").await?;
        let evicted = stage
            .wait(&node.node_id, "the eviction", |it| it.state.is_ended())
            .await?;
        assert!(
            matches!(evicted.state, NodeState::Stopped { .. }),
            "{evicted:?}"
        );
        let failure = evicted.last_failure.as_ref().ok_or("nothing is told")?;
        assert_eq!(failure.reason, FailureReason::Evicted, "{failure:?}");
        // The kubelet's own words.
        assert!(
            failure.message.contains("ephemeral") && failure.message.contains("2Mi"),
            "{failure:?}"
        );
        let path = stage.place.namespace().path("limitranges/disk");
        Ok(stage.place.bed.view.delete(&path)?)
    })
    .await
}
