//! Wishes on their way to an agent and back.

use grid_platform_api::{Error, ErrorKind, SpawnConfig};
use grid_proto::v1::{self, from_agent::Message as Said};
use serde_json::json;

use crate::support::{Agent, Grid};

#[tokio::test]
async fn a_node_is_made_told_seen_stopped_started_updated_and_removed() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;

    let made = grid
        .spawn(json!({"node_id": "n1", "memory_limit_mb": 64, "secrets": {"key": "hunter2"}}))
        .await
        .expect(201);
    assert_eq!(made["state"], "pending");
    assert_eq!(made["agent"], "a");
    assert_eq!(made["settings"]["secrets"], json!({"key": null}));

    let wish = agent.obey().await;
    let config: SpawnConfig = serde_json::from_str(&wish.spec_json).unwrap();
    assert_eq!(config.memory_limit_mb, Some(64));
    assert_eq!(config.ports["main"], 0);
    assert_eq!(wish.secrets["key"], b"hunter2");
    let fence = wish.fence.unwrap();
    assert_eq!((fence.epoch, fence.revision), (1, 1));
    let node = grid.until_state("n1", "running").await;
    assert_eq!(node["endpoint"], "127.0.0.1:31000");
    assert_eq!(node["pid"], 42);
    let path = "/api/grid/nodes/n1";
    let caught_up =
        |a: &crate::support::Answer| a.body["observed_generation"] == a.body["generation"];
    grid.until(path, caught_up).await;

    let stopping = grid
        .call("POST", &format!("{path}/stop"), json!({}))
        .await
        .expect(200);
    assert_eq!(
        (&stopping["desired"], &stopping["state"]),
        (&json!("stopped"), &json!("stopping"))
    );
    agent.obey().await;
    grid.until_state("n1", "stopped").await;
    // Stopping again wishes nothing new.
    let again = grid
        .call("POST", &format!("{path}/stop"), json!({}))
        .await
        .expect(200);
    assert_eq!(again["generation"], stopping["generation"]);

    grid.call("POST", &format!("{path}/start"), json!({}))
        .await
        .expect(200);
    agent.obey().await;
    grid.until_state("n1", "running").await;

    let updated = grid
        .call(
            "PUT",
            path,
            json!({"memory_limit_mb": 128, "secrets": {"key": null, "b": "x"}}),
        )
        .await
        .expect(200);
    assert_eq!(updated["settings"]["memory_limit_mb"], 128);
    let wish = agent.obey().await;
    assert_eq!(wish.generation, updated["generation"].as_u64().unwrap());
    assert_eq!(wish.secrets["key"], b"hunter2");
    assert_eq!(wish.secrets["b"], b"x");

    let removing = grid
        .call("DELETE", &format!("{path}?purge=true"), json!({}))
        .await
        .expect(202);
    assert_eq!(removing["desired"], "removed");
    let wish = agent.obey().await;
    assert_eq!(wish.data(), v1::DataPolicy::Purge);
    grid.until(path, |a| a.status == 404).await;
    // The tombstone is gone from the next set: the agent may forget it.
    assert!(agent.hear_set().await.nodes.is_empty());

    // A node of the same id made anew is newer than every wish for the old one.
    let anew = grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    assert!(anew["generation"].as_u64() > Some(wish.generation));
    grid.end().await;
}

