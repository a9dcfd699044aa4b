//! The log file by logical offsets.

use std::{fs::File, io, os::unix::fs::FileExt};

use grid_platform_api::LogLine;

use super::lines::{Piece, Splitter};
use crate::{store::NodeDir, sys::files};

/// How much is read at once.
pub(super) const CHUNK: usize = 64 * 1024;
const INDEX_MAX: usize = 4 * 1024 * 1024;
const INDEX_ENTRY: usize = 16;

/// Which part of a log is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// The logical offset of the first kept byte.
    pub(super) low: u64,
    /// The logical offset of the file's first byte.
    pub(super) base: u64,
}

/// A node's open log.
pub(super) struct LogFile {
    file: File,
    dir: NodeDir,
}

/// What a read found.
pub(super) enum Read {
    /// Bytes from the asked offset on; none at the end.
    Bytes(usize),
    /// What was asked for is gone; this is kept.
    Gone(Marks),
}

impl LogFile {
    pub(super) fn open(dir: NodeDir) -> io::Result<Self> {
        let file = files::open_at(dir.fd(), "log")?;
        Ok(Self { file, dir })
    }

    fn marks(&self) -> Marks {
        self.dir
            .read_record()
            .map(|it| Marks {
                low: it.record.log_low.max(it.record.log_base),
                base: it.record.log_base,
            })
            .unwrap_or_default()
    }

    /// The first kept byte's offset.
    pub(super) fn low(&self) -> u64 {
        self.marks().low
    }

    /// The offset behind the last byte.
    pub(super) fn end(&self) -> io::Result<u64> {
        Ok(self.marks().base + self.file.metadata()?.len())
    }

    /// Reads at an offset. What is given is what the program wrote there: the low mark is durable before anything is
    /// taken away, and it is looked at after the read.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<Read> {
        let before = self.marks();
        if offset < before.low {
            return Ok(Read::Gone(before));
        }
        let read = loop {
            match self.file.read_at(buffer, offset - before.base) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        let after = self.marks();
        if offset < after.low || after.base != before.base {
            return Ok(Read::Gone(after));
        }
        Ok(Read::Bytes(read))
    }

    /// The beginning of the first whole line at or behind `offset`, which lies behind something that is gone. A line of
    /// more than a chunk is begun where it is kept.
    pub(super) fn line_start(&self, offset: u64) -> io::Result<u64> {
        let mut buffer = vec![0; CHUNK];
        match self.read(offset, &mut buffer)? {
            Read::Bytes(read) => {
                let text = buffer.get(..read).unwrap_or_default();
                let at = text.iter().position(|byte| *byte == b'\n');
                Ok(offset + at.map_or(0, |at| at as u64 + 1))
            }
            Read::Gone(marks) => Ok(marks.low),
        }
    }

    /// Where the last lines begin. What is not ended yet is a line.
    pub(super) fn tail_start(&self, from: u64, lines: usize) -> io::Result<u64> {
        let end = self.end()?;
        if lines == 0 {
            return Ok(end);
        }
        let mut buffer = vec![0; CHUNK];
        let (mut at, mut seen) = (end, 0_usize);
        while at > from {
            let len = usize::try_from(at - from).unwrap_or(CHUNK).min(CHUNK);
            let start = at - len as u64;
            let Some(part) = buffer.get_mut(..len) else {
                break;
            };
            let read = match self.read(start, part)? {
                Read::Bytes(read) => read,
                // The rest went away while it was read.
                Read::Gone(marks) => return self.line_start(marks.low),
            };
            let part = part.get(..read).unwrap_or_default();
            for (index, byte) in part.iter().enumerate().rev() {
                let behind = start + index as u64 + 1;
                // The last byte of all ends a line and begins none.
                if *byte == b'\n' && behind != end {
                    seen += 1;
                    if seen == lines {
                        return Ok(behind);
                    }
                }
            }
            at = start;
        }
        if from > 0 && from == self.low() {
            return self.line_start(from);
        }
        Ok(from)
    }

    /// The last lines behind `from`, as text; each is cut at the longest piece of a line.
    pub(super) fn tail(&self, from: u64, lines: usize) -> io::Result<Vec<String>> {
        let end = self.end()?;
        let mut at = self.tail_start(from, lines)?;
        let mut out = Vec::new();
        let mut splitter = Splitter::default();
        let mut within = false;
        let mut take = |piece: Piece| {
            // The pieces of a long line behind its first one are left out.
            if !within {
                out.push(String::from_utf8_lossy(&piece.bytes).into_owned());
            }
            within = piece.partial;
        };
        let mut buffer = vec![0; CHUNK];
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let Some(part) = buffer.get_mut(..len) else {
                break;
            };
            match self.read(at, part)? {
                Read::Bytes(0) => break,
                Read::Bytes(read) => {
                    let part = part.get(..read).unwrap_or_default();
                    splitter.feed(part, LogLine::MAX_BYTES, &mut take);
                    at += read as u64;
                }
                Read::Gone(marks) => {
                    splitter = Splitter::default();
                    at = self.line_start(marks.low)?.max(at);
                }
            }
        }
        if let Some(piece) = splitter.rest() {
            take(piece);
        }
        // What was written in between may have made them more.
        let surplus = out.len().saturating_sub(lines);
        out.drain(..surplus);
        Ok(out)
    }

    /// Where to begin for lines written at `ms` or later: at most some lines too early.
    pub(super) fn since(&self, ms: i64) -> io::Result<u64> {
        let index = match files::read_at(self.dir.fd(), "log.index", INDEX_MAX) {
            Ok(index) => index,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(self.low()),
            Err(e) => return Err(e),
        };
        let offset = before(&index, ms).min(self.end()?);
        let marks = self.marks();
        if offset <= marks.low {
            return if marks.low > 0 {
                self.line_start(marks.low)
            } else {
                Ok(0)
            };
        }
        // An entry may lie within a line: back to its beginning.
        let len = usize::try_from(offset - marks.low)
            .unwrap_or(CHUNK)
            .min(CHUNK);
        let mut buffer = vec![0; len];
        let start = offset - len as u64;
        Ok(match self.read(start, &mut buffer)? {
            Read::Bytes(read) => buffer
                .get(..read)
                .and_then(|it| it.iter().rposition(|byte| *byte == b'\n'))
                .map_or(start, |at| start + at as u64 + 1),
            Read::Gone(marks) => self.line_start(marks.low)?,
        })
    }
}

