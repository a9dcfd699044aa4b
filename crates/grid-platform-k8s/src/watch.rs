//! The cluster's news into the registry, and the registry's changes to who watches.
//!
//! Claims and pods are each listed and then watched from that version on, for as long as the platform is open. A watch that ends goes
//! on from the last version that was heard; one that the server cannot go on with (410 Gone) begins with a list again. Until a watch
//! is taken up again, what is known may be old, and is not given out as what is.
//!
//! A server whose store was played back from a backup has earlier versions than were heard, and a watch from these on tells nothing until
//! it is past them. The server was away for that: where a watch did not end as it should, the version is asked for before the next one.

use std::{
    collections::VecDeque,
    fmt::Debug,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{Stream, StreamExt, future::join_all, stream};
use grid_platform_api::{
    ErrorKind, NodeEvent, NodeEventStream, NodeId, Progress, Result, SpawnedNode,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Event, PersistentVolumeClaim, Pod},
};
use kube::{
    Resource, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        watch,
    },
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    error::{Fault, error},
    lease::Beat,
    logs,
    platform::Inner,
    registry::{Change, Farewell, Kind, Registry, is_of_before},
    translate::{PodPhase, PodView, Read, label, one_line, read_claim, read_pod},
};

/// How many objects a list gives at once.
const PAGE: u32 = 500;
/// How long a watch lasts, in seconds, before it is taken up again: the client library takes up to 294, and servers no less than that.
const WATCH: u32 = 280;
/// The first and the longest wait before a watch is taken up again; after one that lasted longer than that it is the first.
const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(5);
/// How long a caller waits for what is known to be what is.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many last lines a failed node is shown with.
pub(crate) const TAIL: usize = 10;
/// How many nodes' are read at once, and how long each may take.
const TAILS: usize = 8;
const TAIL_LIMIT: Duration = Duration::from_secs(5);

/// What is watched.
trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
    /// What it is, in a message.
    const WHAT: &'static str;
    /// Whether only ours are asked for.
    const OURS: bool = true;

    /// All that there is, at this version.
    async fn reset(inner: &Arc<Inner>, all: Vec<Self>, version: &str);
    /// One is new or changed.
    fn learn(inner: &Arc<Inner>, one: Self);
    /// One is gone.
    fn forget(inner: &Arc<Inner>, one: Self);
    /// Whether they are heard of.
    fn synced(registry: &Registry, synced: bool);
    /// Up to which version they were heard of.
    fn heard(registry: &Registry, version: &str);
}

/// Whether an object of ours has the name that its label gives it: a copy of one under another name is nobody's.
fn is_named_by_its_id<K: Resource>(object: &K) -> bool {
    let name = object.meta().name.as_deref().unwrap_or_default();
    let labelled = object
        .meta()
        .labels
        .as_ref()
        .and_then(|it| it.get(label::NODE_ID));
    let id = NodeId::from_native_name(name);
    id.is_some() && id.as_ref().map(NodeId::as_str) == labelled.map(String::as_str)
}

/// What was read of an object, where it is ours.
fn ours<K: Resource, V>(object: &K, read: Read<V>) -> Option<V> {
    match read {
        Read::Ours(view) if is_named_by_its_id(object) => Some(view),
        Read::Damaged(why) => {
            let name = object.meta().name.as_deref().unwrap_or_default();
            tracing::warn!(
                name,
                why,
                "an object of ours cannot be understood, and is left alone"
            );
            None
        }
        _ => None,
    }
}

/// Of which node an object is by its name, its uid, and its version as the last that was ours.
fn farewell<K: Resource>(object: &K) -> (Option<NodeId>, String, Farewell) {
    let meta = object.meta();
    let id = meta.name.as_deref().and_then(NodeId::from_native_name);
    let version = meta.resource_version.clone().unwrap_or_default();
    let uid = meta.uid.clone().unwrap_or_default();
    (id, uid, Farewell::At(version))
}

impl Watched for PersistentVolumeClaim {
    const WHAT: &'static str = "claims";

