//! Followers of scripted logs, whatever goes wrong on the way. Time is the test's own.

use futures::StreamExt;
use grid_platform_api::{LogStream, Timestamp};
use tokio::time::timeout;

use super::*;
use crate::logs::fake::{Cut, Fake, Shared, at};

async fn follow(fake: &Arc<Fake>, cursor: LogCursor) -> LogStream {
    let source = Arc::new(Shared(fake.clone()));
    stream(source, &fake.id, cursor).await.unwrap()
}

async fn refused(fake: &Arc<Fake>, cursor: LogCursor) -> ErrorKind {
    let source = Arc::new(Shared(fake.clone()));
    let refused = stream(source, &fake.id, cursor).await.err();
    let refused = refused.expect("it is refused");
    assert!(refused.hint().is_some());
    refused.kind()
}

async fn next(log: &mut LogStream) -> LogItem {
    let item = timeout(Duration::from_secs(600), log.next()).await;
    item.expect("something comes").expect("it goes on").unwrap()
}

fn shown(item: &LogItem) -> String {
    match item {
        LogItem::Line(line) if line.partial => format!("{}…", line.text()),
        LogItem::Line(line) => line.text(),
        LogItem::Gap { from, to, reason } => {
            assert_ne!(from, to);
            assert!(!reason.ends_with('.'));
            let first = reason.split(' ').take(3).collect::<Vec<_>>();
            format!("gap: {}", first.join(" "))
        }
    }
}

fn position(item: &LogItem) -> LogPosition {
    match item {
        LogItem::Line(line) => line.position.clone(),
        LogItem::Gap { to, .. } => to.clone(),
    }
}

async fn take(log: &mut LogStream, count: usize) -> Vec<LogItem> {
    let mut items = Vec::new();
    while items.len() < count {
        items.push(next(log).await);
    }
    items
}

/// The next items are these.
async fn gives(log: &mut LogStream, expect: &[&str]) {
    let items = take(log, expect.len()).await;
    let items: Vec<_> = items.iter().map(shown).collect();
    assert_eq!(items, expect);
}

/// The next items are the lines of these milliseconds.
async fn gives_lines(log: &mut LogStream, ms: impl IntoIterator<Item = i64>) {
    let expect: Vec<_> = ms.into_iter().map(|ms| format!("at {ms}")).collect();
    let expect: Vec<_> = expect.iter().map(String::as_str).collect();
    gives(log, &expect).await;
}

/// Nothing comes for minutes.
async fn gives_nothing(log: &mut LogStream) {
    let item = timeout(Duration::from_secs(300), log.next()).await;
    assert!(
        item.is_err(),
        "{:?}",
        item.unwrap().map(|it| it.map(|it| shown(&it)))
    );
}

async fn ends(log: &mut LogStream) {
    let end = timeout(Duration::from_secs(60), log.next()).await;
    assert!(end.expect("it ends").is_none());
}

