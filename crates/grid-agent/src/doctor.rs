//! What is missing, and the mend.

use std::time::Duration;

use grid_platform_api::{Check, CheckStatus, Error, ErrorKind, Result};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    PlatformConfig, Settings,
    agent::{blocking, open_desired},
    create_platform,
    master::MasterAddress,
    state::{StateDir, state_path},
};

/// Looks at everything that an agent with these settings needs, in the order in which it matters. Makes the state
/// directory, and starts nothing.
///
/// While an agent runs on the state directory its platform is not opened a second time.
pub async fn doctor(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    match hold(settings).await {
        Ok(state) => {
            let path = state.path().display().to_string();
            checks.push(check(
                "state directory",
                Ok(format!("`{path}` can be used")),
            ));
            let desired = open_desired(&state).await;
            checks.push(check(
                "desired set",
                desired.map(|(_, desired)| match desired.fence {
                    Some(fence) => format!(
                        "{} wishes of the grid `{}`",
                        desired.nodes.len(),
                        fence.grid_id
                    ),
                    None => "no master has been met yet".to_owned(),
                }),
            ));
            platform(settings, &mut checks).await;
        }
        Err(error) if error.kind() == ErrorKind::StateLocked => {
            let found = "an agent runs on it; its platform is not looked at".to_owned();
            checks.push(check("state directory", Ok(found)));
        }
        Err(error) => checks.push(check("state directory", Err(error))),
    }
    checks.extend(token(settings).await);
    checks.push(master(settings).await);
    checks
}

async fn hold(settings: &Settings) -> Result<StateDir> {
    let path = state_path(settings)?.to_owned();
    blocking(move || StateDir::open(&path)).await
}

async fn platform(settings: &Settings, checks: &mut Vec<Check>) {
    let name = &settings.agent.platform;
    let opened = create_platform(name, PlatformConfig::of(settings)).await;
    let probed = match opened {
        Ok(platform) => platform.probe().await,
        Err(error) => Err(error),
    };
    match probed {
        Ok(info) => {
            let version = info.version.unwrap_or_default();
            let found = format!("`{}` {version}", info.platform);
            checks.push(check("platform", Ok(found.trim().to_owned())));
            checks.extend(info.checks);
        }
        Err(error) => checks.push(check("platform", Err(error))),
    }
}

async fn token(settings: &Settings) -> Option<Check> {
    let path = settings.agent.token_file.as_ref()?;
    let found = match tokio::fs::read_to_string(path).await {
        Ok(text) if !text.trim().is_empty() => Ok(format!("`{}` holds one", path.display())),
        Ok(_) => Err(format!("`{}` is empty", path.display())),
        Err(error) => Err(format!("`{}` cannot be read: {error}", path.display())),
    };
    let found = found.map_err(|message| {
        Error::new(ErrorKind::InvalidConfig, message)
            .with_hint("Set `agent.token_file` to a token of the master, such as `tokens/agent` in its state directory.")
    });
    Some(check("token", found))
}

/// A master that is away is no fault of the agent's, which upholds what it knows.
async fn master(settings: &Settings) -> Check {
    let address = match settings.agent.master_host.parse::<MasterAddress>() {
        Ok(address) => address,
        Err(fault) => {
            let message = format!("`agent.master_host` {}", fault.problem);
            let error = Error::new(ErrorKind::InvalidConfig, message).with_hint(fault.hint);
            return check("master", Err(error));
        }
    };
    let dialled = timeout(
        Duration::from_secs(3),
        TcpStream::connect(address.authority()),
    )
    .await;
    let why = match dialled {
        Ok(Ok(_)) => return check("master", Ok(format!("something listens at `{address}`"))),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    Check {
        name: "master".to_owned(),
        status: CheckStatus::Degraded,
        detail: format!("nothing listens at `{address}`: {why}"),
        hint: Some("Start it with `grid up` or `grid-master`, or set `agent.master_host` or `SUTRA_MASTER`.".to_owned()),
    }
}

fn check(name: &str, found: Result<String>) -> Check {
    let (status, detail, hint) = match found {
        Ok(detail) => (CheckStatus::Ok, detail, None),
        Err(error) => {
            let report = error.to_report();
            let words: Vec<_> = std::iter::once(report.message)
                .chain(report.causes)
                .collect();
            (CheckStatus::Failed, words.join(": "), report.hint)
        }
    };
    Check {
        name: name.to_owned(),
        status,
        detail,
        hint,
    }
}
