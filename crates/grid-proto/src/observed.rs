//! Nodes as agents see them.

use grid_platform_api::{Error, ErrorKind, Result, SpawnedNode};
use serde_json::Value;

use crate::{report::soften_reason, v1};

/// One node as an agent sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The node as the platform shows it.
    pub node: SpawnedNode,
    /// Whether the agent has a wish for it. One without is left running.
    pub managed: bool,
}

impl From<&Observation> for v1::NodeObserved {
    fn from(observation: &Observation) -> Self {
        Self {
            // A node has text keys only and no floating-point numbers, so that it always has a JSON form.
            node_json: serde_json::to_string(&observation.node).unwrap_or_default(),
            managed: observation.managed,
        }
    }
}

impl TryFrom<v1::NodeObserved> for Observation {
    type Error = Error;

    /// # Errors
    /// `InvalidConfig` for what is no node, a failure's reason of a newer version excepted.
    fn try_from(wire: v1::NodeObserved) -> Result<Self> {
        let read = serde_json::from_str::<Value>(&wire.node_json).and_then(|mut value| {
            if let Some(failure) = value.pointer_mut("/state/failure") {
                soften_reason(failure);
            }
            if let Some(failure) = value.get_mut("last_failure") {
                soften_reason(failure);
            }
            serde_json::from_value(value)
        });
        let node = read.map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, "a reported node cannot be read").with_source(e)
        })?;
        Ok(Self {
            node,
            managed: wire.managed,
        })
    }
}
