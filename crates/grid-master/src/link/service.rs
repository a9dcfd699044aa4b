//! The gRPC service that agents call.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::Stream;
use grid_client::Role;
use grid_listen::{Busy, Visit};
use grid_platform_api::{Error, ErrorKind, ErrorReport, NodeId};
use grid_proto::{
    Observation, Want, Wish as WireWish,
    v1::{self, agent_link_server::AgentLink, from_agent, from_master},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{Session, hello::check_hello};
use crate::{
    app::App,
    auth,
    error::to_status,
    store::row::{NodeRow, TokenRow, Wish},
};

/// Messages between a session's writer and its connection.
const QUEUE: usize = 16;
/// The longest report of one node, or of one error, in bytes: its settings and the last lines of its log.
const REPORT_BYTES: usize = 256 * 1024;
/// The longest report of how far something is, in bytes: a line and some figures.
const PROGRESS_BYTES: usize = 4 * 1024;

/// The service.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) app: Arc<App>,
}

fn refuse(code: Code, error: &Error) -> Status {
    to_status(code, &error.to_report())
}

impl Link {
    fn authenticate(&self, metadata: &MetadataMap) -> Result<Arc<TokenRow>, Status> {
        let header = metadata.get("authorization").map(|v| v.as_bytes());
        let token = auth::authenticate(&self.app.grid, header)
            .map_err(|e| to_status(Code::Unauthenticated, &e.report))?;
        auth::allow(&token, &[Role::Agent])
            .map_err(|e| to_status(Code::PermissionDenied, &e.report))?;
        Ok(token)
    }

    /// The first message of a call; `None` when there is none.
    async fn first<T>(&self, inbound: &mut Streaming<T>) -> Result<Option<T>, Status> {
        let limit = self.app.settings.limits.hello;
        match tokio::time::timeout(limit, inbound.message()).await {
            Ok(Ok(first)) => Ok(first),
            Ok(Err(status)) => {
                let error = Error::new(
                    ErrorKind::InvalidConfig,
                    format!("the call's first message cannot be read: {}", status.message()),
                )
                .with_hint("Run agent and master of one version, and let only agents speak to this address.");
                Err(refuse(Code::InvalidArgument, &error))
            }
            Err(_) => {
                let error = Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "nothing was said for {} ms after the call began",
                        limit.as_millis()
                    ),
                )
                .with_hint("Begin the call again, and with its first message.");
                Err(refuse(Code::DeadlineExceeded, &error))
            }
        }
    }

    /// Reads the hello and lets the agent in, or says why not.
    async fn admit(&self, hello: v1::Hello, token: &TokenRow) -> Result<Arc<Session>, Status> {
        let agent = hello.agent_id.clone();
        let admitted = match check_hello(&self.app, &hello) {
            Ok(info) => self
                .app
                .admit_agent(&agent, &hello.install_id, info, &token.id)
                .await
                .map_err(|e| {
                    let code = match e.kind() {
                        ErrorKind::PermissionDenied => Code::PermissionDenied,
                        ErrorKind::OwnedByOther => Code::AlreadyExists,
                        _ => Code::Unavailable,
                    };
                    (code, e)
                }),
            Err(error) => Err((Code::FailedPrecondition, error)),
        };
        match admitted {
            Ok(()) => Ok(Arc::new(Session::new(agent, hello.install_id))),
            Err((code, error)) => {
                tracing::warn!(agent = %grid_platform_api::printable(&agent), error = %error, "an agent is refused");
                // Shown to people only when it is the agent they know by that name, not an impostor.
                if code == Code::FailedPrecondition && self.app.owns(&agent, &hello.install_id) {
                    self.app.grid.refused(&agent, error.to_report());
                }
                Err(refuse(code, &error))
            }
        }
    }
}

