//! Nodes as containers of an engine.

mod decoys;
mod engine;
mod strike;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, FutureExt};
use grid_client::{Client, NodeSettings};
use grid_platform_api::{NodeId, RestartMode};
use grid_testbed::{Image, Tar};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{
    Census, Ground, LastFault, Manner, Place, Positions, Records, data_folders, sealed_json,
};
use crate::plan::{BETWEEN, END, Fault, Kind, Point, STEP, Weight};
use crate::report::Counts;
use crate::{Args, Result, proc};
use decoys::Decoys;
use engine::Engine;

/// The image of probes.
const PROBE: &str = "localhost/sutra-grid-chaos/probe:1";
/// The image of storage servers.
const STORAGE: &str = "localhost/sutra-grid-chaos/storage:1";
/// What an engine runs beside containers.
const HELPERS: [&str; 3] = ["dockerd", "containerd", "docker-proxy"];
/// The frames in which an engine speaks for itself within a log.
const OF_THE_ENGINE: u8 = 3;
/// Who keeps a container running.
const SHIM: &str = "containerd-shim-runc-v2";

/// How long a call of the engine may take, in milliseconds.
const CALL_LIMIT_MS: u64 = 4000;

/// What is done, and how often beside the others.
const KINDS: [Weight; 16] = [
    (Kind::KillAgent, 7),
    (Kind::KillMaster, 4),
    (Kind::KillNode, 5),
    (Kind::CutLink, 3),
    (Kind::StallLink, 3),
    (Kind::FillDisk, 3),
    (Kind::Point, 18),
    (Kind::KillEngine, 4),
    (Kind::RestartEngine, 2),
    (Kind::CutSocket, 3),
    (Kind::StallSocket, 4),
    (Kind::FillEngine, 2),
    (Kind::RemoveContainer, 4),
    (Kind::StopContainer, 3),
    (Kind::PauseContainer, 4),
    (Kind::RenameContainer, 3),
];

/// The points in the adapter.
pub(super) const POINTS: &[Point] = &[
    // Around each call of the engine, whichever comes by next. An error behind it is an answer that was lost.
    Point {
        name: "docker-call-before",
        orders: STEP,
    },
    Point {
        name: "docker-call-after",
        orders: STEP,
    },
    Point {
        name: "docker-spawn-before-create",
        orders: STEP,
    },
    Point {
        name: "docker-spawn-after-create",
        orders: BETWEEN,
    },
    Point {
        name: "docker-spawn-after-start",
        orders: BETWEEN,
    },
    Point {
        name: "docker-spawn-before-answer",
        orders: END,
    },
    Point {
        name: "docker-start-after-note",
        orders: STEP,
    },
    Point {
        name: "docker-start-after-policy",
        orders: BETWEEN,
    },
    Point {
        name: "docker-stop-after-note",
        orders: STEP,
    },
    Point {
        name: "docker-stop-after-stop",
        orders: STEP,
    },
    Point {
        name: "docker-stop-before-answer",
        orders: END,
    },
    Point {
        name: "docker-remove-after-end",
        orders: STEP,
    },
    Point {
        name: "docker-remove-after-kept",
        orders: STEP,
    },
    Point {
        name: "docker-remove-after-delete",
        orders: STEP,
    },
    Point {
        name: "docker-remove-before-answer",
        orders: END,
    },
];

