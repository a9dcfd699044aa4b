//! What the actor makes of calls that end, events and failures, in orders that are rare.

use std::future::pending;

use grid_platform_api::{NodeState, Program, SpawnConfig};
use grid_platform_testing::World;

use super::*;

struct Stage {
    actor: Actor,
    node: SpawnedNode,
    wish: Wish,
    dir: tempfile::TempDir,
}

impl Stage {
    /// An actor whose one wish runs and is done.
    async fn new() -> Self {
        let config = SpawnConfig::builder("n1", Program::binary("memory:server", [""; 0]))
            .build()
            .unwrap();
        let platform = World::new().open();
        let node = platform.spawn_node(config.clone()).await.unwrap();
        let wish = Wish {
            node_id: config.node_id.clone(),
            generation: 1,
            want: Want::Running(Box::new(config)),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut desired = Desired {
            fence: Some(fence(1, 1)),
            ..Desired::default()
        };
        desired.accept(wish.clone());
        let file = DesiredFile::new(dir.path()).unwrap();
        let (publish, _) = watch::channel(None);
        let outbox = Arc::new(Outbox::default());
        let mut actor = Actor::new(Arc::new(platform), file, desired, outbox, publish);
        actor.told(Told::Event(NodeEvent::Snapshot {
            nodes: vec![node.clone()],
        }));
        actor.desired.nodes.get_mut(&wish.node_id).unwrap().applied = Some(Applied {
            generation: 1,
            error: None,
        });
        Self {
            actor,
            node,
            wish,
            dir,
        }
    }

    fn running(&self) -> Running {
        Running {
            wish: self.wish.clone(),
            told: false,
            heard: watch::channel(()).0,
            abort: tokio::spawn(pending::<()>()).abort_handle(),
        }
    }

    fn shown(&self) -> &NodeState {
        &self.actor.observed[&self.wish.node_id].state
    }

    fn at(&self, state: NodeState) -> SpawnedNode {
        SpawnedNode {
            state,
            ..self.node.clone()
        }
    }

    fn changed(&mut self, state: NodeState) {
        let node = Box::new(self.at(state));
        self.actor.told(Told::Event(NodeEvent::Changed { node }));
    }

    fn fail(&mut self) {
        let settled = Settled {
            action: Action::Spawn,
            observed: Err(Error::new(ErrorKind::Stale, "not looked at")),
            result: Err(Error::new(ErrorKind::Unavailable, "away")),
        };
        let id = self.wish.node_id.clone();
        let running = self.running();
        self.actor.settled(&id, running, settled);
    }
}

fn fence(epoch: u64, revision: u64) -> Fence {
    Fence {
        grid_id: "g".into(),
        epoch,
        revision,
        lineage: String::new(),
    }
}

fn done(node: Option<SpawnedNode>) -> Settled {
    Settled {
        action: Action::Spawn,
        observed: Ok(node),
        result: Ok(()),
    }
}

#[tokio::test]
async fn what_a_call_saw_does_not_hide_what_was_told_since() {
    let mut stage = Stage::new().await;
    let id = stage.wish.node_id.clone();
    let running = stage.running();
    stage.actor.running.insert(id.clone(), running);
    stage.changed(NodeState::Stopped { exit: None });
    let running = stage.actor.running.remove(&id).unwrap();
    let seen = stage.at(NodeState::Running);
    stage.actor.settled(&id, running, done(Some(seen.clone())));
    assert!(stage.shown().is_ended());

    // Where no event told anything, what the call saw is the news.
    let running = stage.running();
    stage.actor.settled(&id, running, done(Some(seen)));
    assert!(stage.shown().is_running());
}

#[tokio::test]
async fn a_call_that_was_begun_for_another_wish_settles_nothing() {
    let mut stage = Stage::new().await;
    let id = stage.wish.node_id.clone();
    let running = stage.running();
    // A store that was restored under a new epoch counts the same generation again.
    let mut config = stage.wish.want.config().unwrap().clone();
    config.env.insert("MODE".into(), "new".into());
    let change = Change {
        fence: fence(2, 1),
        all: true,
        wishes: vec![Wish {
            want: Want::Running(Box::new(config)),
            ..stage.wish.clone()
        }],
        refused: Vec::new(),
    };
    stage.actor.change(change).unwrap();
    stage.actor.settled(&id, running, done(None));
    assert_eq!(stage.actor.desired.nodes[&id].applied, None);
    assert!(stage.actor.turn.acknowledge.is_empty());
}

#[tokio::test]
async fn a_call_in_flight_is_dropped_for_another_wish_of_the_same_generation() {
    let mut stage = Stage::new().await;
    let id = stage.wish.node_id.clone();
    let call = tokio::spawn(pending::<()>());
    let mut running = stage.running();
    running.abort = call.abort_handle();
    stage.actor.running.insert(id.clone(), running);
    let entry = stage.actor.desired.nodes.get_mut(&id).unwrap();
    entry.wish.want = Want::Stopped(Box::new(entry.wish.want.config().unwrap().clone()));
    stage.actor.consider(&id);
    assert!(call.await.unwrap_err().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn what_came_right_by_itself_wakes_nobody() {
    let mut stage = Stage::new().await;
    let id = stage.wish.node_id.clone();
    stage.fail();
    assert!(stage.actor.next_wake().is_some());
    tokio::time::advance(BACKOFF.longest).await;
    stage.actor.wake();
    stage.actor.finish_turn(true).await;
    assert!(stage.actor.running.is_empty(), "it runs as it should");
    assert_eq!(stage.actor.next_wake(), None);
    assert!(!stage.actor.tries.contains_key(&id));
}

#[tokio::test(start_paused = true)]
async fn a_set_that_cannot_be_written_is_not_tried_in_a_loop() {
    let mut stage = Stage::new().await;
    stage.fail();
    std::fs::create_dir_all(stage.dir.path().join("desired.json/in the way")).unwrap();
    stage.actor.turn.dirty = true;
    tokio::time::advance(BACKOFF.longest).await;
    let now = Instant::now();
    stage.actor.finish_turn(true).await;
    assert_eq!(stage.actor.next_wake(), Some(now + SAVE_AGAIN));
}

#[tokio::test(start_paused = true)]
async fn a_platform_that_is_back_is_not_waited_for() {
    let mut stage = Stage::new().await;
    for _ in 0..10 {
        stage.fail();
    }
    let snapshot = || Told::Event(NodeEvent::Snapshot { nodes: Vec::new() });
    stage.actor.told(snapshot());
    assert!(
        stage.actor.next_wake().unwrap() > Instant::now(),
        "a resync is no news"
    );
    stage.actor.told(Told::Away);
    stage.actor.told(snapshot());
    assert_eq!(stage.actor.next_wake(), Some(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn acting_that_panics_is_tried_again_after_a_wait() {
    let mut stage = Stage::new().await;
    let id = stage.wish.node_id.clone();
    let abort = stage
        .actor
        .tasks
        .spawn(async { panic!("a fault of the platform") });
    stage.actor.owners.insert(abort.id(), id.clone());
    let running = Running {
        abort,
        ..stage.running()
    };
    stage.actor.running.insert(id.clone(), running);
    let ended = stage.actor.tasks.join_next_with_id().await.unwrap();
    stage.actor.ended(ended);
    assert!(stage.actor.running.is_empty());
    assert!(stage.actor.tries[&id].again_at > Instant::now());
}

#[tokio::test]
async fn another_wish_does_not_wait_for_the_failures_of_the_last() {
    let mut stage = Stage::new().await;
    let id = stage.wish.node_id.clone();
    stage.fail();
    let change = Change {
        fence: fence(1, 2),
        all: false,
        wishes: vec![Wish {
            generation: 2,
            ..stage.wish.clone()
        }],
        refused: Vec::new(),
    };
    stage.actor.change(change).unwrap();
    stage.actor.finish_turn(true).await;
    assert!(stage.actor.running.contains_key(&id));
}

#[tokio::test]
async fn how_far_a_call_is_goes_on_until_it_ends() {
    use grid_proto::v1::from_agent::Message;

    let mut stage = Stage::new().await;
    let id = stage.wish.node_id.clone();
    let tell = |stage: &mut Stage, bytes_done| {
        stage.actor.told(Told::Event(NodeEvent::Progress {
            node_id: stage.wish.node_id.clone(),
            progress: Progress {
                message: "pulling".to_owned(),
                bytes_done,
                ..Progress::default()
            },
        }));
    };
    let said = |stage: &Stage| -> Vec<String> {
        let messages = stage.actor.outbox.take().into_iter();
        let progress = messages.filter_map(|it| match it.message {
            Some(Message::Progress(it)) => Some(it.progress_json),
            _ => None,
        });
        progress.collect()
    };
    tell(&mut stage, 1);
    assert!(said(&stage).is_empty(), "no call is in flight");
    let running = stage.running();
    let mut heard = running.heard.subscribe();
    let task = stage.actor.tasks.spawn(pending());
    stage.actor.owners.insert(task.id(), id.clone());
    stage.actor.running.insert(id, running);
    tell(&mut stage, 2);
    tell(&mut stage, 3);
    let words = said(&stage);
    assert!(
        words.len() == 1 && words[0].contains(r#""bytes_done":3"#),
        "{words:?}"
    );
    assert!(heard.has_changed().unwrap());
    heard.mark_unchanged();

    // A master that knows nothing yet is told too.
    stage.actor.resend_all();
    assert_eq!(said(&stage), words);
    task.abort();
    let ended = stage.actor.tasks.join_next_with_id().await.unwrap();
    stage.actor.ended(ended);
    assert_eq!(said(&stage), [""], "it is over");
}
