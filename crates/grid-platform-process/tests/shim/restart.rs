//! What follows an end: the policy, the back-off and what the record says of it.

use super::harness::{Node, until};
use super::shared::policy::Restart;
use super::shared::record::State;
use super::shared::words::{Answer, Request};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Runs a node to its end.
fn end(node: &Node) -> super::shared::record::Record {
    let (mut shim, _) = node.run();
    shim.wait();
    assert!(node.lock_is_free() && !node.dir.join("sock").exists());
    node.record()
}

#[test]
fn an_end_is_recorded_as_it_was() {
    let check = |script: &str, code, signal| {
        let record = end(&Node::script(script));
        assert_eq!(
            (record.state, record.exit_code, record.signal),
            (State::Exited, code, signal),
            "{script}"
        );
        assert_eq!(
            (record.restarts, record.pid, record.oom, record.fail_stage),
            (0, 0, false, None)
        );
        assert!(record.finished_ms >= record.started_ms && record.started_ms > 0);
    };
    check("exit 0", Some(0), None);
    check("exit 255", Some(255), None);
    check("kill -SEGV $$", None, Some(11));
    check("kill -TERM $$", None, Some(15));
    check("kill -KILL $$", None, Some(9));
}

#[test]
fn the_policy_decides() {
    let check = |restart, script: &str, restarts| {
        let record = end(&Node::script(script).restarting(restart, Some(3)));
        assert_eq!(
            (record.state, record.restarts),
            (State::Exited, restarts),
            "{restart:?} {script}"
        );
    };
    check(Restart::Never, "exit 1", 0);
    check(Restart::OnFailure, "exit 0", 0);
    check(Restart::OnFailure, "exit 1", 3);
    check(Restart::OnFailure, "kill -TERM $$", 3);
    check(Restart::Always, "exit 0", 3);
    // Fails twice, then ends well.
    check(
        Restart::OnFailure,
        "echo x >> runs; test $(wc -l < runs) = 3",
        2,
    );
}

#[test]
fn restarts_go_on_from_what_the_adapter_counted() {
    let mut node = Node::script("echo run; exit 1").restarting(Restart::Always, Some(2));
    node.launch.restarts = 40;
    assert_eq!(end(&node).restarts, 42);
    assert_eq!(node.log(), b"run\nrun\nrun\n");
}

#[test]
fn the_wait_grows_to_its_bound() {
    let mut node = Node::script("date +%s%N >> runs; exit 1").restarting(Restart::Always, Some(5));
    (
        node.launch.policy.backoff_initial_ms,
        node.launch.policy.backoff_max_ms,
    ) = (20, 80);
    end(&node);
    let runs: Vec<u64> = node
        .data("runs")
        .lines()
        .map(|it| it.parse().unwrap())
        .collect();
    let waits: Vec<u64> = runs
        .windows(2)
        .map(|it| (it[1] - it[0]) / 1_000_000)
        .collect();
    // A lower bound only: a busy machine waits longer, never shorter.
    for (wait, least) in waits.iter().zip([20, 40, 80, 80, 80]) {
        assert!(*wait >= least, "{waits:?}");
    }
    assert_eq!(waits.len(), 5);
}

#[test]
fn a_long_run_ends_the_series() {
    // Every run is long enough: three restarts in a row are more than the one that a series may have.
    let mut node = Node::script("echo x >> runs; sleep 0.05; test $(wc -l < runs) = 4")
        .restarting(Restart::OnFailure, Some(1));
    node.launch.policy.reset_after_ms = 20;
    let record = end(&node);
    assert_eq!((record.restarts, record.exit_code), (3, Some(0)));
}

#[test]
fn a_start_that_fails_at_a_restart_goes_by_the_policy() {
    let node = Node::script("").restarting(Restart::OnFailure, Some(3));
    let program = node.data.join("program");
    fs::write(&program, "#!/bin/sh\nrm \"$0\"\nexit 1\n").unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let mut node = node;
    (node.launch.program, node.launch.args) =
        (program.into_os_string().into_encoded_bytes(), vec![]);
    let record = end(&node);
    assert_eq!((record.state, record.restarts), (State::Failed, 3));
    assert_eq!(
        (record.fail_stage.as_deref(), record.fail_errno),
        (Some("exec"), Some(2))
    );
    assert_eq!((record.exit_code, record.signal), (None, None));
}

#[test]
fn a_restarted_program_is_told_to_the_watchers() {
    let node = Node::script(
        "echo x >> runs; test $(wc -l < runs) = 1 && until test -e go; do sleep 0.01; done; exec sleep 1000",
    );
    let mut node = node.restarting(Restart::Always, None);
    node.launch.args[1] = b"echo x >> runs; test $(wc -l < runs) -gt 1 && exec sleep 1000; until test -e go; do sleep 0.01; done; exit 9".to_vec();
    let (mut shim, first) = node.run();
    let mut client = shim.connect();
    client.ask(Request::Watch);
    let Some(Answer::Changed { seq }) = client.answer() else {
        panic!()
    };
    assert_eq!(seq, node.stored().unwrap().seq);
    fs::write(node.data.join("go"), "").unwrap();
    let mut last = seq;
    let record = until("the second run", || {
        let Some(Answer::Changed { seq }) = client.answer() else {
            panic!()
        };
        // Each record is told once, and is there when it is told.
        assert_eq!(seq, last + 1);
        last = seq;
        let stored = node.stored().unwrap();
        assert!(stored.seq >= seq);
        (stored.record.state == State::Running && stored.record.pid != first)
            .then_some(stored.record)
    });
    assert_eq!(
        (record.restarts, record.exit_code, record.finished_ms),
        (1, Some(9), 0)
    );
    shim.stop(None);
}

#[test]
fn an_end_on_trial_is_final_and_one_behind_it_is_not() {
    let mut node = Node::script("exit 3").restarting(Restart::Always, None);
    node.launch.trial_ms = Some(60_000);
    let record = end(&node);
    assert_eq!(
        (record.state, record.restarts, record.exit_code),
        (State::Exited, 0, Some(3))
    );

    let mut node = Node::script("sleep 0.05; exit 3").restarting(Restart::Always, Some(2));
    node.launch.trial_ms = Some(1);
    assert_eq!(end(&node).restarts, 2);
}

#[test]
fn who_says_ready_ends_the_trial() {
    let mut node = Node::script("until test -e go; do sleep 0.01; done; exit 3")
        .restarting(Restart::Always, Some(2));
    node.launch.trial_ms = Some(60_000);
    let (mut shim, _) = node.run();
    let mut client = shim.connect();
    client.ask(Request::Ready);
    assert_eq!(client.answer(), Some(Answer::Ready));
    fs::write(node.data.join("go"), "").unwrap();
    let record = until("the end of the series", || {
        let record = node.record();
        record.state.is_final().then_some(record)
    });
    assert_eq!((record.state, record.restarts), (State::Exited, 2));
    shim.wait();
}