pub(super) struct Containers {
    place: Place,
    engine: Arc<Engine>,
    decoys: Arc<Decoys>,
    /// Containers that were paused and not let go yet.
    paused: Mutex<BTreeSet<String>>,
    /// What waits for an engine that is started again.
    settling: Mutex<Vec<JoinHandle<Result<Vec<String>>>>>,
    /// What was done to others' things, as far as it was seen in passing.
    wrong: Mutex<Vec<String>>,
    loses_lines: AtomicBool,
    /// The engine that was ended last, since the last rest.
    ended: Mutex<Option<proc::Process>>,
    /// Whether one was ended ever: what it holds for nobody shows when somebody wants it.
    was_ended: AtomicBool,
    /// Containers whose logs an engine that was killed or had no room has torn: it cannot read them from there on.
    torn: Mutex<BTreeSet<String>>,
    /// What engines that were ended have left of their own, and was taken away.
    mended: Arc<Mutex<Counts>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A container as the engine lists it.
struct Listed {
    id: String,
    names: String,
    state: String,
    /// The node and the incarnation, if it is of the owner that was asked for.
    node: Option<(String, String)>,
}

impl Containers {
    pub(super) async fn open(args: &Args, place: &Place) -> Result<Self> {
        let program = args
            .static_program
            .as_ref()
            .ok_or("images need `--static-program`")?;
        // Where fault points are armed, figures are looked for too: some stalls outlast this.
        fs::write(place.dir.join("docker-limit-ms"), CALL_LIMIT_MS.to_string())?;
        let engine = Engine::start(place, args.seed().is_multiple_of(2)).await?;
        let images = [
            (
                PROBE,
                "grid-probe",
                grid_platform_testing::probe::BYTES.to_vec(),
                vec!["/grid-probe"],
            ),
            (
                STORAGE,
                "grid",
                fs::read(program)?,
                vec!["/grid", "storage"],
            ),
        ];
        for (name, file, bytes, entrypoint) in images {
            let layer = Tar::default().file(file, 0o755, &bytes);
            let image = Image::new(layer).entrypoint(&entrypoint);
            image.load(engine.api(), name)?;
        }
        Ok(Self {
            place: place.clone(),
            decoys: Arc::new(Decoys::make(&engine)?),
            engine: Arc::new(engine),
            paused: Mutex::default(),
            settling: Mutex::default(),
            wrong: Mutex::default(),
            loses_lines: AtomicBool::new(false),
            ended: Mutex::default(),
            was_ended: AtomicBool::new(false),
            torn: Mutex::default(),
            mended: Arc::default(),
        })
    }

    /// The agent's install id; none before it was made.
    fn owner(&self) -> Option<String> {
        let file = self.place.agent().join("docker/install.json");
        let install = sealed_json(&file).ok()?;
        install["owner"].as_str().map(str::to_owned)
    }

    /// The id of a node's container, if it has one.
    fn container(&self, id: &NodeId) -> io::Result<Option<String>> {
        let is_its = |it: &Listed| it.node.as_ref().is_some_and(|it| it.0 == id.as_str());
        Ok(self.list()?.into_iter().find(is_its).map(|it| it.id))
    }

    /// All containers but those of others.
    fn list(&self) -> io::Result<Vec<Listed>> {
        let owner = self.owner();
        let all = self.engine.get("/containers/json?all=true")?;
        let all = all.as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = all.map(|it| {
            let labels = &it["Labels"];
            let ours = labels["sutra.grid"] == "true"
                && labels["sutra.owner"].as_str() == owner.as_deref();
            Listed {
                id: text(&it["Id"]),
                names: it["Names"].to_string(),
                state: text(&it["State"]),
                node: ours.then(|| (text(&labels["sutra.node_id"]), text(&labels["sutra.uid"]))),
            }
        });
        Ok(all.filter(|it| !self.decoys.has(&it.id)).collect())
    }
}

impl Ground for Containers {
    fn manner(&self) -> Manner {
        Manner::default()
    }

    fn kinds(&self) -> Vec<Weight> {
        KINDS.to_vec()
    }

    fn points(&self) -> Vec<Point> {
        POINTS.to_vec()
    }

    fn settings(&self, of_the_host: &str) -> String {
        format!(
            "[docker]\nhost = 'unix://{}'\nimages = ['{PROBE}']\npull = 'never'\n\
             [storage]\ndocker_image = '{STORAGE}'\n\
             args = ['--data-path', '{{data_path}}', '--listen', '{{bind}}:{{port}}', '--published', '{{published}}']\n{of_the_host}",
            self.engine.at.display()
        )
    }

