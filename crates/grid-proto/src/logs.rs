//! Pieces of logs.

use grid_platform_api::{
    Error, ErrorKind, LogItem, LogLine, LogPosition, LogSource, Result, Timestamp,
};

use crate::v1::{self, log_item::Item};

/// One piece of a log for the wire. Its time is kept to the millisecond.
pub fn log_item_to_wire(item: LogItem) -> v1::LogItem {
    let item = match item {
        LogItem::Line(line) => Item::Line(v1::LogLine {
            position: line.position.as_str().to_owned(),
            at_ms: line.at.map_or(0, |at| at.as_millisecond()),
            source: match line.source {
                LogSource::Combined => "combined",
                LogSource::Stdout => "stdout",
                LogSource::Stderr => "stderr",
            }
            .to_owned(),
            data: line.bytes.into(),
            partial: line.partial,
        }),
        LogItem::Gap { from, to, reason } => Item::Gap(v1::LogGap {
            from: from.as_str().to_owned(),
            to: to.as_str().to_owned(),
            reason,
        }),
    };
    v1::LogItem { item: Some(item) }
}

/// One piece of a log from the wire. A source that this version does not know is `Combined`.
///
/// # Errors
/// `InvalidConfig` for an item that is neither a line nor a gap, or whose time is none.
pub fn log_item_from_wire(wire: v1::LogItem) -> Result<LogItem> {
    let unreadable = || Error::new(ErrorKind::InvalidConfig, "a log item cannot be read");
    match wire.item {
        Some(Item::Line(line)) => Ok(LogItem::Line(LogLine {
            position: LogPosition::new(line.position),
            at: match line.at_ms {
                0 => None,
                ms => {
                    Some(Timestamp::from_millisecond(ms).map_err(|e| unreadable().with_source(e))?)
                }
            },
            source: match line.source.as_str() {
                "stdout" => LogSource::Stdout,
                "stderr" => LogSource::Stderr,
                _ => LogSource::Combined,
            },
            bytes: line.data.into(),
            partial: line.partial,
        })),
        Some(Item::Gap(gap)) => Ok(LogItem::Gap {
            from: LogPosition::new(gap.from),
            to: LogPosition::new(gap.to),
            reason: gap.reason,
        }),
        None => Err(unreadable()),
    }
}
