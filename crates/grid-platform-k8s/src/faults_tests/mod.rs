//! The whole adapter over a server that does what a real one cannot be made to do: at any call, at any moment.
//!
//! Time is virtual: a wait is over as soon as nobody has anything else to do.

mod by_hand;
mod calls;
mod kills;
mod pages;
mod refused;
mod started;
mod watches;

use std::time::Duration;

use futures::StreamExt;
use grid_platform_api::{
    DataPolicy, Error, NodeEvent, NodeId, NodeState, Platform, Program, ReadyMode, Result,
    SpawnConfig, SpawnConfigBuilder, StopPolicy,
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::sleep};

use crate::{
    KubernetesPlatform,
    config::{Allow, KubernetesConfig},
    fake::{Counted, Fake, NAMESPACE},
};

/// The node that is worked on, and one that is there all the time.
const NODE: &str = "a";
const BYSTANDER: &str = "b";
/// The name of the first one's objects.
const NAME: &str = "sutra-grid-a";
/// The kinds of objects that a node has.
const KINDS: [&str; 4] = ["pods", "persistentvolumeclaims", "services", "secrets"];
/// Longer, in the tests' virtual time, than anything takes that goes on in the background: that nothing more comes is no event.
const SETTLED: Duration = Duration::from_secs(60);

/// A server with one node that runs and no adapter, and how many calls one makes until it is open.
async fn calls_of_opening() -> (Bed, usize) {
    let (bed, platform) = Bed::new().await;
    platform.spawn_node(request(NODE)).await.unwrap();
    drop(platform);
    sleep(SETTLED).await;
    bed.fake.count(Counted::All);
    drop(bed.open().await.unwrap());
    let calls = bed.fake.calls().len();
    sleep(SETTLED).await;
    (bed, calls)
}

fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn request(name: &str) -> SpawnConfig {
    builder(name).build().unwrap()
}

fn builder(name: &str) -> SpawnConfigBuilder {
    SpawnConfig::builder(name, Program::image("demo:1", ["serve"]))
        .port(0)
        .secret("token", "hush".into())
        .ready(ReadyMode::Started)
        .stop(StopPolicy {
            grace: Duration::from_secs(1),
            ..StopPolicy::default()
        })
}

/// A cluster with a node on it that is there all the time, and with objects of others that have such names.
struct Bed {
    fake: Fake,
    foreign: Vec<(String, String, Value)>,
    /// The pod of the node that is there all the time.
    bystander: Value,
}

impl Bed {
    /// The cluster, and an adapter on it.
    async fn new() -> (Self, KubernetesPlatform) {
        let fake = Fake::default();
        for kind in KINDS {
            let labels = json!({
                "sutra.grid": "true", "sutra.node_id": "c", "sutra.install": "default",
                "sutra.owner": "00112233445566778899aabbccddeeff",
            });
            fake.edit(kind, "sutra-grid-c", |it| {
                it["metadata"]["labels"] = labels;
                it["data"] = json!({"theirs": "eQ=="});
                it["status"] = json!({"phase": "Pending"});
            });
            fake.edit(kind, "web", |it| it["status"] = json!({"phase": "Pending"}));
        }
        let foreign = fake.everything();
        // Its ConfigMap is made before there are claims of that name.
        let theirs = fake.get("persistentvolumeclaims", "sutra-grid-c");
        fake.delete("persistentvolumeclaims", "sutra-grid-c");
        let mut bed = Self {
            fake,
            foreign: Vec::new(),
            bystander: Value::Null,
        };
        let platform = bed.open().await.unwrap();
        bed.fake
            .edit("persistentvolumeclaims", "sutra-grid-c", |it| {
                *it = theirs.unwrap();
            });
        let names = foreign.into_iter().map(|it| (it.0, it.1));
        let now = names.map(|(kind, name)| {
            let object = bed.fake.get(&kind, &name).unwrap();
            (kind, name, object)
        });
        bed.foreign = now.collect();
        platform.spawn_node(request(BYSTANDER)).await.unwrap();
        bed.bystander = bed.pods(BYSTANDER).remove(0)["metadata"]["uid"].clone();
        (bed, platform)
    }

    /// Opens an adapter, as a process that was just started does.
    async fn open(&self) -> Result<KubernetesPlatform> {
        let access = self.fake.access();
        access.version().await?;
        KubernetesPlatform::open_over(access, config()).await
    }

