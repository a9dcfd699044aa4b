//! One method per route.

use std::{net::IpAddr, pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use grid_platform_api::{DataPolicy, ErrorKind, NodeId, SecretValue};
use reqwest::{Method, RequestBuilder, Response, Url, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Agent, CreateToken, CreatedToken, Data, Error, Event, EventStream, LogQuery, LogRecords, Node,
    NodeFilter, NodeSettings, Result, SpawnRequest, Token, UpdateRequest, Usage, Version,
};

/// How long a connection may take to come about; a master is near, or it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take. The master asks agents for usage and data, and gives up on them sooner.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A master's HTTP API. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    shown: String,
    token: Option<header::HeaderValue>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.shown)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the master at `url`, such as `http://127.0.0.1:9000`; `token` is a bearer token's value.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]: the URL is none, is not `http`, or names a host that is not loopback (a token
    /// in the clear would be anybody's); the token holds what no token does.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self> {
        let base = parse(url)?;
        let token = token
            .map(|token| header::HeaderValue::try_from(format!("Bearer {}", token.trim())))
            .transpose()
            .map_err(|_| {
                Error::new(
                    ErrorKind::InvalidConfig,
                    "the token holds characters that no token has",
                )
                .with_hint("Give the file that `grid token create` wrote, whole.")
            })?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        let http = reqwest::Client::builder()
            // What goes to loopback goes through nobody else.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Internal, "cannot make an HTTP client").with_source(&error)
            })?;
        let shown = base.as_str().trim_end_matches('/').to_owned();
        Ok(Self {
            http,
            base,
            shown,
            token,
        })
    }

    /// The master's URL.
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// Every node, by id.
    ///
    /// # Errors
    /// As every call here: the master cannot be reached, or it refuses the caller.
    pub async fn nodes(&self, filter: &NodeFilter) -> Result<Vec<Node>> {
        self.json(self.call(Method::GET, &["nodes"]).query(filter))
            .await
    }

    /// One node.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound).
    pub async fn node(&self, id: &NodeId) -> Result<Node> {
        self.json(self.call(Method::GET, &["nodes", id.as_str()]))
            .await
    }

    /// Makes a node. The wish is durable when this returns; the node need not run yet.
    ///
    /// `idempotency_key` is any text of the caller's: the same key with the same request answers the same node,
    /// however often it is sent.
    ///
    /// # Errors
    /// [`Class::Conflict`](crate::Class::Conflict): a node of that id has other settings, or the key was used with
    /// another request. [`ErrorKind::InvalidConfig`], [`ErrorKind::Exhausted`] (no agent can take it), and so on.
    pub async fn spawn(&self, request: &SpawnRequest, idempotency_key: &str) -> Result<Node> {
        let body = with_secrets(request, &request.settings)?;
        self.json(
            self.call(Method::POST, &["spawn"])
                .header("idempotency-key", idempotency_key)
                .json(&body),
        )
        .await
    }

    /// Changes a node's settings; its id, data and ports stay.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound); [`Class::Conflict`](crate::Class::Conflict) for another generation.
    pub async fn update(&self, id: &NodeId, request: &UpdateRequest) -> Result<Node> {
        let body = with_secrets(request, &request.settings)?;
        self.json(self.call(Method::PUT, &["nodes", id.as_str()]).json(&body))
            .await
    }

    /// Wants a node running; one that failed is tried again.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound).
    pub async fn start(&self, id: &NodeId) -> Result<Node> {
        self.json(self.call(Method::POST, &["nodes", id.as_str(), "start"]))
            .await
    }

    /// Wants a node stopped; its data and its record stay.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound).
    pub async fn stop(&self, id: &NodeId) -> Result<Node> {
        self.json(self.call(Method::POST, &["nodes", id.as_str(), "stop"]))
            .await
    }

    /// Wants a node gone. It stays listed until its agent has removed it.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound).
    pub async fn remove(&self, id: &NodeId, data: DataPolicy) -> Result<Node> {
        let purge = data == DataPolicy::Purge;
        self.json(
            self.call(Method::DELETE, &["nodes", id.as_str()])
                .query(&[("purge", purge)]),
        )
        .await
    }

    /// What a node uses now.
    ///
    /// # Errors
    /// [`Class::Unreachable`](crate::Class::Unreachable) too when the node's agent is.
    pub async fn usage(&self, id: &NodeId) -> Result<Usage> {
        self.json(self.call(Method::GET, &["nodes", id.as_str(), "usage"]))
            .await
    }

    /// A node's log.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound), [`ErrorKind::LogsUnavailable`].
    pub async fn logs(&self, id: &NodeId, query: &LogQuery) -> Result<LogRecords> {
        let request = self
            .call(Method::GET, &["nodes", id.as_str(), "logs"])
            .query(query);
        let body = self.stream(request).await?;
        Ok(LogRecords::new(&self.shown, body))
    }

    /// Data of nodes, and data that removed nodes left behind, of one agent or of all.
    ///
    /// # Errors
    /// [`Class::Unreachable`](crate::Class::Unreachable) too when the agent is.
    pub async fn data(&self, agent: Option<&str>) -> Result<Vec<Data>> {
        self.json(
            self.call(Method::GET, &["data"])
                .query(&agent.map(|agent| [("agent", agent)])),
        )
        .await
    }

    /// Deletes the data that a removed node left behind.
    ///
    /// # Errors
    /// [`Class::Conflict`](crate::Class::Conflict) while the node exists.
    pub async fn purge_data(&self, node: &NodeId, agent: Option<&str>) -> Result<()> {
        let request = self
            .call(Method::DELETE, &["data", node.as_str()])
            .query(&agent.map(|agent| [("agent", agent)]));
        self.send(request).await.map(drop)
    }

    /// Every agent.
    ///
    /// # Errors
    /// As every call here.
    pub async fn agents(&self) -> Result<Vec<Agent>> {
        self.json(self.call(Method::GET, &["agents"])).await
    }

    /// One agent.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound).
    pub async fn agent(&self, id: &str) -> Result<Agent> {
        self.json(self.call(Method::GET, &["agents", id])).await
    }

    /// Places no more nodes on an agent; those it has stay.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound).
    pub async fn cordon(&self, id: &str) -> Result<Agent> {
        self.json(self.call(Method::POST, &["agents", id, "cordon"]))
            .await
    }

    /// Places nodes on an agent again.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound).
    pub async fn uncordon(&self, id: &str) -> Result<Agent> {
        self.json(self.call(Method::POST, &["agents", id, "uncordon"]))
            .await
    }

    /// What happened, as far as the master still knows.
    ///
    /// # Errors
    /// As every call here.
    pub async fn past_events(&self) -> Result<Vec<Event>> {
        self.json(
            self.call(Method::GET, &["events"])
                .query(&[("follow", "false")]),
        )
        .await
    }

    /// What happens from now on, or behind the event `after`. The subscription stands when this returns.
    ///
    /// # Errors
    /// As every call here.
    pub async fn events(&self, after: Option<u64>) -> Result<EventStream> {
        let body = self.open_events(after).await?;
        Ok(EventStream::new(self.clone(), after, body))
    }

    /// Every token, without its value.
    ///
    /// # Errors
    /// As every call here.
    pub async fn tokens(&self) -> Result<Vec<Token>> {
        self.json(self.call(Method::GET, &["tokens"])).await
    }

    /// Makes a token. Its value is told this once.
    ///
    /// # Errors
    /// As every call here.
    pub async fn create_token(&self, request: &CreateToken) -> Result<CreatedToken> {
        self.json(self.call(Method::POST, &["tokens"]).json(request))
            .await
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// [`Class::NotFound`](crate::Class::NotFound).
    pub async fn delete_token(&self, id: &str) -> Result<()> {
        self.send(self.call(Method::DELETE, &["tokens", id]))
            .await
            .map(drop)
    }

    /// The master's version and its store's.
    ///
    /// # Errors
    /// As every call here.
    pub async fn version(&self) -> Result<Version> {
        self.json(self.call(Method::GET, &["version"])).await
    }

    /// Whether the master serves; wants no token.
    ///
    /// # Errors
    /// It cannot be reached, or it is not ready.
    pub async fn ready(&self) -> Result<()> {
        let mut url = self.base.clone();
        url.set_path("/readyz");
        self.send(self.http.get(url).timeout(ANSWER_TIMEOUT))
            .await
            .map(drop)
    }

    pub(crate) async fn open_events(
        &self,
        after: Option<u64>,
    ) -> Result<Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>> {
        let mut request = self
            .call(Method::GET, &["events"])
            .header(header::ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        self.stream(request).await
    }

    fn call(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(["api", "grid"]).extend(path);
        }
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.clone());
        }
        request
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request.timeout(ANSWER_TIMEOUT)).await?;
        let body = response
            .bytes()
            .await
            .map_err(|error| Error::transport(&self.shown, error))?;
        serde_json::from_slice(&body).map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                format!("the answer of `{}` cannot be read", self.shown),
            )
            .with_source(&error)
            .with_hint("`grid version` tells whether the master is of another version.")
        })
    }

    async fn stream(
        &self,
        request: RequestBuilder,
    ) -> Result<Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>> {
        // Only the head of the answer is awaited with a limit; the body lasts as long as there is something to tell.
        let response = tokio::time::timeout(ANSWER_TIMEOUT, self.send(request))
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::Timeout,
                    format!("the master at `{}` did not answer in time", self.shown),
                )
            })??;
        Ok(response
            .bytes_stream()
            .map(|chunk| chunk.map(|bytes| bytes.to_vec()))
            .boxed())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request
            .send()
            .await
            .map_err(|error| Error::transport(&self.shown, error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(Error::answer(&self.shown, status.as_u16(), &body))
    }
}

