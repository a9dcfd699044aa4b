//! A cluster's logs in memory, for tests: as kubelets give them, with whatever goes wrong on the way.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use grid_platform_api::{Error, NodeId, NodeUid, Result, Timestamp, async_trait};
use kube::core::Status;
use tokio::sync::watch;

use super::source::{Ask, Body, Source, State};
use crate::{
    error::Fault,
    translate::{ContainerState, ContainerView, Ended, PodPhase, PodView},
};

/// The second in which tests take place.
pub(super) const NOW: i64 = 1_790_000_000;

/// A moment: so many milliseconds behind [`NOW`].
pub(super) fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(NOW * 1000 + ms).unwrap()
}

/// How a stream breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// As if it were at its end.
    Clean(usize),
    /// With an error.
    Broken(usize),
}

#[derive(Clone, Debug)]
struct Entry {
    at: Timestamp,
    text: Vec<u8>,
    ended: bool,
}

/// The log of one run.
#[derive(Clone, Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    /// The entries before are in another file.
    kept_from: usize,
    over: bool,
}

struct Model {
    uid: NodeUid,
    is_removed: bool,
    pod: Option<PodView>,
    /// By run, of the present pod.
    logs: Vec<Log>,
    /// What becomes of the next requests: a status and words, or no answer.
    refusals: VecDeque<Option<(u16, String)>>,
    cuts: VecDeque<Cut>,
    asks: Vec<Ask>,
    is_old: bool,
}

/// One node and its pods.
pub(super) struct Fake {
    pub(super) id: NodeId,
    model: Mutex<Model>,
    changes: watch::Sender<u64>,
    /// The platform, until it is closed.
    open: Mutex<Option<watch::Sender<()>>>,
    /// Wakes the streams; apart from `changes`, which tell of objects alone.
    written: watch::Sender<u64>,
}

