//! Faults that are made around a whole platform.

use std::sync::Arc;

use futures::{StreamExt, stream};
use grid_platform_api::{
    Capabilities, DataPolicy, Error, ErrorKind, Health, LogCursor, LogItem, LogStream, NodeData,
    NodeEvent, NodeEventStream, NodeId, NodeState, NodeUsage, OwnerId, Platform, PlatformExt,
    PlatformInfo, Program, ReadyMode, RestartMode, Result, SpawnConfig, SpawnedNode, Timestamp,
    async_trait,
};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    ListsShort,
    ListsRunningOnly,
    ListsBackwards,
    LiesInList,
    LiesInStatus,
    AliveForUnknown,
    StopOfUnknownSucceeds,
    RemoveOfUnknownFails,
    FollowDoubles,
    FollowLoses,
    FollowNeverEnds,
    TailBackwards,
    EventsWithoutSnapshot,
    EventsWithoutRemovals,
    EventsWithoutFailures,
    ErrorsWithoutNames,
    ErrorsToRetry,
    IgnoresLimits,
    AlwaysHealthy,
    StopsWhenDropped,
    NewOwnerEachTime,
    ReadyAtOnce,
    OneAtATime,
    AllocatesAskedPorts,
    RestartsAnyEnd,
    IgnoresTheUser,
    CutsPathsAtSpaces,
    LosesTheEnvironment,
    LosesTheArguments,
    LosesExits,
    StopEndsTwice,
}

/// A platform with one fault.
pub(crate) struct Broken {
    pub(crate) inner: Arc<dyn Platform>,
    pub(crate) how: How,
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl Broken {
    fn is(&self, how: How) -> bool {
        self.how == how
    }

    fn show(&self, mut node: SpawnedNode) -> SpawnedNode {
        if self.is(How::LosesExits)
            && let NodeState::Stopped { exit } = &mut node.state
        {
            *exit = None;
        }
        if self.is(How::StopEndsTwice) && node.state.is_ended() {
            node.finished_at = Some(Timestamp::now());
        }
        if self.is(How::AlwaysHealthy) && node.health != Health::Unchecked {
            node.health = Health::Healthy;
        }
        node
    }

    fn error(&self, error: Error) -> Error {
        match self.how {
            How::ErrorsWithoutNames => Error::new(error.kind(), error.to_string()),
            How::ErrorsToRetry => error.with_retryable(true),
            _ => error,
        }
    }
}

/// Removes a half-made node, as a platform does that takes a caller who goes away for one who gives up.
struct Undo {
    inner: Arc<dyn Platform>,
    id: NodeId,
    armed: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.armed {
            let (inner, id) = (Arc::clone(&self.inner), self.id.clone());
            tokio::spawn(async move { inner.remove_node(&id, DataPolicy::Purge).await });
        }
    }
}