    async fn reset(inner: &Arc<Inner>, all: Vec<Self>, version: &str) {
        let views = all
            .iter()
            .filter_map(|it| ours(it, read_claim(it, &inner.install.owner)));
        inner.registry.reset_claims(views.collect(), version);
    }

    fn learn(inner: &Arc<Inner>, one: Self) {
        inner.take_claim(&one);
    }

    fn forget(inner: &Arc<Inner>, one: Self) {
        let (id, uid, last) = farewell(&one);
        if let Some(id) = id {
            inner.registry.forget_claim(&id, &uid, last);
        }
    }

    fn synced(registry: &Registry, synced: bool) {
        registry.set_synced(Kind::Claims, synced);
    }

    fn heard(registry: &Registry, version: &str) {
        registry.heard(Kind::Claims, version);
    }
}

impl Watched for Pod {
    const WHAT: &'static str = "pods";

    async fn reset(inner: &Arc<Inner>, all: Vec<Self>, version: &str) {
        let views = all
            .iter()
            .filter_map(|it| ours(it, read_pod(it, &inner.install.owner)));
        let (failed, others): (Vec<_>, Vec<_>) = views.partition(|it| wants_tail(inner, it));
        let mut all: Vec<_> = others.into_iter().map(|it| (it, None)).collect();
        for some in failed.chunks(TAILS) {
            let tails = join_all(some.iter().map(|it| tail(inner, it))).await;
            all.extend(some.iter().cloned().zip(tails.into_iter().map(Some)));
        }
        inner.registry.reset_pods(all, version);
    }

    fn learn(inner: &Arc<Inner>, one: Self) {
        inner.take_pod(&one);
    }

    fn forget(inner: &Arc<Inner>, one: Self) {
        if let Some(view) = ours(&one, read_pod(&one, &inner.install.owner)) {
            // How it ended, where that was not told before.
            inner.registry.learn_pod(view, None);
        }
        let (id, uid, last) = farewell(&one);
        if let Some(id) = id {
            inner.registry.forget_pod(&id, &uid, last);
        }
    }

    fn synced(registry: &Registry, synced: bool) {
        registry.set_synced(Kind::Pods, synced);
    }

    fn heard(registry: &Registry, version: &str) {
        registry.heard(Kind::Pods, version);
    }
}

impl Watched for Event {
    const WHAT: &'static str = "events";
    const OURS: bool = false;

    async fn reset(_: &Arc<Inner>, _: Vec<Self>, _: &str) {
        // What was said before is over.
    }

    fn learn(inner: &Arc<Inner>, one: Self) {
        let about = &one.involved_object;
        let id = about.name.as_deref().and_then(NodeId::from_native_name);
        let (Some(id), Some(uid)) = (id, about.uid.as_deref()) else {
            return;
        };
        let entry = inner.registry.get(&id);
        let is_claim = entry.claim.as_ref().is_some_and(|it| it.uid == uid);
        let Some(pod) = entry.own_pod().filter(|it| it.uid == uid || is_claim) else {
            return;
        };
        let reason = one_line(one.reason.as_deref().unwrap_or_default());
        let message = one_line(one.message.as_deref().unwrap_or_default());
        inner.registry.learn_words(&id, &pod.uid, &reason, &message);
    }

    fn forget(_: &Arc<Inner>, _: Self) {
        // The cluster keeps them for an hour.
    }

    fn synced(_: &Registry, _: bool) {
        // They are words beside the state, which is true without them.
    }

    fn heard(_: &Registry, _: &str) {
        // They come and go.
    }
}

/// Whether the last lines of a pod's log are wanted and not known: its program failed, and nobody starts it again.
fn wants_tail(inner: &Inner, view: &PodView) -> bool {
    view.phase == PodPhase::Failed && !inner.registry.has_tail(&view.node_id, &view.uid)
}

