//! One monitor per started node: it hears its shim and keeps what is known of the node true.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Weak},
    time::Duration,
};

use grid_platform_api::{ErrorKind, NodeId, Result};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixStream, unix::pipe},
    time::{sleep, timeout},
};

use crate::{
    error::{Context, error},
    health, logs,
    node::{Node, Started},
    platform::Inner,
    shared::{
        record::Record,
        words::{Answer, GREETING, Report, Request},
    },
    store::NodeDir,
    sys::{
        exec::Child,
        proc::{self, Pinned},
    },
};

/// How long a report of a start may take: the shim's first write to a disk that is busy.
pub(crate) const REPORT_LIMIT: Duration = Duration::from_secs(60);

/// How long a shim may take to hear that its node is ready.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// How long a shim may take to greet who connects: one write to a disk that is busy. One that is halted never does.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// How many of its last lines a failure shows.
pub(crate) const TAIL: usize = 20;

/// A shim to be heard.
pub(crate) struct Watched {
    /// Of the start that it makes.
    pub(crate) generation: u64,
    /// It is a child of this process.
    pub(crate) child: Option<Child>,
    /// The end of its report pipe, if this process started it.
    pub(crate) report: Option<OwnedFd>,
}

/// Hears a shim until it ends. It holds on to neither the platform nor its state: when the platform goes,
/// the shim is only waited for, if it is a child.
pub(crate) fn monitor(inner: &Arc<Inner>, node: &Arc<Node>, watched: Watched) {
    let Watched {
        generation,
        child,
        report,
    } = watched;
    let weak = Arc::downgrade(inner);
    let mut closing = inner.closing.clone();
    if node.now().intent.config.health.is_some() {
        let registry = Arc::downgrade(&inner.registry);
        tokio::spawn(health::watch(registry, Arc::clone(node), generation));
    }
    let node = Arc::clone(node);
    let mut news = node.subscribe();
    tokio::spawn(async move {
        // The next start of the node, or of another one under its id, is in the same place: who went on looking there
        // would take its shim for this one, and this one's remains would stay for as long as that lives.
        let over = news.wait_for(|it| it.removed || it.intent.generation != generation);
        let gone = tokio::select! {
            biased;
            _ = closing.changed() => false,
            _ = over => false,
            () = hear(&weak, &node, generation, report) => true,
        };
        if let Some(child) = child {
            child.reap().await;
        }
        if let (true, Some(inner)) = (gone, weak.upgrade()) {
            inner.shim_ended(&node, generation);
        }
    });
}

