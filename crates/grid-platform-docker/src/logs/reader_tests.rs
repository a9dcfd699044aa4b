//! Logs as tables and at random, without an engine.

use proptest::prelude::*;

use super::*;
use crate::logs::walk::JOIN;

fn time(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap()
}

fn entry(ns: i64, source: LogSource, text: &str) -> Entry {
    let (text, ended) = match text.strip_suffix('\n') {
        Some(text) => (text, true),
        None => (text, false),
    };
    Entry {
        at: time(ns),
        source,
        bytes: Bytes::copy_from_slice(text.as_bytes()),
        ended,
        pieced: false,
    }
}

fn out(ns: i64, text: &str) -> Entry {
    entry(ns, LogSource::Stdout, text)
}

fn err(ns: i64, text: &str) -> Entry {
    entry(ns, LogSource::Stderr, text)
}

fn read(reader: &mut Reader, log: &[Entry]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for entry in log {
        reader.feed(entry, |it| pieces.push(it));
    }
    pieces
}

fn all(log: &[Entry]) -> Vec<Piece> {
    read(&mut Reader::new(Origin::Beginning, true, 0), log)
}

/// What is read behind a place of these entries; `None` when the place is not found.
fn behind(place: Place, whole: bool, log: &[Entry]) -> Option<Vec<Piece>> {
    let mut reader = Reader::new(Origin::Behind(place), whole, 0);
    let pieces = read(&mut reader, log);
    reader.is_found().then_some(pieces)
}

/// Pieces without the numbers of their entries, which differ by where reading begins.
fn plain(pieces: &[Piece]) -> Vec<Piece> {
    let at = |it: &Piece| Piece {
        entry: 0,
        ..it.clone()
    };
    pieces.iter().map(at).collect()
}

fn texts(pieces: &[Piece]) -> Vec<(String, bool)> {
    let text = |it: &Piece| (String::from_utf8_lossy(&it.bytes).into_owned(), it.partial);
    pieces.iter().map(text).collect()
}

#[test]
fn entries_are_lines_in_the_order_in_which_they_began() {
    let check = |log: &[Entry], expect: &[&str]| {
        let got: Vec<_> = texts(&all(log)).into_iter().map(|it| it.0).collect();
        assert_eq!(got, expect);
    };
    check(&[], &[]);
    check(&[out(1, "a\n"), err(2, "b\n")], &["a", "b"]);
    check(&[out(1, "\n"), out(2, "\n")], &["", ""]);
    check(&[out(1, "a"), out(1, "b"), out(1, "c\n")], &["abc"]);
    check(&[out(1, "a"), err(1, "e\n"), out(1, "b\n")], &["ab", "e"]);
    // Written by a program that ended within a line, and by the next one.
    check(&[out(1, "a"), out(2, "b\n")], &["a", "b"]);
    // What is not ended is not handed out.
    check(&[out(1, "a"), err(2, "b\n")], &[]);
}

#[test]
fn a_line_that_is_not_ended_holds_the_other_output_up_for_a_while_only() {
    let mut log = vec![out(1, "prompt")];
    log.extend((0..20).map(|n| err(10 + n, &format!("{n}\n"))));
    let got = texts(&all(&log));
    assert_eq!(got.len(), 21);
    assert_eq!(got[0], ("prompt".to_owned(), false));
    log.truncate(usize::try_from(JOIN).unwrap());
    assert_eq!(all(&log), []);
}

#[test]
fn long_lines_come_in_pieces_with_places_of_their_own() {
    let frame = "x".repeat(16 * 1024);
    let check = |frames: usize, end: &str, expect: &[(usize, bool)]| {
        let mut log = vec![out(7, &frame); frames];
        log.push(out(7, &format!("{end}\n")));
        log.push(out(8, "next\n"));
        let pieces = all(&log);
        let lens: Vec<_> = pieces[..pieces.len() - 1]
            .iter()
            .map(|it| (it.bytes.len(), it.partial))
            .collect();
        assert_eq!(lens, expect, "{frames} frames and {end:?}");
        for (at, piece) in pieces.iter().enumerate() {
            let rest = behind(piece.place, true, &log).unwrap();
            assert_eq!(rest, pieces[at + 1..], "behind piece {at}");
        }
        let rest = behind(Place::before(pieces[0].place.line), true, &log).unwrap();
        assert_eq!(rest, pieces);
    };
    const MAX: usize = LogLine::MAX_BYTES;
    check(1, "", &[(16 * 1024, false)]);
    check(4, "", &[(MAX, false)]);
    check(4, "y", &[(MAX, true), (1, false)]);
    check(9, "y", &[(MAX, true), (MAX, true), (16 * 1024 + 1, false)]);
}

