//! A master in this process, people's requests to it, and an agent that does what a test tells it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use grid_master::{Master, Settings};
use grid_platform_api::{Capabilities, Program, RestartMode};
use grid_proto::v1::{
    self, agent_link_client::AgentLinkClient, from_agent::Message as Said,
    from_master::Message as Heard,
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming, transport::Channel};

/// Longer than anything here takes; reached only when something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A running master.
pub(crate) struct Grid {
    pub(crate) http: String,
    pub(crate) grpc: String,
    pub(crate) state: PathBuf,
    shutdown: CancellationToken,
    running: Option<JoinHandle<grid_platform_api::Result<()>>>,
    _dir: Option<tempfile::TempDir>,
    client: reqwest::Client,
}

pub(crate) fn settings(state: &Path) -> Settings {
    Settings {
        http: "127.0.0.1:0".parse().unwrap(),
        grpc: "127.0.0.1:0".parse().unwrap(),
        heartbeat: Duration::from_millis(50),
        // An agent that is slow on a busy host is not lost.
        lost_after: LONG,
        drain: Duration::from_secs(2),
        ..Settings::new(state)
    }
}

/// An answer: its status and its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of an answer with this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body
    }

    /// The primary line of an error with this status, which has to have a hint.
    #[track_caller]
    pub(crate) fn error(self, status: u16) -> String {
        let body = self.expect(status);
        assert!(body["error"]["hint"].is_string(), "{body:#}");
        body["error"]["message"].as_str().unwrap().to_owned()
    }
}

impl Grid {
    pub(crate) async fn start() -> Self {
        Self::start_in_patience(LONG).await
    }

    /// One that soon holds an agent for lost that is not heard.
    pub(crate) async fn start_impatient() -> Self {
        Self::start_in_patience(Duration::from_secs(2)).await
    }

    async fn start_in_patience(lost_after: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut grid = Self::start_with(Settings {
            lost_after,
            ..settings(dir.path())
        })
        .await;
        grid._dir = Some(dir);
        grid
    }

    pub(crate) async fn start_with(settings: Settings) -> Self {
        let state = settings.state_dir.clone();
        let master = Master::bind(settings).await.unwrap();
        let shutdown = CancellationToken::new();
        let (http, grpc) = (master.http_addr, master.grpc_addr);
        let asked = shutdown.clone();
        let running = tokio::spawn(master.run(async move { asked.cancelled().await }));
        Self {
            http: format!("http://{http}"),
            grpc: format!("http://{grpc}"),
            state,
            shutdown,
            running: Some(running),
            _dir: None,
            client: reqwest::Client::new(),
        }
    }

    /// One that runs in another process and is not ended by this.
    pub(crate) fn attach(state: &Path, addresses: &Value) -> Self {
        let url = |key: &str| format!("http://{}", addresses[key].as_str().unwrap());
        // Who counts that process's descriptors counts one of ours, and not the second one that a busy host lets it open.
        let client = reqwest::Client::builder().pool_max_idle_per_host(1);
        let client = client.build().unwrap();
        Self {
            http: url("http"),
            grpc: url("grpc"),
            state: state.to_owned(),
            shutdown: CancellationToken::new(),
            running: None,
            _dir: None,
            client,
        }
    }

    /// Ends the master as SIGTERM does.
    pub(crate) async fn end(mut self) {
        self.shutdown.cancel();
        let running = self.running.take().unwrap();
        running.await.unwrap().unwrap();
    }

    /// Ends the master and starts another one on the same state.
    pub(crate) async fn restart(mut self) -> Self {
        let dir = self._dir.take();
        let state = self.state.clone();
        self.end().await;
        let mut next = Self::start_with(settings(&state)).await;
        next._dir = dir;
        next
    }

    pub(crate) fn token(&self, role: &str) -> String {
        let text = std::fs::read_to_string(self.state.join("tokens").join(role)).unwrap();
        text.trim().to_owned()
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().unwrap();
        let url = format!("{}{path}", self.http);
        self.client
            .request(method, url)
            .bearer_auth(self.token("admin"))
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
        };
        Answer { status, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.send(self.request(method, path).json(&body)).await
    }

