//! A node that is not there: its place, its container, its first start.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bollard::{models::ContainerCreateBody, query_parameters::CreateContainerOptionsBuilder};
use grid_platform_api::{
    Digest, Error, ErrorKind, Failure, FailureReason, NodeId, NodeUid, Program, Result,
    SpawnConfig, fault,
};
use grid_platform_host::{
    data::{self, Marker, PathClaim, Purpose, Site},
    error::Context,
    install::random,
    work::{Turn, blocking, detached},
};
use tokio::time::{Instant, sleep};

use super::{foreign, ready::Started, remove, start};
use crate::{
    account::Account,
    engine::WORK,
    error::{Fault, PLATFORM, error},
    images::{self, Image},
    nodes::{self, Found},
    platform::Inner,
    tar::Owner,
    translate::{self, DataPlace, Ground, Phase},
    volumes,
};

/// How often ports are allocated anew when the engine finds them taken that looked free from here.
const PORT_TRIES: usize = 10;
/// How often an image is looked for again that is gone when a container is made of it.
const IMAGE_TRIES: usize = 2;
/// How long a name may be taken by a container that is being made or removed, and how often is looked.
const NAME_LIMIT: Duration = Duration::from_secs(60);
const NAME_PAUSE: Duration = Duration::from_millis(20);

/// What became of making a node.
pub(crate) enum Outcome {
    /// It was made and started.
    Made(Started),
    /// It was there, and nobody here knew of it.
    There,
}

/// Makes the node and starts it, in its turn.
pub(crate) async fn create(inner: &Arc<Inner>, config: SpawnConfig, turn: Turn) -> Result<Outcome> {
    let mut turn = turn;
    for _ in 0..IMAGE_TRIES {
        // A stop may end it: a pull takes its time.
        let (image, account) = image_and_account(inner, &config).await?;
        let (making, request) = (Arc::clone(inner), config.clone());
        let work = async move {
            let made = make(&making, request, image, account).await;
            made.map(|it| (it, turn))
        };
        match detached(&inner.closing, work).await? {
            (Some(outcome), _) => return Ok(outcome),
            (None, back) => turn = back,
        }
        // What is known of it was true before.
        inner.images.forget(Some(reference(&config)));
    }
    let image = reference(&config);
    let message = format!("the image `{image}` is removed each time that a node is made of it");
    Err(error(ErrorKind::Unavailable, message))
}

async fn image_and_account(
    inner: &Arc<Inner>,
    config: &SpawnConfig,
) -> Result<(Arc<Image>, Account)> {
    let image = inner
        .images
        .ensure(
            &inner.engine,
            &inner.config,
            &config.node_id,
            reference(config),
        )
        .await?;
    has_one_volume(&image, reference(config))?;
    let account = inner
        .accounts
        .of(
            &inner.engine,
            &inner.install.owner,
            &inner.config,
            config,
            &image,
        )
        .await?;
    Ok((image, account))
}

/// Refuses an image that keeps its data in several places: one of them is the node's data, and the engine would make others
/// that are lost with the container, at an update too.
fn has_one_volume(image: &Image, reference: &str) -> Result<()> {
    let volumes: Vec<&str> = translate::kept_by(image).collect();
    if volumes.len() < 2 {
        return Ok(());
    }
    let what = format!(
        "keep the data of the image `{reference}`, which has several volumes (`{}`)",
        volumes.join("`, `")
    );
    Err(Error::unsupported(PLATFORM, &what).with_hint(
        "Use an image with one `VOLUME` at most: a node has its data in one place, which is there and at `{data_path}`.",
    ))
}

fn reference(config: &SpawnConfig) -> &str {
    match &config.program {
        Program::Image { image, .. } => image,
        Program::Binary { .. } => "",
    }
}

/// The places of a node that is being made. What was made for it goes again unless the node came to be.
struct Places {
    data: DataPlace,
    secrets: Option<DataPlace>,
    ground: Option<Made>,
}

