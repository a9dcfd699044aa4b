//! What all parts of a running master share, and what it does in the background.

use std::{sync::Arc, time::Duration};

use grid_platform_api::{Error, ErrorKind, NodeId, Result, SecretValue, SpawnConfig, Timestamp};
use grid_proto::seal::SealKey;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth, events,
    grid::Grid,
    link::LogHub,
    settings::Settings,
    store::{
        Store,
        row::{AgentInfo, AgentRow, NodeRow},
    },
    translate::Secrets,
};

/// How often what was seen is stored.
const FLUSH: Duration = Duration::from_secs(1);
/// How soon a change that nobody else would ask for again is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How many nodes of it are stored at once.
const PIECE: usize = 256;
/// How long an `Idempotency-Key` is remembered.
const KEYS: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// A running master.
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) grid: Arc<Grid>,
    pub(crate) seal: Arc<SealKey>,
    pub(crate) logs: Arc<LogHub>,
    /// Everything that goes on for ever ends with it.
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) since: Since,
    pub(crate) openapi: String,
}

/// A time that goes on while the master runs and never otherwise, whatever the host's clock is set to: what it makes old
/// has had its time to be asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    at: Timestamp,
    instant: Instant,
}

impl Since {
    /// Goes on from the newest of what it was kept with; at first, it is the host's.
    pub(crate) fn start(newest: Option<Timestamp>) -> Self {
        Self {
            at: newest.unwrap_or_else(Timestamp::now),
            instant: Instant::now(),
        }
    }

    /// The time that is kept with what grows old.
    pub(crate) fn now(&self) -> Timestamp {
        // Beyond what a timestamp can hold nothing grows old.
        self.at
            .checked_add(self.instant.elapsed())
            .unwrap_or(self.at)
    }
}

impl App {
    /// Starts what is done in the background.
    pub(crate) async fn begin(self: &Arc<Self>) {
        // Before anybody can be told an event, so that a crash hands out none of its ids again.
        let reserved = self.reserve_events().await;
        let app = self.clone();
        self.tasks
            .spawn(async move { app.keep_house(reserved).await });
        // Agents that were heard before the last end have the usual time to be heard again.
        let deadline = Instant::now() + self.settings.lost_after;
        for agent in self.grid.agents() {
            if agent.state == grid_client::AgentState::Ready {
                self.watch_for_loss(agent.id, deadline);
            }
        }
    }

