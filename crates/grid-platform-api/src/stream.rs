//! Logs and events as streams.

use std::{fmt, pin::Pin, str::FromStr};

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, NodeId, NodeUid, Result, SpawnedNode, id::printable};

/// What [`Platform::follow_logs`](crate::Platform::follow_logs) gives. Dropping it ends the following.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogItem>> + Send>>;

/// What [`Platform::watch_nodes`](crate::Platform::watch_nodes) gives. Dropping it ends the watch.
pub type NodeEventStream = Pin<Box<dyn Stream<Item = Result<NodeEvent>> + Send>>;

/// A place in a node's log, made by the platform: give it back by [`LogCursor::After`] and the log goes on
/// behind it, on the same platform, whatever was restarted in between.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogPosition(String);

impl LogPosition {
    /// A position in the adapter's own form; any text without control characters.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The adapter's own form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where to begin in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogCursor {
    /// With the oldest line that is retained.
    Start,
    /// With the next line that is written.
    End,
    /// With the last so many lines.
    Tail(usize),
    /// With the first line written at this time or later; a platform that indexes time coarsely may begin
    /// some lines earlier, never later. Needs the capability `logs_since`.
    Since(Timestamp),
    /// Behind this position.
    After(LogPosition),
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::End => f.write_str("end"),
            Self::Tail(lines) => write!(f, "tail:{lines}"),
            Self::Since(time) => write!(f, "since:{time}"),
            Self::After(position) => write!(f, "after:{}", position.as_str()),
        }
    }
}

impl FromStr for LogCursor {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let parsed = match s.split_once(':') {
            None if s == "start" => Some(Self::Start),
            None if s == "end" => Some(Self::End),
            Some(("tail", lines)) => lines.parse().ok().map(Self::Tail),
            Some(("since", time)) => time.parse().ok().map(Self::Since),
            Some(("after", position)) => Some(Self::After(LogPosition::new(position))),
            _ => None,
        };
        parsed.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!("`{}` is not a log cursor", printable(s)),
            )
            .with_hint("Use `start`, `end`, `tail:LINES`, `since:TIME` or `after:POSITION`.")
        })
    }
}

/// Which output of the program a line came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The platform keeps both in one log.
    #[default]
    Combined,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One piece of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogItem {
    /// A line.
    Line(LogLine),
    /// Lines between two positions are gone.
    Gap {
        /// The last position before the loss.
        from: LogPosition,
        /// The first position that is retained.
        to: LogPosition,
        /// What took them: lower case, no full stop.
        reason: String,
    },
}

/// A line of a log, as the program wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The position behind this line.
    pub position: LogPosition,
    /// When it was written, where the platform knows.
    pub at: Option<Timestamp>,
    /// Which output it came from.
    pub source: LogSource,
    /// The bytes without the line's end; any bytes at all.
    pub bytes: Bytes,
    /// The line goes on in the next item: it was longer than the platform hands out at once, or the program
    /// has not ended it yet.
    pub partial: bool,
}

impl LogLine {
    /// The longest piece of a line that is handed out at once, in bytes; a longer line comes in several
    /// [`partial`](Self::partial) pieces.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// The line as text; bytes that are not UTF-8 become U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A change of what a platform has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum NodeEvent {
    /// All nodes, stopped and failed ones too: the first event, and the one behind every `Resync`.
    Snapshot {
        /// All nodes, by id.
        nodes: Vec<SpawnedNode>,
    },
    /// A node is new or changed.
    Changed {
        /// The node as it is now.
        node: Box<SpawnedNode>,
    },
    /// A node's record is gone.
    Removed {
        /// The node.
        node_id: NodeId,
        /// Which incarnation.
        uid: NodeUid,
    },
    /// How far the platform is with what a node waits for before its program can start, such as its image's pull. It
    /// tells of a node that may have no record yet, and says nothing about any state; a later one takes its place, and
    /// it is over with the call that it belongs to.
    Progress {
        /// The node.
        node_id: NodeId,
        /// How far it is.
        progress: Progress,
    },
    /// Events were lost; a `Snapshot` follows.
    Resync {
        /// Why: lower case, no full stop.
        reason: String,
    },
}

