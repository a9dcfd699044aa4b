//! Agent and master over a real connection: what is taken from a master, what is refused, what outlives it.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use grid_platform_api::{
    DataPolicy, ErrorKind, NodeData, NodeUsage, Platform, PlatformExt, PlatformInfo, ReadyMode,
    RestartMode,
};
use grid_platform_testing::{Fault, Faults, World};
use grid_proto::{
    report_from_json,
    v1::{self, from_agent::Message, question::About},
};
use std::{fs, sync::Arc, time::Duration};
use support::{
    Agent, Master, PATIENCE, fence, id, probe, removed, running, server, settings, stopped,
};

struct Scene {
    world: World,
    state: tempfile::TempDir,
    master: Master,
}

impl Scene {
    async fn new() -> Self {
        Self {
            world: World::new(),
            state: tempfile::tempdir().unwrap(),
            master: Master::start().await,
        }
    }

    fn agent(&self) -> Agent {
        Agent::start(&self.world, self.state.path(), self.master.address)
    }

    fn boots(&self, node: &str) -> usize {
        self.world.boots(&id(node)).len()
    }

    fn alive(&self, node: &str) -> usize {
        self.world.processes(&id(node)).len()
    }
}

#[tokio::test]
async fn an_agent_says_who_it_is_and_does_what_is_wanted() {
    let mut scene = Scene::new().await;
    let token = scene.state.path().join("token");
    fs::write(&token, "a1.secret\n").unwrap();
    let mut settings = settings(scene.state.path(), scene.master.address);
    settings.agent.token_file = Some(token);
    settings.agent.labels.insert("zone".into(), "a".into());
    settings.agent.max_storage_nodes = 5;
    settings.storage.binary_path = Some("/bin/storage".into());
    settings.storage.health_path = Some("/healthz".into());
    let agent = Agent::over(Arc::new(scene.world.open()), settings);

    let at = fence("g", 1, 4);
    let mut session = scene.master.welcomed(&at).await;
    let hello = session.hello.clone();
    assert_eq!(session.authorization.as_deref(), Some("Bearer a1.secret"));
    assert_eq!(hello.agent_id, "agent-1");
    assert_eq!(hello.protocol, grid_proto::PROTOCOL);
    assert_eq!(hello.platform, "memory");
    assert_eq!(hello.labels["zone"], "a");
    assert_eq!(hello.max_storage_nodes, 5);
    assert!(hello.memory_mb > 0 && hello.cpu_millis > 0);
    assert_eq!(
        (hello.grid_id.as_str(), hello.epoch, hello.revision),
        ("", 0, 0)
    );
    assert_eq!(hello.install_id.len(), 32);
    assert_eq!(
        hello.default_program_json,
        r#"{"kind":"binary","path":"/bin/storage"}"#
    );
    assert!(hello.default_health_json.contains("/healthz"));

    let wishes = [
        running(1, server("n1")),
        stopped(1, server("n2")),
        running(1, server("n3")),
    ];
    session.desire(&at, &wishes[..2]).await;
    session.done("n1", 1).await;
    assert_eq!(scene.alive("n1"), 1);
    session.desire_one(&fence("g", 1, 5), &wishes[2]).await;
    let seen = session.sees("n3", |it| it.node.state.is_running()).await;
    assert!(seen.managed);
    session
        .desire_one(&fence("g", 1, 6), &stopped(2, server("n1")))
        .await;
    session.done("n1", 2).await;
    assert_eq!(scene.alive("n1"), 0);
    let platform = scene.world.open();
    assert!(
        platform.find_node(&id("n2")).await.unwrap().is_none(),
        "never spawned"
    );
    session
        .until("heartbeats", |message| match message {
            Message::Heartbeat(it) => (it.sequence >= 3).then_some(()),
            _ => None,
        })
        .await;
    agent.end().await;
    assert_eq!(scene.alive("n3"), 1, "nodes outlive the agent");
}

