//! The way to an engine: a socket, TCP, or TCP with TLS, and the version of the API that is spoken on it.
//!
//! Each call has a connection of its own. A call that is dropped closes it, and that is how the engine learns that
//! nobody waits any more: it ends a pull, a log or a wait.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bollard::{BollardRequest, Docker, errors::Error as BollardError};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Body, Incoming},
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

/// The oldest API that is spoken: Docker Engine 20.10, Podman 3.
pub(crate) const OLDEST: ApiVersion = ApiVersion(1, 41);
/// The newest one.
const NEWEST: ApiVersion = ApiVersion(
    bollard::API_DEFAULT_VERSION.major_version,
    bollard::API_DEFAULT_VERSION.minor_version,
);
/// The longest answer to the question which versions an engine speaks, in bytes.
const VERSION_BYTES: usize = 256 * 1024;
/// How long to wait before a socket with a full queue is tried again.
const FULL: Duration = Duration::from_millis(20);
/// Longer than anything: each call has its own limit, and the client's would be a second one.
const NEVER_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// A version of the Engine API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion(usize, usize);

impl ApiVersion {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Where an engine listens.
#[derive(Clone)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp {
        host: String,
        port: u16,
        tls: Option<Arc<rustls::ClientConfig>>,
    },
}

impl Address {
    /// Whether what is sent can be read on its way.
    pub(crate) fn is_plain_beyond_host(&self) -> bool {
        match self {
            Self::Tcp {
                host, tls: None, ..
            } => {
                let address: Option<std::net::IpAddr> = host.parse().ok();
                host != "localhost" && !address.is_some_and(|ip| ip.is_loopback())
            }
            _ => false,
        }
    }
}

impl fmt::Display for Address {
    /// As `DOCKER_HOST` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, .. } if host.contains(':') => {
                write!(f, "tcp://[{host}]:{port}")
            }
            Self::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// What kept a call from its answer, beneath the client's own errors.
#[derive(Debug)]
pub(crate) struct Obstacle {
    /// Where the engine should be.
    pub(crate) at: String,
    pub(crate) why: Why,
}

/// Why a call did not come to its answer.
#[derive(Debug)]
pub(crate) enum Why {
    /// No connection came about.
    Connect(io::Error),
    /// The connection broke before the answer.
    Lost(String),
    /// The engine's certificate is not of an authority that is trusted, or is for another name.
    Untrusted(String),
    /// The engine does not know our certificate, or wants one.
    Unknown(String),
    /// It does not speak TLS.
    NotTls(String),
    /// It speaks TLS, and was not spoken to so.
    WantsTls,
    /// Something else than an engine answers.
    NotAnEngine(String),
    /// Its newest API is older than [`OLDEST`].
    TooOld(ApiVersion),
    /// Its oldest API is newer than [`NEWEST`].
    TooNew(ApiVersion),
}

impl Why {
    /// What a connection broke off for: TLS tells a refusal so, also behind the handshake.
    fn broken(error: &(dyn std::error::Error + 'static), during_handshake: bool) -> Self {
        let mut next = Some(error);
        while let Some(current) = next {
            if let Some(tls) = current.downcast_ref::<rustls::Error>() {
                return Self::tls(tls);
            }
            // An error inside an I/O error is not among its sources.
            next = match current
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
            {
                Some(inner) => Some(inner),
                None => current.source(),
            };
        }
        let innermost = innermost(error);
        match during_handshake {
            // Many close at once what they do not understand.
            true => Self::Lost(format!("no TLS came about: {innermost}")),
            false => Self::Lost(innermost),
        }
    }

    fn tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(_) => Self::Untrusted(error.to_string()),
            rustls::Error::AlertReceived(_) => Self::Unknown(error.to_string()),
            _ => Self::NotTls(error.to_string()),
        }
    }
}

/// The words of the error at the bottom, which are the ones that tell.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut current = error;
    while let Some(next) = current.source() {
        current = next;
    }
    current.to_string()
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Connect(error) => error.fmt(f),
            Why::Lost(what)
            | Why::Untrusted(what)
            | Why::Unknown(what)
            | Why::NotTls(what)
            | Why::NotAnEngine(what) => f.write_str(what),
            Why::WantsTls => f.write_str("it speaks TLS only"),
            Why::TooOld(version) => {
                write!(
                    f,
                    "its newest API is {version}, and {OLDEST} is the oldest that is spoken"
                )
            }
            Why::TooNew(version) => {
                write!(
                    f,
                    "its oldest API is {version}, and {NEWEST} is the newest that is spoken"
                )
            }
        }
    }
}

