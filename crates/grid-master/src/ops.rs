//! What people can ask for that changes something. Each is one change of the store.

use std::sync::Arc;

use grid_client::{CreateToken, CreatedToken, NodeSettings, SpawnRequest, Token, UpdateRequest};
use grid_platform_api::{Error, ErrorKind, NodeId, Result, Timestamp};
use grid_proto::seal::SealKey;

use crate::{
    app::{App, open_secrets, seal_secrets},
    auth,
    grid::no_agent,
    scheduler::{self, Candidate},
    store::{
        Load, Tx,
        row::{AgentRow, NodeRow, RequestRow, Wish},
    },
    translate::{self, Defaults},
    view,
};

/// An `Idempotency-Key` and the body that came with it.
#[derive(Clone, Debug)]
pub(crate) struct Idempotency {
    /// The key, within the token that sent it.
    pub(crate) key: String,
    /// SHA-256 of the body.
    pub(crate) body: Vec<u8>,
}

fn conflict(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::Conflict, message).with_hint(hint)
}

/// The node with this wish, if that is another one or is to be tried `again`.
fn wished(row: &NodeRow, wish: Wish, again: bool) -> Option<NodeRow> {
    (row.wish != wish || again).then(|| NodeRow {
        wish,
        generation: row.generation + 1,
        ..row.clone()
    })
}

impl App {
    /// Makes a node. `true` when it is new; `false` when it was there with the same settings.
    pub(crate) async fn spawn(
        &self,
        request: SpawnRequest,
        idempotency: Option<Idempotency>,
    ) -> Result<(NodeId, bool)> {
        let id = match request.node_id.clone() {
            Some(id) => id,
            None => NodeId::new(format!("node-{}", auth::hex(&auth::random::<4>()?)))?,
        };
        let elsewhere = match self.grid.find(&id) {
            Some((agent, None)) if request.agent_id.as_ref() != Some(&agent) => Some(agent),
            _ => None,
        };
        let unheard = self.grid.unheard_agents(request.agent_id.is_some());
        let (seal, now, grid) = (self.seal.clone(), self.since.now(), self.grid.clone());
        self.store
            .change(move |tx| {
                if let Some(sent) = &idempotency
                    && let Some(answer) = replay(tx, &seal, sent)?
                {
                    return Ok(answer);
                }
                let (made, created_at) = match tx.book.nodes.get(&id).cloned() {
                    Some(row) => {
                        if row.wish.is_removed() {
                            return Err(removing(&id, grid.is_given_up(&row)));
                        }
                        same(&seal, &row, &request)?;
                        (false, row.created_at)
                    }
                    None => {
                        if let Some(agent) = elsewhere {
                            return Err(conflict(
                                format!("the agent `{agent}` has a node `{id}` that nobody here wished for"),
                                format!("Choose another id, or name `agent_id` `{agent}` to take it over."),
                            ));
                        }
                        let ready = |agent: &str| !unheard.contains(agent);
                        let row = create(tx, &seal, id.clone(), request, ready)?;
                        let created_at = row.created_at;
                        tx.put_node(row);
                        (true, created_at)
                    }
                };
                if let Some(sent) = idempotency {
                    let row = RequestRow {
                        body: auth::hex(&seal.seal(&sent.body)?),
                        node: id.clone(),
                        made: Some(created_at),
                        at: now,
                    };
                    tx.put_request(sent.key, row);
                }
                Ok((id, made))
            })
            .await
    }

