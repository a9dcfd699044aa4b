//! The contract over a simulated host.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::StreamExt;
use grid_platform_api::{
    Capabilities, Check, CheckStatus, DataPolicy, Digest, Error, ErrorKind, LogCursor, LogStream,
    NodeData, NodeEvent, NodeEventStream, NodeId, NodeLocks, NodeState, NodeUid, NodeUsage,
    Platform, PlatformInfo, RestartMode, Result, SpawnConfig, SpawnedNode, Timestamp, async_trait,
};
use tokio::sync::{broadcast::error::RecvError, mpsc, watch};

use super::{
    Flaw, NAME, World,
    log::LogFile,
    random,
    record::{DataMark, Disk, Order, Record, Run, Store},
    supervise::Supervisor,
};

/// A platform whose nodes are tasks on a simulated host: no process, no file, no port of the real one.
///
/// For tests of what stands above a platform, and to show what the conformance suite asks. Any program is a server
/// that runs until it is stopped; a few names are special:
///
/// | program | what it does |
/// |---|---|
/// | `memory:probe` | the [actions](crate::probe) of its arguments |
/// | `memory:missing` | cannot be started: it is not there |
/// | `memory:not-executable`, `memory:bad-format` | cannot be started, for these reasons |
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> grid_platform_api::Result<()> {
/// use grid_platform_api::{Platform, Program, SpawnConfig};
/// use grid_platform_testing::MemoryPlatform;
///
/// let platform = MemoryPlatform::new();
/// let config = SpawnConfig::builder("db-1", Program::binary("memory:server", [""; 0])).port(0).build()?;
/// let node = platform.spawn_node(config).await?;
/// assert!(node.state.is_running());
///
/// // An hour later it crashes: `memory:probe` does what it is told.
/// let script = ["wait=3600000", "exit=1"];
/// let config = SpawnConfig::builder("db-2", Program::binary("memory:probe", script)).build()?;
/// platform.spawn_node(config).await?;
/// # Ok(())
/// # }
/// ```
pub struct MemoryPlatform {
    pub(crate) store: Arc<Store>,
    locks: NodeLocks,
}

impl Default for MemoryPlatform {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryPlatform {
    /// A platform in a world of its own.
    pub fn new() -> Self {
        World::new().open()
    }

    pub(super) fn over(store: Arc<Store>, again: bool) -> Self {
        let platform = Self {
            store,
            locks: NodeLocks::new(),
        };
        if again {
            platform.misadopt();
        }
        platform
    }

    /// What broken platforms do when they are opened again; a whole one has nothing to do.
    fn misadopt(&self) {
        let store = &self.store;
        let mut disk = store.disk();
        if store.has(Flaw::ForgetsOnReopen) {
            // Nobody must notice that the supervisors' orders are gone: the programs live on.
            disk.nodes
                .values_mut()
                .for_each(|r| std::mem::forget(r.orders.take()));
            disk.nodes.clear();
        }
        let doubled = |record: &Record| match record.run.state {
            NodeState::Running => store.has(Flaw::DoublesOnAdopt),
            NodeState::Stopped { .. } => store.has(Flaw::StartsStoppedOnReopen),
            _ => false,
        };
        for record in disk.nodes.values_mut().filter(|r| doubled(r)) {
            std::mem::forget(record.orders.take());
            self.start(record);
        }
    }

    fn fault(&self, error: Error, operation: &'static str, id: &NodeId) -> Error {
        error
            .with_platform(NAME)
            .with_operation(operation)
            .with_node(id)
    }

    /// Starts the supervisor of a new life.
    fn start(&self, record: &mut Record) {
        let (orders, inbox) = mpsc::unbounded_channel();
        record.run = Run::default();
        record.orders = Some(orders);
        let supervisor = Supervisor {
            store: Arc::clone(&self.store),
            id: record.config.node_id.clone(),
            uid: record.uid.clone(),
            config: record.config.clone(),
            orders: inbox,
        };
        tokio::spawn(supervisor.run());
    }

    /// Makes the node be wanted: finds it, starts it again, or makes it. What is done is done at one stroke, so that
    /// a caller who goes away leaves a node that is found.
    fn want(&self, config: SpawnConfig) -> Result<()> {
        let store = &self.store;
        let mut disk = store.disk();
        let digest = Digest::of(&config, &store.key);
        if let Some(record) = disk.nodes.get_mut(&config.node_id) {
            if record.digest != digest && !store.has(Flaw::OverwritesOnConflict) {
                return Err(conflict(&config.node_id));
            }
            if record.run.state.is_ended() || store.has(Flaw::SpawnsTwice) {
                if store.has(Flaw::NewUidAtStart) {
                    record.uid = NodeUid::from_bytes(random());
                }
                record.secrets = config.secrets.clone();
                self.start(record);
                store.tell(NodeEvent::Changed {
                    node: Box::new(record.view()),
                });
            } else if record.digest != digest {
                record.digest = digest;
                record.config = config;
            }
            return Ok(());
        }
        let data_path = self.data_path(&disk, &config)?;
        let ports = self.ports(&disk, &config)?;
        let created = store.kernel.make_folder(&data_path);
        let mark = disk.data.entry(data_path.clone()).or_insert(DataMark {
            node: config.node_id.clone(),
            created,
        });
        mark.node = config.node_id.clone();
        let uid = NodeUid::from_bytes(random());
        let mut record = Record {
            secrets: config.secrets.clone(),
            digest,
            ports,
            data_path,
            created_at: Timestamp::now(),
            log: LogFile::new(uid.clone(), store.log_budget),
            uid,
            run: Run::default(),
            changes: watch::channel(()).0,
            orders: None,
            config,
        };
        self.start(&mut record);
        store.tell(NodeEvent::Changed {
            node: Box::new(record.view()),
        });
        disk.nodes.insert(record.config.node_id.clone(), record);
        Ok(())
    }

    fn data_path(&self, disk: &Disk, config: &SpawnConfig) -> Result<PathBuf> {
        let own = || {
            Path::new("/memory")
                .join(self.store.owner.as_str())
                .join(config.node_id.as_str())
        };
        let path = config.storage_path.clone().unwrap_or_else(own);
        // The data of one in that of another would go with it.
        let met = disk.data.iter().find(|(other, mark)| {
            mark.node != config.node_id && (other.starts_with(&path) || path.starts_with(other))
        });
        match met {
            Some((other, mark)) if !self.store.has(Flaw::SharesData) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the data in `{}` is of the node `{}`",
                    other.display(),
                    mark.node
                ),
            )
            .with_hint("Give each node a storage path of its own, or purge that data.")),
            _ => Ok(path),
        }
    }

    fn ports(&self, disk: &Disk, config: &SpawnConfig) -> Result<BTreeMap<String, u16>> {
        let held_by = |port: u16| {
            let mut holders = disk.nodes.values();
            holders
                .find(|r| {
                    r.ports.values().any(|p| *p == port)
                        && !(self.store.has(Flaw::ReleasesPortsAtStop) && r.run.state.is_ended())
                })
                .map(|r| &r.config.node_id)
        };
        let mut ports = BTreeMap::new();
        for (name, wanted) in &config.ports {
            let port = match *wanted {
                0 => loop {
                    let port = self.store.kernel.free_port();
                    if held_by(port).is_none() {
                        break port;
                    }
                },
                port => {
                    let holder = match held_by(port) {
                        Some(node) => format!("the node `{node}`"),
                        None if self.store.kernel.is_bound(port) => "another program".to_owned(),
                        None => {
                            ports.insert(name.clone(), port);
                            continue;
                        }
                    };
                    return Err(Error::new(
                        ErrorKind::PortInUse,
                        format!("the port {port} is taken by {holder}"),
                    )
                    .with_hint("Ask for another port, or for 0 to have one allocated."));
                }
            };
            ports.insert(name.clone(), port);
        }
        Ok(ports)
    }

    /// Waits until a node's life is ready or over.
    async fn become_ready(&self, id: &NodeId) -> Result<SpawnedNode> {
        let mut changes = {
            let disk = self.store.disk();
            let record = disk.nodes.get(id).ok_or_else(|| superseded(id))?;
            record.changes.subscribe()
        };
        loop {
            changes.mark_unchanged();
            {
                let mut disk = self.store.disk();
                let record = disk.nodes.get(id).ok_or_else(|| superseded(id))?;
                let view = record.view();
                if record.run.ready {
                    return Ok(view);
                }
                match view.state {
                    NodeState::Failed { failure } => {
                        if self.store.has(Flaw::ForgetsFailures) {
                            disk.nodes.remove(id);
                        }
                        return Err(Error::spawn_failed(id, failure));
                    }
                    NodeState::Stopped { .. } => return Err(superseded(id)),
                    _ => {}
                }
            }
            // The sender is in the record; when it is gone, so is the node.
            changes.changed().await.map_err(|_| superseded(id))?;
        }
    }

    /// Tells the supervisor to end the program and waits until it has.
    async fn end(&self, id: &NodeId) -> Result<()> {
        let mut changes = {
            let disk = self.store.disk();
            let record = disk.nodes.get(id).ok_or_else(|| Error::not_found(id))?;
            if let Some(orders) = &record.orders {
                // A supervisor that is done has nothing to end.
                let _ = orders.send(Order::Stop);
            }
            record.changes.subscribe()
        };
        if self.store.has(Flaw::StopsEarly) {
            return Ok(());
        }
        loop {
            changes.mark_unchanged();
            let ended = {
                let disk = self.store.disk();
                disk.nodes.get(id).is_none_or(|r| r.run.state.is_ended())
            };
            if ended || changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn remove(&self, id: &NodeId, data: DataPolicy) -> Result<()> {
        match self.end(id).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let store = &self.store;
        let mut disk = store.disk();
        if let Some(record) = disk.nodes.remove(id) {
            record.log.remove();
            store.tell(NodeEvent::Removed {
                node_id: id.clone(),
                uid: record.uid,
            });
        }
        let purge = data == DataPolicy::Purge && !store.has(Flaw::KeepsPurgedData);
        let delete = purge || store.has(Flaw::LosesKeptData);
        let deletable = |mark: &DataMark| mark.created || store.has(Flaw::PurgesForeignData);
        disk.data.retain(|path, mark| {
            if mark.node != *id || !delete {
                return true;
            }
            if deletable(mark) {
                store.kernel.delete_folder(path);
            }
            false
        });
        Ok(())
    }

    fn with_record<T>(&self, id: &NodeId, read: impl FnOnce(&Record) -> T) -> Result<T> {
        let disk = self.store.disk();
        disk.nodes
            .get(id)
            .map(read)
            .ok_or_else(|| Error::not_found(id))
    }

    fn snapshot(disk: &Disk) -> Vec<SpawnedNode> {
        disk.nodes.values().map(Record::view).collect()
    }
}

fn conflict(id: &NodeId) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("the node `{id}` exists with another request"),
    )
    .with_hint("`grid update` changes a node; `grid rm` makes room for another.")
}

