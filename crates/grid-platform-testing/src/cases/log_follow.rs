//! A log as it is written.

use std::time::Duration;

use futures::StreamExt;
use grid_platform_api::{
    Bytes, DataPolicy, ErrorKind, LogCursor, LogItem, LogLine, LogPosition, LogSource, RestartMode,
    SpawnedNode, Timestamp,
};

use super::cases;
use crate::{
    Context, Failed, Outcome, PATIENCE, eventually, fails,
    probe::{boot_line, flood_line, flood_lines, giant_line, numbered_line},
    quickly, read_until,
};

cases! {
    a_follower_sees_every_line_once_and_in_order []
    a_follower_from_the_end_sees_what_is_new []
    a_follower_of_a_tail_begins_there []
    a_follower_goes_on_behind_a_position []
    a_follower_goes_on_in_another_adapter [nodes_outlive_adapter]
    a_follower_goes_on_over_a_restart [on_failure]
    a_follower_goes_on_over_stop_and_start [logs_after_stop]
    a_follower_ends_when_the_node_is_removed []
    two_followers_see_the_same []
    any_bytes_reach_a_follower []
    a_line_of_a_megabyte_comes_in_pieces []
    a_flood_reaches_a_follower_whole_or_with_a_gap []
    a_follower_that_does_not_read_holds_nobody_up []
    what_retention_took_is_a_gap [log_budget]
    a_position_behind_retention_is_a_gap [log_budget]
    a_position_of_another_node_is_refused []
    a_follower_since_a_time_misses_nothing [logs_since]
    a_line_tells_its_output [log_streams]
    lines_have_their_times [logs_since]
}

/// The whole lines among items, pieces put together. A gap fails.
fn lines(items: &[LogItem]) -> Outcome<Vec<String>> {
    let mut lines = Vec::new();
    let mut piece = Vec::new();
    for item in items {
        let line = line_of(item)?;
        piece.extend_from_slice(&line.bytes);
        if !line.partial {
            lines.push(String::from_utf8_lossy(&std::mem::take(&mut piece)).into_owned());
        }
    }
    Ok(lines)
}

fn line_of(item: &LogItem) -> Outcome<&LogLine> {
    match item {
        LogItem::Line(line) => Ok(line),
        LogItem::Gap { reason, .. } => {
            Err(Failed::new(format!("a gap where none is due: {reason}")))
        }
    }
}

/// Whether a whole line of this text is the last thing that came.
fn ends_with(text: impl Into<String>) -> impl Fn(&[LogItem]) -> bool {
    let text = Bytes::from(text.into());
    move |items| matches!(items.last(), Some(LogItem::Line(line)) if line.bytes == text)
}

fn position(item: Option<&LogItem>) -> Outcome<LogPosition> {
    let line = line_of(item.ok_or("nothing was read")?)?;
    Ok(line.position.clone())
}

fn numbered(from: u64, to: u64) -> Vec<String> {
    (from..=to).map(numbered_line).collect()
}

async fn a_follower_sees_every_line_once_and_in_order(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-1000"])?).await?;
    let platform = c.platform();
    let mut log = platform
        .follow_logs(&node.node_id, LogCursor::Start)
        .await?;
    let mut seen = read_until(&mut log, ends_with(numbered_line(1000))).await?;
    // What is written while it follows comes behind what was there.
    for from in [1001, 2001, 3001] {
        c.ask(&node, &format!("lines={from}-{}", from + 999))
            .await?;
        seen.extend(read_until(&mut log, ends_with(numbered_line(from + 999))).await?);
    }
    let seen = lines(&seen)?;
    assert_eq!(seen[0], boot_line(1));
    assert_eq!(seen[1..], numbered(1, 4000));
    Ok(())
}

/// A node that wrote a hundred lines, all of which are in its log: what a program wrote is on its way for a moment on platforms that
/// take it from a pipe.
async fn with_a_hundred_lines(c: &Context) -> Outcome<SpawnedNode> {
    let node = c.spawn(c.probe("n", &["lines=1-100"])?).await?;
    c.follow(
        &node.node_id,
        LogCursor::Start,
        ends_with(numbered_line(100)),
    )
    .await?;
    Ok(node)
}

async fn a_follower_from_the_end_sees_what_is_new(c: &Context) -> Outcome {
    let node = with_a_hundred_lines(c).await?;
    let platform = c.platform();
    let mut log = platform.follow_logs(&node.node_id, LogCursor::End).await?;
    c.ask(&node, "lines=101-103").await?;
    let seen = read_until(&mut log, ends_with(numbered_line(103))).await?;
    assert_eq!(lines(&seen)?, numbered(101, 103));
    Ok(())
}

