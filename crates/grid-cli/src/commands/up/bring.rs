//! From a supervisor to a grid whose nodes run and are well.

use std::{process::Child, time::Duration};

use grid_client::{Agent, Client, Desired, Node, NodeFilter, NodeSettings, SpawnRequest};
use grid_platform_api::{ErrorKind, Failure, FailureReason, NodeId};
use tokio::time::Instant;

use super::{FIRST_NODES, Up, local_client};
use crate::{
    args::UpArgs,
    context::Addresses,
    error::{Error, Result},
    local::{AGENT_ID, Connection, Readiness, StateDir, Status, Watch, last_lines, log_length},
    progress::Goal,
    wait::{Limit, Spinner, wait},
};

/// How long a supervisor may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Whose supervisor it is that a grid is brought up by.
pub(super) enum Supervisor {
    /// One that this command started, in its own process or as this child: a master or an agent that ends at once
    /// will not come up.
    Own(Option<Child>),
    /// One that was there: what ended just now, it starts again.
    Found,
}

/// How long the logs were before; what is behind is of this start.
pub(super) struct Logs {
    supervisor: u64,
    master: u64,
    agent: u64,
}

impl Logs {
    pub(super) fn now(state: &StateDir) -> Self {
        let length = |part| log_length(&state.log(part));
        Self {
            supervisor: length("supervisor"),
            master: length("master"),
            agent: length("agent"),
        }
    }
}

/// Waits for master and agent, makes the nodes that are missing, and waits for them.
pub(super) async fn up(
    args: &UpArgs,
    state: &StateDir,
    supervisor: Supervisor,
    logs: &Logs,
) -> Result<Up> {
    let limit = Limit::from_now(args.timeout);
    let spinner = Spinner::new("starting master and agent");
    let (child, patient) = match supervisor {
        Supervisor::Own(child) => (child, false),
        Supervisor::Found => (None, true),
    };
    let mut watch = connect(state, child, logs).await?.watch().await?;
    let ready = ready(state, &mut watch, patient, logs);
    let (mut status, addresses) = limit
        .within("master and agent are not up yet", ready)
        .await?;
    let client = local_client(state, &addresses)?;
    let (nodes, fault) = tokio::select! {
        nodes = bring_nodes(args, state, &client, limit, spinner) => nodes?,
        error = failing(state, &mut watch, &mut status, logs) => return Err(error),
    };
    Ok(Up {
        status,
        addresses,
        nodes,
        fault,
    })
}

/// Makes the nodes that are missing and waits for all; with them comes the first that is not well.
async fn bring_nodes(
    args: &UpArgs,
    state: &StateDir,
    client: &Client,
    limit: Limit,
    spinner: Spinner,
) -> Result<(Vec<Node>, Option<Error>)> {
    spinner.say("waiting for the agent to reach the master".to_owned());
    let connected = limit.reach(async || agent_ready(client).await);
    limit
        .within("the agent has not reached the master yet", connected)
        .await?;
    spinner.say("making nodes".to_owned());
    limit
        .reach(async || ensure_nodes(args, state, client).await)
        .await?;
    drop(spinner);
    let nodes = async || local_nodes(client).await;
    let targets: Vec<_> = limit
        .reach(nodes)
        .await?
        .into_iter()
        .filter(|node| node.desired == Desired::Running)
        .map(|node| (node.id, Goal::Running))
        .collect();
    let fault = wait(client, &targets, limit).await.err();
    Ok((limit.reach(nodes).await?, fault))
}

/// Keeps `status` up to date; returns when the supervisor ends, or when master or agent do again and again.
async fn failing(state: &StateDir, watch: &mut Watch, status: &mut Status, logs: &Logs) -> Error {
    let first = status.clone();
    loop {
        match watch.next().await {
            Ok(now) => *status = now,
            Err(error) => return error,
        }
        if let Some(error) = given_up(state, status, &first, logs) {
            return error;
        }
    }
}