    /// Gives a node other settings.
    pub(crate) async fn update(&self, id: &NodeId, request: UpdateRequest) -> Result<()> {
        let seal = self.seal.clone();
        self.change_node(id, move |row| {
            if let Some(expect) = request.if_generation
                && expect != row.generation
            {
                return Err(conflict(
                    format!(
                        "the node `{}` has generation {}, not {expect}",
                        row.id, row.generation
                    ),
                    "Look at it again by `grid node ID`, and decide again.",
                ));
            }
            let (Some(stored), Some(spec)) = (&row.settings, &row.spec) else {
                return Err(Error::not_found(&row.id));
            };
            let secrets = open_secrets(&seal, &row)?;
            let mut settings = translate::merge(stored, request.settings)?;
            translate::fill_secrets(&mut settings, &secrets)?;
            let defaults = Defaults {
                program: Some(spec.program.clone()),
                health: spec.health.clone(),
            };
            let (settings, spec, sealed) = settle(&row.id, settings, &defaults, &seal)?;
            Ok(Some(NodeRow {
                generation: row.generation + 1,
                settings: Some(settings),
                spec: Some(spec),
                sealed,
                ..row
            }))
        })
        .await
    }

    /// Wishes that a node runs. One that has ended, or whose last change has failed, is tried again.
    pub(crate) async fn start(&self, id: &NodeId) -> Result<()> {
        let grid = self.grid.clone();
        self.change_node(id, move |row| {
            let again = grid.waits_for_a_wish(&row);
            Ok(wished(&row, Wish::Running, again))
        })
        .await
    }

    /// Wishes that a node does not run. One whose stop has failed is tried again.
    pub(crate) async fn stop(&self, id: &NodeId) -> Result<()> {
        let grid = self.grid.clone();
        self.change_node(id, move |row| {
            let again = grid.is_given_up(&row);
            Ok(wished(&row, Wish::Stopped, again))
        })
        .await
    }

    /// Changes the wish for a node that is not being removed; `None` leaves it as it is.
    async fn change_node(
        &self,
        id: &NodeId,
        change: impl FnOnce(NodeRow) -> Result<Option<NodeRow>> + Send + 'static,
    ) -> Result<()> {
        let id = id.clone();
        let unmanaged = matches!(self.grid.find(&id), Some((_, None)));
        let grid = self.grid.clone();
        self.store
            .change(move |tx| {
                let Some(row) = tx.book.nodes.get(&id) else {
                    return Err(if unmanaged {
                        conflict(
                            format!("the node `{id}` was found by its agent and nobody here wished for it"),
                            "`grid spawn` with its id, agent and settings takes it over; `grid rm ID` removes it.",
                        )
                    } else {
                        Error::not_found(&id)
                    });
                };
                if row.wish.is_removed() {
                    return Err(removing(&id, grid.is_given_up(row)));
                }
                if let Some(row) = change((**row).clone())? {
                    tx.put_node(row);
                }
                Ok(())
            })
            .await
    }

    /// Wishes that a node is gone. Its tombstone stays until its agent has acknowledged it; a removal that has failed is tried again.
    pub(crate) async fn remove(&self, id: &NodeId, purge: bool) -> Result<()> {
        let id = id.clone();
        let unmanaged = match self.grid.find(&id) {
            Some((agent, None)) => Some(agent),
            _ => None,
        };
        let grid = self.grid.clone();
        self.store
            .change(move |tx| {
                let row = match (tx.book.nodes.get(&id), unmanaged) {
                    (Some(row), _) => {
                        // A purge that is on its way is not taken back.
                        let purge = purge || row.wish == Wish::Removed { purge: true };
                        match wished(row, Wish::Removed { purge }, grid.is_given_up(row)) {
                            Some(row) => row,
                            None => return Ok(()),
                        }
                    }
                    (None, Some(agent)) => NodeRow {
                        id: id.clone(),
                        agent,
                        wish: Wish::Removed { purge },
                        generation: tx.book.revision + 1,
                        settings: None,
                        spec: None,
                        sealed: Default::default(),
                        created_at: Timestamp::now(),
                    },
                    (None, None) => return Err(Error::not_found(&id)),
                };
                tx.put_node(row);
                Ok(())
            })
            .await
    }

    /// Lets new nodes be placed on an agent, or not.
    pub(crate) async fn cordon(&self, agent: &str, cordoned: bool) -> Result<()> {
        let agent = agent.to_owned();
        self.store
            .change(move |tx| {
                let Some(row) = tx.book.agents.get(&agent) else {
                    return no_agent(&agent);
                };
                if row.cordoned != cordoned {
                    tx.put_agent(AgentRow {
                        cordoned,
                        ..(**row).clone()
                    });
                }
                Ok(())
            })
            .await
    }

