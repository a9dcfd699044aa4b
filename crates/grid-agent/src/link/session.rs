//! One session with the master.

use std::{future::pending, time::Duration};

use futures::StreamExt;
use grid_platform_api::{Error, ErrorKind, Result};
use grid_proto::{
    Fence, Wish,
    v1::{
        self, agent_link_client::AgentLinkClient, from_agent, from_master::Message as FromMaster,
    },
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{Link, logs, questions};
use crate::{
    master::MasterAddress,
    reconcile::{Change, Refused},
};

/// How long a dial and a greeting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest message: a set of some ten thousand nodes.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

type Client = AgentLinkClient<Channel>;
type Outgoing = mpsc::Sender<v1::FromAgent>;
type Token = Option<MetadataValue<Ascii>>;

/// A request with the agent's credential.
pub(super) fn request<T>(message: T, token: &Token) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let metadata = request.metadata_mut();
        metadata.insert("authorization", token.clone());
    }
    request
}

/// Dials, greets and serves, until one side ends it. `met` becomes true once the master has welcomed the agent.
pub(super) async fn session(link: &Link, met: &mut bool) -> Result<()> {
    let token = token(link).await?;
    let mut client = dial(&link.master).await?;
    let (outgoing, messages) = mpsc::channel(64);
    let seen = link.reconciler.fence();
    send(
        &outgoing,
        from_agent::Message::Hello(hello(link, seen.as_ref())),
    )
    .await?;
    let open = client.session(request(ReceiverStream::new(messages), &token));
    let mut incoming = in_time(open).await?.into_inner();
    let welcome = match in_time(incoming.message()).await?.and_then(|it| it.message) {
        Some(FromMaster::Welcome(welcome)) => welcome,
        _ => return Err(broken("the master did not begin with a welcome")),
    };
    admit(seen.as_ref(), &welcome)?;
    *met = true;
    tracing::info!(master = %link.master, grid = welcome.grid_id, epoch = welcome.epoch, "the master has this agent");

    link.reconciler.resend().await?;
    let serving = Serving {
        link,
        token,
        outgoing: outgoing.clone(),
        tasks: JoinSet::new(),
    };
    let silence = Duration::from_millis(u64::from(welcome.lost_after_ms.max(100)));
    tokio::select! {
        ended = serving.listen(&mut incoming, silence) => ended,
        ended = speak(link, &outgoing, welcome.heartbeat_ms) => ended,
    }
}

async fn token(link: &Link) -> Result<Token> {
    let Some(path) = &link.token_file else {
        return Ok(None);
    };
    // Read for each session, so that a new token needs no restart.
    let text = crate::token::read(path).await?;
    let value = MetadataValue::try_from(format!("Bearer {text}"));
    let mut value = value.map_err(|_| {
        Error::new(
            ErrorKind::PermissionDenied,
            format!("`{}` holds no token", path.display()),
        )
        .with_retryable(true)
        .with_hint("Set `agent.token_file` to the file with this agent's token.")
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

pub(super) async fn dial(master: &MasterAddress) -> Result<Client> {
    let unavailable = |error: tonic::transport::Error| {
        Error::new(
            ErrorKind::Unavailable,
            format!("cannot reach the master at `{master}`"),
        )
        .with_source(error)
        .with_hint("Start it with `grid up` or `grid-master`, or set `agent.master_host` or `SUTRA_MASTER`.")
    };
    let channel = Endpoint::from_shared(master.url())
        .map_err(unavailable)?
        .connect_timeout(PATIENCE)
        .tcp_nodelay(true)
        // A peer that is gone without a word is noticed though nothing is sent.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(PATIENCE)
        .connect()
        .await
        .map_err(unavailable)?;
    Ok(Client::new(channel).max_decoding_message_size(MAX_MESSAGE))
}

fn hello(link: &Link, seen: Option<&Fence>) -> v1::Hello {
    let mut hello = link.hello.clone();
    if let Some(fence) = seen {
        hello.grid_id.clone_from(&fence.grid_id);
        hello.epoch = fence.epoch;
        hello.revision = fence.revision;
        hello.lineage.clone_from(&fence.lineage);
    }
    hello
}

/// Whether this is the agent's grid. The revision is judged with each set.
fn admit(seen: Option<&Fence>, welcome: &v1::Welcome) -> Result<()> {
    let next = Fence::try_from(v1::Fence {
        grid_id: welcome.grid_id.clone(),
        epoch: welcome.epoch,
        revision: seen.map_or(0, |fence| fence.revision),
        lineage: String::new(),
    })?;
    seen.map_or(Ok(()), |seen| seen.admits(&next))
}

/// Sends what the reconciler has to tell, and a heartbeat in between.
async fn speak(link: &Link, outgoing: &Outgoing, heartbeat_ms: u32) -> Result<()> {
    let mut ticks = interval(Duration::from_millis(u64::from(heartbeat_ms.max(10))));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sequence = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                sequence += 1;
                let heartbeat = v1::Heartbeat { sequence };
                send(outgoing, from_agent::Message::Heartbeat(heartbeat)).await?;
            }
            () = link.reconciler.outbox.filled() => {
                for message in link.reconciler.outbox.take() {
                    outgoing.send(message).await.map_err(|_| ended())?;
                }
            }
        }
    }
}

pub(super) async fn send(outgoing: &Outgoing, message: from_agent::Message) -> Result<()> {
    let message = v1::FromAgent {
        message: Some(message),
    };
    outgoing.send(message).await.map_err(|_| ended())
}