impl Fake {
    /// A node whose pod has just been started.
    pub(super) fn started() -> Arc<Self> {
        let fake = Arc::new(Self {
            id: "n".parse().unwrap(),
            model: Mutex::new(Model {
                uid: NodeUid::from_bytes([7; 16]),
                is_removed: false,
                pod: None,
                logs: Vec::new(),
                refusals: VecDeque::new(),
                cuts: VecDeque::new(),
                asks: Vec::new(),
                is_old: true,
            }),
            changes: watch::channel(0).0,
            open: Mutex::new(Some(watch::channel(()).0)),
            written: watch::channel(0).0,
        });
        fake.new_pod("pod-1");
        fake.start();
        fake
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Model)) {
        change(&mut self.model());
        self.changes.send_modify(|it| *it += 1);
        self.written.send_modify(|it| *it += 1);
    }

    fn container(&self, change: impl FnOnce(&mut ContainerView)) {
        self.change(|model| change(&mut model.pod.as_mut().unwrap().container));
    }

    /// Another pod, whose container waits.
    pub(super) fn new_pod(&self, uid: &str) {
        self.change(|model| {
            model.logs.iter_mut().for_each(|it| it.over = true);
            model.logs.clear();
            model.pod = Some(pod(&self.id, uid));
        });
    }

    /// The container runs (again).
    pub(super) fn start(&self) {
        self.run();
        self.tell();
    }

    /// The container runs, and nobody has heard of it.
    pub(super) fn run(&self) {
        let mut model = self.model();
        model.logs.push(Log::default());
        drop(model);
        self.written.send_modify(|it| *it += 1);
    }

    /// What the kubelet knows of the container is told.
    pub(super) fn tell(&self) {
        let (runs, over) = {
            let model = self.model();
            (
                model.logs.len(),
                model.logs.last().is_some_and(|it| it.over),
            )
        };
        self.container(|container| {
            container.restarts = u32::try_from(runs - 1).unwrap();
            container.id = Some(format!("run-{runs}"));
            container.last = (runs > 1).then(Ended::default);
            container.state = match over {
                true => ContainerState::Ended(Ended::default()),
                false => ContainerState::Running { started_at: None },
            };
        });
    }

    /// The program ends.
    pub(super) fn end(&self) {
        self.over();
        self.tell();
    }

    /// The program ends, and nobody has heard of it.
    pub(super) fn over(&self) {
        self.model().logs.last_mut().unwrap().over = true;
        self.written.send_modify(|it| *it += 1);
    }

    /// The kubelet waits before it starts the container again.
    pub(super) fn back_off(&self) {
        self.container(|container| {
            container.last = Some(Ended::default());
            container.state = ContainerState::Waiting {
                reason: "CrashLoopBackOff".to_owned(),
                message: String::new(),
            };
        });
    }

    /// The pod is gone.
    pub(super) fn stop(&self) {
        self.change(|model| {
            model.logs.iter_mut().for_each(|it| it.over = true);
            model.pod = None;
        });
    }

    pub(super) fn remove(&self) {
        self.stop();
        self.change(|model| model.is_removed = true);
    }

    pub(super) fn close(&self) {
        self.open.lock().unwrap().take();
    }

    /// The program writes a line at a time.
    pub(super) fn line(&self, at: Timestamp, line: &str) {
        let last = line.len().div_ceil(16 * 1024).max(1) - 1;
        for n in 0..=last {
            let part = &line.as_bytes()[n * 16 * 1024..line.len().min((n + 1) * 16 * 1024)];
            self.entry(at, part, n == last);
        }
    }

    /// The runtime writes an entry.
    pub(super) fn entry(&self, at: Timestamp, text: &[u8], ended: bool) {
        let text = text.to_vec();
        let entry = Entry { at, text, ended };
        self.model().logs.last_mut().unwrap().entries.push(entry);
        self.written.send_modify(|it| *it += 1);
    }

    /// Lines at these milliseconds, which say so.
    pub(super) fn lines(&self, ms: impl IntoIterator<Item = i64>) {
        for ms in ms {
            self.line(at(ms), &format!("at {ms}"));
        }
    }

    /// All that was written until now is in another file.
    pub(super) fn rotate(&self) {
        let mut model = self.model();
        let log = model.logs.last_mut().unwrap();
        log.kept_from = log.entries.len();
    }

    /// The next request is refused.
    pub(super) fn refuse(&self, status: u16, message: &str) {
        let message = message.to_owned();
        self.model().refusals.push_back(Some((status, message)));
    }

    /// The API is away for so many requests.
    pub(super) fn away(&self, requests: usize) {
        let faults = std::iter::repeat_n(None, requests);
        self.model().refusals.extend(faults);
    }

    /// The next stream breaks off.
    pub(super) fn cut(&self, cut: Cut) {
        self.model().cuts.push_back(cut);
    }

    /// The kubelet is one of those that write no times within lines.
    pub(super) fn is_new(&self) {
        self.model().is_old = false;
    }

    /// What was asked for since the last call.
    pub(super) fn asked(&self) -> Vec<Ask> {
        std::mem::take(&mut self.model().asks)
    }

    fn select(&self, ask: Ask) -> Result<(usize, usize), Fault> {
        let mut model = self.model();
        model.asks.push(ask);
        match model.refusals.pop_front() {
            Some(Some((status, message))) => return Err(refused(status, &message)),
            Some(None) => return Err(broken()),
            None => {}
        }
        let pod = model.pod.as_ref();
        let pod = pod.ok_or_else(|| refused(404, "pods \"sutra-grid-n\" not found"))?;
        let waits = matches!(pod.container.state, ContainerState::Waiting { .. });
        let run = match (ask.previous, waits) {
            (false, _) | (true, true) => model.logs.len().checked_sub(1),
            (true, false) => model.logs.len().checked_sub(2),
        };
        let run = run.ok_or_else(|| refused(400, "there is no such container"))?;
        let log = &model.logs[run];
        let from = match ask.tail {
            Some(tail) => log
                .entries
                .len()
                .saturating_sub(usize::try_from(tail).unwrap()),
            None => 0,
        };
        Ok((run, from.max(log.kept_from)))
    }
}

fn fault(source: kube::Error) -> Fault {
    Fault::new("read a log", "https://cluster:6443", "grid", source)
}

fn refused(status: u16, message: &str) -> Fault {
    let status = Status::failure(message, "").with_code(status).boxed();
    fault(kube::Error::Api(status))
}

fn broken() -> Fault {
    let source = std::io::Error::other("connection reset");
    fault(kube::Error::ReadEvents(source))
}

