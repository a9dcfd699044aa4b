//! Spawn, stop and remove.
//!
//! The claim is the record: it is made with everything that a node is asked to be, before anything starts, and what is asked of the node
//! later is noted in it before the cluster is asked. A crash between any two calls leaves what the next `open` or call of the same node
//! carries on with (`heal.rs`).

mod heal;
mod ready;
mod remove;
mod spawn;
mod stop;

use std::sync::Arc;

use grid_platform_api::{Error, NodeId, Result};

pub(crate) use heal::heal;
pub(crate) use remove::{list_data, remove};
pub(crate) use spawn::spawn;
pub(crate) use stop::stop;

use crate::{claims, platform::Inner, pods, registry::Entry};

/// Asks the cluster for a node that nothing is known of.
///
/// # Errors
/// `NotFound`; whose the claim of its name is, that it cannot be understood, or that it was taken away from beneath its pod; the
/// cluster's.
pub(crate) async fn unknown(inner: &Arc<Inner>, id: &NodeId) -> Result<Entry> {
    claims::look(inner, id).await?;
    // Or it came to be while the cluster was asked.
    let entry = inner.registry.get(id);
    if entry.record().is_some() {
        return Ok(entry);
    }
    // What is known of pods may be behind what is known of claims: the cluster has the last word.
    let has_lost_its_claim = entry.claim.is_none() && entry.pod.is_some();
    match has_lost_its_claim && pods::look(inner, id).await?.is_some() {
        true => Err(claims::gone_beneath(id)),
        false => Err(Error::not_found(id)),
    }
}