#[tonic::async_trait]
impl AgentLink for Link {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::FromMaster, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let token = self.authenticate(request.metadata())?;
        let busy = request.extensions().get().map(Visit::busy);
        let mut inbound = request.into_inner();
        let Some(v1::FromAgent {
            message: Some(from_agent::Message::Hello(hello)),
        }) = self.first(&mut inbound).await?
        else {
            let error = Error::new(ErrorKind::InvalidConfig, "a session begins with a hello")
                .with_hint("Run agent and master of one version.");
            return Err(refuse(Code::InvalidArgument, &error));
        };
        let session = self.admit(hello, &token).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.app.grid.connect(&session.agent, &session);
        tracing::info!(agent = session.agent, "an agent is connected");
        let app = self.app.clone();
        app.tasks.spawn(write(app.clone(), session.clone(), sender));
        let revoked = app.grid.revoked(&token.id);
        app.tasks
            .spawn(read(app.clone(), session, inbound, revoked, busy));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::LogFrame>>,
    ) -> Result<Response<v1::PushLogsDone>, Status> {
        let token = self.authenticate(request.metadata())?;
        let _busy = request.extensions().get().map(Visit::busy);
        let mut inbound = request.into_inner();
        let Some(first) = self.first(&mut inbound).await? else {
            let error = Error::new(ErrorKind::InvalidConfig, "a log begins with a frame")
                .with_hint("Run agent and master of one version.");
            return Err(refuse(Code::InvalidArgument, &error));
        };
        let install_id = token.install_id.as_deref().unwrap_or_default();
        // Nobody reads it any more: not an error, the agent asks no further.
        let Some(reader) = self.app.logs.claim(first.request_id, install_id) else {
            return Ok(Response::new(v1::PushLogsDone {}));
        };
        let revoked = self.app.grid.revoked(&token.id);
        let mut next = Some(first);
        while let Some(frame) = next {
            let over = frame.over;
            tokio::select! {
                sent = reader.send(frame) => if sent.is_err() { break },
                () = revoked.cancelled() => break,
            }
            if over {
                break;
            }
            let told = tokio::select! {
                () = reader.closed() => break,
                () = revoked.cancelled() => break,
                () = self.app.shutdown.cancelled() => break,
                told = inbound.message() => told,
            };
            next = match told {
                Ok(Some(frame)) => Some(frame),
                // Without a last frame the log counts as broken off: so does a call that was dropped, which looks ended here.
                Ok(None) => None,
                Err(status) => {
                    tracing::debug!(%status, "an agent's log broke off");
                    None
                }
            };
        }
        Ok(Response::new(v1::PushLogsDone {}))
    }
}

/// Tells the agent what it has to be told, until the session ends.
async fn write(
    app: Arc<App>,
    session: Arc<Session>,
    sender: mpsc::Sender<Result<v1::FromMaster, Status>>,
) {
    let work = async {
        let fence = app.grid.fence();
        let welcome = v1::Welcome {
            grid_id: fence.grid_id,
            epoch: fence.epoch,
            heartbeat_ms: millis(app.settings.heartbeat),
            lost_after_ms: millis(app.settings.lost_after),
        };
        send(&sender, from_master::Message::Welcome(welcome)).await?;
        session.outbox.all();
        session.outbox.wake();
        let mut ticker = tokio::time::interval(app.settings.heartbeat);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sequence = 0;
        loop {
            tokio::select! {
                pending = session.outbox.take() => {
                    for message in pending.messages {
                        send(&sender, message).await?;
                    }
                    if pending.all {
                        send(&sender, desired_set(&app, &session.agent)).await?;
                    } else {
                        for message in desired_nodes(&app, &session.agent, pending.nodes) {
                            send(&sender, message).await?;
                        }
                    }
                }
                _ = ticker.tick() => {
                    sequence += 1;
                    let beat = v1::Heartbeat { sequence };
                    send(&sender, from_master::Message::Heartbeat(beat)).await?;
                    if session.outbox.take_forgotten() {
                        send(&sender, desired_set(&app, &session.agent)).await?;
                    }
                }
            }
        }
    };
    let closed: Result<(), Closed> = tokio::select! {
        closed = work => closed,
        () = session.ended.cancelled() => Ok(()),
        () = app.shutdown.cancelled() => Ok(()),
    };
    if closed.is_ok() {
        // The agent reconnects; a full channel means that it does not read, and needs no reason.
        let _ = sender.try_send(Err(over(&session)));
    }
    session.end();
}

/// What ends a session, as its agent is told.
fn over(session: &Session) -> Status {
    if !session.replaced.load(Ordering::Acquire) {
        return Status::unavailable("the session is over: reconnect");
    }
    let error = Error::new(
        ErrorKind::OwnedByOther,
        format!(
            "another agent of the same install took the place of `{}`",
            session.agent
        ),
    )
    .with_hint(
        "Run one agent only with this state directory, and none with a copy of it: a copy has the same install id.",
    );
    refuse(Code::AlreadyExists, &error)
}

/// The agent's end of the session is gone.
struct Closed;

