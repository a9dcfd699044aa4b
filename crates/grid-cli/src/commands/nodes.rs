//! `grid nodes`, `node`, `start`, `stop`, `rm`, `usage`.

use grid_client::{Client, Node, NodeFilter, State};
use grid_platform_api::{DataPolicy, NodeId};

use crate::{
    args::{Format, NodesArgs, RmArgs, TargetArgs, WaitArgs},
    context::{Context, node_id},
    error::Result,
    output,
    progress::Goal,
    render,
    wait::{Limit, wait},
};

pub(super) async fn list(context: &Context, args: &NodesArgs) -> Result<()> {
    let filter = NodeFilter {
        agent: args.agent.clone(),
        state: args.state.map(Into::into),
    };
    let nodes = context.client()?.nodes(&filter).await?;
    let empty = match nodes.is_empty() && filter == NodeFilter::default() {
        true => "There are no nodes. `grid spawn` makes one.",
        false => "There are no such nodes.",
    };
    output::list(context.format(), &nodes, empty, |nodes| {
        render::nodes(nodes, args.wide)
    })
}

pub(super) async fn show(context: &Context, id: &str) -> Result<()> {
    let id = node_id(id)?;
    let client = context.client()?;
    let node = client.node(&id).await?;
    match context.format() {
        Format::Json => output::json(&node),
        Format::Table => {
            // A node that is not running, or whose agent is lost, has no usage; its other facts stand.
            let usage = match node.state {
                State::Running | State::Stopping => client.usage(&id).await.ok(),
                _ => None,
            };
            output::out(&render::node(&node, usage.as_ref()))
        }
    }
}

pub(super) async fn usage(context: &Context, id: &str) -> Result<()> {
    let usage = context.client()?.usage(&node_id(id)?).await?;
    output::show(context.format(), &usage, render::usage)
}

pub(super) async fn start(context: &Context, args: &TargetArgs) -> Result<()> {
    let client = context.client()?;
    let mut nodes = Vec::new();
    for id in ids(&args.ids)? {
        nodes.push(client.start(&id).await?);
    }
    settle(context, &client, nodes, Goal::Running, args.wait).await
}

pub(super) async fn stop(context: &Context, args: &TargetArgs) -> Result<()> {
    let client = context.client()?;
    let mut nodes = Vec::new();
    for id in ids(&args.ids)? {
        nodes.push(client.stop(&id).await?);
    }
    settle(context, &client, nodes, Goal::Stopped, args.wait).await
}

pub(super) async fn remove(context: &Context, args: &RmArgs) -> Result<()> {
    let client = context.client()?;
    let policy = if args.purge {
        DataPolicy::Purge
    } else {
        DataPolicy::Keep
    };
    let mut nodes = Vec::new();
    for id in ids(&args.ids)? {
        nodes.push(client.remove(&id, policy).await?);
    }
    if !args.wait.wait {
        return settle(context, &client, nodes, Goal::Removed, args.wait).await;
    }
    let targets: Vec<_> = nodes
        .iter()
        .map(|node| (node.id.clone(), Goal::Removed))
        .collect();
    wait(&client, &targets, Limit::from_now(args.wait.timeout)).await?;
    match context.format() {
        Format::Json => output::json(&targets.iter().map(|(id, _)| id).collect::<Vec<_>>()),
        Format::Table => output::out(
            &targets
                .iter()
                .map(|(id, _)| format!("removed {id}\n"))
                .collect::<String>(),
        ),
    }
}

/// Waits if that was asked for, and prints the nodes as they are then.
pub(super) async fn settle(
    context: &Context,
    client: &Client,
    mut nodes: Vec<Node>,
    goal: Goal,
    args: WaitArgs,
) -> Result<()> {
    if args.wait {
        let targets: Vec<_> = nodes.iter().map(|node| (node.id.clone(), goal)).collect();
        nodes = wait(client, &targets, Limit::from_now(args.timeout)).await?;
    }
    output::show(context.format(), &nodes, |nodes| {
        render::nodes(nodes, false)
    })
}

fn ids(texts: &[String]) -> Result<Vec<NodeId>> {
    texts.iter().map(|text| node_id(text)).collect()
}