async fn a_follower_of_a_tail_begins_there(c: &Context) -> Outcome {
    let node = with_a_hundred_lines(c).await?;
    for (tail, from) in [(1, 100), (7, 94), (100, 1)] {
        let read = c.follow(
            &node.node_id,
            LogCursor::Tail(tail),
            ends_with(numbered_line(100)),
        );
        assert_eq!(
            lines(&read.await?)?,
            numbered(from, 100),
            "a tail of {tail}"
        );
    }
    let platform = c.platform();
    let mut log = platform
        .follow_logs(&node.node_id, LogCursor::Tail(0))
        .await?;
    c.ask(&node, "say=new").await?;
    assert_eq!(
        lines(&read_until(&mut log, ends_with("new")).await?)?,
        ["new"]
    );
    Ok(())
}

async fn a_follower_goes_on_behind_a_position(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-50"])?).await?;
    let id = &node.node_id;
    let all = c
        .follow(id, LogCursor::Start, ends_with(numbered_line(50)))
        .await?;
    for at in [0, 1, 25, 49] {
        let after = LogCursor::After(position(all.get(at))?);
        let rest = c.follow(id, after, ends_with(numbered_line(50))).await?;
        assert_eq!(lines(&rest)?, lines(&all[at + 1..])?, "behind item {at}");
    }
    let platform = c.platform();
    let last = LogCursor::After(position(all.last())?);
    let mut log = platform.follow_logs(id, last).await?;
    c.ask(&node, "say=new").await?;
    assert_eq!(
        lines(&read_until(&mut log, ends_with("new")).await?)?,
        ["new"]
    );
    Ok(())
}

async fn a_follower_goes_on_in_another_adapter(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-20"])?).await?;
    let id = &node.node_id;
    let mut seen = c
        .follow(id, LogCursor::Start, ends_with(numbered_line(20)))
        .await?;
    for from in [21, 41, 61] {
        let after = LogCursor::After(position(seen.last())?);
        c.away(c.ask(&node, &format!("lines={from}-{}", from + 19)))
            .await?;
        seen.extend(
            c.follow(id, after, ends_with(numbered_line(from + 19)))
                .await?,
        );
    }
    assert_eq!(lines(&seen)?[1..], numbered(1, 80));
    Ok(())
}

async fn a_follower_goes_on_over_a_restart(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.restart(quickly(RestartMode::OnFailure));
    let node = c.spawn(config).await?;
    let platform = c.platform();
    let mut log = platform
        .follow_logs(&node.node_id, LogCursor::Start)
        .await?;
    read_until(&mut log, ends_with(boot_line(1))).await?;
    c.ask(&node, "exit=1").await?;
    let seen = read_until(&mut log, ends_with(boot_line(2))).await?;
    assert_eq!(lines(&seen)?, [boot_line(2)]);
    Ok(())
}

async fn a_follower_goes_on_over_stop_and_start(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.build()?;
    let node = c.platform().spawn_node(config.clone()).await?;
    c.answers(&node).await?;
    let platform = c.platform();
    let mut log = platform
        .follow_logs(&node.node_id, LogCursor::Start)
        .await?;
    read_until(&mut log, ends_with(boot_line(1))).await?;
    platform.stop_node(&node.node_id).await?;
    platform.spawn_node(config).await?;
    let seen = lines(&read_until(&mut log, ends_with(boot_line(2))).await?)?;
    assert!(seen.len() <= 2, "the signal and the boot, once: {seen:?}");
    Ok(())
}

async fn a_follower_ends_when_the_node_is_removed(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-3"])?).await?;
    let platform = c.platform();
    let mut log = platform
        .follow_logs(&node.node_id, LogCursor::Start)
        .await?;
    read_until(&mut log, ends_with(numbered_line(3))).await?;
    platform
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await?;
    let rest = async {
        while let Some(item) = log.next().await {
            item?;
        }
        Ok::<_, Failed>(())
    };
    tokio::time::timeout(PATIENCE, rest)
        .await
        .map_err(|_| "the log goes on behind the node's end")?
}

async fn two_followers_see_the_same(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-500"])?).await?;
    let one = c.follow(
        &node.node_id,
        LogCursor::Start,
        ends_with(numbered_line(1000)),
    );
    let two = c.follow(
        &node.node_id,
        LogCursor::Start,
        ends_with(numbered_line(1000)),
    );
    let write = c.ask(&node, "lines=501-1000");
    let (one, two, written) = tokio::join!(one, two, write);
    written?;
    let one = one?;
    assert_eq!(one, two?);
    assert_eq!(lines(&one)?.len(), 1001);
    Ok(())
}

