//! Clients: many, silent, rude and gone.

use super::harness::{Client, Node, until};
use super::shared::record::{FILE, SLOT, State};
use super::shared::words::{Answer, Request};
use std::fs;
use std::io::Write;

fn sleeper() -> Node {
    Node::script("exec sleep 1000")
}

#[test]
fn words_are_answered() {
    let node = sleeper();
    let (mut shim, _) = node.run();
    let mut client = shim.connect();
    client.0.get_mut().write_all(b"pi").unwrap();
    client
        .0
        .get_mut()
        .write_all(b"ng\nhello\n\nstop -1\n\xff\nping\n")
        .unwrap();
    let answers: Vec<_> = (0..6).map(|_| client.answer().unwrap()).collect();
    let unknown = Answer::Unknown;
    assert_eq!(
        answers,
        [
            Answer::Pong,
            unknown,
            unknown,
            unknown,
            unknown,
            Answer::Pong
        ]
    );
    client.ask(Request::Watch);
    assert_eq!(
        client.answer(),
        Some(Answer::Changed {
            seq: node.stored().unwrap().seq
        })
    );
    shim.stop(None);
}

#[test]
fn a_line_without_end_is_hung_up_on() {
    let node = sleeper();
    let (mut shim, _) = node.run();
    let mut client = shim.connect();
    client.0.get_mut().write_all(&[b'x'; 128]).unwrap();
    assert_eq!(client.answer(), None);
    shim.stop(None);
}

#[test]
fn who_does_not_read_is_dropped_and_nobody_waits() {
    let node = sleeper();
    let (mut shim, _) = node.run();
    let mut deaf = shim.connect();
    let mut other = shim.connect();
    until("the deaf client is hung up on", || {
        other.ask(Request::Ping);
        assert_eq!(other.answer(), Some(Answer::Pong));
        deaf.0.get_mut().write_all(&b"ping\n".repeat(500)).err()
    });
    shim.stop(None);
}

#[test]
fn a_client_that_goes_leaves_its_stop() {
    let node = sleeper();
    let (mut shim, _) = node.run();
    let mut client = shim.connect();
    client.ask(Request::Stop { grace_ms: None });
    drop(client);
    shim.wait();
    assert_eq!(node.record().state, State::Stopped);
}

#[test]
fn many_clients_are_served_and_hung_ones_give_way() {
    let node = sleeper();
    let (mut shim, _) = node.run();
    let mut clients: Vec<Client> = (0..64).map(|_| shim.connect()).collect();
    for it in &mut clients {
        it.ask(Request::Ping);
    }
    assert!(
        clients
            .iter_mut()
            .all(|it| it.answer() == Some(Answer::Pong))
    );
    // One more is let in; the oldest goes.
    let mut late = shim.connect();
    late.ask(Request::Ping);
    assert_eq!(
        (late.answer(), clients[0].answer()),
        (Some(Answer::Pong), None)
    );
    drop(clients);
    shim.stop(None);
}

#[test]
fn a_torn_slot_loses_to_the_other_one() {
    let node = sleeper();
    let (mut shim, _) = node.run();
    let before = node.stored().unwrap();
    shim.stop(None);
    let path = node.dir.join("record");
    let last = node.stored().unwrap();
    assert_eq!(
        (last.record.state, last.seq),
        (State::Stopped, before.seq + 2)
    );
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), FILE);
    let newest = usize::try_from(last.seq % 2).unwrap() * SLOT;
    bytes[newest + 40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let stored = node.stored().unwrap();
    assert_eq!(
        (stored.record.state, stored.seq),
        (State::Stopping, last.seq - 1)
    );
    // The next shim goes on from the slot that is left, and its writes win.
    let (mut shim, pid) = node.run();
    let stored = node.stored().unwrap();
    assert_eq!(
        (stored.seq, stored.record.state, stored.record.pid),
        (last.seq + 1, State::Running, pid)
    );
    shim.stop(None);
}

#[test]
fn a_record_that_is_lost_is_begun_anew() {
    for damage in [&b""[..], b"short", &[0xff; 2 * SLOT]] {
        let node = sleeper();
        fs::write(node.dir.join("record"), damage).unwrap();
        let (mut shim, pid) = node.run();
        let stored = node.stored().unwrap();
        assert_eq!((stored.seq, stored.record.pid), (2, pid));
        shim.stop(None);
    }
}
