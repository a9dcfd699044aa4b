//! Logs whose positions only their platform can read: what was read of one is found again in it by its bytes.

/// The incarnation that such a position is of.
pub(crate) fn uid_of(position: &str) -> Option<&str> {
    position.split_once(':').map(|(uid, _)| uid)
}

/// Where lines end, the beginning too; the last first.
fn line_ends(log: &[u8]) -> impl Iterator<Item = usize> {
    let ends = log.iter().enumerate().rev();
    ends.filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1)
        .chain([0])
}

/// How much of both is the same, from their ends on; `None` when they differ before one of them begins.
fn same_end(one: &[u8], other: &[u8]) -> Option<usize> {
    let length = one.len().min(other.len());
    let end = |it: &[u8]| it.len() - length;
    (one[end(one)..] == other[end(other)..]).then_some(length)
}

/// How many bytes of what was read are the same in the log, which was looked at afterwards. `None`: the log does not hold it
/// so, or not all up to the line `goal` was read yet, which was the log's last; empty when there was none. What was read may
/// begin later than what is kept, and earlier.
pub(crate) fn compare(read: &[u8], log: &[u8], goal: &[u8]) -> Option<u64> {
    let whole = crate::follow::whole_lines(read);
    let (lines, begun) = read.split_at(whole);
    if lines.is_empty() && !goal.is_empty() {
        return None;
    }
    // As a log goes on its beginning is dropped: where that line was says nothing.
    let goal = match goal.is_empty() {
        true => 0,
        false => behind(log, goal).unwrap_or(1),
    };
    let ends = line_ends(log).take_while(|end| *end >= goal);
    let same = ends
        .filter(|end| log[*end..].starts_with(begun))
        .find_map(|end| same_end(lines, &log[..end]));
    same.map(|it| it as u64)
}

/// The last whole line of a log; empty when there is none.
pub(crate) fn last_line(log: &[u8]) -> &[u8] {
    let lines = &log[..crate::follow::whole_lines(log)];
    lines
        .split_inclusive(|it| *it == b'\n')
        .next_back()
        .unwrap_or_default()
}

/// Where the last line that reads so ends.
fn behind(log: &[u8], line: &[u8]) -> Option<usize> {
    let (mut end, mut found) = (0, None);
    for this in log.split_inclusive(|it| *it == b'\n') {
        end += this.len();
        if this == line {
            found = Some(end);
        }
    }
    found
}

/// The line before the first that reads so, if the log holds one: who begins with that line has left it out.
pub(crate) fn before<'a>(log: &'a [u8], line: &[u8]) -> Option<&'a [u8]> {
    let mut last = None;
    for this in log.split_inclusive(|it| *it == b'\n') {
        if this == line {
            return last;
        }
        last = Some(this);
    }
    None
}

/// Where the two part, for who looks for the reason: the last lines of each.
pub(crate) fn ends_of(read: &[u8], log: &[u8]) -> String {
    let end = |it: &[u8]| {
        let from = it.len().saturating_sub(160);
        String::from_utf8_lossy(&it[from..])
            .escape_debug()
            .to_string()
    };
    format!(
        "what was read ends with `{}`, and the log with `{}`",
        end(read),
        end(log)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_found_by_its_bytes() {
        let check = |read: &str, log: &str, expect: Option<u64>| {
            let goal = last_line(log.as_bytes());
            let got = compare(read.as_bytes(), log.as_bytes(), goal);
            assert_eq!(got, expect, "{read:?} {log:?}");
        };
        check("", "", Some(0));
        check("a\nb\n", "a\nb\n", Some(4));
        // Read from later on, and kept from later on.
        check("b\n", "a\nb\n", Some(2));
        check("a\nb\nc\n", "b\nc\n", Some(4));
        // A line that has no end yet.
        check("a\n", "a\nb", Some(2));
        check("a\nb", "a\nbc", Some(2));
        check("a\nx", "a\nbc", None);
        // Not all of it yet.
        check("a\n", "a\nb\n", None);
        check("", "a\n", None);
        // Lost, doubled, another.
        check("a\nc\n", "a\nb\nc\n", None);
        check("a\nb\nb\n", "a\nb\n", None);
        check("a\nx\n", "a\nb\n", None);
        check("a\nb\nc\n", "a\nb\n", None);
    }

    #[test]
    fn a_goal_that_was_reached_stays_so_while_the_log_grows() {
        assert_eq!(compare(b"a\nb\n", b"a\nb\nc\n", b"a\n"), Some(4));
        assert_eq!(compare(b"a\n", b"a\nb\nc\n", b"b\n"), None);
        // It is kept no more, and neither is what was before it.
        assert_eq!(compare(b"a\nb\nc\n", b"c\nd\n", b"b\n"), Some(2));
        assert_eq!(compare(b"a\n", b"c\nd\n", b"b\n"), None);
    }

    #[test]
    fn what_is_left_out_before_a_line_is_found() {
        let check = |line: &str, log: &str, expect: Option<&str>| {
            let found = before(log.as_bytes(), line.as_bytes());
            assert_eq!(found.map(|it| std::str::from_utf8(it).unwrap()), expect);
        };
        check("a\n", "a\nb\n", None);
        check("b\n", "a\nb\n", Some("a\n"));
        check("c\n", "a\nb\n", None);
        check("a\n", "a\nb\na\n", None);
    }

    #[test]
    fn positions_are_of_an_incarnation() {
        assert_eq!(uid_of("u1:17:ab"), Some("u1"));
        assert_eq!(uid_of("u1"), None);
    }
}
