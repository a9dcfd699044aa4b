//! The last lines of logs that are scripted.

use super::*;
use crate::logs::{
    fake::{Fake, Shared, at},
    last_lines, tail,
};

async fn last_of(fake: &std::sync::Arc<Fake>, lines: usize) -> Vec<String> {
    let source = Shared(fake.clone());
    tail(&source, &fake.id, lines).await.unwrap()
}

fn lines(ms: impl IntoIterator<Item = i64>) -> Vec<String> {
    ms.into_iter().map(|ms| format!("at {ms}")).collect()
}

#[tokio::test]
async fn a_tail_is_the_last_lines() {
    let fake = Fake::started();
    fake.lines(0..1000);
    for count in [0, 1, 2, 500, 999, 1000] {
        let expect = lines(1000 - i64::try_from(count).unwrap()..1000);
        assert_eq!(last_of(&fake, count).await, expect);
    }
    for count in [1001, 5000, usize::MAX] {
        assert_eq!(last_of(&fake, count).await, lines(0..1000));
    }
    fake.asked();
    last_of(&fake, 10).await;
    let asked = fake.asked();
    assert_eq!(asked.len(), 1, "the log is not read whole for its end");
    assert_eq!(asked[0].tail, Some(138));
}

#[tokio::test]
async fn a_long_line_is_one_line_and_is_cut() {
    for is_old in [true, false] {
        let fake = Fake::started();
        if !is_old {
            fake.is_new();
        }
        let long = "abcdefghij".repeat(300_000);
        fake.line(at(1), &long);
        fake.line(at(2), "after");
        let tail = last_of(&fake, 2).await;
        assert_eq!(tail.len(), 2);
        assert_eq!(tail[0], long[..64 * 1024]);
        assert_eq!(tail[1], "after");
        assert_eq!(last_of(&fake, 3).await.len(), 2);
    }
}

#[tokio::test]
async fn a_line_without_its_end_is_the_last_one() {
    let fake = Fake::started();
    fake.lines([1]);
    fake.entry(at(2), b"begun", false);
    assert_eq!(last_of(&fake, 1).await, ["begun"]);
    assert_eq!(last_of(&fake, 9).await, ["at 1", "begun"]);
}

#[tokio::test]
async fn a_tail_goes_back_over_a_restart() {
    let fake = Fake::started();
    fake.lines(0..10);
    fake.end();
    fake.back_off();
    // Here the API takes one run for the present one and the one before.
    assert_eq!(last_of(&fake, 100).await, lines(0..10));
    fake.start();
    fake.lines(10..13);
    assert_eq!(last_of(&fake, 2).await, lines(11..13));
    assert_eq!(last_of(&fake, 5).await, lines(8..13));
    assert_eq!(last_of(&fake, 100).await, lines(0..13));
    fake.end();
    assert_eq!(last_of(&fake, 100).await, lines(0..13));
}

#[tokio::test]
async fn a_program_that_has_not_run_has_an_empty_log() {
    let fake = Fake::started();
    fake.new_pod("pod-2");
    assert!(last_of(&fake, 10).await.is_empty());
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn a_log_that_is_gone_is_unavailable() {
    let fake = Fake::started();
    let source = Shared(fake.clone());
    let kind = |error: grid_platform_api::Error| {
        assert!(error.hint().is_some());
        error.kind().as_str()
    };
    fake.refuse(403, "forbidden");
    let error = tail(&source, &fake.id, 1).await.unwrap_err();
    assert_eq!(kind(error), "permission_denied");
    fake.away(1);
    let error = tail(&source, &fake.id, 1).await.unwrap_err();
    assert_eq!(kind(error), "unavailable");
    fake.refuse(404, "not found");
    let error = tail(&source, &fake.id, 1).await.unwrap_err();
    assert_eq!(kind(error), "logs_unavailable");
    fake.stop();
    let error = tail(&source, &fake.id, 0).await.unwrap_err();
    assert_eq!(kind(error), "logs_unavailable");
    fake.remove();
    let error = tail(&source, &fake.id, 1).await.unwrap_err();
    assert_eq!(kind(error), "not_found");
}

#[tokio::test]
async fn the_last_lines_of_a_failure_are_those_of_the_run_that_wrote_any() {
    let fake = Fake::started();
    let source = Shared(fake.clone());
    assert!(last_lines(&source, &fake.id, 3).await.is_empty());
    fake.lines(0..10);
    assert_eq!(last_lines(&source, &fake.id, 3).await, lines(7..10));
    fake.end();
    fake.start();
    assert_eq!(last_lines(&source, &fake.id, 3).await, lines(7..10));
    fake.away(1);
    assert!(last_lines(&source, &fake.id, 3).await.is_empty());
}

#[tokio::test]
async fn a_key_is_sure_once_the_time_before_it_was_another() {
    let fake = Fake::started();
    // More lines of one time than are asked for at first.
    for n in 0..200 {
        fake.line(at(1), &n.to_string());
    }
    let scan = last(&Shared(fake.clone()), &fake.id, false, 2).await;
    let keys: Vec<_> = scan
        .unwrap()
        .unwrap()
        .lines
        .iter()
        .map(|it| it.line.ordinal)
        .collect();
    assert_eq!(keys, [198, 199]);
}
