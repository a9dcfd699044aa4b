//! Pure: bytes as lines.

use bytes::{Bytes, BytesMut};

/// A line or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// How many bytes of the log it stands for: its line's end, too.
    pub(super) len: u64,
    /// The line goes on.
    pub(super) partial: bool,
}

/// Cuts bytes into lines, holding no more than one piece.
#[derive(Default)]
pub(super) struct Splitter {
    held: BytesMut,
}

impl Splitter {
    /// Takes in bytes; each piece that is complete is given to `out`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], max: usize, mut out: impl FnMut(Piece)) {
        while !bytes.is_empty() {
            let room = max - self.held.len();
            // One more may be the end of a line that is as long as it may be.
            let window = bytes.get(..bytes.len().min(room + 1)).unwrap_or(bytes);
            if let Some(at) = window.iter().position(|byte| *byte == b'\n') {
                self.held
                    .extend_from_slice(window.get(..at).unwrap_or_default());
                let len = self.held.len() as u64 + 1;
                out(self.piece(len, false));
                bytes = bytes.get(at + 1..).unwrap_or_default();
            } else if window.len() > room {
                self.held
                    .extend_from_slice(window.get(..room).unwrap_or_default());
                let len = self.held.len() as u64;
                out(self.piece(len, true));
                bytes = bytes.get(room..).unwrap_or_default();
            } else {
                self.held.extend_from_slice(window);
                bytes = &[];
            }
        }
    }

    /// What is held of a line that is not ended.
    pub(super) fn rest(&mut self) -> Option<Piece> {
        let len = self.held.len() as u64;
        (len > 0).then(|| self.piece(len, true))
    }

    /// Whether part of a line is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn piece(&mut self, len: u64, partial: bool) -> Piece {
        Piece {
            bytes: self.held.split().freeze(),
            len,
            partial,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_come() {
        let check = |text: &str, expect: &[(&str, u64, bool)]| {
            for size in 1..=text.len().max(1) {
                let mut splitter = Splitter::default();
                let mut got = Vec::new();
                for part in text.as_bytes().chunks(size) {
                    splitter.feed(part, 4, |piece| got.push(piece));
                }
                got.extend(splitter.rest());
                let got: Vec<_> = got
                    .iter()
                    .map(|it| (std::str::from_utf8(&it.bytes).unwrap(), it.len, it.partial))
                    .collect();
                assert_eq!(got, expect, "{text:?} in parts of {size}");
                assert_eq!(got.iter().map(|it| it.1).sum::<u64>(), text.len() as u64);
            }
        };
        check("", &[]);
        check("a\nbc\n", &[("a", 2, false), ("bc", 3, false)]);
        check("\n\n", &[("", 1, false), ("", 1, false)]);
        check("abcd\n", &[("abcd", 5, false)]);
        check("abcde\n", &[("abcd", 4, true), ("e", 2, false)]);
        check("abcdefgh\n", &[("abcd", 4, true), ("efgh", 5, false)]);
        check("abc", &[("abc", 3, true)]);
    }
}
