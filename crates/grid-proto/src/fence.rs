//! The place in a grid's history that every wish carries.

use grid_platform_api::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::v1;

/// A grid, an epoch of its store and a revision in that epoch.
///
/// A restored backup of a master's store, or an empty one, would tell agents to undo what was done since. The fence
/// keeps an agent from listening to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// The grid's id.
    pub grid_id: String,
    /// The store's epoch; rises when a store is restored on purpose.
    pub epoch: u64,
    /// The store's revision; rises with every change of what is wanted.
    pub revision: u64,
    /// Which copy of the store counted up to the revision, by a random name; empty where none is known. Two copies of
    /// one store count alike, and only the store can tell whether it is the one that an agent has heard: it is asked
    /// when the agent greets it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lineage: String,
}

impl Fence {
    /// Whether an agent that has acted on `self` may act on `next`: the same grid, and not an older place in its
    /// history. The same place is let in, because a set is sent again after every reconnect.
    ///
    /// # Errors
    /// `Conflict` for another grid, `Stale` for an older epoch or revision; both with the mend.
    pub fn admits(&self, next: &Self) -> Result<()> {
        if self.grid_id != next.grid_id {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "this agent belongs to the grid `{}`, and the master is of the grid `{}`",
                    self.grid_id, next.grid_id
                ),
            )
            .with_retryable(false)
            .with_hint(
                "Point the agent at its own grid's master, restore that master's store, or give the agent a new `state_dir`; nodes go on running.",
            ));
        }
        let older = |what, seen, offered| {
            stale(format!(
                "the master's store is at {what} {offered}, and this agent has seen {seen}"
            ))
        };
        if next.epoch < self.epoch {
            Err(older("epoch", self.epoch, next.epoch))
        } else if next.epoch == self.epoch && next.revision < self.revision {
            Err(older("revision", self.revision, next.revision))
        } else {
            Ok(())
        }
    }

    /// What a master tells an agent that has seen `self`, which its store has never been at: it is a copy from before
    /// that has counted on by itself.
    pub fn unknown(&self) -> Error {
        stale(format!(
            "this agent has seen a revision {} that the master's store does not know: the store went on from an older copy",
            self.revision
        ))
    }
}

fn stale(message: String) -> Error {
    Error::new(ErrorKind::Stale, message)
        .with_retryable(false)
        .with_hint(
            "If the store was restored from a backup on purpose, start the master once with `--new-epoch`; nodes go on running.",
        )
}

impl From<&Fence> for v1::Fence {
    fn from(fence: &Fence) -> Self {
        Self {
            grid_id: fence.grid_id.clone(),
            epoch: fence.epoch,
            revision: fence.revision,
            lineage: fence.lineage.clone(),
        }
    }
}

impl TryFrom<v1::Fence> for Fence {
    type Error = Error;

    /// # Errors
    /// `InvalidConfig` for a fence that names no grid.
    fn try_from(fence: v1::Fence) -> Result<Self> {
        if fence.grid_id.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "a fence names no grid",
            ));
        }
        Ok(Self {
            grid_id: fence.grid_id,
            epoch: fence.epoch,
            revision: fence.revision,
            lineage: fence.lineage,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_admitted() {
        let fence = |grid_id: &str, epoch, revision| Fence {
            grid_id: grid_id.into(),
            epoch,
            revision,
            lineage: String::new(),
        };
        let check = |next: Fence, expect: Option<ErrorKind>| {
            let result = fence("g", 2, 10).admits(&next);
            if let Err(error) = &result {
                assert!(error.hint().is_some() && !error.is_retryable());
            }
            assert_eq!(result.err().map(|e| e.kind()), expect, "{next:?}");
        };
        check(fence("g", 2, 10), None);
        check(fence("g", 2, 11), None);
        check(fence("g", 3, 0), None);
        check(fence("g", 2, 9), Some(ErrorKind::Stale));
        check(fence("g", 1, 99), Some(ErrorKind::Stale));
        check(fence("h", 2, 10), Some(ErrorKind::Conflict));
        check(fence("h", 9, 99), Some(ErrorKind::Conflict));
    }
}
