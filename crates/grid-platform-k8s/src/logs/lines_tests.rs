//! Logs as kubelets send them, by example and at random.

use proptest::prelude::*;

use super::*;

/// An entry as a runtime keeps it: when, what, and whether it ends its line.
type Entry = (i64, Vec<u8>, bool);

fn time(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap()
}

/// The entries of a line: the nth is written so many nanoseconds later.
fn entries(at: i64, line: &[u8]) -> Vec<Entry> {
    let mut parts: Vec<_> = line.chunks(ENTRY).collect();
    if parts.is_empty() {
        parts.push(b"");
    }
    let last = parts.len() - 1;
    let entry = |(n, part): (usize, &[u8])| (at + n as i64, part.to_vec(), n == last);
    parts.iter().copied().enumerate().map(entry).collect()
}

/// What a kubelet sends; an old one has times in the middle of lines.
fn sent(entries: &[Entry], is_old: bool) -> Vec<u8> {
    let mut sent = Vec::new();
    let mut is_new = true;
    for (at, text, ended) in entries {
        if is_old || is_new {
            sent.extend_from_slice(format!("{:.9} ", time(*at)).as_bytes());
        }
        sent.extend_from_slice(text);
        sent.extend(ended.then_some(b'\n'));
        is_new = *ended;
    }
    sent
}

