//! What is missing, and the mend.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use grid_platform_api::{Check, CheckStatus, Error, ErrorKind, Result};
use rustix::fs::{Access, access};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    PlatformConfig, Settings,
    agent::blocking,
    create_platform,
    desired::DesiredFile,
    factory::look,
    master::MasterAddress,
    settings::{Programs, known_platform},
    state::state_path,
};

/// Looks at everything that an agent with these settings needs, in the order in which it matters. Changes nothing, and
/// may be called while an agent runs.
///
/// The platform is opened over a temporary directory and not over the agent's state, because that would start nodes
/// again. What is wrong with records there, the agent says when it starts. A cluster, whose adapter has its state there,
/// is looked at without opening it.
pub async fn doctor(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    let of_host = settings.clone();
    match blocking(move || Ok(host(&of_host))).await {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(check("state directory", Err(error))),
    }
    checks.extend(platform(settings).await);
    checks.extend(token(settings).await);
    checks.push(master(settings).await);
    checks
}

/// What is looked at on disk.
fn host(settings: &Settings) -> Vec<Check> {
    let mut checks = match state_path(settings) {
        Ok(path) => vec![
            check("state directory", state_directory(path)),
            check("desired set", desired(path)),
        ],
        Err(error) => vec![check("state directory", Err(error))],
    };
    if let Some(path) = &settings.storage.data_path {
        let found = usable(path, "data directory", "`storage.data_path`");
        checks.push(check("data directory", found));
    }
    if known_platform(&settings.agent.platform).is_some_and(|(name, _)| name == "process") {
        checks.extend(missing_programs(settings));
    }
    checks
}

fn state_directory(path: &Path) -> Result<String> {
    let found = usable(
        path,
        "state directory",
        "`agent.state_dir` or `--state-dir`",
    )?;
    // A lock for reading, so that doctors do not meet, and only for as long as it takes to ask for it.
    let held = match File::open(path.join("agent.lock")) {
        Ok(lock) => matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    };
    Ok(match held {
        true => format!("an agent runs on it: `{}`", path.display()),
        false => found,
    })
}

/// A directory that this user can write, or make.
fn usable(path: &Path, what: &str, setting: &str) -> Result<String> {
    let fault = |why: String| {
        Error::new(
            ErrorKind::PermissionDenied,
            format!("the {what} `{}` {why}", path.display()),
        )
        .with_hint(format!(
            "Choose one that this user can write, by {setting}."
        ))
    };
    let there = path.ancestors().find(|it| it.symlink_metadata().is_ok());
    let Some(there) = there else {
        return Err(fault("is nowhere".to_owned()));
    };
    if !there.is_dir() {
        return Err(fault(format!(
            "cannot be made: `{}` is no directory",
            there.display()
        )));
    }
    if let Err(error) = access(there, Access::WRITE_OK | Access::EXEC_OK) {
        let error = io::Error::from(error);
        return Err(fault(match there == path {
            true => format!("cannot be written: {error}"),
            false => format!("cannot be made in `{}`: {error}", there.display()),
        }));
    }
    Ok(match there == path {
        true => format!("`{}` can be used", path.display()),
        false => format!("`{}` will be made", path.display()),
    })
}

fn desired(state: &Path) -> Result<String> {
    if !state.join("desired.json").exists() {
        return Ok("no master has been met yet".to_owned());
    }
    let key = state.join("seal.key");
    if !key.exists() {
        let message = format!("the key of its secrets, `{}`, is missing", key.display());
        return Err(Error::new(ErrorKind::Corrupt, message)
            .with_hint("Restore it from the backup that `desired.json` is from, or move both away: the master sends what is wanted again."));
    }
    let desired = DesiredFile::new(state)?.load()?;
    Ok(match desired.fence {
        Some(fence) => format!(
            "wishes for {} nodes of the grid `{}`",
            desired.nodes.len(),
            fence.grid_id
        ),
        None => "no master has been met yet".to_owned(),
    })
}

/// The allowed programs that cannot be started. A bare name is looked up where the agent looks.
fn missing_programs(settings: &Settings) -> Vec<Check> {
    let storage = &settings.storage;
    let mut named: Vec<(&Path, &str)> = Vec::new();
    named.extend(
        storage
            .binary_path
            .as_deref()
            .map(|it| (it, "storage.binary_path")),
    );
    if let Programs::Only(list) = &storage.programs {
        named.extend(list.iter().map(|it| (it.as_path(), "storage.programs")));
    }
    let missing = named.into_iter().filter(|(program, _)| {
        let places: Vec<PathBuf> = match program.components().count() {
            // Without a search path the platform has its own.
            1 if storage.search_path.is_empty() => return false,
            1 => storage
                .search_path
                .iter()
                .map(|it| it.join(program))
                .collect(),
            _ => vec![program.to_path_buf()],
        };
        !places.iter().any(|it| is_program(it))
    });
    missing
        .map(|(program, key)| Check {
            name: "program".to_owned(),
            status: CheckStatus::Degraded,
            detail: format!("there is no program `{}`", program.display()),
            hint: Some(format!("Install it, or change `{key}`.")),
        })
        .collect()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

async fn platform(settings: &Settings) -> Vec<Check> {
    if let Some(looked) = look(&settings.agent.platform, PlatformConfig::of(settings)).await {
        return looked.unwrap_or_else(|error| vec![check("platform", Err(error))]);
    }
    let scratch = match tempfile::tempdir() {
        Ok(scratch) => scratch,
        Err(error) => {
            let error = Error::new(ErrorKind::Internal, "there is no temporary directory")
                .with_source(error)
                .with_hint("Make room in `/tmp`, or name another directory by `TMPDIR`.");
            return vec![check("platform", Err(error))];
        }
    };
    let mut config = PlatformConfig::of(settings);
    config.state_dir = scratch.path().join("state");
    if !config.data_path.is_dir() {
        config.data_path = scratch.path().join("data");
    }
    let probed = match create_platform(&settings.agent.platform, config).await {
        Ok(platform) => platform.probe().await,
        Err(error) => Err(error),
    };
    match probed {
        Ok(info) => {
            let version = info.version.unwrap_or_default();
            let found = format!("`{}` {version}", info.platform);
            let mut checks = vec![check("platform", Ok(found.trim().to_owned()))];
            // What it says of the temporary directory is of no use to anybody.
            let place = scratch.path().display().to_string();
            checks.extend(
                info.checks
                    .into_iter()
                    .filter(|it| !it.detail.contains(&place)),
            );
            checks
        }
        Err(error) => vec![check("platform", Err(error))],
    }
}

async fn token(settings: &Settings) -> Option<Check> {
    let path = settings.agent.token_file.as_ref()?;
    let found = crate::token::read(path).await;
    let found = found.map(|_| format!("`{}` holds one", path.display()));
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