async fn send(
    sender: &mpsc::Sender<Result<v1::FromMaster, Status>>,
    message: from_master::Message,
) -> Result<(), Closed> {
    let message = v1::FromMaster {
        message: Some(message),
    };
    sender.send(Ok(message)).await.map_err(|_| Closed)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn desired_set(app: &App, agent: &str) -> from_master::Message {
    let (fence, rows) = app.grid.desired(agent);
    from_master::Message::Desired(v1::DesiredSet {
        fence: Some((&fence).into()),
        nodes: rows.iter().filter_map(|row| wire(app, row)).collect(),
    })
}

fn desired_nodes(
    app: &App,
    agent: &str,
    ids: impl IntoIterator<Item = NodeId>,
) -> Vec<from_master::Message> {
    let (fence, rows) = app.grid.wishes(agent, ids);
    rows.iter()
        .filter_map(|row| wire(app, row))
        .map(|node| {
            from_master::Message::Node(v1::DesiredNode {
                fence: Some((&fence).into()),
                ..node
            })
        })
        .collect()
}

/// The wish as it travels, with the values of its secrets. One that cannot be opened is not sent: its node goes on as
/// it is.
fn wire(app: &App, row: &NodeRow) -> Option<v1::DesiredNode> {
    let config = |row: &NodeRow| match app.config_with_secrets(row) {
        Ok(config) => config.map(Box::new),
        Err(error) => {
            tracing::error!(node = %row.id, error = %error.report().trim_end(), "a wish cannot be sent");
            None
        }
    };
    let want = match row.wish {
        Wish::Running => Want::Running(config(row)?),
        Wish::Stopped => Want::Stopped(config(row)?),
        Wish::Removed { purge: true } => Want::Removed(grid_platform_api::DataPolicy::Purge),
        Wish::Removed { purge: false } => Want::Removed(grid_platform_api::DataPolicy::Keep),
    };
    let wish = WireWish {
        node_id: row.id.clone(),
        generation: row.generation,
        want,
    };
    Some((&wish).into())
}

/// Takes what the agent says, until it goes silent or away.
async fn read(
    app: Arc<App>,
    session: Arc<Session>,
    mut inbound: Streaming<v1::FromAgent>,
    revoked: CancellationToken,
    _busy: Option<Busy>,
) {
    loop {
        let next = tokio::select! {
            // First, so that nothing more is taken of one whose token was deleted.
            biased;
            () = session.ended.cancelled() => break,
            () = revoked.cancelled() => {
                tracing::warn!(agent = session.agent, "an agent's session ends: its token was deleted");
                break;
            }
            () = app.shutdown.cancelled() => break,
            next = tokio::time::timeout(app.settings.lost_after, inbound.message()) => next,
        };
        let message = match next {
            Ok(Ok(Some(v1::FromAgent { message }))) => message,
            Ok(Ok(None)) => break,
            Ok(Err(status)) => {
                tracing::debug!(agent = session.agent, %status, "a session broke off");
                break;
            }
            Err(_) => {
                tracing::warn!(agent = session.agent, "an agent went silent");
                break;
            }
        };
        session.hear();
        // A message of a newer version is none that this one waits for.
        if let Some(message) = message {
            take(&app, &session, message);
        }
    }
    session.end();
    if app.grid.disconnect(&session) {
        let deadline = session.heard().instant + app.settings.lost_after;
        app.watch_for_loss(session.agent.clone(), deadline);
    }
}

fn take(app: &Arc<App>, session: &Arc<Session>, message: from_agent::Message) {
    let agent = session.agent.as_str();
    let observation = |wire: v1::NodeObserved| match observed(wire) {
        Ok(observation) => Some(observation),
        Err(error) => {
            tracing::warn!(agent, error = %error.report().trim_end(), "a report is ignored");
            None
        }
    };
    match message {
        from_agent::Message::Observed(all) => {
            let nodes = all.nodes.into_iter().filter_map(observation).collect();
            app.grid.observe_all(session, nodes);
        }
        from_agent::Message::Node(node) => {
            if let Some(observation) = observation(node) {
                app.grid.observe(session, observation);
            }
        }
        from_agent::Message::Gone(gone) => {
            if let Ok(id) = NodeId::new(gone.node_id) {
                app.grid.gone(session, &id, &gone.uid);
            }
        }
        from_agent::Message::Applied(applied) => {
            let error = bounded(&applied.error_json);
            let Ok(id) = NodeId::new(applied.node_id) else {
                return;
            };
            let generation = applied.generation;
            if app
                .grid
                .applied(session, &id, generation, error, applied.r#final)
            {
                let task = app.clone();
                app.tasks
                    .spawn(async move { task.forget(id, generation).await });
            }
        }
        from_agent::Message::Progress(told) => {
            let progress = match told.progress_json.as_str() {
                "" => Some(None),
                // One that cannot be read is not shown; a later one takes its place.
                json if json.len() <= PROGRESS_BYTES => serde_json::from_str(json).ok().map(Some),
                _ => None,
            };
            if let (Ok(id), Some(progress)) = (NodeId::new(told.node_id), progress) {
                app.grid.progress(session, &id, progress);
            }
        }
        from_agent::Message::Answer(answer) => session.answer(answer),
        from_agent::Message::Hello(_) | from_agent::Message::Heartbeat(_) => {}
    }
}

fn observed(wire: v1::NodeObserved) -> Result<Observation, Error> {
    if wire.node_json.len() > REPORT_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("a reported node is longer than {REPORT_BYTES} bytes"),
        ));
    }
    Observation::try_from(wire)
}

/// The error that an agent tells of a node, which is kept and shown.
fn bounded(json: &str) -> Option<ErrorReport> {
    if json.len() > REPORT_BYTES {
        let error = Error::new(
            ErrorKind::Internal,
            format!("the agent's error is longer than {REPORT_BYTES} bytes"),
        )
        .with_hint("Look into the agent's log.");
        return Some(error.to_report());
    }
    grid_proto::report_from_json(json)
}