/// Returns when the shim has ended.
async fn hear(weak: &Weak<Inner>, node: &Node, generation: u64, report: Option<OwnedFd>) {
    if let Some(report) = report {
        let started = read_report(report).await;
        let Some(inner) = weak.upgrade() else { return };
        inner.learn(node, generation, |it| it.started = started);
    }
    let mut pause = Duration::from_millis(2);
    loop {
        if let Ok(stream) = connect(weak, &node.id).await
            && listen(weak, node, generation, stream).await.is_ok()
        {
            pause = Duration::from_millis(2);
        }
        let Some(inner) = weak.upgrade() else { return };
        // Read before the lock is looked at: what is free is final.
        match NodeDir::open(&inner.nodes_dir, &node.id) {
            Ok(dir) if matches!(dir.try_lock(), Ok(Some(_))) => return,
            // Gone with its directory; not so where somebody deleted that of a node that runs.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !has_living_shim(node) => return,
            // It has the lock, or nobody can tell: a lack of descriptors is no end.
            Ok(_) | Err(_) => {}
        }
        drop(inner);
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Whether the shim of the last record lives, by its number and start time.
fn has_living_shim(node: &Node) -> bool {
    node.now()
        .record()
        .is_some_and(|it| proc::is_running(it.shim_pid, it.shim_start))
}

async fn read_report(report: OwnedFd) -> Started {
    let read = async {
        let mut pipe = pipe::Receiver::from_owned_fd(report)?;
        let mut line = String::new();
        pipe.read_to_string(&mut line).await?;
        Ok::<_, io::Error>(line)
    };
    match timeout(REPORT_LIMIT, read).await {
        Ok(Ok(line)) => match Report::decode(line.trim_end_matches('\n')) {
            Some(report) => Started::Reported(report),
            None => Started::Died,
        },
        Ok(Err(_)) | Err(_) => Started::Died,
    }
}

/// Takes in each record that the shim tells of, until it hangs up.
async fn listen(
    weak: &Weak<Inner>,
    node: &Node,
    generation: u64,
    stream: UnixStream,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::with_capacity(256, read).lines();
    write.write_all(Request::Watch.encode().as_bytes()).await?;
    while let Some(line) = lines.next_line().await? {
        if let Some(Answer::Changed { .. }) = Answer::decode(&line) {
            let Some(inner) = weak.upgrade() else {
                return Ok(());
            };
            inner.learn(node, generation, |_| {});
        }
    }
    Ok(())
}

/// A connection to the node's shim that has greeted.
async fn connect(weak: &Weak<Inner>, id: &NodeId) -> io::Result<UnixStream> {
    let dir = match weak.upgrade() {
        Some(inner) => inner
            .node_dir(id)
            .map_err(|e| io::Error::other(e.to_string()))?,
        None => return Err(io::Error::other("the platform is closed")),
    };
    connect_to(&dir).await
}

async fn connect_to(dir: &NodeDir) -> io::Result<UnixStream> {
    // By the handle, because a socket's path may be no longer than 108 bytes.
    let path = format!("/proc/self/fd/{}/sock", dir.fd().as_raw_fd());
    let mut stream = UnixStream::connect(path).await?;
    let mut greeting = vec![0; GREETING.len() + 1];
    timeout(GREETING_LIMIT, stream.read_exact(&mut greeting)).await??;
    if greeting.strip_suffix(b"\n") != Some(GREETING.as_bytes()) {
        return Err(io::Error::other("the shim speaks another version"));
    }
    Ok(stream)
}

/// How asking a shim to stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The tree is gone, and the record says so.
    Stopped,
    /// No shim answers, or one that is halted or speaks otherwise; who asks looks at the lock.
    NoAnswer,
}

/// Asks the node's shim to stop it, and waits until it has. `grace_ms` can only shorten the node's own.
pub(crate) async fn ask_to_stop(dir: &NodeDir, grace_ms: Option<u64>) -> Asked {
    let ask = async {
        let mut stream = connect_to(dir).await?;
        let request = Request::Stop { grace_ms }.encode();
        stream.write_all(request.as_bytes()).await?;
        let mut lines = BufReader::with_capacity(256, stream).lines();
        while let Some(line) = lines.next_line().await? {
            if Answer::decode(&line) == Some(Answer::Stopped) {
                return Ok(Asked::Stopped);
            }
        }
        Ok::<_, io::Error>(Asked::NoAnswer)
    };
    ask.await.unwrap_or(Asked::NoAnswer)
}

/// Tells the node's shim that its first run is ready: from then on ends go by the policy. `false` when it does not answer.
pub(crate) async fn say_ready(dir: &NodeDir) -> bool {
    let say = async {
        let mut stream = connect_to(dir).await?;
        stream.write_all(Request::Ready.encode().as_bytes()).await?;
        let line = BufReader::with_capacity(64, stream)
            .lines()
            .next_line()
            .await?;
        Ok::<_, io::Error>(line.as_deref().and_then(Answer::decode) == Some(Answer::Ready))
    };
    matches!(timeout(READY_LIMIT, say).await, Ok(Ok(true)))
}

/// The process of the shim that wrote the record, if it still runs.
pub(crate) fn shim(record: Option<&Record>) -> Option<Pinned> {
    let record = record.filter(|it| it.boot_id == proc::boot_id())?;
    Pinned::of(record.shim_pid, record.shim_start)
}

impl Inner {
    /// The node's directory.
    ///
    /// # Errors
    /// `Corrupt` when it is gone.
    pub(crate) fn node_dir(&self, id: &NodeId) -> Result<NodeDir> {
        match NodeDir::open(&self.nodes_dir, id) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(error(
                ErrorKind::Corrupt,
                format!(
                    "the directory of the node `{id}` is gone from `{}`",
                    self.config.state_dir.display()
                ),
            )
            .with_source(e)
            .with_hint(format!(
                "Somebody deleted it while the agent ran: `grid rm {id}` ends what runs of the node."
            ))),
            other => other.cannot(format!("open the directory of the node `{id}`")),
        }
    }

    /// Whether somebody deleted the node's directory.
    pub(crate) fn lost_dir(&self, id: &NodeId) -> bool {
        NodeDir::open(&self.nodes_dir, id).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    }

    /// Reads the record, and changes what is known with it, if the node is still at that start.
    pub(crate) fn learn(
        &self,
        node: &Node,
        generation: u64,
        change: impl FnOnce(&mut crate::node::Situation),
    ) {
        let stored = self
            .node_dir(&node.id)
            .ok()
            .and_then(|dir| dir.read_record());
        self.registry.update(node, |it| {
            if it.intent.generation == generation {
                it.learn(stored);
                change(it);
                if it.tail.is_empty() && it.is_failed() {
                    it.tail = logs::tail_from(self, node, 0, TAIL);
                }
            }
        });
    }
}