impl std::error::Error for Obstacle {}

impl From<Obstacle> for BollardError {
    fn from(obstacle: Obstacle) -> Self {
        Self::from(io::Error::other(obstacle))
    }
}

/// Connects, and keeps in mind which API both sides speak.
pub(crate) struct Transport {
    address: Address,
    /// Asked again after every fault: the engine that comes back may be another version.
    spoken: Mutex<Option<ApiVersion>>,
}

impl Transport {
    pub(crate) fn new(address: Address) -> Arc<Self> {
        Arc::new(Self {
            address,
            spoken: Mutex::new(None),
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The client that speaks over this transport. No connection is made before its first call.
    ///
    /// # Errors
    /// Those of the client.
    pub(crate) fn client(self: &Arc<Self>) -> Result<Docker, BollardError> {
        let transport = Arc::clone(self);
        Docker::connect_with_custom_transport(
            move |request: BollardRequest| {
                let transport = Arc::clone(&transport);
                async move {
                    let sent = transport.send(request).await;
                    sent.map_err(|why| BollardError::from(transport.obstacle(why)))
                }
            },
            Some("http://engine"),
            NEVER_SECONDS,
            bollard::API_DEFAULT_VERSION,
        )
    }

    async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, Why>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let sent = async {
            let version = self.agree().await?;
            let (mut head, body) = request.into_parts();
            head.uri = spoken_uri(&head.uri, version)?;
            if let Some(credentials) = head.headers.get_mut("x-registry-auth") {
                url_safe(credentials);
            }
            self.exchange(Request::from_parts(head, body)).await
        }
        .await;
        if sent.is_err() {
            *self.spoken.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        sent
    }

    fn obstacle(&self, why: Why) -> Obstacle {
        Obstacle {
            at: self.address.to_string(),
            why,
        }
    }

    /// The newest version that both sides speak.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub(crate) async fn version(&self) -> Result<ApiVersion, Obstacle> {
        self.agree().await.map_err(|why| self.obstacle(why))
    }

    async fn agree(&self) -> Result<ApiVersion, Why> {
        let spoken = *self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(version) = spoken {
            return Ok(version);
        }
        let greeting = self.get("/_ping").await?;
        let version = match greeted(&greeting) {
            Some(version) => version?,
            None => {
                let response = self.get("/version").await?;
                let status = response.status();
                let body = Limited::new(response.into_body(), VERSION_BYTES);
                let body = body
                    .collect()
                    .await
                    .map_err(|error| Why::Lost(format!("it broke off: {error}")))?
                    .to_bytes();
                negotiate(status.as_u16(), &body)?
            }
        };
        *self.spoken.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
        Ok(version)
    }

    async fn get(&self, path: &'static str) -> Result<Response<Incoming>, Why> {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = Uri::from_static(path);
        self.exchange(request).await
    }

    async fn exchange<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, Why>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let host = match &self.address {
            Address::Unix(_) => "localhost".to_owned(),
            Address::Tcp { host, port, .. } => format!("{host}:{port}"),
        };
        // A host that is no header has not been connected to.
        if let Ok(host) = HeaderValue::try_from(host) {
            request.headers_mut().insert(HOST, host);
        }
        match &self.address {
            Address::Unix(path) => {
                let stream = dial(|| UnixStream::connect(path.clone())).await?;
                over(stream, request).await
            }
            Address::Tcp { host, port, tls } => {
                let stream = dial(|| TcpStream::connect((host.clone(), *port))).await?;
                // The kernel may refuse it and the connection works all the same.
                stream.set_nodelay(true).ok();
                match tls {
                    None => over(stream, request).await,
                    Some(config) => {
                        let name = ServerName::try_from(host.clone()).map_err(|_| {
                            Why::Untrusted(format!(
                                "`{host}` is no name that a certificate can be for"
                            ))
                        })?;
                        let connector = TlsConnector::from(Arc::clone(config));
                        let stream = connector
                            .connect(name, stream)
                            .await
                            .map_err(|e| Why::broken(&e, true))?;
                        over(stream, request).await
                    }
                }
            }
        }
    }
}

/// Connects; a socket whose queue is full is one of an engine that is busy or stopped, and is tried again until the
/// caller's time is up.
async fn dial<S, F>(connect: impl Fn() -> F) -> Result<S, Why>
where
    F: Future<Output = io::Result<S>>,
{
    loop {
        match connect().await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(FULL).await
            }
            connected => return connected.map_err(Why::Connect),
        }
    }
}

