//! Calls and answers of the engine that go astray, and an engine that is suddenly another one: nothing is given up, lost or made
//! twice for it.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod bed;

use std::{path::PathBuf, time::Duration};

use bed::{
    Place,
    proxy::{Does, Proxy},
};
use futures::StreamExt;
use grid_platform_api::{
    DataPolicy, ErrorKind, Exit, HealthCheck, NodeEvent, NodeId, NodeState, Platform, PlatformExt,
    ReadyMode, RestartMode, SpawnConfig, SpawnConfigBuilder,
};
use grid_platform_docker::{DockerConfig, DockerPlatform};
use grid_platform_testing::probe;
use grid_testbed::Kind;
use serde_json::{Value, json};

/// The longest that is waited for a state.
const PATIENCE: Duration = Duration::from_secs(60);

/// A place, and a socket before its engine.
struct Ground {
    place: Place,
    proxy: Proxy,
}

impl Ground {
    fn new() -> Self {
        let api = bed::engine(Kind::Docker).unwrap();
        Self {
            place: Place::new(&api).unwrap(),
            proxy: Proxy::before(&api).unwrap(),
        }
    }

    fn config(&self) -> DockerConfig {
        DockerConfig {
            host: Some(self.proxy.host()),
            ..self.place.own_config()
        }
    }

    async fn open(&self) -> DockerPlatform {
        self.place.open(self.config()).await.unwrap()
    }

    fn node(&self, name: &str) -> SpawnConfigBuilder {
        // Tests of one engine must not take each other's names.
        let name = format!("{name}-{}", std::process::id());
        SpawnConfig::builder(name, self.place.probe(&[]).unwrap())
            .ready(ReadyMode::Started)
            .restart(RestartMode::Never)
    }

    /// Waits until the node's program has noted its start, which is one.
    async fn booted_once(&self, id: &NodeId) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.place.boots(id).unwrap().is_empty() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "`{id}` did not boot"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.place.boots(id).unwrap().len(), 1, "`{id}`");
    }

    fn post(&self, container: &str, what: &str) {
        let path = format!("/containers/{container}/{what}");
        self.place.api.call("POST", &path, None).unwrap();
    }

    fn state_of(&self, container: &str) -> Value {
        let path = format!("/containers/{container}/json");
        self.place.api.get(&path).unwrap()
    }

    /// What another engine would say it is.
    fn another(&self) -> Does {
        let mut info = self.place.api.get("/info").unwrap();
        info["ID"] = json!("ANOTHER:ENGINE");
        Does::Answer(200, info.to_string())
    }
}

