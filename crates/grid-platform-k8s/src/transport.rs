//! How requests reach the API server: one connection stack, on which every request is counted and waits as long as the
//! server asks it to.
//!
//! It is not the client library's own: that one repeats requests whose outcome is unknown, goes by the environment for a
//! proxy, and would not notice for minutes that the host at the other end is gone.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, RETRY_AFTER},
};
use hyper_util::{
    client::legacy::{Client as Hyper, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt},
};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, util::MapErrLayer};

use crate::exec::Credentials;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an idle connection stays open.
const IDLE: Duration = Duration::from_secs(60);
/// After so long without a byte the other end is asked whether it is there, so often, so many times. A watch that leads
/// nowhere ends so.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
/// How long sent bytes may go without an acknowledgement.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// How often a request is repeated that the server is too busy for.
const REPEATS: u32 = 4;
/// The longest wait that is waited out; a server that asks for more is said to be busy.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How many requests went out, by verb and resource as a role has them: `create pods`, `get pods/log`.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<BTreeMap<String, u64>>);

impl Calls {
    fn count(&self, method: &Method, uri: &Uri) {
        let name = name(method, uri);
        *self.counts().entry(name).or_default() += 1;
    }

    /// The counts so far.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, u64> {
        self.counts().clone()
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        // The map is whole at every point where a panic could happen.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request is called in a role: its verb and resource; outside of any namespace, its method and path.
fn name(method: &Method, uri: &Uri) -> String {
    let segments: Vec<&str> = uri.path().split('/').filter(|it| !it.is_empty()).collect();
    let behind = match segments.as_slice() {
        ["api", _, behind @ ..] | ["apis", _, _, behind @ ..] => behind,
        _ => return format!("{method} {}", uri.path()),
    };
    let (resource, object) = match behind {
        ["namespaces", _, resource] | [resource] => ((*resource).to_owned(), false),
        ["namespaces", _, resource, _] | [resource, _] => ((*resource).to_owned(), true),
        ["namespaces", _, resource, _, below] => (format!("{resource}/{below}"), true),
        _ => return format!("{method} {}", uri.path()),
    };
    let is_watch = uri.query().is_some_and(|it| {
        it.split('&')
            .any(|it| matches!(it, "watch=true" | "watch=1"))
    });
    let verb = match *method {
        _ if is_watch => "watch",
        Method::GET if object => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if object => "delete",
        Method::DELETE => "deletecollection",
        _ => method.as_str(),
    };
    format!("{verb} {resource}")
}

/// A client of the server that `config` names, whose requests are counted in `calls`.
///
/// What `credentials` give goes with each of them. Files with certificates and tokens are read here.
///
/// # Errors
/// Credentials and certificates that are none.
pub(crate) fn client(
    config: &Config,
    calls: Arc<Calls>,
    credentials: Option<Arc<Credentials>>,
) -> kube::Result<Client> {
    // The library takes its cryptography from the process, which may have chosen some already.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let (after, every, times) = KEEPALIVE;
    tcp.set_keepalive(Some(after));
    tcp.set_keepalive_interval(Some(every));
    tcp.set_keepalive_retries(Some(times));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let http: Hyper<_, Body> = Hyper::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .layer(MapErrLayer::new(BoxError::from))
        .service(http);
    let service = Polite {
        inner: service,
        calls,
        credentials,
    };
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// A client whose requests go to `service`, and are counted and wait as all do.
#[cfg(test)]
pub(crate) fn client_of<S, B>(service: S, namespace: &str) -> (Client, Arc<Calls>)
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let calls = Arc::new(Calls::default());
    let service = Polite {
        inner: service,
        calls: Arc::clone(&calls),
        credentials: None,
    };
    (Client::new(service, namespace), calls)
}

/// Counts requests, says who asks, and repeats what the server has not looked at: it was too busy, or did not take the credentials,
/// which then are got anew.
#[derive(Clone)]
struct Polite<S> {
    inner: S,
    calls: Arc<Calls>,
    credentials: Option<Arc<Credentials>>,
}

impl<S, B> Service<Request<Body>> for Polite<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let calls = Arc::clone(&self.calls);
        let credentials = self.credentials.clone();
        // The one that was made ready is the one to call.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            let mut next = request;
            let mut repeats = 0;
            let mut was_refused = false;
            loop {
                let mut said = None;
                if let Some(credentials) = &credentials
                    && let Some(header) = credentials.header().await?
                {
                    next.headers_mut().insert(AUTHORIZATION, header.clone());
                    said = Some(header);
                }
                calls.count(next.method(), next.uri());
                let again = copy(&next);
                let answer = inner.call(next).await.map_err(Into::into)?;
                if answer.status() == StatusCode::UNAUTHORIZED
                    && let (Some(credentials), Some(said)) = (&credentials, said)
                {
                    credentials.forget(&said);
                    if !std::mem::replace(&mut was_refused, true)
                        && let Some(again) = again
                    {
                        inner.ready().await.map_err(Into::into)?;
                        next = again;
                        continue;
                    }
                    return Ok(answer);
                }
                let wait = (answer.status() == StatusCode::TOO_MANY_REQUESTS)
                    .then(|| wait(&answer))
                    .filter(|it| *it <= LONGEST_WAIT && repeats < REPEATS);
                let (Some(wait), Some(again)) = (wait, again) else {
                    return Ok(answer);
                };
                tracing::debug!(?wait, "the API server is busy");
                repeats += 1;
                tokio::time::sleep(wait).await;
                inner.ready().await.map_err(Into::into)?;
                next = again;
            }
        })
    }
}

/// How long the server asks to wait.
fn wait<B>(answer: &Response<B>) -> Duration {
    let seconds = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|it| it.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

/// The same request once more; `None` for a body that can be sent only once.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut again = Request::new(request.body().try_clone()?);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    *again.extensions_mut() = request.extensions().clone();
    Some(again)
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
