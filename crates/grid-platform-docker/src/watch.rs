//! The engine's events into the registry, and the registry's changes to who watches.
//!
//! A [`Feed`] follows the engine's events and asks after the container of each. It is begun before everything is read, so that nothing
//! falls in between; when its stream ends, or the engine was restarted, it connects again and everything is read anew.
//! [`events`] is what `watch_nodes` gives: a snapshot, then changes; a resync and a snapshot after a gap.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bollard::{
    errors::Error as Client,
    models::{EventMessage, EventMessageTypeEnum, SystemInfo},
    query_parameters::EventsOptions,
};
use futures::{Stream, StreamExt, stream};
use grid_platform_api::{
    Error, NodeEvent, NodeEventStream, NodeId, OwnerId, Progress, Result, SpawnedNode, Timestamp,
};
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        watch,
    },
    task::JoinSet,
    time::sleep,
};

use crate::{
    engine::{CALL, Engine},
    images::Images,
    nodes::{self, Change, Registry},
    platform::Inner,
    translate::label,
};

/// What changes a node, as the engine calls it; Podman says `died` and `remove`.
const CONTAINER: [&str; 14] = [
    "create",
    "start",
    "restart",
    "die",
    "died",
    "oom",
    "stop",
    "pause",
    "unpause",
    "rename",
    "update",
    "destroy",
    "remove",
    "health_status",
];
/// What changes which images there are.
const IMAGE: [&str; 8] = [
    "delete", "import", "load", "prune", "pull", "remove", "tag", "untag",
];
/// How many containers are asked after at once.
const AT_ONCE: usize = 8;
/// The waits between two attempts to reach an engine that is gone: from, to.
const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(2);
/// After so long without an event the stream is begun anew where it was: a connection over a network can die without a word.
const QUIET: Duration = Duration::from_secs(60);

type Events = Pin<Box<dyn Stream<Item = Result<EventMessage, Client>> + Send>>;

/// The engine's events.
pub(crate) struct Feed {
    engine: Engine,
    events: Events,
    /// Up to when they were heard, by the engine's clock.
    heard: Timestamp,
    /// Containers to be asked after, and those that are.
    changed: BTreeSet<String>,
    asked: BTreeSet<String>,
    asking: JoinSet<(String, Result<()>)>,
    closing: watch::Receiver<()>,
}

/// What is gone when the platform is closed.
struct Closed;

impl Feed {
    /// Hears all that happens since the engine said this of itself.
    pub(crate) fn begin(engine: &Engine, info: &SystemInfo, closing: watch::Receiver<()>) -> Self {
        let heard = time_of(info);
        Self {
            engine: engine.clone(),
            events: listen(engine, heard),
            heard,
            changed: BTreeSet::new(),
            asked: BTreeSet::new(),
            asking: JoinSet::new(),
            closing,
        }
    }

    /// Keeps the registry true until the platform is dropped.
    pub(crate) async fn run(mut self, inner: Weak<Inner>) {
        while let Ok(()) = self.step(&inner).await {}
    }

    async fn step(&mut self, inner: &Weak<Inner>) -> Result<(), Closed> {
        self.ask(inner)?;
        let mut lost = None;
        tokio::select! {
            _ = self.closing.changed() => return Err(Closed),
            Some(done) = self.asking.join_next() => match done {
                Ok((container, answer)) => {
                    self.asked.remove(&container);
                    if let Err(error) = answer {
                        lost = Some(format!("the engine did not say what became of a container: {error}"));
                    }
                }
                Err(panic) => lost = Some(format!("what asked the engine ended: {panic}")),
            },
            event = self.events.next() => match event {
                Some(Ok(event)) => self.hear(&event, inner)?,
                Some(Err(error)) => lost = Some(format!("the engine's events broke off: {error}")),
                None => lost = Some("the engine's events ended".to_owned()),
            },
            () = sleep(QUIET) => self.events = listen(&self.engine, self.heard),
        }
        match lost {
            Some(reason) => self.recover(inner, &reason).await,
            None => Ok(()),
        }
    }