/// What listens, with the tasks that answer.
struct Serving<'a> {
    link: &'a Link,
    token: Token,
    outgoing: Outgoing,
    /// Dropped with the session, and the answers with it.
    tasks: JoinSet<()>,
}

impl Serving<'_> {
    async fn listen(
        mut self,
        incoming: &mut Streaming<v1::FromMaster>,
        silence: Duration,
    ) -> Result<()> {
        let mut deadline = Instant::now() + silence;
        loop {
            let message = tokio::select! {
                message = incoming.next() => message,
                () = sleep_until(deadline) => {
                    return Err(broken(&format!("the master was silent for {silence:?}")));
                }
                Some(_) = reap(&mut self.tasks) => continue,
            };
            match message {
                Some(message) => self.hear(message.map_err(refusal)?).await?,
                None => return Err(ended()),
            }
            deadline = Instant::now() + silence;
        }
    }

    async fn hear(&mut self, message: v1::FromMaster) -> Result<()> {
        let reconciler = &self.link.reconciler;
        match message.message {
            Some(FromMaster::Desired(set)) => {
                reconciler.change(change(set.fence, set.nodes, true)?).await
            }
            Some(FromMaster::Node(mut node)) => {
                let fence = node.fence.take();
                reconciler.change(change(fence, vec![node], false)?).await
            }
            Some(FromMaster::Question(question)) => {
                let platform = self.link.platform.clone();
                let reconciler = reconciler.clone();
                let outgoing = self.outgoing.clone();
                self.tasks.spawn(async move {
                    let answer = questions::answer(question, platform, reconciler).await;
                    // The session ended first: the master asks again in the next.
                    drop(send(&outgoing, from_agent::Message::Answer(answer)).await);
                });
                Ok(())
            }
            Some(FromMaster::OpenLogs(open)) => {
                let platform = self.link.platform.clone();
                let (master, token) = (self.link.master.clone(), self.token.clone());
                self.tasks.spawn(logs::push(open, platform, master, token));
                Ok(())
            }
            // That it came is all a heartbeat says; a message of a newer version is not for this one.
            Some(FromMaster::Heartbeat(_) | FromMaster::Welcome(_)) | None => Ok(()),
        }
    }
}

/// Waits for a task's end; never ends while there is none.
async fn reap(tasks: &mut JoinSet<()>) -> Option<()> {
    match tasks.join_next().await {
        Some(_) => Some(()),
        None => pending().await,
    }
}

/// A set or a single wish in this program's words. A wish that cannot be read does not keep the others away.
fn change(fence: Option<v1::Fence>, nodes: Vec<v1::DesiredNode>, all: bool) -> Result<Change> {
    let fence = fence.ok_or_else(|| broken("the master sent wishes without a fence"))?;
    let mut change = Change {
        fence: fence.try_into()?,
        all,
        wishes: Vec::with_capacity(nodes.len()),
        refused: Vec::new(),
    };
    for node in nodes {
        let (node_id, generation) = (node.node_id.clone(), node.generation);
        match Wish::try_from(node) {
            Ok(wish) => change.wishes.push(wish),
            Err(error) => change.refused.push(Refused {
                node_id,
                generation,
                report: error.to_report(),
            }),
        }
    }
    Ok(change)
}

fn broken(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}

fn ended() -> Error {
    broken("the master ended the session")
}

/// The answer, or an error when it takes too long.
async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T> {
    match timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(refusal),
        Err(_) => Err(broken("the master does not answer")),
    }
}

/// What the master refused with. Its message holds its hint.
fn refusal(status: Status) -> Error {
    let (kind, hint) = match status.code() {
        Code::Unauthenticated => (
            ErrorKind::PermissionDenied,
            Some("Set `agent.token_file` to the file with this agent's token."),
        ),
        Code::PermissionDenied => (ErrorKind::PermissionDenied, None),
        Code::AlreadyExists => (
            ErrorKind::Conflict,
            Some("Give each agent a name of its own by `agent.agent_id`."),
        ),
        Code::FailedPrecondition => (ErrorKind::Stale, None),
        _ => (ErrorKind::Unavailable, None),
    };
    let (message, theirs) = match status.message().split_once("\nhint: ") {
        Some((message, hint)) => (message, Some(hint)),
        None => (status.message(), None),
    };
    let message = match (kind, message.trim()) {
        (_, "") => format!("the session with the master ended: {}", status.code()),
        (ErrorKind::Unavailable, words) => format!("the session with the master ended: {words}"),
        (_, words) => words.to_owned(),
    };
    let error = Error::new(kind, message).with_retryable(kind == ErrorKind::Unavailable);
    match theirs.or(hint) {
        Some(hint) => error.with_hint(hint.trim()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_as_the_master_means_them() {
        let check = |status: Status, kind, retryable, hint: Option<&str>| {
            let error = refusal(status);
            assert_eq!((error.kind(), error.is_retryable()), (kind, retryable));
            assert_eq!(error.hint(), hint);
            assert!(!error.to_string().is_empty());
        };
        check(
            Status::failed_precondition("the store is older\nhint: Start it with `--new-epoch`.\n"),
            ErrorKind::Stale,
            false,
            Some("Start it with `--new-epoch`."),
        );
        check(
            Status::already_exists("another agent is `a`"),
            ErrorKind::Conflict,
            false,
            Some("Give each agent a name of its own by `agent.agent_id`."),
        );
        check(
            Status::permission_denied("bound"),
            ErrorKind::PermissionDenied,
            false,
            None,
        );
        check(Status::unavailable(""), ErrorKind::Unavailable, true, None);
    }
}