/// What was made on the file system.
struct Made {
    site: Site,
    missing_parents: usize,
    was_there: bool,
    _claim: PathClaim,
}

/// Makes the container and starts it; `None` when its image is not there any more.
async fn make(
    inner: &Arc<Inner>,
    config: SpawnConfig,
    image: Arc<Image>,
    account: Account,
) -> Result<Option<Outcome>> {
    let id = &config.node_id;
    let uid = NodeUid::from_bytes(random()?);
    let digest = Digest::of(&config, &inner.install.key);
    let mut left = PORT_TRIES;
    loop {
        let claim = inner
            .ports
            .claim(&config, inner.config.ports(), inner.facts.same_host)?;
        let places = places(inner, &config, &image.id, &uid, account.owner).await?;
        let body = translate::container(
            &config,
            &inner.config,
            &Ground {
                owner: &inner.install.owner,
                uid: &uid,
                digest: &digest,
                image: &image,
                ports: &claim.ports,
                user: account.owner,
                root: account.root,
                data: &places.data,
                secrets: places.secrets.clone(),
                log_drivers: &inner.facts.log_drivers,
                on_trial: start::has_trial(inner, &config),
            },
        );
        if let Some(path) = translate::unmountable(&body) {
            let what = format!("mount the path {path:?}");
            undo(inner, id, &uid, places).await;
            return Err(Error::unsupported(PLATFORM, &what).with_hint(
                "Use paths, on the host and within the image, that have no colon, or else no comma, quotation mark and line feed.",
            ));
        }
        let container = match container(inner, id, body).await {
            Ok(container) => container,
            Err(Refusal::NoImage) => {
                undo(inner, id, &uid, places).await;
                return Ok(None);
            }
            Err(Refusal::There) => {
                // Volumes have the names of the one that is there.
                if places.ground.is_some() {
                    undo(inner, id, &uid, places).await;
                }
                return Ok(Some(Outcome::There));
            }
            Err(Refusal::Lost(e)) => {
                // It may be made all the same, on these places: the next spawn finds it there, or makes it on them.
                inner.secrets.leave(id, &uid);
                return Err(e);
            }
            Err(Refusal::Other(e)) => {
                undo(inner, id, &uid, places).await;
                return Err(e);
            }
        };
        // Its name was free: what an earlier call left was for no container.
        let (clearing, left_by) = (Arc::clone(inner), id.clone());
        blocking(move || clearing.secrets.clear_left(&left_by, None)).await?;
        fault::point("docker-spawn-after-create").cannot("start the node")?;
        match start::first(inner, id, &container).await {
            Err(e) if e.kind() == ErrorKind::PortInUse => {
                // Nothing ran: nothing stays.
                discard(inner, id, &container).await?;
                undo(inner, id, &uid, places).await;
                left -= 1;
                if left == 0 || config.ports.values().all(|it| *it != 0) {
                    return Err(e);
                }
                tracing::debug!(node = %id, ports = ?claim.ports, "the engine finds a port taken");
            }
            started => {
                // It is there, whether its program runs or not.
                claim.keep();
                return started.map(|it| Some(Outcome::Made(Started::new(inner, it))));
            }
        }
    }
}

/// Refuses to make a place for a node whose data was kept in another form, by an agent that was run in another way: an empty one
/// would hide it.
async fn is_not_elsewhere(inner: &Arc<Inner>, id: &NodeId) -> Result<()> {
    let (kept, now) = if inner.storage.is_shared() {
        let found = volumes::holds_data(&inner.engine, &inner.install.owner, id).await?;
        let kept = found.then(|| format!("the volume `{}`", volumes::data_name(id)));
        (kept, "directories")
    } else {
        let (looking, id) = (Arc::clone(inner), id.clone());
        let kept = blocking(move || {
            let left = looking.data.leftovers(None, &|| looking.used())?;
            Ok(left.into_values().find(|it| it.node_id == id))
        });
        let kept = kept.await?;
        let kept = kept.map(|it| format!("the directory `{}`", it.path.display()));
        (kept, "volumes of the engine")
    };
    let Some(kept) = kept else { return Ok(()) };
    let message = format!("its data is in {kept}, and this agent has data in {now}");
    let failure = Failure::new(FailureReason::DataUnavailable, message);
    Err(Error::spawn_failed(id, failure).with_hint(
        "Run the agent as it was run when the data was made (`grid doctor` says where data is, and why); or copy the data, purge it (`grid data purge`) and spawn the node anew.",
    ))
}

