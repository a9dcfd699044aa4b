//! All nodes in memory, as the engine last said they are.
//!
//! [`refresh`] asks the engine for one container and takes its answer in; what watches the engine's events calls it for each
//! event, and [`resync`] after every gap. Answers are taken in the order in which they were asked for, node by node.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bollard::{
    models::{ContainerSummary, EventMessage},
    query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder},
};
use futures::{StreamExt, stream};
use grid_platform_api::{
    Failure, Health, NodeId, NodeUid, Result, SpawnedNode, Timestamp, printable,
};
use grid_platform_host::{files::Durable, work::blocking};
use tokio::sync::{Mutex as AsyncMutex, broadcast, watch};

use crate::{
    engine::CALL,
    health, logs,
    notes::Note,
    platform::Inner,
    translate::{self, Facts, Goal, Observed, Phase, Read, Record, label},
    words::docker_words,
};

/// How many changes a watcher may be behind before it is told to start over.
const BACKLOG: usize = 1024;
/// How many containers the engine is asked for at a time.
const ASKS: usize = 16;
/// How many of its last lines a failed node is shown with.
pub(crate) const TAIL: usize = 10;

/// All that is known of a node at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Situation {
    pub(crate) record: Arc<Record>,
    pub(crate) observed: Arc<Observed>,
    pub(crate) goal: Goal,
    /// What the request's own health check says, asked by the adapter.
    pub(crate) health: Health,
    /// How the program last ended badly, since the last spawn.
    pub(crate) last_failure: Option<Failure>,
    /// Somebody else stopped it, since the last spawn.
    pub(crate) stopped_by_other: bool,
    /// When the engine began the run of the last spawn; what it tells of earlier is over. `None` while that is not known.
    pub(crate) since: Option<Timestamp>,
    /// Where the log of the last spawn begins, if there was one before.
    pub(crate) log_from: Option<Timestamp>,
    /// The last lines of a program that failed for good.
    pub(crate) tail: Vec<String>,
    /// When the engine last told that the memory limit was reached.
    pub(crate) memory_used_up: Option<Timestamp>,
    /// The container is gone.
    pub(crate) removed: bool,
}

/// A node that there is. One container, one node: a container made anew is another one.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) uid: NodeUid,
    /// The container's id.
    pub(crate) container: String,
    situation: watch::Sender<Situation>,
    shown: Mutex<Arc<SpawnedNode>>,
    /// Held while the engine is asked for the container.
    asking: AsyncMutex<()>,
}

impl Node {
    /// What is known now.
    pub(crate) fn now(&self) -> Situation {
        self.situation.borrow().clone()
    }

    /// What is known, and news of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Situation> {
        self.situation.subscribe()
    }

    /// The node as it is shown.
    pub(crate) fn shown(&self) -> Arc<SpawnedNode> {
        Arc::clone(&lock(&self.shown))
    }
}

/// News for watchers. What the node is now they read themselves, so that they are never told an old state last.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The node is new or changed.
    Changed(NodeId),
    /// The node is gone.
    Removed(NodeId, NodeUid),
    /// Events of the engine were lost, for this reason, and everything was read again.
    Resync(String),
}

/// What all nodes are shown with.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The host of endpoints; `None` is the address at which ports are published.
    pub(crate) advertise: Option<String>,
    /// The engine's processes are this host's.
    pub(crate) host_pids: bool,
}

/// All nodes.
pub(crate) struct Registry {
    frame: Frame,
    nodes: Mutex<Nodes>,
    /// Whether the engine's events are heard, so that what is known is what is.
    synced: AtomicBool,
    changes: broadcast::Sender<Change>,
}

#[derive(Default)]
struct Nodes {
    by_id: BTreeMap<NodeId, Arc<Node>>,
    by_container: HashMap<String, Arc<Node>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub(crate) fn new(frame: Frame) -> Self {
        Self {
            frame,
            nodes: Mutex::default(),
            synced: AtomicBool::new(true),
            changes: broadcast::channel(BACKLOG).0,
        }
    }

