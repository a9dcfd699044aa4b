//! Many requests about one id at once, through the master and over two agents: the end is one that some order of them
//! has, and there is one process, or none.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use grid_client::{Class, Client, Desired, NodeSettings, SpawnRequest, State, UpdateRequest};
use grid_platform_api::{DataPolicy, NodeId};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    agents::Agent,
    support::{Grid, eventually, processes, text},
};

/// Says so when another copy runs at the same time, on whichever agent: the lock is held as long as the program lives.
const ALONE: &str = "exec 9>>$RACE/alone; flock -n 9 || echo $SUTRA_NODE_UID >> $RACE/doubled; echo $SUTRA_NODE_UID >> $RACE/starts; exec sleep 1000";

/// Two agents under one master, and a place where the programs of the node `a` meet.
struct Two {
    /// Ends before the grid does.
    _second: Agent,
    grid: Grid,
    client: Arc<Client>,
    place: PathBuf,
}

impl Drop for Two {
    fn drop(&mut self) {
        // Also after a panic; `grid down` knows nothing of the second agent's nodes. None may be left.
        self.grid.output(&["rm", "a", "--purge", "--wait"]);
    }
}

impl Two {
    fn start() -> Self {
        let grid = Grid::new();
        let up = grid.up(&["--nodes", "0"]);
        let second = Agent::start(&grid, text(&up["grpc"]));
        eventually("both agents to be heard", || {
            let agents = grid.json(&["agents"]);
            let connected = |agent: &&Value| agent["connected"] == true;
            (agents.as_array()?.iter().filter(connected).count() == 2).then_some(())
        });
        let token = fs::read_to_string(text(&up["token_file"])).unwrap();
        let client = Client::new(text(&up["http"]), Some(&token)).unwrap();
        let place = grid.dir().join("race");
        fs::create_dir(&place).unwrap();
        Self {
            _second: second,
            grid,
            client: Arc::new(client),
            place,
        }
    }

    fn settings(&self, variant: usize) -> NodeSettings {
        let settings = json!({
            "binary": "sh",
            "args": ["-c", ALONE],
            "env": {"RACE": self.place, "VARIANT": variant.to_string()},
            "ready": {"mode": "started"},
        });
        serde_json::from_value(settings).unwrap()
    }

    fn spawn_request(&self, variant: usize) -> SpawnRequest {
        SpawnRequest {
            node_id: Some(id()),
            settings: self.settings(variant),
            ..SpawnRequest::default()
        }
    }

    /// The node's programs that live: each with its name for the place in its environment.
    fn programs(&self) -> Vec<u32> {
        processes(&self.place)
            .into_iter()
            .map(|(pid, _)| pid)
            .collect()
    }

    fn wrote(&self, name: &str) -> String {
        fs::read_to_string(self.place.join(name)).unwrap_or_default()
    }

    /// Waits until the node is what it is wished to be, and has as many programs as that takes.
    fn settled(&self, runtime: &tokio::runtime::Runtime) -> Option<grid_client::Node> {
        eventually("the node to be what it is wished to be", || {
            let node = match runtime.block_on(self.client.node(&id())) {
                Ok(node) => node,
                Err(error) if error.class() == Class::NotFound => {
                    return self.programs().is_empty().then_some(None);
                }
                Err(error) => panic!("{error}"),
            };
            let done = node.observed_generation == node.generation
                && match node.desired {
                    Desired::Running => {
                        node.state == State::Running
                            && node.pid.is_some_and(|pid| self.programs() == [pid])
                    }
                    Desired::Stopped => node.state == State::Stopped && self.programs().is_empty(),
                    Desired::Removed | Desired::Unmanaged => false,
                };
            done.then_some(Some(node))
        })
    }

    /// Waits until the node is gone.
    fn gone(&self, runtime: &tokio::runtime::Runtime) {
        eventually("the node to be gone", || {
            let found = runtime.block_on(self.client.node(&id()));
            found
                .is_err_and(|error| error.class() == Class::NotFound)
                .then_some(())
        });
    }
}

