//! A master that does what a test says, and an agent over a simulated host.

use std::{
    collections::HashMap, future::Future, net::SocketAddr, path::Path, sync::Arc, time::Duration,
};

use grid_agent::{Settings, run_with};
use grid_platform_api::{NodeId, Platform, Program, SpawnConfig, SpawnConfigBuilder};
use grid_platform_testing::World;
use grid_proto::{
    Fence, Observation, Want, Wish,
    v1::{
        self,
        agent_link_server::{AgentLink, AgentLinkServer},
        from_agent::Message,
        from_master,
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, wait).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

pub(crate) fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

/// A node that serves until it is stopped.
pub(crate) fn server(id: &str) -> SpawnConfigBuilder {
    SpawnConfig::builder(id, Program::binary("memory:server", [""; 0])).port(0)
}

/// A node whose program does this.
pub(crate) fn probe(id: &str, actions: &[&str]) -> SpawnConfigBuilder {
    SpawnConfig::builder(id, Program::binary("memory:probe", actions.iter().copied()))
}

pub(crate) fn running(generation: u64, config: SpawnConfigBuilder) -> Wish {
    wish(generation, config, Want::Running)
}

pub(crate) fn stopped(generation: u64, config: SpawnConfigBuilder) -> Wish {
    wish(generation, config, Want::Stopped)
}

fn wish(generation: u64, config: SpawnConfigBuilder, want: fn(Box<SpawnConfig>) -> Want) -> Wish {
    let config = config.build().unwrap();
    Wish {
        node_id: config.node_id.clone(),
        generation,
        want: want(Box::new(config)),
    }
}

pub(crate) fn removed(generation: u64, node: &str, data: grid_platform_api::DataPolicy) -> Wish {
    Wish {
        node_id: id(node),
        generation,
        want: Want::Removed(data),
    }
}

pub(crate) fn fence(grid_id: &str, epoch: u64, revision: u64) -> Fence {
    Fence {
        grid_id: grid_id.into(),
        epoch,
        revision,
        lineage: "this-copy".into(),
    }
}

/// What an agent pushed of one log.
pub(crate) struct Pushed {
    pub(crate) authorization: Option<String>,
    pub(crate) frames: Streaming<v1::LogFrame>,
    /// Ends the call when it is dropped.
    pub(crate) _reader: oneshot::Sender<()>,
}

struct Service {
    sessions: mpsc::UnboundedSender<Session>,
    logs: mpsc::UnboundedSender<Pushed>,
}

fn authorization<T>(request: &Request<T>) -> Option<String> {
    let value = request.metadata().get("authorization")?;
    Some(value.to_str().unwrap().to_owned())
}

#[tonic::async_trait]
impl AgentLink for Service {
    type SessionStream = ReceiverStream<Result<v1::FromMaster, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let authorization = authorization(&request);
        let mut from_agent = request.into_inner();
        let Some(Message::Hello(hello)) = from_agent.message().await?.and_then(|it| it.message)
        else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (to_agent, outgoing) = mpsc::channel(64);
        let session = Session {
            hello,
            authorization,
            to_agent,
            from_agent,
            told: HashMap::new(),
            seen: HashMap::new(),
        };
        self.sessions
            .send(session)
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::LogFrame>>,
    ) -> Result<Response<v1::PushLogsDone>, Status> {
        let (reader, gone) = oneshot::channel();
        let pushed = Pushed {
            authorization: authorization(&request),
            frames: request.into_inner(),
            _reader: reader,
        };
        self.logs
            .send(pushed)
            .map_err(|_| Status::unavailable("the test is over"))?;
        // Ends with an error: the test let go of it.
        let _ = gone.await;
        Ok(Response::new(v1::PushLogsDone {}))
    }
}

pub(crate) struct Master {
    pub(crate) address: SocketAddr,
    sessions: mpsc::UnboundedReceiver<Session>,
    logs: mpsc::UnboundedReceiver<Pushed>,
    serving: JoinHandle<()>,
}

