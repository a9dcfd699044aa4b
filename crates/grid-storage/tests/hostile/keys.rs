//! Keys that would be something else elsewhere: a path, a line, a terminal's command.

use std::net::SocketAddr;

use crate::clients::{answer, raw, says_why};
use crate::target::Target;

/// A request whose path is sent just so: most clients would tidy it up.
async fn send(address: SocketAddr, method: &str, key: &[u8], body: &str) -> Vec<u8> {
    let mut request = format!("{method} /v1/objects/").into_bytes();
    request.extend_from_slice(key);
    let length = body.len();
    let rest = format!(
        " HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    request.extend_from_slice(rest.as_bytes());
    raw(address, &request).await
}

/// A key is text, and never a path on the disk: what looks like one is stored and found by that text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_look_like_paths_are_mere_names() {
    let target = Target::start().await;
    let long = "k".repeat(1024);
    let encoded = "%6B".repeat(1024);
    let cases = [
        ("..", ".."),
        (".", "."),
        ("../../etc/passwd", "../../etc/passwd"),
        ("/etc/passwd", "/etc/passwd"),
        ("%2e%2e", ".."),
        ("%2e%2e%2f%2e%2e%2fescape", "../../escape"),
        ("%252e%252e", "%2e%2e"),
        ("a/../../b", "a/../../b"),
        ("a//b/", "a//b/"),
        ("objects/0000000000000001", "objects/0000000000000001"),
        ("FORMAT", "FORMAT"),
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("a%3Fb%23c", "a?b#c"),
        ("-rf%20*", "-rf *"),
        ("%E2%98%83/%F0%9F%92%A3", "\u{2603}/\u{1f4a3}"),
        // Two ways to write one letter are two keys.
        ("%C3%A9", "\u{e9}"),
        ("e%CC%81", "e\u{301}"),
        ("%E2%80%AEtxt.exe", "\u{202e}txt.exe"),
        (long.as_str(), long.as_str()),
        (encoded.as_str(), long.as_str()),
    ];
    for (sent, key) in cases {
        let got = send(target.address, "PUT", sent.as_bytes(), sent).await;
        assert_eq!(answer(&got).0 / 100, 2, "{sent}");
        assert!(target.keys().await.contains(key), "{sent}");
        let got = send(target.address, "GET", sent.as_bytes(), "").await;
        assert_eq!(answer(&got), (200, sent.to_owned()));
    }
    // The two that were kept are among them.
    let keys: std::collections::BTreeSet<&str> = cases.iter().map(|(_, key)| *key).collect();
    assert_eq!(target.keys().await.len(), keys.len() + 2);
    for (sent, _) in cases {
        let got = send(target.address, "DELETE", sent.as_bytes(), "").await;
        // Some are two ways to write one key.
        assert!([204, 404].contains(&answer(&got).0), "{sent}");
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_none_are_refused_in_words() {
    let target = Target::start().await;
    let long = "k".repeat(1025);
    let encoded = "%C3%A9".repeat(513);
    for (key, kind) in [
        ("", "invalid_key"),
        ("%00", "invalid_key"),
        ("a%00b", "invalid_key"),
        ("a%0Ab", "invalid_key"),
        ("a%0D%0AX-Header:%20y", "invalid_key"),
        ("%1b%5b31m", "invalid_key"),
        ("%7f", "invalid_key"),
        ("%C2%85", "invalid_key"),
        // Not UTF-8: a stray byte, a dot in two bytes, half a pair.
        ("%ff", "invalid_key"),
        ("%C0%AE%C0%AE", "invalid_key"),
        ("%ED%A0%80", "invalid_key"),
        ("%", "invalid_request"),
        ("%2", "invalid_request"),
        ("%zz", "invalid_request"),
        ("%u002e", "invalid_request"),
        (long.as_str(), "invalid_key"),
        (encoded.as_str(), "invalid_key"),
    ] {
        for method in ["PUT", "GET", "DELETE"] {
            let got = send(target.address, method, key.as_bytes(), "x").await;
            let (status, body) = answer(&got);
            assert_eq!(status, 400, "{method} {key}: {body}");
            says_why(&body);
            assert!(body.contains(kind), "{method} {key}: {body}");
        }
    }
    // Bytes that no path of HTTP has never get as far as a key.
    for key in [&b"a\0b"[..], b"a\x1bb", b"a\x7fb"] {
        let got = send(target.address, "PUT", key, "x").await;
        assert_eq!(answer(&got).0, 400, "{key:?}");
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_are_none_are_refused_in_words() {
    let target = Target::start().await;
    let long = format!("prefix={}", "x".repeat(10_000));
    for (query, expect) in [
        ("limit=0", 400),
        ("limit=-1", 400),
        ("limit=1001", 400),
        ("limit=1e3", 400),
        ("limit=99999999999999999999999", 400),
        ("limit=", 400),
        ("limit=%31%00", 400),
        ("prefix=%ff", 400),
        ("prefix=%", 400),
        ("prefix=%zz", 400),
        ("prefx=a", 400),
        ("%0a=b", 400),
        ("=", 400),
        // Nothing begins with these, and nothing comes after those.
        ("prefix=%00", 200),
        ("prefix=../", 200),
        (long.as_str(), 200),
        ("after=%F4%8F%BF%BF", 200),
        ("&&&&", 200),
    ] {
        let request =
            format!("GET /v1/objects?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let got = raw(target.address, request.as_bytes()).await;
        let (status, body) = answer(&got);
        assert_eq!(status, expect, "{query}: {body}");
        if status == 400 {
            says_why(&body);
        }
    }
    target.must_be_unharmed().await;
}
