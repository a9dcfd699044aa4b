//! `/api/grid/agents` and `/api/grid/tokens`.

use std::sync::Arc;

use axum::{Json, extract::State as Shared, http::StatusCode};
use grid_client::{Agent, CreateToken, CreatedToken, ErrorBody, Token};

use super::extract::{Admin, Body, Name, Reader};
use crate::{app::App, error::ApiError, grid::no_agent, view};

fn shown(app: &App, id: &str) -> Result<Json<Agent>, ApiError> {
    match app.grid.agent(id) {
        Some(agent) => Ok(Json(agent)),
        None => Ok(no_agent(id)?),
    }
}

/// Every agent that has connected once.
#[utoipa::path(
    get, path = "/api/grid/agents", tag = "agents", operation_id = "listAgents",
    responses(
        (status = 200, body = [Agent]),
        (status = "4XX", body = ErrorBody),
    ),
)]
pub(super) async fn list(_: Reader, Shared(app): Shared<Arc<App>>) -> Json<Vec<Agent>> {
    Json(app.grid.agents())
}

/// One agent.
#[utoipa::path(
    get, path = "/api/grid/agents/{id}", tag = "agents", operation_id = "getAgent",
    params(("id" = String, Path, description = "The agent's id")),
    responses(
        (status = 200, body = Agent),
        (status = "4XX", body = ErrorBody),
    ),
)]
pub(super) async fn get(
    _: Reader,
    Name(id): Name,
    Shared(app): Shared<Arc<App>>,
) -> Result<Json<Agent>, ApiError> {
    shown(&app, &id)
}

/// Places no new nodes on an agent; those it has stay.
#[utoipa::path(
    post, path = "/api/grid/agents/{id}/cordon", tag = "agents", operation_id = "cordonAgent",
    params(("id" = String, Path, description = "The agent's id")),
    responses(
        (status = 200, body = Agent),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn cordon(
    _: Admin,
    Name(id): Name,
    Shared(app): Shared<Arc<App>>,
) -> Result<Json<Agent>, ApiError> {
    app.cordon(&id, true).await?;
    shown(&app, &id)
}

/// Places new nodes on an agent again.
#[utoipa::path(
    post, path = "/api/grid/agents/{id}/uncordon", tag = "agents", operation_id = "uncordonAgent",
    params(("id" = String, Path, description = "The agent's id")),
    responses(
        (status = 200, body = Agent),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn uncordon(
    _: Admin,
    Name(id): Name,
    Shared(app): Shared<Arc<App>>,
) -> Result<Json<Agent>, ApiError> {
    app.cordon(&id, false).await?;
    shown(&app, &id)
}

/// Every token, without its value.
#[utoipa::path(
    get, path = "/api/grid/tokens", tag = "tokens", operation_id = "listTokens",
    responses(
        (status = 200, body = [Token]),
        (status = "4XX", body = ErrorBody),
    ),
)]
pub(super) async fn list_tokens(_: Admin, Shared(app): Shared<Arc<App>>) -> Json<Vec<Token>> {
    let rows = app.grid.tokens();
    Json(rows.iter().map(|row| view::token(row)).collect())
}

/// Makes a token; this answer is the only one that shows its value.
#[utoipa::path(
    post, path = "/api/grid/tokens", tag = "tokens", operation_id = "createToken",
    request_body = CreateToken,
    responses(
        (status = 201, body = CreatedToken),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn create_token(
    _: Admin,
    Shared(app): Shared<Arc<App>>,
    body: Body<CreateToken>,
) -> Result<(StatusCode, Json<CreatedToken>), ApiError> {
    let created = app.create_token(body.value).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Deletes a token, and ends what it has open: an agent's session, events and logs that are followed.
#[utoipa::path(
    delete, path = "/api/grid/tokens/{id}", tag = "tokens", operation_id = "deleteToken",
    params(("id" = String, Path, description = "The token's id")),
    responses(
        (status = 204),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn delete_token(
    _: Admin,
    Name(id): Name,
    Shared(app): Shared<Arc<App>>,
) -> Result<StatusCode, ApiError> {
    app.delete_token(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