/// How far a platform is with something that takes a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// What is being done: lower case, no full stop.
    pub message: String,
    /// How many parts it has, such as an image's layers; 0 where there are none or it is not known yet.
    pub parts: u32,
    /// How many of them are done.
    pub parts_done: u32,
    /// How many bytes there are to do, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How many of them are done.
    pub bytes_done: u64,
}

impl fmt::Display for Progress {
    /// In a line: what is being done, and how much of it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1024.0 * 1024.0;
        f.write_str(&self.message)?;
        let mut lead = ": ";
        if self.parts > 0 {
            write!(f, "{lead}{} of {} parts", self.parts_done, self.parts)?;
            lead = ", ";
        }
        let mib = |bytes: u64| bytes as f64 / MIB;
        match self.bytes {
            Some(bytes) => write!(
                f,
                "{lead}{:.1} of {:.1} MiB",
                mib(self.bytes_done),
                mib(bytes)
            ),
            None if self.bytes_done > 0 => write!(f, "{lead}{:.1} MiB", mib(self.bytes_done)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursor() -> impl Strategy<Value = LogCursor> {
        prop_oneof![
            Just(LogCursor::Start),
            Just(LogCursor::End),
            any::<usize>().prop_map(LogCursor::Tail),
            (any::<i32>(), 0..1_000_000_000)
                .prop_map(|(s, ns)| { LogCursor::Since(Timestamp::new(s.into(), ns).unwrap()) }),
            "\\PC{0,40}".prop_map(|text| LogCursor::After(LogPosition::new(text))),
        ]
    }

    proptest! {
        #[test]
        fn every_cursor_is_read_as_it_was_written(cursor in cursor()) {
            prop_assert_eq!(cursor.to_string().parse::<LogCursor>().unwrap(), cursor);
        }

        #[test]
        fn a_hostile_cursor_is_refused_in_one_line(text in "(tail:|since:|)[\\x00-\\x{2fff}]{0,200}") {
            match text.parse::<LogCursor>() {
                Ok(cursor) => prop_assert_eq!(cursor.to_string().parse::<LogCursor>().unwrap(), cursor),
                Err(error) => {
                    prop_assert!(error.hint().is_some());
                    let message = error.to_string();
                    prop_assert!(!message.contains(char::is_control), "{:?}", message);
                    prop_assert!(message.len() < 1000);
                }
            }
        }
    }

    #[test]
    fn cursors_round_trip() {
        for text in [
            "start",
            "end",
            "tail:100",
            "since:2026-01-02T03:04:05Z",
            "after:7:9",
        ] {
            assert_eq!(text.parse::<LogCursor>().unwrap().to_string(), text);
        }
        for text in ["", "tail", "tail:-1", "tail:x", "since:yesterday", "middle"] {
            assert!(text.parse::<LogCursor>().is_err(), "{text}");
        }
    }

    #[test]
    fn progress_is_a_line() {
        let check = |(parts_done, parts), (bytes_done, bytes), expect: &str| {
            let progress = Progress {
                message: "pulling".to_owned(),
                parts,
                parts_done,
                bytes,
                bytes_done,
            };
            assert_eq!(progress.to_string(), expect);
        };
        let mib = 1024 * 1024;
        check((0, 0), (0, None), "pulling");
        check((1, 3), (0, None), "pulling: 1 of 3 parts");
        check((0, 0), (mib, Some(4 * mib)), "pulling: 1.0 of 4.0 MiB");
        check((1, 3), (mib / 2, None), "pulling: 1 of 3 parts, 0.5 MiB");
        check(
            (1, 3),
            (mib, Some(3 * mib)),
            "pulling: 1 of 3 parts, 1.0 of 3.0 MiB",
        );
    }
}