    /// The pods of a node.
    fn pods(&self, node: &str) -> Vec<Value> {
        let mut pods = self.fake.all("pods");
        pods.retain(|it| {
            let labels = &it["metadata"]["labels"];
            labels["sutra.node_id"] == node
        });
        pods
    }

    /// That the node runs, in one pod.
    async fn check_runs(&self, platform: &KubernetesPlatform) {
        let listed = listed(platform, NODE).await;
        assert_eq!(listed, Some(NodeState::Running));
        assert!(platform.is_node_alive(&id(NODE)).await.unwrap());
        assert_eq!(self.pods(NODE).len(), 1);
        // All of it is of one incarnation.
        let uid = |kind| {
            self.fake.get(kind, NAME).unwrap()["metadata"]["labels"]["sutra.node_uid"].clone()
        };
        for kind in KINDS {
            assert_eq!(uid(kind), uid("pods"), "{kind}");
        }
        let service = self.fake.get("services", NAME).unwrap();
        assert_eq!(service["spec"]["selector"]["sutra.node_uid"], uid("pods"));
    }

    /// That the node is stopped, and has no pod.
    async fn check_stopped(&self, platform: &KubernetesPlatform) {
        let listed = listed(platform, NODE).await;
        assert!(
            matches!(listed, Some(NodeState::Stopped { .. })),
            "{listed:?}"
        );
        assert_eq!(self.pods(NODE).len(), 0);
    }

    /// That it was noted that the node is not to run.
    fn check_noted_as_stopped(&self) {
        let claim = self.fake.get("persistentvolumeclaims", NAME).unwrap();
        let notes = &claim["metadata"]["annotations"]["sutra.grid/notes"];
        let notes: Value = serde_json::from_str(notes.as_str().unwrap()).unwrap();
        let goal = notes["goal"]["kind"].as_str().unwrap();
        assert!(matches!(goal, "stopped" | "given_up"), "{goal}");
    }

    /// That there is no such node, and nothing of it.
    async fn check_gone(&self, platform: &KubernetesPlatform) {
        assert_eq!(listed(platform, NODE).await, None);
        for kind in KINDS {
            assert_eq!(self.fake.get(kind, NAME), None);
        }
    }

    /// That nothing of anybody else was touched, and that the node that is there all the time runs as before.
    async fn check_others(&self, platform: &KubernetesPlatform) {
        for (kind, name, before) in &self.foreign {
            assert_eq!(self.fake.get(kind, name).as_ref(), Some(before));
        }
        assert_eq!(listed(platform, BYSTANDER).await, Some(NodeState::Running));
        let pods = self.pods(BYSTANDER);
        assert_eq!(pods.len(), 1);
        assert_eq!(pods[0]["metadata"]["uid"], self.bystander);
        for kind in KINDS {
            let made = self.fake.made(kind, "sutra-grid-b");
            assert_eq!(made, 1, "{kind}");
        }
    }
}

fn config() -> KubernetesConfig {
    KubernetesConfig {
        images: Allow::Any,
        ..KubernetesConfig::new(NAMESPACE)
    }
}

/// The state that a node is listed with.
async fn listed(platform: &KubernetesPlatform, node: &str) -> Option<NodeState> {
    let all = platform.list_nodes().await.unwrap();
    let mut of = all.into_iter().filter(|it| it.node_id.as_str() == node);
    let found = of.next();
    assert!(of.next().is_none(), "listed twice");
    found.map(|it| it.state)
}

/// That an error says what was wrong, that it can be tried again, and what mends it.
fn check_clear(error: &Error) {
    assert!(error.is_retryable(), "{}", error.report());
    assert!(error.hint().is_some(), "{}", error.report());
    assert!(!error.to_string().is_empty());
}

/// Something that is done with the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Spawn,
    /// A spawn of a node that is stopped.
    Start,
    /// A spawn on the data of a node that was removed.
    SpawnOnKept,
    Stop,
    ForceStop,
    Remove,
    RemoveKeeping,
}

const WORK: [Work; 7] = [
    Work::Spawn,
    Work::Start,
    Work::SpawnOnKept,
    Work::Stop,
    Work::ForceStop,
    Work::Remove,
    Work::RemoveKeeping,
];