/// The offset of the last entry that is not later than `ms`; 0 when all are.
fn before(index: &[u8], ms: i64) -> u64 {
    let number = |entry: &[u8], at: usize| {
        entry
            .get(at..at + 8)
            .and_then(|it| it.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let ms = u64::try_from(ms).unwrap_or(0);
    index
        .chunks_exact(INDEX_ENTRY)
        .rev()
        .find(|entry| number(entry, 0) <= ms)
        .map_or(0, |entry| number(entry, 8))
}

#[cfg(test)]
mod tests {
    use grid_platform_api::NodeId;

    use super::*;
    use crate::shared::record::Record;

    struct Ground {
        dir: tempfile::TempDir,
        log: LogFile,
    }

    fn ground(text: &[u8]) -> Ground {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("sutra-grid-a");
        std::fs::create_dir(&node).unwrap();
        std::fs::write(node.join("log"), text).unwrap();
        let nodes = files::open_dir(dir.path()).unwrap();
        let log = LogFile::open(NodeDir::open(nodes, &NodeId::new("a").unwrap()).unwrap()).unwrap();
        Ground { dir, log }
    }

    impl Ground {
        fn set_low(&self, log_low: u64) {
            let record = Record {
                log_low,
                ..Record::default()
            };
            let (_, slot) = record.encode(2).unwrap();
            std::fs::write(self.dir.path().join("sutra-grid-a/record"), slot).unwrap();
        }
    }

    #[test]
    fn tails() {
        let check = |text: &str, lines: usize, expect: &[&str]| {
            let got = ground(text.as_bytes()).log.tail(0, lines).unwrap();
            assert_eq!(got, expect, "{text:?} {lines}");
        };
        check("", 3, &[]);
        check("a\nb\nc\n", 0, &[]);
        check("a\nb\nc\n", 2, &["b", "c"]);
        check("a\nb\nc\n", 9, &["a", "b", "c"]);
        check("a\nb\nc", 2, &["b", "c"]);
        check("\n\n\n", 2, &["", ""]);
        check("a\r\nb\r\n", 1, &["b\r"]);
    }

    #[test]
    fn long_lines_are_cut_and_counted_once() {
        let long = "x".repeat(3 * LogLine::MAX_BYTES + 5);
        let ground = ground(format!("first\n{long}\nlast\n").as_bytes());
        let got = ground.log.tail(0, 2).unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].len(), LogLine::MAX_BYTES);
        assert_eq!(got[1], "last");
        assert_eq!(ground.log.tail(0, 3).unwrap()[0], "first");
    }

    #[test]
    fn binary_output_is_text_all_the_same() {
        let got = ground(b"a\xff\0b\n").log.tail(0, 1).unwrap();
        assert_eq!(got, ["a\u{fffd}\0b"]);
    }

    #[test]
    fn what_is_below_the_mark_is_not_read() {
        let ground = ground(b"aaaa\nbbbb\ncccc\n");
        ground.set_low(7);
        let low = ground.log.low();
        assert_eq!(ground.log.tail(low, 9).unwrap(), ["cccc"]);
        let mut buffer = [0; 4];
        assert!(matches!(ground.log.read(6, &mut buffer).unwrap(), Read::Gone(it) if it.low == 7));
        assert!(matches!(
            ground.log.read(7, &mut buffer).unwrap(),
            Read::Bytes(4)
        ));
    }

    #[test]
    fn the_index_leads_before_the_time() {
        let entries: Vec<u8> = [(100_u64, 3_u64), (200, 10), (300, 11)]
            .iter()
            .flat_map(|(t, o)| [t.to_le_bytes(), o.to_le_bytes()].concat())
            .collect();
        let ground = ground(b"aaaa\nbbbb\ncccc\n");
        std::fs::write(ground.dir.path().join("sutra-grid-a/log.index"), entries).unwrap();
        let check =
            |ms: i64, expect: u64| assert_eq!(ground.log.since(ms).unwrap(), expect, "{ms}");
        check(50, 0);
        check(150, 0);
        check(200, 10);
        check(999, 10);
    }
}