async fn end(ground: Ground, platform: DockerPlatform, id: &NodeId) {
    platform.remove_node(id, DataPolicy::Purge).await.unwrap();
    drop(platform);
    ground.place.clean_up().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_breaks_is_no_end_of_the_program() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let program = ground.place.probe(&["healthy=no"]).unwrap();
    let config = SpawnConfig::builder(format!("waited-{}", std::process::id()), program)
        .port(0)
        .health(HealthCheck::http("/healthz"))
        .ready(ReadyMode::Healthy { timeout: PATIENCE })
        .restart(RestartMode::Never);
    let cut = ground.proxy.rule("POST", &["/wait"], 1, Does::Cut);
    let failing = Does::Answer(500, "{}".into());
    let failing = ground.proxy.rule("POST", &["/wait"], 1, failing);
    let breaking = async {
        cut.met(1).await;
        failing.met(1).await;
        let nodes = platform.list_nodes().await.unwrap();
        let port = nodes[0].endpoint.as_ref().unwrap().port;
        let asked = probe::ask_soon("127.0.0.1", port, "healthy=yes");
        asked.await.unwrap();
    };
    let spawning = platform.spawn_node(config.build().unwrap());
    let (node, ()) = tokio::join!(spawning, breaking);
    let node = node.unwrap();
    assert!(platform.is_node_alive(&node.node_id).await.unwrap());
    ground.booted_once(&node.node_id).await;
    end(ground, platform, &node.node_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_answer_is_lost_is_carried_on_with() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let build = || ground.node("made").secret("key", "open sesame".into());
    let config = build().build().unwrap();
    let id = config.node_id.clone();
    let lost = ground
        .proxy
        .rule("POST", &["/containers/create", "name="], 1, Does::Lose);
    let error = platform.spawn_node(config.clone()).await.unwrap_err();
    lost.met(1).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let made = ground.place.containers(&id).unwrap();
    assert_eq!(made.len(), 1, "the engine has made it");

    let node = platform.spawn_node(config).await.unwrap();
    assert_eq!(node.native_handle, made[0]["Id"].as_str().unwrap());
    ground.booted_once(&id).await;
    let secret = ground
        .place
        .host
        .path()
        .join("state/secrets")
        .join(node.uid.as_str());
    assert!(secret.join("key").exists());
    end(ground, platform, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_never_came_leaves_nothing_behind_the_next() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let config = ground.node("unmade").secret("key", "open sesame".into());
    let config = config.build().unwrap();
    let cut = ground
        .proxy
        .rule("POST", &["/containers/create", "name="], 1, Does::Cut);
    let error = platform.spawn_node(config.clone()).await.unwrap_err();
    cut.met(1).await;
    assert!(error.is_retryable(), "{error:?}");
    let node = platform.spawn_node(config).await.unwrap();
    let secrets = std::fs::read_dir(ground.place.host.path().join("state/secrets"));
    assert_eq!(secrets.unwrap().count(), 1);
    end(ground, platform, &node.node_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_itself_gives_no_node_up() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let config = ground.node("started").build().unwrap();
    let id = config.node_id.clone();
    for status in [500, 503] {
        let words = json!({ "message": "the moon is full" }).to_string();
        let failing = ground
            .proxy
            .rule("POST", &["/start"], 1, Does::Answer(status, words));
        let error = platform.spawn_node(config.clone()).await.unwrap_err();
        failing.met(1).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.is_retryable() && error.hint().is_some(), "{error:?}");
        let seen = platform.get_node_status(&id).await.unwrap();
        assert!(seen.state.failure().is_none(), "{:?}", seen.state);
    }
    platform.spawn_node(config).await.unwrap();
    ground.booted_once(&id).await;
    end(ground, platform, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_of_one_engine_until_another_is_accepted() {
    let ground = Ground::new();
    drop(ground.open().await);
    let other = ground
        .proxy
        .rule("GET", &["/info"], usize::MAX, ground.another());
    let error = DockerPlatform::open(ground.config()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OwnedByOther, "{error:?}");
    let own = ground.place.api.get("/info").unwrap()["ID"].clone();
    for name in [own.as_str().unwrap(), "ANOTHER:ENGINE"] {
        assert!(error.to_string().contains(name), "{error}");
    }
    let accept = ground.place.host.path().join("state/accept-engine");
    assert!(error.hint().unwrap().contains(accept.to_str().unwrap()));

    std::fs::write(&accept, "").unwrap();
    drop(ground.open().await);
    assert!(!accept.exists());
    drop(ground.open().await);
    drop(other);
    let error = DockerPlatform::open(ground.config()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OwnedByOther, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_not_gone_because_another_engine_answers() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let node = platform
        .spawn_node(ground.node("elsewhere").build().unwrap())
        .await
        .unwrap();
    let id = &node.node_id;
    {
        let nothing = json!({ "message": "No such container" }).to_string();
        let _other = [
            ground
                .proxy
                .rule("GET", &["/info"], usize::MAX, ground.another()),
            ground.proxy.rule(
                "GET",
                &["/containers/json"],
                usize::MAX,
                Does::Answer(200, "[]".into()),
            ),
            ground.proxy.rule(
                "GET",
                &["/containers/"],
                usize::MAX,
                Does::Answer(404, nothing),
            ),
        ];
        for error in [
            platform.get_node_status(id).await.unwrap_err(),
            platform.list_nodes().await.unwrap_err(),
            platform.is_node_alive(id).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            assert!(error.to_string().contains("ANOTHER:ENGINE"), "{error}");
        }
    }
    let seen = platform.get_node_status(id).await.unwrap();
    assert_eq!((&seen.uid, seen.started_at), (&node.uid, node.started_at));
    end(ground, platform, &node.node_id).await;
}

/// What the state has of a node.
fn kept(ground: &Ground, id: &NodeId, uid: &str) -> [PathBuf; 2] {
    let state = ground.place.host.path().join("state");
    let note = state.join("nodes").join(format!("sutra-grid-{id}.json"));
    [note, state.join("secrets").join(uid)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_short_takes_nothing_from_a_node() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let config = ground.node("unlisted").secret("key", "open sesame".into());
    let node = platform.spawn_node(config.build().unwrap()).await.unwrap();
    platform.stop_node(&node.node_id).await.unwrap();
    let kept = kept(&ground, &node.node_id, node.uid.as_str());
    drop(platform);

    let none = Does::Answer(200, "[]".into());
    let short = ground
        .proxy
        .rule("GET", &["/containers/json", "sutra.owner"], 1, none);
    let platform = ground.open().await;
    short.met(1).await;
    for path in &kept {
        assert!(path.exists(), "{}", path.display());
    }
    let seen = &platform.list_nodes().await.unwrap()[0];
    assert!(matches!(seen.state, NodeState::Stopped { .. }), "{seen:?}");
    end(ground, platform, &node.node_id).await;
    for path in &kept {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_understood_keeps_its_note_and_its_secrets() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let config = ground.node("damaged").secret("key", "open sesame".into());
    let node = platform.spawn_node(config.build().unwrap()).await.unwrap();
    let (id, uid) = (&node.node_id, node.uid.as_str());
    platform.stop_node(id).await.unwrap();
    drop(platform);
    let kept = kept(&ground, id, uid);

    // The same container, but for its record, as another version may write one.
    let mut config = ground.state_of(&node.native_handle)["Config"].clone();
    config["Labels"]["sutra.spec"] = json!("{}");
    let api = &ground.place.api;
    let delete = |container: &str| {
        let path = format!("/containers/{container}?force=true");
        api.call("DELETE", &path, None).unwrap();
    };
    delete(&node.native_handle);
    let path = format!("/containers/create?name=sutra-grid-{id}");
    let made = api.call("POST", &path, Some(&config)).unwrap();
    drop(ground.open().await);
    for path in &kept {
        assert!(path.exists(), "{}", path.display());
    }
    // Without one they are nobody's.
    delete(made["Id"].as_str().unwrap());
    let platform = ground.open().await;
    for path in &kept {
        assert!(!path.exists(), "{}", path.display());
    }
    end(ground, platform, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_starts_again_ends_by_itself() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let node = platform
        .spawn_node(ground.node("restarted").build().unwrap())
        .await
        .unwrap();
    let (id, container) = (&node.node_id, node.native_handle.as_str());
    ground.post(container, "restart?t=0");
    let again = |it: &grid_platform_api::SpawnedNode| {
        it.state.is_running() && it.started_at > node.started_at
    };
    platform
        .wait_for(id, PATIENCE, |it| it.is_some_and(again))
        .await
        .unwrap();
    ground.post(container, "kill?signal=SIGKILL");
    platform
        .wait_for(id, PATIENCE, |it| it.is_some_and(|it| it.state.is_ended()))
        .await
        .unwrap();
    let exit = |state: &NodeState| state.failure().and_then(|it| it.exit);
    let seen = platform.get_node_status(id).await.unwrap();
    assert_eq!(exit(&seen.state), Some(Exit::Signal(9)), "{:?}", seen.state);
    // And it is noted so.
    drop(platform);
    let platform = ground.open().await;
    let seen = platform.get_node_status(id).await.unwrap();
    assert_eq!(exit(&seen.state), Some(Exit::Signal(9)), "{:?}", seen.state);
    end(ground, platform, &node.node_id).await;
}

/// What the platform knows, without another look.
async fn known(platform: &DockerPlatform, id: &NodeId) -> NodeState {
    let mut events = platform.watch_nodes().await.unwrap();
    let Some(Ok(NodeEvent::Snapshot { nodes })) = events.next().await else {
        panic!("a stream begins with a snapshot");
    };
    let node = nodes.into_iter().find(|it| it.node_id == *id);
    node.unwrap().state
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_late_does_not_undo_a_newer_one() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let node = platform
        .spawn_node(ground.node("late").build().unwrap())
        .await
        .unwrap();
    let id = &node.node_id;
    drop(platform);

    // One that is open and has not heard of the node.
    let none = Does::Answer(200, "[]".into());
    let short = ground
        .proxy
        .rule("GET", &["/containers/json", "sutra.owner"], 1, none);
    let platform = ground.open().await;
    short.met(1).await;
    let name = format!("/containers/sutra-grid-{id}/json");
    let held = ground.proxy.rule("GET", &[&name], 1, Does::Hold);
    let late = async {
        let asked = platform.get_node_status(id).await;
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::NotFound);
    };
    let newer = async {
        held.met(1).await;
        assert_eq!(platform.list_nodes().await.unwrap().len(), 1);
        platform.stop_node(id).await.unwrap();
        drop(held);
    };
    tokio::join!(late, newer);
    let state = known(&platform, id).await;
    assert!(matches!(state, NodeState::Stopped { .. }), "{state:?}");
    end(ground, platform, &node.node_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_true_while_events_are_lost() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let node = platform
        .spawn_node(ground.node("unheard").build().unwrap())
        .await
        .unwrap();
    let id = node.node_id.clone();
    drop(platform);
    let events = ground.proxy.rule("GET", &["/events"], 1, Does::Stall);
    let platform = ground.open().await;
    events.met(1).await;
    // They end, and what begins them anew is not told what it has to know for it.
    let anew = ground.proxy.rule("GET", &["/info"], 1, Does::Hold);
    drop(events);
    anew.met(1).await;
    ground.post(&node.native_handle, "restart?t=0");
    let seen = &platform.list_nodes().await.unwrap()[0];
    let real = ground.state_of(&node.native_handle)["State"]["Pid"].as_u64();
    assert_eq!(seen.pid.map(u64::from), real);
    assert!(seen.started_at > node.started_at, "{seen:?}");
    drop(anew);
    end(ground, platform, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_dropped_leaves_the_node_its_policy() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let for_ = Duration::from_secs(3600);
    let config = ground.node("dropped").restart(RestartMode::OnFailure);
    let config = config.ready(ReadyMode::Alive { for_ }).build().unwrap();
    let id = config.node_id.clone();
    let heard = ground.proxy.rule("POST", &["/update"], 1, Does::Hold);
    {
        let spawning = platform.spawn_node(config);
        tokio::pin!(spawning);
        let waiting = platform.wait_for(&id, PATIENCE, |it| {
            it.is_some_and(|it| it.state.is_running())
        });
        tokio::select! {
            ended = &mut spawning => panic!("it waits for an hour: {ended:?}"),
            running = waiting => running.unwrap(),
        }
    }
    // Nobody else gives it one.
    heard.met(1).await;
    drop(heard);
    let container = ground.place.containers(&id).unwrap()[0]["Id"].clone();
    let seen = ground.state_of(container.as_str().unwrap());
    let policy = &seen["HostConfig"]["RestartPolicy"]["Name"];
    assert_eq!(policy, "on-failure");
    end(ground, platform, &id).await;
}

/// What is left of a test's own, whatever it ends with: a container of nobody's, and the control groups that it was in.
struct Unseen<'a> {
    ground: &'a Ground,
    container: String,
    groups: Vec<PathBuf>,
}

impl<'a> Unseen<'a> {
    /// A program in the control group of a container that the engine takes for one that does not run.
    fn run(ground: &'a Ground, of: &str) -> Self {
        let body = json!({
            "Image": bed::probe_image(&ground.place.api).unwrap(),
            "Env": ["SUTRA_DATA_PATH=/tmp"],
            "HostConfig": {
                "CgroupParent": format!("{of}.slice"),
                "NetworkMode": "none",
                "Tmpfs": { "/tmp": "" },
            },
        });
        let api = &ground.place.api;
        let made = api.call("POST", "/containers/create", Some(&body)).unwrap();
        let mut unseen = Self {
            ground,
            container: made["Id"].as_str().unwrap().to_owned(),
            groups: Vec::new(),
        };
        ground.post(&unseen.container, "start");
        let pid = &ground.state_of(&unseen.container)["State"]["Pid"];
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(groups.contains(of), "{groups}");
        unseen.groups = groups.lines().filter_map(parent_group).collect();
        unseen
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        let path = format!("/containers/{}?force=true", self.container);
        let _ = self.ground.place.api.call("DELETE", &path, None);
        for group in &self.groups {
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// The directory of the group above that of a line in `/proc/PID/cgroup`.
fn parent_group(line: &str) -> Option<PathBuf> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let all = PathBuf::from("/sys/fs/cgroup");
    let root = match controllers.trim_start_matches("name=") {
        // Version 2 is there by itself, or beside the others.
        "" => Some(all.join("unified"))
            .filter(|it| it.exists())
            .unwrap_or(all),
        controllers => all.join(controllers),
    };
    Some(root.join(path.trim_start_matches('/')).parent()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_program_runs_unseen_is_not_taken_away() {
    let ground = Ground::new();
    let platform = ground.open().await;
    let config = ground.node("unseen").build().unwrap();
    let node = platform.spawn_node(config).await.unwrap();
    let id = &node.node_id;
    platform.stop_node(id).await.unwrap();

    let unseen = Unseen::run(&ground, &node.native_handle);
    let error = platform
        .remove_node(id, DataPolicy::Purge)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains(&node.native_handle), "{hint}");
    assert_eq!(ground.place.containers(id).unwrap().len(), 1);
    assert_eq!(ground.place.boots(id).unwrap().len(), 1, "its data is kept");

    drop(unseen);
    end(ground, platform, id).await;
}