async fn any_bytes_reach_a_follower(c: &Context) -> Outcome {
    // Every byte but the line feed.
    let all: Vec<u8> = (0..=255).filter(|b| *b != b'\n').collect();
    let hex: String = all.iter().map(|b| format!("{b:02x}")).collect();
    let node = c.spawn(c.probe("n", &["say=before"])?).await?;
    c.ask(&node, &format!("raw={hex}")).await?;
    c.ask(&node, "say=after").await?;
    let items = c
        .follow(&node.node_id, LogCursor::Start, ends_with("after"))
        .await?;
    let found = items
        .iter()
        .any(|i| matches!(i, LogItem::Line(line) if line.bytes == all));
    assert!(found, "{items:?}");
    assert_eq!(items.len(), 4, "one line is one line, whatever is in it");
    Ok(())
}

async fn a_line_of_a_megabyte_comes_in_pieces(c: &Context) -> Outcome {
    let size = match c.survey().log_budget {
        Some(budget) => usize::try_from(budget / 2).map_err(|e| e.to_string())?,
        None => 3 << 20,
    }
    .min(3 << 20);
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.ask(&node, &format!("giant={size}")).await?;
    c.ask(&node, "say=after").await?;
    let items = c
        .follow(&node.node_id, LogCursor::Start, ends_with("after"))
        .await?;
    let mut whole = Vec::new();
    for item in &items[1..items.len() - 1] {
        let line = line_of(item)?;
        assert!(
            line.bytes.len() <= LogLine::MAX_BYTES,
            "{}",
            line.bytes.len()
        );
        whole.extend_from_slice(&line.bytes);
    }
    assert!(
        whole == giant_line(size),
        "{} bytes of {size} came",
        whole.len()
    );
    // A position within the line is one to go on behind, too.
    let after = LogCursor::After(position(items.get(2))?);
    let rest = c.follow(&node.node_id, after, ends_with("after")).await?;
    assert_eq!(rest, items[3..]);
    Ok(())
}

/// Checks the lines of a flood: in order, none twice, and none missing without a gap. Gives how many came.
fn check_flood(items: &[LogItem], from_the_first: bool) -> Outcome<u64> {
    let mut next = 1;
    let mut gap = !from_the_first;
    let mut came = 0;
    for item in items {
        match item {
            LogItem::Gap { .. } => gap = true,
            LogItem::Line(line) => {
                let text = line.text();
                let number = text.strip_prefix("flood ").and_then(|t| t.get(..12));
                let Some(number) = number.and_then(|n| n.parse::<u64>().ok()) else {
                    continue;
                };
                // A gap may end within a line; then its rest is no flood line and was left out above.
                if number != next && !(gap && number > next) {
                    return Err(Failed::new(format!(
                        "line {number} came where {next} was due"
                    )));
                }
                assert_eq!(text, flood_line(number).as_str());
                (next, gap, came) = (number + 1, false, came + 1);
            }
        }
    }
    Ok(came)
}

async fn a_flood_reaches_a_follower_whole_or_with_a_gap(c: &Context) -> Outcome {
    let bytes = 4 << 20;
    let node = c.spawn(c.probe("n", &["say=early"])?).await?;
    let platform = c.platform();
    let mut log = platform
        .follow_logs(&node.node_id, LogCursor::Start)
        .await?;
    // It begins with the oldest line that is retained: only behind one that it has seen can it miss any.
    read_until(&mut log, ends_with("early")).await?;
    let reading = read_until(&mut log, ends_with(flood_line(flood_lines(bytes))));
    let flood = format!("flood={bytes}");
    let (items, flooded) = tokio::join!(reading, c.ask(&node, &flood));
    flooded?;
    let items = items?;
    let came = check_flood(&items, true)?;
    if c.survey().log_budget.is_none() {
        assert_eq!(came, flood_lines(bytes), "nothing took any");
    }
    Ok(())
}

async fn a_follower_that_does_not_read_holds_nobody_up(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    let platform = c.platform();
    let _unread = platform
        .follow_logs(&node.node_id, LogCursor::Start)
        .await?;
    // Far more than any pipe or channel holds; it answers when all of it is written.
    c.ask(&node, "flood=4000000").await?;
    assert_eq!(c.ask(&node, "boot").await?, "1");
    platform.get_node_status(&node.node_id).await?;
    platform.stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await
}

