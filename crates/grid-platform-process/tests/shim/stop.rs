//! How a node ends, and with it everything that it started.

use super::harness::{Node, SHIM, is_gone, signal, until, wait_gone};
use super::shared::policy::Restart;
use super::shared::record::State;
use super::shared::words::{Answer, Request};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Leaves the session, is orphaned, ignores what it can, and tells its pid.
const HIDING: &str = "setsid -f sh -c 'trap \"\" TERM HUP; echo $$ > hidden; sleep 1000; sleep 1000'; cat hidden > /dev/null 2>&1;";

#[test]
fn the_stop_signal_is_sent_and_its_effect_recorded() {
    let mut node = Node::script(
        "trap 'echo asked; exit 3' USR1; echo ready > ready; while :; do sleep 0.01; done",
    );
    node.launch.stop_signal = 10;
    let (mut shim, pid) = node.run();
    node.data("ready");
    let mut client = shim.connect();
    client.ask(Request::Stop { grace_ms: None });
    assert_eq!(client.answer(), Some(Answer::Stopped));
    // All of it holds at the word, before the shim itself is gone.
    assert!(is_gone(pid) && node.lock_is_free() && !node.dir.join("sock").exists());
    let record = node.record();
    assert_eq!(
        (record.state, record.exit_code, record.signal),
        (State::Stopped, Some(3), None)
    );
    assert_eq!((record.pid, record.pid_start), (0, 0));
    assert!(record.finished_ms >= record.started_ms && record.started_ms > 0);
    assert_eq!(node.log(), b"asked\n");
    assert_eq!(client.answer(), None);
    shim.wait();
}

#[test]
fn who_ignores_the_signal_is_killed_after_the_grace() {
    let mut node = Node::script("trap '' TERM; echo ready > ready; while :; do sleep 0.01; done");
    node.launch.grace_ms = 150;
    let (mut shim, pid) = node.run();
    node.data("ready");
    shim.stop(None);
    let record = node.record();
    assert_eq!(
        (record.state, record.signal, record.exit_code),
        (State::Stopped, Some(9), None)
    );
    assert!(is_gone(pid));
}

#[test]
fn a_request_can_only_shorten_the_grace() {
    let mut node =
        Node::script("trap 'echo asked' TERM; echo ready > ready; while :; do sleep 0.01; done");
    node.launch.grace_ms = 3_600_000;
    let (mut shim, _) = node.run();
    node.data("ready");
    let mut first = shim.connect();
    first.ask(Request::Stop { grace_ms: None });
    node.record_in(State::Stopping);
    let mut second = shim.connect();
    second.ask(Request::Stop {
        grace_ms: Some(u64::MAX),
    });
    second.ask(Request::Ping);
    assert_eq!(second.answer(), Some(Answer::Pong));
    until("the program was asked", || {
        (!node.log().is_empty()).then_some(())
    });
    second.ask(Request::Stop { grace_ms: Some(30) });
    assert_eq!(
        (first.answer(), second.answer()),
        (Some(Answer::Stopped), Some(Answer::Stopped))
    );
    shim.wait();
    // Asked once, though three stops were.
    assert_eq!(
        (node.record().signal, node.log().as_slice()),
        (Some(9), &b"asked\n"[..])
    );
}

#[test]
fn a_kill_does_not_ask() {
    let node = Node::script(
        "trap 'echo asked; exit' TERM; echo ready > ready; while :; do sleep 0.01; done",
    );
    let (mut shim, _) = node.run();
    node.data("ready");
    shim.stop(Some(0));
    assert_eq!((node.record().signal, node.log()), (Some(9), vec![]));
}

#[test]
fn sigterm_to_the_shim_stops_the_node() {
    let node = Node::script("exec sleep 1000").restarting(Restart::Always, None);
    let (mut shim, pid) = node.run();
    for ignored in [Signal::HUP, Signal::USR1, Signal::PIPE] {
        signal(shim.pid(), ignored);
    }
    signal(shim.pid(), Signal::TERM);
    shim.wait();
    assert!(is_gone(pid) && node.lock_is_free());
    assert_eq!(
        (node.record().state, node.record().signal),
        (State::Stopped, Some(15))
    );
}

#[test]
fn a_halted_program_stops() {
    let node = Node::script("exec sleep 1000");
    let (mut shim, pid) = node.run();
    signal(pid, Signal::STOP);
    shim.stop(None);
    assert_eq!((node.record().signal, is_gone(pid)), (Some(15), true));
}

#[test]
fn a_stop_in_back_off_needs_no_program() {
    let mut node = Node::script("exit 4").restarting(Restart::Always, None);
    (
        node.launch.policy.backoff_initial_ms,
        node.launch.policy.backoff_max_ms,
    ) = (3_600_000, 3_600_000);
    let (mut shim, _) = node.run();
    let record = node.record_in(State::Backoff);
    assert!(
        record.next_start_ms > record.finished_ms + 3_000_000,
        "{record:?}"
    );
    assert_eq!((record.exit_code, record.pid), (Some(4), 0));
    shim.stop(None);
    let record = node.record();
    assert_eq!(
        (record.state, record.next_start_ms, record.exit_code),
        (State::Stopped, 0, Some(4))
    );
}