fn id() -> NodeId {
    NodeId::new("a").unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn two_hundred_spawns_of_one_id_over_two_agents_make_one_node_and_one_process() {
    let two = Two::start();
    let runtime = runtime();
    let answers: Vec<(usize, grid_client::Result<grid_client::Node>)> = runtime.block_on(async {
        let mut calls = JoinSet::new();
        for caller in 0..200_usize {
            // A few ask for another node of that name: only one of the two can be.
            let variant = usize::from(caller % 20 == 7);
            let (client, request) = (two.client.clone(), two.spawn_request(variant));
            calls.spawn(async move {
                (
                    variant,
                    client.spawn(&request, &format!("call-{caller}")).await,
                )
            });
        }
        calls.join_all().await
    });
    let made: Vec<_> = answers
        .iter()
        .filter_map(|(variant, it)| Some((*variant, it.as_ref().ok()?)))
        .collect();
    let (won, first) = made[0];
    for (variant, node) in &made {
        assert_eq!(*variant, won);
        assert_eq!(
            (&node.agent, &node.created_at),
            (&first.agent, &first.created_at)
        );
    }
    assert_eq!(made.len(), if won == 0 { 190 } else { 10 });
    for (variant, answer) in &answers {
        if let Err(error) = answer {
            assert_ne!(*variant, won, "{error}");
            assert_eq!(error.class(), Class::Conflict, "{error}");
            assert!(error.report().hint.is_some(), "{error}");
        }
    }
    let node = two.settled(&runtime).unwrap();
    assert_eq!(
        (&node.agent, node.generation),
        (&first.agent, first.generation)
    );
    assert_eq!(two.wrote("starts").lines().count(), 1);
    assert_eq!(two.wrote("doubled"), "");
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Spawn(usize),
    Start,
    Stop,
    Update(usize),
    Remove,
}

async fn call(two: (&Client, SpawnRequest), call: Call, key: &str) -> grid_client::Result<()> {
    let (client, request) = two;
    match call {
        Call::Spawn(_) => client.spawn(&request, key).await.map(drop),
        Call::Start => client.start(&id()).await.map(drop),
        Call::Stop => client.stop(&id()).await.map(drop),
        Call::Update(_) => {
            let request = UpdateRequest {
                settings: request.settings,
                ..UpdateRequest::default()
            };
            client.update(&id(), &request).await.map(drop)
        }
        Call::Remove => client.remove(&id(), DataPolicy::Keep).await.map(drop),
    }
}

/// One step of a linear congruential generator (Knuth's MMIX).
fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Calls of a seed, all at once, some of whose callers go away before they are answered.
fn round(two: &Two, runtime: &tokio::runtime::Runtime, seed: u64) {
    let mut dice = seed;
    let mut all = Vec::new();
    runtime.block_on(async {
        let mut calls = JoinSet::new();
        for number in 0..24 {
            let what = match next(&mut dice) % 10 {
                0..4 => Call::Spawn(usize::from(next(&mut dice).is_multiple_of(4))),
                4 => Call::Start,
                5..7 => Call::Stop,
                7..9 => Call::Update(usize::from(next(&mut dice).is_multiple_of(2))),
                _ => Call::Remove,
            };
            all.push(what);
            let variant = match what {
                Call::Spawn(variant) | Call::Update(variant) => variant,
                _ => 0,
            };
            let (client, request) = (two.client.clone(), two.spawn_request(variant));
            let delay = Duration::from_millis(next(&mut dice) % 400);
            let patience = next(&mut dice)
                .is_multiple_of(6)
                .then(|| Duration::from_millis(next(&mut dice) % 20));
            calls.spawn(async move {
                tokio::time::sleep(delay).await;
                let key = format!("{seed}-{number}");
                let work = call((&client, request), what, &key);
                match patience {
                    Some(patience) => tokio::time::timeout(patience, work).await.ok(),
                    None => Some(work.await),
                }
            });
        }
        while let Some(answer) = calls.join_next().await {
            if let Some(Err(error)) = answer.unwrap() {
                let fits = matches!(error.class(), Class::NotFound | Class::Conflict);
                assert!(fits, "seed {seed}: {error} of {all:?}");
            }
        }
    });
    let what = format!("seed {seed}: {all:?}");
    // What has come of it is a node as some order of them leaves it, its program that of its settings.
    if let Some(node) = two.settled(runtime) {
        let settings = node.settings.unwrap();
        let variant = settings.env.unwrap()["VARIANT"].clone();
        assert!(["0", "1"].contains(&variant.as_str()), "{what}");
        if let Some(pid) = node.pid {
            let line = format!("VARIANT={variant}");
            // In the middle of an exec there is none.
            eventually(&format!("{line} of {what}"), || {
                let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
                let mut entries = environment.split(|byte| *byte == 0);
                entries.any(|it| it == line.as_bytes()).then_some(())
            });
        }
    }
    // The last word holds, whatever was before.
    if seed.is_multiple_of(2) {
        let stopped = runtime.block_on(two.client.stop(&id()));
        let node = two.settled(runtime);
        assert_eq!(
            stopped.is_ok(),
            node.is_some_and(|node| node.desired == Desired::Stopped),
            "{what}"
        );
        assert_eq!(two.programs(), [0; 0], "{what}");
    } else {
        let removed = runtime.block_on(two.client.remove(&id(), DataPolicy::Purge));
        if let Err(error) = removed {
            assert_eq!(error.class(), Class::NotFound, "{what}: {error}");
        }
        two.gone(runtime);
        assert_eq!(two.programs(), [0; 0], "{what}");
    }
    assert_eq!(two.wrote("doubled"), "", "{what}");
}

fn rounds(seeds: std::ops::Range<u64>) {
    eprintln!("seeds {seeds:?}");
    let two = Two::start();
    let runtime = runtime();
    for seed in seeds {
        round(&two, &runtime, seed);
    }
    assert!(!two.wrote("starts").is_empty(), "nothing ever ran");
}

#[test]
fn requests_that_race_on_one_id_over_two_agents_end_as_some_order_of_them_does() {
    rounds(0..10);
}

#[test]
#[ignore = "many rounds: minutes"]
fn requests_that_race_on_one_id_over_two_agents_end_as_some_order_of_them_does_for_long() {
    rounds(1000..1300);
}
