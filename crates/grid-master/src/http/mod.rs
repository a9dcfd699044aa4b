//! The people's side: HTTP with JSON, described by `/openapi.json`, which is made from the handlers.

mod agents;
mod data;
mod document;
mod events;
mod extract;
mod logs;
mod nodes;
mod serve;
mod system;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State as Shared},
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::Response,
};
use grid_platform_api::{Error, ErrorKind};
use serde::de::DeserializeOwned;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        RefOr,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, error::ApiError};

pub(crate) use serve::serve;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sutra Grid master",
        description = "Puts storage nodes anywhere. Wants `Authorization: Bearer TOKEN`; every error is an `ErrorBody`."
    ),
    modifiers(&Bearer),
    security(("bearer" = [])),
    tags(
        (name = "nodes", description = "Storage servers"),
        (name = "agents", description = "Who runs them"),
        (name = "data", description = "What they have on disk"),
        (name = "events", description = "What happens"),
        (name = "tokens", description = "Who may do what"),
        (name = "system", description = "The master itself")
    )
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// All routes, and what they are described by.
fn routes() -> (Router<Arc<App>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(nodes::spawn))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::get, nodes::update, nodes::remove))
        .routes(routes!(nodes::start))
        .routes(routes!(nodes::stop))
        .routes(routes!(nodes::usage))
        .routes(routes!(logs::logs))
        .routes(routes!(data::list))
        .routes(routes!(data::purge))
        .routes(routes!(agents::list))
        .routes(routes!(agents::get))
        .routes(routes!(agents::cordon))
        .routes(routes!(agents::uncordon))
        .routes(routes!(agents::list_tokens, agents::create_token))
        .routes(routes!(agents::delete_token))
        .routes(routes!(events::events))
        .routes(routes!(system::version))
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(system::metrics))
        .routes(routes!(system::openapi))
        .split_for_parts()
}

/// The API's description as JSON.
pub(crate) fn openapi() -> String {
    let mut api = routes().1;
    for item in api.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.put,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            for (status, response) in &mut operation.responses.responses {
                describe(status, response);
            }
        }
    }
    // Texts, numbers and maps of texts: it always has a JSON form.
    let mut document = serde_json::to_value(&api).unwrap_or_default();
    document::finish(&mut document);
    document.to_string()
}

/// OpenAPI wants a description of every response, also of those that need none.
fn describe(status: &str, response: &mut RefOr<utoipa::openapi::Response>) {
    if let RefOr::T(response) = response
        && response.description.is_empty()
    {
        response.description = match status {
            "4XX" => "The request cannot be done; `error` says why and names the mend",
            "5XX" | "503" => {
                "The grid cannot do it now; `error` says why, and whether a retry can help"
            }
            "202" => "It is wished",
            "204" => "It is done",
            _ => "As asked",
        }
        .to_owned();
    }
}

/// The whole API.
pub(crate) fn router(app: Arc<App>) -> Router {
    let (router, _) = routes();
    router
        .method_not_allowed_fallback(not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(app.clone(), measure))
        .with_state(app)
}

async fn not_found(uri: Uri) -> ApiError {
    let path: String = uri.path().escape_debug().take(100).collect();
    Error::new(ErrorKind::NotFound, format!("there is nothing at `{path}`"))
        .with_hint("`/openapi.json` lists every path.")
        .into()
}

async fn not_allowed(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().escape_debug().take(100).collect();
    let error = Error::new(
        ErrorKind::Unsupported,
        format!("`{path}` does not take `{method}`"),
    )
    .with_hint("`/openapi.json` lists what each path takes.");
    ApiError::with_status(StatusCode::METHOD_NOT_ALLOWED, error)
}

/// Counts requests by their route's pattern.
async fn measure(Shared(app): Shared<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = match request.method() {
        &(Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::HEAD) => {
            request.method().to_string()
        }
        _ => "other".to_owned(),
    };
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    let took = started.elapsed();
    tracing::debug!(
        method,
        route,
        status,
        took_us = took.as_micros(),
        "answered"
    );
    app.grid.metrics.request(&method, &route, status, took);
    response
}

/// What an agent answered.
fn parse_answer<T: DeserializeOwned>(agent: &str, json: &str) -> Result<T, ApiError> {
    serde_json::from_str(json).map_err(|e| {
        Error::new(
            ErrorKind::Internal,
            format!("the answer of the agent `{agent}` cannot be read"),
        )
        .with_hint("Run agent and master of one version.")
        .with_source(e)
        .into()
    })
}
