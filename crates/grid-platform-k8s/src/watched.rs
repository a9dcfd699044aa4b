//! What is watched, and what becomes of the news of it.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::future::join_all;
use grid_platform_api::NodeId;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Event, PersistentVolumeClaim, Pod},
};
use kube::Resource;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{
    logs,
    platform::Inner,
    registry::{Farewell, Kind, Registry},
    translate::{PodPhase, PodView, Read, label, one_line, read_claim, read_pod},
};

/// How many last lines a failed node is shown with.
pub(crate) const TAIL: usize = 10;
/// How many nodes' are read at once, and how long each may take.
const TAILS: usize = 8;
const TAIL_LIMIT: Duration = Duration::from_secs(5);

/// What is watched.
pub(crate) trait Watched:
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
}