#[test]
fn an_entry_longer_than_a_piece_is_cut() {
    let log = [out(
        1,
        &format!("{}\n", "x".repeat(LogLine::MAX_BYTES * 2 + 5)),
    )];
    let pieces = all(&log);
    let lens: Vec<_> = pieces.iter().map(|it| it.bytes.len()).collect();
    assert_eq!(lens, [LogLine::MAX_BYTES, LogLine::MAX_BYTES, 5]);
    assert_eq!(behind(pieces[0].place, true, &log).unwrap(), pieces[1..]);
}

#[test]
fn pieces_make_a_line_whatever_their_times() {
    let pieced = |entry: Entry| Entry {
        pieced: true,
        ..entry
    };
    let log = [
        out(1, "a"),
        err(1, "other\n"),
        out(2, "b"),
        out(3, "\n"),
        out(3, "next\n"),
    ]
    .map(pieced);
    let pieces = all(&log);
    let expect = ["ab", "other", "next"].map(|it| (it.to_owned(), false));
    assert_eq!(texts(&pieces), expect);
    let rest = behind(pieces[0].place, true, &log).unwrap();
    assert_eq!(rest, pieces[1..]);
}

#[test]
fn what_was_seen_is_told_from_what_is_new() {
    let log: Vec<_> = (0..20).map(|at| out(at, "line\n")).collect();
    let mut reader = Reader::new(Origin::Beginning, true, 0);
    read(&mut reader, &log);
    let marks: Vec<_> = log.iter().map(crate::logs::walk::mark).collect();
    let seen = reader.seen();
    let last = &marks[marks.len() - RECENT..];
    let has = |whole, (heard, mark): (usize, &u64)| seen.has(whole, heard as u64, *mark);
    assert!(last.iter().enumerate().all(|it| has(false, it)));
    assert!(marks.iter().enumerate().all(|it| has(true, it)));
    assert!(!has(false, (RECENT, &marks[0])));
    assert!(!has(true, (20, &marks[19])));
    // The log was begun anew.
    assert!(!has(false, (0, &marks[19])));
    assert!(!has(true, (0, &marks[1])));
}

#[test]
fn a_line_without_an_end_is_handed_out_in_time_and_closed_later() {
    let mut reader = Reader::new(Origin::Beginning, true, 0);
    assert_eq!(read(&mut reader, &[out(1, "some")]), []);
    let waits = reader.unended().unwrap();
    let mut pieces = Vec::new();
    reader.give_unended(|it| pieces.push(it));
    assert_eq!(texts(&pieces), [("some".to_owned(), true)]);
    assert_eq!(pieces[0].place, waits);
    assert_eq!(reader.unended(), None);
    // Its program has ended: in the same reading, and in another one.
    let log = [out(1, "some"), out(5, "next\n")];
    pieces = read(&mut reader, &log[1..]);
    assert_eq!(
        texts(&pieces),
        [(String::new(), false), ("next".to_owned(), false)]
    );
    assert_eq!(behind(waits, true, &log).unwrap(), pieces);
    let mut reader = Reader::new(Origin::Behind(waits), true, 0);
    assert_eq!(read(&mut reader, &log[..1]), []);
    let mut closing = Vec::new();
    reader.close(|it| closing.push(it));
    assert_eq!(texts(&closing), [(String::new(), false)]);
    // Once closed, nothing of it comes again.
    let rest = behind(closing[0].place, true, &log).unwrap();
    assert_eq!(texts(&rest), [("next".to_owned(), false)]);
}

