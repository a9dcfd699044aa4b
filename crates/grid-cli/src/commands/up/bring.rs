//! From a supervisor to a grid whose nodes run and are well.

use std::{process::Child, time::Duration};

use grid_client::{Agent, Client, Desired, Node, NodeFilter, NodeSettings, SpawnRequest};
use grid_platform_api::NodeId;
use tokio::time::Instant;

use super::{FIRST_NODES, Up, local_client, no_start};
use crate::{
    args::UpArgs,
    error::{Error, Result},
    local::{AGENT_ID, Connection, Readiness, StateDir, Status, last_lines},
    progress::Goal,
    wait::{Spinner, late, wait},
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

/// Waits for master and agent, makes the nodes that are missing, and waits for them.
pub(super) async fn up(args: &UpArgs, state: &StateDir, supervisor: Supervisor) -> Result<Up> {
    let deadline = Instant::now() + args.timeout;
    let in_time = |what: &str| late(args.timeout, what);
    let spinner = Spinner::new("starting master and agent");
    let (child, patient) = match supervisor {
        Supervisor::Own(child) => (child, false),
        Supervisor::Found => (None, true),
    };
    let connection = connect(state, child).await?;
    let (status, addresses) = tokio::time::timeout_at(deadline, ready(state, connection, patient))
        .await
        .map_err(|_| in_time("master and agent are not up yet"))??;
    let client = local_client(state, &addresses)?;
    spinner.say("waiting for the agent to reach the master".to_owned());
    tokio::time::timeout_at(deadline, agent_ready(&client))
        .await
        .map_err(|_| in_time("the agent has not reached the master yet"))??;
    spinner.say("making nodes".to_owned());
    ensure_nodes(args, state, &client).await?;
    drop(spinner);
    let targets: Vec<_> = local_nodes(&client)
        .await?
        .into_iter()
        .filter(|node| node.desired == Desired::Running)
        .map(|node| (node.id, Goal::Running))
        .collect();
    let left = deadline.saturating_duration_since(Instant::now());
    let fault = wait(&client, &targets, left).await.err();
    Ok(Up {
        status,
        addresses,
        nodes: local_nodes(&client).await?,
        fault,
    })
}

/// Calls the supervisor, which may be starting just now.
async fn connect(state: &StateDir, mut child: Option<Child>) -> Result<Connection> {
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
                .extend(last_lines(&state.log("supervisor"), 5));
            return Err(error.with_hint("`grid down` ends what is left of it."));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until master and agent run.
async fn ready(
    state: &StateDir,
    connection: Connection,
    patient: bool,
) -> Result<(Status, crate::context::Addresses)> {
    let mut watch = connection.watch().await?;
    loop {
        let status = watch.next().await?;
        if status.ending {
            return Err(Error::failed("the grid is being taken down"));
        }
        match status.readiness() {
            Readiness::Ready(addresses) => return Ok((status, addresses)),
            Readiness::Failed { .. } if patient => {}
            Readiness::NotYet => {}
            Readiness::Failed { child, how } => return Err(no_start(state, child, &how)),
        }
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
