//! `Range` and the entity-tag conditions of RFC 9110, as pure functions.

use crate::index::Condition;
use crate::store::ObjectMeta;

/// Which bytes of a body to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// All of them, status 200.
    Whole,
    /// From the first to before the second, status 206.
    Part(u64, u64),
    /// None that exist, status 416.
    Unsatisfiable,
}

/// Reads a `Range` header for a body of `size` bytes. What is no byte range, or several, is
/// ignored, as the RFC allows: the whole body is then the answer.
pub(crate) fn parse_range(header: &str, size: u64) -> Span {
    let Some(spec) = header.trim().strip_prefix("bytes=") else {
        return Span::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Span::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // Digits too large for 64 bits lie beyond any body.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, number(first), last, number(last)) {
        (_, Some(first), "", _) if first < size => Span::Part(first, size),
        (_, Some(_), "", _) => Span::Unsatisfiable,
        (_, Some(first), _, Some(last)) if first <= last => {
            if first < size {
                Span::Part(first, last.saturating_add(1).min(size))
            } else {
                Span::Unsatisfiable
            }
        }
        ("", _, _, Some(0)) => Span::Unsatisfiable,
        ("", _, _, Some(_)) if size == 0 => Span::Unsatisfiable,
        ("", _, _, Some(suffix)) => Span::Part(size.saturating_sub(suffix), size),
        _ => Span::Whole,
    }
}

/// The strong entity tag of an object's version.
pub(crate) fn etag(meta: &ObjectMeta) -> String {
    format!("\"{:x}-{:08x}\"", meta.generation, meta.crc32)
}

/// Whether a list of tags, or `*`, holds `etag`. Weak tags are compared by their text, which
/// is what `If-None-Match` asks for.
pub(crate) fn tag_matches(header: &str, etag: &str) -> bool {
    header.trim() == "*"
        || header.split(',').any(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag) == etag
        })
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The condition of a write. `Err` says what cannot be used.
pub(crate) fn write_condition(
    if_match: Option<&str>,
    if_none_match: Option<&str>,
) -> Result<Condition, String> {
    match (if_match.map(str::trim), if_none_match.map(str::trim)) {
        (None, None) => Ok(Condition::None),
        (None, Some("*")) => Ok(Condition::Absent),
        (None, Some(_)) => Err("a write takes `If-None-Match: *` only".to_owned()),
        (Some("*"), None) => Ok(Condition::Present),
        (Some(tag), None) => tag
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .and_then(|rest| rest.split_once('-'))
            .filter(|(generation, crc)| is_hex(generation) && is_hex(crc))
            .and_then(|(generation, _)| u64::from_str_radix(generation, 16).ok())
            .map(Condition::Generation)
            .ok_or_else(|| {
                "a write takes one strong `ETag` of this server in `If-Match`".to_owned()
            }),
        (Some(_), Some(_)) => {
            Err("a write takes `If-Match` or `If-None-Match`, not both".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option::of, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn a_range_is_what_it_leaves_of_the_bytes(
            size in 0usize..40,
            first in of(0usize..50),
            last in of(0usize..50),
        ) {
            let text = |number: Option<usize>| number.map(|n| n.to_string()).unwrap_or_default();
            let header = format!("bytes={}-{}", text(first), text(last));
            let bytes: Vec<usize> = (0..size).collect();
            let wanted: Vec<usize> = match (first, last) {
                (Some(first), last) => bytes
                    .iter()
                    .copied()
                    .filter(|at| (first..=last.unwrap_or(size)).contains(at))
                    .collect(),
                (None, Some(count)) => bytes.iter().rev().take(count).rev().copied().collect(),
                (None, None) => Vec::new(),
            };
            let backwards = matches!((first, last), (Some(first), Some(last)) if last < first);
            match parse_range(&header, size as u64) {
                Span::Whole => prop_assert!(backwards || (first, last) == (None, None)),
                Span::Unsatisfiable => prop_assert!(wanted.is_empty() && !backwards),
                Span::Part(from, to) => {
                    let part = &bytes[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
                    prop_assert!(!part.is_empty());
                    prop_assert_eq!(part, wanted);
                }
            }
        }
    }

    #[test]
    fn ranges() {
        let check = |header: &str, size: u64, expect: Span| {
            assert_eq!(parse_range(header, size), expect, "{header} of {size}");
        };
        check("bytes=0-0", 10, Span::Part(0, 1));
        check("bytes=2-5", 10, Span::Part(2, 6));
        check("bytes=2-", 10, Span::Part(2, 10));
        check("bytes=-3", 10, Span::Part(7, 10));
        check("bytes=-30", 10, Span::Part(0, 10));
        check("bytes=5-99", 10, Span::Part(5, 10));
        check("bytes=0-18446744073709551615", 10, Span::Part(0, 10));
        check("bytes=99999999999999999999999-", 10, Span::Unsatisfiable);
        check("bytes=10-", 10, Span::Unsatisfiable);
        check("bytes=10-12", 10, Span::Unsatisfiable);
        check("bytes=-0", 10, Span::Unsatisfiable);
        check("bytes=0-", 0, Span::Unsatisfiable);
        check("bytes=-1", 0, Span::Unsatisfiable);
        check("bytes=5-2", 10, Span::Whole);
        check("bytes=0-1,4-5", 10, Span::Whole);
        check("bytes=a-b", 10, Span::Whole);
        check("bytes=-", 10, Span::Whole);
        check("bytes=+1-2", 10, Span::Whole);
        check("lines=0-1", 10, Span::Whole);
    }

    #[test]
    fn tags() {
        let check = |header: &str, expect: bool| {
            assert_eq!(tag_matches(header, "\"1-ab\""), expect, "{header}")
        };
        check("\"1-ab\"", true);
        check("*", true);
        check("W/\"1-ab\"", true);
        check("\"2-ab\", \"1-ab\"", true);
        check("\"2-ab\"", false);
        check("1-ab", false);
        check("", false);
    }

    #[test]
    fn write_conditions() {
        let check = |if_match, if_none_match, expect: Option<Condition>| {
            assert_eq!(
                write_condition(if_match, if_none_match).ok(),
                expect,
                "{if_match:?} {if_none_match:?}"
            );
        };
        check(None, None, Some(Condition::None));
        check(None, Some("*"), Some(Condition::Absent));
        check(Some("*"), None, Some(Condition::Present));
        check(
            Some("\"1f-00000000\""),
            None,
            Some(Condition::Generation(31)),
        );
        check(None, Some("\"1f-00000000\""), None);
        check(Some("\"1\", \"2\""), None, None);
        check(Some("W/\"1f-00000000\""), None, None);
        check(Some("*"), Some("*"), None);
        check(Some("\"1f-00000000\", \"20-00000000\""), None, None);
        check(Some("\"+1f-00000000\""), None, None);
    }
}