#[async_trait]
impl Platform for Broken {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        let mut info = self.inner.probe().await?;
        if self.is(How::NewOwnerEachTime) {
            // The adapter's place in memory stands for what it draws at each start.
            let drawn = std::ptr::from_ref(self).addr().to_le_bytes();
            let mut bytes = [0; 16];
            bytes[..drawn.len()].copy_from_slice(&drawn);
            info.owner = OwnerId::from_bytes(bytes);
        }
        Ok(info)
    }

    async fn spawn_node(&self, mut config: SpawnConfig) -> Result<SpawnedNode> {
        let _turn = match self.how {
            How::OneAtATime => Some(self.turn.lock().await),
            _ => None,
        };
        match self.how {
            How::IgnoresLimits => config.cpu_limit_millis = None,
            How::ReadyAtOnce => config.ready = ReadyMode::Started,
            How::AllocatesAskedPorts => config.ports.values_mut().for_each(|port| *port = 0),
            How::RestartsAnyEnd => config.restart.mode = RestartMode::Always,
            How::IgnoresTheUser => config.run_as = None,
            How::CutsPathsAtSpaces => {
                if let Some(path) = &mut config.storage_path {
                    let text = path.to_string_lossy().into_owned();
                    *path = text.split(' ').next().unwrap_or_default().into();
                }
            }
            How::LosesTheEnvironment => config.env.clear(),
            How::LosesTheArguments => {
                if let Program::Binary { args, .. } = &mut config.program {
                    args.retain(|arg| !arg.starts_with("note="));
                }
            }
            _ => {}
        }
        let mut undo = Undo {
            inner: Arc::clone(&self.inner),
            id: config.node_id.clone(),
            armed: self.is(How::StopsWhenDropped),
        };
        let spawned = self.inner.spawn_node(config).await;
        undo.armed = false;
        spawned
            .map(|node| self.show(node))
            .map_err(|e| self.error(e))
    }

    async fn stop_node(&self, id: &NodeId) -> Result<()> {
        match self.inner.stop_node(id).await {
            Err(e) if self.is(How::StopOfUnknownSucceeds) && e.kind() == ErrorKind::NotFound => {
                Ok(())
            }
            result => result.map_err(|e| self.error(e)),
        }
    }

    async fn force_stop_node(&self, id: &NodeId) -> Result<()> {
        self.inner.force_stop_node(id).await
    }

    async fn remove_node(&self, id: &NodeId, data: DataPolicy) -> Result<()> {
        if self.is(How::RemoveOfUnknownFails) && self.inner.find_node(id).await?.is_none() {
            return Err(Error::not_found(id));
        }
        self.inner.remove_node(id, data).await
    }

    async fn is_node_alive(&self, id: &NodeId) -> Result<bool> {
        if self.is(How::AliveForUnknown) && self.inner.find_node(id).await?.is_none() {
            return Ok(true);
        }
        self.inner.is_node_alive(id).await
    }

    async fn get_node_status(&self, id: &NodeId) -> Result<SpawnedNode> {
        let mut node = self
            .inner
            .get_node_status(id)
            .await
            .map_err(|e| self.error(e))?;
        if self.is(How::LiesInStatus) && node.state.is_ended() {
            node.state = NodeState::Running;
        }
        Ok(self.show(node))
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        let mut nodes = self.inner.list_nodes().await?;
        match self.how {
            How::ListsShort if nodes.len() > 2 => nodes.truncate(2),
            How::ListsRunningOnly => nodes.retain(|n| n.state.is_running()),
            How::ListsBackwards => nodes.reverse(),
            How::LiesInList => nodes.iter_mut().for_each(|n| n.state = NodeState::Running),
            _ => {}
        }
        Ok(nodes)
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        self.inner.list_data().await
    }

    async fn get_logs(&self, id: &NodeId, lines: usize) -> Result<Vec<String>> {
        let mut tail = self
            .inner
            .get_logs(id, lines)
            .await
            .map_err(|e| self.error(e))?;
        if self.is(How::TailBackwards) {
            tail.reverse();
        }
        Ok(tail)
    }

    async fn follow_logs(&self, id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        let log = self
            .inner
            .follow_logs(id, cursor)
            .await
            .map_err(|e| self.error(e))?;
        Ok(match self.how {
            How::FollowDoubles => Box::pin(log.flat_map(|item| match item {
                Ok(item) => stream::iter(vec![Ok(item.clone()), Ok(item)]),
                Err(error) => stream::iter(vec![Err(error)]),
            })),
            How::FollowLoses => Box::pin(log.filter(|item| {
                let lost = matches!(item, Ok(LogItem::Line(line)) if line.bytes.ends_with(b"77"));
                std::future::ready(!lost)
            })),
            How::FollowNeverEnds => Box::pin(log.chain(stream::pending())),
            _ => log,
        })
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        let events = self.inner.watch_nodes().await?;
        let how = self.how;
        Ok(Box::pin(events.filter(move |event| {
            let hidden = match event {
                Ok(NodeEvent::Snapshot { .. }) => how == How::EventsWithoutSnapshot,
                Ok(NodeEvent::Removed { .. }) => how == How::EventsWithoutRemovals,
                Ok(NodeEvent::Changed { node }) => {
                    how == How::EventsWithoutFailures && node.state.failure().is_some()
                }
                _ => false,
            };
            std::future::ready(!hidden)
        })))
    }

    async fn get_usage(&self, id: &NodeId) -> Result<NodeUsage> {
        self.inner.get_usage(id).await
    }
}