async fn tail(inner: &Arc<Inner>, view: &PodView) -> Vec<String> {
    let lines = logs::last_lines(inner.as_ref(), &view.node_id, TAIL);
    timeout(TAIL_LIMIT, lines).await.unwrap_or_default()
}

impl Inner {
    /// Takes in a claim that the cluster told of.
    pub(crate) fn take_claim(&self, claim: &PersistentVolumeClaim) {
        match (
            ours(claim, read_claim(claim, &self.install.owner)),
            farewell(claim),
        ) {
            (Some(view), _) => drop(self.registry.learn_claim(view)),
            // What was known of it says no more what it is.
            (None, (Some(id), uid, last)) => self.registry.forget_claim(&id, &uid, last),
            (None, _) => {}
        }
    }

    /// Takes in a pod that the cluster told of. One that failed for good is taken in with its last lines.
    pub(crate) fn take_pod(self: &Arc<Self>, pod: &Pod) {
        let Some(view) = ours(pod, read_pod(pod, &self.install.owner)) else {
            if let (Some(id), uid, last) = farewell(pod) {
                self.registry.forget_pod(&id, &uid, last);
            }
            return;
        };
        if !wants_tail(self, &view) {
            self.registry.learn_pod(view, None);
            return;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let tail = tail(&inner, &view).await;
            inner.registry.learn_pod(view, Some(tail));
        });
    }

    /// Waits until what is known is what is.
    ///
    /// # Errors
    /// `Stale` when that takes too long; what the cluster says, where it refuses to tell.
    pub(crate) async fn synced(&self) -> Result<()> {
        let mut synced = self.registry.synced();
        let all = timeout(PATIENCE, synced.wait_for(|it| it.all())).await;
        // A right that is missing has its own mend.
        let refused = self.registry.refused();
        match (all, refused) {
            (Ok(Ok(_)), _) => Ok(()),
            (_, Some(why)) => Err(why.with_retryable(true)),
            _ => Err(error(
                ErrorKind::Stale,
                format!(
                    "what is known of the nodes may be old: the cluster at `{}` does not tell of changes",
                    self.access.server
                ),
            )
            .with_hint("It is tried again: `kubectl get --raw /readyz` says how the API server is.")),
        }
    }
}

impl Inner {
    /// Notes that the cluster refuses to tell of our objects; that it is away says the lease's heartbeat.
    fn heed_refusal<K: Watched>(&self, fault: Fault) {
        if K::OURS && !fault.is_away() && !fault.is_gone() {
            self.registry.set_refused(K::WHAT, Some(fault.into_error()));
        }
    }
}

/// Begins to watch. It goes on until the platform is dropped.
pub(crate) fn begin(inner: &Arc<Inner>) {
    tokio::spawn(run::<PersistentVolumeClaim>(Arc::downgrade(inner)));
    tokio::spawn(run::<Pod>(Arc::downgrade(inner)));
    tokio::spawn(run::<Event>(Arc::downgrade(inner)));
    tokio::spawn(heed_server(Arc::downgrade(inner)));
}

/// Notes whether the server answers, as the lease's renewals find out.
async fn heed_server(inner: Weak<Inner>) {
    let Some(mut beats) = inner.upgrade().map(|it| it.lease.heartbeat()) else {
        return;
    };
    loop {
        let answers = *beats.borrow_and_update() != Beat::Silent;
        match inner.upgrade() {
            Some(inner) => inner.registry.set_server(answers),
            None => return,
        }
        if beats.changed().await.is_err() {
            return;
        }
    }
}

/// What comes next.
#[derive(Clone, Copy)]
enum Next {
    /// Everything is read.
    List,
    /// The watch goes on, if the server has not gone back.
    Ask,
    /// The watch goes on.
    Watch,
}

async fn run<K: Watched>(inner: Weak<Inner>) {
    let Some(mut closing) = inner.upgrade().map(|it| it.closing.clone()) else {
        return;
    };
    let work = follow::<K>(inner);
    tokio::select! {
        _ = closing.changed() => {}
        () = work => {}
    }
}

