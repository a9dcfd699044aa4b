//! What happens to data.

use grid_platform_api::{DataPolicy, ErrorKind, NodeData};

use super::cases;
use crate::{Context, Failed, Outcome};

cases! {
    kept_data_is_found_by_the_next_node []
    purge_deletes_the_data []
    purge_after_keep_deletes_what_was_kept []
    leftovers_are_listed []
    data_is_listed_by_node []
    data_survives_a_crash_of_the_program [never]
    a_storage_path_is_used [storage_path]
    what_the_platform_made_at_a_storage_path_is_purged [storage_path]
    a_folder_that_was_there_is_never_deleted [storage_path]
    a_folder_that_was_there_survives_keep_and_purge [storage_path]
    data_of_another_node_is_refused [storage_path]
    kept_data_of_another_node_is_refused [storage_path]
}

async fn kept_data_is_found_by_the_next_node(c: &Context) -> Outcome {
    let first = c.spawn(c.probe("n", &["put=key:kept"])?).await?;
    c.platform()
        .remove_node(&first.node_id, DataPolicy::Keep)
        .await?;
    let second = c.spawn(c.probe("n", &["note=another"])?).await?;
    assert_eq!(c.ask(&second, "get=key").await?, "kept");
    assert_eq!(c.answers(&second).await?, 2, "its second boot on this data");
    Ok(())
}

async fn purge_deletes_the_data(c: &Context) -> Outcome {
    let first = c.spawn(c.probe("n", &["put=key:gone"])?).await?;
    c.platform()
        .remove_node(&first.node_id, DataPolicy::Purge)
        .await?;
    assert_eq!(c.boots(&first.node_id).await?, []);
    assert_eq!(c.platform().list_data().await?, []);
    let second = c.spawn(c.probe("n", &[])?).await?;
    assert_eq!(c.ask(&second, "get=key").await?, "absent");
    assert_eq!(c.answers(&second).await?, 1);
    Ok(())
}

async fn purge_after_keep_deletes_what_was_kept(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Keep)
        .await?;
    assert_eq!(c.boots(&node.node_id).await?.len(), 1);
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await?;
    assert_eq!(c.boots(&node.node_id).await?, []);
    assert_eq!(c.platform().list_data().await?, []);
    Ok(())
}

async fn leftovers_are_listed(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Keep)
        .await?;
    c.reopen_if_possible().await?;
    let left = only(c.platform().list_data().await?)?;
    assert_eq!(left.node_id, node.node_id);
    assert!(!left.in_use, "{left:?}");
    assert!(left.created_by_platform, "{left:?}");
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await?;
    assert_eq!(c.platform().list_data().await?, []);
    Ok(())
}

async fn data_is_listed_by_node(c: &Context) -> Outcome {
    let names = ["b", "c", "a"];
    for name in names {
        c.spawn(c.probe(name, &[])?).await?;
    }
    c.platform().stop_node(&c.id("a")).await?;
    c.platform()
        .remove_node(&c.id("c"), DataPolicy::Keep)
        .await?;
    let data = c.platform().list_data().await?;
    let seen: Vec<_> = data.iter().map(|d| (d.node_id.clone(), d.in_use)).collect();
    assert_eq!(
        seen,
        [(c.id("a"), true), (c.id("b"), true), (c.id("c"), false)]
    );
    Ok(())
}

async fn data_survives_a_crash_of_the_program(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?;
    let node = c.spawn(config).await?;
    c.ask(&node, "put=key:kept").await?;
    c.ask(&node, "signal=9").await?;
    c.wait(&node.node_id, "the failure", |n| {
        n.state.failure().is_some()
    })
    .await?;
    let again = c.spawn(c.same(&node, &[])?).await?;
    assert_eq!(c.ask(&again, "get=key").await?, "kept");
    Ok(())
}

async fn a_storage_path_is_used(c: &Context) -> Outcome {
    let path = c.fixture().storage_path();
    let node = c
        .spawn(c.probe("n", &["put=key:value"])?.storage_path(&path))
        .await?;
    assert!(c.fixture().has_file(&path.join("key")).await?);
    assert_eq!(c.booted(&node.node_id, 1).await?.len(), 1);
    Ok(())
}

