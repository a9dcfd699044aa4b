//! Pure: where in what is read the reading is to begin.

use grid_platform_api::Timestamp;

use super::{lines::Piece, position::Place};

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// With the first line.
    First,
    /// With the first line of this time or later.
    Since(Timestamp),
    /// Behind this place.
    Behind(Place),
}

/// Lets pass what is behind the place to begin with.
pub(super) struct Seek {
    from: From,
    found: bool,
    missed: bool,
}

impl Seek {
    pub(super) fn new(from: From) -> Self {
        Self {
            from,
            found: from == From::First,
            missed: false,
        }
    }

    /// Whether the place has been found.
    pub(super) fn is_found(&self) -> bool {
        self.found
    }

    /// Whether a line came that is later than the place though the place had not come: it will not come, unless the clock was put back.
    pub(super) fn is_missed(&self) -> bool {
        self.missed && !self.found
    }

    /// Gives what of a piece is behind the place, if it is.
    pub(super) fn pass(&mut self, piece: Piece) -> Option<Piece> {
        if self.found {
            return Some(piece);
        }
        match self.from {
            From::First => Some(piece),
            From::Since(time) => {
                self.found = piece.line.at >= time;
                self.found.then_some(piece)
            }
            From::Behind(place) if piece.line == place.line => self.pass_within(place, piece),
            From::Behind(place) => {
                self.missed |= piece.line.at > place.line.at
                    || piece.line.at == place.line.at && piece.line.ordinal > place.line.ordinal;
                None
            }
        }
    }

    fn pass_within(&mut self, place: Place, mut piece: Piece) -> Option<Piece> {
        let Some(offset) = place.offset else {
            self.found = piece.ended;
            return None;
        };
        let end = piece.end();
        self.found = piece.ended || end > offset;
        if !self.found || end < offset {
            return None;
        }
        let skip = usize::try_from(offset.saturating_sub(piece.offset)).unwrap_or(usize::MAX);
        let skip = skip.min(piece.bytes.len());
        piece.bytes = piece.bytes.slice(skip..);
        piece.offset += skip as u64;
        // The reader was told that the line goes on, so that its end is told, too.
        Some(piece)
    }

    /// Looks at what there is of a line whose end has not come, without letting it pass.
    pub(super) fn touch(&mut self, piece: &Piece) {
        if let From::Behind(place) = self.from {
            self.found |= piece.line == place.line;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::logs::lines::LineKey;

    fn key(at: i64, ordinal: u64) -> LineKey {
        let at = Timestamp::from_nanosecond(at.into()).unwrap();
        LineKey { at, ordinal }
    }

    fn piece(at: i64, ordinal: u64, offset: u64, text: &'static str, ended: bool) -> Piece {
        Piece {
            line: key(at, ordinal),
            offset,
            bytes: Bytes::from_static(text.as_bytes()),
            ended,
        }
    }

    /// What passes of a log of three lines, one of them in two pieces and two of one time.
    fn passed(from: From) -> (Vec<(u64, String)>, bool, bool) {
        let mut seek = Seek::new(from);
        let log = [
            piece(10, 0, 0, "one", true),
            piece(20, 0, 0, "tw", false),
            piece(20, 0, 2, "o", true),
            piece(20, 1, 0, "", true),
        ];
        let passed = log.into_iter().filter_map(|it| seek.pass(it));
        let text = |it: Piece| (it.offset, String::from_utf8(it.bytes.to_vec()).unwrap());
        let passed = passed.map(text).collect();
        (passed, seek.is_found(), seek.is_missed())
    }

    #[test]
    fn what_is_behind_the_place_passes() {
        let check = |from, expect: &[(u64, &str)]| {
            let expect: Vec<_> = expect.iter().map(|(o, t)| (*o, (*t).to_owned())).collect();
            assert_eq!(passed(from), (expect, true, false), "{from:?}");
        };
        let all = [(0, "one"), (0, "tw"), (2, "o"), (0, "")];
        let since = |ns| From::Since(Timestamp::from_nanosecond(ns).unwrap());
        let within = |line, offset| {
            From::Behind(Place {
                line,
                offset: Some(offset),
            })
        };
        check(From::First, &all);
        check(since(10), &all);
        check(since(11), &all[1..]);
        check(From::Behind(Place::before(key(10, 0))), &all);
        check(From::Behind(Place::behind(key(10, 0))), &all[1..]);
        check(From::Behind(Place::before(key(20, 0))), &all[1..]);
        check(within(key(20, 0), 1), &[(1, "w"), (2, "o"), (0, "")]);
        check(within(key(20, 0), 2), &all[2..]);
        check(within(key(20, 0), 3), &[(3, ""), (0, "")]);
        check(within(key(20, 0), 9), &all[3..]);
        check(From::Behind(Place::behind(key(20, 0))), &all[3..]);
        check(From::Behind(Place::before(key(20, 1))), &all[3..]);
        check(From::Behind(Place::behind(key(20, 1))), &[]);
    }

    #[test]
    fn a_place_that_does_not_come_is_missed_by_a_later_line() {
        let check = |at, ordinal, missed| {
            let from = From::Behind(Place::behind(key(at, ordinal)));
            assert_eq!(passed(from), (vec![], false, missed), "{at} {ordinal}");
        };
        check(9, 0, true);
        check(10, 1, true);
        check(15, 0, true);
        check(20, 2, false);
        check(21, 0, false);
    }

    #[test]
    fn a_line_without_its_end_is_found_at_the_logs_end() {
        let mut seek = Seek::new(From::Behind(Place::behind(key(10, 0))));
        seek.touch(&piece(9, 0, 0, "x", false));
        assert!(!seek.is_found());
        seek.touch(&piece(10, 0, 0, "x", false));
        assert!(seek.is_found());
    }
}
