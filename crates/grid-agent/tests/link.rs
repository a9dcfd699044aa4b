//! Agent and master over a real connection: what is taken from a master, what is refused, what outlives it.
#![allow(clippy::unwrap_used, reason = "a test may")]

#[allow(dead_code, reason = "each test uses its part")]
mod support;

use std::{fs, sync::Arc};

use grid_platform_api::{
    DataPolicy, ErrorKind, NodeData, NodeUsage, Platform, PlatformExt, PlatformInfo, SpawnedNode,
};
use grid_proto::{
    report_from_json,
    v1::{self, from_agent::Message, question::About},
};
use support::{
    Agent, PATIENCE, Scene, fence, id, probe, removed, running, server, settings, soon, stopped,
};

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
        // The master's store knows whether it was ever there.
        assert_eq!(hello.lineage, at.lineage);
        let other = fence(grid, epoch, 99);
        session.welcome(&other).await;
        session.ended().await;
    }
    // By the set, or by one wish; none of it is taken.
    for other in [fence("g", 2, 9), fence("h", 2, 11), fence("g", 1, 11)] {
        // The same place once more is no older one.
        let mut session = scene.master.welcomed(&at).await;
        session.desire(&at, &[running(1, server("n1"))]).await;
        session.done("n1", 1).await;
        drop(session);
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
    let is_running = |node: Option<&SpawnedNode>| node.is_some_and(|it| it.state.is_running());
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
        let frame = soon("a frame", pushed.frames.message())
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
    let first = soon("a frame", pushed.frames.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.request_id, 9);
    let all = lines(&mut pushed, 6).await;
    assert_eq!(
        all,
        ["boot 1", "line 1", "line 2", "line 3", "line 4", "line 5"]
    );
    let last = soon("the end", pushed.frames.message()).await;
    let last = last.unwrap().unwrap();
    assert!(last.over && last.items.is_empty() && last.error_json.is_empty());

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
        let frame = soon("a frame", pushed.frames.message())
            .await
            .unwrap()
            .unwrap();
        if let Some(report) = report_from_json(&frame.error_json) {
            assert!(frame.over);
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
async fn a_second_agent_on_the_same_state_is_refused() {
    let mut scene = Scene::new().await;
    let agent = scene.agent();
    scene.master.session().await;
    let second = grid_agent::run_with(
        Arc::new(scene.world.open()),
        settings(scene.state.path(), scene.master.address),
        std::future::pending(),
    );
    let error = soon("the second agent", second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateLocked);
    agent.end().await;
}