#[tokio::test]
async fn a_failure_is_shown_and_start_tries_again() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    let wish = agent.hear_node().await;
    let error = Error::new(ErrorKind::SpawnFailed, "it did not become ready").with_hint("Mend it.");
    let fail = |is_final| {
        Said::Applied(v1::Applied {
            node_id: "n1".into(),
            generation: wish.generation,
            error_json: grid_proto::report_to_json(&error.to_report()),
            r#final: is_final,
        })
    };
    agent.say(fail(false)).await;
    let path = "/api/grid/nodes/n1";
    let node = grid.until(path, |a| a.body["error"].is_object()).await;
    assert_eq!(
        (&node["state"], &node["observed_generation"]),
        (&json!("pending"), &json!(0))
    );
    agent.say(fail(true)).await;
    let node = grid.until_state("n1", "failed").await;
    assert_eq!(node["error"]["message"], "it did not become ready");
    assert_eq!(node["observed_generation"], node["generation"]);

    let started = grid
        .call("POST", &format!("{path}/start"), json!({}))
        .await
        .expect(200);
    assert_eq!(
        (&started["state"], started.get("error")),
        (&json!("pending"), None)
    );
    assert!(started["generation"].as_u64() > node["generation"].as_u64());
    agent.obey().await;
    grid.until_state("n1", "running").await;
    // Running as wished: starting it again wishes nothing new.
    let again = grid
        .call("POST", &format!("{path}/start"), json!({}))
        .await
        .expect(200);
    assert_eq!(again["generation"], started["generation"]);
    // It runs as it did before a change that failed for good: starting it is another try.
    let change = json!({"env": {"A": "1"}});
    grid.call("PUT", path, change).await.expect(200);
    let wish = agent.hear_node().await;
    agent.say(failed_for_good(&wish)).await;
    let node = grid.until(path, |a| a.body["error"].is_object()).await;
    assert_eq!(node["state"], "running");
    let started = grid
        .call("POST", &format!("{path}/start"), json!({}))
        .await
        .expect(200);
    assert!(started["generation"].as_u64() > node["generation"].as_u64());
    assert!(started.get("error").is_none());
    grid.end().await;
}

/// That an agent failed at a wish, and does not try it again.
fn failed_for_good(wish: &v1::DesiredNode) -> Said {
    let error = Error::new(ErrorKind::OwnedByOther, "it is somebody else's");
    Said::Applied(v1::Applied {
        node_id: wish.node_id.clone(),
        generation: wish.generation,
        error_json: grid_proto::report_to_json(&error.to_report()),
        r#final: true,
    })
}

#[tokio::test]
async fn a_stop_and_a_removal_that_failed_for_good_are_tried_again() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    agent.obey().await;
    grid.until_state("n1", "running").await;
    let path = "/api/grid/nodes/n1";
    let stop = format!("{path}/stop");
    let purge = format!("{path}?purge=true");
    // What is wished first, and what again: a purge is not taken back by less.
    let wishes = [
        ("POST", stop.as_str(), stop.as_str(), 200),
        ("DELETE", &purge, path, 202),
    ];
    for (method, what, once_more, code) in wishes {
        let wished = grid.call(method, what, json!({})).await.expect(code);
        let wish = agent.hear_node().await;
        // On its way: asking again wishes nothing new.
        let again = grid.call(method, what, json!({})).await.expect(code);
        assert_eq!(again["generation"], wished["generation"], "{what}");
        agent.say(failed_for_good(&wish)).await;
        grid.until(path, |a| a.body["error"].is_object()).await;
        if method == "DELETE" {
            // It does not go by itself, and whoever wishes something else of it is told so.
            let refused = "the node `n1` is to be removed, and its removal has failed";
            let start = format!("{path}/start");
            let started = grid.call("POST", &start, json!({})).await;
            assert_eq!(started.error(409), refused);
            let spawned = grid.spawn(json!({"node_id": "n1"})).await;
            assert_eq!(spawned.error(409), refused);
        }
        let again = grid.call(method, once_more, json!({})).await.expect(code);
        assert!(
            again["generation"].as_u64() > wished["generation"].as_u64(),
            "{what}"
        );
        assert!(again.get("error").is_none(), "{again}");
        let tried = agent.obey().await;
        assert_eq!(Some(tried.generation), again["generation"].as_u64());
        assert_eq!(tried.data(), wish.data());
    }
    grid.until(path, |a| a.status == 404).await;
    grid.end().await;
}

