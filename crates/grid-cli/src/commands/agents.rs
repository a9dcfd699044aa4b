//! `grid agents`, `cordon`, `uncordon`.

use crate::{context::Context, error::Result, output, render};

pub(super) async fn list(context: &Context) -> Result<()> {
    let agents = context.client()?.agents().await?;
    let empty = "There are no agents. `grid up` starts one; `grid token create --role agent` lets another in.";
    output::list(context.format(), &agents, empty, render::agents)
}

pub(super) async fn cordon(context: &Context, agent: &str) -> Result<()> {
    let agent = context.client()?.cordon(agent).await?;
    output::show(context.format(), &agent, |agent| {
        render::agents(std::slice::from_ref(agent))
    })
}

pub(super) async fn uncordon(context: &Context, agent: &str) -> Result<()> {
    let agent = context.client()?.uncordon(agent).await?;
    output::show(context.format(), &agent, |agent| {
        render::agents(std::slice::from_ref(agent))
    })
}
