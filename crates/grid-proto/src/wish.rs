//! What is wanted of one node.

use std::collections::HashMap;

use grid_platform_api::{DataPolicy, Error, ErrorKind, NodeId, Result, SecretValue, SpawnConfig};

use crate::v1;

/// What is wanted of one node, by a generation that rises with every change of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// The node.
    pub node_id: NodeId,
    /// Rises with every change.
    pub generation: u64,
    /// What is wanted.
    pub want: Want,
}

/// What may be wanted of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    /// It runs, as this request says.
    Running(Box<SpawnConfig>),
    /// It does not run; its record, ports and data stay.
    Stopped(Box<SpawnConfig>),
    /// It is gone: a tombstone.
    Removed(DataPolicy),
}

impl Want {
    /// The request, for a node that is to be there.
    pub fn config(&self) -> Option<&SpawnConfig> {
        match self {
            Self::Running(config) | Self::Stopped(config) => Some(config),
            Self::Removed(_) => None,
        }
    }
}

impl From<&Wish> for v1::DesiredNode {
    /// Without a fence: the set's holds, or the sender adds one.
    fn from(wish: &Wish) -> Self {
        let (state, data) = match &wish.want {
            Want::Running(_) => (v1::DesiredState::Running, v1::DataPolicy::Unspecified),
            Want::Stopped(_) => (v1::DesiredState::Stopped, v1::DataPolicy::Unspecified),
            Want::Removed(DataPolicy::Keep) => (v1::DesiredState::Removed, v1::DataPolicy::Keep),
            Want::Removed(DataPolicy::Purge) => (v1::DesiredState::Removed, v1::DataPolicy::Purge),
        };
        let config = wish.want.config();
        Self {
            fence: None,
            node_id: wish.node_id.to_string(),
            generation: wish.generation,
            state: state.into(),
            // A request has text keys only and no floating-point numbers, so that it always has a JSON form.
            spec_json: config
                .map(|config| serde_json::to_string(config).unwrap_or_default())
                .unwrap_or_default(),
            secrets: config.map(expose).unwrap_or_default(),
            data: data.into(),
        }
    }
}

fn expose(config: &SpawnConfig) -> HashMap<String, Vec<u8>> {
    let values = config.secrets.iter();
    values
        .filter_map(|(name, value)| Some((name.clone(), value.expose()?.to_vec())))
        .collect()
}

impl TryFrom<v1::DesiredNode> for Wish {
    type Error = Error;

    /// Reads strictly: a node is run with all of its settings or not at all.
    ///
    /// # Errors
    /// `InvalidConfig` for an id outside the grammar, a state or a setting that this version does not know, a
    /// request that does not hold, or a secret without a value.
    fn try_from(wire: v1::DesiredNode) -> Result<Self> {
        let node_id = NodeId::new(wire.node_id.clone())?;
        let name = |error: Error| error.with_node(&node_id);
        let want = match wire.state() {
            v1::DesiredState::Running => Want::Running(Box::new(config(&wire).map_err(name)?)),
            v1::DesiredState::Stopped => Want::Stopped(Box::new(config(&wire).map_err(name)?)),
            v1::DesiredState::Removed => Want::Removed(match wire.data() {
                v1::DataPolicy::Purge => DataPolicy::Purge,
                // What is not clearly to be deleted is kept.
                v1::DataPolicy::Keep | v1::DataPolicy::Unspecified => DataPolicy::Keep,
            }),
            v1::DesiredState::Unspecified => {
                return Err(name(newer(format!(
                    "what is wanted of `{node_id}` ({}) is not known to this agent",
                    wire.state
                ))));
            }
        };
        Ok(Self {
            generation: wire.generation,
            node_id,
            want,
        })
    }
}

fn newer(message: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint("Update the agent to the master's version.")
}

fn config(wire: &v1::DesiredNode) -> Result<SpawnConfig> {
    let mut config: SpawnConfig = serde_json::from_str(&wire.spec_json).map_err(|error| {
        newer(format!(
            "the request for `{}` cannot be read by this agent",
            wire.node_id
        ))
        .with_source(error)
    })?;
    let invalid = |message| Error::new(ErrorKind::InvalidConfig, message);
    if config.node_id.as_str() != wire.node_id {
        return Err(invalid(format!(
            "the request for `{}` is one for `{}`",
            wire.node_id, config.node_id
        )));
    }
    if let Some(name) = wire
        .secrets
        .keys()
        .find(|name| !config.secrets.contains_key(*name))
    {
        return Err(invalid(format!(
            "the secret `{}` is not one of the request's",
            name.escape_debug()
        )));
    }
    for (name, value) in &mut config.secrets {
        match wire.secrets.get(name) {
            Some(bytes) => *value = SecretValue::new(bytes.as_slice()),
            None => {
                return Err(invalid(format!("the secret `{name}` has no value"))
                    .with_hint("Give it again by `grid update ID`."));
            }
        }
    }
    config.validate()?;
    Ok(config)
}
