//! The supervisor in the background.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::SystemTime,
};

use grid_platform_api::ErrorKind;

use crate::{
    args::{SuperviseArgs, UpArgs},
    context::Context,
    error::{Error, Result},
    local::{Plan, RunLock, StateDir, open_log, supervise},
    output, parts,
};

/// Starts a supervisor that outlives this command and its terminal.
pub(super) fn start(context: &Context, args: &UpArgs, state: &StateDir) -> Result<Child> {
    let exe = parts::own_path()?;
    let path = state.log("supervisor");
    let log = open_log(&path).map_err(|error| Error::io("write", &path, &error))?;
    let log_again = log
        .try_clone()
        .map_err(|error| Error::io("write", &path, &error))?;
    let mut command = Command::new(&exe);
    if let Some(file) = &context.global.token_file {
        return Err(Error::usage(format!(
            "`--token-file {}` is not for `grid up`",
            file.display()
        ))
        .with_hint("`grid up` makes tokens of its own, under the state directory."));
    }
    command
        .arg("__supervise")
        .arg("--state-dir")
        .arg(state.root())
        .args(["--http", &args.http.to_string()])
        .args(["--grpc", &args.grpc.to_string()])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_again)
        .current_dir("/")
        .spawn()
        .map_err(|error| Error::io("execute", &exe, &error))
}

/// `grid __supervise`: the supervisor's own process.
pub(crate) async fn supervise_detached(context: &Context, args: &SuperviseArgs) -> Result<()> {
    // The end of the terminal, and Ctrl-C on it, are no longer ours.
    rustix::process::setsid().ok();
    let state = context.state()?;
    let Some(lock) = RunLock::take(&state.lock("supervisor"))? else {
        return Err(Error::new(
            ErrorKind::StateLocked,
            format!("`{}` has a supervisor already", state.root().display()),
        ));
    };
    let plan = Plan {
        state,
        http: args.http,
        grpc: args.grpc,
        exe: parts::own_path()?,
    };
    let say = Arc::new(|text: &str| {
        output::note(&format!(
            "{} {text}",
            humantime::format_rfc3339_seconds(SystemTime::now())
        ));
    });
    supervise(plan, lock, say).await
}