async fn follow<K: Watched>(inner: Weak<Inner>) {
    let mut pause = SOON;
    let mut next = Next::List;
    // The last version that was heard.
    let mut version = String::new();
    let mut was_read = false;
    while let Some(strong) = inner.upgrade() {
        let ready = match next {
            Next::List => {
                K::heard(&strong.registry, &version);
                list::<K>(&strong).await.map(|listed| {
                    version = listed;
                    if std::mem::replace(&mut was_read, true) && K::OURS {
                        strong
                            .registry
                            .tell(Change::Resync(format!("the {} were read again", K::WHAT)));
                    }
                })
            }
            Next::Ask => match now::<K>(&strong).await {
                Ok(now) if is_of_before(&now, &version) => {
                    tracing::warn!(what = K::WHAT, now, version, "the cluster was set back");
                    next = Next::List;
                    continue;
                }
                asked => asked.map(drop),
            },
            Next::Watch => Ok(()),
        };
        match ready {
            Ok(()) => {
                drop(strong);
                next = listen::<K>(&inner, &mut version, &mut pause).await;
            }
            Err(fault) => {
                tracing::debug!(what = K::WHAT, %fault, "they cannot be read");
                strong.heed_refusal::<K>(fault);
            }
        }
        let Some(strong) = inner.upgrade() else {
            return;
        };
        K::synced(&strong.registry, false);
        drop(strong);
        sleep(pause).await;
        pause = (pause * 2).min(LATE);
    }
}

/// The version that the server is at.
async fn now<K: Watched>(inner: &Arc<Inner>) -> Result<String, Fault> {
    let params = ListParams {
        label_selector: selector::<K>(inner),
        limit: Some(1),
        ..ListParams::default()
    };
    let api = inner.access.api::<K>();
    let asked = api.list(&params);
    let what = format!("list the {}", K::WHAT);
    let page = inner.access.call(what, asked).await?;
    Ok(page.metadata.resource_version.unwrap_or_default())
}

fn selector<K: Watched>(inner: &Inner) -> Option<String> {
    K::OURS.then(|| {
        format!(
            "{}=true,{}={}",
            label::GRID,
            label::OWNER,
            inner.install.owner
        )
    })
}

/// Reads all of them; gives the version that they are of.
async fn list<K: Watched>(inner: &Arc<Inner>) -> Result<String, Fault> {
    let api = inner.access.api::<K>();
    let mut params = ListParams {
        label_selector: selector::<K>(inner),
        limit: Some(if K::OURS { PAGE } else { 1 }),
        ..ListParams::default()
    };
    let mut all = Vec::new();
    loop {
        let page = inner
            .access
            .call(format!("list the {}", K::WHAT), api.list(&params))
            .await?;
        let version = page.metadata.resource_version.unwrap_or_default();
        all.extend(page.items);
        match page
            .metadata
            .continue_
            .filter(|it| !it.is_empty() && K::OURS)
        {
            Some(more) => params.continue_token = Some(more),
            None => {
                K::reset(inner, all, &version).await;
                return Ok(version);
            }
        }
    }
}

async fn listen<K: Watched>(
    inner: &Weak<Inner>,
    version: &mut String,
    pause: &mut Duration,
) -> Next {
    let Some(strong) = inner.upgrade() else {
        return Next::List;
    };
    let params = WatchParams {
        label_selector: selector::<K>(&strong),
        field_selector: None,
        timeout: Some(WATCH),
        bookmarks: true,
        ..WatchParams::default()
    };
    let api = strong.access.api::<K>();
    let opened = strong
        .access
        .call(
            format!("watch the {}", K::WHAT),
            api.watch(&params, version),
        )
        .await;
    let events = match opened {
        Ok(events) => events,
        Err(fault) => {
            tracing::debug!(what = K::WHAT, %fault, "the watch cannot be taken up");
            if fault.is_gone() {
                return Next::List;
            }
            strong.heed_refusal::<K>(fault);
            return Next::Ask;
        }
    };
    strong.registry.set_refused(K::WHAT, None);
    K::synced(&strong.registry, true);
    let mut beats = strong.lease.heartbeat();
    beats.mark_unchanged();
    drop(strong);
    let begin = Instant::now();
    let next = hear(inner, events, beats, version).await;
    // One that ends again and again as soon as it begins is not begun all the time, whatever it tells first.
    if begin.elapsed() >= LATE {
        *pause = SOON;
    }
    next
}