#[tokio::test]
async fn asking_twice_makes_one_node() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    let body = json!({"node_id": "n1", "memory_limit_mb": 64, "secrets": {"k": "one"}});
    grid.spawn(body.clone()).await.expect(201);
    grid.spawn(body).await.expect(200);
    let other = grid
        .spawn(json!({"node_id": "n1", "memory_limit_mb": 64, "secrets": {"k": "two"}}))
        .await;
    assert_eq!(other.error(409), "the node `n1` exists with other settings");

    let keyed = |key: &str, body: serde_json::Value| {
        let request = grid.request("POST", "/api/grid/spawn");
        grid.send(
            request
                .header("Idempotency-Key", key.to_owned())
                .json(&body),
        )
    };
    let first = keyed("k1", json!({"memory_limit_mb": 1})).await.expect(201);
    let second = keyed("k1", json!({"memory_limit_mb": 1})).await.expect(201);
    assert_eq!(first["id"], second["id"]);
    let reused = keyed("k1", json!({"memory_limit_mb": 2})).await;
    assert_eq!(
        reused.error(409),
        "this `Idempotency-Key` was sent with another body"
    );
    let third = keyed("k2", json!({"memory_limit_mb": 1})).await.expect(201);
    assert_ne!(first["id"], third["id"]);
    // Another node of the same id is not the one that the request made.
    let body = json!({"node_id": "n9"});
    keyed("k9", body.clone()).await.expect(201);
    grid.call("DELETE", "/api/grid/nodes/n9", json!({}))
        .await
        .expect(202);
    while agent.obey().await.state() != grid_proto::v1::DesiredState::Removed {}
    grid.until("/api/grid/nodes/n9", |a| a.status == 404).await;
    grid.spawn(body.clone()).await.expect(201);
    keyed("k9", body).await.error(409);
    // A restart in between changes nothing.
    let grid = grid.restart().await;
    let request = grid.request("POST", "/api/grid/spawn");
    let request = request
        .header("Idempotency-Key", "k1")
        .json(&json!({"memory_limit_mb": 1}));
    let again = grid.send(request).await.expect(201);
    assert_eq!(first["id"], again["id"]);
    grid.end().await;
}

#[tokio::test]
async fn two_hundred_at_once_are_one_node_or_two_hundred() {
    let grid = Grid::start().await;
    let _agent = Agent::join(&grid, "a").await;
    let one: Vec<_> = (0..200)
        .map(|_| grid.spawn(json!({"node_id": "same"})))
        .collect();
    let answers = futures::future::join_all(one).await;
    let made = answers.iter().filter(|a| a.status == 201).count();
    assert_eq!(made, 1);
    assert!(answers.iter().all(|a| matches!(a.status, 200 | 201)));
    let many: Vec<_> = (0..200).map(|_| grid.spawn(json!({}))).collect();
    for answer in futures::future::join_all(many).await {
        answer.expect(201);
    }
    let listed = grid.get("/api/grid/nodes").await.expect(200);
    assert_eq!(listed.as_array().unwrap().len(), 201);
    grid.end().await;
}

#[tokio::test]
async fn updates_are_checked_before_they_are_stored() {
    let grid = Grid::start().await;
    let _agent = Agent::join(&grid, "a").await;
    grid.spawn(json!({"node_id": "n1", "port": 50051}))
        .await
        .expect(201);
    let put = |body| grid.call("PUT", "/api/grid/nodes/n1", body);
    put(json!({"port": 50052})).await.error(409);
    put(json!({"storage_path": "/else"})).await.error(409);
    put(json!({"memory_limit_mb": 0})).await.error(400);
    put(json!({"agent_id": "b"})).await.error(400);
    put(json!({"if_generation": 7, "memory_limit_mb": 1}))
        .await
        .error(409);
    put(json!({"if_generation": 1, "port": 50051, "memory_limit_mb": 1}))
        .await
        .expect(200);
    assert_eq!(grid.node("n1").await["generation"], 2);
    grid.call("PUT", "/api/grid/nodes/none", json!({}))
        .await
        .error(404);
    grid.end().await;
}

