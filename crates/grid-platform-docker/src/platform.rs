//! The platform: who does what.

use std::{path::PathBuf, sync::Arc};

use grid_platform_api::{
    Capabilities, DataPolicy, Error, ErrorKind, LogCursor, LogStream, NodeData, NodeEventStream,
    NodeId, NodeLocks, NodeUsage, Platform, PlatformInfo, RestartMode, Result, SpawnConfig,
    SpawnedNode, async_trait,
};
use grid_platform_host::{
    data::{DataStore, Places},
    error::Context,
    install::Install,
    ports::PortBook,
    work::{Turns, blocking},
};
use tokio::sync::watch;

use crate::{
    account::Accounts,
    config::DockerConfig,
    engine::Engine,
    error::{PLATFORM, named},
    facts::{self, Facts},
    identity::{self, Identity},
    images::Images,
    lifecycle, logs,
    nodes::{self, Found, Frame, Node, Registry},
    notes::Notes,
    probe,
    secrets::Secrets,
    storage::{self, Storage},
    translate::{DataPlace, Phase},
    usage, watch as events,
};

/// Nodes as containers of an engine.
///
/// Made by [`DockerPlatform::open`] within a tokio runtime. Dropping it stops no node.
pub struct DockerPlatform {
    inner: Arc<Inner>,
    /// Dropped with this value, which all that goes on in the background hears.
    _closing: watch::Sender<()>,
}

/// What all parts of one platform share.
pub(crate) struct Inner {
    pub(crate) config: Arc<DockerConfig>,
    pub(crate) install: Install,
    pub(crate) engine: Engine,
    /// What is asked has to be this one.
    pub(crate) identity: Identity,
    pub(crate) facts: Facts,
    pub(crate) storage: Storage,
    pub(crate) images: Images,
    pub(crate) accounts: Accounts,
    pub(crate) registry: Arc<Registry>,
    pub(crate) notes: Notes,
    pub(crate) secrets: Secrets,
    /// Where data is, and whose.
    pub(crate) data: Arc<DataStore>,
    pub(crate) ports: Arc<PortBook>,
    pub(crate) locks: NodeLocks,
    pub(crate) turns: Turns,
    /// Changes (by its end) when the platform is dropped.
    pub(crate) closing: watch::Receiver<()>,
}

impl DockerPlatform {
    /// Opens the platform over its state: finds every node that there is and heals what an earlier adapter was killed in the
    /// middle of.
    ///
    /// # Errors
    /// `InvalidConfig`; `StateLocked` while another process has the state open; `OwnedByOther` when the state is a copy, or of
    /// another engine; `Corrupt`; what keeps the engine from being reached.
    pub async fn open(config: DockerConfig) -> Result<Self> {
        let (closing, closed) = watch::channel(());
        let inner = open(config, closed).await.map_err(|e| named(e, "open"))?;
        Ok(Self {
            inner,
            _closing: closing,
        })
    }

    /// The settings that it was opened with.
    pub fn config(&self) -> &DockerConfig {
        &self.inner.config
    }
}

/// What of a platform is on this host.
struct Local {
    install: Install,
    notes: Notes,
    secrets: Secrets,
    data: DataStore,
}

fn local(config: &DockerConfig) -> Result<Local> {
    let install = Install::open(&config.state_dir)?;
    let path = config.data_path.display();
    std::fs::create_dir_all(&config.data_path).cannot(format!("make the data path `{path}`"))?;
    let places = Places {
        data_path: config.data_path.clone(),
        roots: config.roots().into_iter().map(ToOwned::to_owned).collect(),
        state_dir: config.state_dir.clone(),
    };
    Ok(Local {
        notes: Notes::open(&install.dir)?,
        secrets: Secrets::open(&install.dir, &config.state_dir)?,
        data: DataStore::open(&install.dir, install.owner.clone(), places)?,
        install,
    })
}

async fn open(config: DockerConfig, closing: watch::Receiver<()>) -> Result<Arc<Inner>> {
    config.validate()?;
    let opening = config.clone();
    let local = blocking(move || local(&opening)).await?;
    let engine = Engine::connect(&config).await?;
    // Before anything is read, so that nothing falls in between.
    let info = identity::info(&engine).await?;
    let identity = identity::bind(&config.state_dir, &engine, &info).await?;
    let feed = events::Feed::begin(&engine, &info, closing.clone());
    let facts = facts::look(&engine, &info).await?;
    let storage = storage::look(&engine, &local.install.owner, &config, &facts).await?;
    let frame = Frame {
        advertise: config.advertise_address.clone(),
        host_pids: facts.same_host,
    };
    let inner = Arc::new(Inner {
        config: Arc::new(config),
        install: local.install,
        engine,
        identity,
        facts,
        storage,
        images: Images::default(),
        accounts: Accounts::default(),
        registry: Arc::new(Registry::new(frame)),
        notes: local.notes,
        secrets: local.secrets,
        data: Arc::new(local.data),
        ports: Arc::new(PortBook::default()),
        locks: NodeLocks::new(),
        turns: Turns::default(),
        closing,
    });
    tokio::spawn(feed.run(Arc::downgrade(&inner)));
    nodes::take_stock(&inner, false).await?;
    lifecycle::heal(&inner).await?;
    Ok(inner)
}