    pub(crate) fn get(&self, id: &NodeId) -> Option<Arc<Node>> {
        lock(&self.nodes).by_id.get(id).cloned()
    }

    /// The node of this container.
    pub(crate) fn by_container(&self, container: &str) -> Option<Arc<Node>> {
        lock(&self.nodes).by_container.get(container).cloned()
    }

    /// All nodes, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).by_id.values().cloned().collect()
    }

    /// All nodes as they are shown, by id.
    pub(crate) fn list(&self) -> Vec<SpawnedNode> {
        let shown = |it: &Arc<Node>| SpawnedNode::clone(&it.shown());
        lock(&self.nodes).by_id.values().map(shown).collect()
    }

    /// Whether the engine's events are heard.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::SeqCst)
    }

    /// Notes whether they are.
    pub(crate) fn set_synced(&self, synced: bool) {
        self.synced.store(synced, Ordering::SeqCst);
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Tells who watches.
    pub(crate) fn tell(&self, change: Change) {
        // Nobody may be watching.
        let _ = self.changes.send(change);
    }

    /// Adds a node, unless there is one of its container, or of its id in another container: then that one stays.
    fn insert(&self, situation: Situation) -> (Arc<Node>, bool) {
        let id = situation.record.config.node_id.clone();
        let mut nodes = lock(&self.nodes);
        if let Some(known) = nodes.by_id.get(&id) {
            if known.container != situation.record.container {
                tracing::warn!(
                    node = %id, container = %situation.record.container,
                    "a second container says that it is this node, and is left alone"
                );
            }
            return (Arc::clone(known), false);
        }
        let node = Arc::new(Node {
            id: id.clone(),
            uid: situation.record.uid.clone(),
            container: situation.record.container.clone(),
            shown: Mutex::new(Arc::new(self.show(&situation))),
            situation: watch::channel(situation).0,
            asking: AsyncMutex::default(),
        });
        nodes.by_id.insert(id.clone(), Arc::clone(&node));
        nodes
            .by_container
            .insert(node.container.clone(), Arc::clone(&node));
        drop(nodes);
        self.tell(Change::Changed(id));
        (node, true)
    }

    /// Takes a node out and tells who follows it; `false` when it was out already.
    fn remove(&self, node: &Node) -> bool {
        let removed = {
            let mut nodes = lock(&self.nodes);
            let known = nodes.by_container.remove(&node.container).is_some();
            known && nodes.by_id.remove(&node.id).is_some()
        };
        if removed {
            node.situation.send_modify(|it| it.removed = true);
            self.tell(Change::Removed(node.id.clone(), node.uid.clone()));
        }
        removed
    }

    /// Changes what is known of a node and tells who watches, if that shows.
    pub(crate) fn update(&self, node: &Node, change: impl FnOnce(&mut Situation)) {
        let mut shown = lock(&node.shown);
        node.situation.send_modify(change);
        let situation = node.situation.borrow();
        let now = self.show(&situation);
        if **shown != now && !situation.removed {
            *shown = Arc::new(now);
            self.tell(Change::Changed(node.id.clone()));
        }
    }

    fn show(&self, situation: &Situation) -> SpawnedNode {
        let bind = situation.record.config.bind_address;
        let host = match &self.frame.advertise {
            Some(host) => host.clone(),
            None => crate::network::reachable(bind).to_string(),
        };
        translate::node(&Facts {
            record: &situation.record,
            seen: &situation.observed,
            goal: &situation.goal,
            health: &situation.health,
            last_failure: situation.last_failure.as_ref(),
            tail: &situation.tail,
            host: &host,
            host_pids: self.frame.host_pids,
            stopped_by_other: situation.stopped_by_other,
        })
    }
}