#[tokio::test(start_paused = true)]
async fn every_line_comes_once_and_in_order_while_it_is_written() {
    let fake = Fake::started();
    fake.lines(0..1000);
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, 0..1000).await;
    fake.lines(1000..2000);
    gives_lines(&mut log, 1000..2000).await;
    gives_nothing(&mut log).await;
    fake.lines([2000]);
    gives_lines(&mut log, [2000]).await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_begins_where_it_is_told() {
    let fake = Fake::started();
    fake.lines(0..300);
    let begun = async |cursor, from: i64| {
        let mut log = follow(&fake, cursor).await;
        gives_lines(&mut log, from..300).await;
        log
    };
    let mut logs = vec![
        begun(LogCursor::Start, 0).await,
        begun(LogCursor::End, 300).await,
        begun(LogCursor::Tail(0), 300).await,
        begun(LogCursor::Tail(1), 299).await,
        begun(LogCursor::Tail(250), 50).await,
        begun(LogCursor::Tail(300), 0).await,
        begun(LogCursor::Tail(usize::MAX), 0).await,
        begun(LogCursor::Since(at(-9000)), 0).await,
        begun(LogCursor::Since(at(123)), 123).await,
    ];
    fake.lines([300]);
    for log in &mut logs {
        gives_lines(log, [300]).await;
    }
    let mut log = follow(&fake, LogCursor::Since(at(2000))).await;
    gives_nothing(&mut log).await;
    fake.lines([1999, 2001]);
    gives_lines(&mut log, [2001]).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_log_has_an_end_too() {
    for cursor in [LogCursor::End, LogCursor::Tail(5), LogCursor::Start] {
        let fake = Fake::started();
        let mut log = follow(&fake, cursor).await;
        gives_nothing(&mut log).await;
        fake.lines([1]);
        gives_lines(&mut log, [1]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_behind_every_position() {
    for is_old in [true, false] {
        let fake = Fake::started();
        if !is_old {
            fake.is_new();
        }
        // Of one time, across a second, empty, longer than a piece, and of two entries.
        for (ms, line) in [
            (0, "a"),
            (0, "b"),
            (0, ""),
            (999, "c"),
            (1000, "d"),
            (1000, "e"),
        ] {
            fake.line(at(ms), line);
        }
        fake.line(at(1001), &"x".repeat(150_000));
        fake.line(at(1002), &"y".repeat(16 * 1024));
        fake.line(at(1003), "end");
        let mut log = follow(&fake, LogCursor::Start).await;
        let all = take(&mut log, 11).await;
        assert_eq!(shown(&all[10]), "end");
        for (n, item) in all.iter().enumerate() {
            let mut log = follow(&fake, LogCursor::After(position(item))).await;
            assert_eq!(
                take(&mut log, 10 - n).await,
                all[n + 1..],
                "behind item {n}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_break_off_anywhere_lose_nothing_and_repeat_nothing() {
    for cut in [Cut::Clean as fn(usize) -> Cut, Cut::Broken] {
        for after in 0..130 {
            let fake = Fake::started();
            // Three lines of one time before a second's end, and some behind it.
            fake.lines([1, 997, 998]);
            for line in ["a", "b", "c"] {
                fake.line(at(999), line);
            }
            // The first request looks whether the log can be read.
            fake.cut(cut(usize::MAX));
            fake.cut(cut(after));
            fake.cut(cut(after));
            let mut log = follow(&fake, LogCursor::Start).await;
            gives(&mut log, &["at 1", "at 997", "at 998", "a", "b", "c"]).await;
            fake.lines([1000, 2500]);
            gives_lines(&mut log, [1000, 2500]).await;
            gives_nothing(&mut log).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_away_is_waited_for_without_a_hurry() {
    let fake = Fake::started();
    fake.lines([1]);
    fake.cut(Cut::Clean(usize::MAX));
    fake.cut(Cut::Broken(38));
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, [1]).await;
    fake.away(100);
    fake.asked();
    let begun = Instant::now();
    fake.lines([2]);
    gives_lines(&mut log, [2]).await;
    // It grows to five seconds.
    assert!(begun.elapsed() > Duration::from_secs(400));
    assert!(fake.asked().len() <= 102);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_stays_is_told() {
    let fake = Fake::started();
    fake.refuse(403, "pods/log is forbidden");
    let kind = refused(&fake, LogCursor::Start).await;
    assert_eq!(kind, ErrorKind::PermissionDenied);
    fake.lines([1]);
    fake.cut(Cut::Clean(usize::MAX));
    fake.cut(Cut::Clean(38));
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, [1]).await;
    (0..STRIKES).for_each(|_| fake.refuse(403, "pods/log is forbidden"));
    let error = log.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    ends(&mut log).await;
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_over_restarts_without_a_gap() {
    let fake = Fake::started();
    fake.lines([1, 2]);
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, [1, 2]).await;
    fake.lines([3]);
    fake.end();
    gives_lines(&mut log, [3]).await;
    fake.back_off();
    gives_nothing(&mut log).await;
    fake.start();
    fake.lines([500]);
    gives_lines(&mut log, [500]).await;
    // Before anybody is told of it.
    fake.lines([600]);
    fake.over();
    fake.run();
    fake.lines([700]);
    gives_lines(&mut log, [600]).await;
    fake.tell();
    gives_lines(&mut log, [700]).await;
    // While the API is away.
    fake.away(3);
    fake.lines([800]);
    fake.end();
    fake.start();
    fake.lines([900]);
    gives_lines(&mut log, [800, 900]).await;
    gives_nothing(&mut log).await;
}

#[tokio::test(start_paused = true)]
async fn it_begins_with_the_run_before() {
    let fake = Fake::started();
    fake.lines([1, 2]);
    fake.end();
    fake.start();
    let cursors = [
        (LogCursor::Start, &[1, 2][..]),
        (LogCursor::Tail(1), &[2]),
        (LogCursor::Tail(9), &[1, 2]),
        (LogCursor::Since(at(2)), &[2]),
        (LogCursor::End, &[]),
    ];
    let mut logs = Vec::new();
    for (cursor, expect) in cursors {
        let mut log = follow(&fake, cursor).await;
        gives_lines(&mut log, expect.iter().copied()).await;
        logs.push(log);
    }
    fake.lines([3]);
    for log in &mut logs {
        gives_lines(log, [3]).await;
    }
    // While it waits, the API takes it for both.
    fake.end();
    fake.back_off();
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, [3]).await;
    gives_nothing(&mut log).await;
}

#[tokio::test(start_paused = true)]
async fn what_two_restarts_took_is_a_gap() {
    let fake = Fake::started();
    fake.lines([1]);
    let mut log = follow(&fake, LogCursor::Start).await;
    let first = position(&next(&mut log).await);
    for ms in [1000, 2000] {
        fake.end();
        fake.start();
        fake.lines([ms]);
    }
    let mut log = follow(&fake, LogCursor::After(first.clone())).await;
    let gap = next(&mut log).await;
    let LogItem::Gap { from, to, .. } = &gap else {
        panic!("{gap:?}");
    };
    assert_eq!(*from, first);
    gives_lines(&mut log, [1000, 2000]).await;
    // The place where the gap ends is one to go on behind, too.
    let mut log = follow(&fake, LogCursor::After(to.clone())).await;
    gives_lines(&mut log, [1000, 2000]).await;
}

#[tokio::test(start_paused = true)]
async fn what_rotation_took_is_a_gap() {
    let fake = Fake::started();
    fake.lines(0..10);
    fake.cut(Cut::Clean(usize::MAX));
    fake.cut(Cut::Broken(5 * 37));
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, 0..5).await;
    let middle = position(&next(&mut follow(&fake, LogCursor::Tail(5)).await).await);
    fake.rotate();
    fake.lines([10, 11]);
    gives(&mut log, &["gap: the cluster does", "at 10", "at 11"]).await;
    let mut log = follow(&fake, LogCursor::After(middle)).await;
    gives(&mut log, &["gap: the cluster does", "at 10", "at 11"]).await;
    // The same when nothing is in the new file yet.
    fake.rotate();
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_nothing(&mut log).await;
    fake.lines([20]);
    gives_lines(&mut log, [20]).await;
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_falls_silent_is_asked_again() {
    let fake = Fake::started();
    fake.lines([1]);
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, [1]).await;
    fake.asked();
    gives_nothing(&mut log).await;
    let asked = fake.asked();
    assert!((5..20).contains(&asked.len()), "{asked:?}");
    assert!(asked.iter().all(|it| it.follow && it.since == Some(at(0))));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_put_back_costs_no_line() {
    let fake = Fake::started();
    fake.lines([100, 900, 300]);
    fake.cut(Cut::Clean(usize::MAX));
    fake.cut(Cut::Clean(38 + 38 + 37));
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, [100, 900, 300]).await;
    fake.lines([301, 302]);
    gives_lines(&mut log, [301, 302]).await;
    fake.lines([1300]);
    gives_lines(&mut log, [1300]).await;
    gives_nothing(&mut log).await;
}

#[tokio::test(start_paused = true)]
async fn another_pod_is_a_gap_and_all_of_its_log() {
    let fake = Fake::started();
    fake.lines([1]);
    let mut log = follow(&fake, LogCursor::Start).await;
    let first = position(&next(&mut log).await);
    fake.lines([2]);
    fake.stop();
    gives_lines(&mut log, [2]).await;
    gives_nothing(&mut log).await;
    fake.asked();
    for cursor in [LogCursor::Start, LogCursor::After(first.clone())] {
        let kind = refused(&fake, cursor).await;
        assert_eq!(kind, ErrorKind::LogsUnavailable);
    }
    fake.new_pod("pod-2");
    gives_nothing(&mut log).await;
    assert!(fake.asked().is_empty(), "there is nothing to ask for");
    fake.start();
    fake.lines([5000]);
    gives(&mut log, &["gap: the pod was", "at 5000"]).await;
    let mut log = follow(&fake, LogCursor::After(first)).await;
    gives(&mut log, &["gap: the pod was", "at 5000"]).await;
    gives_nothing(&mut log).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_replaced_unseen_is_no_line_twice() {
    let fake = Fake::started();
    fake.lines([1]);
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, [1]).await;
    fake.new_pod("pod-2");
    fake.start();
    fake.lines([1, 2]);
    gives(&mut log, &["gap: the pod was", "at 1", "at 2"]).await;
    gives_nothing(&mut log).await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_node_is_removed() {
    let fake = Fake::started();
    fake.lines([1]);
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, [1]).await;
    fake.remove();
    ends(&mut log).await;
    assert_eq!(refused(&fake, LogCursor::Start).await, ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_platform_is_closed() {
    let fake = Fake::started();
    fake.lines([1]);
    let mut log = follow(&fake, LogCursor::Start).await;
    gives_lines(&mut log, [1]).await;
    fake.close();
    ends(&mut log).await;
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_a_stopped_node_is_removed() {
    let fake = Fake::started();
    let mut log = follow(&fake, LogCursor::End).await;
    fake.stop();
    gives_nothing(&mut log).await;
    fake.remove();
    ends(&mut log).await;
}

#[tokio::test(start_paused = true)]
async fn positions_of_others_are_refused() {
    let fake = Fake::started();
    let other = NodeUid::from_bytes([8; 16]);
    for text in ["", "no position", &format!("v1.{other}.pod-1.1.0")] {
        let kind = refused(&fake, LogCursor::After(LogPosition::new(text))).await;
        assert_eq!(kind, ErrorKind::InvalidConfig, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_without_its_end_comes_after_a_while_and_goes_on() {
    let fake = Fake::started();
    fake.is_new();
    let mut log = follow(&fake, LogCursor::Start).await;
    fake.entry(at(1), b"one", false);
    gives(&mut log, &["one…"]).await;
    fake.entry(at(2), b"two", false);
    let middle = next(&mut log).await;
    assert_eq!(shown(&middle), "two…");
    let mut end = follow(&fake, LogCursor::End).await;
    let mut after = follow(&fake, LogCursor::After(position(&middle))).await;
    gives_nothing(&mut log).await;
    fake.entry(at(3), b"three", true);
    fake.lines([4]);
    for log in [&mut log, &mut end, &mut after] {
        gives(log, &["three", "at 4"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_run_ends_its_last_line() {
    let fake = Fake::started();
    let mut log = follow(&fake, LogCursor::Start).await;
    fake.entry(at(1), b"one", false);
    gives(&mut log, &["one…"]).await;
    fake.end();
    gives(&mut log, &[""]).await;
    fake.start();
    fake.entry(at(1001), b"last words", false);
    fake.end();
    gives(&mut log, &["last words"]).await;
    gives_nothing(&mut log).await;
    fake.start();
    fake.lines([2001]);
    gives_lines(&mut log, [2001]).await;
}

#[tokio::test(start_paused = true)]
async fn lines_have_the_time_at_which_they_were_written() {
    let fake = Fake::started();
    fake.lines([1, 2]);
    let mut log = follow(&fake, LogCursor::Start).await;
    let times: Vec<Option<Timestamp>> = take(&mut log, 2)
        .await
        .iter()
        .map(|it| match it {
            LogItem::Line(line) => line.at,
            LogItem::Gap { .. } => None,
        })
        .collect();
    assert_eq!(times, [Some(at(1)), Some(at(2))]);
}
