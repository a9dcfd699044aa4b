//! Containers that never run: by one an image is looked into, a volume is filled, or the engine's sight is tried.
//!
//! Each is taken away as soon as it has served, with the nameless volumes that its image asks for. One that an adapter was killed
//! over carries labels by which the next finds it, before it keeps a volume from being deleted.

use std::collections::HashMap;

use bollard::{
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use grid_platform_api::{NodeId, OwnerId, Result};

use crate::{
    engine::{CALL, Engine, WORK},
    error::Fault,
    translate::label,
};

/// What the label says of a helper that is of no one node. No id is so short.
const OF_NONE: &str = "-";

/// Makes a helper of an image, for one node or for none. Gives its id.
///
/// # Errors
/// The engine's.
pub(crate) async fn make(
    engine: &Engine,
    owner: &OwnerId,
    of: Option<&NodeId>,
    image: &str,
    host_config: HostConfig,
) -> Result<String, Fault> {
    // Not the label of a node, or it would be listed as a damaged one.
    let labels = [
        (label::OWNER, owner.as_str()),
        (label::HELPER, of.map_or(OF_NONE, NodeId::as_str)),
    ];
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(vec!["none".to_owned()]),
        labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::new().build();
    let asked = engine.docker.create_container(Some(options), body);
    Ok(engine.ask(WORK, asked).await?.id)
}

/// Takes a helper away, with its image's own nameless volumes.
///
/// # Errors
/// The engine's.
pub(crate) async fn remove(engine: &Engine, container: &str) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    let asked = engine.docker.remove_container(container, Some(options));
    match engine.ask(WORK, asked).await {
        // It is gone, or goes at this moment.
        Err(fault) if matches!(fault.status(), Some(404 | 409)) => Ok(()),
        removed => removed.map_err(|fault| fault.into_error("remove a container")),
    }
}

/// Takes away what is left of this owner's helpers: those of one node in its turn, or all while nobody else makes one.
///
/// # Errors
/// The engine's.
pub(crate) async fn sweep(engine: &Engine, owner: &OwnerId, of: Option<&NodeId>) -> Result<()> {
    let kind = match of {
        Some(id) => format!("{}={id}", label::HELPER),
        None => label::HELPER.to_owned(),
    };
    let filters = HashMap::from([("label", vec![format!("{}={owner}", label::OWNER), kind])]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    let asked = engine.docker.list_containers(Some(options));
    let left = engine.call("list the containers", CALL, asked).await?;
    for container in left.into_iter().filter_map(|it| it.id) {
        remove(engine, &container).await?;
    }
    Ok(())
}
