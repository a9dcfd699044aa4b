//! What becomes of wishes: done, told, tried again, given up, and never done twice.
#![allow(clippy::unwrap_used, reason = "a test may")]

#[allow(dead_code, reason = "each test uses its part")]
mod support;

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use grid_platform_api::{
    DataPolicy, ErrorKind, Platform, PlatformExt, ReadyMode, RestartMode, SpawnedNode,
};
use grid_platform_testing::{Fault, Faults, eventually};
use grid_proto::{
    report_from_json,
    v1::{self, from_agent::Message},
};
use support::{
    Agent, PATIENCE, Scene, fence, id, probe, removed, running, server, settings, stopped,
};

#[tokio::test]
async fn a_tombstone_is_done_told_and_forgotten() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    session
        .desire(&at, &[running(1, server("n1")), running(1, server("n2"))])
        .await;
    session.done("n1", 1).await;
    let next = fence("g", 1, 2);
    let tombstone = removed(2, "n1", DataPolicy::Purge);
    session.desire_one(&next, &tombstone).await;
    let uid = session
        .until("the node's end", |message| match message {
            Message::Gone(gone) => (gone.node_id == "n1").then_some(gone.uid),
            _ => None,
        })
        .await;
    assert_eq!(uid.len(), 32);
    session.done("n1", 2).await;
    assert!(
        scene
            .world
            .open()
            .list_data()
            .await
            .unwrap()
            .iter()
            .all(|it| it.node_id != id("n1"))
    );

    // The master did not hear it: it is told again in the next session, over a restart of the agent too.
    agent.end().await;
    let agent = scene.agent();
    let mut session = scene.master.welcomed(&next).await;
    session
        .desire(&next, &[running(1, server("n2")), tombstone])
        .await;
    session.done("n1", 2).await;
    // Its set without it is the acknowledgement.
    session
        .desire(&fence("g", 1, 3), &[running(1, server("n2"))])
        .await;
    // The same name is a new node, whatever its generation.
    session
        .desire_one(&fence("g", 1, 4), &running(2, server("n1")))
        .await;
    session.sees("n1", |it| it.node.state.is_running()).await;
    session.done("n1", 2).await;
    agent.end().await;
}

#[tokio::test]
async fn a_program_that_failed_waits_for_a_new_generation() {
    let mut scene = Scene::new().await;
    let dies = || probe("n1", &["say=no way", "exit=3"]).restart(RestartMode::Never);
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, dies())]).await;
    let applied = session.applied("n1", 1).await;
    let report = report_from_json(&applied.error_json).unwrap();
    assert_eq!(report.kind, ErrorKind::SpawnFailed);
    assert!(
        report
            .failure
            .unwrap()
            .log_tail
            .iter()
            .any(|line| line == "no way")
    );
    let boots = scene.boots("n1");

    // Neither a set that says the same, nor a restart, tries it again; the outcome is told again.
    session.desire(&at, &[running(1, dies())]).await;
    agent.end().await;
    let agent = scene.agent();
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, dies())]).await;
    assert_eq!(
        session.applied("n1", 1).await.error_json,
        applied.error_json
    );
    assert_eq!(scene.boots("n1"), boots);

    session
        .desire_one(&fence("g", 1, 2), &running(2, dies()))
        .await;
    session.applied("n1", 2).await;
    assert_eq!(scene.boots("n1"), boots + 1);
    agent.end().await;
}

#[tokio::test]
async fn what_may_come_right_is_tried_again() {
    let mut scene = Scene::new().await;
    let faulty = Arc::new(Faults::new(Arc::new(scene.world.open()), 1));
    faulty.add(
        Fault::before(ErrorKind::Unavailable)
            .on("spawn_node")
            .times(1),
    );
    faulty.add(
        Fault::after(ErrorKind::Unavailable)
            .on("spawn_node")
            .skip(1)
            .times(1),
    );
    let agent = Agent::over(
        faulty.clone(),
        settings(scene.state.path(), scene.master.address),
    );
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, server("n1"))]).await;
    let report = session
        .until("a first failure", |message| match message {
            Message::Applied(it) if !it.r#final => report_from_json(&it.error_json),
            _ => None,
        })
        .await;
    assert_eq!(report.kind, ErrorKind::Unavailable);
    session.done("n1", 1).await;
    assert_eq!(
        (scene.alive("n1"), scene.boots("n1")),
        (1, 1),
        "a lost answer makes no second"
    );
    agent.end().await;
}