/// One request on a fresh connection, which ends with its answer.
async fn over<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<B>,
) -> Result<Response<Incoming>, Why>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| Why::broken(&e, false))?;
    // What ends it early is told by the answer.
    tokio::spawn(connection.with_upgrades());
    sender
        .send_request(request)
        .await
        .map_err(|e| Why::broken(&e, false))
}

/// The client's address made the engine's: no host, and the version that both speak.
fn spoken_uri(uri: &Uri, version: ApiVersion) -> Result<Uri, Why> {
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    let versioned = path
        .strip_prefix("/v")
        .filter(|it| it.starts_with(|first: char| first.is_ascii_digit()));
    let rest = match versioned.and_then(|it| it.split_once('/')) {
        Some((_, rest)) => rest,
        None => path.trim_start_matches('/'),
    };
    Uri::try_from(format!("/v{version}/{rest}"))
        .map_err(|error| Why::NotAnEngine(format!("a call has no address: {error}")))
}

/// The client writes credentials in the standard alphabet of base64, and engines read the URL-safe one: where the two
/// differ an engine would take them for none at all.
fn url_safe(header: &mut HeaderValue) {
    let bytes: Vec<u8> = header
        .as_bytes()
        .iter()
        .map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        })
        .collect();
    if let Ok(mut value) = HeaderValue::from_bytes(&bytes) {
        value.set_sensitive(true);
        *header = value;
    }
}

/// The little of an engine's answer that says which versions it speaks.
#[derive(Deserialize)]
struct Versions {
    #[serde(rename = "ApiVersion")]
    newest: String,
    #[serde(rename = "MinAPIVersion")]
    oldest: Option<String>,
}

/// The version that both speak, by an engine's answer to a ping: that costs it nothing, where Podman asks the host's package
/// manager before it tells all of its version. `None` when that has to be asked for all the same.
fn greeted<B>(ping: &Response<B>) -> Option<Result<ApiVersion, Why>> {
    if !ping.status().is_success() {
        return None;
    }
    let newest = ping.headers().get("api-version")?.to_str().ok()?;
    match ApiVersion::parse(newest)? {
        newest if newest < OLDEST => Some(Err(Why::TooOld(newest))),
        // It may speak nothing as old as we do.
        newest if newest > NEWEST => None,
        newest => Some(Ok(newest)),
    }
}