/// What the engine says of one container.
pub(crate) enum Found {
    /// It is a node of ours.
    Node(Arc<Node>),
    /// There is none.
    Nothing,
    /// It is not ours: its owner, if it names one.
    Theirs(Option<String>),
    /// It is ours, and its record cannot be understood.
    Damaged(String),
}

/// Asks the engine for the container, by its id or name, and takes in what it says: a node that is new, changed or gone.
///
/// # Errors
/// When the engine cannot be asked.
pub(crate) async fn refresh(inner: &Arc<Inner>, container: &str) -> Result<Found> {
    let mut container = container.to_owned();
    loop {
        let known = inner.registry.by_container(&container);
        let turn = match &known {
            Some(node) => Some(node.asking.lock().await),
            None => None,
        };
        let options = None::<InspectContainerOptions>;
        let asked = inner.engine.docker.inspect_container(&container, options);
        let inspected = match inner.engine.ask(CALL, docker_words(asked)).await {
            Ok(inspected) => inspected,
            Err(fault) if fault.status() == Some(404) => {
                if let Some(node) = &known {
                    inner.same_engine().await?;
                    forget(inner, node);
                }
                return Ok(Found::Nothing);
            }
            Err(fault) => return Err(fault.into_error("ask the engine for a container")),
        };
        let (record, observed) = match translate::read(&inspected, &inner.install.owner) {
            Read::Ours(_, record, observed) => (record, observed),
            Read::Theirs(owner) => return Ok(Found::Theirs(owner)),
            Read::Damaged(why) => return Ok(Found::Damaged(why)),
        };
        if let Some(node) = &known {
            learn(inner, node, observed).await;
            return Ok(Found::Node(Arc::clone(node)));
        }
        drop(turn);
        let its_own = record.container.clone();
        if inner.registry.by_container(&its_own).is_none() {
            let (node, new) = join(inner, *record, observed).await;
            if new || node.container != its_own {
                return Ok(Found::Node(node));
            }
        }
        // Somebody else has made it known meanwhile, by an answer that may be newer: it is asked for in its turn.
        container = its_own;
    }
}

/// Takes in a node that was not known; `false` with it when it is by now.
async fn join(inner: &Arc<Inner>, record: Record, observed: Observed) -> (Arc<Node>, bool) {
    let id = record.config.node_id.clone();
    let note = inner.notes.of(&id, &record.uid);
    let tail = tail_of(inner, &record, &observed, &note.goal, note.log_from).await;
    let situation = Situation {
        health: no_answer_yet(&record),
        last_failure: note.last_failure.or_else(|| unseen(&observed)),
        stopped_by_other: note.stopped_by_other,
        since: Some(Timestamp::UNIX_EPOCH).filter(|_| observed.started_at.is_some()),
        goal: note.goal,
        log_from: note.log_from,
        record: Arc::new(record),
        observed: Arc::new(observed),
        tail,
        memory_used_up: None,
        removed: false,
    };
    let ports: Vec<u16> = situation.record.ports.values().copied().collect();
    let (node, new) = inner.registry.insert(situation);
    if new {
        inner.ports.note(&id, &ports);
        health::attend(inner, &node);
    }
    (node, new)
}

fn no_answer_yet(record: &Record) -> Health {
    match record.config.health {
        Some(_) => Health::Starting,
        None => Health::Unchecked,
    }
}

/// The failure of ends that nobody of ours saw.
fn unseen(observed: &Observed) -> Option<Failure> {
    (observed.restarts > 0).then(|| {
        Failure::new(
            grid_platform_api::FailureReason::Exited,
            "its program ended, and how was not seen",
        )
        .with_exit(grid_platform_api::Exit::Unknown)
    })
}

