//! Removing.

use std::time::Duration;

use grid_platform_api::{DataPolicy, ErrorKind, NodeState, ReadyMode, RestartMode};

use super::cases;
use crate::{BadProgram, Context, Outcome, fails, quickly, settle};

cases! {
    remove_ends_the_program_and_forgets_the_node []
    remove_takes_the_whole_tree []
    remove_of_an_unknown_id_succeeds []
    remove_twice_succeeds []
    remove_of_a_stopped_node []
    remove_of_a_failed_node []
    remove_ends_a_wait_for_a_restart [on_failure restart_tuning]
    what_is_removed_is_not_restarted [always]
    an_id_can_be_used_again_with_another_request []
    an_id_is_free_as_soon_as_it_is_removed []
}

async fn remove_ends_the_program_and_forgets_the_node(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    let id = &node.node_id;
    c.platform().remove_node(id, DataPolicy::Keep).await?;
    c.nothing_lives(id).await?;
    fails(c.platform().get_node_status(id).await, ErrorKind::NotFound)?;
    fails(c.platform().stop_node(id).await, ErrorKind::NotFound)?;
    fails(c.platform().get_logs(id, 1).await, ErrorKind::NotFound)?;
    assert!(!c.platform().is_node_alive(id).await?);
    assert_eq!(c.platform().list_nodes().await?, []);
    Ok(())
}

async fn remove_takes_the_whole_tree(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["orphan"])?).await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await?;
    c.nothing_lives(&node.node_id).await
}

async fn remove_of_an_unknown_id_succeeds(c: &Context) -> Outcome {
    for data in [DataPolicy::Keep, DataPolicy::Purge] {
        c.platform().remove_node(&c.id("unknown"), data).await?;
    }
    Ok(())
}

async fn remove_twice_succeeds(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    for _ in 0..3 {
        c.platform()
            .remove_node(&node.node_id, DataPolicy::Keep)
            .await?;
    }
    assert_eq!(c.boots(&node.node_id).await?.len(), 1, "kept is kept");
    c.nothing_lives(&node.node_id).await
}

async fn remove_of_a_stopped_node(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.platform().stop_node(&node.node_id).await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await?;
    assert_eq!(c.platform().list_nodes().await?, []);
    assert_eq!(c.platform().list_data().await?, []);
    Ok(())
}

async fn remove_of_a_failed_node(c: &Context) -> Outcome {
    let program = c.fixture().bad_program(BadProgram::Missing)?;
    let config = c.bare("n", program).build()?;
    let id = config.node_id.clone();
    fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    c.platform().remove_node(&id, DataPolicy::Purge).await?;
    assert_eq!(c.platform().list_nodes().await?, []);
    assert_eq!(c.platform().list_data().await?, []);
    Ok(())
}

async fn remove_ends_a_wait_for_a_restart(c: &Context) -> Outcome {
    let mut policy = quickly(RestartMode::OnFailure);
    policy.initial_backoff = Duration::from_secs(600);
    policy.max_backoff = Duration::from_secs(600);
    let node = c.spawn(c.probe("n", &[])?.restart(policy)).await?;
    c.ask(&node, "exit=1").await?;
    c.wait(&node.node_id, "the back-off", |n| {
        n.state == NodeState::Pending
    })
    .await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await?;
    assert_eq!(c.platform().list_nodes().await?, []);
    c.nothing_lives(&node.node_id).await
}

async fn what_is_removed_is_not_restarted(c: &Context) -> Outcome {
    let node = c
        .spawn(c.probe("n", &[])?.restart(quickly(RestartMode::Always)))
        .await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Keep)
        .await?;
    settle().await;
    c.nothing_lives(&node.node_id).await?;
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

async fn an_id_can_be_used_again_with_another_request(c: &Context) -> Outcome {
    let first = c.spawn(c.probe("n", &["note=one"])?).await?;
    c.platform()
        .remove_node(&first.node_id, DataPolicy::Keep)
        .await?;
    let other = c.probe("n", &["note=two"])?;
    let other = other.ready(ReadyMode::Alive {
        for_: Duration::from_millis(20),
    });
    let second = c.spawn(other).await?;
    assert_ne!(second.digest, first.digest);
    assert_eq!(c.ask(&second, "argv").await?, "note=two\n");
    Ok(())
}

async fn an_id_is_free_as_soon_as_it_is_removed(c: &Context) -> Outcome {
    let config = c.probe("n", &["orphan"])?.build()?;
    for _ in 0..4 {
        let node = c.platform().spawn_node(config.clone()).await?;
        assert_eq!(
            c.answers(&node).await?,
            1,
            "a purged node leaves nothing to its successor"
        );
        c.platform()
            .remove_node(&node.node_id, DataPolicy::Purge)
            .await?;
    }
    c.nothing_lives(&config.node_id).await
}