/// Where the node has its data and secrets, made if they are not there.
async fn places(
    inner: &Arc<Inner>,
    config: &SpawnConfig,
    image: &str,
    uid: &NodeUid,
    user: Owner,
) -> Result<Places> {
    is_not_elsewhere(inner, &config.node_id).await?;
    if !inner.storage.is_shared() {
        return in_volumes(inner, config, image, uid, user).await;
    }
    let (inner, config, uid) = (Arc::clone(inner), config.clone(), uid.clone());
    blocking(move || on_disk(&inner, &config, &uid, user)).await
}

fn on_disk(inner: &Arc<Inner>, config: &SpawnConfig, uid: &NodeUid, user: Owner) -> Result<Places> {
    let id = &config.node_id;
    let path: PathBuf = match &config.storage_path {
        Some(path) => path.clone(),
        None => inner.data.usual(id),
    };
    let site = inner.data.site(&path)?;
    let path = site.path();
    let claim = inner
        .data
        .claim(id, &path, Purpose::Make, &|| inner.used())?;
    let found = site.check(&inner.install.owner, id)?;
    let ours = inner.data.is_ours(id, &path, &found)?;
    let made = Made {
        missing_parents: site.missing_parents(),
        was_there: found != data::Found::Nothing,
        site,
        _claim: claim,
    };
    let marker = Marker {
        owner: inner.install.owner.clone(),
        node_id: id.clone(),
        uid: uid.clone(),
    };
    let written = made
        .site
        .ensure(&marker, Some((user.uid, user.gid)), ours)
        .and_then(|_| inner.secrets.write(id, uid, config, user));
    if let Err(e) = written {
        undo_on_disk(inner, id, uid, &made);
        return Err(e);
    }
    Ok(Places {
        data: DataPlace::Path { path, ours },
        secrets: (!config.secrets.is_empty()).then(|| DataPlace::Path {
            path: inner.secrets.place(uid),
            ours: true,
        }),
        ground: Some(made),
    })
}

async fn in_volumes(
    inner: &Arc<Inner>,
    config: &SpawnConfig,
    image: &str,
    uid: &NodeUid,
    user: Owner,
) -> Result<Places> {
    let (engine, owner, id) = (&inner.engine, &inner.install.owner, &config.node_id);
    let data = volumes::data_name(id);
    volumes::ensure(engine, owner, id, uid, &data).await?;
    let secrets = (!config.secrets.is_empty()).then(|| volumes::secrets_name(id));
    let filled = async {
        if let Some(name) = &secrets {
            volumes::ensure(engine, owner, id, uid, name).await?;
        }
        let filled = secrets.as_deref().map(|it| (it, config));
        volumes::prepare(engine, owner, id, image, Some(&data), filled, user).await
    };
    if let Err(e) = filled.await {
        // Secrets that no node will have are kept nowhere.
        if let Some(name) = &secrets
            && let Err(left) = volumes::remove(engine, owner, id, name).await
        {
            tracing::warn!(node = %id, error = %left, "the secrets of a node that did not come to be are still there");
        }
        return Err(e);
    }
    Ok(Places {
        data: DataPlace::Volume { name: data },
        secrets: secrets.map(|name| DataPlace::Volume { name }),
        ground: None,
    })
}

