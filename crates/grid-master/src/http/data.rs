//! `/api/grid/data`: what nodes have on disk, also those that were removed.

use std::sync::Arc;

use axum::{Json, extract::State as Shared, http::StatusCode};
use futures::future::join_all;
use grid_client::{AgentState, Data, ErrorBody};
use grid_platform_api::{Error, ErrorKind, NodeData, NodeId};
use grid_proto::v1;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Admin, Id, Params, Reader};
use crate::{app::App, error::ApiError, grid::no_agent, link::disconnected};

/// Whose data.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DataQuery {
    /// Only this agent's.
    agent: Option<String>,
}

/// Data of all agents, or of one. It never answers short: an agent that is lost fails the list of all.
#[utoipa::path(
    get, path = "/api/grid/data", tag = "data", operation_id = "listData",
    params(DataQuery),
    responses(
        (status = 200, body = [Data]),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn list(
    _: Reader,
    Params(query): Params<DataQuery>,
    Shared(app): Shared<Arc<App>>,
) -> Result<Json<Vec<Data>>, ApiError> {
    let agents = match query.agent {
        Some(agent) => vec![agent],
        None => {
            let lost = lost(&app);
            if !lost.is_empty() {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "the data of lost agents cannot be listed: {}",
                        lost.join(", ")
                    ),
                )
                .with_hint(
                    "`grid data ls --agent NAME` lists the data of one agent that is connected.",
                )
                .into());
            }
            heard(&app)
        }
    };
    let mut all = Vec::new();
    for answer in join_all(agents.iter().map(|agent| data_of(&app, agent))).await {
        all.extend(answer?);
    }
    all.sort_by(|a, b| (&a.node, &a.agent).cmp(&(&b.node, &b.agent)));
    Ok(Json(all))
}

/// Deletes the data of a node that was removed.
#[utoipa::path(
    delete, path = "/api/grid/data/{id}", tag = "data", operation_id = "purgeData",
    params(("id" = String, Path, pattern = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description = "The node's id"), DataQuery),
    responses(
        (status = 204),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn purge(
    _: Admin,
    Id(id): Id,
    Params(query): Params<DataQuery>,
    Shared(app): Shared<Arc<App>>,
) -> Result<StatusCode, ApiError> {
    if let Some((agent, _)) = app.grid.find(&id)
        && query.agent.as_ref().is_none_or(|named| *named == agent)
    {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the node `{id}` exists on `{agent}`; data in use is purged only with its node"
            ),
        )
        .with_hint(format!("`grid rm {id} --purge` removes both."))
        .with_node(&id)
        .into());
    }
    let agent = match query.agent {
        Some(agent) => agent,
        None => holder(&app, &id).await?,
    };
    let about = v1::question::About::PurgeData(v1::PurgeData {
        node_id: id.to_string(),
    });
    ask(&app, &agent, about).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The one agent that has data of a node.
async fn holder(app: &App, id: &NodeId) -> Result<String, ApiError> {
    let agents = heard(app);
    let mut holders = Vec::new();
    for answer in join_all(agents.iter().map(|agent| data_of(app, agent))).await {
        holders.extend(
            answer?
                .into_iter()
                .filter(|d| d.node == *id)
                .map(|d| d.agent),
        );
    }
    match holders.as_slice() {
        [agent] => Ok(agent.clone()),
        [] => Err(Error::new(
            ErrorKind::NotFound,
            format!("no agent that is heard has data of a node `{id}`"),
        )
        .with_hint("`grid data ls` lists the data.")
        .into()),
        several => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "several agents have data of a node `{id}`: {}",
                several.join(", ")
            ),
        )
        .with_hint("Name one by `agent`.")
        .into()),
    }
}

fn heard(app: &App) -> Vec<String> {
    in_state(app, AgentState::Ready)
}

fn lost(app: &App) -> Vec<String> {
    in_state(app, AgentState::Lost)
}

fn in_state(app: &App, state: AgentState) -> Vec<String> {
    let agents = app.grid.agents().into_iter();
    agents
        .filter(|agent| agent.state == state)
        .map(|agent| agent.id)
        .collect()
}

async fn ask(app: &App, agent: &str, about: v1::question::About) -> Result<String, ApiError> {
    match app.grid.session(agent) {
        Some(session) => session.ask(about).await,
        None if app.grid.agent(agent).is_none() => Ok(no_agent(agent)?),
        None => Err(disconnected(agent).into()),
    }
}

async fn data_of(app: &App, agent: &str) -> Result<Vec<Data>, ApiError> {
    let answer = ask(app, agent, v1::question::About::Data(v1::Empty {})).await?;
    let data: Vec<NodeData> = super::parse_answer(agent, &answer)?;
    let shown = data.into_iter().map(|d| Data {
        node: d.node_id,
        agent: agent.to_owned(),
        location: d.location,
        in_use: d.in_use,
        created_by_platform: d.created_by_platform,
        bytes: d.bytes,
    });
    Ok(shown.collect())
}