#[tokio::test]
async fn an_update_keeps_data_and_port() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, server("n1"))]).await;
    let before = session
        .sees("n1", |it| it.node.state.is_running())
        .await
        .node;
    session.done("n1", 1).await;

    let changed = || server("n1").env("MODE", "new");
    let next = fence("g", 1, 2);
    session.desire_one(&next, &running(2, changed())).await;
    session.done("n1", 2).await;
    let platform = scene.world.open();
    let after = platform.get_node_status(&id("n1")).await.unwrap();
    assert_ne!(after.uid, before.uid);
    assert_eq!(
        (&after.ports, &after.data_path),
        (&before.ports, &before.data_path)
    );
    assert_eq!(scene.boots("n1"), 2, "the same data");

    // The same again is no update, also in the agent's next life and under a new generation.
    agent.end().await;
    let agent = scene.agent();
    let mut session = scene.master.welcomed(&next).await;
    session.desire(&next, &[running(2, changed())]).await;
    session.done("n1", 2).await;
    session
        .desire_one(&fence("g", 1, 3), &running(3, changed()))
        .await;
    session.done("n1", 3).await;
    let again = platform.get_node_status(&id("n1")).await.unwrap();
    assert_eq!((again.uid, scene.boots("n1")), (after.uid, 2));
    agent.end().await;
}

#[tokio::test]
async fn the_latest_wish_wins_over_a_spawn_in_flight() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    let never_healthy = || {
        probe("n1", &["deaf"])
            .port(0)
            .health(grid_platform_api::HealthCheck::tcp())
            .ready(ReadyMode::Healthy {
                timeout: Duration::from_secs(3600),
            })
    };
    session.desire(&at, &[running(1, never_healthy())]).await;
    session.sees("n1", |it| it.node.state.is_running()).await;
    session
        .desire_one(&fence("g", 1, 2), &stopped(2, never_healthy()))
        .await;
    session.done("n1", 2).await;
    assert_eq!(scene.alive("n1"), 0);
    agent.end().await;
}

#[tokio::test]
async fn a_wish_of_a_newer_version_does_not_keep_the_others_away() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, server("n1"))]).await;
    session.done("n1", 1).await;
    let mut newer = v1::DesiredNode::from(&running(2, server("n1")));
    newer.spec_json = newer.spec_json.replacen('{', r#"{"newer":true,"#, 1);
    let other = v1::DesiredNode::from(&running(1, server("n2")));
    session
        .desire_raw(&fence("g", 1, 2), vec![newer, other])
        .await;
    let refused = session.applied("n1", 2).await;
    let report = report_from_json(&refused.error_json).unwrap();
    assert_eq!(report.kind, ErrorKind::InvalidConfig);
    assert!(report.hint.unwrap().contains("Update the agent"));
    session.done("n2", 1).await;
    assert_eq!(
        (scene.alive("n1"), scene.boots("n1")),
        (1, 1),
        "what was wanted before is upheld"
    );
    agent.end().await;
}

