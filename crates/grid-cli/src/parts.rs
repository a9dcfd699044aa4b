//! The parts that this command is made of: master, agent and storage server, with the settings that `grid up` gives them.

use std::path::{Path, PathBuf};

use crate::{
    args::{AgentChildArgs, MasterChildArgs},
    context::Context,
    error::{Error, Result},
    local::StateDir,
};

/// This program's path, by which it starts itself again; that of the newer one, when it was replaced.
pub(crate) fn own_path() -> Result<PathBuf> {
    let path = std::env::current_exe()
        .map_err(|error| Error::failed("cannot find this program").with_source(&error))?;
    // The kernel marks the path of a program that was replaced.
    let text = path.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(plain) => PathBuf::from(plain),
        None => path.clone(),
    })
}

/// Logs to standard error, as `SUTRA_LOG` or `RUST_LOG` says.
pub(crate) fn log_to_stderr(context: &Context) {
    let filter = context
        .environment
        .log_filter()
        .unwrap_or_else(|| "info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .init();
}

pub(crate) async fn master(context: &Context, args: MasterChildArgs) -> Result<()> {
    log_to_stderr(context);
    Err(Error::failed(format!("{args:?}")))
}

pub(crate) async fn agent(context: &Context, args: AgentChildArgs) -> Result<()> {
    log_to_stderr(context);
    Err(Error::failed(format!("{args:?}")))
}

pub(crate) async fn stop_nodes(state: &StateDir, exe: &Path, purge: bool) -> Result<()> {
    let _ = (state, exe, purge);
    Ok(())
}