    fn dress(&self, probe: Option<Vec<String>>, settings: &mut NodeSettings) {
        // How long it waits before it starts one again is the engine's own.
        settings.restart = Some(RestartMode::Always.into());
        settings.image = probe.is_some().then(|| PROBE.to_owned());
        settings.args = probe;
    }

    fn begin(&self) {
        self.loses_lines.store(false, Ordering::SeqCst);
        *locked(&self.ended) = None;
    }

    fn strike<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Result<bool>> {
        async move { self.hit(fault) }.boxed()
    }

    fn calm(&self) -> BoxFuture<'_, Result<()>> {
        self.let_go().boxed()
    }

    fn census(&self) -> io::Result<Census> {
        let all = proc::all()?;
        let mut census = Census::default();
        let mut shims = Vec::new();
        for process in all {
            if process.is_zombie() {
                census.others.push(process);
                continue;
            }
            let name = process.args.first().and_then(|it| it.rsplit('/').next());
            let is_helper = name.is_some_and(|it| HELPERS.contains(&it));
            if is_helper || process.variable(decoys::MARK).is_some() {
                continue;
            }
            if let Some(container) = strike::shim_of(&process) {
                if !self.decoys.has(container) {
                    shims.push(process);
                }
                continue;
            }
            match process.variable("SUTRA_NODE_ID").map(str::to_owned) {
                Some(id) => {
                    let living = census.nodes.entry(id).or_default();
                    match process.args.get(1).map(String::as_str) {
                        // Between a program and its orphan, for a moment.
                        Some("--orphan-parent") => census.others.push(process),
                        Some("--orphan") => living.orphans.push(process),
                        _ => living.programs.push(process),
                    }
                }
                None => census.others.push(process),
            }
        }
        for living in census.nodes.values_mut() {
            let pids: Vec<_> = living.programs.iter().map(|it| it.pid).collect();
            // A program's own child, which is about to become something else.
            let children = living
                .programs
                .extract_if(.., |it| pids.contains(&it.parent));
            census.others.extend(children);
        }
        for shim in shims {
            let parent = |it: &super::Living| it.programs.iter().any(|it| it.parent == shim.pid);
            match census.nodes.values_mut().find(|it| parent(it)) {
                Some(living) => living.supervisors.push(shim),
                None => census.others.push(shim),
            }
        }
        Ok(census)
    }

    fn records(&self) -> io::Result<Records> {
        let mut records = Records {
            data: data_folders(&self.place),
            ..Records::default()
        };
        for container in self.list()? {
            let Listed {
                id,
                names,
                state,
                node,
            } = container;
            records.outside += 1;
            let Some((node, uid)) = node else {
                records
                    .left
                    .push(format!("the container {names} ({state}, {id})"));
                continue;
            };
            // An engine that is started again goes by the policy, and not by who stopped it. All nodes here have `always` while they run.
            if state == "exited" {
                let inspected = self.engine.get(&format!("/containers/{id}/json"))?;
                let policy = &inspected["HostConfig"]["RestartPolicy"]["Name"];
                if policy != "no" {
                    let words = format!("its container has the restart policy {policy}");
                    records.revived.insert(node.clone(), words);
                }
            }
            if let Some(other) = records.nodes.insert(node.clone(), uid.clone()) {
                let words =
                    format!("`{node}` has two containers, of the incarnations {other} and {uid}");
                records.left.push(words);
            }
        }
        let volumes = self.engine.get("/volumes")?;
        let names = volumes["Volumes"].as_array().into_iter().flatten();
        for name in names.filter_map(|it| it["Name"].as_str()) {
            // Agent and engine see the same files: data lies in these, and in no volume.
            if !Decoys::has_volume(name) {
                records.left.push(format!("the volume `{name}`"));
            }
        }
        let (unharmed, wrong) = self.decoys.look(&self.engine);
        records.decoys = unharmed;
        records.left.extend(wrong);
        records.left.extend(locked(&self.wrong).iter().cloned());
        Ok(records)
    }

    fn has_data(&self, id: &NodeId) -> io::Result<bool> {
        Ok(self.place.data().join(id.as_str()).exists())
    }

