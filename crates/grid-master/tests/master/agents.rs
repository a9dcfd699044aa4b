//! Who is let in, who is heard, and where nodes go.

use grid_proto::v1::{self, from_agent::Message as Said, from_master::Message as Heard};
use serde_json::json;
use tonic::Code;

use crate::support::{Agent, Grid, hello};

#[tokio::test]
async fn a_silent_agent_is_lost_and_found_again() {
    let grid = Grid::start_impatient().await;
    let mut agent = Agent::join(&grid, "a").await;
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    agent.obey().await;
    grid.until_state("n1", "running").await;
    agent.fall_silent();
    grid.until_state("n1", "unknown").await;
    let shown = grid.get("/api/grid/agents/a").await.expect(200);
    assert_eq!(
        (&shown["state"], &shown["connected"]),
        (&json!("lost"), &json!(false))
    );
    // What stays with the node stays to be seen; what only holds while it runs does not.
    let node = grid.node("n1").await;
    assert_eq!(node["endpoint"], "127.0.0.1:31000");
    assert_eq!(
        (&node["pid"], &node["health"]),
        (&json!(null), &json!("unchecked"))
    );
    let refused = grid.spawn(json!({"node_id": "n2"})).await;
    assert_eq!(
        refused.error(503),
        "no agent can take the node: `a` is not connected"
    );
    // A wish for a node that it has is kept for it.
    grid.call("POST", "/api/grid/nodes/n1/stop", json!({}))
        .await
        .expect(200);

    let token = agent.token.clone();
    let mut agent = Agent::connect(&grid, &token, hello("a", "install-a"))
        .await
        .unwrap();
    let set = agent
        .greet(vec![crate::support::observed(
            "n1",
            json!({"phase": "running"}),
        )])
        .await;
    assert_eq!(set.nodes[0].state(), v1::DesiredState::Stopped);
    let shown = grid
        .until("/api/grid/agents/a", |a| a.body["connected"] == true)
        .await;
    assert_eq!(shown["state"], "ready");
    let kinds: Vec<String> = grid
        .get("/api/grid/events?follow=false")
        .await
        .expect(200)
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["kind"].as_str().unwrap().to_owned())
        .filter(|kind| kind.starts_with("agent."))
        .collect();
    assert_eq!(kinds, ["agent.ready", "agent.lost", "agent.ready"]);
    grid.end().await;
}

#[tokio::test]
async fn a_lost_agent_is_lost_after_a_restart_too() {
    let grid = Grid::start_impatient().await;
    let agent = Agent::join(&grid, "a").await;
    drop(agent);
    grid.until("/api/grid/agents/a", |a| a.body["state"] == "lost")
        .await;
    let grid = grid.restart().await;
    let shown = grid.get("/api/grid/agents/a").await.expect(200);
    assert_eq!(shown["state"], "lost");
    grid.end().await;
}

#[tokio::test]
async fn only_an_agents_own_token_opens_a_session() {
    let grid = Grid::start().await;
    let connect = async |token: &str, hello| {
        Agent::connect(&grid, token, hello)
            .await
            .err()
            .map(|status| {
                assert!(status.message().contains("hint: "), "{status:?}");
                status.code()
            })
    };
    let foreign = "agent-000000000000.00";
    assert_eq!(
        connect(foreign, hello("a", "i")).await,
        Some(Code::Unauthenticated)
    );
    assert_eq!(
        connect("nonsense", hello("a", "i")).await,
        Some(Code::Unauthenticated)
    );
    let (admin, agent) = (grid.token("admin"), grid.token("agent"));
    assert_eq!(
        connect(&admin, hello("a", "i")).await,
        Some(Code::PermissionDenied)
    );
    // The first use binds it.
    assert_eq!(connect(&agent, hello("a", "i")).await, None);
    assert_eq!(
        connect(&agent, hello("b", "j")).await,
        Some(Code::PermissionDenied)
    );
    assert_eq!(connect(&agent, hello("a", "i")).await, None);
    let tokens = grid.get("/api/grid/tokens").await.expect(200);
    let bound = tokens
        .as_array()
        .unwrap()
        .iter()
        .find(|t| t["role"] == "agent")
        .unwrap();
    assert_eq!(bound["install_id"], "i");
    // People's routes are none of its business.
    let url = format!("{}/api/grid/nodes", grid.http);
    let request = reqwest::Client::new().get(url).bearer_auth(&agent);
    grid.send(request).await.error(403);
    grid.end().await;
}

