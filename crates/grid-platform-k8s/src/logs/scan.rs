//! The last lines of a log, from its end.
//!
//! The API counts entries, of which a long line has several, and what it gives of the last ones may begin in the middle of a line. So
//! some more are asked for than are wanted, and the whole log when these were too few.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt;
use grid_platform_api::NodeId;

use super::{
    lines::{LineKey, Lines, Piece},
    source::{Ask, OfLog, Source},
};
use crate::error::Fault;

/// How many more entries than lines are asked for at first, and of how many more then.
const MORE: [u64; 2] = [128, 4096];

/// A line of those that are kept.
pub(super) struct Kept {
    pub(super) line: LineKey,
    /// Its first piece.
    pub(super) bytes: Bytes,
    /// How long it is.
    pub(super) length: u64,
    /// Its end has come.
    pub(super) ended: bool,
    /// Nothing of it is missing.
    whole: bool,
    /// Its key is the one that it has when all of the log is read.
    sure: bool,
}

/// The last lines of one run's log.
pub(super) struct Scan {
    /// Oldest first.
    pub(super) lines: VecDeque<Kept>,
    /// There are no more.
    pub(super) is_all: bool,
}

/// Reads the last `keep` lines; `None` when there is no such log. It holds no more of them than it returns.
pub(super) async fn last<S: Source + ?Sized>(
    source: &S,
    id: &NodeId,
    previous: bool,
    keep: usize,
) -> Result<Option<Scan>, Fault> {
    let wanted = u64::try_from(keep).unwrap_or(u64::MAX);
    let limit = i64::MAX.unsigned_abs();
    let more = |more| wanted.checked_add(more).filter(|it| *it <= limit);
    for window in [more(MORE[0]), more(MORE[1]), None] {
        let ask = Ask {
            previous,
            tail: window,
            ..Ask::default()
        };
        let Some(lines) = read(source, id, ask, keep).await? else {
            return Ok(None);
        };
        let is_enough = |first: &Kept| lines.len() == keep && first.whole && first.sure;
        if window.is_none() || keep > 0 && lines.front().is_some_and(is_enough) {
            return Ok(Some(Scan {
                is_all: window.is_none() && lines.len() < keep,
                lines,
            }));
        }
    }
    Ok(None)
}

/// The last entry of the present run's log, by one call; `None` when there is none.
pub(super) async fn last_entry<S: Source + ?Sized>(
    source: &S,
    id: &NodeId,
) -> Result<Option<Bytes>, Fault> {
    let ask = Ask {
        tail: Some(1),
        ..Ask::default()
    };
    let lines = read(source, id, ask, 1).await?;
    Ok(lines.and_then(|mut it| it.pop_back()).map(|it| it.bytes))
}

async fn read<S: Source + ?Sized>(
    source: &S,
    id: &NodeId,
    ask: Ask,
    keep: usize,
) -> Result<Option<VecDeque<Kept>>, Fault> {
    let mut body = match source.open(id, ask).await {
        Ok(body) => body,
        Err(fault) if fault.is_absent() => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let mut ring = Ring {
        keep,
        kept: VecDeque::new(),
        within: false,
        is_cut: ask.tail.is_some(),
        first: None,
        sure: ask.tail.is_none(),
    };
    let mut lines = Lines::default();
    while let Some(chunk) = body.next().await {
        lines.feed(&chunk?, |piece| ring.take(piece));
    }
    if let Some(piece) = lines.close(|piece| ring.take(piece)) {
        ring.take(piece);
    }
    Ok(Some(ring.kept))
}

struct Ring {
    keep: usize,
    kept: VecDeque<Kept>,
    /// The next piece goes on with the last line.
    within: bool,
    /// What is read may begin in the middle of a line.
    is_cut: bool,
    /// The time of the first line.
    first: Option<LineKey>,
    /// A line of another time than the first one's has come.
    sure: bool,
}

impl Ring {
    fn take(&mut self, piece: Piece) {
        if self.within {
            if let Some(last) = self.kept.back_mut() {
                (last.length, last.ended) = (piece.end(), piece.ended);
            }
        } else {
            let is_first = self.first.is_none();
            let first = *self.first.get_or_insert(piece.line);
            self.sure |= first.at != piece.line.at;
            if self.kept.len() >= self.keep {
                self.kept.pop_front();
            }
            if self.keep > 0 {
                self.kept.push_back(Kept {
                    line: piece.line,
                    length: piece.end(),
                    ended: piece.ended,
                    bytes: piece.bytes,
                    whole: !(is_first && self.is_cut),
                    sure: self.sure,
                });
            }
        }
        self.within = !piece.ended;
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
