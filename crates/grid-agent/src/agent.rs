//! The running agent.

use std::sync::Arc;

use grid_platform_api::{CheckStatus, Error, ErrorKind, Platform, PlatformInfo, Result};
use grid_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::{
    PlatformConfig, Settings, create_platform,
    desired::{Desired, DesiredFile},
    host,
    link::Link,
    master::MasterAddress,
    reconcile::Reconciler,
    state::{StateDir, state_path},
};

/// Runs an agent on the platform that its settings name, until `shutdown` is ready. Nodes are left as they are.
///
/// The settings are [loaded](Settings::load) or [completed](Settings::complete) ones.
///
/// # Errors
/// What keeps it from starting: the state directory is in use or damaged, the platform cannot be opened. Once it runs,
/// it does not fail: what goes wrong is logged, told to the master and tried again.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
    let state = hold(&settings).await?;
    let platform = create_platform(&settings.agent.platform, PlatformConfig::of(&settings)).await?;
    serve(state, platform, settings, shutdown).await
}

/// Runs an agent on a platform of the caller's: one that this crate does not know, or one that is watched.
///
/// # Errors
/// As [`run`], without the platform's own.
pub async fn run_with(
    platform: Arc<dyn Platform>,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let state = hold(&settings).await?;
    serve(state, platform, settings, shutdown).await
}

async fn hold(settings: &Settings) -> Result<StateDir> {
    #[cfg(feature = "fault-points")]
    if let Some(dir) = &settings.agent.fault_dir {
        grid_platform_api::fault::arm(dir);
    }
    let path = state_path(settings)?.to_owned();
    blocking(move || StateDir::open(&path)).await
}

async fn serve(
    state: StateDir,
    platform: Arc<dyn Platform>,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let master = master_of(&settings)?;
    let (file, desired) = open_desired(&state).await?;
    let info = platform.probe().await?;
    report(&info);
    tracing::info!(
        agent = settings.agent_id(),
        install = %info.owner,
        platform = info.platform,
        wishes = desired.nodes.len(),
        state = %state.path().display(),
        "the agent runs"
    );
    let ending = CancellationToken::new();
    let (reconciler, reconciling) =
        Reconciler::start(Arc::clone(&platform), file, desired, ending.clone());
    let link = Link {
        master,
        token_file: settings.agent.token_file.clone(),
        hello: hello(&settings, &info)?,
        platform,
        reconciler,
    };
    let linking = tokio::spawn(link.run(ending.clone()));
    shutdown.await;
    tracing::info!("ending; nodes go on running");
    ending.cancel();
    for (what, task) in [("link", linking), ("reconciler", reconciling)] {
        if let Err(error) = task.await {
            tracing::error!(%error, "the {what} ended in an unforeseen way");
        }
    }
    Ok(())
}

fn master_of(settings: &Settings) -> Result<MasterAddress> {
    settings
        .agent
        .master_host
        .parse()
        .map_err(|e: crate::master::MasterAddressError| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!("`agent.master_host` {}", e.problem),
            )
            .with_hint(e.hint)
        })
}

/// The desired file of a state directory, and what it holds.
pub(crate) async fn open_desired(state: &StateDir) -> Result<(DesiredFile, Desired)> {
    let path = state.path().to_owned();
    blocking(move || {
        let file = DesiredFile::new(&path)?;
        let desired = file.load()?;
        Ok((file, desired))
    })
    .await
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::new(ErrorKind::Internal, "work was cut short").with_source(e))?
}

/// Logs what the platform misses, with the mend. It may come later, so that it is no reason not to start.
fn report(info: &PlatformInfo) {
    for check in &info.checks {
        let (name, detail, hint) = (&check.name, &check.detail, &check.hint);
        match check.status {
            CheckStatus::Ok => tracing::debug!(name, detail, "the platform has this"),
            CheckStatus::Degraded => tracing::warn!(name, detail, hint, "the platform lacks this"),
            CheckStatus::Failed => {
                tracing::error!(name, detail, hint, "no node can run without this");
            }
        }
    }
}

/// What the agent says of itself. The place in the grid's history is added for each session.
fn hello(settings: &Settings, info: &PlatformInfo) -> Result<v1::Hello> {
    let (program, health) = settings.default_program();
    let json = |value: Result<String, serde_json::Error>| {
        value.map_err(|e| {
            Error::new(ErrorKind::Internal, "a setting has no JSON form").with_source(e)
        })
    };
    let optional =
        |value: Option<Result<String, serde_json::Error>>| value.map_or(Ok(String::new()), json);
    Ok(v1::Hello {
        protocol: grid_proto::PROTOCOL,
        agent_id: settings.agent_id().to_owned(),
        install_id: info.owner.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        platform: info.platform.clone(),
        capabilities_json: json(serde_json::to_string(&info.capabilities))?,
        labels: settings.agent.labels.clone().into_iter().collect(),
        max_storage_nodes: settings.agent.max_storage_nodes,
        memory_mb: host::memory_mb(&info.platform),
        cpu_millis: host::cpu_millis(&info.platform),
        grid_id: String::new(),
        epoch: 0,
        revision: 0,
        lineage: String::new(),
        default_program_json: optional(program.as_ref().map(serde_json::to_string))?,
        default_health_json: optional(health.as_ref().map(serde_json::to_string))?,
    })
}