async fn what_retention_took_is_a_gap(c: &Context) -> Outcome {
    let budget = c.survey().log_budget.unwrap_or_default();
    let node = c.spawn(c.probe("n", &[])?).await?;
    let bytes = budget * 4;
    c.ask(&node, &format!("flood={bytes}")).await?;
    let last = flood_line(flood_lines(bytes));
    // Retention may take its time; it has to come.
    let gap = eventually(PATIENCE, "retention", || async {
        let read = c.follow(&node.node_id, LogCursor::Start, ends_with(last.as_str()));
        let came = check_flood(&read.await?, false)?;
        Ok((came * 100 <= budget + (2 << 20)).then_some(came))
    });
    let came = gap.await?;
    assert!(came > 0);
    assert_eq!(c.platform().get_logs(&node.node_id, 1).await?, [last]);
    Ok(())
}

async fn a_position_behind_retention_is_a_gap(c: &Context) -> Outcome {
    let budget = c.survey().log_budget.unwrap_or_default();
    let node = c.spawn(c.probe("n", &["say=early"])?).await?;
    let id = &node.node_id;
    let early = c.follow(id, LogCursor::Start, ends_with("early")).await?;
    let after = position(early.last())?;
    let bytes = budget * 4;
    c.ask(&node, &format!("flood={bytes}")).await?;
    let last = flood_line(flood_lines(bytes));
    eventually(PATIENCE, "retention to take the position", || async {
        let cursor = LogCursor::After(after.clone());
        let items = c.follow(id, cursor, ends_with(last.as_str())).await?;
        check_flood(&items, true)?;
        Ok(match items.first() {
            Some(LogItem::Gap { from, to, reason }) => {
                assert_eq!(*from, after, "the gap begins where the reader was");
                assert_ne!(from, to);
                assert!(!reason.is_empty() && !reason.ends_with('.'), "{reason:?}");
                Some(())
            }
            _ => None,
        })
    })
    .await
}

async fn a_position_of_another_node_is_refused(c: &Context) -> Outcome {
    let one = c.spawn(c.probe("one", &[])?).await?;
    let two = c.spawn(c.probe("two", &["lines=1-100"])?).await?;
    let of_two = c
        .follow(
            &two.node_id,
            LogCursor::Start,
            ends_with(numbered_line(100)),
        )
        .await?;
    let foreign = position(of_two.last())?;
    for position in [
        foreign,
        LogPosition::new("no position"),
        LogPosition::new(""),
    ] {
        let followed = c
            .platform()
            .follow_logs(&one.node_id, LogCursor::After(position))
            .await;
        let error = fails(followed.map(drop), ErrorKind::InvalidConfig)?;
        assert!(!error.is_retryable());
    }
    Ok(())
}

async fn a_follower_since_a_time_misses_nothing(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["say=before"])?).await?;
    // So that the line before and the moment asked for differ by any clock.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let since = Timestamp::now();
    c.ask(&node, "lines=1-3").await?;
    let read = c.follow(
        &node.node_id,
        LogCursor::Since(since),
        ends_with(numbered_line(3)),
    );
    let seen = lines(&read.await?)?;
    let from = seen.len().checked_sub(3).ok_or("lines are missing")?;
    assert_eq!(seen[from..], numbered(1, 3));
    // Earlier ones may come, none twice.
    assert!(from <= 2, "{seen:?}");
    Ok(())
}

async fn a_line_tells_its_output(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["say=out", "err=error"])?).await?;
    let both = |items: &[LogItem]| items.len() == 3;
    for item in c.follow(&node.node_id, LogCursor::Start, both).await? {
        let line = line_of(&item)?;
        let expected = if line.text() == "error" {
            LogSource::Stderr
        } else {
            LogSource::Stdout
        };
        assert_eq!(line.source, expected, "{}", line.text());
    }
    Ok(())
}

async fn lines_have_their_times(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-3"])?).await?;
    let items = c
        .follow(&node.node_id, LogCursor::Start, ends_with(numbered_line(3)))
        .await?;
    let now = Timestamp::now();
    let times: Result<Vec<_>, Failed> = items.iter().map(|i| Ok(line_of(i)?.at)).collect();
    let times: Vec<_> = times?.into_iter().flatten().collect();
    // A platform need not know each line's time; those it tells are in order and not to come.
    assert!(times.is_sorted(), "{times:?}");
    assert!(times.iter().all(|at| *at <= now), "{times:?}");
    Ok(())
}
