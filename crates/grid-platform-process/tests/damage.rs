//! Half-written and bit-flipped files, one at a time, under nodes in every state: nothing is started twice, nobody is
//! signalled, nothing is deleted, and what is shown is true or said to be damaged.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use common::{Place, SLEEP, census, clean, eventually, id, kill_9, parent, quick, sh};
use grid_platform_api::{DataPolicy, ErrorKind, FailureReason, Platform, RestartMode, SpawnedNode};
use grid_platform_process::ProcessPlatform;

/// Where chosen damages begin; a run that fails names it, and `GRID_TEST_SEED` repeats it.
fn seed() -> u64 {
    let given = std::env::var("GRID_TEST_SEED").ok();
    given.map_or(0x5eed, |it| it.parse().unwrap())
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((it ^ (it >> 31)) % end.max(1) as u64).unwrap()
    }
}

/// What happens to a file's bytes.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut(usize),
    Flip(usize, u8),
    /// From there on it is zeros: blocks that were allocated and not written.
    Zeros(usize),
}

impl Damage {
    fn to(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Self::Cut(len) => bytes.truncate(len),
            Self::Flip(at, bit) => bytes[at] ^= 1 << bit,
            Self::Zeros(from) => bytes[from..].fill(0),
        }
        bytes
    }
}

/// All damages of a file with so many bytes in use, or some of them.
fn damages(used: &[usize], len: usize, dice: Option<(&mut Dice, usize)>) -> Vec<Damage> {
    let Some((dice, count)) = dice else {
        let cuts = (0..len).map(Damage::Cut);
        let zeros = (0..len).step_by(512).map(Damage::Zeros);
        let flips = used
            .iter()
            .flat_map(|at| (0..8).map(|bit| Damage::Flip(*at, bit)));
        return cuts.chain(zeros).chain(flips).collect();
    };
    (0..count)
        .map(|round| match round % 4 {
            0 => Damage::Cut(dice.below(len)),
            1 => Damage::Zeros(dice.below(len)),
            _ => Damage::Flip(used[dice.below(used.len())], dice.below(8) as u8),
        })
        .collect()
}

/// A directory's files with their bytes.
type Files = Vec<(PathBuf, Vec<u8>)>;

fn files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|it| it.unwrap());
    entries
        .filter(|it| it.file_type().unwrap().is_file())
        .map(|it| (it.path(), fs::read(it.path()).unwrap()))
        .collect()
}

