//! Pure: one reading of a log, from its entries to the pieces of lines that are handed out, from a place on.
//!
//! Lines are handed out in the order in which they began, so that a place says what was handed out of both outputs: every line
//! that began before it, and none that began behind it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use grid_platform_api::{LogLine, LogSource, Timestamp};

use super::{
    cursor::Place,
    frames::Entry,
    walk::{Begin, LineKey, Walk},
};

/// What was seen of a log, to see later whether there is more.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Marks of the last entries.
    last: VecDeque<u64>,
    /// The mark of the first one that was read, and how many were.
    first: Option<u64>,
    entries: u64,
}

impl Seen {
    /// Whether an entry that is heard is the one that was seen: the `heard`th of the last ones, or of all.
    pub(super) fn has(&self, whole: bool, heard: u64, mark: u64) -> bool {
        match (whole, heard) {
            (true, 0) => self.first == Some(mark),
            (true, heard) => heard < self.entries,
            (false, heard) => usize::try_from(heard)
                .ok()
                .and_then(|at| self.last.get(at))
                .is_some_and(|it| *it == mark),
        }
    }
}

/// How many entries are remembered to see later whether there are more.
pub(super) const RECENT: usize = 8;

/// Where the lines begin that are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// With the first that is read.
    Beginning,
    /// With the first one of this time or later.
    Since(Timestamp),
    /// Behind this place.
    Behind(Place),
    /// Behind this place, in a log of which rotation may have taken lines of the same time: the place's line is known by
    /// itself alone.
    NearlyBehind(Place),
    /// With none.
    Nowhere,
}

/// A line or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The place behind it.
    pub(super) place: Place,
    pub(super) at: Timestamp,
    pub(super) source: LogSource,
    pub(super) bytes: Bytes,
    /// The line goes on.
    pub(super) partial: bool,
    /// What it is the first piece of begins with this entry of the reading.
    pub(super) entry: u64,
}

struct Line {
    number: u64,
    key: LineKey,
    source: LogSource,
    entry: u64,
    /// How many of its bytes were handed out before.
    skip: u64,
    given: u64,
    held: BytesMut,
    done: bool,
}

/// One reading of a log.
pub(super) struct Reader {
    walk: Walk,
    from: Origin,
    /// What is read now is handed out.
    speaks: bool,
    lines: VecDeque<Line>,
    seen: Seen,
    /// The lines that began last, so many as were asked for.
    begun: VecDeque<Begin>,
    keep: usize,
    /// How many lines of the first time are the place's line by themselves.
    near: u32,
}

impl Reader {
    /// `whole` says that it begins with the oldest entry that there is; `keep`, how many beginnings of lines are remembered.
    pub(super) fn new(from: Origin, whole: bool, keep: usize) -> Self {
        Self {
            walk: Walk::new(whole),
            speaks: from == Origin::Beginning,
            from,
            lines: VecDeque::new(),
            seen: Seen::default(),
            begun: VecDeque::new(),
            keep,
            near: 0,
        }
    }

    /// How many entries were read.
    pub(super) fn entries(&self) -> u64 {
        self.seen.entries
    }

    /// Whether the place was found from which on lines are handed out.
    pub(super) fn is_found(&self) -> bool {
        self.speaks
    }

    /// Whether the place's line may be one of the first, and no other can be meant.
    pub(super) fn is_near(&self) -> bool {
        self.near == 1
    }

    /// What was read.
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The lines that began last, oldest first.
    pub(super) fn begun(&self) -> &VecDeque<Begin> {
        &self.begun
    }

    /// Takes in an entry; each piece that is complete is given to `out`.
    pub(super) fn feed(&mut self, entry: &Entry, mut out: impl FnMut(Piece)) {
        let role = self.walk.step(entry);
        let seen = &mut self.seen;
        if seen.last.len() == RECENT {
            seen.last.pop_front();
        }
        seen.last.push_back(role.mark);
        seen.first.get_or_insert(role.mark);
        seen.entries += 1;
        for line in &mut self.lines {
            line.done |= role.closed.contains(&line.number);
        }
        if let Some(begin) = role.begins {
            self.begin(begin, role.line, entry.source);
        }
        let line = self
            .lines
            .iter_mut()
            .rev()
            .find(|it| it.number == role.line);
        if let Some(line) = line {
            line.take(&entry.bytes);
            line.done |= entry.ended;
        }
        self.give(&mut out);
    }

    fn begin(&mut self, begin: Begin, number: u64, source: LogSource) {
        if self.keep > 0 {
            if self.begun.len() == self.keep {
                self.begun.pop_front();
            }
            self.begun.push_back(begin);
        }
        let key = begin.key;
        let mut line = Line {
            number,
            key,
            source,
            entry: self.walk.entries,
            skip: 0,
            given: 0,
            held: BytesMut::new(),
            done: false,
        };
        if self.speaks {
            self.lines.push_back(line);
            return;
        }
        match self.from {
            Origin::Beginning | Origin::Nowhere => {}
            Origin::Since(time) => {
                if key.at >= time {
                    self.speaks = true;
                    self.lines.push_back(line);
                }
            }
            Origin::Behind(place) | Origin::NearlyBehind(place) => {
                let alone = begin.first_run && key.at == place.line.at && key.own == place.line.own;
                self.near += u32::from(alone);
                // What began before it and goes on behind it has to be known, too.
                let exact = key == place.line && begin.sure && self.walk.is_warm();
                if exact || alone && matches!(self.from, Origin::NearlyBehind(_)) {
                    self.speaks = true;
                    if let Some(offset) = place.offset {
                        line.skip = offset;
                        self.lines.push_back(line);
                    }
                }
            }
        }
    }

    fn give(&mut self, out: &mut impl FnMut(Piece)) {
        while let Some(line) = self.lines.front_mut() {
            while line.held.len() > LogLine::MAX_BYTES {
                out(line.piece(LogLine::MAX_BYTES, true));
            }
            if !line.done {
                break;
            }
            out(line.piece(line.held.len(), false));
            self.lines.pop_front();
        }
    }

    /// The line that is not ended, and how much of it waits for its end.
    pub(super) fn unended(&self) -> Option<Place> {
        let line = self.lines.front().filter(|it| !it.held.is_empty())?;
        Some(Place {
            line: line.key,
            offset: Some(line.given + line.held.len() as u64),
        })
    }

    /// Hands out what there is of the line that is not ended.
    pub(super) fn give_unended(&mut self, out: impl FnOnce(Piece)) {
        if let Some(line) = self.lines.front_mut().filter(|it| !it.held.is_empty()) {
            out(line.piece(line.held.len(), true));
        }
    }

    /// Nobody writes: what has no end will have none.
    pub(super) fn close(&mut self, mut out: impl FnMut(Piece)) {
        for line in &mut self.lines {
            line.done = true;
        }
        self.give(&mut out);
    }
}

impl Line {
    fn take(&mut self, bytes: &Bytes) {
        let passed = usize::try_from(self.skip).map_or(bytes.len(), |it| it.min(bytes.len()));
        self.skip -= passed as u64;
        self.given += passed as u64;
        self.held
            .extend_from_slice(bytes.get(passed..).unwrap_or_default());
    }

    fn piece(&mut self, len: usize, partial: bool) -> Piece {
        self.given += len as u64;
        Piece {
            place: Place {
                line: self.key,
                offset: partial.then_some(self.given),
            },
            at: self.key.at,
            source: self.source,
            bytes: self.held.split_to(len).freeze(),
            partial,
            entry: self.entry,
        }
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
