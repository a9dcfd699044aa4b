//! Ports.

use std::collections::BTreeSet;

use grid_platform_api::{DataPolicy, ErrorKind, MAIN_PORT, SpawnedNode};

use super::cases;
use crate::{Context, Failed, Outcome, fails};

cases! {
    a_port_is_allocated_and_served [port_allocation]
    every_port_of_a_node_is_served [port_allocation]
    ports_of_many_nodes_are_different [port_allocation exclusive_ports]
    ports_stay_over_stop_and_start [port_allocation]
    a_requested_port_is_the_one [exclusive_ports]
    a_port_that_a_stranger_has_is_in_use [exclusive_ports]
    a_port_that_a_node_has_is_in_use [exclusive_ports]
    the_port_of_a_stopped_node_is_still_its_own [exclusive_ports]
    the_port_of_a_stopped_node_is_its_own_over_a_reopen [exclusive_ports nodes_outlive_adapter]
    a_port_is_not_given_away_while_its_node_ends [exclusive_ports]
    a_removed_node_gives_its_port_back [exclusive_ports]
    a_node_without_ports_has_no_endpoint []
}

async fn a_port_is_allocated_and_served(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["note={port}"])?.port(0)).await?;
    let endpoint = node.endpoint.clone().ok_or("no endpoint")?;
    assert_ne!(endpoint.port, 0);
    assert_eq!(node.ports.get(MAIN_PORT), Some(&endpoint.port));
    c.platform().stop_node(&node.node_id).await?;
    assert!(
        c.ask(&node, "boot").await.is_err(),
        "nobody serves it once it is stopped"
    );
    Ok(())
}

async fn every_port_of_a_node_is_served(c: &Context) -> Outcome {
    let config = c
        .probe("n", &[])?
        .port(0)
        .named_port("admin", 0)
        .named_port("peer-2", 0);
    let node = c.spawn(config).await?;
    assert_eq!(node.ports.len(), 3, "{:?}", node.ports);
    let numbers: BTreeSet<_> = node.ports.values().collect();
    assert_eq!(numbers.len(), 3, "{:?}", node.ports);
    for (name, port) in &node.ports {
        // The same node, reached by another of its doors.
        let mut by_port = node.clone();
        let endpoint = by_port.endpoint.as_mut().ok_or("no endpoint")?;
        endpoint.port = *port;
        // It opens its doors one after another.
        let boot = c.answers(&by_port).await.map_err(|e| e.during(name))?;
        assert_eq!(boot, 1, "{name}");
    }
    Ok(())
}

async fn ports_of_many_nodes_are_different(c: &Context) -> Outcome {
    let platform = c.platform();
    let configs: Result<Vec<_>, Failed> = (0..8)
        .map(|n| {
            Ok(c.probe(&format!("n{n}"), &[])?
                .named_port("admin", 0)
                .build()?)
        })
        .collect();
    let spawns = configs?
        .into_iter()
        .map(|config| platform.spawn_node(config));
    let mut seen = BTreeSet::new();
    for node in futures::future::join_all(spawns).await {
        for port in node?.ports.into_values() {
            assert!(seen.insert(port), "the port {port} was given twice");
        }
    }
    assert_eq!(seen.len(), 16);
    Ok(())
}

async fn ports_stay_over_stop_and_start(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.named_port("admin", 0).build()?;
    let first = c.platform().spawn_node(config.clone()).await?;
    c.answers(&first).await?;
    c.platform().stop_node(&first.node_id).await?;
    assert_eq!(c.status(&first.node_id).await?.ports, first.ports);
    // Another node comes by while it is stopped.
    c.spawn(c.probe("other", &[])?).await?;
    let second = c.platform().spawn_node(config).await?;
    c.answers(&second).await?;
    assert_eq!(second.ports, first.ports);
    Ok(())
}