#[tokio::test]
async fn another_grid_an_older_epoch_and_an_older_revision_are_refused() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 2, 10);
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, server("n1"))]).await;
    session.done("n1", 1).await;
    drop(session);

    // By the welcome.
    for (grid, epoch) in [("h", 2), ("g", 1)] {
        let mut session = scene.master.session().await;
        let hello = &session.hello;
        assert_eq!(
            (hello.grid_id.as_str(), hello.epoch, hello.revision),
            ("g", 2, 10)
        );
        let other = fence(grid, epoch, 99);
        session.welcome(&other).await;
        session.ended().await;
    }
    // By the set, or by one wish; none of it is taken.
    for other in [fence("g", 2, 9), fence("h", 2, 11), fence("g", 1, 11)] {
        let mut session = scene.master.welcomed(&at).await;
        let wishes = [stopped(2, server("n1")), running(1, server("n2"))];
        session.desire(&other, &wishes).await;
        session.ended().await;
        let mut session = scene.master.welcomed(&at).await;
        session
            .desire_one(&other, &removed(3, "n1", DataPolicy::Purge))
            .await;
        session.ended().await;
    }
    assert_eq!((scene.alive("n1"), scene.boots("n1")), (1, 1));
    assert_eq!(scene.boots("n2"), 0);

    // A newer epoch counts from where it likes.
    let newer = fence("g", 3, 1);
    let mut session = scene.master.welcomed(&newer).await;
    session.desire(&newer, &[stopped(1, server("n1"))]).await;
    session.sees("n1", |it| it.node.state.is_ended()).await;
    agent.end().await;
}

#[tokio::test]
async fn absence_is_never_an_instruction() {
    let mut scene = Scene::new().await;
    let stray = scene.world.open();
    stray
        .spawn_node(server("stray").build().unwrap())
        .await
        .unwrap();
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, server("n1"))]).await;
    let seen = session.sees("stray", |_| true).await;
    assert!(!seen.managed);
    session
        .sees("n1", |it| it.managed && it.node.state.is_running())
        .await;

    session.desire(&fence("g", 1, 2), &[]).await;
    session.sees("n1", |it| !it.managed).await;
    // What follows in the session was done after the empty set was acted on.
    session
        .desire_one(&fence("g", 1, 3), &running(1, server("n2")))
        .await;
    session.done("n2", 1).await;
    assert_eq!((scene.alive("n1"), scene.alive("stray")), (1, 1));
    agent.end().await;
}

#[tokio::test]
async fn wishes_are_upheld_with_no_master() {
    let Scene {
        world,
        state,
        mut master,
    } = Scene::new().await;
    let agent = Agent::start(&world, state.path(), master.address);
    let at = fence("g", 1, 1);
    let mut session = master.welcomed(&at).await;
    let secret = server("n1").secret("token", "hunter2-hunter2".into());
    session
        .desire(&at, &[running(1, secret), stopped(1, server("n2"))])
        .await;
    session.done("n1", 1).await;
    let (address, first) = (master.address, world.boots(&id("n1")).len());
    drop(session);
    master.end();
    let text = fs::read_to_string(state.path().join("desired.json")).unwrap();
    assert!(!text.contains("hunter2"), "{text}");

    // It vanishes, with an agent there to see it, and while there is none.
    let platform = world.open();
    platform
        .remove_node(&id("n1"), DataPolicy::Keep)
        .await
        .unwrap();
    let is_running = |node: Option<&grid_platform_api::SpawnedNode>| {
        node.is_some_and(|it| it.state.is_running())
    };
    platform
        .wait_for(&id("n1"), PATIENCE, is_running)
        .await
        .unwrap();
    agent.end().await;
    platform
        .remove_node(&id("n1"), DataPolicy::Keep)
        .await
        .unwrap();
    let agent = Agent::start(&world, state.path(), address);
    platform
        .wait_for(&id("n1"), PATIENCE, is_running)
        .await
        .unwrap();
    // Somebody stopped it by a signal's end: not its own policy.
    agent.end().await;
    assert!(world.boots(&id("n1")).len() >= first + 2);
    assert_eq!(world.processes(&id("n1")).len(), 1, "never a second one");
    assert!(platform.find_node(&id("n2")).await.unwrap().is_none());
}

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
async fn questions_are_answered() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, server("n1"))]).await;
    session.done("n1", 1).await;

    let of = |node: &str| {
        About::Usage(v1::Usage {
            node_id: node.into(),
        })
    };
    let answer = session.ask(of("n1")).await;
    serde_json::from_str::<NodeUsage>(&answer.json).unwrap();
    let answer = session.ask(of("nobody")).await;
    assert_eq!(
        report_from_json(&answer.error_json).unwrap().kind,
        ErrorKind::NotFound
    );
    let answer = session.ask(About::Probe(v1::Empty {})).await;
    assert!(
        serde_json::from_str::<PlatformInfo>(&answer.json)
            .unwrap()
            .is_usable()
    );

    let purge = || {
        About::PurgeData(v1::PurgeData {
            node_id: "n1".into(),
        })
    };
    let answer = session.ask(purge()).await;
    assert_eq!(
        report_from_json(&answer.error_json).unwrap().kind,
        ErrorKind::Conflict
    );
    session
        .desire_one(&fence("g", 1, 2), &removed(2, "n1", DataPolicy::Keep))
        .await;
    session.done("n1", 2).await;
    let answer = session.ask(About::Data(v1::Empty {})).await;
    let data: Vec<NodeData> = serde_json::from_str(&answer.json).unwrap();
    assert!(matches!(&data[..], [it] if it.node_id == id("n1") && !it.in_use));
    assert_eq!(session.ask(purge()).await.json, "null");
    let answer = session.ask(About::Data(v1::Empty {})).await;
    assert_eq!(answer.json, "[]");
    agent.end().await;
}

