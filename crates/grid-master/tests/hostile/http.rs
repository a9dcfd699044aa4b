//! What is no HTTP, or HTTP that two sides could read in two ways.

use crate::{
    clients::{answer, raw, refuses_what_is_no_http, says_why},
    target::Target,
};

/// Heads that are refused by a status, and the connection closed: what comes behind them is never a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_refused_and_the_connection_closed() {
    let target = Target::start().await;
    let token = target.grid.token("admin");
    let headers = format!("host: x\r\nauthorization: Bearer {token}\r\n");
    let hidden = format!("POST /api/grid/nodes/n1/stop HTTP/1.1\r\n{headers}\r\n");
    refuses_what_is_no_http(target.http, "POST /api/grid/spawn", &headers, &hidden).await;
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
