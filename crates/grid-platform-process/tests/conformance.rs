//! The conformance suite on the process platform, and on it in the clothes of every wrapper.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use grid_platform_api::{
    NodeId, Platform, Program, async_trait,
    wrap::{Limit, Retry, Serial, Trace},
};
use grid_platform_process::{Allow, ProcessConfig, ProcessPlatform};
use grid_platform_testing::{
    BadProgram, Boot, Failed, Fixture, Harness, HostPlace, LiveProcess, Outcome, Survey, Wrapped,
};

/// Little enough to be overrun by a test.
const LOG_BUDGET: u64 = 2 * 1024 * 1024;

fn config(home: &Path, root: &Path, ports: (u16, u16)) -> ProcessConfig {
    ProcessConfig {
        programs: Allow::Any,
        users: vec!["nobody".to_owned()],
        storage_roots: vec![root.to_owned()],
        log_max_bytes: LOG_BUDGET,
        port_range: ports,
        ..ProcessConfig::new(home.join("state"), home.join("data"))
    }
}

async fn open(config: ProcessConfig) -> Outcome<Arc<dyn Platform>> {
    Ok(Arc::new(ProcessPlatform::open(config).await?))
}

pub(crate) struct Processes;

#[async_trait]
impl Harness for Processes {
    fn name(&self) -> &str {
        "process"
    }

    async fn survey(&self) -> Outcome<Survey> {
        let place = HostPlace::new()?;
        let platform = open(config(place.path(), place.path(), place.new_ports())).await?;
        let mut survey = Survey::new(platform.capabilities());
        survey.log_budget = Some(LOG_BUDGET);
        survey.other_user = survey
            .capabilities
            .user
            .then(|| ("nobody".to_owned(), 65_534));
        Ok(survey)
    }

    async fn fixture(&self) -> Outcome<Box<dyn Fixture>> {
        let host = HostPlace::new()?;
        Ok(Box::new(Place {
            ports: host.new_ports(),
            strangers_ports: host.new_ports(),
            host,
        }))
    }
}

struct Place {
    host: HostPlace,
    ports: (u16, u16),
    strangers_ports: (u16, u16),
}

#[async_trait]
impl Fixture for Place {
    async fn open(&self) -> Outcome<Arc<dyn Platform>> {
        open(config(self.host.path(), self.host.path(), self.ports)).await
    }

    async fn open_stranger(&self) -> Outcome<Arc<dyn Platform>> {
        open(config(
            &self.host.stranger(),
            self.host.path(),
            self.strangers_ports,
        ))
        .await
    }

    fn probe(&self, actions: &[&str]) -> Outcome<Program> {
        self.host.probe(actions)
    }

    fn bad_program(&self, which: BadProgram) -> Outcome<Program> {
        self.host.bad_program(which)
    }

    async fn census(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>> {
        self.host.processes(id)
    }

    async fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>> {
        self.host.boots(id)
    }

    fn storage_path(&self) -> PathBuf {
        self.host.new_path()
    }

    async fn clean_up(&self) -> Outcome {
        self.host.clean_up().await?;
        for home in [self.host.path().to_owned(), self.host.stranger()] {
            let nodes = home.join("state/nodes");
            let left: Vec<_> = fs::read_dir(&nodes)
                .into_iter()
                .flatten()
                .flatten()
                .collect();
            if !left.is_empty() {
                return Err(Failed::new(format!("records were left behind: {left:?}")));
            }
        }
        Ok(())
    }
}

fn wrapped<F>(name: &str, dress: F) -> Arc<dyn Harness>
where
    F: Fn(Arc<dyn Platform>) -> Arc<dyn Platform> + Clone + Send + Sync + 'static,
{
    Arc::new(Wrapped::new(name, Arc::new(Processes), dress))
}

pub(crate) fn main() -> ExitCode {
    let pause = Duration::from_millis(1);
    grid_platform_testing::run(vec![
        Arc::new(Processes),
        wrapped("process-limit", |p| Arc::new(Limit::new(p, 4))),
        wrapped("process-retry", move |p| Arc::new(Retry::new(p, 3, pause))),
        wrapped("process-serial", |p| Arc::new(Serial::new(p))),
        wrapped("process-trace", |p| Arc::new(Trace::new(p))),
    ])
}
