//! Faults on demand, around any platform.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use grid_platform_api::{
    Capabilities, DataPolicy, Error, ErrorKind, LogCursor, LogStream, NodeData, NodeEventStream,
    NodeId, NodeUsage, Platform, PlatformInfo, Result, SpawnConfig, SpawnedNode, async_trait,
};

/// A fault, and the calls that it befalls.
#[derive(Clone, Debug)]
pub struct Fault {
    what: What,
    operations: BTreeSet<&'static str>,
    skip: u64,
    left: u64,
    chance: f64,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// The call fails and nothing was done.
    Before(ErrorKind),
    /// Everything was done, and the call fails.
    After(ErrorKind),
    Delay(Duration),
    /// Everything was done, and the answer never comes.
    Drop,
}

impl Fault {
    fn new(what: What) -> Self {
        Self {
            what,
            operations: BTreeSet::new(),
            skip: 0,
            left: u64::MAX,
            chance: 1.0,
        }
    }

    /// The call fails with this kind and nothing was done.
    pub fn before(kind: ErrorKind) -> Self {
        Self::new(What::Before(kind))
    }

    /// The call is made, succeeds, and fails with this kind all the same: its answer was lost and that was noticed.
    pub fn after(kind: ErrorKind) -> Self {
        Self::new(What::After(kind))
    }

    /// The call is made after this time.
    pub fn delay(by: Duration) -> Self {
        Self::new(What::Delay(by))
    }

    /// The call is made, and never returns: its answer was lost and nobody noticed.
    pub fn drop_answer() -> Self {
        Self::new(What::Drop)
    }

    /// Only calls of this method, by the trait's name for it; may be given several times. Without it, all methods
    /// that can fail.
    #[must_use]
    pub fn on(mut self, operation: &'static str) -> Self {
        self.operations.insert(operation);
        self
    }

    /// Not the first so many of these calls.
    #[must_use]
    pub fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// At most so many of these calls.
    #[must_use]
    pub fn times(mut self, calls: u64) -> Self {
        self.left = calls;
        self
    }

    /// Each of these calls with this chance, from 0 to 1, by the seed of [`Faults::new`].
    #[must_use]
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }
}

/// A platform whose calls meet faults.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::sync::Arc;
/// use grid_platform_api::{ErrorKind, Platform};
/// use grid_platform_testing::{Fault, Faults, MemoryPlatform};
///
/// let platform = Faults::new(Arc::new(MemoryPlatform::new()), 7);
/// platform.add(Fault::before(ErrorKind::Unavailable).on("list_nodes").times(1));
/// assert_eq!(platform.list_nodes().await.unwrap_err().kind(), ErrorKind::Unavailable);
/// assert!(platform.list_nodes().await.is_ok());
/// assert_eq!(platform.met(), 1);
/// # }
/// ```
pub struct Faults {
    inner: Arc<dyn Platform>,
    plan: Mutex<Plan>,
    met: AtomicU64,
}

struct Plan {
    faults: Vec<Fault>,
    random: u64,
}

impl Faults {
    /// Around `inner`, with no fault yet. The same seed and the same calls meet the same faults.
    pub fn new(inner: Arc<dyn Platform>, seed: u64) -> Self {
        Self {
            inner,
            plan: Mutex::new(Plan {
                faults: Vec::new(),
                random: seed,
            }),
            met: AtomicU64::new(0),
        }
    }

    /// Adds a fault from now on. A call meets the first one that befalls it.
    pub fn add(&self, fault: Fault) {
        self.plan().faults.push(fault);
    }

    /// Takes all faults away.
    pub fn clear(&self) {
        self.plan().faults.clear();
    }

