//! The parts that this command is made of: master, agent and storage server, with the settings that `grid up` gives them.

use std::{
    os::unix::process::parent_id,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use grid_platform_api::{Check, ErrorKind};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{AgentChildArgs, MasterChildArgs},
    context::{Addresses, Context},
    error::{Error, Result},
    local::{AGENT_ID, OwnImage, PlatformName, RunLock, StateDir},
    output,
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
        .with_ansi(output::is_watched())
        .with_writer(std::io::stderr)
        // It would tell them on the same standard error, and panic.
        .log_internal_errors(false)
        .init();
}

/// Runs a master until SIGTERM or SIGINT.
pub(crate) async fn master(context: &Context, args: MasterChildArgs) -> Result<()> {
    log_to_stderr(context);
    let _lock = hold(args.run_lock.as_deref()).await?;
    let mut settings = grid_master::Settings::new(args.dir);
    settings.http = args.http;
    settings.grpc = args.grpc;
    let shutdown = asked_to_end()?;
    // A grid of many agents needs more connections than the usual limit has room for.
    grid_listen::raise_open_files();
    let master = grid_master::Master::bind(settings).await?;
    Ok(master.run(shutdown).await?)
}

/// Runs an agent until SIGTERM or SIGINT; its nodes go on.
pub(crate) async fn agent(context: &Context, args: AgentChildArgs) -> Result<()> {
    log_to_stderr(context);
    let _lock = hold(args.run_lock.as_deref()).await?;
    let (state, exe) = (context.state()?, own_path()?);
    let platform = state.platform()?;
    let own = own_image(&state, &exe)?;
    if platform.name == PlatformName::Docker {
        let (own, exe) = (own.clone(), exe.clone());
        tokio::task::spawn_blocking(move || own.make(&exe))
            .await
            .map_err(|error| {
                Error::failed("making an image was cut short").with_source(&error)
            })??;
    }
    let mut settings = agent_settings(&args.dir, &args.data, &args.agent_id);
    platform.set(&mut settings, &exe, || own);
    settings.agent.master_host = args.grpc.to_string();
    settings.agent.token_file = context.global.token_file.clone();
    let shutdown = asked_to_end()?;
    Ok(grid_agent::run(settings, shutdown).await?)
}

/// Stops every node of this grid's agent, which must not run; with `purge` removes them with all their data.
pub(crate) async fn stop_nodes(state: &StateDir, exe: &Path, purge: bool) -> Result<()> {
    grid_agent::stop_nodes(&local_agent(state, exe)?, purge).await?;
    Ok(())
}

/// What the agent of `grid up` needs and has.
pub(crate) async fn examine_agent(state: &StateDir) -> Result<Vec<Check>> {
    let mut settings = local_agent(state, &own_path()?)?;
    if let Some(addresses) = Addresses::read(&state.master())? {
        settings.agent.master_host = addresses.grpc.to_string();
    }
    settings.agent.token_file = Some(state.token("agent"));
    Ok(grid_agent::doctor(&settings).await)
}

fn local_agent(state: &StateDir, exe: &Path) -> Result<grid_agent::Settings> {
    let mut settings = agent_settings(&state.agent(), &state.data(), AGENT_ID);
    let own = own_image(state, exe)?;
    state.platform()?.set(&mut settings, exe, || own);
    Ok(settings)
}

/// This program as an image, among what belongs to one start of the grid.
fn own_image(state: &StateDir, exe: &Path) -> Result<OwnImage> {
    OwnImage::of(exe, &state.run()).map_err(|error| Error::io("look at", exe, &error))
}

/// An agent for who runs it: it allows what its own user may do anyway.
fn agent_settings(dir: &Path, data: &Path, agent_id: &str) -> grid_agent::Settings {
    let mut settings = grid_agent::Settings::default();
    settings.agent.agent_id = Some(agent_id.to_owned());
    settings.agent.state_dir = Some(dir.to_owned());
    settings.storage.data_path = Some(data.to_owned());
    settings.storage.storage_roots = vec![PathBuf::from("/")];
    if rustix::process::geteuid().is_root() {
        // Root may run anything as anybody, so its nodes may too; others have only themselves.
        let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        settings.storage.users = users(&accounts);
    }
    settings
}

/// The users of the host's file of accounts, each by name and by number.
fn users(accounts: &str) -> Vec<String> {
    let both = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        let number: u32 = number.parse().ok()?;
        Some([name.to_owned(), number.to_string()])
    };
    accounts.lines().filter_map(both).flatten().collect()
}

/// Registers this process as its supervisor's child.
///
/// A child whose supervisor was killed before this point ends here: the next supervisor may have looked already for
/// what was left, and would not know of it.
async fn hold(path: Option<&Path>) -> Result<Option<RunLock>> {
    /// Such a child may hold the lock for a moment before it ends.
    const PATIENCE: Duration = Duration::from_secs(2);
    let Some(path) = path else { return Ok(None) };
    let deadline = Instant::now() + PATIENCE;
    let lock = loop {
        match RunLock::take(path)? {
            Some(lock) => break lock,
            None if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            None => {
                return Err(Error::new(
                    ErrorKind::StateLocked,
                    format!("another process holds `{}`", path.display()),
                )
                .with_hint("`grid down` ends what is left of an earlier `grid up`."));
            }
        }
    };
    let supervisor = RunLock::holder(&path.with_file_name("supervisor.lock"))?;
    if supervisor.is_none_or(|holder| holder.pid != parent_id()) {
        return Err(Error::failed("the supervisor that started this is gone"));
    }
    Ok(Some(lock))
}

/// Completes at SIGTERM or SIGINT, which are caught from now on.
pub(crate) fn asked_to_end() -> Result<impl Future<Output = ()> + Send> {
    let listen = |kind| {
        signal(kind).map_err(|error| Error::failed("cannot listen to signals").with_source(&error))
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_known_by_name_and_number() {
        let accounts =
            "root:x:0:0::/root:/bin/sh\nnobody:*:65534:65534::/:\n+::::::\n# a comment\n";
        assert_eq!(users(accounts), ["root", "0", "nobody", "65534"]);
    }
}