impl Master {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sessions, met) = mpsc::unbounded_channel();
        let (logs, pushed) = mpsc::unbounded_channel();
        let service = AgentLinkServer::new(Service { sessions, logs });
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        Self {
            address,
            sessions: met,
            logs: pushed,
            serving: tokio::spawn(async move { serving.await.unwrap() }),
        }
    }

    /// The agent's next session, before its welcome.
    pub(crate) async fn session(&mut self) -> Session {
        soon("a session", self.sessions.recv()).await.unwrap()
    }

    /// The agent's next session, welcomed.
    pub(crate) async fn welcomed(&mut self, fence: &Fence) -> Session {
        let session = self.session().await;
        session.welcome(fence).await;
        session
    }

    pub(crate) async fn pushed(&mut self) -> Pushed {
        soon("a log", self.logs.recv()).await.unwrap()
    }

    /// Is gone, with every connection.
    pub(crate) fn end(self) {
        self.serving.abort();
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A session as the master has it.
pub(crate) struct Session {
    pub(crate) hello: v1::Hello,
    pub(crate) authorization: Option<String>,
    to_agent: mpsc::Sender<Result<v1::FromMaster, Status>>,
    from_agent: Streaming<v1::FromAgent>,
    /// What was acted on for good, so that nodes can be waited for in any order.
    told: HashMap<(String, u64), v1::Applied>,
    /// The last report of each node, for the same reason: a report comes once, perhaps while another node is waited for.
    seen: HashMap<String, Observation>,
}

impl Session {
    pub(crate) async fn send(&self, message: from_master::Message) {
        let message = v1::FromMaster {
            message: Some(message),
        };
        self.to_agent.send(Ok(message)).await.unwrap();
    }

    pub(crate) async fn refuse(&self, status: Status) {
        self.to_agent.send(Err(status)).await.unwrap();
    }

    pub(crate) async fn welcome(&self, fence: &Fence) {
        self.welcome_with(fence, 60_000).await;
    }

    pub(crate) async fn welcome_with(&self, fence: &Fence, lost_after_ms: u32) {
        let welcome = v1::Welcome {
            grid_id: fence.grid_id.clone(),
            epoch: fence.epoch,
            heartbeat_ms: 20,
            lost_after_ms,
        };
        self.send(from_master::Message::Welcome(welcome)).await;
    }

    pub(crate) async fn desire(&self, fence: &Fence, wishes: &[Wish]) {
        let nodes = wishes.iter().map(Into::into).collect();
        self.desire_raw(fence, nodes).await;
    }

    pub(crate) async fn desire_raw(&self, fence: &Fence, nodes: Vec<v1::DesiredNode>) {
        let fence = Some(fence.into());
        let set = v1::DesiredSet { fence, nodes };
        self.send(from_master::Message::Desired(set)).await;
    }

    pub(crate) async fn desire_one(&self, fence: &Fence, wish: &Wish) {
        let mut node = v1::DesiredNode::from(wish);
        node.fence = Some(fence.into());
        self.send(from_master::Message::Node(node)).await;
    }

    /// Reads on until `wanted` gives something.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(Message) -> Option<T>,
    ) -> T {
        let reading = async {
            loop {
                let message = self.from_agent.message().await.unwrap();
                let message = message.unwrap_or_else(|| panic!("the agent ended before {what}"));
                let Some(message) = message.message else {
                    continue;
                };
                self.note(&message);
                if let Some(found) = wanted(message) {
                    return found;
                }
            }
        };
        soon(what, reading).await
    }

    fn note(&mut self, message: &Message) {
        let observation = |wire: &v1::NodeObserved| {
            let it = Observation::try_from(wire.clone()).unwrap();
            (it.node.node_id.to_string(), it)
        };
        match message {
            Message::Applied(it) if it.r#final => {
                let key = (it.node_id.clone(), it.generation);
                self.told.insert(key, it.clone());
            }
            // All that there are.
            Message::Observed(all) => self.seen = all.nodes.iter().map(observation).collect(),
            Message::Node(one) => self.seen.extend([observation(one)]),
            Message::Gone(it) => {
                self.seen.remove(&it.node_id);
            }
            _ => {}
        }
    }

    /// Until the agent ends the session.
    pub(crate) async fn ended(&mut self) {
        let from_agent = &mut self.from_agent;
        let reading = async { while let Ok(Some(_)) = from_agent.message().await {} };
        soon("the session's end", reading).await;
    }

    /// Until the generation was acted on for good.
    pub(crate) async fn applied(&mut self, node: &str, generation: u64) -> v1::Applied {
        if let Some(told) = self.told.get(&(node.to_owned(), generation)) {
            return told.clone();
        }
        self.until(
            &format!("{node} at generation {generation}"),
            |message| match message {
                Message::Applied(it) if it.node_id == node && it.generation == generation => {
                    it.r#final.then_some(it)
                }
                _ => None,
            },
        )
        .await
    }

    /// Until the generation was acted on well.
    pub(crate) async fn done(&mut self, node: &str, generation: u64) {
        let applied = self.applied(node, generation).await;
        assert_eq!(applied.error_json, "", "{node}");
    }

    /// Until a node is reported as wanted, which it may have been already.
    pub(crate) async fn sees(
        &mut self,
        node: &str,
        wanted: impl Fn(&Observation) -> bool,
    ) -> Observation {
        if let Some(last) = self.seen.get(node).filter(|it| wanted(it)) {
            return last.clone();
        }
        let fits = |wire: v1::NodeObserved| {
            let observation = Observation::try_from(wire).unwrap();
            let fits = observation.node.node_id.as_str() == node && wanted(&observation);
            fits.then_some(observation)
        };
        self.until(&format!("a report of {node}"), |message| match message {
            Message::Observed(all) => all.nodes.into_iter().find_map(fits),
            Message::Node(one) => fits(one),
            _ => None,
        })
        .await
    }

    /// Asks, and gives the answer.
    pub(crate) async fn ask(&mut self, about: v1::question::About) -> v1::Answer {
        let request_id = 7;
        let about = Some(about);
        let question = v1::Question { request_id, about };
        self.send(from_master::Message::Question(question)).await;
        self.until("an answer", |message| match message {
            Message::Answer(answer) if answer.request_id == request_id => Some(answer),
            _ => None,
        })
        .await
    }

    pub(crate) async fn open_logs(&self, node: &str, cursor: &str, follow: bool) {
        let open = v1::OpenLogs {
            request_id: 9,
            node_id: node.into(),
            cursor: cursor.into(),
            follow,
        };
        self.send(from_master::Message::OpenLogs(open)).await;
    }
}