    async fn keep_house(&self, mut reserved: u64) {
        let mut tick = tokio::time::interval(FLUSH);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.shutdown.cancelled() => break,
            }
            self.flush().await;
            if self.grid.events.newest() + events::BLOCK / 2 > reserved {
                reserved = self.reserve_events().await;
            }
            if ticks.is_multiple_of(600) {
                self.expire_keys().await;
            }
            ticks += 1;
        }
        self.flush().await;
    }

    /// Stores what was seen.
    async fn flush(&self) {
        let mut seen = self.grid.take_dirty();
        // In pieces, so that a change that somebody waits for gets its turn between them.
        while !seen.is_empty() {
            let piece = seen.split_off(seen.len().saturating_sub(PIECE));
            let change = self.store.change(move |tx| {
                for (id, row) in piece {
                    // A node that was removed meanwhile must not come back as something seen.
                    if tx.book.nodes.contains_key(&id) {
                        tx.put_seen(id, row);
                    }
                }
                Ok(())
            });
            if let Err(error) = change.await {
                tracing::warn!(error = %error, "what was seen is not stored; it is reported again when agents reconnect");
            }
        }
    }

    /// Makes sure that event ids up to half a block from now are never handed out again.
    async fn reserve_events(&self) -> u64 {
        let reserved = self.grid.events.newest() + events::BLOCK;
        let change = self.store.change(move |tx| {
            tx.reserve_event_ids(reserved);
            Ok(())
        });
        match change.await {
            Ok(()) => reserved,
            Err(_) => 0,
        }
    }

    async fn expire_keys(&self) {
        let now = self.since.now();
        let change = self.store.change(move |tx| {
            let Ok(old) = now.checked_sub(KEYS) else {
                return Ok(());
            };
            let expired: Vec<String> = tx
                .book
                .requests
                .iter()
                .filter(|(_, row)| row.at < old)
                .map(|(key, _)| key.clone())
                .collect();
            expired.iter().for_each(|key| tx.delete_request(key));
            Ok(())
        });
        if let Err(error) = change.await {
            tracing::warn!(error = %error, "old idempotency keys are not removed");
        }
    }

    /// Shows the agent as lost if it is not heard by `deadline`.
    pub(crate) fn watch_for_loss(self: &Arc<Self>, agent: String, deadline: Instant) {
        let app = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => {}
                () = app.shutdown.cancelled() => return,
            }
            if !app.grid.lose(&agent, deadline - app.settings.lost_after) {
                return;
            }
            tracing::warn!(agent, "an agent is lost");
            let change = app.store.change(move |tx| {
                if let Some(row) = tx.book.agents.get(&agent) {
                    tx.put_agent(AgentRow {
                        lost: true,
                        ..(**row).clone()
                    });
                }
                Ok(())
            });
            if let Err(error) = change.await {
                tracing::warn!(error = %error, "the loss of an agent is not stored");
            }
        });
    }

    /// Lets an agent in: binds its token to its install, and notes what it says of itself.
    ///
    /// # Errors
    /// `PermissionDenied` for a token of another install, `OwnedByOther` for an id of another install, and for an
    /// install that is connected under another id.
    pub(crate) async fn admit_agent(
        &self,
        agent: &str,
        install_id: &str,
        info: AgentInfo,
        token: &str,
    ) -> Result<()> {
        let (agent, install_id, token) =
            (agent.to_owned(), install_id.to_owned(), token.to_owned());
        let grid = self.grid.clone();
        self.store
            .change(move |tx| {
                let Some(token) = tx.book.tokens.get(&token).cloned() else {
                    return Err(Error::new(ErrorKind::PermissionDenied, "the token was deleted")
                        .with_hint("`POST /api/grid/tokens` with `{\"role\": \"agent\"}` makes one."));
                };
                match &token.install_id {
                    Some(bound) if *bound != install_id => {
                        return Err(Error::new(
                            ErrorKind::PermissionDenied,
                            format!("the token `{}` is bound to another agent's install", token.id),
                        )
                        .with_hint(
                            "Each agent wants a token of its own: `POST /api/grid/tokens` with `{\"role\": \"agent\"}` makes one.",
                        ));
                    }
                    _ => {}
                }
                let known = tx.book.agents.get(&agent).cloned();
                if let Some(known) = known.as_ref().filter(|k| k.install_id != install_id) {
                    let nodes = tx.book.load(&agent).map_or(0, |l| l.nodes.len());
                    let connected = grid.connected_install(&agent).as_ref() == Some(&known.install_id);
                    let why = match (connected, nodes) {
                        (true, _) => "which is connected".to_owned(),
                        (false, 0) => String::new(),
                        (false, nodes) => format!("which has {nodes} nodes here"),
                    };
                    if !why.is_empty() {
                        return Err(Error::new(
                            ErrorKind::OwnedByOther,
                            format!("the agent id `{agent}` is that of another install, {why}"),
                        )
                        .with_hint(
                            "Give this agent another `[agent] agent_id`; if its state directory was lost, remove the nodes by `grid rm` first.",
                        ));
                    }
                }
                let mut cordoned = known.is_some_and(|k| k.cordoned);
                // One install is one agent. Under a new name it is the agent that it was, unless that is still here.
                let names = tx.book.agents.values();
                let former: Vec<_> = names
                    .filter(|row| row.install_id == install_id && row.id != agent)
                    .cloned()
                    .collect();
                for former in former {
                    if grid.connected_install(&former.id).as_ref() == Some(&install_id) {
                        return Err(Error::new(
                            ErrorKind::OwnedByOther,
                            format!("this install is connected as the agent `{}`", former.id),
                        )
                        .with_hint(
                            "Give each agent a state directory of its own: a copied one makes two agents of one install.",
                        ));
                    }
                    cordoned |= former.cordoned;
                    // Wishes for its nodes keep it.
                    if tx.book.load(&former.id).is_none_or(|l| l.nodes.is_empty()) {
                        tx.delete_agent(&former.id);
                    }
                }
                if token.install_id.is_none() {
                    let mut bound = (*token).clone();
                    bound.install_id = Some(install_id.clone());
                    tx.put_token(bound);
                }
                tx.put_agent(AgentRow {
                    cordoned,
                    id: agent,
                    install_id,
                    lost: false,
                    info,
                    connected_at: Timestamp::now(),
                });
                Ok(())
            })
            .await
    }

    /// Whether the agent of this id is this install.
    pub(crate) fn owns(&self, agent: &str, install_id: &str) -> bool {
        self.grid
            .agent(agent)
            .is_some_and(|a| a.install_id == install_id)
    }

    /// Deletes a tombstone that the agent has acknowledged. An agent says so once in a session, which may last: while the
    /// store cannot take it, it is tried again.
    pub(crate) async fn forget(&self, id: NodeId, generation: u64) {
        let stored = until_stored(|| {
            let node = id.clone();
            self.store.change(move |tx| {
                let current = tx.book.nodes.get(&node);
                if current.is_some_and(|row| row.wish.is_removed() && row.generation == generation)
                {
                    tx.delete_node(&node);
                }
                Ok(())
            })
        });
        self.shutdown.run_until_cancelled(stored).await;
    }

    /// What travels for a wish, with the values of its secrets; `None` for the tombstone of an unmanaged node.
    pub(crate) fn config_with_secrets(&self, row: &NodeRow) -> Result<Option<SpawnConfig>> {
        let Some(mut config) = row.spec.clone() else {
            return Ok(None);
        };
        config.secrets = open_secrets(&self.seal, row)?;
        Ok(Some(config))
    }
}

/// Makes a change again and again until the store has taken it.
async fn until_stored<F: Future<Output = Result<()>>>(mut change: impl FnMut() -> F) {
    while let Err(error) = change().await {
        tracing::warn!(error = %error.report().trim_end(), "a removed node is not forgotten yet");
        tokio::time::sleep(AGAIN).await;
    }
}

/// The values of a wish's secrets.
pub(crate) fn open_secrets(seal: &SealKey, row: &NodeRow) -> Result<Secrets> {
    row.sealed
        .iter()
        .map(|(name, sealed)| {
            let bytes = auth::unhex(sealed).unwrap_or_default();
            Ok((name.clone(), SecretValue::new(seal.open(&bytes)?)))
        })
        .collect()
}

/// The values of secrets as they are stored.
pub(crate) fn seal_secrets(
    seal: &SealKey,
    secrets: &Secrets,
) -> Result<std::collections::BTreeMap<String, String>> {
    secrets
        .iter()
        .filter_map(|(name, value)| Some((name, value.expose()?)))
        .map(|(name, value)| Ok((name.clone(), auth::hex(&seal.seal(value)?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{Error, ErrorKind};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_the_store_could_not_take_is_tried_until_it_does() {
        let mut tries = 0;
        until_stored(|| {
            tries += 1;
            let result = match tries {
                1..4 => Err(Error::new(ErrorKind::Exhausted, "the disk is full")),
                _ => Ok(()),
            };
            async { result }
        })
        .await;
        assert_eq!(tries, 4);
    }
}
