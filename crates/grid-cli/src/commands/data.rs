//! `grid data ls|purge`.

use crate::{
    args::{DataCommand, Format},
    context::{Context, node_id},
    error::Result,
    output, render,
};

pub(super) async fn run(context: &Context, command: &DataCommand) -> Result<()> {
    let client = context.client()?;
    match command {
        DataCommand::Ls { agent } => {
            let data = client.data(agent.as_deref()).await?;
            output::list(context.format(), &data, "There is no data.", render::data)
        }
        DataCommand::Purge { node, agent } => {
            let node = node_id(node)?;
            client.purge_data(&node, agent.as_deref()).await?;
            match context.format() {
                Format::Json => output::json(&serde_json::json!({"purged": node})),
                Format::Table => output::out(&format!("purged the data of {node}\n")),
            }
        }
    }
}