/// In place: a file keeps its inode.
fn put(files: &Files) {
    for (path, bytes) in files {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A process that has nothing to do with it.
struct Stranger(Child);

impl Stranger {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nodes in every state, with data that is worth something.
struct Scene {
    place: Place,
    stranger: Stranger,
    /// As they were shown before any damage.
    nodes: Vec<SpawnedNode>,
    state: Files,
}

impl Scene {
    async fn new() -> Self {
        let place = Place::new();
        let platform = place.open().await;
        for name in ["dead", "gone", "live", "rest"] {
            let config = sh(name, SLEEP)
                .restart(quick(RestartMode::Never))
                .port(0)
                .secret("key", "worth something".into())
                .build()
                .unwrap();
            platform.spawn_node(config).await.unwrap();
            fs::write(place.data(name).join("precious"), name).unwrap();
        }
        platform.stop_node(&id("rest")).await.unwrap();
        platform
            .remove_node(&id("gone"), DataPolicy::Keep)
            .await
            .unwrap();
        let dead = platform.get_node_status(&id("dead")).await.unwrap();
        drop(platform);
        kill_9(parent(dead.pid.unwrap()));
        eventually("its end", || census(dead.uid.as_str()).is_empty()).await;
        // The first opening notes what became of it.
        let platform = place.open().await;
        let nodes = platform.list_nodes().await.unwrap();
        drop(platform);
        let state = ["", "data"]
            .into_iter()
            .flat_map(|it| files(&place.config.state_dir.join(it)))
            .filter(|(path, _)| !path.ends_with("lock"))
            .collect();
        Self {
            place,
            stranger: Stranger::start(),
            nodes,
            state,
        }
    }

    fn node(&self, name: &str) -> &SpawnedNode {
        self.nodes
            .iter()
            .find(|it| it.node_id.as_str() == name)
            .unwrap()
    }

    /// What holds whatever was damaged.
    fn check_world(&mut self, what: &str) {
        assert!(self.stranger.lives(), "{what}: a stranger was signalled");
        for name in ["dead", "gone", "live", "rest"] {
            let precious = fs::read_to_string(self.place.data(name).join("precious"));
            assert_eq!(precious.ok().as_deref(), Some(name), "{what}: data is gone");
        }
        for node in &self.nodes {
            let expect: Vec<u32> = node.pid.into_iter().collect();
            assert_eq!(
                census(node.uid.as_str()),
                expect,
                "{what}: {}",
                node.node_id
            );
        }
    }

    /// What the platform shows of a node is true, or the node is not shown and that is told.
    async fn check_shown(&self, platform: &ProcessPlatform, what: &str) {
        let list = platform.list_nodes().await.unwrap();
        let told = platform.probe().await.unwrap().checks;
        for before in &self.nodes {
            let id = &before.node_id;
            let told = told.iter().any(|it| {
                it.name == "records" && it.detail.contains(id.as_str()) && it.hint.is_some()
            });
            let Some(now) = list.iter().find(|it| it.node_id == *id) else {
                assert!(told, "{what}: `{id}` vanished without a word");
                if before.pid.is_some() {
                    // It runs: nothing may be made in its place.
                    let again = platform.spawn_node(sh(id.as_str(), SLEEP).build().unwrap());
                    let error = again.await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                    assert!(error.hint().is_some(), "{what}");
                }
                continue;
            };
            let facts = |it: &SpawnedNode| {
                let ports = it.ports.clone();
                (
                    it.uid.clone(),
                    ports,
                    it.digest.clone(),
                    it.data_path.clone(),
                    it.created_at,
                )
            };
            assert_eq!(facts(now), facts(before), "{what}: `{id}`");
            // A half of a record that is lost leaves the one before; both lost, and it counts as interrupted.
            let reason = now.state.failure().map(|it| it.reason);
            let state = (now.state.as_str(), reason);
            let was = (
                before.state.as_str(),
                before.state.failure().map(|it| it.reason),
            );
            let pending = before.pid.is_some() && now.state.as_str() == "pending";
            let interrupted = before.pid.is_none() && reason == Some(FailureReason::Interrupted);
            assert!(
                state == was || pending || interrupted,
                "{what}: `{id}` is {state:?}"
            );
            if now.pid != before.pid {
                assert!(
                    now.pid.is_none() && pending,
                    "{what}: `{id}` has {:?}",
                    now.pid
                );
            }
        }
    }

    /// Puts everything back as it was.
    fn restore(&self, node: Option<(&str, &Files)>) {
        if let Some((name, files)) = node {
            let dir = self.place.node_dir(name);
            if !dir.exists() {
                fs::create_dir(&dir).unwrap();
            }
            put(files);
        }
        let _ = fs::remove_dir_all(self.place.config.state_dir.join("quarantine"));
        put(&self.state);
    }

    async fn end(mut self) {
        let platform = self.place.open().await;
        self.check_world("at the end");
        self.check_shown(&platform, "at the end").await;
        platform.stop_node(&id("live")).await.unwrap();
        assert_eq!(census(self.node("live").uid.as_str()), [0; 0]);
        clean(&platform).await;
    }
}

/// Bytes that say something: a record is zeros for the most part.
fn used(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len()).filter(|at| bytes[*at] != 0).collect()
}

async fn nodes_files_are_damaged(sample: Option<usize>) {
    println!("GRID_TEST_SEED={}", seed());
    let mut dice = Dice(seed());
    let mut scene = Scene::new().await;
    let mut done = 0;
    for node in ["rest", "dead", "live"] {
        let dir = scene.place.node_dir(node);
        let before = files(&dir);
        for name in ["intent.json", "record", "launch", "log.index"] {
            let path = dir.join(name);
            let Ok(bytes) = fs::read(&path) else { continue };
            if bytes.is_empty() {
                continue;
            }
            let some = sample.map(|count| (&mut dice, count));
            for damage in damages(&used(&bytes), bytes.len(), some) {
                let what = format!("{node}/{name}, {damage:?}");
                fs::write(&path, damage.to(&bytes)).unwrap();
                let platform = scene.place.open().await;
                scene.check_shown(&platform, &what).await;
                drop(platform);
                scene.check_world(&what);
                scene.restore(Some((node, &before)));
                done += 1;
            }
        }
    }
    println!("{done} damages");
    scene.end().await;
}

#[tokio::test]
async fn a_nodes_damaged_file_costs_that_node_at_most() {
    nodes_files_are_damaged(Some(16)).await;
}

#[tokio::test]
#[ignore = "every length and every bit: a quarter of an hour"]
async fn a_nodes_damaged_file_costs_that_node_at_most_wherever_it_is() {
    nodes_files_are_damaged(None).await;
}

async fn the_states_files_are_damaged(sample: Option<usize>) {
    println!("GRID_TEST_SEED={}", seed());
    let mut dice = Dice(seed());
    let mut scene = Scene::new().await;
    let mut done = 0;
    for (path, bytes) in scene.state.clone() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let some = sample.map(|count| (&mut dice, count));
        for damage in damages(&used(&bytes), bytes.len(), some) {
            let what = format!("{name}, {damage:?}");
            fs::write(&path, damage.to(&bytes)).unwrap();
            match ProcessPlatform::open(scene.place.config.clone()).await {
                Ok(platform) => {
                    // Of the install id nothing may be wrong, or all nodes are another's. A file that lost only its
                    // checksum has lost nothing.
                    let text = bytes.iter().rposition(|it| *it == b'}');
                    let whole =
                        matches!(damage, Damage::Cut(len) if text.is_some_and(|it| len > it));
                    assert!(name != "install.json" || whole, "{what}");
                    if name == "cgroups" && matches!(damage, Damage::Flip(..)) {
                        let told = platform.probe().await.unwrap().checks;
                        assert!(
                            told.iter().any(|it| it.detail.contains("`cgroups`")),
                            "{what}: not told"
                        );
                    }
                    scene.check_shown(&platform, &what).await;
                    let data = platform.list_data().await.unwrap();
                    assert_eq!(data.len(), 4, "{what}: found by its marker all the same");
                }
                Err(error) => {
                    assert_eq!(name, "install.json", "{what}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                    assert!(error.hint().is_some(), "{what}");
                }
            }
            scene.check_world(&what);
            scene.restore(None);
            done += 1;
        }
    }
    println!("{done} damages");
    scene.end().await;
}

#[tokio::test]
async fn the_states_own_damaged_files_are_told_and_cost_no_node() {
    the_states_files_are_damaged(Some(40)).await;
}

#[tokio::test]
#[ignore = "every length and every bit: minutes"]
async fn the_states_own_damaged_files_are_told_and_cost_no_node_wherever_it_is() {
    the_states_files_are_damaged(None).await;
}

#[tokio::test]
async fn a_damaged_marker_makes_data_a_strangers_and_never_deletes_it() {
    println!("GRID_TEST_SEED={}", seed());
    let mut dice = Dice(seed());
    let place = Place::new();
    let marker = place.data("a").join(".sutra-grid");
    let mut refused = 0;
    for round in 0..60 {
        let platform = place.open().await;
        platform
            .spawn_node(sh("a", SLEEP).build().unwrap())
            .await
            .unwrap();
        platform.stop_node(&id("a")).await.unwrap();
        fs::write(place.data("a").join("precious"), "x").unwrap();
        let bytes = fs::read(&marker).unwrap();
        let damage = damages(&used(&bytes), bytes.len(), Some((&mut dice, 3)))[2 - round % 3];
        let what = format!("{damage:?}");
        fs::write(&marker, damage.to(&bytes)).unwrap();
        drop(platform);

        let platform = place.open().await;
        // It runs there only where it is still said to be the node's own, and only then is it deleted.
        let again = platform.spawn_node(sh("a", SLEEP).build().unwrap()).await;
        let removed = platform.remove_node(&id("a"), DataPolicy::Purge).await;
        let left = place.data("a").join("precious").exists();
        assert_eq!(
            left,
            again.is_err() || removed.is_err(),
            "{what}: {again:?}, {removed:?}"
        );
        for error in [again.err(), removed.err()].into_iter().flatten() {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::OwnedByOther | ErrorKind::SpawnFailed
                ),
                "{what}: {error}"
            );
            refused += 1;
        }
        if left {
            fs::write(&marker, &bytes).unwrap();
        }
        for node in platform.list_nodes().await.unwrap() {
            platform
                .remove_node(&node.node_id, DataPolicy::Purge)
                .await
                .unwrap();
        }
        platform
            .remove_node(&id("a"), DataPolicy::Purge)
            .await
            .unwrap();
        assert!(!place.data("a").exists(), "{what}");
    }
    assert!(refused > 20, "{refused}");
}

