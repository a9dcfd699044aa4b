//! The master itself: version, health, metrics, and the API's own description.

use std::sync::Arc;

use axum::{
    Json,
    extract::State as Shared,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use grid_client::{ErrorBody, Version};
use grid_platform_api::{Error, ErrorKind};

use super::extract::Reader;
use crate::{app::App, error::ApiError};

/// The master's version and its place in the grid's history.
#[utoipa::path(
    get, path = "/api/grid/version", tag = "system", operation_id = "version",
    responses((status = 200, body = Version), (status = "4XX", body = ErrorBody)),
)]
pub(super) async fn version(_: Reader, Shared(app): Shared<Arc<App>>) -> Json<Version> {
    let fence = app.grid.fence();
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        grid_id: fence.grid_id,
        epoch: fence.epoch,
        revision: fence.revision,
    })
}

/// The process lives.
#[utoipa::path(
    get, path = "/healthz", tag = "system", operation_id = "health",
    responses((status = 200, body = String, content_type = "text/plain")), security(()),
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The master can take changes: its store can be written, and it is not about to end.
#[utoipa::path(
    get, path = "/readyz", tag = "system", operation_id = "ready",
    responses((status = 200, body = String, content_type = "text/plain"), (status = 503, body = ErrorBody)), security(()),
)]
pub(super) async fn readyz(Shared(app): Shared<Arc<App>>) -> Result<&'static str, ApiError> {
    if app.shutdown.is_cancelled() {
        return Err(Error::new(ErrorKind::Unavailable, "the master is shutting down").into());
    }
    // Passes through the writing thread, and so waits for what it waits for.
    app.store
        .check()
        .await
        .map_err(|error| ApiError::with_status(StatusCode::SERVICE_UNAVAILABLE, error))?;
    Ok("ready\n")
}

/// What the master counts, in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "system", operation_id = "metrics",
    responses((status = 200, body = String, content_type = "text/plain"), (status = "4XX", body = ErrorBody)),
)]
pub(super) async fn metrics(_: Reader, Shared(app): Shared<Arc<App>>) -> Response {
    let text = app.grid.metrics.render(&app.grid.snapshot());
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "system", operation_id = "openapi",
    responses((status = 200, body = Object, content_type = "application/json")), security(()),
)]
pub(super) async fn openapi(Shared(app): Shared<Arc<App>>) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, app.openapi.clone()).into_response()
}