/// The request as JSON, with the values of its secrets, which serialization withholds everywhere else.
fn with_secrets<T: Serialize>(request: &T, settings: &NodeSettings) -> Result<Value> {
    let internal = |error: serde_json::Error| {
        Error::new(ErrorKind::Internal, "the request cannot be written as JSON").with_source(&error)
    };
    let mut body = serde_json::to_value(request).map_err(internal)?;
    for (name, value) in settings.secrets.iter().flatten() {
        let bytes = SecretValue::expose(value).unwrap_or_default();
        let text = std::str::from_utf8(bytes).map_err(|_| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!("the secret `{name}` is not UTF-8 text"),
            )
            .with_hint("Encode it, in base64 for example, and let the program decode it.")
        })?;
        body["secrets"][name] = Value::from(text);
    }
    Ok(body)
}

fn parse(url: &str) -> Result<Url> {
    let wrong = |what: &str, hint: &str| {
        Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("the master's URL `{url}` {what}"),
        )
        .with_hint(hint))
    };
    let Ok(base) = Url::parse(url) else {
        return wrong("cannot be read", "Write it as `http://127.0.0.1:9000`.");
    };
    if base.scheme() != "http" || base.host_str().is_none() {
        return wrong(
            "is not `http`",
            "Write it as `http://127.0.0.1:9000`; TLS is not part of this version.",
        );
    }
    if !is_loopback(base.host_str().unwrap_or_default()) {
        return wrong(
            "is not on this host, and plain HTTP would show the token to everybody on the way",
            "Forward the port (`ssh -L 9000:127.0.0.1:9000 HOST`) and use `http://127.0.0.1:9000`.",
        );
    }
    Ok(base)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_before_a_token_leaves() {
        let check = |url: &str, expect: Option<&str>| {
            let got = Client::new(url, Some("a.b"));
            match (got, expect) {
                (Ok(client), Some(expect)) => assert_eq!(client.url(), expect),
                (Err(error), None) => assert_eq!(error.kind(), ErrorKind::InvalidConfig),
                (got, _) => panic!("{url}: {got:?}"),
            }
        };
        check("http://127.0.0.1:9000", Some("http://127.0.0.1:9000"));
        check("http://localhost:9000/", Some("http://localhost:9000"));
        check("http://[::1]:9000", Some("http://[::1]:9000"));
        check("https://127.0.0.1:9000", None);
        check("http://example.org:9000", None);
        check("http://127.0.0.1.example.org", None);
        check("127.0.0.1:9000", None);
        check("", None);
    }

    #[test]
    fn secrets_go_out_in_the_body_and_nowhere_else() {
        let request = SpawnRequest {
            node_id: NodeId::new("n1").ok(),
            settings: NodeSettings {
                port: Some(0),
                secrets: Some([("key".to_owned(), SecretValue::new("hunter2"))].into()),
                ..NodeSettings::default()
            },
            ..SpawnRequest::default()
        };
        assert_eq!(
            with_secrets(&request, &request.settings).unwrap(),
            serde_json::json!({"node_id": "n1", "port": 0, "secrets": {"key": "hunter2"}})
        );
        assert!(!format!("{request:?}").contains("hunter2"));
        let mut binary = request;
        binary.settings.secrets = Some([("key".to_owned(), SecretValue::new([0xff]))].into());
        assert!(with_secrets(&binary, &binary.settings).is_err());
    }
}