#[tokio::test]
async fn what_a_killed_shim_left_is_ended_though_its_nodes_intent_is_damaged() {
    let place = Place::new();
    let platform = place.open().await;
    let script = "setsid sleep 1000 & exec sleep 1000";
    let node = platform
        .spawn_node(sh("a", script).build().unwrap())
        .await
        .unwrap();
    eventually("both", || census(node.uid.as_str()).len() == 2).await;
    fs::write(place.data("a").join("precious"), "x").unwrap();
    drop(platform);
    kill_9(parent(node.pid.unwrap()));
    eventually("what hides", || census(node.uid.as_str()).len() == 1).await;
    let intent = place.node_dir("a").join("intent.json");
    let mut bytes = fs::read(&intent).unwrap();
    let uid = bytes
        .windows(32)
        .position(|it| it == node.uid.as_str().as_bytes())
        .unwrap();
    // Another digit of its uid: well-formed, and nobody's.
    bytes[uid] = if bytes[uid] == b'0' { b'1' } else { b'0' };
    fs::write(&intent, bytes).unwrap();

    let platform = place.open().await;
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    assert!(platform.list_nodes().await.unwrap().is_empty());
    let again = platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    assert_eq!(census(again.uid.as_str()).len(), 1);
    assert!(place.data("a").join("precious").exists());
    clean(&platform).await;
}