    pub(crate) async fn spawn(&self, body: Value) -> Answer {
        self.call("POST", "/api/grid/spawn", body).await
    }

    pub(crate) async fn node(&self, id: &str) -> Value {
        self.get(&format!("/api/grid/nodes/{id}")).await.expect(200)
    }

    /// Waits, woken by the grid's events, until the answer of `path` is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Value {
        let mut events = self.follow("/api/grid/events", None).await;
        let waiting = async {
            loop {
                let answer = self.get(path).await;
                if wanted(&answer) {
                    return answer.body;
                }
                events.chunk().await.unwrap().unwrap();
            }
        };
        match tokio::time::timeout(LONG, waiting).await {
            Ok(body) => body,
            Err(_) => panic!("{path} is still {:#?}", self.get(path).await),
        }
    }

    pub(crate) async fn until_state(&self, id: &str, state: &str) -> Value {
        let path = format!("/api/grid/nodes/{id}");
        self.until(&path, |a| a.body["state"] == state).await
    }

    /// An open stream, once its head is there.
    pub(crate) async fn follow(&self, path: &str, last: Option<u64>) -> reqwest::Response {
        let mut request = self.request("GET", path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last.to_string());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        response
    }

    /// A new agent's token.
    pub(crate) async fn agent_token(&self) -> String {
        let made = self
            .call("POST", "/api/grid/tokens", json!({"role": "agent"}))
            .await
            .expect(201);
        made["value"].as_str().unwrap().to_owned()
    }
}

/// What an agent of this name and install says first.
pub(crate) fn hello(agent: &str, install: &str) -> v1::Hello {
    let mut can = Capabilities::none();
    can.binary_programs = true;
    can.memory_limit = true;
    can.secrets = true;
    can.secret_env = true;
    can.storage_path = true;
    can.restart_modes = [
        RestartMode::Never,
        RestartMode::OnFailure,
        RestartMode::Always,
    ]
    .into();
    v1::Hello {
        protocol: grid_proto::PROTOCOL,
        agent_id: agent.into(),
        install_id: install.into(),
        version: "0.1.0".into(),
        platform: "process".into(),
        capabilities_json: serde_json::to_string(&can).unwrap(),
        memory_mb: 8192,
        cpu_millis: 4000,
        default_program_json: serde_json::to_string(&Program::binary(
            "/bin/grid-storage",
            ["--port", "{port}"],
        ))
        .unwrap(),
        ..v1::Hello::default()
    }
}

/// An agent's end of the wire.
pub(crate) struct Agent {
    pub(crate) client: AgentLinkClient<Channel>,
    pub(crate) token: String,
    sender: mpsc::Sender<v1::FromAgent>,
    heard: Streaming<v1::FromMaster>,
    heart: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.heart.abort();
    }
}

