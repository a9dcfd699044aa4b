//! A node's log: one file for all of its life, read by logical offsets that never move.

mod file;
mod follow;
mod lines;

use std::sync::Arc;

use grid_platform_api::{
    Error, ErrorKind, LogCursor, LogPosition, LogStream, NodeId, NodeUid, Result,
};

use crate::{
    error::{Context, error},
    node::Node,
    platform::Inner,
};
use file::LogFile;
use grid_platform_host::work::blocking;

/// How many bytes of the log a line of a failure may take: longer ones are cut at their beginning.
const TAIL_LINE: u64 = 8 * 1024;

/// [`Platform::get_logs`](grid_platform_api::Platform::get_logs).
pub(crate) async fn tail(inner: &Arc<Inner>, id: &NodeId, lines: usize) -> Result<Vec<String>> {
    let node = inner.node(id)?;
    let log = open(inner, &node)?;
    let id = id.clone();
    blocking(move || {
        let from = log.low();
        log.tail(from, lines)
            .cannot(format!("read the log of the node `{id}`"))
    })
    .await
}

/// The last lines behind an offset, for the failure of a start; none where they cannot be read. What is looked at is
/// bounded by the number of lines, however long they are: it is called where a long read would hold others up.
pub(crate) fn tail_from(inner: &Inner, node: &Node, from: u64, lines: usize) -> Vec<String> {
    let Ok(log) = open(inner, node) else {
        return Vec::new();
    };
    let longest = (lines as u64).saturating_mul(TAIL_LINE);
    let near = log.end().map_or(0, |end| end.saturating_sub(longest));
    log.tail(from.max(log.low()).max(near), lines)
        .unwrap_or_default()
}

/// Where the log ends now; 0 where that cannot be known.
pub(crate) fn end(inner: &Inner, node: &Node) -> u64 {
    open(inner, node)
        .and_then(|log| log.end().cannot("look at the log"))
        .unwrap_or(0)
}

/// [`Platform::follow_logs`](grid_platform_api::Platform::follow_logs).
pub(crate) async fn follow(
    inner: &Arc<Inner>,
    id: &NodeId,
    cursor: LogCursor,
) -> Result<LogStream> {
    let node = inner.node(id)?;
    let log = open(inner, &node)?;
    let news = node.subscribe();
    let what = format!("read the log of the node `{id}`");
    let uid = node.uid.clone();
    let start = blocking(move || {
        let start = match &cursor {
            LogCursor::Start => Ok(0),
            LogCursor::End => log.end(),
            LogCursor::Tail(lines) => log.tail_start(log.low(), *lines),
            LogCursor::Since(time) => log.since(time.as_millisecond()),
            LogCursor::After(position) => Ok(offset(position, &uid, log.end().cannot(&what)?)?),
        };
        Ok((start.cannot(what)?, matches!(cursor, LogCursor::Start), log))
    });
    let (from, from_start, log) = start.await?;
    Ok(follow::stream(
        log,
        node.uid.clone(),
        news,
        from,
        from_start,
    ))
}

fn open(inner: &Inner, node: &Node) -> Result<LogFile> {
    let dir = inner.node_dir(&node.id)?;
    LogFile::open(dir).map_err(|e| {
        if e.kind() == std::io::ErrorKind::NotFound {
            return error(
                ErrorKind::LogsUnavailable,
                format!("the log of the node `{}` is gone", node.id),
            )
            .with_hint("Somebody deleted the file; the next start of the node makes a new one.");
        }
        crate::error::refused(format!("open the log of the node `{}`", node.id), e)
    })
}

/// A position as text: the node's uid and the logical offset behind the line.
fn position(uid: &NodeUid, offset: u64) -> LogPosition {
    LogPosition::new(format!("{uid}:{offset}"))
}

fn offset(position: &LogPosition, uid: &NodeUid, end: u64) -> Result<u64> {
    let invalid = |why: &str| -> Error {
        error(ErrorKind::InvalidConfig, format!("the log position {why}")).with_hint(
            "Use a position that this node's log gave, or begin with `start`, `end` or `tail:LINES`.",
        )
    };
    let (owner, offset) = position
        .as_str()
        .split_once(':')
        .ok_or_else(|| invalid("is malformed"))?;
    if owner != uid.as_str() {
        return Err(invalid(
            "is of another node, or of an earlier one of this id",
        ));
    }
    let offset = offset.parse().map_err(|_| invalid("is malformed"))?;
    if offset > end {
        return Err(invalid("is behind the log's end"));
    }
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_of_one_node() {
        let uid = NodeUid::from_bytes([1; 16]);
        let other = NodeUid::from_bytes([2; 16]);
        let check = |text: String, expect: Option<u64>| {
            let got = offset(&LogPosition::new(text.clone()), &uid, 100).ok();
            assert_eq!(got, expect, "{text}");
        };
        check(format!("{uid}:0"), Some(0));
        check(format!("{uid}:100"), Some(100));
        check(format!("{uid}:101"), None);
        check(format!("{uid}:-1"), None);
        check(format!("{uid}"), None);
        check(format!("{other}:5"), None);
        assert_eq!(position(&uid, 7).as_str(), format!("{uid}:7"));
    }
}