/// Takes in what the engine says of a node that is known.
async fn learn(inner: &Arc<Inner>, node: &Arc<Node>, mut observed: Observed) {
    let now = node.now();
    observed.out_of_memory |= used_memory_up(&observed, now.memory_used_up);
    if *now.observed == observed {
        return;
    }
    let ended = translate::bad_end(&now.record, &observed);
    // With its last lines at once: nobody is shown a failure without them.
    let tail = tail_of(inner, &now.record, &observed, &now.goal, now.log_from).await;
    let (mut failed, mut started) = (None, false);
    inner.registry.update(node, |it| {
        if observed.started_at != it.observed.started_at {
            it.health = no_answer_yet(&it.record);
            // Whoever stopped it has started it again: how this run ends is its own.
            started = std::mem::take(&mut it.stopped_by_other);
        }
        if it.since.is_none() && it.goal == Goal::Running {
            it.since = observed
                .started_at
                .filter(|at| it.observed.started_at != Some(*at));
        }
        if ended.is_some() && it.goal == Goal::Running && it.since.is_some() {
            it.last_failure.clone_from(&ended);
            failed.clone_from(&ended);
        }
        if it.last_failure.is_none() && it.goal == Goal::Running && it.since.is_some() {
            it.last_failure = unseen(&observed);
        }
        it.tail = tail;
        it.observed = Arc::new(observed);
    });
    if failed.is_some() || started {
        let noted = Arc::clone(node);
        note(inner, node, move |it| {
            // As it is by now: notes may be written in another order than they were begun.
            it.stopped_by_other = noted.now().stopped_by_other;
            if failed.is_some() {
                it.last_failure = failed;
            }
        })
        .await;
    }
}

/// Whether a run ended of the memory limit that an event told of. An engine that hears of the end before it hears of the limit keeps in
/// its record of the end that there was none.
fn used_memory_up(observed: &Observed, told: Option<Timestamp>) -> bool {
    translate::is_killed(observed)
        && told.is_some_and(|told| observed.started_at.is_some_and(|it| it <= told))
}

/// Notes something of a node; a loss of it by a loss of power does no harm.
async fn note(inner: &Arc<Inner>, node: &Node, change: impl FnOnce(&mut Note) + Send + 'static) {
    let (inner, id, uid) = (Arc::clone(inner), node.id.clone(), node.uid.clone());
    let noted = blocking(move || inner.notes.change(&id, &uid, Durable::No, change).map(drop));
    if let Err(e) = noted.await {
        tracing::warn!(node = %node.id, error = %e, "how a program ended is not on disk");
    }
}

/// The last lines of a program that ended badly and for good.
async fn tail_of(
    inner: &Arc<Inner>,
    record: &Record,
    observed: &Observed,
    goal: &Goal,
    log_from: Option<Timestamp>,
) -> Vec<String> {
    let final_end = matches!(observed.phase, Phase::Exited | Phase::Dead);
    if !final_end || *goal != Goal::Running || translate::bad_end(record, observed).is_none() {
        return Vec::new();
    }
    last_lines(inner, &record.container, log_from).await
}

/// The last lines that a container wrote since a time: that of the end of an earlier run, as that of the beginning of this one
/// is noted by the engine when the program has said its first words already.
pub(crate) async fn last_lines(
    inner: &Arc<Inner>,
    container: &str,
    since: Option<Timestamp>,
) -> Vec<String> {
    logs::last_words(inner, container, since, TAIL).await
}

