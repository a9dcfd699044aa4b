//! Logs through the agent's own calls.

use grid_platform_api::{Error, ErrorKind};
use grid_proto::v1::{self, from_master::Message as Heard};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::support::{Agent, Grid, LONG, stream, with_token};

fn line(text: &str) -> v1::LogItem {
    v1::LogItem {
        item: Some(v1::log_item::Item::Line(v1::LogLine {
            position: text.len().to_string(),
            source: "combined".into(),
            data: text.into(),
            ..v1::LogLine::default()
        })),
    }
}

/// The master's next wish to see a log.
async fn asked(agent: &mut Agent) -> v1::OpenLogs {
    loop {
        match agent.hear().await {
            Some(Heard::OpenLogs(open)) => return open,
            Some(_) => {}
            None => panic!("the session ended"),
        }
    }
}

/// Pushes frames by a call of its own; what is returned takes more, and tells the call's end.
async fn push(
    agent: &mut Agent,
    frames: Vec<v1::LogFrame>,
) -> (
    mpsc::Sender<v1::LogFrame>,
    tokio::task::JoinHandle<Result<(), tonic::Status>>,
) {
    let (sender, receiver) = mpsc::channel(1);
    let (mut client, token) = (agent.client.clone(), agent.token.clone());
    let call = tokio::spawn(async move {
        client
            .push_logs(with_token(&token, stream(receiver)))
            .await
            .map(|_| ())
    });
    for frame in frames {
        sender.send(frame).await.unwrap();
    }
    (sender, call)
}

async fn node(grid: &Grid, agent: &mut Agent) {
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    agent.obey().await;
}

#[tokio::test]
async fn lines_gaps_and_the_end() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    node(&grid, &mut agent).await;
    let reading = grid.get("/api/grid/nodes/n1/logs?cursor=tail:5");
    let serving = async {
        let open = asked(&mut agent).await;
        assert_eq!((open.cursor.as_str(), open.follow), ("tail:5", false));
        let gap = v1::log_item::Item::Gap(v1::LogGap {
            from: "1".into(),
            to: "2".into(),
            reason: "retention".into(),
        });
        let frames = vec![
            v1::LogFrame {
                request_id: open.request_id,
                items: vec![line("one")],
                ..v1::LogFrame::default()
            },
            v1::LogFrame {
                items: vec![v1::LogItem { item: Some(gap) }, line("three")],
                over: true,
                ..v1::LogFrame::default()
            },
        ];
        let (sender, call) = push(&mut agent, frames).await;
        drop(sender);
        call.await.unwrap().unwrap();
    };
    let (answer, ()) = tokio::join!(reading, serving);
    let text = answer.expect(200);
    let records: Vec<Value> = text
        .as_str()
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(records[0]["text"], "one");
    assert_eq!(records[0]["cursor"], "after:3");
    assert_eq!(records[1]["type"], "gap");
    assert_eq!(records[2]["text"], "three");
    assert_eq!(records.len(), 3);
    grid.end().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_is_an_error_with_its_status() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    node(&grid, &mut agent).await;
    let reading = grid.get("/api/grid/nodes/n1/logs");
    let serving = async {
        let open = asked(&mut agent).await;
        assert_eq!(open.cursor, "tail:100");
        let error = Error::new(ErrorKind::LogsUnavailable, "they are gone").with_hint("Keep them.");
        let frame = v1::LogFrame {
            request_id: open.request_id,
            error_json: grid_proto::report_to_json(&error.to_report()),
            over: true,
            ..v1::LogFrame::default()
        };
        push(&mut agent, vec![frame])
            .await
            .1
            .await
            .unwrap()
            .unwrap();
    };
    let (answer, ()) = tokio::join!(reading, serving);
    assert_eq!(answer.error(410), "they are gone");
    grid.get("/api/grid/nodes/none/logs").await.error(404);
    grid.end().await;
}

#[tokio::test]
async fn a_reader_that_goes_ends_the_agents_call() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    node(&grid, &mut agent).await;
    let opening = grid.follow("/api/grid/nodes/n1/logs?follow=true", None);
    let serving = async {
        let open = asked(&mut agent).await;
        assert!(open.follow);
        let frame = v1::LogFrame {
            request_id: open.request_id,
            items: vec![line("one")],
            ..v1::LogFrame::default()
        };
        push(&mut agent, vec![frame]).await
    };
    let (mut reader, (_sender, call)) = tokio::join!(opening, serving);
    assert!(reader.chunk().await.unwrap().is_some());
    drop(reader);
    // The agent says nothing more; the call ends all the same.
    tokio::time::timeout(LONG, call)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    // A log that nobody waits for any more is no error.
    let stale = v1::LogFrame {
        request_id: 7,
        ..v1::LogFrame::default()
    };
    push(&mut agent, vec![stale])
        .await
        .1
        .await
        .unwrap()
        .unwrap();
    grid.end().await;
}

