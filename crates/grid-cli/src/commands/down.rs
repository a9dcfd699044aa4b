//! `grid down`.

use std::time::Duration;

use grid_platform_api::ErrorKind;

use crate::{
    args::{DownArgs, Format},
    context::Context,
    error::{Error, Result},
    local::{Connection, Ended, Keepers, Nodes, RunLock, StateDir, bring_down},
    output, parts,
    wait::Spinner,
};

/// How long a supervisor may take to answer its socket, and to end after the grid is down.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn run(context: &Context, args: DownArgs) -> Result<()> {
    let state = context.state()?;
    if !state.exists() {
        output::note(&format!(
            "note: there is no grid in `{}`",
            state.root().display()
        ));
        return match context.format() {
            Format::Table => Ok(()),
            Format::Json => output::json(&Ended {
                state_dir: state.root().to_owned(),
                purged: args.purge,
            }),
        };
    }
    let spinner = Spinner::new("taking the grid down");
    let tell = |step: &str| spinner.say(step.to_owned());
    let nodes = if args.purge {
        Nodes::Purge
    } else {
        Nodes::Stop
    };
    let ended = take_down(&state, nodes, &tell).await?;
    drop(spinner);
    show(context.format(), &ended)
}

/// Has the supervisor take the grid down, or does it in place of one that is gone.
pub(super) async fn take_down(
    state: &StateDir,
    nodes: Nodes,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Ended> {
    state.prepare()?;
    let path = state.lock("supervisor");
    if let Some(_lock) = RunLock::take(&path)? {
        return bring_down(state, &parts::own_path()?, Keepers::default(), nodes, tell).await;
    }
    let fault = |error: std::io::Error| Error::io("end the supervisor of", state.root(), &error);
    let holder = RunLock::holder(&path)?;
    let supervisor = match &holder {
        Some(holder) => holder.open().map_err(fault)?,
        None => None,
    };
    let supervised_here = holder.is_some_and(|holder| holder.pid == std::process::id());
    let Some(supervisor) = supervisor else {
        return Err(Error::new(
            ErrorKind::StateLocked,
            format!(
                "`{}` is being started or ended just now",
                state.root().display()
            ),
        )
        .with_hint("Try again in a moment."));
    };
    let answer = match connect(state).await {
        Some(connection) => connection.down(nodes, tell).await.transpose(),
        None => None,
    };
    if let Some(ended) = answer {
        if !supervised_here {
            // It has nothing left to do; what it holds is free when it is gone.
            tokio::time::timeout(PATIENCE, supervisor.ended())
                .await
                .ok();
        }
        return ended;
    }
    tell("ending a supervisor that does not answer");
    supervisor.end(PATIENCE).await.map_err(fault)?;
    let Some(_lock) = RunLock::take(&path)? else {
        return Err(Error::new(
            ErrorKind::StateLocked,
            format!("`{}` was started again meanwhile", state.root().display()),
        ));
    };
    bring_down(state, &parts::own_path()?, Keepers::default(), nodes, tell).await
}

/// A supervisor that has just started listens soon.
async fn connect(state: &StateDir) -> Option<Connection> {
    tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(connection) = Connection::open(&state.run()).await {
                return connection;
            }
            tokio::time::sleep(LOOK).await;
        }
    })
    .await
    .ok()
}

fn show(format: Format, ended: &Ended) -> Result<()> {
    output::show(format, ended, |ended| {
        let place = ended.state_dir.display();
        if ended.purged {
            format!("The grid is gone: nodes, data and `{place}` are deleted.\n")
        } else {
            format!(
                "The grid is down; data and settings stay in `{place}`. `grid up` starts it again.\n"
            )
        }
    })
}
