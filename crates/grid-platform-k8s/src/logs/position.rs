//! Pure: a place in a log as text.

use grid_platform_api::{Error, ErrorKind, LogPosition, NodeUid, Result, Timestamp};

use super::lines::LineKey;
use crate::error::error;

/// What the text begins with; another form would have another.
const VERSION: &str = "v1";

/// A place in the log of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: LineKey,
    /// Behind so many bytes of the line; behind all of it without.
    pub(super) offset: Option<u64>,
}

impl Place {
    /// The place behind a line.
    #[cfg(test)]
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
    pub(super) fn position(&self, node: &NodeUid, pod: &str) -> LogPosition {
        let LineKey { at, ordinal } = self.line;
        let at = at.as_nanosecond();
        let offset = self.offset.map(|it| format!(".{it}")).unwrap_or_default();
        LogPosition::new(format!("{VERSION}.{node}.{pod}.{at}.{ordinal}{offset}"))
    }

    /// Reads what a reader kept: the pod's uid, and the place in its log.
    ///
    /// # Errors
    /// `InvalidConfig` for what no log of this node gave.
    pub(super) fn read(position: &LogPosition, node: &NodeUid) -> Result<(String, Self)> {
        let (owner, pod, place) =
            parse(position.as_str()).ok_or_else(|| invalid("is malformed"))?;
        if owner != node.as_str() {
            return Err(invalid("is of another node"));
        }
        // One place has one text.
        if place.position(node, &pod) != *position {
            return Err(invalid("is malformed"));
        }
        Ok((pod, place))
    }
}

fn invalid(why: &str) -> Error {
    error(ErrorKind::InvalidConfig, format!("the log position {why}")).with_hint(
        "Use a position that this node's log gave, or begin with `start`, `end` or `tail:LINES`.",
    )
}

fn parse(text: &str) -> Option<(&str, String, Place)> {
    let mut parts = text.split('.');
    if parts.next()? != VERSION {
        return None;
    }
    let (owner, pod) = (parts.next()?, parts.next()?);
    let at = Timestamp::from_nanosecond(parts.next()?.parse().ok()?).ok()?;
    let ordinal = parts.next()?.parse().ok()?;
    let offset = match parts.next() {
        Some(offset) => Some(offset.parse().ok()?),
        None => None,
    };
    let place = Place {
        line: LineKey { at, ordinal },
        offset,
    };
    let is_whole = parts.next().is_none() && !pod.is_empty();
    is_whole.then(|| (owner, pod.to_owned(), place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POD: &str = "0b5f8a53-93a7-4d2c-8f5e-6d7c0a1b2c3d";

    proptest! {
        #[test]
        fn every_place_is_read_as_it_was_written(
            at in any::<i64>(),
            ordinal in any::<u64>(),
            offset in any::<Option<u64>>(),
        ) {
            let at = Timestamp::from_nanosecond(at.into()).unwrap();
            let place = Place { line: LineKey { at, ordinal }, offset };
            let node = NodeUid::from_bytes([1; 16]);
            let read = Place::read(&place.position(&node, POD), &node).unwrap();
            prop_assert_eq!(read, (POD.to_owned(), place));
        }

        #[test]
        fn any_other_text_is_refused(text in "\\PC{0,60}") {
            let node = NodeUid::from_bytes([1; 16]);
            prop_assert!(Place::read(&LogPosition::new(text.clone()), &node).is_err());
            let text = format!("v1.{node}.{text}");
            if let Ok((pod, place)) = Place::read(&LogPosition::new(text.clone()), &node) {
                prop_assert_eq!(place.position(&node, &pod), LogPosition::new(text));
            }
        }
    }

    #[test]
    fn positions_are_of_one_node() {
        let node = NodeUid::from_bytes([1; 16]);
        let other = NodeUid::from_bytes([2; 16]);
        let check = |expect: bool, text: String| {
            let read = Place::read(&LogPosition::new(text.clone()), &node);
            assert_eq!(read.is_ok(), expect, "{text}");
            if let Err(error) = read {
                assert_eq!(error.kind(), ErrorKind::InvalidConfig);
                assert!(error.hint().is_some());
            }
        };
        check(true, format!("v1.{node}.{POD}.1790000000000000001.0"));
        check(true, format!("v1.{node}.{POD}.-1.3.0"));
        check(true, format!("v1.{node}.{POD}.1.0.65536"));
        check(false, format!("v1.{other}.{POD}.1.0"));
        check(false, format!("v2.{node}.{POD}.1.0"));
        check(false, format!("v1.{node}..1.0"));
        check(false, format!("v1.{node}.{POD}.1.0."));
        check(false, format!("v1.{node}.{POD}.1.0.1.2"));
        check(false, format!("v1.{node}.{POD}.01.0"));
        check(false, format!("v1.{node}.{POD}.+1.0"));
        check(false, format!("v1.{node}.{POD}.1"));
        check(false, format!("v1.{node}.{POD}.{}.0", i128::MAX));
        check(false, format!("{node}"));
        check(false, String::new());
        check(false, "no position".to_owned());
    }
}