/// A log that is followed and has told one line: its reader, and the agent's call.
async fn followed(
    grid: &Grid,
    agent: &mut Agent,
) -> (
    reqwest::Response,
    mpsc::Sender<v1::LogFrame>,
    tokio::task::JoinHandle<Result<(), tonic::Status>>,
) {
    let opening = grid.follow("/api/grid/nodes/n1/logs?follow=true", None);
    let serving = async {
        let open = asked(agent).await;
        let frame = v1::LogFrame {
            request_id: open.request_id,
            items: vec![line("one")],
            ..v1::LogFrame::default()
        };
        push(agent, vec![frame]).await
    };
    let (mut reader, (sender, call)) = tokio::join!(opening, serving);
    assert!(reader.chunk().await.unwrap().is_some());
    (reader, sender, call)
}

/// The last record of what is left to read; `None` when nothing is.
async fn last_record(reader: reqwest::Response) -> Option<Value> {
    let text = tokio::time::timeout(LONG, reader.text()).await;
    let text = text.unwrap().unwrap();
    text.lines()
        .last()
        .map(|it| serde_json::from_str(it).unwrap())
}

#[tokio::test]
async fn a_log_that_is_followed_ends_without_a_word_only_where_the_log_ends() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    node(&grid, &mut agent).await;
    let (reader, sender, call) = followed(&grid, &mut agent).await;
    let last = v1::LogFrame {
        over: true,
        ..v1::LogFrame::default()
    };
    sender.send(last).await.unwrap();
    call.await.unwrap().unwrap();
    assert_eq!(last_record(reader).await, None);

    let broke_off = |record: Option<Value>| {
        let record = record.expect("it says that it broke off");
        assert_eq!(record["type"], "error");
        assert_eq!(record["error"]["kind"], "unavailable");
        assert_eq!(record["error"]["retryable"], true);
    };
    // The agent's call is dropped, as it is with its session; or it is ended, and its end is not said.
    let (reader, _sender, call) = followed(&grid, &mut agent).await;
    call.abort();
    broke_off(last_record(reader).await);
    let (reader, sender, _call) = followed(&grid, &mut agent).await;
    drop(sender);
    broke_off(last_record(reader).await);

    // The master ends, and not the log.
    let (reader, _sender, _call) = followed(&grid, &mut agent).await;
    let (record, ()) = tokio::join!(last_record(reader), grid.end());
    broke_off(record);
}

/// A reader that takes the answer's head and then nothing more, with little room in its socket.
async fn stalled_reader(grid: &Grid, path: &str) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = grid.http.trim_start_matches("http://").parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let token = grid.token("admin");
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_stop_their_logs_and_nothing_else() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    node(&grid, &mut agent).await;
    let mut stalled = Vec::new();
    // More than a connection's window is by default, if logs could take it all.
    for _ in 0..20 {
        let opening = stalled_reader(&grid, "/api/grid/nodes/n1/logs?follow=true");
        let serving = async {
            let open = asked(&mut agent).await;
            let frame = v1::LogFrame {
                request_id: open.request_id,
                items: vec![line("first")],
                ..v1::LogFrame::default()
            };
            push(&mut agent, vec![frame]).await
        };
        let (reader, (sender, call)) = tokio::join!(opening, serving);
        let pushing = tokio::spawn(async move {
            let mut pushed = 0u64;
            let frame = v1::LogFrame {
                items: vec![line(&"x".repeat(60_000))],
                ..v1::LogFrame::default()
            };
            // A reader that takes nothing lets a sender get only so far.
            while let Ok(Ok(())) = tokio::time::timeout(
                std::time::Duration::from_millis(500),
                sender.send(frame.clone()),
            )
            .await
            {
                pushed += 60_000;
                assert!(pushed < 64 << 20, "nothing holds the sender back");
            }
            sender
        });
        stalled.push((reader, pushing, call));
    }
    let mut held = Vec::new();
    for (reader, pushing, call) in stalled {
        held.push((reader, pushing.await.unwrap(), call));
    }
    // The agent is heard as ever: a wish comes through and is answered, and it was never lost.
    grid.call("POST", "/api/grid/nodes/n1/stop", json!({}))
        .await
        .expect(200);
    agent.obey().await;
    grid.until_state("n1", "stopped").await;
    let events = grid.get("/api/grid/events?follow=false").await.expect(200);
    assert!(!events.to_string().contains("agent.lost"), "{events:#}");
    drop(held);
    grid.end().await;
}
