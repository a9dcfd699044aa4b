//! Who is who.

use grid_platform_api::{DataPolicy, ErrorKind, NodeId, Program};

use super::cases;
use crate::{Context, Outcome, fails};

cases! {
    capabilities_are_what_was_surveyed []
    probe_tells_of_the_platform_and_changes_nothing []
    the_owner_stays_the_same_over_a_reopen []
    an_id_of_every_shape_is_a_node_of_its_own []
    an_id_that_begins_like_another_is_another []
    a_new_incarnation_has_a_new_uid []
    another_owner_is_left_alone []
    two_owners_may_not_mix_up_one_id []
}

async fn capabilities_are_what_was_surveyed(c: &Context) -> Outcome {
    let platform = c.platform();
    assert_eq!(platform.capabilities(), c.survey().capabilities);
    assert_eq!(
        platform.probe().await?.capabilities,
        c.survey().capabilities
    );
    Ok(())
}

async fn probe_tells_of_the_platform_and_changes_nothing(c: &Context) -> Outcome {
    let platform = c.platform();
    let info = platform.probe().await?;
    assert_eq!(info.platform, platform.name());
    assert!(info.is_usable(), "{:?}", info.checks);
    assert!(!info.checks.is_empty(), "a probe says what it looked at");
    for check in &info.checks {
        assert!(
            !check.detail.ends_with('.'),
            "a detail has no full stop: {check:?}"
        );
    }
    let node = c.spawn(c.probe("n", &[])?).await?;
    platform.probe().await?;
    assert_eq!(platform.list_nodes().await?.len(), 1);
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

async fn the_owner_stays_the_same_over_a_reopen(c: &Context) -> Outcome {
    let owner = c.platform().probe().await?.owner;
    c.reopen().await?;
    assert_eq!(c.platform().probe().await?.owner, owner);
    let stranger = c.stranger().await?.probe().await?.owner;
    assert_ne!(stranger, owner, "two installations are two owners");
    Ok(())
}

async fn an_id_of_every_shape_is_a_node_of_its_own(c: &Context) -> Outcome {
    // The longest id, one letter with a digit, and dashes that a careless name would split at.
    let long = format!("{}{}", c.id("longest"), "x".repeat(40));
    let longest = long.get(..NodeId::MAX_LEN).ok_or("a short id")?;
    let dashes = c.id("a--b---c");
    for id in [longest, dashes.as_str()] {
        let mut config = c.probe("n", &[])?.build()?;
        config.node_id = NodeId::new(id)?;
        let node = c.platform().spawn_node(config).await?;
        c.answers(&node).await?;
        assert_eq!(node.node_id.as_str(), id);
        c.booted(&node.node_id, 1).await?;
        c.platform().stop_node(&node.node_id).await?;
        c.nothing_lives(&node.node_id).await?;
    }
    Ok(())
}

async fn an_id_that_begins_like_another_is_another(c: &Context) -> Outcome {
    let short = c.spawn(c.probe("ab", &[])?).await?;
    let mut config = c.probe("ab", &[])?.build()?;
    config.node_id = NodeId::new(format!("{}-c", short.node_id))?;
    let long = c.platform().spawn_node(config).await?;
    c.answers(&long).await?;
    c.platform()
        .remove_node(&short.node_id, DataPolicy::Purge)
        .await?;
    c.nothing_lives(&short.node_id).await?;
    assert_eq!(c.census(&long.node_id).await?.len(), 1);
    assert_eq!(c.answers(&long).await?, 1);
    Ok(())
}

async fn a_new_incarnation_has_a_new_uid(c: &Context) -> Outcome {
    let first = c.spawn(c.probe("n", &[])?).await?;
    c.platform()
        .remove_node(&first.node_id, DataPolicy::Keep)
        .await?;
    let second = c.spawn(c.probe("n", &[])?).await?;
    assert_eq!(first.node_id, second.node_id);
    assert_ne!(first.uid, second.uid);
    Ok(())
}

async fn another_owner_is_left_alone(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    let id = &node.node_id;
    let stranger = c.stranger().await?;
    assert_eq!(
        stranger.list_nodes().await?,
        [],
        "a list holds this owner's nodes only"
    );
    assert_eq!(stranger.list_data().await?, [], "data too");
    assert!(!stranger.is_node_alive(id).await?);
    // It is not there for the stranger, or it is named as somebody else's: in any case it is not touched.
    let not_mine = [ErrorKind::NotFound, ErrorKind::OwnedByOther];
    for result in [
        stranger.stop_node(id).await,
        stranger.get_node_status(id).await.map(drop),
        stranger.get_logs(id, 1).await.map(drop),
    ] {
        let kind = result.err().map(|e| e.kind());
        assert!(kind.is_some_and(|k| not_mine.contains(&k)), "{kind:?}");
    }
    if let Err(error) = stranger.remove_node(id, DataPolicy::Purge).await {
        assert_eq!(error.kind(), ErrorKind::OwnedByOther);
    }
    assert_eq!(c.answers(&node).await?, 1);
    assert_eq!(c.booted(id, 1).await?.len(), 1);
    assert_eq!(c.status(id).await?.uid, node.uid);
    Ok(())
}

async fn two_owners_may_not_mix_up_one_id(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    let stranger = c.stranger().await?;
    match stranger.spawn_node(c.probe("n", &[])?.build()?).await {
        Ok(other) => {
            assert_ne!(other.uid, node.uid);
            stranger
                .remove_node(&other.node_id, DataPolicy::Purge)
                .await?;
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::OwnedByOther, "{error:?}"),
    }
    assert_eq!(c.answers(&node).await?, 1);
    assert_eq!(c.census(&node.node_id).await?.len(), 1);
    // A hostile id never gets as far as a platform.
    for id in ["../etc", "a/b", "a\0b", "-rf", "", "A", "é"] {
        fails(
            grid_platform_api::SpawnConfig::builder(id, Program::binary("true", [""; 0])).build(),
            ErrorKind::InvalidConfig,
        )?;
    }
    Ok(())
}
