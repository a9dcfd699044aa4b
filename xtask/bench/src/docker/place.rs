//! An engine with an adapter, and everything of both gone behind it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt, TryStreamExt};
use grid_platform_api::{
    DataPolicy, NodeId, Platform, Program, ReadyMode, SpawnConfig, SpawnedNode,
};
use grid_platform_docker::{Allow, DockerConfig, DockerPlatform, Pull};
use grid_testbed::{Api, Image, Tar};
use serde_json::json;
use tokio::runtime::Runtime;

use super::bare::Bare;
use super::container::{Made, Shape, Template};
use super::peer::{await_ready, has_ended, is_running, look};
use super::{ENGINE, MANNER, PEER_PORTS};
use crate::Result;
use crate::bench::Bench;
use crate::cleared::CONCURRENT;
use crate::program::PROGRAM;
use crate::proxy::Proxy;

/// An adapter over an engine, with a way for each client.
pub(super) struct Place {
    // Closed before the rest goes.
    pub(super) platform: DockerPlatform,
    pub(super) runtime: Runtime,
    /// The adapter's way to the engine.
    pub(super) proxy: Proxy,
    /// The engine itself.
    pub(super) engine: Api,
    socket: PathBuf,
    image: String,
    owner: String,
    /// Who peers' containers belong to.
    stranger: String,
    dir: tempfile::TempDir,
}

impl Place {
    /// With so many bytes of log for each node; `None` is what is usual.
    pub(super) fn new(bench: &Bench, log: Option<u64>) -> Result<Self> {
        let host = bench.program(ENGINE)?;
        let host = host.to_string_lossy();
        let socket = host.strip_prefix("unix://");
        let socket = socket.ok_or(format!("`{host}` is no socket: name one by `unix://PATH`"))?;
        let socket = PathBuf::from(socket);
        let engine = Api::new(&host)?;
        // What a run that was killed has left.
        grid_testbed::sweep_dead(&engine)?;
        // Not by `TMPDIR` alone: a socket's path may not be long.
        let dir = tempfile::tempdir()?;
        let proxy = Proxy::unix(dir.path(), "node", &socket, MANNER)?;
        let image = format!("localhost/sutra-grid-bench:{}", std::process::id());
        let layer = Tar::default().file("program", 0o755, PROGRAM);
        Image::new(layer)
            .entrypoint(&["/program"])
            .set("ExposedPorts", json!({"7000/tcp": {}}))
            .load(&engine, &image)?;
        let usual = DockerConfig::new(dir.path().join("state"), dir.path().join("data"));
        let config = DockerConfig {
            host: Some(proxy.host()),
            images: Allow::Any,
            pull: Pull::Never,
            port_range: (PEER_PORTS.start - 1000, PEER_PORTS.start - 1),
            log_max_bytes: log.unwrap_or(usual.log_max_bytes),
            ..usual
        };
        let runtime = crate::process::runtime()?;
        let (platform, owner) = runtime.block_on(async {
            let platform = DockerPlatform::open(config).await?;
            let owner = platform.probe().await?.owner.to_string();
            Ok::<_, grid_platform_api::Error>((platform, owner))
        })?;
        let stranger: String = owner.chars().rev().collect();
        for it in [&owner, &stranger] {
            grid_testbed::claim(&engine, it)?;
        }
        Ok(Self {
            platform,
            runtime,
            proxy,
            engine,
            socket,
            image,
            owner,
            stranger,
            dir,
        })
    }

    /// Another client's way to the engine.
    pub(super) fn way(&self, name: &str) -> Result<Proxy> {
        Proxy::unix(self.dir.path(), name, &self.socket, MANNER)
    }

