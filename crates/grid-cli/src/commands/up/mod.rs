//! `grid up`: a grid on this host.

mod bring;
mod detach;

use std::sync::Arc;

use grid_client::{Client, Node, State};
use grid_platform_api::ErrorKind;
use serde::Serialize;

use bring::{Logs, Supervisor};
pub(super) use detach::supervise_detached;

use crate::{
    args::{Format, UpArgs},
    context::{Addresses, Context},
    error::{Error, Exit, Result},
    local::{AGENT_ID, Follower, LocalPlatform, Nodes, Plan, RunLock, StateDir, Status, supervise},
    output, parts, render,
};

/// How many nodes the first `up` makes.
const FIRST_NODES: u16 = 3;

/// What `up` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    state_dir: &'a std::path::Path,
    token_file: std::path::PathBuf,
    http: String,
    grpc: String,
    supervisor: Part,
    master: Part,
    agent: Part,
    nodes: &'a [Node],
}

#[derive(Debug, Serialize)]
struct Part {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'static str>,
    pid: Option<u32>,
}

pub(super) async fn run(context: &Context, args: &UpArgs) -> Result<()> {
    let state = context.state()?;
    state.prepare()?;
    if let Some(name) = args.platform {
        state.set_platform(LocalPlatform::new(name, &context.environment)?)?;
    }
    let logs = Logs::now(&state);
    // A supervisor that is there now may be gone a moment later; then it is this command's turn.
    for _ in 0..3 {
        if let Some(lock) = RunLock::take(&state.lock("supervisor"))? {
            return start(context, args, &state, lock).await;
        }
        match bring::up(args, &state, Supervisor::Found, &logs).await {
            Ok(mut up) => {
                output::note("note: the grid was up already");
                if let Some(fault) = up.fault.take() {
                    // It is not this command's doing.
                    output::note(&format!("note: {fault}"));
                }
                return finish(context, args, &state, up);
            }
            Err(_) if RunLock::take(&state.lock("supervisor"))?.is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(
        ErrorKind::StateLocked,
        format!("supervisors of `{}` come and go", state.root().display()),
    )
    .with_hint("Another command starts and ends them; try again when it is done."))
}

async fn start(context: &Context, args: &UpArgs, state: &StateDir, lock: RunLock) -> Result<()> {
    if !args.detach {
        return foreground(context, args, state, lock).await;
    }
    // The supervisor is a process of its own, which takes the lock for itself.
    drop(lock);
    let logs = Logs::now(state);
    let living = state.nodes_may_run();
    let child = detach::start(context, args, state)?;
    match bring::up(args, state, Supervisor::Own(Some(child)), &logs).await {
        Ok(up) => finish(context, args, state, up),
        Err(error) => Err(give_up(state, living, error).await),
    }
}

/// What came up.
struct Up {
    status: Status,
    addresses: Addresses,
    nodes: Vec<Node>,
    /// A node that is not well, though the grid is up.
    fault: Option<Error>,
}

/// Supervises in this process, showing the logs, until Ctrl-C or `grid down`.
async fn foreground(
    context: &Context,
    args: &UpArgs,
    state: &StateDir,
    lock: RunLock,
) -> Result<()> {
    let plan = Plan {
        state: state.clone(),
        http: args.http,
        grpc: args.grpc,
        exe: parts::own_path()?,
    };
    let logs = Logs::now(state);
    let living = state.nodes_may_run();
    for part in ["master", "agent"] {
        let follower = Follower::at_end(state.log(part));
        tokio::spawn(follower.run(move |line| output::note(&format!("{part:<6} | {line}"))));
    }
    let say = Arc::new(|text: &str| output::note(&format!("grid   | {text}")));
    let mut supervisor = tokio::spawn(supervise(plan, lock, say));
    let ended = |result: Result<Result<()>, tokio::task::JoinError>| match result {
        Ok(result) => result,
        Err(error) => Err(Error::failed("the supervisor failed").with_source(&error)),
    };
    tokio::select! {
        result = &mut supervisor => return ended(result),
        up = bring::up(args, state, Supervisor::Own(None), &logs) => match up {
            Ok(up) => {
                if let Err(error) = finish(context, args, state, up) {
                    output::report(&error.report);
                }
                output::note("grid   | Ctrl-C takes the grid down as `grid down` does; data stays");
            }
            Err(error) => {
                let error = give_up(state, living, error).await;
                supervisor.await.ok();
                return Err(error);
            }
        },
    }
    ended(supervisor.await)
}

/// A grid whose master or agent does not come up is taken down again; the error stays what it was. Nodes that may have
/// run before (`living`) run on: they serve with no agent, and whatever keeps it from the master is no reason to stop them.
async fn give_up(state: &StateDir, living: bool, error: Error) -> Error {
    let (nodes, how) = if living {
        (
            Nodes::Leave,
            "Master and agent were ended again, and nodes run on as they were (`grid down` stops them)",
        )
    } else {
        (Nodes::Stop, "The grid was taken down again")
    };
    let error = match error.exit {
        // It does not go on by itself.
        Exit::Timeout => error.with_hint(format!(
            "{how}; `--timeout` waits longer, and `{}` may say what it waited for.",
            state.log("agent").display()
        )),
        _ => error,
    };
    let taken_down = super::down::take_down(state, nodes, &|_| {}).await;
    // An engine that was never reached is none to stay on.
    match taken_down.and_then(|_| state.forget_platform()) {
        Ok(()) => error,
        Err(second) => {
            output::report(&second.report);
            error
        }
    }
}

fn finish(context: &Context, args: &UpArgs, state: &StateDir, up: Up) -> Result<()> {
    let report = Report {
        state_dir: state.root(),
        token_file: state.admin_token(),
        http: format!("http://{}", up.addresses.http),
        grpc: up.addresses.grpc.to_string(),
        supervisor: Part {
            id: None,
            pid: Some(up.status.pid),
        },
        master: Part {
            id: None,
            pid: up.status.master.pid,
        },
        agent: Part {
            id: Some(AGENT_ID),
            pid: up.status.agent.pid,
        },
        nodes: &up.nodes,
    };
    output::show(context.format(), &report, text)?;
    if context.format() == Format::Table {
        output::note(&hints(context, args, &up.nodes));
    }
    up.fault.map_or(Ok(()), Err)
}

fn text(report: &Report<'_>) -> String {
    let pid = |part: &Part| {
        part.pid
            .map_or_else(String::new, |pid| format!("pid {pid}"))
    };
    format!(
        "The grid is up.\n\
         \x20 supervisor  {}\n\
         \x20 master      {}, {} for people, {} for agents\n\
         \x20 {AGENT_ID:<10}  {}\n\
         \x20 token       {}\n\n{}",
        pid(&report.supervisor),
        pid(&report.master),
        report.http,
        report.grpc,
        pid(&report.agent),
        report.token_file.display(),
        match report.nodes {
            [] => String::new(),
            nodes => render::nodes(nodes, false),
        },
    )
}

/// What to try next.
fn hints(context: &Context, args: &UpArgs, nodes: &[Node]) -> String {
    let again = context.again();
    let mut text = String::from("\nTry:\n");
    let is_storage = |node: &Node| {
        let settings = node.settings.as_ref();
        settings.is_some_and(|it| it.binary.is_none() && it.image.is_none())
    };
    let stored = nodes
        .iter()
        .filter(|node| node.state == State::Running && is_storage(node))
        .find_map(|node| Some((node, node.endpoint.as_ref()?)));
    if let Some((node, endpoint)) = stored {
        text.push_str(&format!(
            "  curl -T FILE http://{endpoint}/v1/objects/KEY\n\
             \x20 curl http://{endpoint}/v1/objects/KEY\n\
             \x20 grid{again} logs -f {}\n",
            node.id
        ));
    }
    text.push_str(&format!("  grid{again} spawn --help\n"));
    if args.detach {
        text.push_str(&format!("  grid{again} down\n"));
    }
    text
}

/// A client with the administrator's token of this state directory.
fn local_client(state: &StateDir, addresses: &Addresses) -> Result<Client> {
    let path = state.admin_token();
    let token = std::fs::read_to_string(&path)
        .map_err(|error| Error::io("read the token file", &path, &error))?;
    Ok(Client::new(
        &format!("http://{}", addresses.http),
        Some(&token),
    )?)
}