    /// Asks after the containers that changed.
    fn ask(&mut self, inner: &Weak<Inner>) -> Result<(), Closed> {
        while self.asked.len() < AT_ONCE {
            let next = self.changed.iter().find(|it| !self.asked.contains(*it));
            let Some(container) = next.cloned() else {
                break;
            };
            self.changed.remove(&container);
            self.asked.insert(container.clone());
            let inner = inner.upgrade().ok_or(Closed)?;
            self.asking.spawn(async move {
                let answer = nodes::refresh(&inner, &container).await.map(drop);
                (container, answer)
            });
        }
        Ok(())
    }

    fn hear(&mut self, event: &EventMessage, inner: &Weak<Inner>) -> Result<(), Closed> {
        let inner = inner.upgrade().ok_or(Closed)?;
        let at = event.time_nano.map(i128::from);
        if let Some(at) = at.and_then(|it| Timestamp::from_nanosecond(it).ok()) {
            self.heard = self.heard.max(at);
        }
        match concerns(event, &inner.install.owner) {
            Some(Concern::Container { id, ours }) => {
                nodes::hear(&inner, event, id);
                if ours || inner.registry.by_container(id).is_some() {
                    self.changed.insert(id.to_owned());
                }
            }
            Some(Concern::Images) => inner.images.forget(None),
            None => {}
        }
        Ok(())
    }

    /// Connects again, and reads everything anew.
    async fn recover(&mut self, inner: &Weak<Inner>, reason: &str) -> Result<(), Closed> {
        tracing::info!(reason, "the engine's events are begun anew");
        if let Some(inner) = inner.upgrade() {
            inner.registry.set_synced(false);
        }
        let mut pause = SOON;
        loop {
            let again = async {
                let heard = now(&self.engine).await?;
                let events = listen(&self.engine, heard);
                let inner = inner.upgrade();
                if let Some(inner) = &inner {
                    inner.same_engine().await?;
                    // Of a tag that was moved meanwhile no event tells.
                    inner.images.forget(None);
                    nodes::resync(inner, reason).await?;
                    inner.registry.set_synced(true);
                }
                Ok::<_, Error>((heard, events))
            };
            let again = tokio::select! {
                _ = self.closing.changed() => return Err(Closed),
                again = again => again,
            };
            match again {
                Ok((heard, events)) => {
                    (self.heard, self.events) = (heard, events);
                    // Everything was read after these changed.
                    self.changed.clear();
                    return Ok(());
                }
                Err(error) => tracing::debug!(%error, "the engine cannot be asked"),
            }
            tokio::select! {
                _ = self.closing.changed() => return Err(Closed),
                () = sleep(pause) => pause = (pause * 2).min(LATE),
            }
        }
    }
}

/// The engine's clock. Events are asked for from a time on: that they are sent begins at some moment behind the call that asks.
async fn now(engine: &Engine) -> Result<Timestamp> {
    let info = engine
        .call("ask the engine for its time", CALL, engine.docker.info())
        .await?;
    Ok(time_of(&info))
}

fn time_of(info: &SystemInfo) -> Timestamp {
    let time = info.system_time.as_ref().and_then(|it| it.parse().ok());
    // One without a clock to show has this one; what happens in between is found by what is read next.
    time.unwrap_or_else(Timestamp::now)
}

fn listen(engine: &Engine, since: Timestamp) -> Events {
    let words = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let filters = HashMap::from([
        ("type".to_owned(), words(&["container", "image"])),
        (
            "event".to_owned(),
            words(&[&CONTAINER[..], &IMAGE].concat()),
        ),
    ]);
    let options = EventsOptions {
        since: Some(format!(
            "{}.{:09}",
            since.as_second(),
            since.subsec_nanosecond()
        )),
        filters: Some(filters),
        ..EventsOptions::default()
    };
    Box::pin(engine.docker.events(Some(options)))
}

/// Whom an event concerns.
#[derive(Debug, PartialEq, Eq)]
enum Concern<'a> {
    /// A container; `ours` when its labels say so.
    Container { id: &'a str, ours: bool },
    /// Which images there are.
    Images,
}