    /// How many calls met a fault.
    pub fn met(&self) -> u64 {
        self.met.load(Ordering::SeqCst)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run<T>(
        &self,
        operation: &'static str,
        node: Option<&NodeId>,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let what = self.plan().draw(operation);
        if what.is_some() {
            self.met.fetch_add(1, Ordering::SeqCst);
        }
        let fault = |kind: ErrorKind, words: &str| {
            let error = Error::new(kind, words)
                .with_hint("This fault was injected by a test.")
                .with_platform(self.inner.name())
                .with_operation(operation);
            match node {
                Some(id) => error.with_node(id),
                None => error,
            }
        };
        match what {
            None => call.await,
            Some(What::Before(kind)) => Err(fault(kind, "the call was not made")),
            Some(What::After(kind)) => {
                call.await?;
                Err(fault(kind, "the call was made and its answer lost"))
            }
            Some(What::Delay(by)) => {
                tokio::time::sleep(by).await;
                call.await
            }
            Some(What::Drop) => {
                // Not held on to: what the answer holds must be let go as if it had been lost.
                drop(call.await);
                std::future::pending().await
            }
        }
    }
}

impl Plan {
    /// The fault that this call meets.
    fn draw(&mut self, operation: &'static str) -> Option<What> {
        let Self { faults, random } = self;
        let mut befalls = |fault: &mut Fault| {
            if !fault.operations.is_empty() && !fault.operations.contains(operation) {
                return false;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return false;
            }
            if fault.left == 0 || (fault.chance < 1.0 && next(random) >= fault.chance) {
                return false;
            }
            fault.left -= 1;
            true
        };
        faults
            .iter_mut()
            .find_map(|fault| befalls(fault).then_some(fault.what))
    }
}

/// The next number from 0 to 1 (SplitMix64, Steele et al. 2014).
fn next(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // The upper 32 bits: a float of 64 bits holds them exactly.
    f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(u32::MAX))
        / (f64::from(u32::MAX) + 1.0)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Platform for Faults {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn probe(&self) -> Result<PlatformInfo> {
        self.run("probe", None, self.inner.probe()).await
    }

    async fn spawn_node(&self, config: SpawnConfig) -> Result<SpawnedNode> {
        let id = config.node_id.clone();
        self.run("spawn_node", Some(&id), self.inner.spawn_node(config))
            .await
    }

    async fn stop_node(&self, id: &NodeId) -> Result<()> {
        self.run("stop_node", Some(id), self.inner.stop_node(id))
            .await
    }

    async fn force_stop_node(&self, id: &NodeId) -> Result<()> {
        self.run("force_stop_node", Some(id), self.inner.force_stop_node(id))
            .await
    }

    async fn remove_node(&self, id: &NodeId, data: DataPolicy) -> Result<()> {
        self.run("remove_node", Some(id), self.inner.remove_node(id, data))
            .await
    }

    async fn is_node_alive(&self, id: &NodeId) -> Result<bool> {
        self.run("is_node_alive", Some(id), self.inner.is_node_alive(id))
            .await
    }

    async fn get_node_status(&self, id: &NodeId) -> Result<SpawnedNode> {
        self.run("get_node_status", Some(id), self.inner.get_node_status(id))
            .await
    }

    async fn list_nodes(&self) -> Result<Vec<SpawnedNode>> {
        self.run("list_nodes", None, self.inner.list_nodes()).await
    }

    async fn list_data(&self) -> Result<Vec<NodeData>> {
        self.run("list_data", None, self.inner.list_data()).await
    }

    async fn get_logs(&self, id: &NodeId, lines: usize) -> Result<Vec<String>> {
        self.run("get_logs", Some(id), self.inner.get_logs(id, lines))
            .await
    }

    async fn follow_logs(&self, id: &NodeId, cursor: LogCursor) -> Result<LogStream> {
        self.run("follow_logs", Some(id), self.inner.follow_logs(id, cursor))
            .await
    }

    async fn watch_nodes(&self) -> Result<NodeEventStream> {
        self.run("watch_nodes", None, self.inner.watch_nodes())
            .await
    }

    async fn get_usage(&self, id: &NodeId) -> Result<NodeUsage> {
        self.run("get_usage", Some(id), self.inner.get_usage(id))
            .await
    }
}

#[cfg(test)]
mod tests {
    use grid_platform_api::Program;

    use super::*;
    use crate::MemoryPlatform;

    fn config() -> SpawnConfig {
        let program = Program::binary("memory:server", [""; 0]);
        SpawnConfig::builder("n1", program).build().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn before_does_nothing_and_after_does_all() {
        let platform = Faults::new(Arc::new(MemoryPlatform::new()), 1);
        platform.add(
            Fault::before(ErrorKind::Unavailable)
                .on("spawn_node")
                .times(1),
        );
        platform.add(Fault::after(ErrorKind::Timeout).on("spawn_node").times(1));
        let kind = platform.spawn_node(config()).await.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Unavailable);
        assert!(platform.list_nodes().await.unwrap().is_empty());
        let kind = platform.spawn_node(config()).await.unwrap_err().kind();
        assert_eq!(kind, ErrorKind::Timeout);
        assert_eq!(platform.list_nodes().await.unwrap().len(), 1);
        platform.spawn_node(config()).await.unwrap();
        assert_eq!(platform.met(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_answer_never_comes_and_the_work_is_done() {
        let platform = Faults::new(Arc::new(MemoryPlatform::new()), 1);
        platform.add(Fault::drop_answer().on("spawn_node"));
        platform.add(Fault::delay(Duration::from_secs(5)).on("list_nodes"));
        let spawning = platform.spawn_node(config());
        let limit = Duration::from_secs(3600);
        assert!(tokio::time::timeout(limit, spawning).await.is_err());
        let before = tokio::time::Instant::now();
        assert_eq!(platform.list_nodes().await.unwrap().len(), 1);
        assert_eq!(before.elapsed(), Duration::from_secs(5));
    }

    #[test]
    fn one_seed_is_one_sequence() {
        let draw = |seed| {
            let fault = Fault::before(ErrorKind::Stale).chance(0.25).skip(10);
            let mut plan = Plan {
                faults: vec![fault],
                random: seed,
            };
            (0..1000)
                .map(|_| plan.draw("list_nodes").is_some())
                .collect::<Vec<_>>()
        };
        let met = draw(1).iter().filter(|met| **met).count();
        assert!((200..300).contains(&met), "{met} of 990 at a quarter");
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(
            draw(3)[..10].iter().all(|met| !met),
            "the first ten are left out"
        );
    }
}