async fn what_the_platform_made_at_a_storage_path_is_purged(c: &Context) -> Outcome {
    let path = c.fixture().storage_path();
    let node = c
        .spawn(c.probe("n", &["put=key:value"])?.storage_path(&path))
        .await?;
    assert!(only(c.platform().list_data().await?)?.created_by_platform);
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await?;
    assert!(!c.fixture().has_file(&path.join("key")).await?);
    Ok(())
}

async fn a_folder_that_was_there_is_never_deleted(c: &Context) -> Outcome {
    let path = c.fixture().storage_path();
    let foreign = path.join("foreign");
    c.fixture().put_file(&foreign).await?;
    let node = c
        .spawn(c.probe("n", &["put=key:value"])?.storage_path(&path))
        .await?;
    let data = only(c.platform().list_data().await?)?;
    assert!(!data.created_by_platform, "{data:?}");
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await?;
    assert!(
        c.fixture().has_file(&foreign).await?,
        "a foreign file was deleted"
    );
    Ok(())
}

async fn a_folder_that_was_there_survives_keep_and_purge(c: &Context) -> Outcome {
    let path = c.fixture().storage_path();
    let foreign = path.join("foreign");
    c.fixture().put_file(&foreign).await?;
    let config = || Ok::<_, Failed>(c.probe("n", &[])?.storage_path(&path));
    for data in [DataPolicy::Keep, DataPolicy::Keep, DataPolicy::Purge] {
        let node = c.spawn(config()?).await?;
        c.platform().remove_node(&node.node_id, data).await?;
        c.reopen_if_possible().await?;
    }
    c.platform()
        .remove_node(&c.id("n"), DataPolicy::Purge)
        .await?;
    assert!(
        c.fixture().has_file(&foreign).await?,
        "a foreign file was deleted"
    );
    Ok(())
}

async fn data_of_another_node_is_refused(c: &Context) -> Outcome {
    let path = c.fixture().storage_path();
    let first = c.spawn(c.probe("one", &[])?.storage_path(&path)).await?;
    refused(c, "two", &path).await?;
    refused(c, "two", &path.join("inside")).await?;
    // A stopped node's data is its own as well.
    c.platform().stop_node(&first.node_id).await?;
    refused(c, "two", &path).await
}

async fn kept_data_of_another_node_is_refused(c: &Context) -> Outcome {
    let path = c.fixture().storage_path();
    let first = c.spawn(c.probe("one", &[])?.storage_path(&path)).await?;
    c.platform()
        .remove_node(&first.node_id, DataPolicy::Keep)
        .await?;
    refused(c, "two", &path).await?;
    // Data in it would be deleted with it.
    refused(c, "two", &path.join("inside")).await?;
    c.platform()
        .remove_node(&first.node_id, DataPolicy::Purge)
        .await?;
    // Purged, it is nobody's.
    c.spawn(c.probe("two", &[])?.storage_path(&path)).await?;
    Ok(())
}

async fn refused(c: &Context, name: &str, path: &std::path::Path) -> Outcome {
    let config = c.probe(name, &[])?.storage_path(path).build()?;
    let Err(error) = c.platform().spawn_node(config).await else {
        return Err(Failed::new("another node's data was given away"));
    };
    let kinds = [
        ErrorKind::Conflict,
        ErrorKind::NotAllowed,
        ErrorKind::OwnedByOther,
    ];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    assert!(error.hint().is_some(), "{error:?}");
    c.nothing_lives(&c.id(name)).await?;
    let listed = c.platform().list_nodes().await?;
    assert!(
        listed.iter().all(|n| n.node_id != c.id(name)),
        "a refused spawn leaves nothing"
    );
    Ok(())
}

fn only(mut data: Vec<NodeData>) -> Outcome<NodeData> {
    match data.pop() {
        Some(one) if data.is_empty() => Ok(one),
        last => Err(Failed::new(format!(
            "expected one piece of data: {data:?} {last:?}"
        ))),
    }
}