/// Takes in what an event itself tells of a container: by the time that the engine is asked, its policy may have started the
/// program again, and of a stop it does not tell at all.
pub(crate) fn hear(inner: &Arc<Inner>, event: &EventMessage, container: &str) {
    let at = event.time_nano.map(i128::from);
    let at = at.and_then(|it| Timestamp::from_nanosecond(it).ok());
    let (Some(node), Some(at)) = (inner.registry.by_container(container), at) else {
        return;
    };
    let attribute = |name: &str| {
        let all = event.actor.as_ref()?.attributes.as_ref()?;
        all.get(name)?.parse::<i64>().ok()
    };
    let (mut failed, mut stopped) = (None, false);
    inner.registry.update(&node, |it| {
        if event.action.as_deref() == Some("oom") {
            // The engine is asked for the container behind this, and what it says is seen in this light.
            it.memory_used_up = Some(at);
        }
        // What is told of an earlier run is over.
        if it.goal != Goal::Running || it.since.is_none_or(|since| at < since) {
            return;
        }
        match event.action.as_deref() {
            Some("die" | "died") => {
                let exit = attribute("exitCode").or(attribute("containerExitCode"));
                let failure = exit.and_then(|it_code| {
                    translate::ended(&it.record, translate::exit(it_code), false)
                });
                // That the memory was used up only the engine's own record tells.
                if let Some(failure) = failure
                    && it.last_failure.as_ref().and_then(|it| it.exit) != failure.exit
                {
                    it.last_failure = Some(failure.clone());
                    failed = Some(failure);
                }
            }
            // Nobody of ours asked for it: how the program ended is not its own.
            // The news of it may come when what was started since is known already.
            Some("stop") if it.observed.started_at.is_none_or(|started| started <= at) => {
                it.stopped_by_other = true;
                stopped = true;
            }
            _ => {}
        }
    });
    if failed.is_none() && !stopped {
        return;
    }
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        let noted = Arc::clone(&node);
        note(&inner, &node, move |it| {
            it.stopped_by_other = noted.now().stopped_by_other;
            if failed.is_some() {
                it.last_failure = failed;
            }
        })
        .await;
    });
}

/// The container of a node is gone.
pub(crate) fn forget(inner: &Inner, node: &Node) {
    if inner.registry.remove(node) {
        inner
            .ports
            .release(&node.id, node.now().record.ports.values());
    }
}

