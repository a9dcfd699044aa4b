//! Where logs come from.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use grid_platform_api::{Error, ErrorKind, NodeId, NodeUid, Result, Timestamp, async_trait};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use tokio::sync::watch;
use tokio_util::{compat::FuturesAsyncReadCompatExt, io::ReaderStream};

use crate::{
    access::Access,
    error::{Fault, error},
    translate::{CONTAINER, PodView},
};

/// How much is read at once, in bytes.
const CHUNK: usize = 32 * 1024;
/// How long the API may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Which part of a log is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Of the container's run before the last one.
    pub(crate) previous: bool,
    /// What is written from now on, too.
    pub(crate) follow: bool,
    /// What was written in this second or later.
    pub(crate) since: Option<Timestamp>,
    /// The last so many entries.
    pub(crate) tail: Option<u64>,
}

/// A log as it comes.
pub(crate) type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Fault>> + Send>>;

/// What is known of a node that there is.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The node's incarnation.
    pub(crate) uid: NodeUid,
    /// Its pod, unless it has none.
    pub(crate) pod: Option<Arc<PodView>>,
}

/// The nodes and the logs of their pods.
#[async_trait]
pub(crate) trait Source: Send + Sync + 'static {
    /// How the node is now.
    ///
    /// # Errors
    /// `NotFound` for one that there is not.
    fn state(&self, id: &NodeId) -> Result<State>;

    /// Tells that something of some node changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Returns when the platform is closed.
    async fn closed(&self);

    /// Begins to read the log of the node's pod.
    async fn open(&self, id: &NodeId, ask: Ask) -> Result<Body, Fault>;
}

/// What a fault says of a log.
pub(super) trait OfLog {
    /// There is no such log: the container has not been started, or not twice, or its file is gone.
    fn is_absent(&self) -> bool;

    /// It passes by itself.
    fn is_passing(&self) -> bool;

    /// The contract's error.
    fn of_log(self, id: &NodeId) -> Error;
}

impl OfLog for Fault {
    fn is_absent(&self) -> bool {
        let is_missing_file = || self.message().contains("no such file or directory");
        self.status()
            .is_some_and(|status| status == 400 || is_missing_file())
    }

    fn is_passing(&self) -> bool {
        self.is_away() || self.is_absent() || self.is_not_found()
    }

    fn of_log(self, id: &NodeId) -> Error {
        if self.is_not_found() {
            return no_pod(id);
        }
        match self.status() {
            Some(status) if status < 500 && status != 429 && self.is_absent() => error(
                ErrorKind::LogsUnavailable,
                format!(
                    "the cluster has no log of the node `{id}`: {}",
                    self.message()
                ),
            )
            .with_hint("`kubectl describe pod` tells what became of its pod."),
            _ => self.into_error(),
        }
    }
}

/// That a node has no pod.
pub(super) fn no_pod(id: &NodeId) -> Error {
    error(
        ErrorKind::LogsUnavailable,
        format!("the node `{id}` has no pod, and its log went with the last one"),
    )
    .with_hint("Start it again; a log that has to outlive its pod is for the cluster to collect.")
}

/// Begins to read the log of a pod from the API.
pub(crate) async fn open(access: &Access, pod: &str, ask: Ask) -> Result<Body, Fault> {
    let params = LogParams {
        container: Some(CONTAINER.to_owned()),
        follow: ask.follow,
        previous: ask.previous,
        // Their release of the crate of times may be another one than ours.
        since_time: ask.since.and_then(|it| it.to_string().parse().ok()),
        tail_lines: ask.tail.and_then(|it| i64::try_from(it).ok()),
        timestamps: true,
        ..LogParams::default()
    };
    let what = format!("read the log of the pod `{pod}`");
    let pods = access.api::<Pod>();
    let opening = pods.log_stream(pod, &params);
    let body = access.call_within(ANSWER, &what, opening).await?;
    let access = access.clone();
    let broken = move |source| access.fault(&what, kube::Error::ReadEvents(source));
    let chunks = ReaderStream::with_capacity(body.compat(), CHUNK);
    Ok(chunks.map(move |it| it.map_err(&broken)).boxed())
}