impl Inner {
    /// What can be done, here and now.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::none();
        can.image_programs = true;
        can.restart_modes = [RestartMode::Never].into();
        if self.facts.updates {
            can.restart_modes
                .extend([RestartMode::OnFailure, RestartMode::Always]);
        }
        can.trial = true;
        can.memory_limit = self.facts.memory_limit;
        can.cpu_limit = self.facts.cpu_limit;
        can.pids_limit = self.facts.pids_limit;
        can.open_files_limit = true;
        can.storage_path = self.storage.is_shared();
        can.user = true;
        can.secrets = !self.engine.is_plain_beyond_host();
        can.health_checks = true;
        can.port_allocation = true;
        can.exclusive_ports = true;
        can.stop_signal = true;
        can.logs_after_stop = true;
        can.logs_since = true;
        can.log_streams = true;
        can.usage = true;
        can.nodes_outlive_adapter = true;
        can.host_pids = self.facts.same_host;
        can
    }

    /// The nodes that have their data in a directory, each with its path.
    pub(crate) fn used(&self) -> Vec<(NodeId, PathBuf)> {
        let nodes = self.registry.all();
        let used = |it: &Arc<Node>| match &it.now().record.data {
            DataPlace::Path { path, .. } => Some((it.id.clone(), path.clone())),
            DataPlace::Volume { .. } => None,
        };
        nodes.iter().filter_map(used).collect()
    }

    /// The node of that id.
    ///
    /// # Errors
    /// `NotFound`; `OwnedByOther` when the container of its name is somebody else's.
    pub(crate) async fn node(self: &Arc<Self>, id: &NodeId) -> Result<Arc<Node>> {
        match self.registry.get(id) {
            Some(node) => Ok(node),
            None => Err(lifecycle::unknown(self, id).await),
        }
    }

    /// The node after the engine was asked for it.
    async fn fresh(self: &Arc<Self>, id: &NodeId) -> Result<Arc<Node>> {
        let node = self.node(id).await?;
        match nodes::refresh(self, &node.container).await? {
            Found::Node(node) => Ok(node),
            _ => Err(Error::not_found(id)),
        }
    }
}

/// Names the operation in an error.
fn tag<T>(result: Result<T>, operation: &'static str, id: Option<&NodeId>) -> Result<T> {
    result.map_err(|e| {
        let e = named(e, operation);
        match id {
            Some(id) => e.with_node(id),
            None => e,
        }
    })
}

#[async_trait]
impl Platform for DockerPlatform {
    fn name(&self) -> &'static str {
        PLATFORM
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        tag(probe::look(&self.inner).await, "probe", None)
    }

    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        let id = config.node_id.clone();
        let spawned = lifecycle::spawn(&self.inner, config).await;
        tag(spawned, "spawn_node", Some(&id))
    }

    async fn stop_node(&self, node_id: &NodeId) -> Result<()> {
        let stopped = lifecycle::stop(&self.inner, node_id).await;
        tag(stopped, "stop_node", Some(node_id))
    }

    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()> {
        let error = Error::unsupported(PLATFORM, "give up a node whose end is unconfirmed")
            .with_hint("Use `stop_node`: the engine knows when a container has ended.");
        tag(Err(error), "force_stop_node", Some(node_id))
    }

    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()> {
        let removed = lifecycle::remove(&self.inner, node_id, data).await;
        tag(removed, "remove_node", Some(node_id))
    }

    async fn is_node_alive(&self, node_id: &NodeId) -> Result<bool> {
        if self.inner.registry.get(node_id).is_none() {
            return Ok(false);
        }
        match self.inner.fresh(node_id).await {
            // A paused program does not run.
            Ok(node) => Ok(node.now().observed.phase == Phase::Running),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => tag(Err(e), "is_node_alive", Some(node_id)),
        }
    }

    async fn get_node_status(&self, node_id: &NodeId) -> Result<SpawnedNode> {
        let node = self.inner.fresh(node_id).await;
        let node = tag(node, "get_node_status", Some(node_id))?;
        Ok(SpawnedNode::clone(&node.shown()))
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        tag(nodes::count(&self.inner).await, "list_nodes", None)?;
        Ok(self.inner.registry.list())
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        tag(lifecycle::list_data(&self.inner).await, "list_data", None)
    }

    async fn get_logs(&self, node_id: &NodeId, lines: usize) -> Result<Vec<String>> {
        let tail = logs::tail(&self.inner, node_id, lines).await;
        tag(tail, "get_logs", Some(node_id))
    }

    async fn follow_logs(&self, node_id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        let stream = logs::follow(&self.inner, node_id, cursor).await;
        tag(stream, "follow_logs", Some(node_id))
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        Ok(events::events(&self.inner.registry, &self.inner.images))
    }

    async fn get_usage(&self, node_id: &NodeId) -> Result<NodeUsage> {
        tag(
            usage::read(&self.inner, node_id).await,
            "get_usage",
            Some(node_id),
        )
    }
}
