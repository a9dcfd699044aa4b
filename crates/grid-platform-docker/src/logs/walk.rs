//! Pure: which entries make a line, and what tells a line from every other one of its log.
//!
//! The engine gives a whole log or its last entries, and no number to any of them. What a line is called here depends on the
//! log alone and not on how much of it was read: its time, a hash of its first entry, and a hash over it, the lines right
//! before it that have the same time, and the one before these. So lines of equal times, and of equal texts at equal times, are told apart,
//! and that times go backwards does not matter. Where too little was read to know, a name is not [sure](Begin::sure).

use grid_platform_api::{LogSource, Timestamp};

use super::frames::Entry;

/// How many entries of other outputs may lie between two of one line. What comes later is a line of its own.
pub(super) const JOIN: u64 = 16;

/// What a line is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineKey {
    /// The time of its first entry.
    pub(super) at: Timestamp,
    /// Of its first entry.
    pub(super) own: u64,
    /// Of it, of those right before it that have its time, and of the one before these.
    pub(super) chain: u64,
}

/// A line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) key: LineKey,
    /// It surely begins here. It may be the rest of one whose beginning was not read, if not.
    pub(super) known: bool,
    /// The key is what it is however much of the log is read.
    pub(super) sure: bool,
    /// It is among the first lines that were read, which have one time; some of that time may have been taken away.
    pub(super) first_run: bool,
}

/// What one entry means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Role {
    /// Which line it is of, by their order in this reading.
    pub(super) line: u64,
    pub(super) begins: Option<Begin>,
    /// Lines that turn out to have no more to them, and had no end.
    pub(super) closed: Vec<u64>,
    /// A hash of the entry.
    pub(super) mark: u64,
}

struct Open {
    line: u64,
    at: Timestamp,
    /// The number of its last entry.
    last: u64,
}

#[derive(Default)]
struct Output {
    open: Option<Open>,
    seen: bool,
}

struct Run {
    at: Timestamp,
    chain: u64,
    /// Of its last line.
    own: u64,
    sure: bool,
    first: bool,
    /// Whether the line that began last is known to have begun.
    known: bool,
}

/// One reading of a log, entry by entry.
pub(super) struct Walk {
    /// What is read begins with the oldest entry that there is.
    whole: bool,
    /// How many entries were read.
    pub(super) entries: u64,
    lines: u64,
    outputs: [Output; 3],
    run: Option<Run>,
}

impl Walk {
    pub(super) fn new(whole: bool) -> Self {
        Self {
            whole,
            entries: 0,
            lines: 0,
            outputs: Default::default(),
            run: None,
        }
    }

    /// Whether all that begins from here on is known to begin.
    pub(super) fn is_warm(&self) -> bool {
        self.whole || self.entries > JOIN
    }

    pub(super) fn step(&mut self, entry: &Entry) -> Role {
        self.entries += 1;
        let index = self.entries;
        let warm = self.is_warm();
        let mark = mark(entry);
        let mut closed = Vec::new();
        let this = slot(entry.source);
        for (at, output) in self.outputs.iter_mut().enumerate() {
            let over = output.open.as_ref().is_some_and(|open| {
                if at == this {
                    // All entries of one line have its time; what is written after a program has ended within a line
                    // has another one. Pieces have times of their own.
                    !entry.pieced && open.at != entry.at
                } else {
                    index - open.last >= JOIN
                }
            });
            if over {
                closed.extend(output.open.take().map(|it| it.line));
            }
        }
        let Some(output) = self.outputs.get_mut(this) else {
            // There are as many slots as outputs.
            return Role {
                line: self.lines,
                begins: None,
                closed,
                mark,
            };
        };
        let known = warm || output.seen;
        output.seen = true;
        if let Some(open) = &mut output.open {
            open.last = index;
            let line = open.line;
            if entry.ended {
                output.open = None;
            }
            return Role {
                line,
                begins: None,
                closed,
                mark,
            };
        }
        self.lines += 1;
        let line = self.lines;
        if !entry.ended {
            output.open = Some(Open {
                line,
                at: entry.at,
                last: index,
            });
        }
        Role {
            line,
            begins: Some(self.begin(entry.at, mark, known)),
            closed,
            mark,
        }
    }

    fn begin(&mut self, at: Timestamp, own: u64, known: bool) -> Begin {
        let whole = self.whole;
        let run = match self.run.take() {
            Some(run) if run.at == at => Run {
                chain: mix(run.chain, own),
                own,
                sure: run.sure && known,
                known,
                ..run
            },
            before => Run {
                at,
                chain: mix(before.as_ref().map_or(0, |it| it.own), own),
                own,
                // What it begins behind has to be known.
                sure: whole || known && before.as_ref().is_some_and(|it| it.known),
                first: before.is_none(),
                known,
            },
        };
        let begin = Begin {
            key: LineKey {
                at,
                own,
                chain: run.chain,
            },
            known,
            sure: run.sure,
            first_run: run.first,
        };
        self.run = Some(run);
        begin
    }
}

fn slot(source: LogSource) -> usize {
    match source {
        LogSource::Stdout => 0,
        LogSource::Stderr => 1,
        LogSource::Combined => 2,
    }
}

/// FNV-1a (RFC 9923) of 64 bits: it need not withstand anybody, and stays the same in every version of this program.
fn fnv(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// A hash of an entry.
pub(super) fn mark(entry: &Entry) -> u64 {
    let seed = fnv(FNV, &entry.at.as_nanosecond().to_le_bytes());
    let tag = [
        u8::try_from(slot(entry.source)).unwrap_or(u8::MAX),
        u8::from(entry.ended),
    ];
    fnv(fnv(seed, &tag), &entry.bytes)
}

fn mix(chain: u64, own: u64) -> u64 {
    fnv(fnv(FNV, &chain.to_le_bytes()), &own.to_le_bytes())
}
