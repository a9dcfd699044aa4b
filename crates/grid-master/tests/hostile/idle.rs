//! Connections that are opened and left.

use tokio::{io::AsyncReadExt, time::timeout};

use crate::{
    clients::{LONG, MANY, eventually, open, room_for_many},
    target::Target,
};

/// What a connection may cost while it says nothing, in bytes.
const EACH: u64 = 32 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_idle_connections_starve_nobody() {
    room_for_many();
    let target = Target::start().await;
    for address in [target.http, target.grpc] {
        let (fds, memory) = (target.descriptors(), target.memory("VmRSS"));
        let idle = open(address, MANY).await;
        // As many as are let in: people's connections may be a quarter of the open files. Those of before may end meanwhile.
        let room = MANY.min(grid_listen::open_files() / 4) - 16;
        eventually("all that are let in", async || {
            (target.descriptors() >= fds + room).then_some(())
        })
        .await;
        target.get("/api/grid/nodes").await;
        let grown = target.memory("VmRSS").saturating_sub(memory);
        assert!(
            grown < MANY as u64 * EACH,
            "{MANY} connections cost {grown} bytes"
        );
        drop(idle);
        eventually("all are gone", async || {
            (target.descriptors() <= fds).then_some(())
        })
        .await;
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_by_a_limit_of_time() {
    let target = Target::quick().await;
    for address in [target.http, target.grpc] {
        for mut socket in open(address, 10).await {
            let mut got = Vec::new();
            // An end or a reset: either way it is closed from the other side.
            let _ = timeout(LONG, socket.read_to_end(&mut got))
                .await
                .expect("it stays open");
        }
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_are_let_in_close_the_idle_ones_and_not_the_honest() {
    let target = Target::quick().await;
    for address in [target.http, target.grpc] {
        // More than a master of these limits lets in.
        let flood = open(address, 200).await;
        target.get("/api/grid/nodes").await;
        drop(flood);
    }
    target.must_be_unharmed().await;
}
