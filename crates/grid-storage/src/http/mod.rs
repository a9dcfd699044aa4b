//! The HTTP API: which request goes where.

mod auth;
mod download;
pub(crate) mod range;
mod reply;
pub(crate) mod target;
mod upload;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONNECTION, EXPECT, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, Request, Response, StatusCode};

pub(crate) use auth::Token;
use target::Target;

use crate::config::Limits;
use crate::error::{Error, ErrorKind};
use crate::index::Condition;
use crate::metrics::{Metrics, Operation};
use crate::store::Store;

/// A refused body up to this size is read to its end, so that the client reads the refusal
/// instead of a reset connection.
const DISCARD_BYTES: u64 = 256 * 1024;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) token: Option<Token>,
    /// Set once the store is open.
    pub(crate) store: OnceLock<Arc<Store>>,
    pub(crate) draining: AtomicBool,
}

impl App {
    /// Answers one request; every failure is an answer too.
    pub(crate) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<reply::Body>, Infallible> {
        let started = Instant::now();
        let (parts, mut body) = request.into_parts();
        let target = target::parse_path(parts.uri.path());
        let operation = operation(&parts.method, &target);
        let result = match target {
            None => Err(no_route()),
            Some(Err(error)) => self.authorize(&parts.headers).and(Err(error)),
            Some(Ok(target)) => self.route(target, &parts, &mut body).await,
        };
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let expects = parts.headers.contains_key(EXPECT);
                if !expects && error.kind() != ErrorKind::IncompleteBody {
                    discard(&mut body).await;
                }
                let mut response = reply::error(&error);
                if !body.is_end_stream() {
                    // The connection cannot be used again: the client shall know it.
                    response
                        .headers_mut()
                        .insert(CONNECTION, HeaderValue::from_static("close"));
                }
                if error.kind() == ErrorKind::MethodNotAllowed {
                    response
                        .headers_mut()
                        .insert(ALLOW, HeaderValue::from_static(allowed(parts.uri.path())));
                }
                response
            }
        };
        let status = response.status();
        let took = started.elapsed();
        self.metrics.request(operation, status.as_u16(), took);
        tracing::debug!(
            method = %parts.method,
            path = parts.uri.path(),
            status = status.as_u16(),
            micros = took.as_micros(),
            "request"
        );
        Ok(response)
    }

    async fn route(
        &self,
        target: Target,
        parts: &hyper::http::request::Parts,
        body: &mut Incoming,
    ) -> Result<Response<reply::Body>, Error> {
        let read_only = parts.method == Method::GET || parts.method == Method::HEAD;
        // Probes carry no token: whoever may not read the objects may know that they are there.
        match target {
            Target::Health | Target::Ready | Target::Metrics if !read_only => {
                return Err(not_allowed());
            }
            Target::Health => return Ok(plain(StatusCode::OK, "ok\n")),
            Target::Ready => return Ok(self.ready()),
            Target::Metrics => {
                self.authorize(&parts.headers)?;
                let free = self.store.get().and_then(|store| store.free_bytes());
                let text = self.metrics.render(free);
                return Ok(reply::text(
                    StatusCode::OK,
                    "text/plain; version=0.0.4; charset=utf-8",
                    text,
                ));
            }
            Target::Objects | Target::Object(_) => self.authorize(&parts.headers)?,
        }
        let store = self.serving()?;
        let headers = &parts.headers;
        match target {
            Target::Objects if parts.method == Method::GET => {
                download::list(store, parts.uri.query().unwrap_or_default()).await
            }
            Target::Object(key) => match parts.method {
                Method::GET => download::get(self, store, &key, headers).await,
                Method::HEAD => download::head(store, &key, headers),
                Method::PUT => upload::put(self, store, &key, headers, body).await,
                Method::DELETE => {
                    let existed = store.delete_async(&key, write_condition(headers)?).await?;
                    if existed {
                        Ok(reply::empty(StatusCode::NO_CONTENT))
                    } else {
                        Err(download::not_found(&key))
                    }
                }
                _ => Err(not_allowed()),
            },
            _ => Err(not_allowed()),
        }
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), Error> {
        self.token
            .as_ref()
            .map_or(Ok(()), |token| token.check(headers))
    }

    /// The store, while requests are taken.
    fn serving(&self) -> Result<&Arc<Store>, Error> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Error::unavailable("the server is shutting down"));
        }
        self.store
            .get()
            .ok_or_else(|| Error::unavailable("the server is starting"))
    }

    fn ready(&self) -> Response<reply::Body> {
        match self.serving() {
            Ok(store) if store.is_usable() => plain(StatusCode::OK, "ready\n"),
            Ok(_) => reply::error(&Error::unavailable("the index cannot be used")),
            Err(error) => reply::error(&error),
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<reply::Body> {
    reply::text(status, "text/plain; charset=utf-8", text.to_owned())
}

fn operation(method: &Method, target: &Option<Result<Target, Error>>) -> Operation {
    match (target, method) {
        (Some(Ok(Target::Objects)), _) => Operation::List,
        (Some(Ok(Target::Object(_)) | Err(_)), &Method::PUT) => Operation::Put,
        (Some(Ok(Target::Object(_)) | Err(_)), &Method::GET) => Operation::Get,
        (Some(Ok(Target::Object(_)) | Err(_)), &Method::HEAD) => Operation::Head,
        (Some(Ok(Target::Object(_)) | Err(_)), &Method::DELETE) => Operation::Delete,
        _ => Operation::Other,
    }
}

fn no_route() -> Error {
    Error::new(
        ErrorKind::NotFound,
        "no such path",
        "Objects are at `/v1/objects/{key}`, listings at `/v1/objects`, probes at `/healthz`, `/readyz` and `/metrics`.",
    )
}

fn not_allowed() -> Error {
    Error::new(
        ErrorKind::MethodNotAllowed,
        "the path does not take this method",
        "Use one that `Allow` names.",
    )
}

fn allowed(path: &str) -> &'static str {
    if path.starts_with("/v1/objects/") {
        "GET, HEAD, PUT, DELETE"
    } else if path == "/v1/objects" {
        "GET"
    } else {
        "GET, HEAD"
    }
}

/// Reads and forgets what is left of a small body.
async fn discard(body: &mut Incoming) {
    if body
        .size_hint()
        .exact()
        .is_none_or(|length| length > DISCARD_BYTES)
    {
        return;
    }
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whether it comes to its end or not, the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIME, read).await;
}

/// A header's text, if it is there.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Error> {
    let text = headers.get(name).map(|value| value.to_str()).transpose();
    text.map_err(|_| {
        Error::new(
            ErrorKind::InvalidRequest,
            format!("the header `{name}` is not visible ASCII"),
            "Send it as ASCII.",
        )
    })
}

/// The condition that a write's headers name.
fn write_condition(headers: &HeaderMap) -> Result<Condition, Error> {
    let if_match = header(headers, IF_MATCH.as_str())?;
    let if_none_match = header(headers, IF_NONE_MATCH.as_str())?;
    range::write_condition(if_match, if_none_match).map_err(|problem| {
        Error::new(
            ErrorKind::InvalidRequest,
            problem,
            "See the API's conditions in the README of `grid-storage`.",
        )
    })
}