pub(crate) fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Messages as a call's stream.
pub(crate) fn stream<T: Send + 'static>(
    receiver: mpsc::Receiver<T>,
) -> tokio_stream::wrappers::ReceiverStream<T> {
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

impl Agent {
    /// An agent that has been let in, with a token of its own, and observes nothing.
    pub(crate) async fn join(grid: &Grid, agent: &str) -> Self {
        let token = grid.agent_token().await;
        let mut joined = Self::connect(grid, &token, hello(agent, &format!("install-{agent}")))
            .await
            .unwrap();
        joined.greet(Vec::new()).await;
        let path = format!("/api/grid/agents/{agent}");
        grid.until(&path, |a| a.body["connected"] == true).await;
        joined
    }

    /// Begins a session.
    pub(crate) async fn connect(
        grid: &Grid,
        token: &str,
        hello: v1::Hello,
    ) -> Result<Self, Status> {
        let mut client = AgentLinkClient::connect(grid.grpc.clone()).await.unwrap();
        let (sender, receiver) = mpsc::channel(64);
        let say = |message| v1::FromAgent {
            message: Some(message),
        };
        sender.send(say(Said::Hello(hello))).await.unwrap();
        let heard = client
            .session(with_token(token, stream(receiver)))
            .await?
            .into_inner();
        let beats = sender.clone();
        let heart = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            for sequence in 0.. {
                tick.tick().await;
                let beat = say(Said::Heartbeat(v1::Heartbeat { sequence }));
                if beats.send(beat).await.is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            client,
            token: token.to_owned(),
            sender,
            heard,
            heart,
        })
    }

    /// Says nothing more, and lets the connection stand.
    pub(crate) fn fall_silent(&self) {
        self.heart.abort();
    }

    pub(crate) async fn say(&self, message: Said) {
        let message = v1::FromAgent {
            message: Some(message),
        };
        self.sender.send(message).await.unwrap();
    }

    /// The next message that is no heartbeat; `None` when the master has ended the session.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        loop {
            let next = tokio::time::timeout(LONG, self.heard.message()).await;
            match next.expect("the master says nothing").ok()?? {
                v1::FromMaster {
                    message: Some(Heard::Heartbeat(_)) | None,
                } => {}
                v1::FromMaster { message } => return message,
            }
        }
    }

    /// Answers the welcome with what there is; returns the first desired set.
    pub(crate) async fn greet(&mut self, nodes: Vec<v1::NodeObserved>) -> v1::DesiredSet {
        let Some(Heard::Welcome(_)) = self.hear().await else {
            panic!("no welcome");
        };
        self.say(Said::Observed(v1::Observed { nodes })).await;
        self.hear_set().await
    }

    pub(crate) async fn hear_set(&mut self) -> v1::DesiredSet {
        loop {
            match self.hear().await {
                Some(Heard::Desired(set)) => return set,
                Some(_) => {}
                None => panic!("the session ended"),
            }
        }
    }

    /// The next change of one node's wish.
    pub(crate) async fn hear_node(&mut self) -> v1::DesiredNode {
        loop {
            match self.hear().await {
                Some(Heard::Node(node)) => return node,
                Some(_) => {}
                None => panic!("the session ended"),
            }
        }
    }

    pub(crate) async fn observe(&self, id: &str, state: Value) {
        let node = observed(id, state);
        self.say(Said::Node(node)).await;
    }

    pub(crate) async fn applied(&self, id: &str, generation: u64) {
        self.say(Said::Applied(v1::Applied {
            node_id: id.into(),
            generation,
            ..v1::Applied::default()
        }))
        .await;
    }

    /// Does what a good agent does with the next wish for a node.
    pub(crate) async fn obey(&mut self) -> v1::DesiredNode {
        let wish = self.hear_node().await;
        let id = wish.node_id.clone();
        match wish.state() {
            v1::DesiredState::Running => self.observe(&id, json!({"phase": "running"})).await,
            v1::DesiredState::Stopped => self.observe(&id, json!({"phase": "stopped"})).await,
            v1::DesiredState::Removed => {
                let gone = v1::NodeGone {
                    node_id: id.clone(),
                    ..v1::NodeGone::default()
                };
                self.say(Said::Gone(gone)).await;
            }
            v1::DesiredState::Unspecified => panic!("no wish"),
        }
        self.applied(&id, wish.generation).await;
        wish
    }
}

/// A node as an agent reports it.
pub(crate) fn observed(id: &str, state: Value) -> v1::NodeObserved {
    let node = json!({
        "node_id": id, "uid": "0".repeat(32), "platform": "process", "native_handle": id,
        "pid": 42, "state": state, "restarts": 0, "created_at": "2026-01-01T00:00:00Z",
        "endpoint": {"host": "127.0.0.1", "port": 31000}, "ports": {"main": 31000},
        "digest": format!("v1:{}", "0".repeat(64)),
    });
    v1::NodeObserved {
        node_json: node.to_string(),
        managed: true,
    }
}
