//! The last lines of a log.

use std::collections::VecDeque;

use bytes::Bytes;
use grid_platform_api::Timestamp;

use super::{
    reader::{Origin, Piece, Reader},
    source::{Log, Window},
    walk::JOIN,
};
use crate::error::Fault;

/// The last lines as text, each cut at the longest piece of a line; those before `since` left out. It holds no more than it
/// returns.
pub(super) async fn last(
    log: &Log,
    lines: usize,
    since: Option<Timestamp>,
) -> Result<Vec<String>, Fault> {
    if lines == 0 {
        return Ok(Vec::new());
    }
    let wanted = u64::try_from(lines).unwrap_or(u64::MAX);
    // A line of usual length is one entry. The first ones that are read may go on with a line whose beginning is not.
    let mut window = log.window(wanted.saturating_add(2 * JOIN));
    loop {
        let mut tail = Tail::new(lines);
        let mut reader = Reader::new(Origin::Beginning, true, 0);
        let mut source = log.read(window);
        while let Some(entry) = source.next().await? {
            reader.feed(&entry, |piece| tail.take(piece));
        }
        reader.close(|piece| tail.take(piece));
        let wider = match tail.kept.front() {
            Some(first) if tail.kept.len() == lines && first.entry > JOIN => None,
            _ => window.wider(reader.entries()),
        };
        match wider {
            // All that there is has been read.
            Some(Window::All) if matches!(window, Window::Last(it) if reader.entries() < it) => {}
            Some(wider) => {
                window = wider;
                continue;
            }
            None => {}
        }
        let is_late = |it: &Kept| since.is_none_or(|since| it.at >= log.told(since));
        let text = |it: Kept| String::from_utf8_lossy(&it.bytes).into_owned();
        return Ok(tail.kept.into_iter().filter(is_late).map(text).collect());
    }
}

struct Kept {
    at: Timestamp,
    bytes: Bytes,
    /// The number of its first entry.
    entry: u64,
}

struct Tail {
    lines: usize,
    kept: VecDeque<Kept>,
    /// The next piece goes on with the last one.
    within: bool,
}

impl Tail {
    fn new(lines: usize) -> Self {
        Self {
            lines,
            kept: VecDeque::new(),
            within: false,
        }
    }

    fn take(&mut self, piece: Piece) {
        // The pieces of a long line behind its first one are left out.
        if !self.within {
            if self.kept.len() == self.lines {
                self.kept.pop_front();
            }
            self.kept.push_back(Kept {
                at: piece.at,
                bytes: piece.bytes,
                entry: piece.entry,
            });
        }
        self.within = piece.partial;
    }
}