#[tokio::test]
async fn what_nobody_wished_for_is_shown_left_and_removed_on_demand() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    agent.observe("stray", json!({"phase": "running"})).await;
    let node = grid
        .until("/api/grid/nodes/stray", |a| a.status == 200)
        .await;
    assert_eq!(
        (&node["desired"], &node["state"]),
        (&json!("unmanaged"), &json!("running"))
    );
    let path = "/api/grid/nodes/stray";
    grid.call("POST", &format!("{path}/stop"), json!({}))
        .await
        .error(409);
    // Another agent must not get a node of that id while this one has it.
    grid.spawn(json!({"node_id": "stray"})).await.error(409);
    grid.call("DELETE", path, json!({})).await.expect(202);
    let wish = agent.obey().await;
    assert_eq!(wish.state(), v1::DesiredState::Removed);
    assert_eq!(wish.data(), v1::DataPolicy::Keep);
    grid.until(path, |a| a.status == 404).await;
    grid.end().await;
}

#[tokio::test]
async fn a_restart_keeps_wishes_and_what_was_seen() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    grid.spawn(json!({"node_id": "n1", "secrets": {"key": "hunter2"}}))
        .await
        .expect(201);
    agent.obey().await;
    let path = "/api/grid/nodes/n1";
    let before = grid
        .until(path, |a| {
            a.body["observed_generation"] == a.body["generation"]
        })
        .await;
    let token = agent.token.clone();
    let grid = grid.restart().await;
    // Until the agent has told, what was seen before is shown as what it is: of the past.
    let unknown = {
        let mut node = before.clone();
        node["state"] = json!("unknown");
        node["pid"] = json!(null);
        node
    };
    assert_eq!(before["pid"], 42);
    assert_eq!(grid.node("n1").await, unknown);
    let connected = async || {
        let agent = grid.get("/api/grid/agents/a").await.expect(200);
        assert_eq!(agent["state"], "ready");
        agent["connected"] == true
    };
    assert!(!connected().await);
    let mut agent = Agent::connect(&grid, &token, super::support::hello("a", "install-a"))
        .await
        .unwrap();
    // A session alone says nothing of its nodes.
    assert_eq!(grid.node("n1").await, unknown);
    assert!(!connected().await);
    let running = crate::support::observed("n1", json!({"phase": "running"}));
    let set = agent.greet(vec![running]).await;
    assert_eq!(set.nodes.len(), 1);
    assert_eq!(set.nodes[0].secrets["key"], b"hunter2");
    grid.until("/api/grid/agents/a", |a| a.body["connected"] == true)
        .await;
    assert_eq!(grid.node("n1").await, before);
    grid.end().await;
}

#[tokio::test]
async fn a_tombstone_waits_for_its_agent_over_everything() {
    let grid = Grid::start_impatient().await;
    let mut agent = Agent::join(&grid, "a").await;
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    agent.obey().await;
    grid.until_state("n1", "running").await;
    let token = agent.token.clone();
    drop(agent);
    grid.until_state("n1", "unknown").await;
    let path = "/api/grid/nodes/n1";
    grid.call("DELETE", path, json!({})).await.expect(202);
    // Until it is gone nothing else can be wished of it, and its id is taken.
    grid.call("POST", &format!("{path}/start"), json!({}))
        .await
        .error(409);
    grid.spawn(json!({"node_id": "n1"})).await.error(409);
    // Its data may still be given up with it.
    grid.call("DELETE", &format!("{path}?purge=true"), json!({}))
        .await
        .expect(202);

    let grid = grid.restart().await;
    let hello = crate::support::hello("a", "install-a");
    let mut agent = Agent::connect(&grid, &token, hello).await.unwrap();
    let seen = crate::support::observed("n1", json!({"phase": "running"}));
    let set = agent.greet(vec![seen]).await;
    assert_eq!(set.nodes[0].state(), v1::DesiredState::Removed);
    assert_eq!(set.nodes[0].data(), v1::DataPolicy::Purge);
    agent.applied("n1", set.nodes[0].generation).await;
    grid.until(path, |a| a.status == 404).await;
    grid.end().await;
}
