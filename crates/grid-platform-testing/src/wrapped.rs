//! Harnesses around harnesses.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use grid_platform_api::{
    NodeId, Platform, Program, SpawnedNode, async_trait,
    wrap::{Limit, Retry, Serial, Trace},
};

use crate::{BadProgram, Boot, Fixture, Harness, LiveProcess, Outcome, PortHold, Survey};

/// The harness, and it in the clothes of every wrapper that the contract's crate has, each under a name of its own:
/// `docker`, `docker-limit`, `docker-retry`, `docker-serial`, `docker-trace`.
pub fn with_wrappers(harness: Arc<dyn Harness>) -> Vec<Arc<dyn Harness>> {
    fn wrapped<F>(inner: &Arc<dyn Harness>, name: &str, dress: F) -> Arc<dyn Harness>
    where
        F: Fn(Arc<dyn Platform>) -> Arc<dyn Platform> + Clone + Send + Sync + 'static,
    {
        let name = format!("{}-{name}", inner.name());
        Arc::new(Wrapped::new(name, Arc::clone(inner), dress))
    }
    let pause = Duration::from_millis(1);
    vec![
        wrapped(&harness, "limit", |p| Arc::new(Limit::new(p, 4))),
        wrapped(&harness, "retry", move |p| {
            Arc::new(Retry::new(p, 3, pause))
        }),
        wrapped(&harness, "serial", |p| Arc::new(Serial::new(p))),
        wrapped(&harness, "trace", |p| Arc::new(Trace::new(p))),
        harness,
    ]
}

/// A [`Harness`] around another: each platform it opens is dressed by a function.
pub struct Wrapped<F> {
    name: String,
    inner: Arc<dyn Harness>,
    dress: F,
}

impl<F> Wrapped<F>
where
    F: Fn(Arc<dyn Platform>) -> Arc<dyn Platform> + Clone + Send + Sync + 'static,
{
    /// `inner`'s platforms, dressed by `dress`, under the name `name`.
    pub fn new(name: impl Into<String>, inner: Arc<dyn Harness>, dress: F) -> Self {
        Self {
            name: name.into(),
            inner,
            dress,
        }
    }
}

#[async_trait]
impl<F> Harness for Wrapped<F>
where
    F: Fn(Arc<dyn Platform>) -> Arc<dyn Platform> + Clone + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn is_simulated(&self) -> bool {
        self.inner.is_simulated()
    }

    fn case_limit(&self) -> Duration {
        self.inner.case_limit()
    }

    fn clean_limit(&self) -> Duration {
        self.inner.clean_limit()
    }

    async fn survey(&self) -> Outcome<Survey> {
        self.inner.survey().await
    }

    async fn fixture(&self) -> Outcome<Box<dyn Fixture>> {
        Ok(Box::new(WrappedFixture {
            inner: self.inner.fixture().await?,
            dress: self.dress.clone(),
        }))
    }
}

struct WrappedFixture<F> {
    inner: Box<dyn Fixture>,
    dress: F,
}

#[async_trait]
impl<F> Fixture for WrappedFixture<F>
where
    F: Fn(Arc<dyn Platform>) -> Arc<dyn Platform> + Send + Sync,
{
    async fn open(&self) -> Outcome<Arc<dyn Platform>> {
        Ok((self.dress)(self.inner.open().await?))
    }

    async fn open_stranger(&self) -> Outcome<Arc<dyn Platform>> {
        Ok((self.dress)(self.inner.open_stranger().await?))
    }

    fn probe(&self, actions: &[&str]) -> Outcome<Program> {
        self.inner.probe(actions)
    }

    fn bad_program(&self, which: BadProgram) -> Outcome<Program> {
        self.inner.bad_program(which)
    }

    async fn census(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>> {
        self.inner.census(id).await
    }

    async fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>> {
        self.inner.boots(id).await
    }

    async fn ask(&self, node: &SpawnedNode, action: &str) -> Outcome<String> {
        self.inner.ask(node, action).await
    }

    async fn occupy_port(&self) -> Outcome<PortHold> {
        self.inner.occupy_port().await
    }

    fn storage_path(&self) -> PathBuf {
        self.inner.storage_path()
    }

    async fn put_file(&self, path: &Path) -> Outcome {
        self.inner.put_file(path).await
    }

    async fn has_file(&self, path: &Path) -> Outcome<bool> {
        self.inner.has_file(path).await
    }

    async fn clean_up(&self) -> Outcome {
        self.inner.clean_up().await
    }
}