    fn address(&self, _: &NodeId, port: u16) -> Option<String> {
        Some(format!("127.0.0.1:{port}"))
    }

    fn log(&self, id: &NodeId) -> io::Result<Vec<u8>> {
        let id = self
            .container(id)?
            .ok_or_else(|| io::Error::other(format!("`{id}` has no container")))?;
        let path = format!("/containers/{id}/logs?stdout=true&stderr=true&tail=all");
        let log = unframed(&self.engine.bytes(&path)?)
            .ok_or_else(|| io::Error::other("a log of broken frames"))?;
        match log {
            Ok(log) => Ok(log),
            // Torn when it was killed or had no room, and so for good.
            Err(_) if self.loses_lines() || locked(&self.torn).contains(&id) => {
                locked(&self.torn).insert(id);
                Err(io::ErrorKind::InvalidData.into())
            }
            Err(words) => Err(io::Error::other(words)),
        }
    }

    fn positions(&self) -> Positions {
        Positions::Opaque
    }

    fn loses_lines(&self) -> bool {
        self.loses_lines.load(Ordering::SeqCst)
    }

    fn excuses(&self) -> &'static [&'static str] {
        &["no space left on device"]
    }

    fn mend<'a>(
        &'a self,
        id: &'a NodeId,
        port: Option<u16>,
        why: &str,
    ) -> BoxFuture<'a, Result<bool>> {
        let is_port = why.starts_with("port_in_use: ");
        let is_seen = why.contains(" is taken by ");
        let is_left = why.starts_with("unavailable: an engine that was killed has left something");
        async move {
            Ok(match (is_port, is_left) {
                (true, _) => self.free_port(id, port, is_seen).await?,
                (_, true) => self.end_left_of(id)?,
                _ => false,
            })
        }
        .boxed()
    }

    fn mended(&self) -> Counts {
        locked(&self.mended).clone()
    }

    fn taken(&self) -> Vec<NodeId> {
        Decoys::taken()
    }

    fn last_fault<'a>(&'a self, _: &'a Client) -> BoxFuture<'a, Result<LastFault>> {
        async { Ok(None) }.boxed()
    }

    fn ends(&self) -> Counts {
        self.engine.ends()
    }

    fn keep_evidence(&self) {
        let all = self
            .engine
            .get("/containers/json?all=true")
            .unwrap_or_default();
        let ids = all
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| it["Id"].as_str());
        let inspect = |id: &str| self.engine.get(&format!("/containers/{id}/json")).ok();
        let each: Vec<_> = ids.map(inspect).collect();
        // Without it there are the logs.
        let _ = fs::write(
            self.place.dir.join("containers.json"),
            serde_json::json!(each).to_string(),
        );
    }

    fn clean_up(&self) -> BoxFuture<'_, Result<()>> {
        self.engine.take_away().boxed()
    }
}

/// What stands in the frames of a log, or what the engine itself says of it; `None` when they are none.
fn unframed(mut bytes: &[u8]) -> Option<std::result::Result<Vec<u8>, String>> {
    let mut log = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(8)?;
        let length = u32::from_be_bytes(head[4..].try_into().ok()?);
        let (text, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        if head[0] == OF_THE_ENGINE {
            return Some(Err(String::from_utf8_lossy(text).into_owned()));
        }
        log.extend_from_slice(text);
        bytes = rest;
    }
    Some(Ok(log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_off() {
        let frames = b"\x01\0\0\0\0\0\0\x02a\n\x02\0\0\0\0\0\0\x01b";
        assert_eq!(unframed(frames).unwrap().unwrap(), b"a\nb");
        assert_eq!(unframed(b"").unwrap().unwrap(), b"");
        let torn = b"\x01\0\0\0\0\0\0\x02a\n\x03\0\0\0\0\0\0\x04torn";
        assert_eq!(unframed(torn).unwrap().unwrap_err(), "torn");
        assert!(unframed(&frames[..9]).is_none());
        assert!(unframed(b"\x01\0").is_none());
    }
}