/// A running agent.
pub(crate) struct Agent {
    stop: oneshot::Sender<()>,
    task: JoinHandle<grid_platform_api::Result<()>>,
}

impl Agent {
    /// Over the world's first owner.
    pub(crate) fn start(world: &World, state: &Path, master: SocketAddr) -> Self {
        Self::over(Arc::new(world.open()), settings(state, master))
    }

    pub(crate) fn over(platform: Arc<dyn Platform>, settings: Settings) -> Self {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            // An error is a test that let go of the agent: then it ends too.
            let _ = stopped.await;
        };
        let task = tokio::spawn(run_with(platform, settings, shutdown));
        Self { stop, task }
    }

    /// Ends it as SIGTERM does.
    pub(crate) async fn end(self) {
        self.stop.send(()).unwrap();
        soon("the agent's end", self.task).await.unwrap().unwrap();
    }
}

pub(crate) fn settings(state: &Path, master: SocketAddr) -> Settings {
    let mut settings = Settings::default();
    settings.agent.agent_id = Some("agent-1".into());
    settings.agent.state_dir = Some(state.to_owned());
    settings.agent.master_host = master.to_string();
    settings
}

/// A simulated host, an agent's state and a master.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) state: tempfile::TempDir,
    pub(crate) master: Master,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self {
            world: World::new(),
            state: tempfile::tempdir().unwrap(),
            master: Master::start().await,
        }
    }

    pub(crate) fn agent(&self) -> Agent {
        Agent::start(&self.world, self.state.path(), self.master.address)
    }

    pub(crate) fn boots(&self, node: &str) -> usize {
        self.world.boots(&id(node)).len()
    }

    pub(crate) fn alive(&self, node: &str) -> usize {
        self.world.processes(&id(node)).len()
    }
}