fn superseded(id: &NodeId) -> Error {
    Error::new(
        ErrorKind::Superseded,
        format!("the spawn of `{id}` was superseded by a stop or a remove"),
    )
}

/// How much memory the simulated host has, in MiB.
const HOST_MEMORY_MB: u64 = 1 << 20;

/// Refuses a limit that the host could never reach.
fn check_memory(config: &SpawnConfig) -> Result<()> {
    match config.memory_limit_mb.filter(|mb| *mb > HOST_MEMORY_MB) {
        Some(mb) => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("`memory_limit_mb` is {mb}, and the host has {HOST_MEMORY_MB} MiB"),
        )
        .with_hint("Lower `memory_limit_mb`, or leave it out for no limit.")),
        None => Ok(()),
    }
}

/// Refuses what the capabilities do not list.
fn check_supported(config: &SpawnConfig) -> Result<()> {
    let asked = [
        ("cpu_limit_millis", config.cpu_limit_millis.is_some()),
        ("pids_limit", config.pids_limit.is_some()),
        ("storage_size_mb", config.storage_size_mb.is_some()),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((what, _)) => Err(Error::unsupported(NAME, what)
            .with_hint(format!("Leave `{what}` out on this platform."))),
        None => Ok(()),
    }
}

fn capabilities() -> Capabilities {
    let mut all = Capabilities::none();
    all.binary_programs = true;
    all.image_programs = true;
    all.restart_modes = [
        RestartMode::Never,
        RestartMode::OnFailure,
        RestartMode::Always,
    ]
    .into();
    all.restart_tuning = true;
    all.trial = true;
    all.memory_limit = true;
    all.open_files_limit = true;
    all.storage_path = true;
    all.user = true;
    all.secrets = true;
    all.secret_env = true;
    all.health_checks = true;
    all.port_allocation = true;
    all.exclusive_ports = true;
    all.stop_signal = true;
    all.logs_after_stop = true;
    all.logs_since = true;
    all.log_streams = true;
    all.usage = true;
    all.nodes_outlive_adapter = true;
    all
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Platform for MemoryPlatform {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        capabilities()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        Ok(PlatformInfo {
            platform: NAME.to_owned(),
            version: None,
            owner: self.store.owner.clone(),
            capabilities: capabilities(),
            checks: vec![Check {
                name: "memory".to_owned(),
                status: CheckStatus::Ok,
                detail: "nodes are tasks of this program".to_owned(),
                hint: None,
            }],
        })
    }

    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        let id = config.node_id.clone();
        let spawned = async {
            if !self.store.has(Flaw::TakesWhatIsMalformed) {
                config.validate()?;
            }
            check_supported(&config)?;
            if !self.store.has(Flaw::PromisesAnyMemory) {
                check_memory(&config)?;
            }
            let work = async {
                self.want(config)?;
                self.become_ready(&id).await
            };
            if self.store.has(Flaw::NotSerial) {
                return work.await;
            }
            if self.store.has(Flaw::StopWaitsForSpawn) {
                return self.locks.interrupt(&id, work).await;
            }
            self.locks.interruptible(&id, work).await
        };
        spawned.await.map_err(|e| self.fault(e, "spawn_node", &id))
    }

    async fn stop_node(&self, node_id: &NodeId) -> Result<()> {
        let ended = if self.store.has(Flaw::NotSerial) {
            self.end(node_id).await
        } else {
            self.locks.interrupt(node_id, self.end(node_id)).await
        };
        ended.map_err(|e| self.fault(e, "stop_node", node_id))
    }

    async fn force_stop_node(&self, node_id: &NodeId) -> Result<()> {
        let error = Error::unsupported(NAME, "force_stop_node")
            .with_hint("Every stop is confirmed here: use a plain one.");
        Err(self.fault(error, "force_stop_node", node_id))
    }

    async fn remove_node(&self, node_id: &NodeId, data: DataPolicy) -> Result<()> {
        let removed = self
            .locks
            .interrupt(node_id, self.remove(node_id, data))
            .await;
        removed.map_err(|e| self.fault(e, "remove_node", node_id))
    }

    async fn is_node_alive(&self, node_id: &NodeId) -> Result<bool> {
        let alive =
            |record: &Record| matches!(record.run.state, NodeState::Running | NodeState::Stopping);
        Ok(self.with_record(node_id, alive).unwrap_or(false))
    }

    async fn get_node_status(&self, node_id: &NodeId) -> Result<SpawnedNode> {
        self.with_record(node_id, Record::view)
            .map_err(|e| self.fault(e, "get_node_status", node_id))
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        Ok(Self::snapshot(&self.store.disk()))
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        let disk = self.store.disk();
        let mut all: Vec<NodeData> = disk
            .data
            .iter()
            .map(|(path, mark)| NodeData {
                node_id: mark.node.clone(),
                location: path.display().to_string(),
                in_use: disk
                    .nodes
                    .get(&mark.node)
                    .is_some_and(|r| r.data_path == *path),
                created_by_platform: mark.created,
                bytes: self.store.kernel.folder(path).map(|f| f.bytes()),
            })
            .collect();
        all.sort_by(|a, b| (&a.node_id, &a.location).cmp(&(&b.node_id, &b.location)));
        Ok(all)
    }

    async fn get_logs(&self, node_id: &NodeId, lines: usize) -> Result<Vec<String>> {
        self.with_record(node_id, |record| record.log.tail(lines))
            .map_err(|e| self.fault(e, "get_logs", node_id))
    }

    async fn follow_logs(&self, node_id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        self.with_record(node_id, |record| record.log.follow(&cursor))
            .and_then(|followed| followed)
            .map_err(|e| self.fault(e, "follow_logs", node_id))
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        let store = Arc::clone(&self.store);
        // Both under the lock: nothing falls between the snapshot and what follows it.
        let (events, nodes) = {
            let disk = store.disk();
            (store.events.subscribe(), Self::snapshot(&disk))
        };
        let first = futures::stream::iter([Ok(NodeEvent::Snapshot { nodes })]);
        let later = futures::stream::unfold(
            (store, events, false),
            |(store, mut events, lost)| async move {
                if lost {
                    let nodes = {
                        let disk = store.disk();
                        events = store.events.subscribe();
                        Self::snapshot(&disk)
                    };
                    return Some((Ok(NodeEvent::Snapshot { nodes }), (store, events, false)));
                }
                match events.recv().await {
                    Ok(event) => Some((Ok(event), (store, events, false))),
                    Err(RecvError::Lagged(count)) => {
                        let reason = format!("{count} events were not read in time");
                        Some((Ok(NodeEvent::Resync { reason }), (store, events, true)))
                    }
                    Err(RecvError::Closed) => None,
                }
            },
        );
        Ok(Box::pin(first.chain(later)))
    }

    async fn get_usage(&self, node_id: &NodeId) -> Result<NodeUsage> {
        let usage = |record: &Record| {
            let kernel = &self.store.kernel;
            let running = record.run.pid.map(|pid| kernel.usage(pid));
            let (memory, cpu, processes) = running.unwrap_or_default();
            NodeUsage {
                at: Timestamp::now(),
                cpu_time_ms: Some(cpu),
                memory_bytes: Some(memory),
                memory_limit_bytes: record.config.memory_limit_mb.map(|mb| mb << 20),
                disk_bytes: kernel.folder(&record.data_path).map(|f| f.bytes()),
                processes: Some(processes),
            }
        };
        self.with_record(node_id, usage)
            .map_err(|e| self.fault(e, "get_usage", node_id))
    }
}
