//! A cluster with an adapter, and everything of both gone behind it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use grid_platform_api::{
    DataPolicy, NodeId, NodeState, Platform, Program, ReadyMode, SpawnConfig, SpawnedNode,
};
use grid_platform_k8s::{Allow, KubernetesConfig, KubernetesPlatform, Overlay};
use grid_testbed::kubernetes::{Namespace, View, short_sum, sweep_dead};
use grid_testbed::{Image, Tar};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::made::{Shape, Template};
use super::{CLUSTER, MANNER, news};
use crate::Result;
use crate::bench::Bench;
use crate::cleared::CONCURRENT;
use crate::program::PROGRAM;
use crate::proxy::Proxy;

/// How long anything that is awaited may take; nothing that is measured comes near.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much data a node may have, in MiB.
const DATA_MB: u64 = 16;

/// An adapter over a cluster, with a way for each client. Its namespaces go with it.
pub(super) struct Place {
    // Closed before the rest goes.
    pub(super) platform: KubernetesPlatform,
    pub(super) runtime: Runtime,
    /// The adapter's way to the API server.
    pub(super) proxy: Proxy,
    /// The adapter's.
    pub(super) namespace: Namespace,
    /// Everybody else's, so that the adapter hears nothing of them.
    pub(super) peers: Namespace,
    /// The API server itself: by it is looked what came of a call.
    pub(super) view: View,
    server: PathBuf,
    image: String,
    dir: tempfile::TempDir,
}

impl Place {
    pub(super) fn new(bench: &Bench) -> Result<Self> {
        Self::with(bench, Overlay::default())
    }

    /// A place whose nodes' pods are made by this.
    pub(super) fn with(bench: &Bench, overlay: Overlay) -> Result<Self> {
        let view = View::of(&bench.program(CLUSTER)?)?;
        let cluster = view.own()?;
        // What a run that was killed has left.
        sweep_dead(&view)?;
        let server = view.api().host().strip_prefix("unix://").map(PathBuf::from);
        let server = server.ok_or("the API server is reached by no socket")?;
        let image = format!("localhost/sutra-grid-bench/program:{}", short_sum(PROGRAM));
        let layer = Tar::default().file("program", 0o755, PROGRAM);
        cluster.load(Image::new(layer).entrypoint(&["/program"]), &image)?;
        let (namespace, peers) = (Namespace::make(&view)?, Namespace::make(&view)?);
        let dir = tempfile::tempdir()?;
        let proxy = Proxy::tcp(&server, MANNER)?;
        let config = KubernetesConfig {
            kubeconfig: Some(kubeconfig(dir.path(), "node", &proxy)?),
            images: Allow::Any,
            overlay: Overlay {
                storage_size_mb: Some(DATA_MB),
                ..overlay
            },
            ..KubernetesConfig::new(namespace.name())
        };
        let runtime = crate::process::runtime()?;
        let platform = runtime.block_on(KubernetesPlatform::open(config))?;
        Ok(Self {
            platform,
            runtime,
            proxy,
            namespace,
            peers,
            view,
            server,
            image,
            dir,
        })
    }

