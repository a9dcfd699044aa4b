//! `grid doctor`.

use grid_client::{AgentState, Client};
use grid_platform_api::{Check, CheckStatus};

use crate::{
    args::Format,
    context::Context,
    error::{Error, Result},
    local::{RunLock, StateDir},
    output, parts,
    table::Table,
};

pub(super) async fn run(context: &Context) -> Result<()> {
    let mut checks = Vec::new();
    let state = context.state()?;
    let local = context.global.master.is_none() && state.exists();
    if local {
        checks.push(supervisor(&state)?);
        checks.extend(parts::examine_agent(&state).await?);
    }
    match context.client() {
        Ok(client) => master(&client, &mut checks).await,
        Err(error) => checks.push(failed("master api", &error.report)),
    }
    match context.format() {
        Format::Json => output::json(&checks)?,
        Format::Table => output::out(&text(&checks))?,
    }
    let faults = checks
        .iter()
        .filter(|check| check.status == CheckStatus::Failed)
        .count();
    match faults {
        0 => Ok(()),
        1 => Err(Error::failed("one check failed")),
        n => Err(Error::failed(format!("{n} checks failed"))),
    }
}

fn supervisor(state: &StateDir) -> Result<Check> {
    let fault = |error| Error::io("look for the supervisor of", state.root(), &error);
    let holder = RunLock::holder(&state.lock("supervisor"))?;
    let living = match &holder {
        Some(holder) => holder.open().map_err(fault)?.map(|_| holder.pid),
        None => None,
    };
    Ok(match living {
        Some(pid) => ok("supervisor", format!("process {pid}")),
        None => Check {
            name: "supervisor".to_owned(),
            status: CheckStatus::Degraded,
            detail: "it does not run, so nothing restarts master and agent".to_owned(),
            hint: Some("`grid up --detach` starts it; nodes that run go on running.".to_owned()),
        },
    })
}

async fn master(client: &Client, checks: &mut Vec<Check>) {
    let version = match client.version().await {
        Ok(version) => version,
        Err(error) => return checks.push(failed("master api", error.report())),
    };
    checks.push(ok(
        "master api",
        format!("`{}` serves, version {}", client.url(), version.version),
    ));
    match client.agents().await {
        Ok(agents) => {
            for agent in agents {
                let name = format!("agent {}", agent.id);
                checks.push(match agent.state {
                    AgentState::Ready => ok(&name, format!("{} nodes", agent.nodes)),
                    AgentState::Lost => Check {
                        name,
                        status: CheckStatus::Degraded,
                        detail: "it is lost; its nodes may run, and nobody can tell".to_owned(),
                        hint: Some("See to its host, and that its agent runs.".to_owned()),
                    },
                });
            }
        }
        Err(error) => checks.push(failed("agents", error.report())),
    }
}

fn ok(name: &str, detail: String) -> Check {
    Check {
        name: name.to_owned(),
        status: CheckStatus::Ok,
        detail,
        hint: None,
    }
}

fn failed(name: &str, report: &grid_platform_api::ErrorReport) -> Check {
    Check {
        name: name.to_owned(),
        status: CheckStatus::Failed,
        detail: report.message.clone(),
        hint: report.hint.clone(),
    }
}

fn text(checks: &[Check]) -> String {
    let mut table = Table::new(["CHECK", "STATUS", "FOUND"]);
    for check in checks {
        let status = match check.status {
            CheckStatus::Ok => "ok",
            CheckStatus::Degraded => "degraded",
            CheckStatus::Failed => "failed",
        };
        table.row([check.name.clone(), status.to_owned(), check.detail.clone()]);
    }
    let mut text = table.render();
    for check in checks {
        if let Some(hint) = &check.hint {
            text.push_str(&format!("\n{}: {hint}", check.name));
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
