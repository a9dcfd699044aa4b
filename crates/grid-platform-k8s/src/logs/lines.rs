//! Pure: what the API sends as the lines of a log.
//!
//! It sends what the host's runtime kept: entries, each behind the time at which it was written. An entry of a whole line ends with a
//! line feed. A line longer than [`ENTRY`] is several entries without line feeds between them, and whether each of these has a time
//! before it depends on the kubelet: up to 1.24 each has, in the middle of the text; later ones put it before the first one alone. What has
//! no time where a line begins is none of the program's: the kubelet's own words, or the rest of a line whose beginning was not asked for.

use bytes::{Bytes, BytesMut};
use grid_platform_api::{LogLine, Timestamp};

/// The longest entry of the runtimes (containerd's `max_container_log_line_size`), in bytes.
const ENTRY: usize = 16 * 1024;

/// Which line of a pod's log it is: the times of lines may be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineKey {
    /// When its first entry was written, by the host's clock.
    pub(super) at: Timestamp,
    /// Which one of those of this time that stand one behind the other.
    pub(super) ordinal: u64,
}

/// A piece of a line, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) line: LineKey,
    /// How many bytes of the line are before it.
    pub(super) offset: u64,
    /// Without the line's end.
    pub(super) bytes: Bytes,
    /// It ends its line.
    pub(super) ended: bool,
}

impl Piece {
    /// How many bytes of the line are before its end.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// Takes apart what comes. It holds one piece at most, and what came with it.
#[derive(Default)]
pub(super) struct Lines {
    input: BytesMut,
    within: Within,
    /// The line that was begun last.
    last: Option<LineKey>,
    /// The piece that is being put together.
    piece: BytesMut,
    offset: u64,
    /// How many bytes of the entry are before the next one.
    entry: usize,
    /// Nothing comes any more.
    closed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Within {
    /// Before a line.
    #[default]
    Nothing,
    /// In a line.
    Line(LineKey),
    /// In a line that is none of the program's.
    Words,
}

impl Lines {
    /// Takes what comes next.
    pub(super) fn feed(&mut self, bytes: &[u8], mut out: impl FnMut(Piece)) {
        self.input.extend_from_slice(bytes);
        while self.step(&mut out) {}
    }

    /// Whether there is something of a line whose end has not come.
    pub(super) fn is_unended(&self) -> bool {
        !self.piece.is_empty()
    }

    /// What there is of a line whose end has not come.
    pub(super) fn take_unended(&mut self) -> Option<Piece> {
        let Within::Line(line) = self.within else {
            return None;
        };
        self.is_unended().then(|| self.cut(line, false))
    }

    /// All has come: what there is of a line without an end, even if all of it was taken before.
    pub(super) fn close(mut self, mut out: impl FnMut(Piece)) -> Option<Piece> {
        self.closed = true;
        while self.step(&mut out) {}
        match self.within {
            Within::Line(line) => Some(self.cut(line, false)),
            Within::Nothing | Within::Words => None,
        }
    }

    /// One step of taking apart; `false` when more has to come first.
    fn step(&mut self, out: &mut impl FnMut(Piece)) -> bool {
        match self.within {
            Within::Nothing => match stamp(&self.input) {
                Stamp::Is(at, length) => {
                    let ordinal = match self.last {
                        Some(last) if last.at == at => last.ordinal + 1,
                        _ => 0,
                    };
                    let line = LineKey { at, ordinal };
                    (self.within, self.last) = (Within::Line(line), Some(line));
                    (self.offset, self.entry) = (0, 0);
                    self.skip(length);
                    true
                }
                Stamp::Beginning => false,
                Stamp::No => {
                    self.within = Within::Words;
                    true
                }
            },
            Within::Words => match self.input.iter().position(|it| *it == b'\n') {
                Some(end) => {
                    self.skip(end + 1);
                    self.within = Within::Nothing;
                    true
                }
                None => {
                    self.input.clear();
                    false
                }
            },
            Within::Line(line) => self.step_line(line, out),
        }
    }

    fn step_line(&mut self, line: LineKey, out: &mut impl FnMut(Piece)) -> bool {
        if self.entry == ENTRY {
            match stamp(&self.input) {
                Stamp::Beginning if !self.closed => return false,
                Stamp::Is(_, length) => self.skip(length),
                Stamp::Beginning | Stamp::No => {}
            }
            self.entry = 0;
        }
        if self.input.is_empty() {
            return false;
        }
        let max = LogLine::MAX_BYTES;
        // Pieces are cut at the same places wherever reading began.
        let before = usize::try_from(self.offset % max as u64).unwrap_or(0);
        let room = max - before - self.piece.len();
        let near = self.input.len().min(room + 1).min(ENTRY - self.entry + 1);
        let found = self.input[..near].iter().position(|it| *it == b'\n');
        match found {
            Some(end) => {
                self.piece.extend_from_slice(&self.input[..end]);
                self.skip(end + 1);
                out(self.cut(line, true));
                self.within = Within::Nothing;
            }
            // What comes next is no line's end, so that the line goes on behind the piece.
            None if room == 0 => out(self.cut(line, false)),
            None => {
                let length = near.min(room).min(ENTRY - self.entry);
                self.piece.extend_from_slice(&self.input[..length]);
                self.skip(length);
                self.entry += length;
            }
        }
        true
    }

    fn cut(&mut self, line: LineKey, ended: bool) -> Piece {
        let piece = Piece {
            line,
            offset: self.offset,
            bytes: self.piece.split().freeze(),
            ended,
        };
        self.offset = piece.end();
        piece
    }

    fn skip(&mut self, length: usize) {
        drop(self.input.split_to(length));
    }
}

enum Stamp {
    /// A time, and how many bytes it and the space behind it are.
    Is(Timestamp, usize),
    /// It may become one.
    Beginning,
    No,
}

/// The time with which an entry begins: `2026-01-02T03:04:05.123456789Z `, with any digits of a second and in any zone.
fn stamp(input: &[u8]) -> Stamp {
    let mut at = 0;
    let mut take = |shape: &[u8]| -> Option<Stamp> {
        for expected in shape {
            match (expected, input.get(at)) {
                (_, None) => return Some(Stamp::Beginning),
                (b'0', Some(found)) if found.is_ascii_digit() => {}
                (expected, Some(found)) if expected == found => {}
                _ => return Some(Stamp::No),
            }
            at += 1;
        }
        None
    };
    if let Some(other) = take(b"0000-00-00T00:00:00") {
        return other;
    }
    let mut shape: &[u8] = b"";
    if input.get(19) == Some(&b'.') {
        let digits = input[20..].iter().take_while(|it| it.is_ascii_digit());
        shape = match digits.count() {
            0 => b".0",
            count @ 1..=9 => &b".000000000"[..=count],
            _ => return Stamp::No,
        };
    }
    if let Some(other) = take(shape) {
        return other;
    }
    let zone: &[u8] = match input.get(19 + shape.len()) {
        Some(b'+') => b"+00:00 ",
        Some(b'-') => b"-00:00 ",
        _ => b"Z ",
    };
    if let Some(other) = take(zone) {
        return other;
    }
    let text = std::str::from_utf8(&input[..at - 1]).unwrap_or_default();
    match text.parse() {
        Ok(time) => Stamp::Is(time, at),
        Err(_) => Stamp::No,
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