#[test]
fn equal_and_backward_times_are_told_apart() {
    let log = [
        out(5, "same\n"),
        out(5, "same\n"),
        err(5, "same\n"),
        out(5, "same\n"),
        out(3, "earlier\n"),
        out(9, "later\n"),
        out(5, "same\n"),
        out(5, "other\n"),
        out(4, "end\n"),
    ];
    let pieces = all(&log);
    assert_eq!(pieces.len(), log.len());
    for (at, piece) in pieces.iter().enumerate() {
        let rest = behind(piece.place, true, &log);
        assert_eq!(rest.unwrap(), pieces[at + 1..], "behind line {at}");
    }
}

#[test]
fn what_was_taken_away_is_not_found() {
    let log: Vec<_> = (0..50).map(|n| out(n, &format!("{n}\n"))).collect();
    let pieces = all(&log);
    assert_eq!(behind(pieces[10].place, true, &log[11..]), None);
    let rest = behind(pieces[12].place, true, &log[11..]);
    assert_eq!(rest.map(|it| plain(&it)), Some(plain(&pieces[13..])));
    assert_eq!(behind(pieces[3].place, true, &[]), None);
}

#[test]
fn a_run_that_rotation_cut_is_known_by_a_line_alone() {
    // All of one second, as an engine has it that knows no finer times.
    let log: Vec<_> = (0..30).map(|n| out(7, &format!("{}\n", n % 25))).collect();
    let pieces = all(&log);
    let near = |at: usize, cut: usize| {
        let mut reader = Reader::new(Origin::Behind(pieces[at].place), true, 0);
        read(&mut reader, &log[cut..]);
        assert!(!reader.is_found());
        if !reader.is_near() {
            return None;
        }
        let mut reader = Reader::new(Origin::NearlyBehind(pieces[at].place), true, 0);
        let rest = read(&mut reader, &log[cut..]);
        assert!(reader.is_found());
        Some(texts(&rest))
    };
    assert_eq!(near(20, 10), Some(texts(&pieces[21..])));
    assert_eq!(near(9, 10), None, "it is gone");
    // `3` comes twice.
    assert_eq!(near(3, 2), None);
    assert_eq!(
        near(3, 4),
        Some(texts(&pieces[29..])),
        "the second is taken for the first, which is gone"
    );
}

#[test]
fn the_last_entries_alone_do_where_they_tell_enough() {
    let log: Vec<_> = (0..100).map(|n| out(n, &format!("{n}\n"))).collect();
    let pieces = all(&log);
    let window = |at: usize, last: usize| behind(pieces[at].place, false, &log[100 - last..]);
    assert_eq!(
        window(90, 40).map(|it| plain(&it)),
        Some(plain(&pieces[91..]))
    );
    assert_eq!(window(60, 40), None, "it is the first of them");
    assert_eq!(
        window(75, 40),
        None,
        "something may go on that began before"
    );
    assert_eq!(
        window(76, 40).map(|it| plain(&it)),
        Some(plain(&pieces[77..]))
    );
    // One time for all of them: where its lines begin is not in the window.
    let log: Vec<_> = (0..100).map(|n| out(7, &format!("{n}\n"))).collect();
    let place = all(&log)[90].place;
    assert_eq!(behind(place, false, &log[50..]), None);
}

#[test]
fn since_a_time_misses_nothing_that_was_written_behind_it() {
    let log = [out(1, "a\n"), out(5, "b\n"), out(2, "c\n"), out(9, "d\n")];
    let check = |ns: i64, expect: &[&str]| {
        let mut reader = Reader::new(Origin::Since(time(ns)), true, 0);
        let got: Vec<_> = texts(&read(&mut reader, &log))
            .into_iter()
            .map(|it| it.0)
            .collect();
        assert_eq!(got, expect, "since {ns}");
        assert_eq!(reader.is_found(), !expect.is_empty());
    };
    check(0, &["a", "b", "c", "d"]);
    check(5, &["b", "c", "d"]);
    check(6, &["d"]);
    check(10, &[]);
}