#[tokio::test]
async fn a_deleted_token_ends_what_it_has_open() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    let mut other = Agent::join(&grid, "b").await;
    let made = grid
        .call("POST", "/api/grid/tokens", json!({"role": "read"}))
        .await
        .expect(201);
    let reader = made["value"].as_str().unwrap();
    let url = format!("{}/api/grid/events", grid.http);
    let mut events = reqwest::Client::new()
        .get(url)
        .bearer_auth(reader)
        .send()
        .await
        .unwrap();
    assert_eq!(events.status().as_u16(), 200);
    for token in [reader, &agent.token] {
        let id = token.split_once('.').unwrap().0;
        grid.call("DELETE", &format!("/api/grid/tokens/{id}"), json!({}))
            .await
            .expect(204);
    }
    let ended = async {
        while agent.hear().await.is_some() {}
        while events.chunk().await.unwrap().is_some() {}
    };
    tokio::time::timeout(crate::support::LONG, ended)
        .await
        .unwrap();
    let refused = Agent::connect(&grid, &agent.token, hello("a", "install-a")).await;
    assert_eq!(refused.err().unwrap().code(), Code::Unauthenticated);
    // Another one's session goes on.
    grid.spawn(json!({"node_id": "n1", "agent_id": "b"}))
        .await
        .expect(201);
    other.obey().await;
    grid.end().await;
}

#[tokio::test]
async fn a_token_is_bound_to_one_of_two_that_come_at_once() {
    let grid = Grid::start().await;
    let token = grid.agent_token().await;
    let join = async |name: &str| {
        Agent::connect(&grid, &token, hello(name, name))
            .await
            .is_ok()
    };
    let (first, second) = tokio::join!(join("a"), join("b"));
    assert!(first != second, "{first} {second}");
    grid.end().await;
}

#[tokio::test]
async fn an_id_belongs_to_one_install() {
    let grid = Grid::start_impatient().await;
    let mut first = Agent::join(&grid, "a").await;
    let second = grid.agent_token().await;
    let refused = Agent::connect(&grid, &second, hello("a", "other"))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(
        refused.message().contains("which is connected"),
        "{refused:?}"
    );

    // The same install again takes its own place.
    let token = first.token.clone();
    let mut again = Agent::connect(&grid, &token, hello("a", "install-a"))
        .await
        .unwrap();
    again.greet(vec![]).await;
    while first.hear().await.is_some() {}

    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    drop((first, again));
    grid.until("/api/grid/agents/a", |a| a.body["state"] == "lost")
        .await;
    let refused = Agent::connect(&grid, &second, hello("a", "other"))
        .await
        .err()
        .unwrap();
    assert!(
        refused.message().contains("which has 1 nodes here"),
        "{refused:?}"
    );
    grid.end().await;
}

#[tokio::test]
async fn what_an_agent_says_of_itself_is_checked() {
    let grid = Grid::start().await;
    let token = grid.agent_token().await;
    let check = async |change: &dyn Fn(&mut v1::Hello), expect: &str| {
        let mut hello = hello("a", "i");
        change(&mut hello);
        let status = Agent::connect(&grid, &token, hello).await.err().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(expect), "{status:?}");
    };
    check(&|h| h.protocol = 99, "the agent speaks protocol 99").await;
    check(&|h| h.agent_id = "a\nb".into(), "is not an agent id").await;
    check(&|h| h.install_id.clear(), "names no install id").await;
    check(
        &|h| h.capabilities_json = "{".into(),
        "capabilities cannot be read",
    )
    .await;
    grid.end().await;
}