async fn lines(pushed: &mut support::Pushed, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let frame = support::soon("a frame", pushed.frames.message())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frame.error_json, "");
        for item in frame.items {
            if let Some(v1::log_item::Item::Line(line)) = item.item {
                lines.push(String::from_utf8(line.data).unwrap());
            }
        }
    }
    lines
}

#[tokio::test]
async fn logs_are_pushed_in_calls_of_their_own() {
    let mut scene = Scene::new().await;
    let token = scene.state.path().join("token");
    fs::write(&token, "a1.secret").unwrap();
    let mut settings = settings(scene.state.path(), scene.master.address);
    settings.agent.token_file = Some(token);
    let agent = Agent::over(Arc::new(scene.world.open()), settings);
    let at = fence("g", 1, 1);
    let mut session = scene.master.welcomed(&at).await;
    session
        .desire(
            &at,
            &[
                running(1, probe("n1", &["lines=1-5"])),
                running(1, server("n2")),
            ],
        )
        .await;
    session.done("n1", 1).await;

    // All that is retained, then the end.
    session.open_logs("n1", "start", false).await;
    let mut pushed = scene.master.pushed().await;
    assert_eq!(pushed.authorization.as_deref(), Some("Bearer a1.secret"));
    let first = support::soon("a frame", pushed.frames.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.request_id, 9);
    let all = lines(&mut pushed, 6).await;
    assert_eq!(
        all,
        ["boot 1", "line 1", "line 2", "line 3", "line 4", "line 5"]
    );
    assert!(
        support::soon("the end", pushed.frames.message())
            .await
            .unwrap()
            .is_none()
    );

    session.open_logs("n1", "tail:2", false).await;
    let mut pushed = scene.master.pushed().await;
    assert_eq!(lines(&mut pushed, 2).await, ["line 4", "line 5"]);

    // On and on.
    session.open_logs("n1", "tail:1", true).await;
    let mut pushed = scene.master.pushed().await;
    assert_eq!(lines(&mut pushed, 1).await, ["line 5"]);
    scene.world.write_log(&id("n1"), "later");
    assert_eq!(lines(&mut pushed, 1).await, ["later"]);

    session.open_logs("nobody", "start", true).await;
    let mut pushed = scene.master.pushed().await;
    let report = loop {
        let frame = support::soon("a frame", pushed.frames.message())
            .await
            .unwrap()
            .unwrap();
        if let Some(report) = report_from_json(&frame.error_json) {
            break report;
        }
    };
    assert_eq!(report.kind, ErrorKind::NotFound);

    // A reader that reads nothing holds up nothing else.
    session.open_logs("n1", "start", true).await;
    let _slow = scene.master.pushed().await;
    for number in 0..4000 {
        scene
            .world
            .write_log(&id("n1"), &format!("{number} {}", "x".repeat(1000)));
    }
    session
        .desire_one(&fence("g", 1, 2), &stopped(2, server("n2")))
        .await;
    session.done("n2", 2).await;
    agent.end().await;
}

#[tokio::test]
async fn a_silent_master_and_a_refusing_one_are_dialled_again() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    let at = fence("g", 1, 1);
    let mut silent = scene.master.session().await;
    silent.welcome_with(&at, 100).await;
    silent.ended().await;
    let refusing = scene.master.session().await;
    refusing
        .refuse(tonic::Status::already_exists(
            "another agent is called `agent-1`",
        ))
        .await;
    let mut session = scene.master.welcomed(&at).await;
    session.desire(&at, &[running(1, server("n1"))]).await;
    session.done("n1", 1).await;
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
    let mut left: std::collections::BTreeSet<_> = names.iter().cloned().collect();
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
    let mut left: std::collections::BTreeSet<_> = names.iter().cloned().collect();
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
async fn a_second_agent_on_the_same_state_is_refused() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    scene.master.session().await;
    let second = grid_agent::run_with(
        Arc::new(scene.world.open()),
        settings(scene.state.path(), scene.master.address),
        std::future::pending(),
    );
    let error = support::soon("the second agent", second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateLocked);
    agent.end().await;
}
