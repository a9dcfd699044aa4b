//! Logs on their way from an agent to a reader.
//!
//! A log is asked for over the session and comes by a call of its own. A slow reader fills the few frames between,
//! then that call's window, and then the agent waits; the session's call has a window of its own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use grid_platform_api::{Error, ErrorKind, LogCursor, NodeId};
use grid_proto::v1;
use tokio::sync::mpsc;

use super::{Session, disconnected};
use crate::{auth, error::ApiError};

/// Frames between the agent's call and the reader.
const FRAMES: usize = 4;
/// Logs of one agent that may be read at once. Each may hold a window's worth of unread bytes on the agent's
/// connection, which the connection's own window has room for (see `serve`).
pub(crate) const MAX_PER_AGENT: usize = 64;
/// How long the agent may take to open the log.
const OPEN: Duration = Duration::from_secs(10);

/// How long the answer to a log that is followed may be held back for an error to come instead of lines.
const SETTLE: Duration = Duration::from_millis(250);

/// One log that is awaited or being read.
struct Waiting {
    install_id: String,
    /// Taken by the agent's call.
    frames: Option<mpsc::Sender<v1::LogFrame>>,
}

/// The last frame of a log that did not come to its end.
pub(crate) fn broken_off(why: &str) -> v1::LogFrame {
    let error = Error::new(ErrorKind::Unavailable, "the agent's log stream broke off")
        .with_hint("Read on with the last line's `cursor`.")
        .with_source(std::io::Error::other(why.to_owned()));
    v1::LogFrame {
        error_json: grid_proto::report_to_json(&error.to_report()),
        over: true,
        ..v1::LogFrame::default()
    }
}

/// All logs that are awaited or being read.
#[derive(Default)]
pub(crate) struct LogHub {
    logs: Mutex<HashMap<u64, Waiting>>,
}

/// A log being read. Dropping it ends the agent's call.
pub(crate) struct LogReader {
    hub: Arc<LogHub>,
    id: u64,
    frames: mpsc::Receiver<v1::LogFrame>,
    over: bool,
}

impl LogHub {
    fn logs(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the agent for a log and waits until it comes; the first frame is returned with it.
    ///
    /// # Errors
    /// The agent's own when it cannot open the log; `Unavailable`, `Timeout`, `Exhausted`.
    pub(crate) async fn open(
        self: &Arc<Self>,
        session: &Session,
        node: &NodeId,
        cursor: &LogCursor,
        follow: bool,
    ) -> Result<(LogReader, v1::LogFrame), ApiError> {
        // Random, so that an agent's late answer to a master that was restarted finds nobody.
        let id = u64::from_le_bytes(auth::random()?);
        let (sender, frames) = mpsc::channel(FRAMES);
        {
            let mut logs = self.logs();
            let busy = logs
                .values()
                .filter(|w| w.install_id == session.install_id)
                .count();
            if busy >= MAX_PER_AGENT {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!(
                        "{MAX_PER_AGENT} logs of the agent `{}` are being read",
                        session.agent
                    ),
                )
                .with_hint("End some `grid logs -f`.")
                .into());
            }
            let waiting = Waiting {
                install_id: session.install_id.clone(),
                frames: Some(sender),
            };
            logs.insert(id, waiting);
        }
        let mut reader = LogReader {
            hub: self.clone(),
            id,
            frames,
            over: false,
        };
        session
            .outbox
            .message(v1::from_master::Message::OpenLogs(v1::OpenLogs {
                request_id: id,
                node_id: node.to_string(),
                cursor: cursor.to_string(),
                follow,
            }))?;
        let first = tokio::select! {
            first = tokio::time::timeout(OPEN, reader.next()) => first,
            () = session.ended.cancelled() => return Err(disconnected(&session.agent).into()),
        };
        match first {
            Ok(Some(frame)) => {
                let frame = reader.settle(frame, follow).await;
                match grid_proto::report_from_json(&frame.error_json) {
                    Some(error) if frame.items.is_empty() => Err(error.into()),
                    _ => Ok((reader, frame)),
                }
            }
            Ok(None) => Err(disconnected(&session.agent).into()),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the agent `{}` did not open the log within {} s",
                    session.agent,
                    OPEN.as_secs()
                ),
            )
            .with_hint("Look into the agent's log; its platform may hang.")
            .into()),
        }
    }

    /// The reader's end of the log that an agent's call names; `None` when nobody of that install's waits for it.
    pub(crate) fn claim(&self, id: u64, install_id: &str) -> Option<mpsc::Sender<v1::LogFrame>> {
        self.logs()
            .get_mut(&id)
            .filter(|w| w.install_id == install_id)?
            .frames
            .take()
    }
}

impl LogReader {
    /// The first frame that says something: an agent names the log by an empty one before it opens it, and why it
    /// cannot comes next. A log that is followed may have nothing to say for long.
    async fn settle(&mut self, first: v1::LogFrame, follow: bool) -> v1::LogFrame {
        if !first.items.is_empty() || !first.error_json.is_empty() {
            return first;
        }
        let next = match follow {
            true => tokio::time::timeout(SETTLE, self.next())
                .await
                .ok()
                .flatten(),
            false => self.next().await,
        };
        next.unwrap_or(first)
    }

    /// The next frame; `None` at the end. A log that breaks off ends with a frame that says so.
    pub(crate) async fn next(&mut self) -> Option<v1::LogFrame> {
        if self.over {
            return None;
        }
        let frame = self.frames.recv().await;
        let frame = frame.unwrap_or_else(|| broken_off("the agent is away"));
        self.over = frame.over;
        Some(frame)
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.hub.logs().remove(&self.id);
    }
}