    /// So many ports in a row that nobody has, for peers: the first one.
    pub(super) fn ports(&self, count: u16) -> Result<u16> {
        let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        // Another bench on this host begins elsewhere.
        let begin = PEER_PORTS.start + u16::try_from(std::process::id() % 2000)?;
        let mut found = (begin..PEER_PORTS.end).chain(PEER_PORTS);
        let found = found.find(|it| (*it..it.saturating_add(count)).all(|it| is_free(&it)));
        Ok(found.ok_or("no ports are free")?)
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What a node is asked for by.
    pub(super) fn request(&self, id: &NodeId, args: &[String]) -> Result<SpawnConfig> {
        let program = Program::image(&self.image, args.iter().cloned());
        let config = SpawnConfig::builder(id.as_str(), program)
            .port(0)
            .memory_limit_mb(64)
            .cpu_limit_millis(1000)
            .pids_limit(64)
            .open_files_limit(1024)
            .label("for", "bench")
            .ready(ReadyMode::Started);
        Ok(config.build()?)
    }

    pub(super) fn spawn(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        Ok(self.runtime.block_on(self.platform.spawn_node(config))?)
    }

    pub(super) fn stop(&self, id: &NodeId) -> Result<()> {
        Ok(self.runtime.block_on(self.platform.stop_node(id))?)
    }

    pub(super) fn remove(&self, id: &NodeId) -> Result<()> {
        let purge = DataPolicy::Purge;
        Ok(self
            .runtime
            .block_on(self.platform.remove_node(id, purge))?)
    }

    /// An error unless the node's program runs; then it can be stopped.
    pub(super) fn runs(&self, id: &NodeId) -> Result<()> {
        let container = id.native_name();
        is_running(&look(&self.engine, &container)?)?;
        await_ready(&self.engine, &container)
    }

    /// An error unless the node's program ended when it was asked to.
    pub(super) fn ended(&self, id: &NodeId) -> Result<()> {
        has_ended(&look(&self.engine, &id.native_name())?)
    }

    /// What the adapter makes of a request, for others to make the same; and what that is to the engine.
    pub(super) fn template(&self) -> Result<(Template, Shape)> {
        let id = NodeId::new("sample-of-a-node")?;
        let node = self.spawn(self.request(&id, &[])?)?;
        let call = self.proxy.last("POST", "/containers/create")?;
        let port = node
            .ports
            .get("main")
            .copied()
            .ok_or("a node without a port")?;
        let data = node
            .data_path
            .clone()
            .ok_or("a node without a path of data")?;
        let owners = [self.owner.as_str(), self.stranger.as_str()];
        let template = Template::new(&call.body, id.as_str(), port, &data, owners)?;
        self.runs(&id)?;
        let shape = Shape::of(&look(&self.engine, &id.native_name())?)?;
        // The data stays: others' are given to the same user.
        self.runtime
            .block_on(self.platform.remove_node(&id, DataPolicy::Keep))?;
        Ok((template, shape))
    }

    /// Does something to many nodes, as many at once as an agent does.
    pub(super) async fn at_once<T>(
        &self,
        all: impl IntoIterator<Item = T>,
        work: impl AsyncFn(T) -> grid_platform_api::Result<()>,
    ) -> Result<()> {
        let work = &work;
        stream::iter(all)
            .map(async |it| work(it).await)
            .buffer_unordered(CONCURRENT)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(())
    }

    /// Removes many nodes.
    pub(super) fn remove_all(&self, ids: &[NodeId]) -> Result<()> {
        let remove = async |id: &NodeId| self.platform.remove_node(id, DataPolicy::Purge).await;
        self.runtime.block_on(self.at_once(ids, remove))
    }

    /// Does something with many containers, by connections as many as an agent has calls under way.
    pub(super) fn by_connections(
        &self,
        proxy: &Proxy,
        made: &[Made],
        work: impl Fn(&Bare, &Made) -> Result<()> + Sync,
    ) -> Result<()> {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let one = || -> std::result::Result<(), String> {
            let bare = Bare::connect(proxy).map_err(|it| it.to_string())?;
            loop {
                let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(made) = made.get(at) else {
                    return Ok(());
                };
                work(&bare, made).map_err(|it| it.to_string())?;
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONCURRENT).map(|_| scope.spawn(one)).collect();
            threads.into_iter().try_for_each(|it| match it.join() {
                Ok(done) => Ok(done?),
                Err(_) => Err("a connection's thread broke off".into()),
            })
        })
    }

    /// Removes what is left, which is an error to be told. It is done too when this is dropped.
    pub(super) fn clear(&self) -> Result<()> {
        for owner in [&self.owner, &self.stranger] {
            grid_testbed::sweep(&self.engine, owner)?;
            grid_testbed::release(owner);
        }
        let path = format!("/images/{}", self.image);
        // Of another place of this process it may be in use.
        let _ = self.engine.call("DELETE", &path, None);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("containers of owner `{}` stay: {error}", self.owner);
        }
    }
}