/// A line of an output, at a time, of so many entries.
#[derive(Clone, Debug)]
struct Written {
    stderr: bool,
    at: i64,
    text: u8,
    entries: usize,
    ended: bool,
    /// How many entries of the other output come between, each.
    apart: usize,
}

fn written() -> impl Strategy<Value = Written> {
    (
        any::<bool>(),
        0..6_i64,
        0..3_u8,
        prop_oneof![5 => Just(1_usize), 1 => 2..5_usize],
        prop_oneof![9 => Just(true), 1 => Just(false)],
        0..3_usize,
    )
        .prop_map(|(stderr, at, text, entries, ended, apart)| Written {
            stderr,
            at,
            text,
            entries,
            ended,
            apart,
        })
}

/// A log in which lines of both outputs are woven into each other and times are equal or go backwards; and where rotation can cut it, at the beginnings of lines with none open.
fn log() -> impl Strategy<Value = (Vec<Entry>, Vec<usize>)> {
    proptest::collection::vec(written(), 1..60).prop_map(|lines| {
        let mut log = Vec::new();
        let mut cuts = vec![0];
        for (number, line) in lines.iter().enumerate() {
            let source = |other: bool| {
                if line.stderr == other {
                    LogSource::Stdout
                } else {
                    LogSource::Stderr
                }
            };
            let ns = line.at * 1000 + i64::try_from(number / 10).unwrap();
            for part in 1..=line.entries {
                let end = if part == line.entries && line.ended {
                    "\n"
                } else {
                    ""
                };
                log.push(entry(ns, source(false), &format!("{}{end}", line.text)));
                for between in 0..line.apart * usize::from(part < line.entries) {
                    let text = format!("between {number} {part} {between}\n");
                    log.push(entry(ns + 500, source(true), &text));
                }
            }
            if !line.ended {
                // Its program ended; the next one writes at another time.
                log.push(entry(ns + 700, source(false), &format!("new {number}\n")));
            }
            cuts.push(log.len());
        }
        (log, cuts)
    })
}

proptest! {
    #[test]
    fn reading_on_gives_the_rest_or_says_that_it_cannot(
        (log, cuts) in log(),
        place in any::<proptest::sample::Index>(),
        cut in any::<proptest::sample::Index>(),
        last in any::<proptest::sample::Index>(),
    ) {
        let pieces = all(&log);
        prop_assume!(!pieces.is_empty());
        let at = place.index(pieces.len());
        let key = pieces[at].place;
        // The same texts at the same times in the same order, once more and apart: nothing tells these from each other.
        prop_assume!(pieces.iter().filter(|it| it.place == key).count() == 1);
        let rest = plain(&pieces[at + 1..]);
        // The whole log.
        let got = behind(key, true, &log);
        prop_assert_eq!(got.map(|it| plain(&it)), Some(rest.clone()));
        // What rotation left of it. A line that is the first then, and like one that is gone in text and time, is taken for it.
        let from = cuts[cut.index(cuts.len())];
        let twins = pieces.iter().filter(|it| it.place.line.own == key.line.own).count();
        if let Some(got) = behind(key, true, &log[from..]).filter(|_| twins == 1) {
            prop_assert_eq!(plain(&got), rest.clone());
        }
        // Its last entries, from anywhere.
        let from = last.index(log.len());
        if let Some(got) = behind(key, false, &log[from..]) {
            prop_assert_eq!(plain(&got), rest);
        }
    }

    #[test]
    fn every_name_that_is_sure_in_a_part_is_the_one_of_the_whole(
        (log, _) in log(),
        last in any::<proptest::sample::Index>(),
    ) {
        let from = last.index(log.len());
        let mut whole = Walk::new(true);
        let names: Vec<_> = log.iter().map(|it| whole.step(it).begins).collect();
        let mut part = Walk::new(false);
        for (entry, name) in log[from..].iter().zip(&names[from..]) {
            let begin = part.step(entry).begins;
            if let Some(begin) = begin.filter(|it| it.known) {
                prop_assert!(name.is_some(), "it goes on here");
                if begin.sure {
                    prop_assert_eq!(Some(begin.key), name.map(|it| it.key));
                }
            }
        }
    }
}