#[tokio::test]
async fn nodes_are_spread_and_a_cordon_holds() {
    let grid = Grid::start().await;
    let _a = Agent::join(&grid, "a").await;
    let token = grid.agent_token().await;
    let limited = v1::Hello {
        max_storage_nodes: 1,
        labels: [("disk".to_owned(), "ssd".to_owned())].into(),
        ..hello("b", "install-b")
    };
    let mut b = Agent::connect(&grid, &token, limited).await.unwrap();
    b.greet(vec![]).await;
    let placed = async |body| grid.spawn(body).await.expect(201)["agent"].clone();
    assert_eq!(placed(json!({"agent_labels": {"disk": "ssd"}})).await, "b");
    let refused = grid.spawn(json!({"agent_labels": {"disk": "ssd"}})).await;
    let why = refused.error(507);
    assert!(why.contains("`b` has its 1 nodes"), "{why}");
    assert!(why.contains("`a` lacks the label `disk=ssd`"), "{why}");
    assert_eq!(placed(json!({})).await, "a");

    let cordoned = grid
        .call("POST", "/api/grid/agents/a/cordon", json!({}))
        .await
        .expect(200);
    assert_eq!(cordoned["cordoned"], true);
    let grid = grid.restart().await;
    let why = grid.spawn(json!({})).await.error(507);
    assert!(why.contains("`a` is cordoned"), "{why}");
    grid.call("POST", "/api/grid/agents/a/uncordon", json!({}))
        .await
        .expect(200);
    assert_eq!(
        grid.spawn(json!({"agent_id": "a"})).await.expect(201)["agent"],
        "a"
    );
    grid.spawn(json!({"agent_id": "nobody"})).await.error(404);
    grid.call("POST", "/api/grid/agents/nobody/cordon", json!({}))
        .await
        .error(404);
    grid.end().await;
}

/// An agent that has just ended its session is not yet lost, and it is the emptiest: a node placed there would wait.
#[tokio::test]
async fn a_node_is_placed_where_somebody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let mut patient = crate::support::settings(dir.path());
    patient.lost_after = std::time::Duration::from_secs(600);
    let grid = Grid::start_with(patient).await;
    let a = Agent::join(&grid, "a").await;
    let token = grid.agent_token().await;
    let mut b = Agent::connect(&grid, &token, hello("b", "install-b"))
        .await
        .unwrap();
    b.greet(vec![]).await;
    drop(a);
    grid.until("/api/grid/agents/a", |a| a.body["connected"] == false)
        .await;
    for _ in 0..3 {
        assert_eq!(grid.spawn(json!({})).await.expect(201)["agent"], "b");
    }
    // Who names it may wait for it, and with nobody there the wish is kept for whom is expected back.
    let named = grid.spawn(json!({"agent_id": "a"})).await.expect(201);
    assert_eq!(named["agent"], "a");
    drop(b);
    grid.until("/api/grid/agents/b", |b| b.body["connected"] == false)
        .await;
    grid.spawn(json!({})).await.expect(201);
    grid.end().await;
}

#[tokio::test]
async fn questions_are_answered_by_the_agent() {
    let grid = Grid::start_impatient().await;
    let mut agent = Agent::join(&grid, "a").await;
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    let answering = tokio::spawn(async move {
        let data = json!([{"node_id": "old", "location": "/d/old", "in_use": false, "created_by_platform": true, "bytes": 7}]);
        while let Some(heard) = agent.hear().await {
            let Heard::Question(question) = heard else {
                continue;
            };
            let json = match question.about.unwrap() {
                v1::question::About::Usage(_) => {
                    json!({"at": "2026-01-01T00:00:00Z", "memory_bytes": 5})
                }
                v1::question::About::Data(_) => data.clone(),
                _ => json!(null),
            };
            let answer = v1::Answer {
                request_id: question.request_id,
                json: json.to_string(),
                error_json: String::new(),
            };
            agent.say(Said::Answer(answer)).await;
        }
    });
    let usage = grid.get("/api/grid/nodes/n1/usage").await.expect(200);
    assert_eq!(usage["memory_bytes"], 5);
    let data = grid.get("/api/grid/data").await.expect(200);
    assert_eq!(
        (&data[0]["node"], &data[0]["agent"]),
        (&json!("old"), &json!("a"))
    );
    let purge = async |path: &str| grid.call("DELETE", path, json!({})).await;
    purge("/api/grid/data/old").await.expect(204);
    purge("/api/grid/data/old?agent=a").await.expect(204);
    purge("/api/grid/data/none").await.error(404);
    purge("/api/grid/data/n1").await.error(409);
    answering.abort();
    grid.until("/api/grid/agents/a", |a| a.body["state"] == "lost")
        .await;
    grid.get("/api/grid/nodes/n1/usage").await.error(503);
    grid.get("/api/grid/data?agent=a").await.error(503);
    let why = grid.get("/api/grid/data").await.error(503);
    assert_eq!(why, "the data of lost agents cannot be listed: a");
    grid.get("/api/grid/data?agent=b").await.error(404);
    grid.end().await;
}
