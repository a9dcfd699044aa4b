//! Logs that the master asked for, each in a call of its own.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt};
use grid_platform_api::{Error, LogCursor, LogItem, LogPosition, NodeId, Platform, Result};
use grid_proto::{log_item_to_wire, report_to_json, v1};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};

use super::session::{dial, request};
use crate::master::MasterAddress;

/// A frame is sent when its lines have this many bytes, or when nothing more is there to send.
const FRAME_BYTES: usize = 256 * 1024;

/// What is retained is there at once; when nothing comes for this long, its end is reached.
const IDLE: Duration = Duration::from_millis(500);

/// Sends the log until it ends, its reader is gone, or the session does.
///
/// Each log has a connection of its own: the streams of one HTTP/2 connection share a window too, and what a slow reader
/// leaves in it would hold up the session's heartbeats.
pub(super) async fn push(
    open: v1::OpenLogs,
    platform: Arc<dyn Platform>,
    master: MasterAddress,
    token: Option<MetadataValue<Ascii>>,
) {
    let mut client = match dial(&master).await {
        Ok(client) => client,
        Err(error) => {
            // The session goes by the same way and will tell it.
            tracing::debug!(node = open.node_id, %error, "no connection for a log");
            return;
        }
    };
    let (frames, outgoing) = mpsc::channel(4);
    let node = open.node_id.clone();
    let sending = async move {
        let request_id = open.request_id;
        let first = v1::LogFrame {
            request_id,
            ..v1::LogFrame::default()
        };
        if frames.send(first).await.is_err() {
            return;
        }
        if let Err(error) = send_log(&open, platform.as_ref(), &frames).await {
            let last = v1::LogFrame {
                request_id,
                items: Vec::new(),
                error_json: report_to_json(&error.to_report()),
            };
            // The reader may be gone, and then nobody needs to know.
            drop(frames.send(last).await);
        }
    };
    let calling = client.push_logs(request(ReceiverStream::new(outgoing), &token));
    tokio::pin!(calling);
    let ended = tokio::select! {
        // The master ends the call when its reader is gone.
        ended = &mut calling => ended,
        () = sending => calling.await,
    };
    if let Err(status) = ended {
        tracing::debug!(node, code = %status.code(), "a log's call ended");
    }
}

type Frames = mpsc::Sender<v1::LogFrame>;

async fn send_log(open: &v1::OpenLogs, platform: &dyn Platform, frames: &Frames) -> Result<()> {
    let id = NodeId::new(open.node_id.as_str())?;
    let cursor: LogCursor = open.cursor.parse()?;
    let until = match open.follow {
        true => None,
        false => match end_of_retained(platform, &id).await? {
            Some(end) if cursor != LogCursor::After(end.clone()) => Some(end),
            // Nothing is retained behind the cursor.
            _ => return Ok(()),
        },
    };
    if !open.follow && matches!(cursor, LogCursor::End | LogCursor::Tail(0)) {
        return Ok(());
    }
    let mut log = platform.follow_logs(&id, cursor).await?.fuse();
    loop {
        let next = match until {
            None => log.next().await,
            Some(_) => timeout(IDLE, log.next()).await.unwrap_or(None),
        };
        let Some(first) = next else {
            return Ok(());
        };
        let (items, reached, fault) = batch(first, &mut log, until.as_ref());
        if !items.is_empty() {
            let frame = v1::LogFrame {
                request_id: open.request_id,
                items,
                error_json: String::new(),
            };
            if frames.send(frame).await.is_err() {
                return Ok(());
            }
        }
        match fault {
            Some(error) => return Err(error),
            None if reached => return Ok(()),
            None => {}
        }
    }
}

/// The position behind the last retained line; `None` for an empty log.
///
/// The contract's logs have no end, so that the end of what is retained is found first, and then read up to.
async fn end_of_retained(platform: &dyn Platform, id: &NodeId) -> Result<Option<LogPosition>> {
    let mut tail = platform.follow_logs(id, LogCursor::Tail(1)).await?;
    let mut end = None;
    while let Ok(Some(item)) = timeout(IDLE, tail.next()).await {
        if let LogItem::Line(line) = item? {
            end = Some(line.position);
            // A long line comes in pieces.
            if !line.partial {
                break;
            }
        }
    }
    Ok(end)
}

/// What is there already, up to a frame's size or to `until`: the items, whether `until` was reached, and an error that
/// ends the log.
fn batch(
    first: Result<LogItem>,
    log: &mut (impl Stream<Item = Result<LogItem>> + Unpin),
    until: Option<&LogPosition>,
) -> (Vec<v1::LogItem>, bool, Option<Error>) {
    let mut items = Vec::new();
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(item) = next {
        let item = match item {
            Ok(item) => item,
            Err(error) => return (items, false, Some(error)),
        };
        let mut reached = false;
        if let LogItem::Line(line) = &item {
            bytes += line.bytes.len();
            reached = until == Some(&line.position);
        }
        items.push(log_item_to_wire(item));
        if reached {
            return (items, true, None);
        }
        if bytes >= FRAME_BYTES || items.len() >= 4096 {
            break;
        }
        next = log.next().now_or_never().flatten();
    }
    (items, false, None)
}