fn concerns<'a>(event: &'a EventMessage, owner: &OwnerId) -> Option<Concern<'a>> {
    let action = event.action.as_deref()?;
    // `health_status: healthy`.
    let action = action.split(':').next().unwrap_or(action);
    match event.typ? {
        EventMessageTypeEnum::CONTAINER if CONTAINER.contains(&action) => {
            let actor = event.actor.as_ref()?;
            let labels = actor.attributes.as_ref();
            let its_owner = labels.and_then(|it| it.get(label::OWNER));
            Some(Concern::Container {
                id: actor.id.as_deref()?,
                // What other agents have on the engine is theirs to ask after, and what helps for a moment is no node.
                ours: its_owner.is_some_and(|it| it == owner.as_str())
                    && !labels.is_some_and(|it| it.contains_key(label::HELPER)),
            })
        }
        EventMessageTypeEnum::IMAGE if IMAGE.contains(&action) => Some(Concern::Images),
        _ => None,
    }
}

struct Watcher {
    registry: Weak<Registry>,
    changes: Receiver<Change>,
    progress: Receiver<(NodeId, Progress)>,
    ready: VecDeque<NodeEvent>,
}

/// A snapshot, then what changes, and how far images are. It ends with the platform.
pub(crate) fn events(registry: &Arc<Registry>, images: &Images) -> NodeEventStream {
    // Subscribed before the snapshot is taken, so that nothing falls in between.
    let changes = registry.changes();
    let nodes = registry.list();
    let watcher = Watcher {
        registry: Arc::downgrade(registry),
        changes,
        progress: images.progress(),
        ready: [NodeEvent::Snapshot { nodes }].into(),
    };
    Box::pin(stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((Ok(event), watcher))
    }))
}

impl Watcher {
    async fn next(&mut self) -> Option<NodeEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let change = tokio::select! {
                change = self.changes.recv() => change,
                // Of those that were missed a newer one tells; without images nobody tells any more.
                Ok((node_id, progress)) = self.progress.recv() => {
                    return Some(NodeEvent::Progress { node_id, progress });
                }
            };
            let registry = self.registry.upgrade()?;
            let lost = match change {
                Ok(Change::Changed(id)) => {
                    if let Some(node) = registry.get(&id) {
                        return Some(NodeEvent::Changed {
                            node: Box::new(SpawnedNode::clone(&node.shown())),
                        });
                    }
                    continue;
                }
                Ok(Change::Removed(node_id, uid)) => {
                    // When the id has a new node already, that one is the news.
                    if registry.get(&node_id).is_none() {
                        return Some(NodeEvent::Removed { node_id, uid });
                    }
                    continue;
                }
                Ok(Change::Resync(reason)) => reason,
                Err(RecvError::Lagged(lost)) => format!("{lost} changes were not taken in time"),
                Err(RecvError::Closed) => return None,
            };
            self.ready.push_back(NodeEvent::Resync { reason: lost });
            self.ready.push_back(NodeEvent::Snapshot {
                nodes: registry.list(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    #[test]
    fn events_concern_nodes_and_images() {
        let [own, other] = [[1; 16], [2; 16]].map(OwnerId::from_bytes);
        let of_owner = |typ, action: &str, owner: Option<&OwnerId>, expect: Option<Concern<'_>>| {
            let mut attributes = HashMap::from([("name".to_owned(), "x".to_owned())]);
            if let Some(owner) = owner {
                attributes.insert(label::GRID.to_owned(), "true".to_owned());
                attributes.insert(label::OWNER.to_owned(), owner.to_string());
            }
            let event = EventMessage {
                typ: Some(typ),
                action: Some(action.to_owned()),
                actor: Some(EventActor {
                    id: Some("c1".to_owned()),
                    attributes: Some(attributes),
                }),
                ..EventMessage::default()
            };
            assert_eq!(concerns(&event, &own), expect, "{action}");
        };
        let check = |typ, action: &str, ours: bool, expect| {
            of_owner(typ, action, ours.then_some(&own), expect);
        };
        let container = |ours| Some(Concern::Container { id: "c1", ours });
        let kind = EventMessageTypeEnum::CONTAINER;
        check(kind, "die", true, container(true));
        check(kind, "start", false, container(false));
        of_owner(kind, "start", Some(&other), container(false));
        check(kind, "health_status: healthy", true, container(true));
        check(kind, "exec_create: true", true, None);
        check(kind, "attach", true, None);
        let kind = EventMessageTypeEnum::IMAGE;
        check(kind, "delete", false, Some(Concern::Images));
        check(kind, "save", false, None);
        check(EventMessageTypeEnum::NETWORK, "create", false, None);
        assert_eq!(concerns(&EventMessage::default(), &own), None);
    }
}