#[tokio::test]
async fn a_hostile_wish_is_refused_whole_and_keeps_no_other_away() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    let good = v1::DesiredNode::from(&running(1, server("n1")));
    let mut hostile: Vec<_> = ["", "..", "../n9", "n/9", "n9\0", "n9\n", "N9", "\u{43d}9"]
        .into_iter()
        .map(|id| v1::DesiredNode {
            node_id: id.to_owned(),
            spec_json: good.spec_json.replace("\"n1\"", &format!("{id:?}")),
            ..good.clone()
        })
        .collect();
    // A request in another's name, and what a request may not hold.
    let spoiled = |id: &str, with: &str| v1::DesiredNode {
        node_id: id.to_owned(),
        spec_json: good
            .spec_json
            .replace("\"n1\"", &format!("\"{id}\""))
            .replacen('{', &format!("{{{with}"), 1),
        ..good.clone()
    };
    hostile.push(v1::DesiredNode {
        node_id: "n8".to_owned(),
        ..good.clone()
    });
    hostile.push(spoiled("n7", r#""storage_path":"/data/../etc","#));
    hostile.push(spoiled("n6", r#""memory_limit_mb":0,"#));
    hostile.push(spoiled("n5", r#""port":70000,"#));
    let ids: Vec<_> = hostile.iter().map(|it| it.node_id.clone()).collect();
    session
        .desire_raw(&at, hostile.into_iter().chain([good]).collect())
        .await;
    for id in ids {
        let refused = session.applied(&id, 1).await;
        let report = report_from_json(&refused.error_json).unwrap();
        assert_eq!(report.kind, ErrorKind::InvalidConfig, "{id:?}: {report:?}");
        assert!(
            !report.message.contains(char::is_control),
            "{:?}",
            report.message
        );
        assert!(refused.r#final, "{id:?}: a wish that never holds is over");
    }
    session.done("n1", 1).await;
    let nodes = scene.world.open().list_nodes().await.unwrap();
    let nodes: Vec<_> = nodes.iter().map(|it| it.node_id.as_str()).collect();
    assert_eq!(nodes, ["n1"], "nothing of the others was done");

    // Questions that name what is no id.
    for id in ["", "..", "../n1", "n1\0"] {
        let node_id = id.to_owned();
        let about = v1::question::About::PurgeData(v1::PurgeData { node_id });
        let answer = session.ask(about).await;
        let report = report_from_json(&answer.error_json).unwrap();
        assert_eq!(report.kind, ErrorKind::InvalidConfig, "{id:?}: {report:?}");
    }
    assert_eq!((scene.alive("n1"), scene.boots("n1")), (1, 1));
    agent.end().await;
}

#[tokio::test]
async fn many_nodes_are_brought_up_ended_and_forgotten() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    let names: Vec<_> = (0..200).map(|number| format!("n{number}")).collect();
    let wishes: Vec<_> = names
        .iter()
        .map(|name| running(1, server(name).ready(ReadyMode::Started)))
        .collect();
    session.desire(&at, &wishes).await;
    let mut left: BTreeSet<_> = names.iter().cloned().collect();
    let mut told = |message| {
        if let Message::Applied(it) = message {
            assert_eq!(it.error_json, "");
            left.remove(&it.node_id);
        }
        left.is_empty().then_some(())
    };
    session.until("all nodes", &mut told).await;
    assert!(names.iter().all(|name| scene.alive(name) == 1));

    let gone: Vec<_> = names
        .iter()
        .map(|name| removed(2, name, DataPolicy::Purge))
        .collect();
    session.desire(&fence("g", 1, 2), &gone).await;
    let mut left: BTreeSet<_> = names.iter().cloned().collect();
    let told = |message| {
        if let Message::Applied(it) = message
            && it.generation == 2
        {
            assert_eq!(it.error_json, "");
            left.remove(&it.node_id);
        }
        left.is_empty().then_some(())
    };
    session.until("all tombstones", told).await;
    let platform = scene.world.open();
    assert!(platform.list_nodes().await.unwrap().is_empty());
    assert!(platform.list_data().await.unwrap().is_empty());
    agent.end().await;
}

#[tokio::test]
async fn nothing_is_done_that_is_not_on_disk() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, server("n1"))]).await;
    session.done("n1", 1).await;
    // A folder in the file's place cannot be replaced, as a full disk cannot be written.
    let file = scene.state.path().join("desired.json");
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::create_dir_all(file.join("in the way")).unwrap();
    let next = fence("g", 1, 2);
    let wishes = [stopped(2, server("n1")), running(1, server("n2"))];
    session.desire(&next, &wishes).await;
    session.ended().await;
    let mut session = scene.master.welcomed(&next).await;
    assert_eq!(session.hello.revision, 1, "what is not kept was not seen");
    session.desire(&next, &wishes).await;
    session.ended().await;
    assert_eq!((scene.alive("n1"), scene.boots("n2")), (1, 0));

    fs::remove_dir_all(&file).unwrap();
    fs::write(&file, kept).unwrap();
    let mut session = scene.master.welcomed(&next).await;
    session.desire(&next, &wishes).await;
    session.done("n1", 2).await;
    session.done("n2", 1).await;
    assert_eq!((scene.alive("n1"), scene.alive("n2")), (0, 1));
    agent.end().await;
}

#[tokio::test]
async fn what_was_stopped_runs_again_and_what_ended_by_itself_does_not() {
    let mut scene = Scene::new().await;
    // One adapter for both: calls on one node are then serial.
    let platform: Arc<dyn Platform> = Arc::new(scene.world.open());
    let settings = settings(scene.state.path(), scene.master.address);
    let agent = Agent::over(Arc::clone(&platform), settings);
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    let server = || server("n1").restart(RestartMode::Always);
    // Ready when it has begun, and then it comes to its end.
    let job = || probe("n2", &["say=done", "exit=0"]).ready(ReadyMode::Started);
    session
        .desire(&at, &[running(1, server()), running(1, job())])
        .await;
    session.done("n1", 1).await;
    session.done("n2", 1).await;
    let ended = |node: Option<&SpawnedNode>| node.is_some_and(|it| it.state.is_ended());
    platform.wait_for(&id("n2"), PATIENCE, ended).await.unwrap();

    for boots in 2..=4 {
        platform.stop_node(&id("n1")).await.unwrap();
        let again = async || {
            let seen = (scene.alive("n1"), scene.boots("n1"));
            Ok((seen == (1, boots)).then_some(()))
        };
        eventually(PATIENCE, "n1 to run again", again)
            .await
            .unwrap();
    }
    assert_eq!((scene.alive("n1"), scene.boots("n2")), (1, 1));
    agent.end().await;
}