    pub(crate) async fn create_token(&self, request: CreateToken) -> Result<CreatedToken> {
        if request.note.as_ref().is_some_and(|note| note.len() > 256) {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "the note is longer than 256 bytes",
            )
            .with_hint("Shorten `note`."));
        }
        let (row, value) = auth::mint(request.role, request.note)?;
        let token = view::token(&row);
        self.store
            .change(move |tx| {
                tx.put_token(row);
                Ok(())
            })
            .await?;
        Ok(CreatedToken { token, value })
    }

    /// Deletes a token; what it has open ends.
    pub(crate) async fn delete_token(&self, id: &str) -> Result<Token> {
        let id = id.to_owned();
        self.store
            .change(move |tx| {
                let Some(row) = tx.book.tokens.get(&id) else {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("there is no token `{}`", grid_platform_api::printable(&id)),
                    )
                    .with_hint("`GET /api/grid/tokens` lists the tokens."));
                };
                let admins = |role| role == grid_client::Role::Admin;
                if admins(row.role) && tx.book.tokens.values().filter(|t| admins(t.role)).count() == 1 {
                    return Err(conflict(
                        format!("`{id}` is the last token of the role `admin`"),
                        "Make another one first: `POST /api/grid/tokens` with `{\"role\": \"admin\"}`.",
                    ));
                }
                let shown = view::token(row);
                tx.delete_token(&id);
                Ok(shown)
            })
            .await
    }
}

/// The error for what is asked of a node that is to be gone; `is_given_up` when its removal has failed for good.
fn removing(id: &NodeId, is_given_up: bool) -> Error {
    let error = if is_given_up {
        conflict(
            format!("the node `{id}` is to be removed, and its removal has failed"),
            "`grid node ID` says why; once that is mended, `grid rm ID` tries it again.",
        )
    } else {
        conflict(
            format!("the node `{id}` is being removed"),
            "Try again when it is gone; an agent that is lost acknowledges the removal when it is back.",
        )
        .with_retryable(true)
    };
    error.with_node(id)
}

/// The answer that a request with the same key got, if there was one.
fn replay(tx: &Tx<'_>, seal: &SealKey, sent: &Idempotency) -> Result<Option<(NodeId, bool)>> {
    let Some(before) = tx.book.requests.get(&sent.key) else {
        return Ok(None);
    };
    let body = seal.open(&auth::unhex(&before.body).unwrap_or_default())?;
    if body != sent.body {
        return Err(conflict(
            "this `Idempotency-Key` was sent with another body",
            "Send a new key with each new request.",
        ));
    }
    // One that was made after that answer is another node of the same id, whatever the clock said at the time.
    let made = tx.book.nodes.get(&before.node);
    let is_that = |row: &NodeRow| match before.made {
        Some(made) => row.created_at == made,
        None => row.created_at <= before.at,
    };
    if !made.is_some_and(|row| is_that(row)) {
        return Err(conflict(
            format!(
                "the node `{}` that this request made was removed since",
                before.node
            ),
            "Send a new key to make it again.",
        ));
    }
    // As the first answer was.
    Ok(Some((before.node.clone(), true)))
}

/// Checks that a request asks for the node that is there.
fn same(seal: &SealKey, row: &NodeRow, request: &SpawnRequest) -> Result<()> {
    let mut settings = request.settings.clone();
    let secrets = translate::withhold(&mut settings);
    let agent = request.agent_id.as_ref().is_none_or(|a| *a == row.agent);
    if agent && row.settings.as_ref() == Some(&settings) && secrets == open_secrets(seal, row)? {
        return Ok(());
    }
    Err(conflict(
        format!("the node `{}` exists with other settings", row.id),
        "`grid node ID` shows them; `grid update ID` changes them; or choose another id.",
    )
    .with_node(&row.id))
}

