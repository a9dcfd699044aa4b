//! Stores that are older than what agents have seen, and stores of other grids.

use std::{fs, path::Path};

use grid_master::Settings;
use grid_proto::v1;
use serde_json::json;
use tonic::Code;

use crate::support::{Agent, Grid, hello, settings};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_restored_older_store_is_shown_and_begun_anew_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let (live, backup) = (dir.path().join("live"), dir.path().join("backup"));
    let grid = Grid::start_with(settings(&live)).await;
    let mut agent = Agent::join(&grid, "a").await;
    let token = agent.token.clone();
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    agent.obey().await;
    grid.end().await;
    copy(&live, &backup);
    let grid = Grid::start_with(settings(&live)).await;
    let mut agent = Agent::connect(&grid, &token, hello("a", "install-a"))
        .await
        .unwrap();
    let set = agent.greet(vec![]).await;
    grid.spawn(json!({"node_id": "n2"})).await.expect(201);
    let seen = agent.obey().await.fence.unwrap();
    assert!(seen.revision > set.fence.unwrap().revision);
    grid.end().await;

    let returning = || v1::Hello {
        grid_id: seen.grid_id.clone(),
        epoch: seen.epoch,
        revision: seen.revision,
        ..hello("a", "install-a")
    };
    let grid = Grid::start_with(settings(&backup)).await;
    let refused = Agent::connect(&grid, &token, returning())
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--new-epoch"), "{refused:?}");
    let shown = grid.get("/api/grid/agents/a").await.expect(200);
    assert!(
        shown["error"]["hint"]
            .as_str()
            .unwrap()
            .contains("--new-epoch"),
        "{shown:#}"
    );
    let told = grid.get("/api/grid/events?follow=false").await.expect(200);
    assert!(told.to_string().contains("agent.refused"));
    grid.end().await;

    let anew = Settings {
        new_epoch: true,
        ..settings(&backup)
    };
    let grid = Grid::start_with(anew).await;
    let mut agent = Agent::connect(&grid, &token, returning()).await.unwrap();
    let fence = agent.greet(vec![]).await.fence.unwrap();
    assert!(fence.epoch > seen.epoch);
    // Removed in this epoch; what the agent did in the one before says nothing about that.
    let before = grid.node("n1").await["generation"].as_u64().unwrap();
    assert!(before > seen.revision);
    grid.call("DELETE", "/api/grid/nodes/n1", json!({}))
        .await
        .expect(202);
    let tombstone = agent.hear_node().await;
    agent.applied("n1", seen.revision).await;
    agent.applied("n1", before + 100).await;
    agent.observe("n3", json!({"phase": "running"})).await;
    grid.until("/api/grid/nodes/n3", |a| a.status == 200).await;
    assert_eq!(grid.node("n1").await["desired"], "removed");
    agent.applied("n1", tombstone.generation).await;
    let shown = grid.get("/api/grid/agents/a").await.expect(200);
    assert_eq!(shown.get("error"), None);
    grid.end().await;
}

/// A master starts again on the same store as often as it likes; a copy of the store that was given new wishes counts
/// as far as the agents have heard and farther, and is told from it all the same.
#[tokio::test]
async fn a_restored_store_that_has_counted_on_is_not_taken_for_the_one_it_was_copied_from() {
    let dir = tempfile::tempdir().unwrap();
    let (live, backup) = (dir.path().join("live"), dir.path().join("backup"));
    let grid = Grid::start_with(settings(&live)).await;
    let mut agent = Agent::join(&grid, "a").await;
    let token = agent.token.clone();
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    let mut seen = agent.obey().await.fence.unwrap();
    grid.end().await;
    copy(&live, &backup);
    let returning = |seen: &v1::Fence| v1::Hello {
        grid_id: seen.grid_id.clone(),
        epoch: seen.epoch,
        revision: seen.revision,
        lineage: seen.lineage.clone(),
        ..hello("a", "install-a")
    };
    // Lives with and without a new wish, and an agent that missed some of them.
    let missed = seen.clone();
    for round in 2..5 {
        let grid = Grid::start_with(settings(&live)).await;
        for fence in [&missed, &seen] {
            let agent = Agent::connect(&grid, &token, returning(fence)).await;
            agent.unwrap().greet(vec![]).await;
        }
        if round < 4 {
            let hello = returning(&seen);
            let mut agent = Agent::connect(&grid, &token, hello).await.unwrap();
            agent.greet(vec![]).await;
            let body = json!({"node_id": format!("n{round}")});
            grid.spawn(body).await.expect(201);
            seen = agent.obey().await.fence.unwrap();
        }
        grid.end().await;
    }

    let grid = Grid::start_with(settings(&backup)).await;
    for node in ["m1", "m2", "m3", "m4"] {
        let body = json!({"node_id": node, "agent_id": "a"});
        grid.spawn(body).await.expect(201);
    }
    // One that has heard nothing since the copy was made may listen.
    let mut agent = Agent::connect(&grid, &token, returning(&missed))
        .await
        .unwrap();
    let offered = agent.greet(vec![]).await.fence.unwrap();
    assert!(offered.epoch == seen.epoch && offered.revision > seen.revision);
    let refused = Agent::connect(&grid, &token, returning(&seen))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--new-epoch"), "{refused:?}");
    grid.end().await;

    let anew = Settings {
        new_epoch: true,
        ..settings(&backup)
    };
    let grid = Grid::start_with(anew).await;
    for fence in [&missed, &seen, &offered] {
        let agent = Agent::connect(&grid, &token, returning(fence)).await;
        agent.unwrap().greet(vec![]).await;
    }
    grid.end().await;
}

#[tokio::test]
async fn an_empty_store_is_another_grid() {
    let grid = Grid::start().await;
    let token = grid.agent_token().await;
    let foreign = v1::Hello {
        grid_id: "another".into(),
        epoch: 1,
        revision: 1,
        ..hello("a", "install-a")
    };
    let refused = Agent::connect(&grid, &token, foreign).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("belongs to the grid `another`"),
        "{refused:?}"
    );
    assert!(refused.message().contains("hint: "), "{refused:?}");
    grid.end().await;
}
