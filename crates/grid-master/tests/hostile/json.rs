//! Bodies, queries, paths and headers that are not what they should be.

use serde_json::{Value, json};

use crate::{
    clients::{answer, raw, says_why},
    target::Target,
};

/// Bodies that are no JSON, or JSON that fits no request. The second is a part of what is said.
fn broken() -> Vec<(Vec<u8>, &'static str)> {
    let deep =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let texts: Vec<(String, &str)> = vec![
        (String::new(), "not JSON"),
        (" ".into(), "not JSON"),
        ("{".into(), "not JSON"),
        ("}".into(), "not JSON"),
        ("{\"port\": }".into(), "line 1 column 10"),
        ("{\"port\": 1}x".into(), "trailing characters"),
        ("{\"port\": 1}{\"port\": 1}".into(), "trailing characters"),
        ("{\"port\": 1,}".into(), "not JSON"),
        ("{'port': 1}".into(), "not JSON"),
        ("{port: 1}".into(), "not JSON"),
        ("// a comment\n{}".into(), "not JSON"),
        ("{\"port\": NaN}".into(), "not JSON"),
        ("{\"port\": Infinity}".into(), "not JSON"),
        ("{\"port\": 0x10}".into(), "not JSON"),
        ("{\"port\": 01}".into(), "not JSON"),
        ("{\"port\": 1e400}".into(), "out of range"),
        ("{\"port\": 1e2}".into(), "floating point"),
        ("{\"port\": 18446744073709551616}".into(), "floating point"),
        ("{\"port\": -1}".into(), "-1"),
        ("{\"port\": 65536}".into(), "65536"),
        ("{\"port\": \"1\"}".into(), "string"),
        ("{\"port\": [1]}".into(), "sequence"),
        ("{\"port\": {\"a\": 1}}".into(), "map"),
        ("{\"port\": true}".into(), "boolean"),
        (
            "{\"port\": 1, \"port\": 2}".into(),
            "duplicate field `port`",
        ),
        ("{\"memory_limit_mb\": 1.5}".into(), "floating point"),
        ("{\"args\": \"--port\"}".into(), "string"),
        ("{\"args\": [null]}".into(), "null"),
        ("{\"env\": [[\"a\", \"b\"]]}".into(), "sequence"),
        ("{\"node_id\": \"a\\u0000b\"}".into(), "a\\0b"),
        ("{\"node_id\": \"\\ud800\"}".into(), "not JSON"),
        ("{\"node_id\": \"\\udc00\\ud800\"}".into(), "not JSON"),
        ("{\"node_id\": \"a\nb\"}".into(), "control character"),
        ("{\"memory\": 1}".into(), "unknown field `memory`"),
        ("{\"__proto__\": {}}".into(), "unknown field `__proto__`"),
        ("[]".into(), "does not fit"),
        ("null".into(), "does not fit"),
        ("1".into(), "does not fit"),
        ("\"{}\"".into(), "does not fit"),
        (deep("[", "]"), "does not fit"),
        (deep("{\"a\":", "}"), "not JSON"),
        (
            format!("{{\"adapter\": {{\"a\": {}}}}}", deep("[", "]")),
            "recursion limit",
        ),
    ];
    let bytes = [
        (b"\xff\xfe{\0}\0".to_vec(), "not JSON"),
        (b"\xef\xbb\xbf{}".to_vec(), "not JSON"),
        (b"{\"node_id\": \"\xff\"}".to_vec(), "not JSON"),
        (b"{\"node_id\": \"\xed\xa0\x80\"}".to_vec(), "not JSON"),
        (vec![0; 1000], "not JSON"),
    ];
    texts
        .into_iter()
        .map(|(text, why)| (text.into_bytes(), why))
        .chain(bytes)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_no_request_is_refused_with_its_place() {
    let target = Target::start().await;
    for (body, expect) in broken() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let request = target.grid.request("POST", "/api/grid/spawn");
        let why = target
            .grid
            .send(request.body(body.clone()))
            .await
            .error(400);
        assert!(why.contains(expect), "{shown}: {why}");
        assert!(why.len() < 400, "{shown}: {why}");
        // What fits no spawn fits no other body either, but for the fields that they share.
        for (method, path) in [("PUT", "/api/grid/nodes/n1"), ("POST", "/api/grid/tokens")] {
            let request = target.grid.request(method, path).body(body.clone());
            target.grid.send(request).await.error(400);
        }
    }
    target.must_be_unharmed().await;
}