/// Takes away again what was made for a node that did not come to be.
async fn undo(inner: &Arc<Inner>, id: &NodeId, uid: &NodeUid, places: Places) {
    let undone = match places.ground {
        Some(made) => {
            let (inner, id, uid) = (Arc::clone(inner), id.clone(), uid.clone());
            blocking(move || {
                undo_on_disk(&inner, &id, &uid, &made);
                Ok(())
            })
            .await
        }
        // A data volume may have been there before; one that is empty is no loss to the next node of the id.
        None => match places.secrets {
            Some(DataPlace::Volume { name }) => {
                volumes::remove(&inner.engine, &inner.install.owner, id, &name).await
            }
            _ => Ok(()),
        },
    };
    if let Err(e) = undone {
        tracing::warn!(node = %id, error = %e, "what was made for a node that did not come to be is still there");
    }
}

fn undo_on_disk(inner: &Inner, id: &NodeId, uid: &NodeUid, made: &Made) {
    let _ = inner.secrets.remove(uid);
    if !made.was_there {
        let _ = made.site.purge(&inner.install.owner, id, uid);
        made.site.remove_parents(made.missing_parents);
    }
}

/// Why a container was not made.
enum Refusal {
    /// Its image is not there after all.
    NoImage,
    /// There is one, of ours.
    There,
    /// The engine's answer was lost: it may have made it, or do so yet.
    Lost(Error),
    Other(Error),
}

/// Makes the container, or finds out what stands in its way. Gives its id.
async fn container(
    inner: &Arc<Inner>,
    id: &NodeId,
    body: ContainerCreateBody,
) -> Result<String, Refusal> {
    let name = id.native_name();
    fault::point("docker-spawn-before-create")
        .cannot("make the node")
        .map_err(Refusal::Other)?;
    let deadline = Instant::now() + NAME_LIMIT;
    loop {
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let asked = inner
            .engine
            .docker
            .create_container(Some(options), body.clone());
        let fault = match inner.engine.ask(WORK, asked).await {
            Ok(made) => {
                for warning in &made.warnings {
                    tracing::debug!(node = %id, warning, "the engine warns");
                }
                return Ok(made.id);
            }
            Err(fault) => fault,
        };
        if images::is_missing(&fault) {
            return Err(Refusal::NoImage);
        }
        match fault.status() {
            Some(409) => {}
            // What stands before an engine answers so in its place.
            None | Some(502..=504) => return Err(Refusal::Lost(refused(id, fault))),
            Some(_) => return Err(Refusal::Other(refused(id, fault))),
        }
        // Its name is taken: by somebody else's, or by one of ours that nobody knew of.
        let found = nodes::refresh(inner, &name).await.map_err(Refusal::Other)?;
        match found {
            Found::Node(node) if node.now().observed.phase != Phase::Removing => {
                return Err(Refusal::There);
            }
            // One that is being removed, or one that is not yet there: an adapter that was killed has asked for it, and the
            // engine still makes it. No event tells that a name is free.
            Found::Node(_) | Found::Nothing if Instant::now() < deadline => sleep(NAME_PAUSE).await,
            Found::Node(_) | Found::Nothing => {
                return Err(Refusal::Other(
                    error(
                        ErrorKind::Unavailable,
                        format!("the engine makes or removes another container `{name}`"),
                    )
                    .with_hint("The same call succeeds once it is there or gone."),
                ));
            }
            found => return Err(Refusal::Other(foreign(id, &found))),
        }
    }
}

/// Why the engine does not make a container.
fn refused(id: &NodeId, fault: Fault) -> Error {
    let words = translate::one_line(&fault.to_string());
    let status = fault.status();
    let failed = fault.into_error(format!("make the container of the node `{id}`"));
    match status {
        Some(400) => failed.with_hint(format!(
            "The engine finds fault with the request or the settings: {words}."
        )),
        _ => failed,
    }
}

/// Takes a container away that never ran.
async fn discard(inner: &Arc<Inner>, id: &NodeId, container: &str) -> Result<()> {
    remove::delete_container(inner, id, container).await?;
    if let Some(node) = inner.registry.by_container(container) {
        nodes::forget(inner, &node);
    }
    inner.notes.forget(id)
}
