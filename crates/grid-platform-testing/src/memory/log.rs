//! A node's log: lines by byte offset, bounded by a budget.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grid_platform_api::{
    Bytes, Error, ErrorKind, LogCursor, LogItem, LogLine, LogPosition, LogSource, LogStream,
    NodeUid, Result, Timestamp,
};
use tokio::sync::watch;

/// The log of one incarnation of a node.
pub(crate) struct LogFile {
    uid: NodeUid,
    budget: u64,
    kept: Mutex<Kept>,
    /// Counts what followers want to know: writes, and the removal.
    changes: watch::Sender<u64>,
}

struct Kept {
    lines: VecDeque<Line>,
    /// The offset of the first kept byte, and of the next one to be written.
    low: u64,
    high: u64,
    removed: bool,
}

#[derive(Clone)]
struct Line {
    start: u64,
    at: Timestamp,
    source: LogSource,
    bytes: Bytes,
}

impl Line {
    /// Behind its line feed.
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64 + 1
    }
}

impl LogFile {
    pub(crate) fn new(uid: NodeUid, budget: u64) -> Arc<Self> {
        Arc::new(Self {
            uid,
            budget,
            kept: Mutex::new(Kept {
                lines: VecDeque::new(),
                low: 0,
                high: 0,
                removed: false,
            }),
            changes: watch::channel(0).0,
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line and lets go of the oldest ones beyond the budget.
    pub(crate) fn write(&self, source: LogSource, bytes: &[u8]) {
        let mut kept = self.kept();
        let line = Line {
            start: kept.high,
            at: Timestamp::now(),
            source,
            bytes: Bytes::copy_from_slice(bytes),
        };
        kept.high = line.end();
        kept.lines.push_back(line);
        while kept.high - kept.low > self.budget && kept.lines.len() > 1 {
            if let Some(gone) = kept.lines.pop_front() {
                kept.low = gone.end();
            }
        }
        drop(kept);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Ends all followers.
    pub(crate) fn remove(&self) {
        self.kept().removed = true;
        self.changes.send_modify(|count| *count += 1);
    }

    /// The last lines as text, each cut at [`LogLine::MAX_BYTES`].
    pub(crate) fn tail(&self, lines: usize) -> Vec<String> {
        let kept = self.kept();
        let skip = kept.lines.len().saturating_sub(lines);
        let text = |line: &Line| {
            let cut = line.bytes.len().min(LogLine::MAX_BYTES);
            String::from_utf8_lossy(&line.bytes[..cut]).into_owned()
        };
        kept.lines.iter().skip(skip).map(text).collect()
    }

    /// The log from `cursor` on.
    pub(crate) fn follow(self: &Arc<Self>, cursor: &LogCursor) -> Result<LogStream> {
        let offset = self.find(cursor)?;
        let state = (Arc::clone(self), offset, self.changes.subscribe());
        Ok(Box::pin(futures::stream::unfold(
            state,
            |state| async move {
                let (log, offset, mut changes) = state;
                loop {
                    changes.mark_unchanged();
                    if let Some((item, next)) = log.read(offset) {
                        return Some((Ok(item), (log, next, changes)));
                    }
                    if log.kept().removed {
                        return None;
                    }
                    // The sender lives as long as the log, which is held here.
                    changes.changed().await.ok()?;
                }
            },
        )))
    }

    fn find(&self, cursor: &LogCursor) -> Result<u64> {
        let kept = self.kept();
        let start_of = |line: Option<&Line>| line.map_or(kept.high, |l| l.start);
        Ok(match cursor {
            LogCursor::Start => kept.low,
            LogCursor::End => kept.high,
            LogCursor::Tail(lines) => {
                start_of(kept.lines.get(kept.lines.len().saturating_sub(*lines)))
            }
            LogCursor::Since(time) => start_of(kept.lines.iter().find(|l| l.at >= *time)),
            LogCursor::After(position) => {
                let parsed = position.as_str().split_once(':');
                let offset = parsed.and_then(|(uid, offset)| {
                    let offset: u64 = offset.parse().ok()?;
                    (uid == self.uid.as_str() && offset <= kept.high).then_some(offset)
                });
                offset.ok_or_else(|| {
                    Error::new(
                        ErrorKind::InvalidConfig,
                        "the log position is not one of this node's",
                    )
                    .with_hint("Begin with `start`, or with a position of this node's log.")
                })?
            }
        })
    }

    fn position(&self, offset: u64) -> LogPosition {
        LogPosition::new(format!("{}:{offset}", self.uid))
    }

    /// What stands at `offset`, and the offset behind it; `None` at the end.
    fn read(&self, offset: u64) -> Option<(LogItem, u64)> {
        let kept = self.kept();
        if offset < kept.low {
            let gap = LogItem::Gap {
                from: self.position(offset),
                to: self.position(kept.low),
                reason: "the log was longer than its budget".to_owned(),
            };
            return Some((gap, kept.low));
        }
        let index = kept.lines.partition_point(|line| line.end() <= offset);
        let line = kept.lines.get(index)?;
        let from = usize::try_from(offset - line.start).unwrap_or(usize::MAX);
        let rest = line.bytes.slice(from.min(line.bytes.len())..);
        let partial = rest.len() > LogLine::MAX_BYTES;
        let bytes = rest.slice(..rest.len().min(LogLine::MAX_BYTES));
        let next = if partial {
            offset + bytes.len() as u64
        } else {
            line.end()
        };
        let item = LogItem::Line(LogLine {
            position: self.position(next),
            at: Some(line.at),
            source: line.source,
            bytes,
            partial,
        });
        Some((item, next))
    }
}