/// The containers of this owner, as one call tells of them: by node, the one that has the node's own name first.
async fn containers(inner: &Inner) -> Result<Vec<ContainerSummary>> {
    let filters = HashMap::from([(
        "label",
        vec![
            format!("{}=true", label::GRID),
            format!("{}={}", label::OWNER, inner.install.owner),
        ],
    )]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    let asked = inner.engine.docker.list_containers(Some(options));
    inner
        .engine
        .call("list the containers", CALL, docker_words(asked))
        .await
}

/// Asks the engine for all containers of this owner and for each that is not as it is known, and forgets those that are gone.
/// Without `trust` it asks for all.
///
/// # Errors
/// When the engine cannot be asked, or is another one: what is known may not be true then.
pub(crate) async fn take_stock(inner: &Arc<Inner>, trust: bool) -> Result<()> {
    // A node that is made meanwhile is in neither, and is not gone.
    let before = inner.registry.all();
    let mut listed = containers(inner).await?;
    let ids: HashSet<&str> = listed.iter().filter_map(|it| it.id.as_deref()).collect();
    let gone = |it: &Arc<Node>| !ids.contains(it.container.as_str());
    let gone: Vec<Arc<Node>> = before.into_iter().filter(gone).collect();
    if !gone.is_empty() {
        inner.same_engine().await?;
    }
    for node in gone {
        forget(inner, &node);
    }
    // The node is the container that is known already, or else the one that has the node's own name, or the oldest.
    let is_known = |it: &ContainerSummary| {
        let container = it.id.as_deref().unwrap_or_default();
        inner.registry.by_container(container).is_some()
    };
    listed.sort_by_cached_key(|it| (!is_known(it), !has_own_name(it), it.created));
    let changed: Vec<String> = one_of_each(&listed)
        .filter(|it| !trust || !is_as_known(inner, it))
        .filter_map(|it| it.id.clone())
        .collect();
    let mut answers = stream::iter(changed)
        .map(|it| async move { refresh(inner, &it).await.map(|found| (it, found)) })
        .buffer_unordered(ASKS);
    while let Some(answer) = answers.next().await {
        if let (container, Found::Damaged(why)) = answer? {
            tracing::warn!(
                container,
                why = printable(&why),
                "a container of ours cannot be understood, and is left alone"
            );
        }
    }
    Ok(())
}

/// The first container of each node; each that does not say of which it is.
fn one_of_each(listed: &[ContainerSummary]) -> impl Iterator<Item = &ContainerSummary> {
    let mut seen = HashSet::new();
    listed.iter().filter(move |it| {
        let id = it.labels.as_ref().and_then(translate::node_id);
        id.is_none_or(|id| seen.insert(id))
    })
}

/// Whether the engine has a container of this incarnation, whatever else its labels say.
///
/// # Errors
/// When the engine cannot be asked.
pub(crate) async fn has_container(inner: &Inner, uid: &NodeUid) -> Result<bool> {
    let filters = HashMap::from([("label", vec![format!("{}={uid}", label::UID)])]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    let asked = inner.engine.docker.list_containers(Some(options));
    let listed = inner
        .engine
        .call("list the containers", CALL, asked)
        .await?;
    Ok(!listed.is_empty())
}

/// Makes sure of what is known of all nodes: what the engine's events have told is trusted as long as they are heard.
///
/// # Errors
/// When the engine cannot be asked, or is another one.
pub(crate) async fn count(inner: &Arc<Inner>) -> Result<()> {
    let heard = inner.registry.is_synced();
    if !heard {
        inner.same_engine().await?;
    }
    take_stock(inner, heard).await
}

fn has_own_name(summary: &ContainerSummary) -> bool {
    let id = summary.labels.as_ref().and_then(translate::node_id);
    let names = summary.names.as_deref().unwrap_or_default();
    id.is_some_and(|id| {
        names
            .iter()
            .any(|it| it.trim_start_matches('/') == id.native_name())
    })
}

/// Whether a container is in the state in which it is known to be.
fn is_as_known(inner: &Inner, summary: &ContainerSummary) -> bool {
    let Some(container) = summary.id.as_deref() else {
        return true;
    };
    let Some(node) = inner.registry.by_container(container) else {
        return false;
    };
    let phase = node.now().observed.phase;
    summary
        .state
        .is_some_and(|it| translate::phase_of(it) == phase)
}

/// Asks the engine for all containers of this owner and takes in what it says, then tells watchers that events were lost.
///
/// # Errors
/// When the engine cannot be asked.
pub(crate) async fn resync(inner: &Arc<Inner>, reason: &str) -> Result<()> {
    take_stock(inner, false).await?;
    inner.registry.tell(Change::Resync(reason.to_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_container_that_does_not_say_of_which_node_it_is_is_looked_at() {
        let listed = ["a", "", "a", "b", "", "no id"].map(|id| ContainerSummary {
            labels: Some([(label::NODE_ID.to_owned(), id.to_owned())].into()),
            ..ContainerSummary::default()
        });
        let ids: Vec<&str> = one_of_each(&listed)
            .filter_map(|it| it.labels.as_ref()?.get(label::NODE_ID))
            .map(String::as_str)
            .collect();
        assert_eq!(ids, ["a", "", "b", "", "no id"]);
    }
    #[test]
    fn an_end_is_of_the_memory_limit_that_was_told_of_in_its_run() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let seen = |phase, exit_code| Observed {
            exit_code,
            started_at: Some(at(10)),
            ..translate::tests::observed(phase)
        };
        let check = |seen: Observed, told: Option<i64>, expect| {
            assert_eq!(
                used_memory_up(&seen, told.map(at)),
                expect,
                "{seen:?} {told:?}"
            );
        };
        check(seen(Phase::Exited, 137), Some(12), true);
        check(seen(Phase::Restarting, 137), Some(10), true);
        // Of an earlier run, of a child, of nobody, or not the end of this one.
        check(seen(Phase::Exited, 137), Some(9), false);
        check(seen(Phase::Exited, 1), Some(12), false);
        check(seen(Phase::Exited, 137), None, false);
        check(seen(Phase::Running, 137), Some(12), false);
    }
}
