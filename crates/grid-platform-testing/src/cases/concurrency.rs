//! Many calls at once.

use std::time::Duration;

use futures::future::join_all;
use grid_platform_api::{DataPolicy, ErrorKind, NodeState, ReadyMode};

use super::cases;
use crate::{Context, Failed, Outcome, PATIENCE, eventually, fails};

cases! {
    fifty_spawns_of_one_id_are_one_boot []
    fifty_spawns_with_two_requests_are_one_boot []
    many_nodes_at_once_are_many_nodes []
    a_stop_supersedes_a_spawn_in_flight []
    a_remove_supersedes_a_spawn_in_flight []
    a_start_after_a_superseded_spawn_works []
    a_slow_spawn_holds_up_no_other_node []
    a_slow_stop_holds_up_no_other_node []
    a_storm_on_one_id_ends_as_its_last_call_says []
    a_spawn_behind_a_stop_starts_one_program []
    reads_are_true_while_a_node_is_spawned []
}

const LONG: ReadyMode = ReadyMode::Alive {
    for_: Duration::from_secs(600),
};

async fn fifty_spawns_of_one_id_are_one_boot(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.build()?;
    let platform = c.platform();
    let spawned = join_all((0..50).map(|_| platform.spawn_node(config.clone()))).await;
    let mut uids = std::collections::BTreeSet::new();
    for node in spawned {
        uids.insert(node?.uid);
    }
    assert_eq!(uids.len(), 1);
    let node = c.status(&config.node_id).await?;
    c.answers(&node).await?;
    c.booted(&config.node_id, 1).await?;
    assert_eq!(c.census(&config.node_id).await?.len(), 1);
    Ok(())
}

async fn fifty_spawns_with_two_requests_are_one_boot(c: &Context) -> Outcome {
    let one = c.probe("n", &["note=one"])?.build()?;
    let mut two = one.clone();
    two.program = c.fixture().probe(&["note=two"])?;
    let platform = c.platform();
    let spawns = (0..50).map(|n| platform.spawn_node(if n % 2 == 0 { &one } else { &two }.clone()));
    let mut conflicts = 0;
    for result in join_all(spawns).await {
        match result {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Conflict => conflicts += 1,
            Err(error) => return Err(error.into()),
        }
    }
    assert_eq!(
        conflicts, 25,
        "one request is the node's, the other conflicts"
    );
    c.answers(&c.status(&one.node_id).await?).await?;
    c.booted(&one.node_id, 1).await?;
    assert_eq!(c.census(&one.node_id).await?.len(), 1);
    Ok(())
}

async fn many_nodes_at_once_are_many_nodes(c: &Context) -> Outcome {
    let platform = c.platform();
    let configs: Result<Vec<_>, Failed> = (10..22)
        .map(|n| Ok(c.probe(&format!("n{n}"), &[])?.build()?))
        .collect();
    let configs = configs?;
    for node in join_all(configs.iter().map(|f| platform.spawn_node(f.clone()))).await {
        c.answers(&node?).await?;
    }
    let listed = platform.list_nodes().await?;
    let ids: Vec<_> = listed.iter().map(|n| n.node_id.clone()).collect();
    assert_eq!(
        ids,
        configs
            .iter()
            .map(|f| f.node_id.clone())
            .collect::<Vec<_>>()
    );
    for stopped in join_all(ids.iter().map(|id| platform.stop_node(id))).await {
        stopped?;
    }
    for id in &ids {
        c.nothing_lives(id).await?;
        c.booted(id, 1).await?;
    }
    Ok(())
}

async fn a_stop_supersedes_a_spawn_in_flight(c: &Context) -> Outcome {
    let config = c.probe("n", &["orphan"])?.ready(LONG).build()?;
    let id = config.node_id.clone();
    let platform = c.platform();
    let (spawned, stopped) = tokio::join!(platform.spawn_node(config), async {
        c.booted(&id, 1).await?;
        Ok::<_, Failed>(platform.stop_node(&id).await?)
    });
    stopped?;
    let error = fails(spawned, ErrorKind::Superseded)?;
    assert!(!error.is_retryable());
    c.nothing_lives(&id).await?;
    assert_eq!(c.status(&id).await?.state.as_str(), "stopped");
    Ok(())
}

async fn a_remove_supersedes_a_spawn_in_flight(c: &Context) -> Outcome {
    let config = c.probe("n", &["orphan"])?.ready(LONG).build()?;
    let id = config.node_id.clone();
    let platform = c.platform();
    let (spawned, removed) = tokio::join!(platform.spawn_node(config), async {
        c.booted(&id, 1).await?;
        Ok::<_, Failed>(platform.remove_node(&id, DataPolicy::Purge).await?)
    });
    removed?;
    fails(spawned, ErrorKind::Superseded)?;
    c.nothing_lives(&id).await?;
    assert_eq!(platform.list_nodes().await?, []);
    Ok(())
}