/// A node with a port that the test asked for by number.
async fn with_own_port(c: &Context, name: &str, actions: &[&str]) -> Outcome<(SpawnedNode, u16)> {
    // Another program can take the port between the look and the request: then the next one is tried.
    for _ in 0..10 {
        let hold = c.fixture().occupy_port().await?;
        let port = hold.port;
        drop(hold);
        let config = c.probe(name, actions)?.port(port).build()?;
        match c.platform().spawn_node(config).await {
            Ok(node) => {
                c.answers(&node).await?;
                return Ok((node, port));
            }
            Err(error) if error.kind() == ErrorKind::PortInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failed::new("ten free ports were all taken at once"))
}

async fn a_requested_port_is_the_one(c: &Context) -> Outcome {
    let (node, port) = with_own_port(c, "n", &[]).await?;
    assert_eq!(node.ports.get(MAIN_PORT), Some(&port));
    assert_eq!(node.endpoint.map(|e| e.port), Some(port));
    Ok(())
}

async fn in_use(c: &Context, name: &str, port: u16) -> Outcome<String> {
    let config = c.probe(name, &[])?.port(port).build()?;
    let error = fails(c.platform().spawn_node(config).await, ErrorKind::PortInUse)?;
    assert!(
        error.to_string().contains(&port.to_string()),
        "the port is named: {error}"
    );
    assert!(!error.is_retryable());
    assert!(error.hint().is_some());
    let listed = c.platform().list_nodes().await?;
    assert!(
        listed.iter().all(|n| n.node_id != c.id(name)),
        "a refused spawn leaves nothing"
    );
    c.nothing_lives(&c.id(name)).await?;
    Ok(error.to_string())
}

async fn a_port_that_a_stranger_has_is_in_use(c: &Context) -> Outcome {
    let hold = c.fixture().occupy_port().await?;
    in_use(c, "n", hold.port).await?;
    Ok(())
}

async fn a_port_that_a_node_has_is_in_use(c: &Context) -> Outcome {
    let (node, port) = with_own_port(c, "one", &[]).await?;
    let words = in_use(c, "two", port).await?;
    assert!(
        words.contains(node.node_id.as_str()),
        "the holder is named: {words}"
    );
    assert_eq!(c.answers(&node).await?, 1);
    Ok(())
}

async fn the_port_of_a_stopped_node_is_still_its_own(c: &Context) -> Outcome {
    let (node, port) = with_own_port(c, "one", &[]).await?;
    c.platform().stop_node(&node.node_id).await?;
    in_use(c, "two", port).await?;
    Ok(())
}

async fn the_port_of_a_stopped_node_is_its_own_over_a_reopen(c: &Context) -> Outcome {
    let (node, port) = with_own_port(c, "one", &[]).await?;
    c.platform().stop_node(&node.node_id).await?;
    c.reopen().await?;
    in_use(c, "two", port).await?;
    Ok(())
}

async fn a_port_is_not_given_away_while_its_node_ends(c: &Context) -> Outcome {
    let (node, port) = with_own_port(c, "one", &["linger=1000"]).await?;
    let platform = c.platform();
    let (removed, refused) = tokio::join!(biased; platform.remove_node(&node.node_id, DataPolicy::Purge), async {
        c.wait(&node.node_id, "the end to begin", |n| !n.state.is_running()).await?;
        in_use(c, "two", port).await
    });
    removed?;
    refused?;
    Ok(())
}

async fn a_removed_node_gives_its_port_back(c: &Context) -> Outcome {
    let (node, port) = with_own_port(c, "one", &[]).await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Keep)
        .await?;
    let next = c.spawn(c.probe("two", &[])?.port(port)).await?;
    assert_eq!(next.ports.get(MAIN_PORT), Some(&port));
    Ok(())
}

async fn a_node_without_ports_has_no_endpoint(c: &Context) -> Outcome {
    let config = c.bare("n", c.fixture().probe(&[])?).build()?;
    let node = c.platform().spawn_node(config).await?;
    assert_eq!(node.endpoint, None);
    assert!(node.ports.is_empty());
    c.booted(&node.node_id, 1).await?;
    Ok(())
}
