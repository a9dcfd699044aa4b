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

use grid_platform_api::{Error, NodeId};

pub(crate) use heal::heal;
pub(crate) use remove::{list_data, remove};
pub(crate) use spawn::spawn;
pub(crate) use stop::stop;

use crate::{
    claims::{self, There},
    platform::Inner,
};

/// What to say of an id that no node here has: that there is none, or whose the claim of its name is.
pub(crate) async fn unknown(inner: &Arc<Inner>, id: &NodeId) -> Error {
    match claims::look(inner, id).await {
        Ok(There::Nothing | There::Ours(_)) => Error::not_found(id),
        Err(e) => e,
    }
}
