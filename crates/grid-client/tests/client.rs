//! The client against scripted answers: what it sends, how it resumes, and what it says when things go wrong.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that cannot go on ends its test"
)]

use grid_client::{Class, Client, LogQuery, NodeFilter, SpawnRequest, State};
use grid_platform_api::{ErrorKind, NodeId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

/// Answers one connection after the other with the given texts and tells what was asked.
async fn script(answers: Vec<String>) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !whole(&request) {
                if socket.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            tell.send(String::from_utf8(request).unwrap()).ok();
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, told)
}

/// Whether the head and the announced body are here.
fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |n| n.parse().unwrap());
    body.len() >= length
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn event(id: u64) -> String {
    format!(
        "id: {id}\ndata: {{\"id\":{id},\"at\":\"2026-01-01T00:00:00Z\",\"kind\":\"node.changed\",\"message\":\"m\"}}\n\n"
    )
}

#[tokio::test]
async fn a_call_carries_path_query_token_and_key() {
    let node = r#"{"id":"n1","agent":"a","desired":"running","state":"pending","health":"unchecked","restarts":0,"generation":1,"observed_generation":0}"#;
    let (url, mut asked) = script(vec![
        answer("200 OK", "application/json", "[]"),
        answer("201 Created", "application/json", node),
    ])
    .await;
    let client = Client::new(&url, Some("id.secret\n")).unwrap();
    let filter = NodeFilter {
        agent: Some("a b".into()),
        state: Some(State::Running),
    };
    assert!(client.nodes(&filter).await.unwrap().is_empty());
    let request = asked.recv().await.unwrap();
    assert!(
        request.starts_with("GET /api/grid/nodes?agent=a+b&state=running HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains("authorization: Bearer id.secret\r\n"),
        "{request}"
    );
    let spawned = client
        .spawn(&SpawnRequest::default(), "key-1")
        .await
        .unwrap();
    assert_eq!(spawned.state, State::Pending);
    let request = asked.recv().await.unwrap();
    assert!(
        request.starts_with("POST /api/grid/spawn HTTP/1.1\r\n")
            && request.contains("idempotency-key: key-1\r\n")
            && request.ends_with("{}"),
        "{request}"
    );
}

#[tokio::test]
async fn a_refusal_is_the_masters_own_error() {
    let body = r#"{"error":{"kind":"conflict","message":"the node `n1` exists","hint":"`grid update n1` changes it."}}"#;
    let (url, _asked) = script(vec![answer("409 Conflict", "application/json", body)]).await;
    let client = Client::new(&url, None).unwrap();
    let error = client.node(&NodeId::new("n1").unwrap()).await.unwrap_err();
    assert_eq!(
        (error.class(), error.kind(), error.status()),
        (Class::Conflict, ErrorKind::Conflict, Some(409))
    );
    assert_eq!(
        error.report().to_string(),
        "error: the node `n1` exists\nhint: `grid update n1` changes it.\n"
    );
}

#[tokio::test]
async fn an_absent_master_is_named_with_the_mend() {
    let url = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let error = Client::new(&url, None)
        .unwrap()
        .version()
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Unreachable);
    let text = error.report().to_string();
    assert!(
        text.starts_with(&format!(
            "error: cannot reach the master at `{url}`\n  caused by: "
        )),
        "{text}"
    );
    assert!(
        text.contains("refused") && text.contains("hint: Start it with `grid up`"),
        "{text}"
    );
}

#[tokio::test]
async fn an_answer_of_something_else_is_no_master() {
    let (url, _asked) = script(vec![answer("200 OK", "text/html", "<html>")]).await;
    let error = Client::new(&url, None)
        .unwrap()
        .version()
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Failed);
    assert!(error.to_string().contains("cannot be read"), "{error}");
}

#[tokio::test]
async fn events_resume_behind_the_last_one() {
    let (url, mut asked) = script(vec![
        answer(
            "200 OK",
            "text/event-stream",
            &format!("{}{}", event(3), event(4)),
        ),
        answer("200 OK", "text/event-stream", &event(5)),
    ])
    .await;
    let mut events = Client::new(&url, None)
        .unwrap()
        .events(Some(2))
        .await
        .unwrap();
    assert!(asked.recv().await.unwrap().contains("last-event-id: 2\r\n"));
    assert_eq!(events.next().await.unwrap().id, 3);
    assert_eq!(events.next().await.unwrap().id, 4);
    assert_eq!(
        events.next().await.unwrap_err().class(),
        Class::Unreachable,
        "the loss is told once"
    );
    assert_eq!(events.next().await.unwrap().id, 5);
    assert!(asked.recv().await.unwrap().contains("last-event-id: 4\r\n"));
}

#[tokio::test]
async fn events_end_when_the_caller_is_refused() {
    let refusal = r#"{"error":{"kind":"permission_denied","message":"the token is not known"}}"#;
    let (url, _asked) = script(vec![
        answer("200 OK", "text/event-stream", &event(1)),
        answer("401 Unauthorized", "application/json", refusal),
    ])
    .await;
    let mut events = Client::new(&url, None).unwrap().events(None).await.unwrap();
    assert_eq!(events.next().await.unwrap().id, 1);
    assert_eq!(events.next().await.unwrap_err().class(), Class::Unreachable);
    let error = events.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn logs_are_asked_for_by_cursor() {
    let body =
        "{\"type\":\"line\",\"cursor\":\"after:9\",\"source\":\"combined\",\"text\":\"hi\"}\n";
    let (url, mut asked) = script(vec![answer("200 OK", "application/x-ndjson", body)]).await;
    let query = LogQuery {
        cursor: Some("tail:5".into()),
        follow: true,
    };
    let client = Client::new(&url, None).unwrap();
    let mut logs = client
        .logs(&NodeId::new("n1").unwrap(), &query)
        .await
        .unwrap();
    let request = asked.recv().await.unwrap();
    assert!(
        request.starts_with("GET /api/grid/nodes/n1/logs?cursor=tail%3A5&follow=true "),
        "{request}"
    );
    assert_eq!(logs.next().await.unwrap().unwrap().bytes().unwrap(), b"hi");
    assert!(logs.next().await.unwrap().is_none());
}
