//! What a case has in its hands.

use std::{
    future::Future,
    net::TcpListener,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use grid_platform_api::{
    Error, ErrorKind, HealthCheck, LogCursor, LogItem, NodeId, Platform, PlatformExt, Program,
    ReadyMode, RestartMode, RestartPolicy, SpawnConfig, SpawnConfigBuilder, SpawnedNode,
    StopPolicy,
};

use crate::{Boot, Failed, Fixture, LiveProcess, Outcome, Survey, eventually};

/// The longest that a case waits for one thing, unless a [`Survey`] says otherwise. Far beyond what any platform's local work needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a node has to end when it is asked to, unless a case says otherwise. Far beyond what the probe needs, and well within
/// [`PATIENCE`]: as the first process of a container, what is asked of it before it listens for it is lost, and the engine's stop
/// waits the whole grace.
const GRACE: Duration = Duration::from_secs(10);

/// One case's platform, its fixture, and the handful of steps that most cases are made of.
pub struct Context {
    fixture: Box<dyn Fixture>,
    survey: Survey,
    platform: Mutex<Option<Arc<dyn Platform>>>,
    met_stranger: AtomicBool,
    tag: String,
}

impl Context {
    pub(crate) async fn open(fixture: Box<dyn Fixture>, survey: Survey) -> Outcome<Self> {
        let platform = fixture.open().await?;
        Ok(Self {
            fixture,
            survey,
            platform: Mutex::new(Some(platform)),
            met_stranger: AtomicBool::new(false),
            tag: tag(),
        })
    }

    /// The fixture, the platform if one is open, and whether there was a stranger.
    pub(crate) fn close(self) -> (Box<dyn Fixture>, Option<Arc<dyn Platform>>, bool) {
        let platform = self.slot().take();
        (self.fixture, platform, self.met_stranger.into_inner())
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<dyn Platform>>> {
        self.platform.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The platform. Not to be held over a [`reopen`](Self::reopen): a state has one adapter at a time.
    ///
    /// # Panics
    /// While there is none, inside [`away`](Self::away).
    pub fn platform(&self) -> Arc<dyn Platform> {
        match &*self.slot() {
            Some(platform) => Arc::clone(platform),
            None => panic!("there is no adapter at the moment"),
        }
    }

    /// The fixture.
    pub fn fixture(&self) -> &dyn Fixture {
        &*self.fixture
    }

    /// What the platform was surveyed to be.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Drops the adapter, as if its process had died, and opens another over the same state.
    ///
    /// # Errors
    /// The fixture's.
    pub async fn reopen(&self) -> Outcome {
        self.away(async { Ok(()) }).await
    }

    /// Like [`reopen`](Self::reopen) where nodes outlive their adapter, and nothing where they do not.
    ///
    /// # Errors
    /// The fixture's.
    pub async fn reopen_if_possible(&self) -> Outcome {
        if self.survey.capabilities.nodes_outlive_adapter {
            self.reopen().await?;
        }
        Ok(())
    }

    /// Drops the adapter, does something while there is none, and opens another.
    ///
    /// # Errors
    /// Those of `meanwhile` and of the fixture.
    pub async fn away<T>(&self, meanwhile: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        self.slot().take();
        let result = meanwhile.await;
        let platform = self
            .fixture
            .open()
            .await
            .map_err(|e| e.during("opening the platform again"))?;
        *self.slot() = Some(platform);
        result
    }

    /// A platform of another owner.
    ///
    /// # Errors
    /// The fixture's.
    pub async fn stranger(&self) -> Outcome<Arc<dyn Platform>> {
        self.met_stranger.store(true, Ordering::SeqCst);
        self.fixture.open_stranger().await
    }

    /// The id of this case's node of that name. Cases of one engine or cluster run at the same time, and must not
    /// take each other's names.
    ///
    /// # Panics
    /// For a name that no id can begin with.
    pub fn id(&self, name: &str) -> NodeId {
        match NodeId::new(format!("{name}-{}", self.tag)) {
            Ok(id) => id,
            Err(error) => panic!("{error}"),
        }
    }

    /// A request for a probe: with a main port, ready when started, not restarted if that is possible.
    ///
    /// # Errors
    /// The fixture's.
    pub fn probe(&self, name: &str, actions: &[&str]) -> Outcome<SpawnConfigBuilder> {
        let program = self.fixture.probe(actions)?;
        Ok(self.bare(name, program).port(self.any_port()))
    }

    /// The request that a node was made of by [`probe`](Self::probe) with nothing added, with these actions.
    ///
    /// # Errors
    /// The fixture's.
    pub fn same(&self, node: &SpawnedNode, actions: &[&str]) -> Outcome<SpawnConfigBuilder> {
        let id = node.node_id.as_str();
        let name = id.strip_suffix(&format!("-{}", self.tag)).unwrap_or(id);
        let config = self.probe(name, actions)?;
        if self.survey.capabilities.port_allocation {
            return Ok(config);
        }
        // What was asked for then is a number, and asked for again.
        let main = node.ports.get(grid_platform_api::MAIN_PORT).copied();
        Ok(config.port(main.unwrap_or_default()))
    }

    /// A request for a program without ports, ready when started, not restarted if that is possible.
    pub fn bare(&self, name: &str, program: Program) -> SpawnConfigBuilder {
        let modes = &self.survey.capabilities.restart_modes;
        let mode = [
            RestartMode::Never,
            RestartMode::OnFailure,
            RestartMode::Always,
        ]
        .into_iter()
        .find(|mode| modes.contains(mode))
        .unwrap_or_default();
        SpawnConfig::builder(self.id(name).as_str(), program)
            .ready(ReadyMode::Started)
            .restart(mode)
            .stop(StopPolicy {
                grace: GRACE,
                ..StopPolicy::default()
            })
    }

    /// A policy by which a program is restarted, where the platform restarts any.
    pub(crate) fn restarting(&self) -> RestartPolicy {
        let modes = &self.survey.capabilities.restart_modes;
        let mode = [RestartMode::OnFailure, RestartMode::Always]
            .into_iter()
            .find(|mode| modes.contains(mode));
        quickly(mode.unwrap_or(RestartMode::Never))
    }

    /// What a request says for a port of the platform's choice: 0, or a free one where the platform allocates none.
    pub fn any_port(&self) -> u16 {
        if self.survey.capabilities.port_allocation {
            return 0;
        }
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        free.map_or(0, |address| address.port())
    }

    /// Spawns a probe and waits until it answers.
    ///
    /// # Errors
    /// The platform's; when the probe does not answer.
    pub async fn spawn(&self, config: SpawnConfigBuilder) -> Outcome<SpawnedNode> {
        let node = self.platform().spawn_node(config.build()?).await?;
        self.answers(&node).await?;
        Ok(node)
    }

    /// Waits until the probe of a node answers, and gives the number of its boot.
    ///
    /// # Errors
    /// When it does not.
    pub async fn answers(&self, node: &SpawnedNode) -> Outcome<u32> {
        eventually(self.survey.patience, "the probe to answer", || async {
            match self.fixture.ask(node, "boot").await {
                Ok(boot) => Ok(Some(boot.parse().map_err(|_| Failed::new(boot))?)),
                Err(_) => Ok(None),
            }
        })
        .await
    }

    /// Has the probe of a node do something.
    ///
    /// # Errors
    /// The fixture's.
    pub async fn ask(&self, node: &SpawnedNode, action: &str) -> Outcome<String> {
        self.fixture.ask(node, action).await
    }

    /// The node as the platform shows it.
    ///
    /// # Errors
    /// The platform's.
    pub async fn status(&self, id: &NodeId) -> Outcome<SpawnedNode> {
        Ok(self.platform().get_node_status(id).await?)
    }

    /// Waits by the platform's events until the node is as wanted, and gives it.
    ///
    /// # Errors
    /// After the survey's [`patience`](Survey::patience), with what was waited for and the state that was last seen.
    pub async fn wait(
        &self,
        id: &NodeId,
        what: &str,
        wanted: impl Fn(&SpawnedNode) -> bool + Send + Sync,
    ) -> Outcome<SpawnedNode> {
        seen(&*self.platform(), id, self.survey.patience, what, wanted).await
    }

    /// The node's live processes.
    ///
    /// # Errors
    /// The fixture's.
    pub async fn census(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>> {
        self.fixture.census(id).await
    }

    /// The starts that the probe wrote down.
    ///
    /// # Errors
    /// The fixture's.
    pub async fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>> {
        self.fixture.boots(id).await
    }

    /// Fails if a process of the node lives now.
    ///
    /// # Errors
    /// Names the processes.
    pub async fn nothing_lives(&self, id: &NodeId) -> Outcome {
        let live = self.census(id).await?;
        if live.is_empty() {
            return Ok(());
        }
        Err(Failed::new(format!(
            "`{id}` has processes and should have none: {live:?}"
        )))
    }

    /// Waits until the probe wrote down so many starts, and fails if it ever wrote more.
    ///
    /// # Errors
    /// When there are too few after the survey's [`patience`](Survey::patience), or too many.
    pub async fn booted(&self, id: &NodeId, times: usize) -> Outcome<Vec<Boot>> {
        let limit = self.survey.patience;
        let boots = eventually(limit, &format!("{times} boots of `{id}`"), || async {
            let boots = self.boots(id).await?;
            Ok((boots.len() >= times).then_some(boots))
        })
        .await?;
        if boots.len() > times {
            return Err(Failed::new(format!(
                "`{id}` was started {} times and should have been {times} times",
                boots.len()
            )));
        }
        Ok(boots)
    }

    /// Reads a node's log from `cursor` until `enough` says so of what was read.
    ///
    /// # Errors
    /// The platform's; when the log ends, or nothing comes for [`PATIENCE`].
    pub async fn follow(
        &self,
        id: &NodeId,
        cursor: LogCursor,
        enough: impl Fn(&[LogItem]) -> bool,
    ) -> Outcome<Vec<LogItem>> {
        let platform = self.platform();
        let mut stream = platform.follow_logs(id, cursor).await?;
        drop(platform);
        read_until(&mut stream, enough).await
    }
}

/// Waits by the platform's events until a node is as wanted, and gives it.
///
/// # Errors
/// After `limit`, with what was waited for and the node as it was last seen.
pub async fn seen(
    platform: &dyn Platform,
    id: &NodeId,
    limit: Duration,
    what: &str,
    wanted: impl Fn(&SpawnedNode) -> bool + Send + Sync,
) -> Outcome<SpawnedNode> {
    let seen = Mutex::new(None);
    let waited = platform
        .wait_for(id, limit, |node| {
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = node.cloned();
            node.is_some_and(&wanted)
        })
        .await;
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    match waited {
        Ok(()) => Ok(seen.ok_or("the node was seen and lost")?),
        Err(e) => Err(Failed::from(e).during(&format!("{what}; last seen was {seen:?}"))),
    }
}

/// Six letters and digits that differ each time.
fn tag() -> String {
    crate::memory::random::<6>()
        .iter()
        .map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz012345"[usize::from(byte % 32)]))
        .collect()
}

/// Reads on in a log until `enough` says so of what was read here.
///
/// # Errors
/// The platform's; when the log ends, or nothing comes for [`PATIENCE`].
pub(crate) async fn read_until(
    stream: &mut grid_platform_api::LogStream,
    enough: impl Fn(&[LogItem]) -> bool,
) -> Outcome<Vec<LogItem>> {
    use futures::StreamExt;
    let mut items = Vec::new();
    while !enough(&items) {
        match tokio::time::timeout(PATIENCE, stream.next()).await {
            Ok(Some(item)) => items.push(item?),
            Ok(None) => {
                return Err(Failed::new(format!(
                    "the log ended after {} items",
                    items.len()
                )));
            }
            Err(_) => {
                return Err(Failed::new(format!(
                    "the log says no more after {} items, the last being {:?}",
                    items.len(),
                    items.last()
                )));
            }
        }
    }
    Ok(items)
}

/// The error of a call that has to fail, of this kind.
///
/// # Errors
/// When the call succeeded, or failed otherwise.
pub fn fails<T>(result: grid_platform_api::Result<T>, kind: ErrorKind) -> Outcome<Error> {
    match result {
        Err(error) if error.kind() == kind => Ok(error),
        Err(error) => Err(Failed::from(error).during(&format!("expected {kind}"))),
        Ok(_) => Err(Failed::new(format!(
            "expected {kind}, and the call succeeded"
        ))),
    }
}

/// Lets time pass in which something must not happen: a thing that does not happen has no event.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// A health check that asks often: a change shows within a tenth of a second.
pub(crate) fn quick(mut check: HealthCheck) -> HealthCheck {
    check.interval = Duration::from_millis(25);
    check.timeout = Duration::from_secs(2);
    check.threshold = 2;
    check
}

/// A restart policy that does not keep a test waiting.
pub(crate) fn quickly(mode: RestartMode) -> RestartPolicy {
    RestartPolicy {
        mode,
        initial_backoff: Duration::from_millis(20),
        max_backoff: Duration::from_millis(100),
        ..RestartPolicy::default()
    }
}