fn given_up(state: &StateDir, now: &Status, first: &Status, logs: &Logs) -> Option<Error> {
    if now.ending {
        return Some(Error::failed("the grid is being taken down"));
    }
    let (child, how) = now.failing(first)?;
    Some(no_start(state, child, &how, logs))
}

/// Why a child does not come up, with its last words.
fn no_start(state: &StateDir, child: &'static str, how: &str, logs: &Logs) -> Error {
    let log = state.log(child);
    let mark = match child {
        "master" => logs.master,
        _ => logs.agent,
    };
    let mut error = Error::new(
        ErrorKind::SpawnFailed,
        format!("the {child} does not come up: {how}"),
    )
    .with_hint(format!("Its log is `{}`.", log.display()));
    let mut failure = Failure::new(FailureReason::Exited, how);
    failure.log_tail = last_lines(&log, mark, 10);
    error.report.failure = Some(failure);
    error
}

/// Calls the supervisor, which may be starting just now.
async fn connect(state: &StateDir, mut child: Option<Child>, logs: &Logs) -> Result<Connection> {
    let deadline = Instant::now() + LISTENS_WITHIN;
    loop {
        let fault = match Connection::open(&state.run()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // Another `up` may have been quicker; then its supervisor listens and ours has ended.
        let ended = match &mut child {
            Some(child) => matches!(child.try_wait(), Ok(Some(_))),
            None => false,
        };
        if Instant::now() >= deadline || (ended && Connection::open(&state.run()).await.is_err()) {
            let mut error = Error::failed("the supervisor does not answer").with_source(&fault);
            error
                .report
                .causes
                .extend(last_lines(&state.log("supervisor"), logs.supervisor, 5));
            return Err(error.with_hint("`grid down` ends what is left of it."));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until master and agent run.
async fn ready(
    state: &StateDir,
    watch: &mut Watch,
    patient: bool,
    logs: &Logs,
) -> Result<(Status, Addresses)> {
    let first = watch.next().await?;
    let mut status = first.clone();
    loop {
        if let Some(error) = given_up(state, &status, &first, logs) {
            return Err(error);
        }
        match status.readiness() {
            Readiness::Ready(addresses) => return Ok((status, addresses)),
            Readiness::Failed { .. } if patient => {}
            Readiness::NotYet => {}
            Readiness::Failed { child, how } => return Err(no_start(state, child, &how, logs)),
        }
        status = watch.next().await?;
    }
}

/// Waits until the agent has told the master which nodes it has; before, the master shows what it saw last.
async fn agent_ready(client: &Client) -> Result<()> {
    loop {
        let agents = client.agents().await?;
        match agents.into_iter().find(|agent| agent.id == AGENT_ID) {
            Some(agent) if agent.connected => return Ok(()),
            Some(Agent {
                error: Some(error), ..
            }) => return Err(error.into()),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Makes node-1 and on, as far as they are missing: the first time, and when a number was asked for.
async fn ensure_nodes(args: &UpArgs, state: &StateDir, client: &Client) -> Result<()> {
    let count = match args.nodes {
        Some(count) => count,
        None if state.nodes_made()? => return Ok(()),
        None => FIRST_NODES,
    };
    let known = client.nodes(&NodeFilter::default()).await?;
    for number in 1..=count {
        let id = NodeId::new(format!("node-{number}"))?;
        if known.iter().any(|node| node.id == id) {
            continue;
        }
        let request = SpawnRequest {
            node_id: Some(id.clone()),
            agent_id: Some(AGENT_ID.to_owned()),
            settings: NodeSettings::default(),
            ..SpawnRequest::default()
        };
        // The id makes it safe to ask again; the key need only be its own.
        client.spawn(&request, &format!("up-{id}")).await?;
    }
    state.set_nodes_made()
}

async fn local_nodes(client: &Client) -> Result<Vec<Node>> {
    Ok(client
        .nodes(&NodeFilter {
            agent: Some(AGENT_ID.to_owned()),
            state: None,
        })
        .await?)
}