/// The pieces of what comes in chunks of these sizes, over and over.
fn pieces(sent: &[u8], chunks: &[usize]) -> Vec<Piece> {
    let (mut lines, mut pieces) = (Lines::default(), Vec::new());
    let mut rest = sent;
    for size in chunks.iter().cycle() {
        let (chunk, after) = rest.split_at((*size).clamp(1, rest.len().max(1)).min(rest.len()));
        lines.feed(chunk, |it| pieces.push(it));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let unended = lines.close(|it| pieces.push(it));
    pieces.extend(unended);
    pieces
}

/// Whole lines and their times.
fn joined(pieces: &[Piece]) -> Vec<(i64, u64, Vec<u8>)> {
    let (mut lines, mut within) = (Vec::<(i64, u64, Vec<u8>)>::new(), false);
    for piece in pieces {
        let at = i64::try_from(piece.line.at.as_nanosecond()).unwrap();
        assert!(piece.bytes.len() <= LogLine::MAX_BYTES);
        match lines.last_mut() {
            Some(last) if within => {
                assert_eq!((last.0, last.1), (at, piece.line.ordinal));
                assert_eq!(last.2.len() as u64, piece.offset);
                last.2.extend_from_slice(&piece.bytes);
            }
            _ => lines.push((at, piece.line.ordinal, piece.bytes.to_vec())),
        }
        within = !piece.ended;
    }
    lines
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|it| if it == b'\n' { 0 } else { it });
    prop_oneof![
        4 => prop::collection::vec(byte, 0..40),
        1 => (0..3_usize, 0..5 * ENTRY).prop_map(|(near, far)| vec![b'x'; match near {
            0 => far,
            1 => ENTRY * (far % 6),
            _ => (ENTRY * (far % 6)).saturating_sub(1),
        }]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_line_comes_whole_however_it_is_sent(
        log in prop::collection::vec((0..3_i64, line()), 0..6),
        chunks in prop::collection::vec(prop_oneof![1..50_usize, 1..40_000_usize], 1..5),
        is_old in any::<bool>(),
    ) {
        let mut at = 1_790_000_000_000_000_000;
        let (mut sent_entries, mut expect) = (Vec::new(), Vec::<(i64, u64, Vec<u8>)>::new());
        for (later, text) in &log {
            at += 1000 * later;
            sent_entries.extend(entries(at, text));
            let ordinal = match expect.last() {
                Some(last) if last.0 == at => last.1 + 1,
                _ => 0,
            };
            expect.push((at, ordinal, text.clone()));
        }
        let sent = sent(&sent_entries, is_old);
        let pieces = pieces(&sent, &chunks);
        prop_assert_eq!(joined(&pieces), expect);
        prop_assert!(pieces.last().is_none_or(|it| it.ended));
        prop_assert_eq!(&super::tests::pieces(&sent, &[sent.len().max(1)]), &pieces);
    }

    #[test]
    fn whatever_comes_is_borne(sent in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut with_time = b"2026-01-02T03:04:05Z ".to_vec();
        with_time.extend_from_slice(&sent);
        pieces(&sent, &[3]);
        pieces(&with_time, &[3]);
    }
}

#[test]
fn times_of_any_digits_and_zone_are_read() {
    let check = |text: &str, expect: Option<(&str, &str)>| {
        let pieces = pieces(format!("{text}\n").as_bytes(), &[1]);
        let read = pieces.first();
        let read = read.map(|it| (it.line.at, String::from_utf8(it.bytes.to_vec()).unwrap()));
        let expect = expect.map(|(at, line)| (at.parse().unwrap(), line.to_owned()));
        assert_eq!(read, expect, "{text}");
    };
    let second = "2026-01-02T03:04:05Z";
    check("2026-01-02T03:04:05Z a b", Some((second, "a b")));
    check("2026-01-02T05:04:05+02:00 a", Some((second, "a")));
    check("2026-01-01T22:04:05-05:00 ", Some((second, "")));
    let nano = "2026-01-02T03:04:05.12Z";
    check("2026-01-02T03:04:05.12Z a", Some((nano, "a")));
    check("2026-01-02T03:04:05.120000000Z  a", Some((nano, " a")));
    for words in [
        "",
        "a",
        "failed to watch the file",
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.Z a",
        "2026-01-02T03:04:05.1234567890Z a",
        "2026-13-02T03:04:05Z a",
        "2026-01-02 03:04:05Z a",
    ] {
        check(words, None);
    }
}

#[test]
fn what_is_none_of_the_programs_is_left_out() {
    let log =
        b"the rest of a line\n2026-01-02T03:04:05Z a\nunable to read\n2026-01-02T03:04:06Z b\n";
    let lines = joined(&pieces(log, &[5]));
    let text: Vec<_> = lines.into_iter().map(|it| it.2).collect();
    assert_eq!(text, [b"a", b"b"]);
}

#[test]
fn a_line_is_handed_out_before_its_end_and_goes_on_behind_that() {
    let mut lines = Lines::default();
    let mut none = |it: Piece| panic!("{it:?}");
    assert!(!lines.is_unended() && lines.take_unended().is_none());
    lines.feed(b"2026-01-02T03:04:05Z ab", &mut none);
    assert!(lines.is_unended());
    let first = lines.take_unended().unwrap();
    assert_eq!(
        (first.offset, &first.bytes[..], first.ended),
        (0, &b"ab"[..], false)
    );
    assert!(!lines.is_unended() && lines.take_unended().is_none());
    let mut rest = Vec::new();
    lines.feed(b"cd\n", |it| rest.push(it));
    assert_eq!(rest.len(), 1);
    assert_eq!(
        (rest[0].offset, &rest[0].bytes[..], rest[0].ended),
        (2, &b"cd"[..], true)
    );
    // The end of a line of which all was taken is told with no bytes.
    lines.feed(b"2026-01-02T03:04:05Z ab", &mut none);
    lines.take_unended().unwrap();
    let end = lines.close(&mut none).unwrap();
    assert_eq!(
        (end.offset, &end.bytes[..], end.ended),
        (2, &b""[..], false)
    );
}

#[test]
fn pieces_are_cut_at_the_same_places_after_a_part_was_taken() {
    let text = vec![b'x'; LogLine::MAX_BYTES + 10];
    let sent = sent(&entries(1_790_000_000_000_000_000, &text), true);
    let (mut lines, mut cut) = (Lines::default(), Vec::new());
    lines.feed(&sent[..100], |it| cut.push(it.offset));
    lines.take_unended().unwrap();
    lines.feed(&sent[100..], |it| cut.push(it.end()));
    let max = LogLine::MAX_BYTES as u64;
    assert_eq!(cut, [max, max + 10]);
}
