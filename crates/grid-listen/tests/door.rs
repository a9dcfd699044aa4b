//! A door and its clients, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{net::SocketAddr, time::Duration};

use grid_listen::{Connection, Door, Limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

async fn door(limits: Limits) -> (Door, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (Door::new(listener, limits), address)
}

fn limits(connections: usize) -> Limits {
    Limits {
        connections,
        idle: None,
        stall: LONG,
    }
}

/// Lets a client in.
async fn come_in(door: &mut Door, address: SocketAddr) -> (TcpStream, Connection) {
    let (client, connection) = tokio::join!(TcpStream::connect(address), door.accept());
    (client.unwrap(), connection)
}

/// Reads until the connection ends; how it does.
async fn end_of(mut connection: Connection) -> std::io::ErrorKind {
    let mut byte = [0];
    let ended = timeout(LONG, connection.read_exact(&mut byte)).await;
    ended.unwrap().unwrap_err().kind()
}

#[tokio::test]
async fn the_longest_idle_makes_room_and_a_request_does_not() {
    let (mut door, address) = door(limits(2)).await;
    let (_first, busy) = come_in(&mut door, address).await;
    let _request = busy.visit().busy();
    let (_second, idle) = come_in(&mut door, address).await;
    let idle = tokio::spawn(end_of(idle));
    let (_third, third) = come_in(&mut door, address).await;
    assert_eq!(idle.await.unwrap(), std::io::ErrorKind::ConnectionAborted);

    // When each has a request, the next one waits until one has none.
    let request = third.visit().busy();
    let _fourth = TcpStream::connect(address).await.unwrap();
    let third = tokio::spawn(end_of(third));
    let waiting = timeout(Duration::from_millis(50), door.accept()).await;
    assert!(waiting.is_err(), "there is no place");
    drop(request);
    timeout(LONG, door.accept()).await.unwrap();
    assert_eq!(third.await.unwrap(), std::io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn who_has_no_request_for_too_long_is_closed() {
    let (mut door, address) = door(Limits {
        idle: Some(Duration::from_millis(20)),
        ..limits(8)
    })
    .await;
    let (_client, connection) = come_in(&mut door, address).await;
    assert_eq!(end_of(connection).await, std::io::ErrorKind::TimedOut);

    // Bytes are no request: who sends some now and then is closed all the same.
    let (mut client, mut connection) = come_in(&mut door, address).await;
    let dripping = tokio::spawn(async move { while client.write_all(b"x").await.is_ok() {} });
    let reading = async {
        let mut byte = [0];
        loop {
            if let Err(error) = connection.read_exact(&mut byte).await {
                return error.kind();
            }
        }
    };
    assert_eq!(
        timeout(LONG, reading).await.unwrap(),
        std::io::ErrorKind::TimedOut
    );
    drop(connection);
    dripping.await.unwrap();

    // With a request it stays; without it again it goes.
    let (_client, connection) = come_in(&mut door, address).await;
    let request = connection.visit().busy();
    let mut ending = tokio::spawn(end_of(connection));
    assert!(
        timeout(Duration::from_millis(100), &mut ending)
            .await
            .is_err()
    );
    drop(request);
    assert_eq!(ending.await.unwrap(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn who_reads_nothing_is_given_up() {
    let (mut door, address) = door(Limits {
        stall: Duration::from_millis(50),
        ..limits(8)
    })
    .await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let (client, mut connection) = tokio::join!(socket.connect(address), door.accept());
    let block = vec![0; 64 * 1024];
    let writing = async {
        loop {
            if let Err(error) = connection.write_all(&block).await {
                return error.kind();
            }
        }
    };
    let ended = timeout(LONG, writing).await.unwrap();
    assert_eq!(ended, std::io::ErrorKind::TimedOut);
    drop(client);
}

/// A client that is answered while it sends reads the answer, though nobody reads what it sent.
#[tokio::test]
async fn an_early_answer_is_read() {
    let (mut door, address) = door(limits(8)).await;
    let (mut client, mut connection) = come_in(&mut door, address).await;
    let answering = tokio::spawn(async move {
        connection.read_exact(&mut [0; 10]).await.unwrap();
        connection.write_all(b"no").await.unwrap();
        connection.shutdown().await.unwrap();
    });
    // More than the sockets hold.
    let sent = client.write_all(&vec![1; 16 << 20]).await;
    sent.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "no");
    answering.await.unwrap();
}

/// A client that sends without end does not keep the connection.
#[tokio::test]
async fn lingering_has_an_end() {
    let (mut door, address) = door(limits(8)).await;
    let (mut client, mut connection) = come_in(&mut door, address).await;
    let sending = tokio::spawn(async move { while client.write_all(&[1; 65536]).await.is_ok() {} });
    connection.read_exact(&mut [0; 10]).await.unwrap();
    timeout(LONG, connection.shutdown()).await.unwrap().unwrap();
    drop(connection);
    sending.await.unwrap();
}

#[tokio::test]
async fn a_client_that_sends_nothing_more_is_not_waited_for() {
    tokio::time::pause();
    let (mut door, address) = door(limits(8)).await;
    let (_client, mut connection) = come_in(&mut door, address).await;
    let begun = tokio::time::Instant::now();
    connection.shutdown().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}
