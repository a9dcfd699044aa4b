//! What is no HTTP, or HTTP that two sides could read in two ways.

use crate::target::{Target, answer, raw, says_why};

/// Heads that are refused by a status, and the connection closed: what comes behind them is never a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_refused_and_the_connection_closed() {
    let target = Target::start().await;
    let token = target.grid.token("admin");
    let auth = format!("host: x\r\nauthorization: Bearer {token}\r\n");
    let hidden = format!("GET /api/grid/version HTTP/1.1\r\n{auth}\r\n");
    let post = |headers: &str, body: &str| {
        format!("POST /api/grid/nodes/n1/stop HTTP/1.1\r\n{auth}{headers}\r\n{body}")
    };
    let cases: Vec<(&str, String)> = vec![
        ("a line of nonsense", "nonsense\r\n\r\n".into()),
        ("a blank in the path", "GET /a b HTTP/1.1\r\n\r\n".into()),
        ("a newer version", "GET /healthz HTTP/9.9\r\n\r\n".into()),
        (
            "a control character",
            "GET /healthz HTTP/1.1\r\nx: a\u{1}b\r\n\r\n".into(),
        ),
        (
            "a name with a blank",
            "GET /healthz HTTP/1.1\r\nx y: z\r\n\r\n".into(),
        ),
        (
            "a blank before the colon",
            format!("GET /healthz HTTP/1.1\r\n{auth}content-length : 5\r\n\r\n"),
        ),
        (
            "a folded line",
            "GET /healthz HTTP/1.1\r\nx: a\r\n b\r\n\r\n".into(),
        ),
        (
            "two lengths",
            post("content-length: 2\r\ncontent-length: 3\r\n", "{}"),
        ),
        ("a length with a sign", post("content-length: +2\r\n", "{}")),
        ("a length below zero", post("content-length: -1\r\n", "{}")),
        (
            "a length beyond numbers",
            post("content-length: 99999999999999999999999\r\n", "{}"),
        ),
        (
            "an unknown coding",
            post("transfer-encoding: cow\r\n", "{}"),
        ),
        (
            "chunked, and not last",
            post("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ),
        (
            "many headers",
            format!("GET /healthz HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200)),
        ),
        (
            "a long header",
            format!("GET /healthz HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(20_000)),
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
    ];
    for (what, request) in cases {
        let got = raw(target.http, format!("{request}{hidden}").as_bytes()).await;
        let text = String::from_utf8_lossy(&got);
        assert!(
            !text.contains("revision"),
            "{what}: what was hidden was answered: {text}"
        );
        if text.is_empty() {
            continue;
        }
        let (status, _) = answer(&got);
        assert!(
            [400, 414, 431, 501, 505].contains(&status),
            "{what}: {text}"
        );
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{what}: {text}");
    }
    target.must_be_unharmed().await;
}

/// A request in the body of another one is a body: also of one that is refused before its body is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_within_a_body_is_no_request() {
    let target = Target::start().await;
    let token = target.grid.token("admin");
    let hidden = format!(
        "POST /api/grid/nodes/n1/stop HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    let length = hidden.len();
    for (line, auth, status) in [
        // Refused before the body, for want of a token, or of a route.
        ("POST /api/grid/spawn", "", 401),
        ("POST /nowhere", "", 404),
        // Read whole, and no JSON.
        ("POST /api/grid/spawn", "authorization: Bearer {}\r\n", 400),
    ] {
        let auth = auth.replace("{}", &token);
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\n{auth}connection: close\r\ncontent-length: {length}\r\n\r\n{hidden}"
        );
        let got = raw(target.http, head.as_bytes()).await;
        let text = String::from_utf8_lossy(&got);
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{line}: {text}");
        let (found, body) = answer(&got);
        assert_eq!(found, status, "{text}");
        says_why(&body);
    }
    // Chunked and with a length: the chunks count, and the rest is nothing.
    let smuggle = format!(
        "POST /api/grid/spawn HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
    );
    let got = raw(target.http, smuggle.as_bytes()).await;
    let (status, _) = answer(&got);
    assert!([400, 401].contains(&status));
    target.must_be_unharmed().await;
}

/// Chunks that lie about their size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_chunks_are_no_body() {
    let target = Target::start().await;
    let token = target.grid.token("admin");
    for chunks in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n{}\r\n",
        "-1\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}garbage\r\n0\r\n\r\n",
        "2;ext\n\r\n{}\r\n0\r\n\r\n",
    ] {
        let head = format!(
            "POST /api/grid/spawn HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
        );
        let got = raw(target.http, head.as_bytes()).await;
        if got.is_empty() {
            continue;
        }
        let (status, body) = answer(&got);
        assert!((400..500).contains(&status), "{chunks:?}: {status}");
        if !body.is_empty() {
            says_why(&body);
        }
    }
    target.must_be_unharmed().await;
}