#[test]
fn the_whole_tree_is_gone_after_a_stop() {
    let node = Node::script(&format!(
        "{HIDING} sleep 1000 & echo $! > member; exec sleep 1000"
    ));
    let (mut shim, pid) = node.run();
    let pids = [pid, node.pid_in("hidden"), node.pid_in("member")];
    assert!(pids.iter().all(|it| !is_gone(*it)));
    shim.stop(None);
    assert!(pids.iter().all(|it| is_gone(*it)), "{pids:?}");
}

#[test]
fn the_whole_tree_is_gone_when_the_program_ends() {
    let script = format!(
        "{HIDING} sleep 1000 & echo $! > member; until test -s hidden; do sleep 0.01; done; exit 5"
    );
    let node = Node::script(&script);
    let (mut shim, _) = node.run();
    let pids = [node.pid_in("hidden"), node.pid_in("member")];
    shim.wait();
    assert_eq!(
        (node.record().state, node.record().exit_code),
        (State::Exited, Some(5))
    );
    assert!(pids.iter().all(|it| is_gone(*it)), "{pids:?}");
}

#[test]
fn the_tree_is_gone_before_the_next_start() {
    // Each run leaves a helper behind and fails if it meets that of the run before.
    let script = "test -e last && kill -0 $(cat last) 2>/dev/null && echo met >> met
        setsid -f sh -c 'echo $$ > last.tmp; mv last.tmp last; exec sleep 1000'
        until test -e last && kill -0 $(cat last) 2>/dev/null; do sleep 0.01; done; exit 1";
    let node = Node::script(script).restarting(Restart::OnFailure, Some(5));
    let (mut shim, _) = node.run();
    shim.wait();
    assert_eq!(
        (node.record().restarts, node.data.join("met").exists()),
        (5, false)
    );
}

#[test]
fn a_killed_shim_takes_its_program_along_and_frees_the_lock() {
    // What left the session lives on: it must not hold the lock. The adapter sweeps it.
    let node = Node::script(&format!("{HIDING} exec sleep 1000"));
    let (mut shim, pid) = node.run();
    let hidden = node.pid_in("hidden");
    assert!(!node.lock_is_free());
    signal(shim.pid(), Signal::KILL);
    shim.wait();
    assert!(node.lock_is_free() && !is_gone(hidden));
    wait_gone(pid);
    assert_eq!(
        (node.record().state, node.record().pid),
        (State::Running, pid)
    );
    let children = fs::read_to_string(format!("/proc/{hidden}/task/{hidden}/children")).unwrap();
    signal(hidden, Signal::KILL);
    for it in children.split_whitespace().map(|it| it.parse().unwrap()) {
        signal(it, Signal::KILL);
        wait_gone(it);
    }
    wait_gone(hidden);
    // The next shim finds a stale socket and an unfinished record, and starts.
    let (mut shim, _) = node.run();
    shim.stop(None);
}

#[test]
fn a_shim_killed_at_any_instant_leaves_no_program_and_a_record_to_go_on_from() {
    let node = Node::script("echo $$ >> runs; exec sleep 1000").restarting(Restart::Always, None);
    fs::write(node.dir.join("launch"), node.launch.encode().unwrap()).unwrap();
    let mut seq = 0;
    for round in 0..40_u64 {
        let (mut shim, report) = node.spawn(Path::new(SHIM));
        drop(report);
        // From before the shim's first line to after the program's.
        std::thread::sleep(Duration::from_micros(round * 150));
        shim.child.kill().unwrap();
        shim.wait();
        until("the lock is free", || node.lock_is_free().then_some(()));
        if let Some(stored) = node.stored() {
            assert!(stored.seq >= seq);
            seq = stored.seq;
            assert!(
                matches!(stored.record.state, State::Starting | State::Running),
                "{stored:?}"
            );
        }
        for pid in fs::read_to_string(node.data.join("runs"))
            .unwrap_or_default()
            .lines()
        {
            wait_gone(pid.parse().unwrap());
        }
    }
    let (mut shim, _) = node.run();
    assert!(node.stored().unwrap().seq > seq && seq > 1);
    shim.stop(None);
}

#[test]
fn a_process_that_never_stays_is_caught() {
    // Each hop is a new session whose parent is gone; the script vanishes with the node, so that a failure does not hop for ever.
    let node =
        Node::script("cp /dev/null hops; echo $SCRIPT > hop; setsid -f /bin/sh hop; sleep 1000");
    let mut node = node;
    node.launch
        .env
        .push(b"SCRIPT=echo $$ >> hops; exec setsid -f /bin/sh hop".to_vec());
    let (mut shim, _) = node.run();
    let hops = || {
        fs::read_to_string(node.data.join("hops"))
            .unwrap_or_default()
            .lines()
            .count()
    };
    until("it hops", || (hops() > 20).then_some(()));
    shim.stop(Some(0));
    let last = hops();
    let marks = fs::read_to_string(node.data.join("hops")).unwrap();
    assert!(marks.lines().all(|it| is_gone(it.parse().unwrap())));
    assert_eq!(hops(), last);
}