/// Takes in what a watch tells, to its end.
async fn hear<K: Watched>(
    inner: &Weak<Inner>,
    events: impl Stream<Item = kube::Result<WatchEvent<K>>>,
    mut beats: watch::Receiver<Beat>,
    version: &mut String,
) -> Next {
    let mut events = pin!(events);
    // The server ends it before that. One that hangs does not, nor does what stands in front of one that died.
    let end = Instant::now() + Duration::from_secs(WATCH.into()) + LATE;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // A connection that died without a word is not told from a quiet one: where the server was silent, it is made anew.
            true = came_back(&mut beats) => return Next::Ask,
            () = sleep_until(end) => return Next::Ask,
        };
        let Some(inner) = inner.upgrade() else {
            return Next::List;
        };
        match event {
            Some(Ok(WatchEvent::Added(one) | WatchEvent::Modified(one))) => {
                if let Some(at) = one.resource_version() {
                    *version = at;
                }
                K::learn(&inner, one);
            }
            Some(Ok(WatchEvent::Deleted(one))) => {
                if let Some(at) = one.resource_version() {
                    *version = at;
                }
                K::forget(&inner, one);
            }
            Some(Ok(WatchEvent::Bookmark(mark))) => *version = mark.metadata.resource_version,
            Some(Ok(WatchEvent::Error(status))) => {
                tracing::debug!(what = K::WHAT, why = status.message, "they are read again");
                return Next::List;
            }
            Some(Err(e)) => {
                tracing::debug!(what = K::WHAT, error = %e, "the watch broke");
                return Next::Ask;
            }
            None => return Next::Watch,
        }
    }
}

/// Waits until the server answers again after a silence; `false` is never.
async fn came_back(beats: &mut watch::Receiver<Beat>) -> bool {
    let silence = async {
        beats
            .wait_for(|it| *it == Beat::Silent)
            .await
            .ok()
            .map(drop)?;
        beats
            .wait_for(|it| *it != Beat::Silent)
            .await
            .ok()
            .map(drop)
    };
    match silence.await {
        Some(_) => true,
        None => std::future::pending().await,
    }
}

struct Watcher {
    registry: Weak<Registry>,
    changes: Receiver<Change>,
    ready: VecDeque<NodeEvent>,
}

/// A snapshot, then what changes, and what the cluster says meanwhile. It ends with the platform.
pub(crate) fn events(registry: &Arc<Registry>) -> NodeEventStream {
    // Subscribed before the snapshot is taken, so that nothing falls in between.
    let changes = registry.changes();
    let nodes = registry.list();
    let watcher = Watcher {
        registry: Arc::downgrade(registry),
        changes,
        ready: [NodeEvent::Snapshot { nodes }].into(),
    };
    Box::pin(stream::unfold(watcher, async |mut watcher| {
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
            let change = self.changes.recv().await;
            let registry = self.registry.upgrade()?;
            let lost = match change {
                Ok(Change::Changed(id)) => match registry.shown(&id) {
                    Some(node) => {
                        return Some(NodeEvent::Changed {
                            node: Box::new(SpawnedNode::clone(&node)),
                        });
                    }
                    None => continue,
                },
                // When the id has a new node already, that one is the news.
                Ok(Change::Removed(node_id, uid)) => match registry.shown(&node_id) {
                    None => return Some(NodeEvent::Removed { node_id, uid }),
                    Some(_) => continue,
                },
                Ok(Change::Said(node_id, message)) => {
                    let progress = Progress {
                        message,
                        ..Progress::default()
                    };
                    return Some(NodeEvent::Progress { node_id, progress });
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
