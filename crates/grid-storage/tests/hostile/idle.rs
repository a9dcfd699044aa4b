//! Connections that are opened and left.

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::clients::{LONG, MANY, open, room_for_many};
use crate::common::eventually;
use crate::target::Target;

/// What a connection may cost while it says nothing, in bytes.
const EACH: u64 = 32 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_idle_connections_starve_nobody() {
    room_for_many();
    let target = Target::start().await;
    let (fds, memory) = (target.descriptors(), target.memory("VmRSS"));
    let idle = open(target.address, MANY).await;
    // As many as are let in: half of the open files may be connections.
    let room = MANY.min(grid_listen::open_files() / 2) - 16;
    eventually("all that are let in", async || {
        target.descriptors() >= fds + room
    })
    .await;
    assert_eq!(target.object("kept/small").await.len(), 1000);
    assert_eq!(
        target
            .put("kept/small", target.object("kept/small").await)
            .await
            .status(),
        200
    );
    let grown = target.memory("VmRSS").saturating_sub(memory);
    assert!(
        grown < MANY as u64 * EACH,
        "{MANY} connections cost {grown} bytes"
    );
    drop(idle);
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_by_a_limit_of_time() {
    let target = Target::quick().await;
    for mut socket in open(target.address, 10).await {
        let mut got = Vec::new();
        // An end or a reset: either way it is closed from the other side.
        let _ = timeout(LONG, socket.read_to_end(&mut got))
            .await
            .expect("it stays open");
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_are_let_in_close_the_idle_ones_and_not_the_honest() {
    let target = Target::quick().await;
    // More than a server of these limits lets in.
    let flood = open(target.address, 200).await;
    assert_eq!(target.object("kept/small").await.len(), 1000);
    drop(flood);
    target.must_be_unharmed().await;
}
