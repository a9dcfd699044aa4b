//! Wishes into platform calls: level-triggered, a task per node, the latest wish wins.

mod actor;
mod decide;
mod outbox;
mod settle;
mod watch;

use std::{sync::Arc, time::Duration};

use grid_platform_api::{Error, ErrorKind, ErrorReport, NodeId, Platform, Result};
use grid_proto::{Fence, Wish};
use tokio::{
    sync::{mpsc, oneshot, watch as latest},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::desired::{Desired, DesiredFile};
pub(crate) use outbox::Outbox;

/// How often everything is looked at again, whatever the events say.
const RESYNC: Duration = Duration::from_secs(30);

/// A change of what is wanted, as the master sent it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) fence: Fence,
    /// Whether `wishes` and `refused` are all there are.
    pub(crate) all: bool,
    pub(crate) wishes: Vec<Wish>,
    /// Wishes that this version cannot read.
    pub(crate) refused: Vec<Refused>,
}

/// A wish that this version cannot read. What was wanted of the node before is upheld.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) node_id: String,
    pub(crate) generation: u64,
    pub(crate) report: ErrorReport,
}

#[derive(Debug)]
enum Command {
    Change(Change, oneshot::Sender<Result<()>>),
    Resend,
    IsWanted(NodeId, oneshot::Sender<bool>),
}

/// The running reconciler, as the link sees it.
#[derive(Clone, Debug)]
pub(crate) struct Reconciler {
    commands: mpsc::Sender<Command>,
    /// What the master is to be told.
    pub(crate) outbox: Arc<Outbox>,
    fence: latest::Receiver<Option<Fence>>,
}

impl Reconciler {
    /// Starts it. The task ends some seconds after `shutdown`, or sooner when nothing is in flight; nodes stay as they are.
    pub(crate) fn start(
        platform: Arc<dyn Platform>,
        file: DesiredFile,
        desired: Desired,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (commands, inbox) = mpsc::channel(64);
        let (publish, fence) = latest::channel(desired.fence.clone());
        let outbox = Arc::new(Outbox::default());
        let actor = actor::Actor::new(
            Arc::clone(&platform),
            file,
            desired,
            Arc::clone(&outbox),
            publish,
        );
        let (events, seen) = mpsc::channel(256);
        tokio::spawn(watch::watch(platform, RESYNC, events));
        let task = tokio::spawn(actor.run(inbox, seen, shutdown));
        let reconciler = Self {
            commands,
            outbox,
            fence,
        };
        (reconciler, task)
    }

    /// The newest place in the grid's history that is on disk.
    pub(crate) fn fence(&self) -> Option<Fence> {
        self.fence.borrow().clone()
    }

    /// Takes what the master wants; on disk when it returns.
    ///
    /// # Errors
    /// Those of [`Fence::admits`], with nothing changed; `Internal` when the disk fails.
    pub(crate) async fn change(&self, change: Change) -> Result<()> {
        let (answer, told) = oneshot::channel();
        self.ask(Command::Change(change, answer)).await?;
        told.await.map_err(|_| ended())?
    }

    /// Fills the outbox with everything, for a master that knows nothing yet.
    pub(crate) async fn resend(&self) -> Result<()> {
        self.ask(Command::Resend).await
    }

    /// Whether there is a wish for the node to exist.
    pub(crate) async fn is_wanted(&self, node_id: NodeId) -> Result<bool> {
        let (answer, told) = oneshot::channel();
        self.ask(Command::IsWanted(node_id, answer)).await?;
        told.await.map_err(|_| ended())
    }

    async fn ask(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| ended())
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Unavailable, "the agent is ending")
}
