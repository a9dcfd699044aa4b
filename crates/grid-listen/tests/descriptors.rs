//! A door in a process that has no descriptor left. Alone in its program, for the limit is the whole process's.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::time::Duration;

use grid_listen::{Door, Limits};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Leaves this process `free` descriptors.
fn leave(free: usize) {
    let seen: Vec<u64> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|it| it.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    // The one that this look took is free again.
    let taken = |number: &u64| {
        seen.contains(number) && std::fs::exists(format!("/proc/self/fd/{number}")).unwrap()
    };
    let mut numbers = (0..).filter(|number| !taken(number));
    let limit = Rlimit {
        current: numbers.nth(free),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn the_last_descriptor_is_not_taken_back_and_the_idle_make_room_for_who_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        connections: 8,
        idle: None,
        stall: LONG,
    };
    let mut door = Door::new(listener, limits);
    let mut first = TcpStream::connect(address).await.unwrap();
    let second = TcpStream::connect(address).await.unwrap();
    // For both there is one descriptor.
    leave(1);
    let mut connection = door.accept().await;
    let request = connection.visit().busy();
    // It has a request: the second one waits.
    assert!(
        timeout(Duration::from_millis(200), door.accept())
            .await
            .is_err()
    );
    drop(request);
    let ending = async {
        let ended = connection.read_u8().await.unwrap_err();
        drop(connection);
        ended.kind()
    };
    let (ended, connection) = timeout(LONG, async { tokio::join!(ending, door.accept()) })
        .await
        .unwrap();
    assert_eq!(ended, std::io::ErrorKind::ConnectionAborted);
    assert_eq!(first.read(&mut [0]).await.unwrap(), 0);

    // Nobody waits, so that there is no reason to close the one that has just come.
    let mut ending = tokio::spawn(async move {
        let mut connection = connection;
        connection.read_u8().await.unwrap_err().kind()
    });
    tokio::select! {
        _ = door.accept() => panic!("nobody else is there"),
        ended = &mut ending => panic!("it is closed: {ended:?}"),
        () = tokio::time::sleep(Duration::from_millis(500)) => {}
    }
    drop(second);
    assert_eq!(
        timeout(LONG, ending).await.unwrap().unwrap(),
        std::io::ErrorKind::UnexpectedEof
    );
}