fn negotiate(status: u16, body: &[u8]) -> Result<ApiVersion, Why> {
    let words = || {
        let text = String::from_utf8_lossy(body);
        let line = text.lines().next().unwrap_or_default();
        grid_platform_api::printable(line)
    };
    // What Go's servers say to who does not begin with a handshake.
    if status == 400 && words().contains("HTTP request to an HTTPS server") {
        return Err(Why::WantsTls);
    }
    if status != 200 {
        return Err(Why::NotAnEngine(format!(
            "it answers with status {status}: {}",
            words()
        )));
    }
    let read = serde_json::from_slice::<Versions>(body).ok();
    let versions = read.and_then(|it| {
        let oldest = it.oldest.as_deref().and_then(ApiVersion::parse);
        Some((ApiVersion::parse(&it.newest)?, oldest.unwrap_or(OLDEST)))
    });
    let Some((newest, oldest)) = versions else {
        return Err(Why::NotAnEngine(format!(
            "it does not say which API it speaks: {}",
            words()
        )));
    };
    if newest < OLDEST {
        return Err(Why::TooOld(newest));
    }
    if oldest > NEWEST {
        return Err(Why::TooNew(oldest));
    }
    Ok(newest.min(NEWEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(why: Why) -> String {
        let at = String::new();
        Obstacle { at, why }.to_string()
    }

    #[test]
    fn the_newest_version_that_both_speak_is_spoken() {
        let check = |body: &str, expect: Result<&str, &str>| {
            let got = negotiate(200, body.as_bytes());
            let got = got.map(|it| it.to_string()).map_err(told);
            let expect = expect.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(got, expect, "{body}");
        };
        check(
            r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12"}"#,
            Ok("1.41"),
        );
        check(r#"{"ApiVersion":"1.47"}"#, Ok("1.47"));
        check(
            r#"{"ApiVersion":"1.99","MinAPIVersion":"1.44"}"#,
            Ok("1.53"),
        );
        check(
            r#"{"ApiVersion":"1.40"}"#,
            Err("its newest API is 1.40, and 1.41 is the oldest that is spoken"),
        );
        check(
            r#"{"ApiVersion":"2.1","MinAPIVersion":"2.0"}"#,
            Err("its oldest API is 2.0, and 1.53 is the newest that is spoken"),
        );
        check("{}", Err("it does not say which API it speaks: {}"));
        check("", Err("it does not say which API it speaks: "));
        let tls = negotiate(400, b"Client sent an HTTP request to an HTTPS server.\n");
        assert!(matches!(tls, Err(Why::WantsTls)));
        let other = negotiate(404, b"<html>\nnothing here");
        assert_eq!(
            told(other.unwrap_err()),
            "it answers with status 404: <html>"
        );
    }

    #[test]
    fn a_ping_tells_the_version_where_nothing_else_has_to_be_known() {
        let check = |status: u16, version: Option<&str>, expect: Option<Result<&str, &str>>| {
            let mut ping = Response::builder().status(status);
            if let Some(version) = version {
                ping = ping.header("Api-Version", version);
            }
            let got = greeted(&ping.body(()).unwrap());
            let got = got.map(|it| it.map(|it| it.to_string()).map_err(told));
            let expect = expect.map(|it| it.map(str::to_owned).map_err(str::to_owned));
            assert_eq!(got, expect, "{status} {version:?}");
        };
        check(200, Some("1.41"), Some(Ok("1.41")));
        check(200, Some("1.53"), Some(Ok("1.53")));
        let old = "its newest API is 1.40, and 1.41 is the oldest that is spoken";
        check(200, Some("1.40"), Some(Err(old)));
        check(200, Some("1.99"), None);
        check(200, Some("new"), None);
        check(200, None, None);
        check(500, Some("1.41"), None);
    }

    #[test]
    fn calls_name_the_version_that_is_spoken() {
        let check = |uri: &str, expect: &str| {
            let got = spoken_uri(&uri.parse().unwrap(), OLDEST).unwrap();
            assert_eq!(got.to_string(), expect);
        };
        check(
            "http://engine/v1.53/containers/json?all=true",
            "/v1.41/containers/json?all=true",
        );
        check("http://engine/v1.53/_ping", "/v1.41/_ping");
        check("http://engine/_ping", "/v1.41/_ping");
        check("http://engine/volumes/create", "/v1.41/volumes/create");
    }

    #[test]
    fn credentials_are_written_as_engines_read_them() {
        let mut header = HeaderValue::from_static("a+b/c==");
        url_safe(&mut header);
        assert_eq!(header.as_bytes(), b"a-b_c==");
        assert!(header.is_sensitive());
    }

    #[test]
    fn addresses_are_told_as_people_write_them() {
        let tcp = |host: &str| Address::Tcp {
            host: host.to_owned(),
            port: 2375,
            tls: None,
        };
        let check = |address: Address, text: &str, plain: bool| {
            assert_eq!(address.to_string(), text);
            assert_eq!(address.is_plain_beyond_host(), plain, "{text}");
        };
        check(
            Address::Unix("/run/d.sock".into()),
            "unix:///run/d.sock",
            false,
        );
        check(tcp("127.0.0.1"), "tcp://127.0.0.1:2375", false);
        check(tcp("localhost"), "tcp://localhost:2375", false);
        check(tcp("::1"), "tcp://[::1]:2375", false);
        check(tcp("engine.example"), "tcp://engine.example:2375", true);
        check(tcp("10.0.0.1"), "tcp://10.0.0.1:2375", true);
    }
}
