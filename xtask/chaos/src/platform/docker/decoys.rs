//! What is somebody else's on the engine: made before the agent comes, and to be found as it was made.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use grid_platform_api::{NATIVE_PREFIX, NodeId};
use serde_json::{Value, json};

use super::PROBE;
use super::engine::Engine;

/// In the environment of their programs: they are none of the platform's.
pub(super) const MARK: &str = "CHAOS_DECOY";
/// The owner of those that have our labels.
const OTHER: &str = "0123456789abcdef0123456789abcdef";

/// How one is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Running,
    Paused,
    Stopped,
    Created,
}

/// Its name, whether it has our labels (of which node), and how it is left.
type Kind = (&'static str, Option<&'static str>, Left);

const CONTAINERS: [Kind; 5] = [
    // Our name, and nothing of ours.
    ("sutra-grid-taken-1", None, Left::Running),
    ("sutra-grid-taken-2", None, Left::Created),
    // All of ours but the owner.
    ("sutra-grid-taken-3", Some("taken-3"), Left::Paused),
    ("sutra-grid-taken-4", Some("taken-4"), Left::Stopped),
    // Of a node that there is here too, under a name of its own.
    ("somebody-elses", Some("probe-1"), Left::Running),
];

/// Volumes by name, with our labels or without.
const VOLUMES: [(&str, bool); 2] = [("sutra-grid-taken-1", false), ("sutra-grid-store-0", true)];

#[derive(Default)]
pub(super) struct Decoys {
    /// As each was last known to be, by its id.
    known: Mutex<BTreeMap<String, Known>>,
    /// What was done to them that was seen in passing.
    changed: Mutex<Vec<String>>,
}

struct Known {
    left: Left,
    /// What nothing but its owner changes.
    lasting: Value,
    /// What an engine changes that is started again.
    passing: Value,
}

fn labels(node: Option<&str>) -> Value {
    node.map_or(json!({}), |node| {
        json!({
            "sutra.grid": "true",
            "sutra.node_id": node,
            "sutra.owner": OTHER,
            "sutra.uid": OTHER,
        })
    })
}

/// Both halves of what the engine says of one.
fn halves(inspected: &Value) -> (Value, Value) {
    let (host, state) = (&inspected["HostConfig"], &inspected["State"]);
    let lasting = json!([
        inspected["Id"],
        inspected["Name"],
        inspected["Config"]["Labels"],
        host["RestartPolicy"],
    ]);
    let passing = json!([
        state["Status"],
        state["StartedAt"],
        state["FinishedAt"],
        inspected["RestartCount"],
    ]);
    (lasting, passing)
}

