//! Clients that mean no good, over real sockets: for the tests of every server that takes its connections from a
//! [`grid_listen::Door`].

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longer than anything here takes; reached only when something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// As many connections as a careless or hostile client may leave open.
pub(crate) const MANY: usize = 2_000;

/// Looks until there is something; for what no event tells of.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match timeout(LONG, looking).await {
        Ok(found) => found,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

/// A process's resident memory in bytes: now (`VmRSS`), or at its peak (`VmHWM`).
pub(crate) fn memory(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(which));
    let kib = line.unwrap().trim_matches([':', '\t', ' ', 'k', 'B']);
    kib.parse::<u64>().unwrap() * 1024
}

/// Sends these bytes and nothing more; what comes back until the other side closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // Who is refused early may not get everything off.
    let _ = socket.write_all(bytes).await;
    read_to_close(&mut socket).await
}

/// What comes until the other side closes, by an end or by a reset.
pub(crate) async fn read_to_close(socket: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    let reading = timeout(LONG, socket.read_to_end(&mut got)).await;
    let _ = reading.expect("the connection is left open");
    got
}

/// Sends `begin`, and then `again` over and over, in pieces of `piece` bytes with a pause between them, until the other
/// side closes; what it answered.
pub(crate) async fn send_without_end(
    address: SocketAddr,
    begin: &str,
    again: &[u8],
    piece: usize,
    pause: Duration,
) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(begin.as_bytes()).await.unwrap();
    let (mut read, mut write) = socket.into_split();
    let sending = async {
        for piece in std::iter::repeat(again.chunks(piece)).flatten() {
            if write.write_all(piece).await.is_err() {
                break;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    };
    let mut got = Vec::new();
    let reading = async {
        // Behind the answer, a reset may come.
        let _ = read.read_to_end(&mut got).await;
    };
    let both = async {
        tokio::join!(sending, reading);
    };
    timeout(LONG, both)
        .await
        .expect("a client without end is served without end");
    got
}

/// Sends `begin` and then `again` a byte at a time until the other side closes; what it answered.
pub(crate) async fn drip(address: SocketAddr, begin: &str, again: &str) -> Vec<u8> {
    send_without_end(
        address,
        begin,
        again.as_bytes(),
        1,
        Duration::from_millis(50),
    )
    .await
}

/// A MiB in one chunk of HTTP.
pub(crate) fn chunk() -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", 1 << 20).into_bytes();
    chunk.resize(chunk.len() + (1 << 20), b' ');
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// The status of an answer, and its body.
pub(crate) fn answer(bytes: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(bytes);
    let status = text
        .strip_prefix("HTTP/1.1 ")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status[..3].parse().unwrap(), body.to_owned())
}

/// Asserts that the body is an error with a kind and a hint, in words that move no terminal; its primary line.
#[track_caller]
pub(crate) fn says_why(body: &str) -> String {
    let error = serde_json::from_str::<Value>(body).unwrap_or_else(|_| panic!("{body:?}"));
    let error = &error["error"];
    assert!(error["kind"].is_string(), "{error:#}");
    let hint = error["hint"].as_str().unwrap_or_default();
    assert!(hint.ends_with('.') || hint.ends_with('?'), "{error:#}");
    let message = error["message"].as_str().unwrap();
    assert!(!message.contains(char::is_control), "{message:?}");
    message.to_owned()
}

/// Connections that say nothing.
pub(crate) async fn open(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        sockets.push(TcpStream::connect(address).await.unwrap());
    }
    sockets
}

/// A test opens as many as the other side does.
pub(crate) fn room_for_many() {
    grid_listen::raise_open_files();
    assert!(
        grid_listen::open_files() > MANY + 500,
        "`ulimit -Hn` is too low for this test"
    );
}

/// What is no HTTP, or HTTP that two sides could read in two ways: a name for it, and its bytes. `line` is a request's
/// method and path, `headers` what such a request needs.
pub(crate) fn no_http(line: &str, headers: &str) -> Vec<(&'static str, String)> {
    let get = |rest: &str| format!("GET /healthz HTTP/1.1\r\n{rest}\r\n");
    let send = |more: &str, body: &str| format!("{line} HTTP/1.1\r\n{headers}{more}\r\n{body}");
    let chunked = "transfer-encoding: chunked\r\n";
    vec![
        ("a line of nonsense", "nonsense\r\n\r\n".into()),
        ("a blank in the path", "GET /a b HTTP/1.1\r\n\r\n".into()),
        ("a newer version", "GET /healthz HTTP/9.9\r\n\r\n".into()),
        ("a control character", get("x: a\u{1}b\r\n")),
        ("a name with a blank", get("x y: z\r\n")),
        (
            "a blank before the colon",
            get(&format!("{headers}content-length : 5\r\n")),
        ),
        ("a folded line", get("x: a\r\n b\r\n")),
        (
            "two lengths",
            send("content-length: 2\r\ncontent-length: 3\r\n", "{}"),
        ),
        ("a length with a sign", send("content-length: +2\r\n", "{}")),
        ("a length below zero", send("content-length: -1\r\n", "{}")),
        (
            "a length beyond numbers",
            send("content-length: 99999999999999999999999\r\n", "{}"),
        ),
        (
            "an unknown coding",
            send("transfer-encoding: cow\r\n", "{}"),
        ),
        (
            "chunked, and not last",
            send("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ),
        ("many headers", get(&"a: b\r\n".repeat(200))),
        (
            "a long header",
            get(&format!("a: {}\r\n", "b".repeat(20_000))),
        ),
        (
            "a long path",
            format!("GET /{} HTTP/1.1\r\n\r\n", "b".repeat(70_000)),
        ),
        (
            "HTTP/2 where HTTP/1 is spoken",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        ),
        ("a TLS hello", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}".into()),
        ("a chunk of no size", send(chunked, "zz\r\n{}\r\n0\r\n\r\n")),
        (
            "a chunk beyond numbers",
            send(chunked, "ffffffffffffffffff\r\n{}\r\n"),
        ),
        ("a chunk below zero", send(chunked, "-1\r\n{}\r\n0\r\n\r\n")),
        (
            "a chunk that is longer than it says",
            send(chunked, "2\r\n{}garbage\r\n0\r\n\r\n"),
        ),
        (
            "a chunk's line with a bare line feed",
            send(chunked, "2;ext\n\r\n{}\r\n0\r\n\r\n"),
        ),
    ]
}

/// Sends each of [`no_http`] with a request behind it: refused by a status, or closed without a word, and what stands
/// behind it is never answered.
pub(crate) async fn refuses_what_is_no_http(
    address: SocketAddr,
    line: &str,
    headers: &str,
    hidden: &str,
) {
    for (what, request) in no_http(line, headers) {
        let got = raw(address, format!("{request}{hidden}").as_bytes()).await;
        let text = String::from_utf8_lossy(&got);
        if text.is_empty() {
            continue;
        }
        let (status, body) = answer(&got);
        if !body.is_empty() {
            says_why(&body);
        }
        assert!(
            [400, 401, 408, 414, 431, 501, 505].contains(&status),
            "{what}: {text}"
        );
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{what}: {text}");
    }
}