impl Work {
    /// Brings about what it begins with.
    async fn prepare(self, platform: &KubernetesPlatform) {
        if self == Self::Spawn {
            return;
        }
        let node = id(NODE);
        platform.spawn_node(request(NODE)).await.unwrap();
        let done = match self {
            Self::Start => platform.stop_node(&node).await,
            Self::SpawnOnKept => platform.remove_node(&node, DataPolicy::Keep).await,
            _ => Ok(()),
        };
        done.unwrap();
    }

    async fn run(self, platform: &KubernetesPlatform) -> Result<()> {
        let node = id(NODE);
        match self {
            Self::Spawn | Self::Start | Self::SpawnOnKept => {
                platform.spawn_node(request(NODE)).await.map(drop)
            }
            Self::Stop => platform.stop_node(&node).await,
            Self::ForceStop => platform.force_stop_node(&node).await,
            Self::Remove => platform.remove_node(&node, DataPolicy::Purge).await,
            Self::RemoveKeeping => platform.remove_node(&node, DataPolicy::Keep).await,
        }
    }

    /// That it has been done.
    async fn check(self, bed: &Bed, platform: &KubernetesPlatform) {
        match self {
            Self::Spawn | Self::Start | Self::SpawnOnKept => bed.check_runs(platform).await,
            Self::Stop | Self::ForceStop => {
                bed.check_stopped(platform).await;
                bed.check_noted_as_stopped();
            }
            Self::Remove => bed.check_gone(platform).await,
            Self::RemoveKeeping => {
                assert_eq!(listed(platform, NODE).await, None);
                for kind in ["pods", "services", "secrets"] {
                    assert_eq!(bed.fake.get(kind, NAME), None);
                }
                assert!(bed.fake.get("persistentvolumeclaims", NAME).is_some());
            }
        }
    }

    /// How many calls it takes where nothing goes wrong.
    async fn calls(self) -> Vec<String> {
        let (bed, platform) = Bed::new().await;
        self.prepare(&platform).await;
        bed.fake.count(Counted::Work);
        self.run(&platform).await.unwrap();
        let calls = bed.fake.calls();
        assert!(!calls.is_empty());
        calls
    }
}

/// Removes the node with its data, and checks that nothing is left of it.
async fn check_removed(bed: &Bed, platform: &KubernetesPlatform) {
    let removed = platform.remove_node(&id(NODE), DataPolicy::Purge).await;
    removed.unwrap();
    bed.check_gone(platform).await;
    bed.check_others(platform).await;
}

/// The events of a platform, as they come.
struct Events(mpsc::UnboundedReceiver<NodeEvent>);

impl Events {
    async fn of(platform: &KubernetesPlatform) -> Self {
        let mut stream = platform.watch_nodes().await.unwrap();
        let (out, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(event)) = stream.next().await {
                if out.send(event).is_err() {
                    return;
                }
            }
        });
        Self(events)
    }

    /// What came since the last call, once everything has settled.
    async fn settled(&mut self) -> Vec<NodeEvent> {
        sleep(SETTLED).await;
        let mut all = Vec::new();
        while let Ok(event) = self.0.try_recv() {
            all.push(event);
        }
        all
    }
}

/// How often a node was told to be gone.
fn removals(events: &[NodeEvent], node: &str) -> usize {
    let of = |it: &&NodeEvent| matches!(it, NodeEvent::Removed { node_id, .. } if node_id.as_str() == node);
    events.iter().filter(of).count()
}

/// The states of a node that were told as changes.
fn changes(events: &[NodeEvent], node: &str) -> Vec<NodeState> {
    let of = |it: &NodeEvent| match it {
        NodeEvent::Changed { node: it } if it.node_id.as_str() == node => Some(it.state.clone()),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

fn resyncs(events: &[NodeEvent]) -> usize {
    let of = |it: &&NodeEvent| matches!(it, NodeEvent::Resync { .. });
    events.iter().filter(of).count()
}

/// Runs a case; a panic in it is told with what it was.
struct Named<'a, T>(&'a str, T);

impl<'a, T: Future<Output = ()> + 'a> IntoFuture for Named<'a, T> {
    type Output = ();
    type IntoFuture = std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        struct Case<'a>(&'a str);
        impl Drop for Case<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("the case: {}", self.0);
                }
            }
        }
        Box::pin(async move {
            let _case = Case(self.0);
            self.1.await;
        })
    }
}
