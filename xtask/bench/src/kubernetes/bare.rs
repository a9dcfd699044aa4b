//! The cluster's API and nothing around it, by the client library that the adapter uses: create, and watch from there on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::pin::pin;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::made::Made;
use super::peer::Peer;
use crate::Result;

/// How long a watch lasts, in seconds; nothing that is measured comes near.
const WATCH: u32 = 280;

/// A client of a namespace.
pub(super) struct Bare<'a> {
    runtime: &'a Runtime,
    client: Client,
    namespace: String,
    /// The pods that were started, as they were when they ran.
    started: RefCell<BTreeMap<String, Pod>>,
}

impl<'a> Bare<'a> {
    pub(super) fn connect(runtime: &'a Runtime, file: &Path, namespace: &str) -> Result<Self> {
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(file)?;
            let options = KubeConfigOptions::default();
            let mut config = Config::from_custom_kubeconfig(file, &options).await?;
            // A call that is repeated unseen would be counted as one more.
            config.default_retry = false;
            Ok::<_, Box<dyn std::error::Error>>(Client::try_from(config)?)
        })?;
        Ok(Self {
            runtime,
            client,
            namespace: namespace.to_owned(),
            started: RefCell::default(),
        })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// As [`beside`](Self::beside), until it is done.
    pub(super) fn make_beside(&self, made: &Made) -> Result<()> {
        self.runtime.block_on(self.beside(made))
    }

    /// Makes the service and the claim, until it has its volume: a pod that is made before is tried again by the scheduler
    /// much later.
    async fn beside(&self, made: &Made) -> Result<()> {
        let params = PostParams::default();
        self.api::<Service>().create(&params, &made.service).await?;
        let claims = self.api::<PersistentVolumeClaim>();
        let claim = claims.create(&params, &made.claim).await?;
        let is_bound = |it: &PersistentVolumeClaim| {
            it.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Bound")
        };
        until(&claims, &claim, |event| match event {
            WatchEvent::Added(it) | WatchEvent::Modified(it) => is_bound(it),
            _ => false,
        })
        .await
        .map(drop)
    }

    /// Makes all of it, until the program runs.
    pub(super) async fn begin(&self, made: &Made) -> Result<()> {
        self.beside(made).await?;
        let pods = self.api::<Pod>();
        let pod = pods.create(&PostParams::default(), &made.pod).await?;
        let pod = until(&pods, &pod, |event| match event {
            WatchEvent::Added(it) | WatchEvent::Modified(it) => runs(it),
            _ => false,
        })
        .await?;
        self.started.borrow_mut().insert(made.name.clone(), pod);
        Ok(())
    }

    /// Lists the claims of the namespace.
    pub(super) fn count_claims(&self) -> Result<usize> {
        let claims = self.api::<PersistentVolumeClaim>();
        let list = self.runtime.block_on(claims.list(&ListParams::default()))?;
        Ok(list.items.len())
    }

    /// Deletes the pod, until it is gone.
    async fn end(&self, made: &Made) -> Result<()> {
        let pod = self.started.borrow_mut().remove(&made.name);
        let pod = pod.ok_or("a pod that was not started")?;
        let params = DeleteParams {
            grace_period_seconds: Some(made.grace),
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let pods = self.api::<Pod>();
        pods.delete(&made.name, &params).await?;
        let is_gone = |event: &WatchEvent<Pod>| matches!(event, WatchEvent::Deleted(_));
        until(&pods, &pod, is_gone).await.map(drop)
    }
}

fn runs(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let containers = status.and_then(|it| it.container_statuses.as_ref());
    let state = containers
        .and_then(|it| it.first())
        .and_then(|it| it.state.as_ref());
    state.is_some_and(|it| it.running.is_some())
}

/// Watches an object from this version on until an event is the one that is waited for, and gives what came with it.
async fn until<K>(api: &Api<K>, from: &K, is_so: impl Fn(&WatchEvent<K>) -> bool) -> Result<K>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let name = from.name_any();
    let params = WatchParams::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(WATCH);
    let version = from
        .resource_version()
        .ok_or("an object without a version")?;
    let mut events = pin!(api.watch(&params, &version).await?);
    while let Some(event) = events.next().await {
        let event = event?;
        let is_it = is_so(&event);
        match event {
            WatchEvent::Added(it) | WatchEvent::Modified(it) | WatchEvent::Deleted(it) if is_it => {
                return Ok(it);
            }
            WatchEvent::Error(status) => return Err(status.message.into()),
            _ => {}
        }
    }
    Err(format!("the watch of `{name}` ended").into())
}

impl Peer for Bare<'_> {
    fn start(&self, made: &Made) -> Result<()> {
        self.runtime.block_on(self.begin(made))
    }

    fn stop(&self, made: &Made) -> Result<()> {
        self.runtime.block_on(self.end(made))
    }
}
