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

/// How long a line that is known to be retained may take to come, on a host that is busy.
const SURE: Duration = Duration::from_secs(10);

/// How long what may be the end of a log is waited on. A platform may keep a line that is not ended to itself for a
/// while.
const IDLE: Duration = Duration::from_secs(1);

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
    let (frames, queue) = mpsc::channel(4);
    let node = open.node_id.clone();
    let sending = async move {
        let first = v1::LogFrame {
            request_id: open.request_id,
            ..v1::LogFrame::default()
        };
        if frames.send(first).await.is_err() {
            return;
        }
        let sent = send_log(&open, platform.as_ref(), &frames).await;
        // Said aloud: a call that is dropped with its session looks to the master like one that was ended.
        let last = v1::LogFrame {
            request_id: open.request_id,
            error_json: sent.map_or_else(|e| report_to_json(&e.to_report()), |()| String::new()),
            over: true,
            ..v1::LogFrame::default()
        };
        // The reader may be gone, and then nobody needs to know.
        drop(frames.send(last).await);
    };
    let calling = client.push_logs(request(ReceiverStream::new(queue), &token));
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
    let mut until = match open.follow {
        true => None,
        false => match end_of_retained(platform, &id).await? {
            // Nothing is retained behind the cursor.
            _ if matches!(cursor, LogCursor::End | LogCursor::Tail(0)) => return Ok(()),
            Some(end) if cursor != LogCursor::After(end.position.clone()) => Some(end),
            _ => return Ok(()),
        },
    };
    let mut log = platform.follow_logs(&id, cursor).await?.fuse();
    loop {
        let next = match &until {
            None => log.next().await,
            Some(end) => timeout(end.patience, log.next()).await.unwrap_or(None),
        };
        let Some(first) = next else {
            return Ok(());
        };
        let (items, reached, fault) = batch(first, &mut log, until.as_ref());
        if let Some(end) = &mut until
            && items.iter().any(is_gap)
        {
            // The end itself may be gone by now.
            end.patience = IDLE;
        }
        if !items.is_empty() {
            let frame = v1::LogFrame {
                request_id: open.request_id,
                items,
                ..v1::LogFrame::default()
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

fn is_gap(item: &v1::LogItem) -> bool {
    matches!(item.item, Some(v1::log_item::Item::Gap(_)))
}

/// The end of what a log retains.
struct End {
    position: LogPosition,
    /// How long each item up to it is waited for.
    patience: Duration,
}

/// The end of what is retained; `None` for an empty log.
///
/// The contract's logs have no end, so that the end of what is retained is found first, and then read up to. Only a line
/// that is not ended, as the last one may be, takes time: what follows may be its rest.
async fn end_of_retained(platform: &dyn Platform, id: &NodeId) -> Result<Option<End>> {
    if platform.get_logs(id, 1).await?.is_empty() {
        return Ok(None);
    }
    let mut tail = platform.follow_logs(id, LogCursor::Tail(1)).await?;
    let (mut end, mut wait) = (None, SURE);
    while let Ok(Some(item)) = timeout(wait, tail.next()).await {
        if let LogItem::Line(line) = item? {
            wait = IDLE;
            end = Some(End {
                position: line.position,
                patience: if line.partial { IDLE } else { SURE },
            });
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
    until: Option<&End>,
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
            reached = until.is_some_and(|end| end.position == line.position);
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

#[cfg(test)]
mod tests {
    use grid_platform_api::{ErrorKind, Program, SpawnConfig};
    use grid_platform_testing::World;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_retained_takes_no_wait() {
        let world = World::new();
        let platform = world.open();
        let id = NodeId::new("n1").unwrap();
        let config = |id: &str, program: &str| {
            let program = Program::binary(program, [""; 0]);
            SpawnConfig::builder(id, program).build().unwrap()
        };
        platform
            .spawn_node(config("n1", "memory:server"))
            .await
            .unwrap();
        // What was never started has no line.
        let failed = platform.spawn_node(config("empty", "memory:missing")).await;
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::SpawnFailed);
        let read = async |node: &str, cursor: &str| {
            let open = v1::OpenLogs {
                request_id: 1,
                node_id: node.into(),
                cursor: cursor.into(),
                follow: false,
            };
            let (frames, mut sent) = mpsc::channel(64);
            let begun = Instant::now();
            let result = send_log(&open, &platform, &frames).await;
            drop(frames);
            let mut lines = 0;
            while let Some(frame) = sent.recv().await {
                lines += frame.items.len();
            }
            assert_eq!(begun.elapsed(), Duration::ZERO, "{node} {cursor}");
            result.map(|()| lines)
        };
        for cursor in ["start", "end", "tail:5"] {
            assert_eq!(read("empty", cursor).await.unwrap(), 0, "{cursor}");
            let error = read("nobody", cursor).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{cursor}");
        }
        for number in 0..9 {
            world.write_log(&id, &number.to_string());
        }
        for (cursor, expect) in [("start", 10), ("tail:5", 5), ("tail:0", 0), ("end", 0)] {
            assert_eq!(read("n1", cursor).await.unwrap(), expect, "{cursor}");
        }
    }
}
