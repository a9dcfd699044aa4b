//! Pure: a place in a log as text.

use std::fmt;

use grid_platform_api::{Error, ErrorKind, LogPosition, NodeUid, Result, Timestamp};

use super::walk::LineKey;
use crate::error::error;

/// A place in a node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: LineKey,
    /// Behind so many bytes of the line; behind all of it without.
    pub(super) offset: Option<u64>,
}

impl Place {
    /// The place behind a line.
    pub(super) fn behind(line: LineKey) -> Self {
        Self { line, offset: None }
    }

    /// The place before a line.
    pub(super) fn before(line: LineKey) -> Self {
        Self {
            line,
            offset: Some(0),
        }
    }

    /// As a reader keeps it.
    pub(super) fn position(&self, uid: &NodeUid) -> LogPosition {
        LogPosition::new(format!("{uid}:{self}"))
    }

    /// Reads what a reader kept.
    ///
    /// # Errors
    /// `InvalidConfig` for what no log of this node gave.
    pub(super) fn read(position: &LogPosition, uid: &NodeUid) -> Result<Self> {
        let invalid = |why: &str| -> Error {
            error(ErrorKind::InvalidConfig, format!("the log position {why}")).with_hint(
                "Use a position that this node's log gave, or begin with `start`, `end` or `tail:LINES`.",
            )
        };
        let (owner, place) = position
            .as_str()
            .split_once(':')
            .ok_or_else(|| invalid("is malformed"))?;
        if owner != uid.as_str() {
            return Err(invalid("is of another node"));
        }
        parse(place).ok_or_else(|| invalid("is malformed"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LineKey { at, own, chain } = self.line;
        write!(f, "{}:{own:016x}:{chain:016x}", at.as_nanosecond())?;
        match self.offset {
            Some(offset) => write!(f, ":{offset}"),
            None => Ok(()),
        }
    }
}

fn parse(text: &str) -> Option<Place> {
    let mut parts = text.split(':');
    let at = Timestamp::from_nanosecond(parts.next()?.parse().ok()?).ok()?;
    let mut hash = || u64::from_str_radix(parts.next()?, 16).ok();
    let (own, chain) = (hash()?, hash()?);
    let offset = match parts.next() {
        Some(offset) => Some(offset.parse().ok()?),
        None => None,
    };
    let place = Place {
        line: LineKey { at, own, chain },
        offset,
    };
    // One place has one text.
    (parts.next().is_none() && place.to_string() == text).then_some(place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Place> {
        (
            any::<i64>(),
            any::<u64>(),
            any::<u64>(),
            any::<Option<u64>>(),
        )
            .prop_map(|(at, own, chain, offset)| Place {
                line: LineKey {
                    at: Timestamp::from_nanosecond(at.into()).unwrap(),
                    own,
                    chain,
                },
                offset,
            })
    }

    proptest! {
        #[test]
        fn every_place_is_read_as_it_was_written(place in place()) {
            let uid = NodeUid::from_bytes([1; 16]);
            prop_assert_eq!(Place::read(&place.position(&uid), &uid).unwrap(), place);
        }

        #[test]
        fn any_other_text_is_refused(text in "\\PC{0,60}") {
            let uid = NodeUid::from_bytes([1; 16]);
            prop_assert!(Place::read(&LogPosition::new(text.clone()), &uid).is_err());
            let text = format!("{uid}:{text}");
            if let Ok(place) = Place::read(&LogPosition::new(text.clone()), &uid) {
                prop_assert_eq!(place.position(&uid), LogPosition::new(text));
            }
        }
    }

    #[test]
    fn positions_are_of_one_node() {
        let uid = NodeUid::from_bytes([1; 16]);
        let other = NodeUid::from_bytes([2; 16]);
        let hash = "0123456789abcdef";
        let check = |expect: bool, text: String| {
            let read = Place::read(&LogPosition::new(text.clone()), &uid);
            assert_eq!(read.is_ok(), expect, "{text}");
            if let Err(error) = read {
                assert_eq!(error.kind(), ErrorKind::InvalidConfig);
                assert!(error.hint().is_some());
            }
        };
        check(true, format!("{uid}:1790000000000000001:{hash}:{hash}"));
        check(true, format!("{uid}:-1:{hash}:{hash}:0"));
        check(true, format!("{uid}:1:{hash}:{hash}:65536"));
        check(false, format!("{other}:1:{hash}:{hash}"));
        check(false, format!("{uid}:1:{hash}:{hash}:"));
        check(false, format!("{uid}:1:{hash}:{hash}:1:2"));
        check(false, format!("{uid}:01:{hash}:{hash}"));
        check(false, format!("{uid}:+1:{hash}:{hash}"));
        check(false, format!("{uid}:1:{hash}:f"));
        check(false, format!("{uid}:1:{hash}"));
        check(false, format!("{uid}:{}:{hash}:{hash}", i128::MAX));
        check(false, format!("{uid}"));
        check(false, String::new());
        check(false, "no position".to_owned());
    }
}
