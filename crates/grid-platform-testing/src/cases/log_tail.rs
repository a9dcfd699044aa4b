//! The end of a log.

use grid_platform_api::{ErrorKind, LogLine, NodeId};

use super::cases;
use crate::{
    Context, Outcome, PATIENCE, eventually,
    probe::{boot_line, numbered_line},
};

cases! {
    a_tail_is_the_last_lines_in_order []
    a_tail_of_no_lines_is_empty []
    a_tail_longer_than_the_log_is_the_log []
    a_tail_has_both_outputs []
    a_tail_goes_back_over_a_start [logs_after_stop]
    logs_of_a_stopped_node_are_there_or_unavailable []
    logs_are_there_after_a_stop [logs_after_stop]
    logs_are_there_after_a_failure [logs_after_stop never]
    logs_outlive_the_adapter [nodes_outlive_adapter]
    logs_of_nodes_do_not_mix []
    bytes_that_are_no_text_are_replaced []
    a_line_longer_than_the_longest_is_cut []
    an_empty_line_is_a_line []
}

/// Waits until the log has these lines among its last ones. What a running program wrote is on its way for a moment on platforms
/// that take it from a pipe; the order in which it comes is its own.
async fn written(c: &Context, id: &NodeId, lines: &[&str]) -> Outcome {
    eventually(PATIENCE, &format!("{lines:?} to be logged"), || async {
        let tail = c.platform().get_logs(id, 10).await?;
        let there = lines.iter().all(|line| tail.iter().any(|it| it == line));
        Ok(there.then_some(()))
    })
    .await
}

async fn a_tail_is_the_last_lines_in_order(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-5000"])?).await?;
    written(c, &node.node_id, &[&numbered_line(5000)]).await?;
    for count in [1, 2, 10, 999, 4000] {
        let expected: Vec<_> = (5001 - count..=5000).map(numbered_line).collect();
        let lines = usize::try_from(count).map_err(|e| e.to_string())?;
        let tail = c.platform().get_logs(&node.node_id, lines).await?;
        assert_eq!(tail, expected, "the last {count}");
    }
    Ok(())
}

async fn a_tail_of_no_lines_is_empty(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-10"])?).await?;
    assert!(c.platform().get_logs(&node.node_id, 0).await?.is_empty());
    Ok(())
}

async fn a_tail_longer_than_the_log_is_the_log(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["say=a", "say=b"])?).await?;
    written(c, &node.node_id, &["b"]).await?;
    for lines in [3, 4, 1_000_000, usize::MAX] {
        let tail = c.platform().get_logs(&node.node_id, lines).await?;
        assert_eq!(tail, ["boot 1", "a", "b"], "the last {lines}");
    }
    Ok(())
}

async fn a_tail_has_both_outputs(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["say=out", "err=error"])?).await?;
    written(c, &node.node_id, &["boot 1", "error", "out"]).await?;
    let mut tail = c.platform().get_logs(&node.node_id, 10).await?;
    tail.sort();
    assert_eq!(tail, ["boot 1", "error", "out"]);
    Ok(())
}

async fn a_tail_goes_back_over_a_start(c: &Context) -> Outcome {
    let config = c.probe("n", &["lines=1-2"])?.build()?;
    for boot in 1..=2 {
        let node = c.platform().spawn_node(config.clone()).await?;
        assert_eq!(c.answers(&node).await?, boot);
        if boot == 1 {
            c.platform().stop_node(&node.node_id).await?;
        }
    }
    written(c, &config.node_id, &["boot 2"]).await?;
    let tail = c.platform().get_logs(&config.node_id, 100).await?;
    let boots: Vec<_> = tail
        .iter()
        .filter(|line| line.starts_with("boot "))
        .collect();
    assert_eq!(boots, ["boot 1", "boot 2"], "{tail:?}");
    Ok(())
}

async fn logs_of_a_stopped_node_are_there_or_unavailable(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["say=words"])?).await?;
    c.platform().stop_node(&node.node_id).await?;
    match c.platform().get_logs(&node.node_id, 100).await {
        Ok(tail) => assert!(tail.iter().any(|line| line == "words"), "{tail:?}"),
        // It is known, so that this is not `NotFound`.
        Err(error) => assert_eq!(error.kind(), ErrorKind::LogsUnavailable, "{error:?}"),
    }
    Ok(())
}

async fn logs_are_there_after_a_stop(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-100"])?).await?;
    c.platform().stop_node(&node.node_id).await?;
    let tail = c.platform().get_logs(&node.node_id, 1000).await?;
    assert_eq!(tail.first(), Some(&boot_line(1)));
    assert_eq!(
        tail.len(),
        102,
        "its boot, a hundred lines and the signal: {:?}",
        tail.last()
    );
    Ok(())
}

async fn logs_are_there_after_a_failure(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.ask(&node, "say=last words").await?;
    c.ask(&node, "signal=9").await?;
    c.wait(&node.node_id, "the failure", |n| {
        n.state.failure().is_some()
    })
    .await?;
    assert_eq!(
        c.platform().get_logs(&node.node_id, 1).await?,
        ["last words"]
    );
    Ok(())
}

async fn logs_outlive_the_adapter(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["lines=1-3"])?).await?;
    c.away(async {
        // Written while nobody could have read it.
        c.ask(&node, "lines=4-6").await
    })
    .await?;
    written(c, &node.node_id, &[&numbered_line(6)]).await?;
    let expected: Vec<_> = (1..=6).map(numbered_line).collect();
    assert_eq!(c.platform().get_logs(&node.node_id, 6).await?, expected);
    Ok(())
}

async fn logs_of_nodes_do_not_mix(c: &Context) -> Outcome {
    let one = c.spawn(c.probe("one", &["say=of one"])?).await?;
    let two = c.spawn(c.probe("two", &["say=of two"])?).await?;
    written(c, &one.node_id, &["of one"]).await?;
    written(c, &two.node_id, &["of two"]).await?;
    assert_eq!(
        c.platform().get_logs(&one.node_id, 9).await?,
        ["boot 1", "of one"]
    );
    assert_eq!(
        c.platform().get_logs(&two.node_id, 9).await?,
        ["boot 1", "of two"]
    );
    Ok(())
}

async fn bytes_that_are_no_text_are_replaced(c: &Context) -> Outcome {
    // A lone byte, a NUL, a carriage return within, an escape: whatever a program writes.
    let node = c
        .spawn(c.probe("n", &["raw=61ff62", "raw=000d1b5b", "say=after"])?)
        .await?;
    written(c, &node.node_id, &["after"]).await?;
    let tail = c.platform().get_logs(&node.node_id, 3).await?;
    assert_eq!(tail, ["a\u{fffd}b", "\0\r\u{1b}[", "after"]);
    Ok(())
}

async fn a_line_longer_than_the_longest_is_cut(c: &Context) -> Outcome {
    let node = c
        .spawn(c.probe("n", &["giant=200000", "say=after"])?)
        .await?;
    written(c, &node.node_id, &["after"]).await?;
    let tail = c.platform().get_logs(&node.node_id, 2).await?;
    assert_eq!(tail.len(), 2, "a long line is one line");
    assert_eq!(tail[0].len(), LogLine::MAX_BYTES);
    assert!(tail[0].starts_with("abcdefghij"));
    assert_eq!(tail[1], "after");
    Ok(())
}

async fn an_empty_line_is_a_line(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["say=a", "say=", "say=b"])?).await?;
    written(c, &node.node_id, &["b"]).await?;
    assert_eq!(
        c.platform().get_logs(&node.node_id, 3).await?,
        ["a", "", "b"]
    );
    Ok(())
}
