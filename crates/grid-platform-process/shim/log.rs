//! The log file: looked at now and then, cut to its budget from below, indexed by time.

use crate::budget;
use crate::failure::{Failure, at, malformed};
use crate::shared::words::Stage;
use crate::sys;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

const FIRST_LOOK: Duration = Duration::from_millis(50);
const INDEX_EVERY: Duration = Duration::from_secs(1);

/// Where the kept part of the log lies, in logical offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The first kept byte.
    pub(crate) low: u64,
    /// Byte 0 of the file.
    pub(crate) base: u64,
}

/// The log of one node.
pub(crate) struct Log {
    file: File,
    budget: Option<u64>,
    size: u64,
    wait: Duration,
    next: Instant,
    index: Index,
}

impl Log {
    /// Opens or makes the log. `marks`: where a former record said it lies; the true ones are returned.
    pub(crate) fn open(budget: Option<u64>, marks: Option<Marks>) -> Result<(Log, Marks), Failure> {
        let file = append("log").map_err(at(Stage::Log))?;
        let meta = file.metadata().map_err(at(Stage::Log))?;
        if !meta.is_file() {
            return Err(malformed(Stage::Log));
        }
        let marks = marks.unwrap_or_else(|| Marks {
            low: sys::first_data(&file).unwrap_or(0),
            base: 0,
        });
        let low = marks.low.saturating_sub(marks.base);
        if meta.len() < low {
            // It lost its end: a power cut, or somebody's hand. What is left was dropped already, so new bytes begin at `low`.
            file.set_len(low).map_err(at(Stage::Log))?;
        }
        // A shim that died between its record and the hole left this undone.
        let _ = sys::punch_hole(&file, 0, low);
        let index = Index::open().map_err(at(Stage::Log))?;
        let now = Instant::now();
        Ok((
            Log {
                file,
                budget,
                size: meta.len().max(low),
                wait: FIRST_LOOK,
                next: now + FIRST_LOOK,
                index,
            },
            marks,
        ))
    }

    /// What the program writes to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// When to look next.
    pub(crate) fn due(&self) -> Instant {
        self.next
    }

    /// A program is about to write: look soon, and undo what the last one may have done to the description they share.
    pub(crate) fn expect_growth(&mut self) -> Result<(), Failure> {
        self.wait = FIRST_LOOK;
        self.next = Instant::now() + FIRST_LOOK;
        sys::set_append(&self.file).map_err(at(Stage::Log))
    }

    /// Looks at the log. New marks are to be made durable, then given to `drop_below`.
    pub(crate) fn look(&mut self, now: Instant, now_ms: u64, marks: Marks) -> Option<Marks> {
        let size = self.file.metadata().map_or(self.size, |it| it.len());
        let before = std::mem::replace(&mut self.size, size);
        self.wait = budget::pace(self.wait, size.saturating_sub(before), self.budget);
        self.next = now + self.wait;
        if size < before {
            // The program, or somebody, truncated its log. What was there is dropped; offsets go on.
            let end = marks.base + before;
            return Some(Marks {
                low: end,
                base: end,
            });
        }
        self.index.note(now, now_ms, marks.base + size, marks.low);
        let low = budget::cut(size, marks.low - marks.base, self.budget?)?;
        Some(Marks {
            low: marks.base + low,
            ..marks
        })
    }

    /// Gives back what lies between the former and the durable low mark. Marks that are returned are to be made durable too: holes cannot
    /// be punched here, and the file was emptied instead.
    pub(crate) fn drop_below(&mut self, former: Marks, durable: Marks) -> Option<Marks> {
        if former.base != durable.base {
            return None;
        }
        match sys::punch_hole(
            &self.file,
            former.low.saturating_sub(durable.base),
            durable.low - durable.base,
        ) {
            Err(error) if error.raw_os_error() == Some(sys::EOPNOTSUPP) => {
                let end = durable.base + self.file.metadata().ok()?.len();
                self.file.set_len(0).ok()?;
                self.size = 0;
                Some(Marks {
                    low: end,
                    base: end,
                })
            }
            // Anything else is tried again with the next cut.
            _ => None,
        }
    }
}

/// When which byte was written.
struct Index {
    file: File,
    len: usize,
    noted: u64,
    noted_at: Option<Instant>,
}

impl Index {
    const NAME: &str = "log.index";

    fn open() -> io::Result<Index> {
        let file = append(Index::NAME)?;
        let bytes = fs::read(Index::NAME)?;
        // A torn entry would shift all that follow.
        let len = bytes.len() / budget::ENTRY * budget::ENTRY;
        file.set_len(len as u64)?;
        let last = bytes
            .get(..len)
            .and_then(|it| it.last_chunk())
            .map_or(0, |it| u64::from_le_bytes(*it));
        Ok(Index {
            file,
            len,
            noted: last,
            noted_at: None,
        })
    }

    fn note(&mut self, now: Instant, now_ms: u64, end: u64, low: u64) {
        if end == self.noted
            || self
                .noted_at
                .is_some_and(|it| now.duration_since(it) < INDEX_EVERY)
        {
            return;
        }
        // An index is a help for readers, not a promise: an entry that cannot be written is left out.
        if self.len >= budget::INDEX_MAX {
            let _ = self.thin(low);
        }
        let entry = [now_ms.to_le_bytes(), end.to_le_bytes()].concat();
        if self.file.write_all(&entry).is_ok() {
            self.len += budget::ENTRY;
        }
        self.noted = end;
        self.noted_at = Some(now);
    }

    fn thin(&mut self, low: u64) -> io::Result<()> {
        const TMP: &str = "log.index.tmp";
        let kept = budget::thin(&fs::read(Index::NAME)?, low);
        fs::write(TMP, &kept)?;
        let file = append(TMP)?;
        fs::rename(TMP, Index::NAME)?;
        self.file = file;
        self.len = kept.len();
        Ok(())
    }
}

/// Opens for appending: never through a link, never waiting for a FIFO's reader.
fn append(name: &str) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(sys::O_NOFOLLOW | sys::O_NONBLOCK)
        .open(name)
}