/// A value that is far too long is not sent back whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_short_however_long_the_request_was() {
    let target = Target::start().await;
    let long = "x".repeat(500_000);
    for body in [
        json!({ "port": long }),
        json!({ "node_id": long }),
        json!({ &long: 1 }),
        json!({ "restart": { "mode": long } }),
        json!({ "agent_id": long }),
    ] {
        let answer = target.grid.spawn(body).await;
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        let said = answer.body.to_string();
        assert!(
            said.len() < 2000,
            "{} bytes: {}...",
            said.len(),
            &said[..200]
        );
        says_why(&said);
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_leads_nowhere_but_to_its_route() {
    let target = Target::start().await;
    let token = target.grid.token("admin");
    // As they stand: a client would clean them first.
    let get = async |line: &str| {
        let head = format!(
            "{line}\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        answer(&raw(target.http, head.as_bytes()).await)
    };
    for path in [
        "//api/grid/nodes",
        "/api//grid/nodes",
        "/api/grid/nodes/",
        "/api/grid/./nodes",
        "/api/grid/agents/../nodes",
        "/api/grid/%6eodes",
        "/api%2fgrid%2fnodes",
        "/API/GRID/NODES",
        "/api/grid/nodes;a=b",
        "/api/grid/nodes/n1/..",
        "/healthz/../api/grid/nodes",
        "/tokens/admin",
        "/../../etc/passwd",
    ] {
        let (status, body) = get(&format!("GET {path} HTTP/1.1")).await;
        assert!([400, 404].contains(&status), "{path}: {status} {body}");
        says_why(&body);
    }
    for id in [
        "%2e%2e",
        "..%2fn1",
        "n1%00",
        "n1%0a",
        "n1%2fstop",
        "%ff",
        "N1",
        "n1%20",
        "%6E1%",
        "n1.",
        "-n1",
    ] {
        for (method, suffix) in [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/stop"),
            ("GET", "/logs"),
        ] {
            let (status, body) =
                get(&format!("{method} /api/grid/nodes/{id}{suffix} HTTP/1.1")).await;
            assert!(
                [400, 404].contains(&status),
                "{method} {id}{suffix}: {status} {body}"
            );
            let why = says_why(&body);
            assert!(!why.contains(char::is_control), "{why:?}");
        }
    }
    for id in ["%1b%5b31m", "a%0ab", "%e2%80%ae"] {
        for path in [format!("agents/{id}"), format!("tokens/{id}")] {
            let (status, body) = get(&format!("DELETE /api/grid/{path} HTTP/1.1")).await;
            assert!([404, 405].contains(&status), "{path}: {status}");
            let why = says_why(&body);
            assert!(!why.contains(char::is_control), "{why:?}");
        }
    }
    // An absolute address is its path, whatever host it names.
    let (status, _) = get("GET http://elsewhere.invalid/api/grid/version HTTP/1.1").await;
    assert_eq!(status, 200);
    for line in [
        "OPTIONS * HTTP/1.1",
        "TRACE /api/grid/nodes HTTP/1.1",
        "BREW /healthz HTTP/1.1",
    ] {
        let (status, body) = get(line).await;
        assert!([404, 405].contains(&status), "{line}: {status}");
        says_why(&body);
    }
    let (status, _) = get("CONNECT 127.0.0.1:22 HTTP/1.1").await;
    assert!((400..500).contains(&status), "{status}");
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_and_headers_are_read_strictly() {
    let target = Target::start().await;
    for path in [
        "/api/grid/nodes?state=",
        "/api/grid/nodes?state=running&state=running",
        "/api/grid/nodes?unknown=1",
        "/api/grid/nodes?agent=a&agent=b",
        "/api/grid/nodes/n1/logs?follow=maybe",
        "/api/grid/nodes/n1/logs?cursor=tail:-1",
        "/api/grid/nodes/n1/logs?cursor=tail:99999999999999999999999",
        "/api/grid/nodes/n1/logs?cursor=since:yesterday",
        "/api/grid/nodes/n1/logs?cursor=since:9999999-01-01T00:00:00Z",
        "/api/grid/events?after=18446744073709551616",
        "/api/grid/events?after=1e3",
        "/api/grid/data?agent=a&x=1",
    ] {
        let why = target.grid.get(path).await.error(400);
        assert!(!why.is_empty(), "{path}");
    }
    // Beyond what was ever told is answered by what is kept, with a word that it is not all.
    let events = target
        .get("/api/grid/events?follow=false&after=18446744073709551615")
        .await;
    assert_eq!(events[0]["kind"], "resync", "{events:#}");
    for (name, value) in [
        ("last-event-id", "x"),
        ("last-event-id", "-1"),
        ("last-event-id", "\u{fc}"),
        ("last-event-id", "18446744073709551616"),
    ] {
        let request = target
            .grid
            .request("GET", "/api/grid/events")
            .header(name, value);
        target.grid.send(request).await.error(400);
    }
    for key in ["", "\u{fc}", &"k".repeat(256)] {
        let request = target.grid.request("POST", "/api/grid/spawn");
        let request = request
            .header("idempotency-key", key)
            .json(&json!({"node_id": "n1"}));
        target.grid.send(request).await.error(400);
    }
    target.must_be_unharmed().await;
}

/// The same key with another body, and keys of somebody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_cannot_be_used_for_another_request() {
    let target = Target::start().await;
    let spawn = async |token: &str, body: Value| {
        let request = target.grid.request("POST", "/api/grid/spawn");
        let request = request.header("idempotency-key", "k").json(&body);
        let mut request = request.build().unwrap();
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let client = reqwest::Client::new();
        client.execute(request).await.unwrap().status().as_u16()
    };
    let admin = target.grid.token("admin");
    assert_eq!(spawn(&admin, json!({"node_id": "n1"})).await, 200);
    assert_eq!(spawn(&admin, json!({"node_id": "n2"})).await, 409);
    let made = target
        .grid
        .call("POST", "/api/grid/tokens", json!({"role": "admin"}))
        .await
        .expect(201);
    let other = made["value"].as_str().unwrap();
    assert_eq!(
        spawn(other, json!({"node_id": "n1", "port": 1})).await,
        409,
        "the node, not the key"
    );
    assert_eq!(spawn(other, json!({"node_id": "n1"})).await, 200);
    let path = format!("/api/grid/tokens/{}", made["id"].as_str().unwrap());
    target
        .grid
        .call("DELETE", &path, Value::Null)
        .await
        .expect(204);
    target.must_be_unharmed().await;
}
