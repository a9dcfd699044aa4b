//! How calls run: in turn, node by node, and to the end of what cannot be taken back half-way.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use grid_platform_api::{ErrorKind, NodeId, Result};
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::error::error;

/// Whose turn it is at a node. It is held to the end of what cannot be taken back half-way, also when the call
/// that began it is dropped.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<NodeId, Arc<AsyncMutex<()>>>>);

/// A turn.
pub type Turn = tokio::sync::OwnedMutexGuard<()>;

impl Turns {
    /// Waits for the turn at a node.
    pub async fn take(&self, id: &NodeId) -> Turn {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are let go when the map would have to grow.
            if turns.len() == turns.capacity() {
                turns.retain(|_, it| Arc::strong_count(it) > 1);
            }
            Arc::clone(turns.entry(id.clone()).or_default())
        };
        turn.lock_owned().await
    }
}

/// Runs what blocks on the disk beside the runtime's own threads, to its end.
///
/// # Errors
/// The work's own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// Runs to its end, also when the caller is dropped; not beyond the platform's.
///
/// # Errors
/// The work's own; `Unavailable` when the platform was closed, which `closing` tells by its end.
pub async fn detached<T: Send + 'static>(
    closing: &watch::Receiver<()>,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut closing = closing.clone();
    let task = tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = closing.changed() => Err(error(ErrorKind::Unavailable, "the platform was closed")),
            result = work => result,
        }
    });
    joined(task.await)
}

fn joined<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    result.unwrap_or_else(|e| {
        Err(error(ErrorKind::Internal, "a step of the call did not end").with_source(e))
    })
}