impl Decoys {
    /// Makes them.
    pub(super) fn make(engine: &Engine) -> io::Result<Self> {
        let decoys = Self::default();
        for (name, node, left) in CONTAINERS {
            let body = json!({
                "Image": PROBE,
                "Env": [format!("{MARK}=1"), "SUTRA_DATA_PATH=/tmp"],
                "Labels": labels(node),
                "HostConfig": {
                    "NetworkMode": "none",
                    "Tmpfs": { "/tmp": "" },
                    "RestartPolicy": { "Name": "unless-stopped" },
                },
            });
            let path = format!("/containers/create?name={name}");
            let made = engine.call("POST", &path, Some(&body))?;
            let id = made["Id"].as_str().unwrap_or_default().to_owned();
            if left != Left::Created {
                engine.call("POST", &format!("/containers/{id}/start"), None)?;
            }
            decoys.put(engine, &id, left)?;
        }
        for (name, is_labelled) in VOLUMES {
            let body = json!({ "Name": name, "Labels": labels(is_labelled.then_some("store-0")) });
            engine.call("POST", "/volumes/create", Some(&body))?;
        }
        Ok(decoys)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings one into the state in which it is to be found, from one in which an engine leaves it that was started again.
    fn put(&self, engine: &Engine, id: &str, left: Left) -> io::Result<()> {
        let inspected = engine.get(&format!("/containers/{id}/json"))?;
        let is = inspected["State"]["Status"].as_str().unwrap_or_default();
        if is == "restarting" {
            return Err(io::Error::other("it is being started again"));
        }
        let act = match (left, is) {
            (Left::Running | Left::Paused, "exited") => Some("start"),
            (Left::Paused, "running") => Some("pause"),
            (Left::Stopped, "running") => Some("stop?t=0"),
            _ => None,
        };
        if let Some(act) = act {
            engine.call("POST", &format!("/containers/{id}/{act}"), None)?;
            return self.put(engine, id, left);
        }
        let expect = match left {
            Left::Running => "running",
            Left::Paused => "paused",
            Left::Stopped => "exited",
            Left::Created => "created",
        };
        let (lasting, passing) = halves(&inspected);
        if is != expect && self.known().contains_key(id) {
            let words = format!("somebody else's container {lasting} is {is}, and was {expect}");
            self.changed().push(words);
        }
        let known = Known {
            left,
            lasting,
            passing,
        };
        self.known().insert(id.to_owned(), known);
        Ok(())
    }

    fn changed(&self) -> MutexGuard<'_, Vec<String>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at them before an engine is ended: what was done to them would be its own by then.
    pub(super) fn look_in_passing(&self, engine: &Engine) {
        let all: Vec<(String, (Value, Value))> = self
            .known()
            .iter()
            .map(|(id, it)| (id.clone(), (it.lasting.clone(), it.passing.clone())))
            .collect();
        for (id, before) in all {
            // One that is away cannot be asked.
            let now = engine.get(&format!("/containers/{id}/json"));
            if let Ok(now) = now.map(|it| halves(&it))
                && now != before
            {
                let words = format!("somebody else's container was {before:?} and is {now:?}");
                self.changed().push(words);
            }
        }
    }

    /// Takes them as an engine that was started again has left them, all but what that does not change; what is wrong.
    pub(super) fn settle(&self, engine: &Engine) -> io::Result<Vec<String>> {
        let all: Vec<(String, Left, Value)> = self
            .known()
            .iter()
            .map(|(id, it)| (id.clone(), it.left, it.lasting.clone()))
            .collect();
        let mut wrong = Vec::new();
        for (id, left, before) in all {
            self.put(engine, &id, left)?;
            wrong.append(&mut self.changed());
            let known = self.known();
            if known.get(&id).is_some_and(|it| it.lasting != before) {
                wrong.push(format!("somebody else's container {before} was changed"));
            }
        }
        Ok(wrong)
    }

    pub(super) fn has(&self, container: &str) -> bool {
        self.known().contains_key(container)
    }

    pub(super) fn has_volume(name: &str) -> bool {
        VOLUMES.iter().any(|(it, _)| *it == name)
    }

    /// Looks at each: how many are as they were, and what befell the others.
    pub(super) fn look(&self, engine: &Engine) -> (u64, Vec<String>) {
        let (mut unharmed, mut wrong) = (0, self.changed().clone());
        let mut tell = |right: Result<bool, io::Error>, words: String| match right {
            Ok(true) => unharmed += 1,
            Ok(false) => wrong.push(words),
            Err(error) => wrong.push(format!("{words}: {error}")),
        };
        for (id, known) in self.known().iter() {
            let now = engine.get(&format!("/containers/{id}/json"));
            let words = format!(
                "somebody else's container was {} {} and is {:?}",
                known.lasting,
                known.passing,
                now.as_ref().map(halves).ok()
            );
            let right = now.map(|it| halves(&it) == (known.lasting.clone(), known.passing.clone()));
            tell(right, words);
        }
        for (name, is_labelled) in VOLUMES {
            let labels = labels(is_labelled.then_some("store-0"));
            let now = engine.get(&format!("/volumes/{name}"));
            // Without any, engines say either of these.
            let right =
                now.map(|it| it["Labels"] == labels || !is_labelled && it["Labels"].is_null());
            tell(
                right,
                format!("somebody else's volume `{name}` was changed"),
            );
        }
        (unharmed, wrong)
    }

    /// The ids whose names they have.
    pub(super) fn taken() -> Vec<NodeId> {
        let names = CONTAINERS
            .iter()
            .filter_map(|(name, ..)| name.strip_prefix(NATIVE_PREFIX));
        names.filter_map(|it| NodeId::new(it).ok()).collect()
    }
}
