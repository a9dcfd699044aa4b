//! Events: followed, resumed, and told to begin anew.

use grid_master::Settings;
use grid_proto::v1::{self, from_agent::Message as Said};
use serde_json::{Value, json};

use crate::support::{Agent, Answer, Grid, LONG, settings};

/// Reads server-sent events until there are `count`.
async fn read(stream: &mut reqwest::Response, count: usize) -> Vec<(u64, String, Value)> {
    let mut text = String::new();
    let reading = async {
        loop {
            let found = parse(&text);
            if found.len() >= count {
                return found;
            }
            let chunk = stream.chunk().await.unwrap().expect("the stream ended");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    tokio::time::timeout(LONG, reading).await.unwrap()
}

fn parse(text: &str) -> Vec<(u64, String, Value)> {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    let field = |frame: &str, name: &str| -> Option<String> {
        frame
            .lines()
            .find_map(|l| Some(l.strip_prefix(name)?.to_owned()))
    };
    whole
        .split("\n\n")
        .filter_map(|frame| {
            let id = field(frame, "id: ")?.parse().unwrap();
            let data = serde_json::from_str(&field(frame, "data: ")?).unwrap();
            Some((id, field(frame, "event: ")?, data))
        })
        .collect()
}

#[tokio::test]
async fn a_follower_sees_all_and_resumes_where_it_was() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    let mut stream = grid.follow("/api/grid/events", None).await;
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    agent.obey().await;
    let events = read(&mut stream, 2).await;
    let kinds: Vec<&str> = events.iter().map(|(_, kind, _)| kind.as_str()).collect();
    assert_eq!(kinds[..2], ["node.created", "node.changed"]);
    assert_eq!(events[0].2["node"], "n1");
    assert_eq!(events[1].2["state"], "running");
    let first = events[0].0;
    assert!(events.iter().zip(first..).all(|(event, id)| event.0 == id));
    drop(stream);

    let mut resumed = grid.follow("/api/grid/events", Some(first)).await;
    let again = read(&mut resumed, 1).await;
    assert_eq!(again[0], events[1]);
    // The header is what a browser sends on its own, and wins.
    let path = format!("/api/grid/events?after={}", 0);
    let mut resumed = grid.follow(&path, Some(first)).await;
    assert_eq!(read(&mut resumed, 1).await[0], events[1]);
    let all = grid.get("/api/grid/events?follow=false").await.expect(200);
    assert_eq!(all[0]["kind"], "agent.ready");
    grid.end().await;
}

#[tokio::test]
async fn what_is_no_longer_kept_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let few = Settings {
        events_kept: 3,
        ..settings(dir.path())
    };
    let grid = Grid::start_with(few).await;
    let mut agent = Agent::join(&grid, "a").await;
    for id in ["n1", "n2", "n3", "n4"] {
        grid.spawn(json!({"node_id": id})).await.expect(201);
        agent.obey().await;
        grid.until_state(id, "running").await;
    }
    let mut stream = grid.follow("/api/grid/events", Some(1)).await;
    let events = read(&mut stream, 4).await;
    assert_eq!(events[0].1, "resync");
    assert_eq!(events[0].0 + 1, events[1].0);
    let newest = events[3].0;
    grid.end().await;

    // After a restart the ids go on, and a follower of before is told that it missed something.
    let grid = Grid::start_with(settings(dir.path())).await;
    let mut stream = grid.follow("/api/grid/events", Some(newest)).await;
    let events = read(&mut stream, 1).await;
    assert_eq!(events[0].1, "resync");
    assert!(events[0].0 > newest);
    grid.end().await;
}

#[tokio::test]
async fn the_end_of_the_master_ends_followers() {
    let grid = Grid::start().await;
    let mut stream = grid.follow("/api/grid/events", None).await;
    grid.end().await;
    while let Ok(Some(_)) = stream.chunk().await {}
}

#[tokio::test]
async fn how_far_a_node_is_shows_until_it_is_over() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    agent.hear_node().await;
    let mut stream = grid.follow("/api/grid/events", None).await;
    let tell = |node: &str, json: String| {
        Said::Progress(v1::NodeProgress {
            node_id: node.to_owned(),
            progress_json: json,
        })
    };
    let progress = json!({"message": "pulling", "parts": 3, "parts_done": 1, "bytes": 2097152, "bytes_done": 1048576});
    // What cannot be read, is too long, or is of nobody's wish shows nowhere.
    agent.say(tell("n1", "{".to_owned())).await;
    agent
        .say(tell("n1", json!({"message": "x".repeat(5000)}).to_string()))
        .await;
    agent.say(tell("n2", progress.to_string())).await;
    agent.say(tell("n1", progress.to_string())).await;
    let told = loop {
        let event = read(&mut stream, 1).await.remove(0);
        stream = grid.follow("/api/grid/events", Some(event.0)).await;
        if event.1 == "node.progress" {
            break event.2;
        }
    };
    assert_eq!(told["node"], "n1");
    assert_eq!(
        told["message"],
        "the node `n1` waits: pulling: 1 of 3 parts, 1.0 of 2.0 MiB"
    );
    assert_eq!(grid.node("n1").await["progress"], progress);
    agent.say(tell("n1", String::new())).await;
    let over = |it: &Answer| it.body.get("progress").is_none();
    grid.until("/api/grid/nodes/n1", over).await;

    agent.say(tell("n1", progress.to_string())).await;
    grid.until("/api/grid/nodes/n1", |it| !over(it)).await;
    // It is of a session: another one says it anew.
    drop(agent);
    grid.until("/api/grid/nodes/n1", over).await;
    grid.end().await;
}
