//! What the master is to be told: the newest word on each node, whatever the speed of the link.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use grid_platform_api::{ErrorReport, NodeId, NodeUid, Progress};
use grid_proto::{
    Observation, report_to_json,
    v1::{self, from_agent::Message},
};
use tokio::sync::Notify;

/// Reports that wait for the link. A newer report about a node takes the place of an older one, so that what waits is
/// bounded by the number of nodes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pending: Mutex<Pending>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    all: Option<Vec<Observation>>,
    nodes: BTreeMap<NodeId, Word>,
    /// By the node's name on the wire: a refused wish may have one that is no id.
    applied: BTreeMap<String, v1::Applied>,
    /// `None` says that it is over.
    progress: BTreeMap<NodeId, Option<Progress>>,
}

#[derive(Debug)]
enum Word {
    Seen(Box<Observation>),
    Gone(NodeUid),
}

impl Outbox {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        // What is pending is whole at every point where a panic could happen.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node is new or changed.
    pub(crate) fn seen(&self, observation: Observation) {
        let id = observation.node.node_id.clone();
        let word = Word::Seen(Box::new(observation));
        self.pending().nodes.insert(id, word);
        self.filled.notify_one();
    }

    /// A node's record is gone.
    pub(crate) fn gone(&self, node_id: NodeId, uid: NodeUid) {
        self.pending().nodes.insert(node_id, Word::Gone(uid));
        self.filled.notify_one();
    }

    /// A generation was acted on; with an error, `last` says that it is not tried again.
    pub(crate) fn applied(
        &self,
        node_id: &str,
        generation: u64,
        error: Option<&ErrorReport>,
        last: bool,
    ) {
        let applied = v1::Applied {
            node_id: node_id.to_owned(),
            generation,
            error_json: error.map(report_to_json).unwrap_or_default(),
            r#final: last,
        };
        self.pending().applied.insert(node_id.to_owned(), applied);
        self.filled.notify_one();
    }

    /// How far something is that a node waits for; `None` says that it is over.
    pub(crate) fn progress(&self, node_id: NodeId, progress: Option<Progress>) {
        self.pending().progress.insert(node_id, progress);
        self.filled.notify_one();
    }

    /// Forgets what waits, and tells of all nodes instead.
    pub(crate) fn restart(&self, all: Vec<Observation>) {
        *self.pending() = Pending {
            all: Some(all),
            ..Pending::default()
        };
        self.filled.notify_one();
    }

    /// Forgets what waits: it was for a session that is no more.
    pub(crate) fn clear(&self) {
        *self.pending() = Pending::default();
    }

    /// Waits until there may be something to take.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// What waits, in the order in which it is to be sent.
    pub(crate) fn take(&self) -> Vec<v1::FromAgent> {
        let pending = std::mem::take(&mut *self.pending());
        let all = pending.all.map(|nodes| {
            Message::Observed(v1::Observed {
                nodes: nodes.iter().map(Into::into).collect(),
            })
        });
        let nodes = pending.nodes.into_iter().map(|(id, word)| match word {
            Word::Seen(observation) => Message::Node(observation.as_ref().into()),
            Word::Gone(uid) => Message::Gone(v1::NodeGone {
                node_id: id.to_string(),
                uid: uid.into(),
            }),
        });
        let applied = pending.applied.into_values().map(Message::Applied);
        let progress = pending.progress.into_iter().map(|(id, progress)| {
            Message::Progress(v1::NodeProgress {
                node_id: id.to_string(),
                // A text and figures: it always has a JSON form.
                progress_json: progress
                    .map(|it| serde_json::to_string(&it).unwrap_or_default())
                    .unwrap_or_default(),
            })
        });
        all.into_iter()
            .chain(nodes)
            .chain(applied)
            .chain(progress)
            .map(|message| v1::FromAgent {
                message: Some(message),
            })
            .collect()
    }
}