    /// Another client's way to the API server, and the kubeconfig that leads there.
    pub(super) fn way(&self, name: &str) -> Result<(Proxy, PathBuf)> {
        let proxy = Proxy::tcp(&self.server, MANNER)?;
        let file = kubeconfig(self.dir.path(), name, &proxy)?;
        Ok((proxy, file))
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The program that is measured.
    pub(super) fn program(&self) -> Program {
        Program::image(&self.image, [""; 0])
    }

    /// What a node is asked for by.
    pub(super) fn request(&self, id: &NodeId) -> Result<SpawnConfig> {
        let config = SpawnConfig::builder(id.as_str(), self.program())
            .port(0)
            .memory_limit_mb(64)
            .label("for", "bench")
            .ready(ReadyMode::Started);
        Ok(config.build()?)
    }

    pub(super) fn spawn(&self, id: &NodeId) -> Result<SpawnedNode> {
        let spawned = self.platform.spawn_node(self.request(id)?);
        Ok(self.runtime.block_on(spawned)?)
    }

    pub(super) fn stop(&self, id: &NodeId) -> Result<()> {
        Ok(self.runtime.block_on(self.platform.stop_node(id))?)
    }

    pub(super) fn remove(&self, id: &NodeId) -> Result<()> {
        let removed = self.platform.remove_node(id, DataPolicy::Purge);
        Ok(self.runtime.block_on(removed)?)
    }

    pub(super) fn list(&self) -> Result<Vec<SpawnedNode>> {
        Ok(self.runtime.block_on(self.platform.list_nodes())?)
    }

    /// The pod of a node, as the API shows it.
    pub(super) fn pod(&self, id: &NodeId) -> Result<Option<Value>> {
        let path = format!("pods/{}", id.native_name());
        Ok(self.view.find(&self.namespace.path(&path))?)
    }

    /// An error unless the node's program runs, by the cluster.
    pub(super) fn runs(&self, id: &NodeId) -> Result<Value> {
        match self.pod(id)? {
            Some(pod) if news::runs(&pod) => Ok(pod),
            found => Err(format!("a node that was started does not run: {found:?}").into()),
        }
    }

    /// An error unless the node is stopped and has no pod.
    pub(super) fn ended(&self, id: &NodeId) -> Result<()> {
        let node = self.runtime.block_on(self.platform.get_node_status(id))?;
        let pod = self.pod(id)?;
        match node.state {
            NodeState::Stopped { .. } if pod.is_none() => Ok(()),
            state => Err(format!("a node that was stopped is {state:?}, its pod {pod:?}").into()),
        }
    }

    /// What the adapter makes of a request, for others to make the same; and what its pod is to the cluster.
    pub(super) fn template(&self) -> Result<(Template, Shape)> {
        let id = NodeId::new("sample-of-a-node")?;
        self.spawn(&id)?;
        let shape = Shape::of(&self.runs(&id)?, id.as_str())?;
        let sent = |method, part: &str| {
            Ok::<_, Box<dyn std::error::Error>>(self.proxy.last(method, part)?.body)
        };
        let made = [
            sent("POST", "/services")?,
            sent("POST", "/persistentvolumeclaims")?,
            sent("POST", "/pods")?,
        ];
        self.stop(&id)?;
        // The first of a stop's changes is what is asked, the last how it ended.
        let claims = "/persistentvolumeclaims/";
        let stopped = sent("PATCH", claims).or_else(|_| sent("PUT", claims))?;
        self.remove(&id)?;
        let [service, claim, pod] = &made;
        let template = Template::new([service, claim, pod, &stopped], id.as_str())?;
        Ok((template, shape))
    }

    /// Does something to many nodes, as many at once as an agent does.
    pub(super) fn at_once(
        &self,
        all: &[NodeId],
        work: impl AsyncFn(&NodeId) -> Result<()>,
    ) -> Result<()> {
        let work = &work;
        let all = stream::iter(all).map(async |it| work(it).await);
        let done = all.buffer_unordered(CONCURRENT).try_collect::<Vec<()>>();
        self.runtime.block_on(done).map(drop)
    }

    /// Waits until something is so that the cluster does by itself.
    pub(super) fn wait(&self, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so()? {
            if Instant::now() > deadline {
                return Err(format!("{what}: not within {PATIENCE:?}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Deletes what peers have made, and returns when it is gone.
    pub(super) fn clear_peers(&self) -> Result<()> {
        let kinds = ["pods", "services", "persistentvolumeclaims"];
        for kind in kinds {
            for object in self.view.list(&self.peers.path(kind))? {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                self.view
                    .delete(&self.peers.path(&format!("{kind}/{name}")))?;
            }
        }
        self.wait("peers' objects are gone", || {
            for kind in kinds {
                if !self.view.list(&self.peers.path(kind))?.is_empty() {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }
}

/// Writes the kubeconfig of a client that goes through a relay.
fn kubeconfig(dir: &Path, name: &str, proxy: &Proxy) -> Result<PathBuf> {
    let file = dir.join(format!("{name}.kubeconfig"));
    let context = json!({ "cluster": "bench", "user": "bench" });
    // JSON is YAML.
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "bench", "cluster": { "server": proxy.host() } }],
        "users": [{ "name": "bench", "user": {} }],
        "contexts": [{ "name": "bench", "context": context }],
        "current-context": "bench",
    });
    std::fs::write(&file, text.to_string())?;
    Ok(file)
}