async fn a_start_after_a_superseded_spawn_works(c: &Context) -> Outcome {
    // Ready by its second boot only, so that the first spawn is surely in flight.
    let config = c.probe("n", &["upto=1", "wait=60000"])?;
    let config = config
        .ready(ReadyMode::Alive {
            for_: Duration::from_secs(3),
        })
        .build()?;
    let id = config.node_id.clone();
    let platform = c.platform();
    let (spawned, stopped) = tokio::join!(platform.spawn_node(config.clone()), async {
        c.booted(&id, 1).await?;
        Ok::<_, Failed>(platform.stop_node(&id).await?)
    });
    stopped?;
    fails(spawned, ErrorKind::Superseded)?;
    let node = platform.spawn_node(config).await?;
    assert_eq!(c.answers(&node).await?, 2);
    assert_eq!(c.census(&id).await?.len(), 1);
    Ok(())
}

async fn a_slow_spawn_holds_up_no_other_node(c: &Context) -> Outcome {
    let slow = c.probe("slow", &[])?.ready(LONG).build()?;
    let slow_id = slow.node_id.clone();
    let platform = c.platform();
    let others = async {
        c.booted(&slow_id, 1).await?;
        let node = c.spawn(c.probe("quick", &[])?).await?;
        platform.stop_node(&node.node_id).await?;
        platform
            .remove_node(&node.node_id, DataPolicy::Purge)
            .await?;
        Ok::<_, Failed>(())
    };
    tokio::select! {
        biased;
        done = others => done?,
        spawned = platform.spawn_node(slow) => {
            return Err(Failed::new(format!("the slow spawn was first: {spawned:?}")));
        }
    }
    platform.stop_node(&slow_id).await?;
    Ok(())
}

async fn a_slow_stop_holds_up_no_other_node(c: &Context) -> Outcome {
    let slow = c.spawn(c.probe("slow", &["linger=2000"])?).await?;
    let platform = c.platform();
    let others = async {
        let node = c.spawn(c.probe("quick", &[])?).await?;
        platform
            .remove_node(&node.node_id, DataPolicy::Purge)
            .await?;
        Ok::<_, Failed>(())
    };
    let (stopped, others) = tokio::join!(platform.stop_node(&slow.node_id), others);
    stopped?;
    others?;
    c.nothing_lives(&slow.node_id).await
}

async fn a_storm_on_one_id_ends_as_its_last_call_says(c: &Context) -> Outcome {
    let config = c.probe("n", &["orphan"])?.build()?;
    let id = config.node_id.clone();
    let platform = c.platform();
    let spawns = (0..10).map(|_| platform.spawn_node(config.clone()));
    let stops = (0..10).map(|_| platform.stop_node(&id));
    let removes = (0..4).map(|_| platform.remove_node(&id, DataPolicy::Keep));
    let (spawned, stopped, removed) =
        tokio::join!(join_all(spawns), join_all(stops), join_all(removes));
    for result in spawned {
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Superseded, "{error:?}");
        }
    }
    for result in stopped {
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        }
    }
    for result in removed {
        result?;
    }
    let node = platform.spawn_node(config.clone()).await?;
    c.answers(&node).await?;
    assert_eq!(c.census(&id).await?.len(), 2, "the program and its orphan");
    platform.stop_node(&id).await?;
    c.nothing_lives(&id).await?;
    platform.remove_node(&id, DataPolicy::Purge).await?;
    assert_eq!(platform.list_nodes().await?, []);
    Ok(())
}

async fn a_spawn_behind_a_stop_starts_one_program(c: &Context) -> Outcome {
    let config = c.probe("n", &["linger=300"])?.build()?;
    let first = c.platform().spawn_node(config.clone()).await?;
    c.answers(&first).await?;
    let platform = c.platform();
    let (stopped, spawned) = tokio::join!(biased; platform.stop_node(&first.node_id), async {
        c.wait(&first.node_id, "the stop to begin", |n| n.state != NodeState::Running).await?;
        Ok::<_, Failed>(platform.spawn_node(config).await?)
    });
    stopped?;
    let second = spawned?;
    assert_eq!(c.answers(&second).await?, 2);
    assert_eq!(
        c.census(&first.node_id).await?.len(),
        1,
        "never two of one identity"
    );
    Ok(())
}

async fn reads_are_true_while_a_node_is_spawned(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.ready(LONG).build()?;
    let id = config.node_id.clone();
    let platform = c.platform();
    let reading = async {
        c.booted(&id, 1).await?;
        eventually(PATIENCE, "the node to be listed as running", || async {
            let listed = platform.list_nodes().await?;
            Ok(listed
                .iter()
                .any(|n| n.node_id == id && n.state.is_running())
                .then_some(()))
        })
        .await?;
        assert!(platform.is_node_alive(&id).await?);
        // The probe writes to its log after it has noted its start.
        eventually(PATIENCE, "the log to be read", || async {
            Ok((!platform.get_logs(&id, 10).await?.is_empty()).then_some(()))
        })
        .await?;
        Ok::<_, Failed>(())
    };
    tokio::select! {
        biased;
        done = reading => done?,
        spawned = platform.spawn_node(config) => {
            return Err(Failed::new(format!("the spawn was first: {spawned:?}")));
        }
    }
    platform.stop_node(&id).await?;
    c.nothing_lives(&id).await
}