/// A stream of one log.
struct Sending {
    fake: Arc<Fake>,
    pod: String,
    run: usize,
    next: usize,
    ask: Ask,
    is_new_line: bool,
    cut: Option<Cut>,
    written: watch::Receiver<u64>,
    done: bool,
}

impl Sending {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, Fault>> {
        loop {
            if self.done {
                return None;
            }
            let (entry, over) = {
                let model = self.fake.model();
                // Who has the log of a pod that is gone reads it to its end.
                let is_there = model.pod.as_ref().is_none_or(|it| it.uid == self.pod);
                let log = model.logs.get(self.run).filter(|_| is_there);
                let entry = log.and_then(|it| it.entries.get(self.next)).cloned();
                (entry, log.is_none_or(|it| it.over))
            };
            match entry {
                Some(entry) => {
                    self.next += 1;
                    if let Some(chunk) = self.chunk(&entry) {
                        return Some(chunk);
                    }
                }
                None if over || !self.ask.follow => return None,
                None => self.written.changed().await.ok()?,
            }
        }
    }

    fn chunk(&mut self, entry: &Entry) -> Option<Result<Bytes, Fault>> {
        let is_old = self.fake.model().is_old;
        if self.ask.since.is_some_and(|it| entry.at < it) {
            self.is_new_line = entry.ended;
            return None;
        }
        let mut chunk = Vec::new();
        if is_old || self.is_new_line {
            chunk.extend_from_slice(format!("{:.9} ", entry.at).as_bytes());
        }
        chunk.extend_from_slice(&entry.text);
        chunk.extend(entry.ended.then_some(b'\n'));
        self.is_new_line = entry.ended;
        match &mut self.cut {
            Some(Cut::Clean(left) | Cut::Broken(left)) if *left >= chunk.len() => {
                *left -= chunk.len();
            }
            Some(Cut::Clean(left)) => {
                chunk.truncate(*left);
                self.done = true;
            }
            Some(Cut::Broken(left)) if *left > 0 => {
                chunk.truncate(*left);
                *left = 0;
                self.next -= 1;
            }
            Some(Cut::Broken(_)) => {
                self.done = true;
                return Some(Err(broken()));
            }
            None => {}
        }
        Some(Ok(chunk.into()))
    }
}

/// The fake as it is shared.
pub(super) struct Shared(pub(super) Arc<Fake>);

#[async_trait]
impl Source for Shared {
    fn state(&self, id: &NodeId) -> Result<State> {
        let model = self.0.model();
        if *id != self.0.id || model.is_removed {
            return Err(Error::not_found(id));
        }
        Ok(State {
            uid: model.uid.clone(),
            pod: model.pod.clone().map(Arc::new),
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    async fn closed(&self) {
        let open = self
            .0
            .open
            .lock()
            .unwrap()
            .as_ref()
            .map(watch::Sender::subscribe);
        if let Some(mut open) = open {
            while open.changed().await.is_ok() {}
        }
    }

    async fn open(&self, _: &NodeId, ask: Ask) -> Result<Body, Fault> {
        let (run, next) = self.0.select(ask)?;
        let mut model = self.0.model();
        let sending = Sending {
            pod: model.pod.as_ref().unwrap().uid.clone(),
            cut: model.cuts.pop_front(),
            fake: Arc::clone(&self.0),
            run,
            next,
            ask,
            is_new_line: true,
            written: self.0.written.subscribe(),
            done: false,
        };
        Ok(stream::unfold(sending, |mut it| async {
            let next = it.next().await?;
            Some((next, it))
        })
        .boxed())
    }
}

fn pod(id: &NodeId, uid: &str) -> PodView {
    PodView {
        node_id: id.clone(),
        node_uid: None,
        uid: uid.to_owned(),
        resource_version: "1".to_owned(),
        is_terminating: false,
        phase: PodPhase::Running,
        reason: None,
        message: None,
        unscheduled: None,
        host: None,
        host_ip: None,
        ip: None,
        is_ready: false,
        was_ready: false,
        is_host_lost: false,
        container: ContainerView {
            state: ContainerState::Waiting {
                reason: "ContainerCreating".to_owned(),
                message: String::new(),
            },
            ..ContainerView::default()
        },
    }
}
