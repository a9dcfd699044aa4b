//! Data and secrets in labelled volumes of the engine, where agent and engine see no common file system.

use std::collections::HashMap;

use bollard::{
    models::{HostConfig, Mount, MountType, Volume, VolumeCreateRequest},
    query_parameters::{
        ListVolumesOptionsBuilder, RemoveVolumeOptions, UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use grid_platform_api::{
    Error, ErrorKind, Failure, FailureReason, NodeData, NodeId, NodeUid, OwnerId, Result,
    SpawnConfig,
};

use crate::{
    engine::{CALL, Engine, WORK},
    error::{Fault, error},
    helper, images,
    tar::{Archive, Owner},
    translate::{label, node_id},
};

/// Where a volume is mounted while it is prepared.
const PLACE: &str = "/sutra-grid";

/// The volume of a node's data.
pub(crate) fn data_name(id: &NodeId) -> String {
    id.native_name()
}

/// The volume of its secrets. No id has a dot in it, so that it is no other node's data.
pub(crate) fn secrets_name(id: &NodeId) -> String {
    format!("{}.secrets", id.native_name())
}

/// Makes a volume of that name for the node, or finds the one that was made for it.
///
/// # Errors
/// `OwnedByOther` when there is one that is not this owner's or not this node's.
pub(crate) async fn ensure(
    engine: &Engine,
    owner: &OwnerId,
    id: &NodeId,
    uid: &NodeUid,
    name: &str,
) -> Result<()> {
    let labels = [
        (label::GRID, "true".to_owned()),
        (label::NODE_ID, id.to_string()),
        (label::OWNER, owner.to_string()),
        (label::UID, uid.to_string()),
    ];
    let request = VolumeCreateRequest {
        name: Some(name.to_owned()),
        labels: Some(labels.map(|(k, v)| (k.to_owned(), v)).into()),
        ..VolumeCreateRequest::default()
    };
    let asked = engine.docker.create_volume(request);
    let volume = engine.call("make a volume", WORK, asked).await?;
    check(&volume, owner, id)
}

/// Looks whether a volume is this owner's and this node's.
fn check(volume: &Volume, owner: &OwnerId, id: &NodeId) -> Result<()> {
    let ours = volume.labels.get(label::OWNER).map(String::as_str) == Some(owner.as_str());
    if ours && node_id(&volume.labels).as_ref() == Some(id) {
        return Ok(());
    }
    Err(error(
        ErrorKind::OwnedByOther,
        format!("the volume `{}` was not made for this node", volume.name),
    )
    .with_node(id)
    .with_hint(format!(
        "Look whose it is (`docker volume inspect {}`), or choose another id.",
        volume.name
    )))
}

/// Whether there is a volume of the node's data.
///
/// # Errors
/// The engine's.
pub(crate) async fn holds_data(engine: &Engine, owner: &OwnerId, id: &NodeId) -> Result<bool> {
    let name = data_name(id);
    match engine.ask(CALL, engine.docker.inspect_volume(&name)).await {
        Ok(volume) => Ok(check(&volume, owner, id).is_ok()),
        Err(fault) if fault.status() == Some(404) => Ok(false),
        Err(fault) => Err(fault.into_error(format!("look for the volume `{name}`"))),
    }
}

/// Deletes a volume that was made for the node; one that is not there, or is another's, is let be.
///
/// # Errors
/// The engine's.
pub(crate) async fn remove(
    engine: &Engine,
    owner: &OwnerId,
    id: &NodeId,
    name: &str,
) -> Result<()> {
    match engine.ask(CALL, engine.docker.inspect_volume(name)).await {
        Ok(volume) if check(&volume, owner, id).is_err() => return Ok(()),
        Ok(_) => {}
        Err(fault) if fault.status() == Some(404) => return Ok(()),
        Err(fault) => return Err(fault.into_error(format!("look at the volume `{name}`"))),
    }
    let delete = || {
        let none = None::<RemoveVolumeOptions>;
        engine.ask(WORK, engine.docker.remove_volume(name, none))
    };
    let mut deleted = delete().await;
    if deleted.as_ref().is_err_and(|it| it.status() == Some(409)) {
        // An adapter may have been killed while it filled it.
        helper::sweep(engine, owner, Some(id)).await?;
        deleted = delete().await;
    }
    match deleted {
        Ok(()) => Ok(()),
        Err(fault) if fault.status() == Some(404) => Ok(()),
        Err(fault) => Err(fault.into_error(format!("delete the volume `{name}`"))),
    }
}

/// All volumes of this owner.
async fn all(engine: &Engine, owner: &OwnerId) -> Result<Vec<Volume>> {
    let filters = HashMap::from([("label", vec![format!("{}={owner}", label::OWNER)])]);
    let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
    let asked = engine.docker.list_volumes(Some(options));
    let listed = engine.call("list the volumes", CALL, asked).await?;
    Ok(listed.volumes.unwrap_or_default())
}

/// Deletes the secrets of nodes that are not there. Those of a container that nobody understands are in use, and stay.
///
/// # Errors
/// The engine's.
pub(crate) async fn sweep_secrets(
    engine: &Engine,
    owner: &OwnerId,
    is_node: impl Fn(&NodeId) -> bool,
) -> Result<()> {
    for volume in all(engine, owner).await? {
        let id = node_id(&volume.labels).filter(|it| volume.name == secrets_name(it));
        let Some(id) = id.filter(|it| !is_node(it)) else {
            continue;
        };
        if let Err(e) = remove(engine, owner, &id, &volume.name).await {
            tracing::warn!(node = %id, error = %e, "the secrets of a node that is gone are still there");
        }
    }
    Ok(())
}

/// All data in volumes of this owner. `in_use` says of a node whether it is there and has its data in one.
///
/// # Errors
/// The engine's.
pub(crate) async fn list(
    engine: &Engine,
    owner: &OwnerId,
    in_use: impl Fn(&NodeId) -> bool,
) -> Result<Vec<NodeData>> {
    let volumes = all(engine, owner).await?;
    Ok(volumes
        .into_iter()
        .filter_map(|volume| {
            let id = node_id(&volume.labels).filter(|it| volume.name == data_name(it))?;
            Some(NodeData {
                in_use: in_use(&id),
                node_id: id,
                location: volume.name,
                created_by_platform: true,
                bytes: None,
            })
        })
        .collect())
}

/// Gives volumes their owner and what is to be in them, through a container that mounts them and never runs: what is unpacked
/// above a mount point gives the mounted directory its owner.
///
/// # Errors
/// The engine's.
pub(crate) async fn prepare(
    engine: &Engine,
    owner: &OwnerId,
    id: &NodeId,
    image: &str,
    data: Option<&str>,
    secrets: Option<(&str, &SpawnConfig)>,
    user: Owner,
) -> Result<()> {
    let mut archive = Archive::default();
    let mut mounts = Vec::new();
    let mount = |name: &str, folder: &str| Mount {
        typ: Some(MountType::VOLUME),
        source: Some(name.to_owned()),
        target: Some(format!("{PLACE}/{folder}")),
        ..Mount::default()
    };
    if let Some(name) = data {
        archive.directory("data", user, 0o750);
        mounts.push(mount(name, "data"));
    }
    if let Some((name, config)) = secrets {
        archive.directory("secrets", user, 0o500);
        for (secret, value) in &config.secrets {
            let bytes = value.expose().unwrap_or_default();
            archive.file(&format!("secrets/{secret}"), user, 0o400, bytes);
        }
        mounts.push(mount(name, "secrets"));
    }
    let host_config = HostConfig {
        mounts: Some(mounts),
        network_mode: Some("none".to_owned()),
        ..HostConfig::default()
    };
    let helper = helper::make(engine, owner, Some(id), image, host_config).await;
    let helper = helper.map_err(|fault| cannot_prepare(id, image, fault))?;
    let options = UploadToContainerOptionsBuilder::new()
        .path(PLACE)
        .copy_uidgid("true")
        .build();
    let bytes = bollard::body_full(Bytes::from(archive.finish()));
    let upload = engine
        .docker
        .upload_to_container(&helper, Some(options), bytes);
    let filled = engine.call("fill volumes", WORK, upload).await;
    let removed = helper::remove(engine, &helper).await;
    filled.and(removed)
}

/// Why volumes cannot be filled: most likely their helper's image was removed.
fn cannot_prepare(id: &NodeId, image: &str, fault: Fault) -> Error {
    if !images::is_missing(&fault) {
        return fault.into_error("prepare volumes");
    }
    let failure = Failure::new(
        FailureReason::ImageNotFound,
        format!("the image `{image}`, by which its secrets are put in place, was removed"),
    );
    Error::spawn_failed(id, failure).with_hint(format!(
        "Get the same image again (`docker pull`, `docker load`), or make the node of another: `grid update {id}`."
    ))
}
