//! What is no HTTP, or HTTP that two sides could read in two ways.

use crate::clients::{answer, raw, refuses_what_is_no_http, says_why};
use crate::target::Target;

/// A request that would change something, were it answered.
const HIDDEN: &str = "DELETE /v1/objects/kept/small HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_refused_and_the_connection_closed() {
    let target = Target::start().await;
    let line = "PUT /v1/objects/kept/small";
    refuses_what_is_no_http(target.address, line, "host: x\r\n", HIDDEN).await;
    target.must_be_unharmed().await;
}

/// A request in the body of another one is a body: also of one that is refused before its body is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_within_a_body_is_no_request() {
    let target = Target::start().await;
    let length = HIDDEN.len();
    for (line, more, status) in [
        ("PUT /nowhere", "", 404),
        ("POST /v1/objects/kept/small", "", 405),
        ("PUT /v1/objects/%00", "", 400),
        ("PUT /v1/objects/kept/small", "if-none-match: *\r\n", 412),
        ("GET /v1/objects/nothing", "", 404),
    ] {
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\n{more}connection: close\r\ncontent-length: {length}\r\n\r\n{HIDDEN}"
        );
        let got = raw(target.address, head.as_bytes()).await;
        let text = String::from_utf8_lossy(&got);
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{line}: {text}");
        let (found, body) = answer(&got);
        assert_eq!(found, status, "{line}: {text}");
        says_why(&body);
    }
    // Chunked and with a length: the chunks count, and the rest is nothing.
    let smuggle = format!(
        "PUT /v1/objects/kept/small HTTP/1.1\r\nhost: x\r\nif-none-match: *\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
    );
    let got = raw(target.address, smuggle.as_bytes()).await;
    let text = String::from_utf8_lossy(&got);
    assert!(!text.contains(" 204 "), "{text}");
    target.must_be_unharmed().await;
}