/// Settings, checked, as they are stored and as they travel.
type Settled = (
    NodeSettings,
    grid_platform_api::SpawnConfig,
    std::collections::BTreeMap<String, String>,
);

fn settle(
    id: &NodeId,
    mut settings: NodeSettings,
    defaults: &Defaults,
    seal: &SealKey,
) -> Result<Settled> {
    let mut spec = translate::spawn_config(id, &settings, defaults)?;
    let secrets = translate::withhold(&mut settings);
    spec.secrets = settings.secrets.clone().unwrap_or_default();
    Ok((settings, spec, seal_secrets(seal, &secrets)?))
}

/// Places a new node and makes its wish.
fn create(
    tx: &Tx<'_>,
    seal: &Arc<SealKey>,
    id: NodeId,
    request: SpawnRequest,
    ready: impl Fn(&str) -> bool,
) -> Result<NodeRow> {
    let mut settings = request.settings;
    translate::fill_secrets(&mut settings, &Default::default())?;
    let named = request.node_id.is_some();
    let agent = choose(
        tx,
        &settings,
        request.agent_id.as_deref(),
        &request.agent_labels,
        ready,
    )
    .map_err(|e| match named {
        true => e.with_node(&id),
        // An id that was made up here says nothing to the one who asked.
        false => e,
    })?;
    let info = &agent.info;
    let defaults = Defaults {
        program: info.default_program.clone(),
        health: info.default_health.clone(),
    };
    let (settings, spec, sealed) = settle(&id, settings, &defaults, seal)?;
    Ok(NodeRow {
        id,
        agent: agent.id.clone(),
        wish: Wish::Running,
        // Above every generation that an earlier node of this id had: none is above its revision.
        generation: tx.book.revision + 1,
        settings: Some(settings),
        spec: Some(spec),
        sealed,
        created_at: Timestamp::now(),
    })
}

fn choose<'a>(
    tx: &Tx<'a>,
    settings: &NodeSettings,
    agent: Option<&str>,
    labels: &std::collections::BTreeMap<String, String>,
    ready: impl Fn(&str) -> bool,
) -> Result<&'a AgentRow> {
    let request = scheduler::Request {
        agent,
        labels,
        program: translate::program_kind(settings),
        restart: settings
            .restart
            .as_ref()
            .map(|r| r.mode)
            .unwrap_or_default(),
        memory_mb: settings.memory_limit_mb,
        cpu_limit: settings.cpu_limit_millis.is_some(),
        pids_limit: settings.pids_limit.is_some(),
        open_files_limit: settings.open_files_limit.is_some(),
        storage_size: settings.storage_size_mb.is_some(),
        storage_path: settings.storage_path.is_some(),
        user: settings.run_as.is_some(),
        secrets: settings.secrets.as_ref().is_some_and(|s| !s.is_empty()),
        secret_env: settings.secret_env.as_ref().is_some_and(|s| !s.is_empty()),
        health: settings.health.is_some(),
    };
    let candidate = |(row, load): (&'a Arc<AgentRow>, Option<&'a Load>)| Candidate {
        id: &row.id,
        ready: ready(&row.id),
        cordoned: row.cordoned,
        labels: &row.info.labels,
        capabilities: &row.info.capabilities,
        default_program: row.info.default_program.as_ref(),
        nodes: load.map_or(0, |l| l.nodes.len()),
        max_storage_nodes: row.info.max_storage_nodes,
        memory_mb: row.info.memory_mb,
        memory_used_mb: load.map_or(0, |l| l.memory_mb),
    };
    // One that is named is looked up, so that a thousand others cost nothing.
    let chosen = match agent {
        Some(named) => {
            let row = tx.book.agents.get(named);
            let named = row.into_iter().map(|row| (row, tx.book.load(named)));
            scheduler::place(named.map(candidate), &request)?
        }
        None => scheduler::place(tx.book.by_standing().map(candidate), &request)?,
    };
    match tx.book.agents.get(chosen) {
        Some(row) => Ok(row),
        None => no_agent(chosen),
    }
}
