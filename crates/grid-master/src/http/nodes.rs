//! `/api/grid/spawn` and `/api/grid/nodes`.

use std::sync::Arc;

use axum::{Json, extract::State as Shared, http::StatusCode};
use grid_client::{ErrorBody, Node, NodeFilter, SpawnRequest, UpdateRequest, Usage};
use grid_platform_api::{Error, NodeId, NodeUsage};
use grid_proto::v1;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Admin, Body, Id, Key, Params, Reader};
use crate::{
    app::App,
    error::ApiError,
    link::{Session, disconnected},
};

fn shown(app: &App, id: &NodeId) -> Result<Json<Node>, ApiError> {
    let node = app.grid.node(id).ok_or_else(|| Error::not_found(id))?;
    Ok(Json(node))
}

/// Makes a node. It is durable when this answers, and its agent is told; it does not run yet.
#[utoipa::path(
    post, path = "/api/grid/spawn", tag = "nodes", operation_id = "spawnNode",
    request_body = SpawnRequest,
    params(("Idempotency-Key" = Option<String>, Header,
        pattern = "^[ \\t]*[!-~]([ -~]{0,253}[!-~])?[ \\t]*$",
        description = "The same key with the same body gets the same answer for 24 hours")),
    responses(
        (status = 201, body = Node, description = "It is made"),
        (status = 200, body = Node, description = "It was there with the same settings"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn spawn(
    Admin(token): Admin,
    key: Key,
    Shared(app): Shared<Arc<App>>,
    body: Body<SpawnRequest>,
) -> Result<(StatusCode, Json<Node>), ApiError> {
    let idempotency = key.with(&token, body.digest);
    let (id, made) = app.spawn(body.value, idempotency).await?;
    let status = if made {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, shown(&app, &id)?))
}

/// All nodes, by id; also those that agents found and nobody wished for.
#[utoipa::path(
    get, path = "/api/grid/nodes", tag = "nodes", operation_id = "listNodes",
    params(NodeFilter),
    responses(
        (status = 200, body = [Node]),
        (status = "4XX", body = ErrorBody),
    ),
)]
pub(super) async fn list(
    _: Reader,
    Params(filter): Params<NodeFilter>,
    Shared(app): Shared<Arc<App>>,
) -> Json<Vec<Node>> {
    let mut nodes = app.grid.nodes(filter.agent.as_deref());
    if let Some(state) = filter.state {
        nodes.retain(|node| node.state == state);
    }
    Json(nodes)
}

/// One node.
#[utoipa::path(
    get, path = "/api/grid/nodes/{id}", tag = "nodes", operation_id = "getNode",
    params(("id" = String, Path, pattern = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description = "The node's id")),
    responses(
        (status = 200, body = Node),
        (status = "4XX", body = ErrorBody),
    ),
)]
pub(super) async fn get(
    _: Reader,
    Id(id): Id,
    Shared(app): Shared<Arc<App>>,
) -> Result<Json<Node>, ApiError> {
    shown(&app, &id)
}

/// Gives a node other settings; its id, agent, data and ports stay.
#[utoipa::path(
    put, path = "/api/grid/nodes/{id}", tag = "nodes", operation_id = "updateNode",
    params(("id" = String, Path, pattern = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description = "The node's id")),
    request_body = UpdateRequest,
    responses(
        (status = 200, body = Node),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn update(
    _: Admin,
    Id(id): Id,
    Shared(app): Shared<Arc<App>>,
    body: Body<UpdateRequest>,
) -> Result<Json<Node>, ApiError> {
    app.update(&id, body.value).await?;
    shown(&app, &id)
}

/// Wishes that a node runs; one that has ended is tried again.
#[utoipa::path(
    post, path = "/api/grid/nodes/{id}/start", tag = "nodes", operation_id = "startNode",
    params(("id" = String, Path, pattern = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description = "The node's id")),
    responses(
        (status = 200, body = Node),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn start(
    _: Admin,
    Id(id): Id,
    Shared(app): Shared<Arc<App>>,
) -> Result<Json<Node>, ApiError> {
    app.start(&id).await?;
    shown(&app, &id)
}

/// Wishes that a node does not run; its record, ports and data stay. A stop that has failed for good is tried again.
#[utoipa::path(
    post, path = "/api/grid/nodes/{id}/stop", tag = "nodes", operation_id = "stopNode",
    params(("id" = String, Path, pattern = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description = "The node's id")),
    responses(
        (status = 200, body = Node),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn stop(
    _: Admin,
    Id(id): Id,
    Shared(app): Shared<Arc<App>>,
) -> Result<Json<Node>, ApiError> {
    app.stop(&id).await?;
    shown(&app, &id)
}

/// What happens to the data of a node that is removed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Delete its data too, if the platform made it.
    purge: bool,
}

/// Wishes that a node is gone. It leaves the list when its agent has acknowledged that; a removal that has failed for good is tried again.
#[utoipa::path(
    delete, path = "/api/grid/nodes/{id}", tag = "nodes", operation_id = "removeNode",
    params(("id" = String, Path, pattern = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description = "The node's id"), RemoveQuery),
    responses(
        (status = 202, body = Node),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn remove(
    _: Admin,
    Id(id): Id,
    Params(query): Params<RemoveQuery>,
    Shared(app): Shared<Arc<App>>,
) -> Result<(StatusCode, Json<Node>), ApiError> {
    let before = app.grid.node(&id);
    app.remove(&id, query.purge).await?;
    // A quick agent may have acknowledged already.
    let node = match (app.grid.node(&id), before) {
        (Some(node), _) => node,
        (None, Some(before)) => Node {
            desired: grid_client::Desired::Removed,
            ..before
        },
        (None, None) => return Err(Error::not_found(&id).into()),
    };
    Ok((StatusCode::ACCEPTED, Json(node)))
}

/// What a node uses now.
#[utoipa::path(
    get, path = "/api/grid/nodes/{id}/usage", tag = "nodes", operation_id = "getUsage",
    params(("id" = String, Path, pattern = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description = "The node's id")),
    responses(
        (status = 200, body = Usage),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn usage(
    _: Reader,
    Id(id): Id,
    Shared(app): Shared<Arc<App>>,
) -> Result<Json<Usage>, ApiError> {
    let session = session_of(&app, &id)?;
    let about = v1::question::About::Usage(v1::Usage {
        node_id: id.to_string(),
    });
    let usage: NodeUsage = super::parse_answer(&session.agent, &session.ask(about).await?)?;
    Ok(Json(Usage {
        at: usage.at.to_string(),
        cpu_time_ms: usage.cpu_time_ms,
        memory_bytes: usage.memory_bytes,
        memory_limit_bytes: usage.memory_limit_bytes,
        disk_bytes: usage.disk_bytes,
        processes: usage.processes,
    }))
}

/// The session of the agent that has a node.
pub(super) fn session_of(app: &App, id: &NodeId) -> Result<Arc<Session>, ApiError> {
    let (agent, _) = app.grid.find(id).ok_or_else(|| Error::not_found(id))?;
    let session = app.grid.session(&agent);
    Ok(session.ok_or_else(|| disconnected(&agent).with_node(id))?)
}
