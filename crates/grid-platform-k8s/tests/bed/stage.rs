//! An adapter in a place of its own, and how a case looks at both.

use std::time::Duration;

use futures::StreamExt;
use grid_platform_api::{
    NodeEvent, NodeEventStream, NodeId, ReadyMode, SpawnConfig, SpawnConfigBuilder, SpawnedNode,
};
use grid_platform_k8s::{KubernetesConfig, KubernetesPlatform};
use grid_platform_testing::{Failed, Outcome, probe, seen};
use serde_json::Value;

use super::Place;

/// How long anything may take that is waited for: a kubelet that ends a pod takes ten seconds when it has nothing else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long it is looked that something does not happen.
pub(crate) const MOMENT: Duration = Duration::from_millis(300);

/// An adapter, and the place it is open in. The adapter ends first.
pub(crate) struct Stage {
    pub(crate) platform: KubernetesPlatform,
    pub(crate) place: Place,
}

impl Stage {
    /// In the namespace that all cases share.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn open() -> Outcome<Self> {
        Self::with(|_| {}).await
    }

    /// With settings of the case's own.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn with(change: impl FnOnce(&mut KubernetesConfig)) -> Outcome<Self> {
        Self::at(Place::new()?, change).await
    }

    /// In a place that is there.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn at(
        place: Place,
        change: impl FnOnce(&mut KubernetesConfig),
    ) -> Outcome<Self> {
        let mut config = place.own_config();
        change(&mut config);
        Ok(Self {
            platform: place.open(config).await?,
            place,
        })
    }

    /// The place alone, once the adapter is gone.
    pub(crate) fn close(self) -> Place {
        drop(self.platform);
        self.place
    }

    /// A request for a probe with a port, which is ready as soon as it runs.
    ///
    /// # Errors
    /// containerd's words.
    pub(crate) fn probe(&self, name: &str, actions: &[&str]) -> Outcome<SpawnConfigBuilder> {
        let program = self.place.bed.probe(actions)?;
        let id = self.place.id(name).to_string();
        Ok(SpawnConfig::builder(id, program)
            .port(0)
            .ready(ReadyMode::Started))
    }

    /// Waits by the adapter's events until the node is as wanted, and gives it.
    ///
    /// # Errors
    /// After [`PATIENCE`], with what was waited for and what was seen last.
    pub(crate) async fn wait(
        &self,
        id: &NodeId,
        what: &str,
        wanted: impl Fn(&SpawnedNode) -> bool + Send + Sync,
    ) -> Outcome<SpawnedNode> {
        seen(&self.platform, id, PATIENCE, what, wanted).await
    }

    /// Has the probe of a node do something, at the endpoint that the adapter gives.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn ask(&self, node: &SpawnedNode, action: &str) -> Outcome<String> {
        let endpoint = node.endpoint.as_ref().ok_or("it has no endpoint")?;
        probe::ask_soon(&endpoint.host, endpoint.port, action).await
    }

    /// Has the probe of a node do what may end it.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub(crate) async fn end(&self, node: &SpawnedNode, action: &str) -> Outcome {
        self.ask(node, "boot").await?;
        let endpoint = node.endpoint.as_ref().ok_or("it has no endpoint")?;
        // The answer may go with the program.
        let _ = probe::ask(&endpoint.host, endpoint.port, action).await;
        Ok(())
    }
}

/// Reads events until the cluster has said all of this of a node, in whatever order, and gives its words for each.
///
/// # Errors
/// After [`PATIENCE`], with all that it said.
pub(crate) async fn said<const N: usize>(
    events: &mut NodeEventStream,
    id: &NodeId,
    words: [&str; N],
) -> Outcome<[String; N]> {
    let mut all: Vec<String> = Vec::new();
    let reading = async {
        loop {
            let found = words.map(|it| all.iter().find(|said| said.contains(it)));
            if found.iter().all(Option::is_some) {
                return Ok(found.map(|it| it.cloned().unwrap_or_default()));
            }
            let event = events.next().await.ok_or("the events ended")?;
            if let NodeEvent::Progress { node_id, progress } = event?
                && node_id == *id
            {
                all.push(progress.message);
            }
        }
    };
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(read) => read,
        Err(_) => Err(Failed::new(format!("{words:?} was not said, but {all:?}"))),
    }
}

/// What a text field of an object is.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    let found = object.pointer(pointer);
    found.and_then(Value::as_str).unwrap_or_default()
}

/// The object's own uid.
pub(crate) fn uid(object: &Value) -> String {
    text(object, "/metadata/uid").to_owned()
}
