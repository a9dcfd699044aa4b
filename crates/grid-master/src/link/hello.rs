//! What an agent says of itself, and whether it may be let in by that.

use grid_platform_api::{Error, ErrorKind, printable};
use grid_proto::v1;
use prost::Message;

use crate::{app::App, store::row::AgentInfo};

/// The longest hello, in bytes: capabilities are some hundred bytes, a program and labels seldom more.
const HELLO_BYTES: usize = 64 * 1024;

/// Whether the agent may be let in, by what it says of itself.
pub(super) fn check_hello(app: &App, hello: &v1::Hello) -> Result<AgentInfo, Error> {
    let invalid = |message: String| Error::new(ErrorKind::InvalidConfig, message);
    if hello.encoded_len() > HELLO_BYTES {
        return Err(invalid(format!(
            "what the agent says of itself is longer than {HELLO_BYTES} bytes"
        ))
        .with_hint("Give the agent fewer `[agent] labels` and shorter `[storage] args`."));
    }
    if hello.protocol != grid_proto::PROTOCOL {
        return Err(invalid(format!(
            "the agent speaks protocol {}, and this master speaks {}",
            hello.protocol,
            grid_proto::PROTOCOL
        ))
        .with_hint("Run agent and master of one version."));
    }
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let id = &hello.agent_id;
    if id.is_empty() || id.len() > 63 || !id.chars().all(name) {
        return Err(invalid(format!("`{}` is not an agent id", printable(id)))
            .with_hint("Set `[agent] agent_id` to 1 to 63 letters, digits, `-`, `_` and `.`."));
    }
    if hello.install_id.is_empty() || hello.install_id.len() > 128 {
        return Err(
            invalid("the agent names no install id of 1 to 128 bytes".to_owned())
                .with_hint("Run agent and master of one version."),
        );
    }
    check_history(app, hello)?;
    let json = |what: &str, text: &str| -> Result<Option<serde_json::Value>, Error> {
        match text {
            "" => Ok(None),
            text => serde_json::from_str(text).map(Some).map_err(|e| {
                invalid(format!("the agent's {what} cannot be read"))
                    .with_source(e)
                    .with_hint("Run agent and master of one version.")
            }),
        }
    };
    // What only a newer version knows is left out: it is asked for by nobody here.
    Ok(AgentInfo {
        version: hello.version.clone(),
        platform: hello.platform.clone(),
        capabilities: json("capabilities", &hello.capabilities_json)?
            .and_then(|v| serde_json::from_value(v).ok())
            .unwrap_or_default(),
        labels: hello.labels.clone().into_iter().collect(),
        max_storage_nodes: hello.max_storage_nodes,
        memory_mb: hello.memory_mb,
        cpu_millis: hello.cpu_millis,
        default_program: json("default program", &hello.default_program_json)?
            .and_then(|v| serde_json::from_value(v).ok()),
        default_health: json("default health check", &hello.default_health_json)?
            .and_then(|v| serde_json::from_value(v).ok()),
    })
}

/// An agent of another grid, or one that has seen more than this store, is told so and goes on as it is.
fn check_history(app: &App, hello: &v1::Hello) -> Result<(), Error> {
    if hello.grid_id.is_empty() {
        return Ok(());
    }
    let seen = grid_proto::Fence {
        grid_id: hello.grid_id.clone(),
        epoch: hello.epoch,
        revision: hello.revision,
        lineage: hello.lineage.clone(),
    };
    app.grid.admits(&seen)
}
