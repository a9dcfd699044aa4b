//! The command line of `grid-agent`, which `grid` uses too.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};
use grid_config::{ConfigError, Environment};
use grid_platform_api::{Check, CheckStatus, Error, ErrorKind, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::{LogFormat, Settings, doctor, init_logging, run, stop_nodes};

/// The agent of a grid: runs the nodes that its master wants, on the platform of this host.
///
/// Settings come from the file, then the environment (SUTRA_MASTER, PLATFORM, and SUTRA_AGENT__SECTION__KEY for every
/// key), then these flags; later ones win.
#[derive(Clone, Debug, Parser)]
#[command(name = "grid-agent", version)]
pub struct Args {
    /// The settings file.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The platform: process, docker, kubernetes or systemd.
    #[arg(long, global = true, value_name = "NAME")]
    platform: Option<String>,
    /// The agent's name, unique in its grid.
    #[arg(long, global = true, value_name = "NAME")]
    agent_id: Option<String>,
    /// Where the master listens for agents.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    master: Option<String>,
    /// Where the agent keeps its state.
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The file with the agent's token.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Where nodes that name no path have their data.
    #[arg(long, global = true, value_name = "DIR")]
    data_path: Option<PathBuf>,
    /// How to log: text or json.
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Run the agent. This is what happens without a subcommand.
    Run,
    /// Look whether everything is there that the agent needs, and name the mend where it is not.
    Doctor {
        /// How to answer: text for people, or JSON.
        #[arg(long, short, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// End all nodes of an agent that does not run. The next agent starts them again.
    StopNodes {
        /// Remove them with their data, and the data that earlier nodes left.
        #[arg(long)]
        purge: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Args {
    fn settings(&self, environment: &Environment) -> Result<Settings, ConfigError> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|it| it.display().to_string());
        let loader = Settings::loader(environment.clone())
            .file(self.config.as_ref())
            .flag("--platform", "agent.platform", self.platform.as_ref())
            .flag("--agent-id", "agent.agent_id", self.agent_id.as_ref())
            .flag("--master", "agent.master_host", self.master.as_ref())
            .flag("--state-dir", "agent.state_dir", path(&self.state_dir))
            .flag("--token-file", "agent.token_file", path(&self.token_file))
            .flag("--data-path", "storage.data_path", path(&self.data_path))
            .flag("--log-format", "agent.log_format", self.log_format.as_ref());
        Settings::load(loader, environment)
    }

    /// Does what the arguments say. Answers go to standard output, errors and logs to standard error.
    ///
    /// The exit code is 0 when it worked, 1 when it did not (for `doctor`: when nodes cannot run), 2 for settings that
    /// cannot be used.
    pub async fn execute(self, environment: &Environment) -> ExitCode {
        let settings = match self.settings(environment) {
            Ok(settings) => settings,
            Err(error) => {
                complain(&error.report());
                return ExitCode::from(2);
            }
        };
        let format = settings.agent.log_format;
        let filter = environment.log_filter();
        let done = match self.command.unwrap_or(Command::Run) {
            Command::Run => {
                init_logging(format, filter.as_deref());
                run_until_signal(settings).await
            }
            Command::Doctor { output } => match examine(&settings, output).await {
                Ok(false) => return ExitCode::FAILURE,
                done => done.map(drop),
            },
            Command::StopNodes { purge } => {
                init_logging(format, filter.as_deref().or(Some("warn")));
                stop(&settings, purge).await
            }
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                fail(&error, format);
                ExitCode::FAILURE
            }
        }
    }
}

async fn run_until_signal(settings: Settings) -> Result<()> {
    let listen = |kind| {
        signal(kind).map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot listen for signals").with_source(e)
        })
    };
    // Taken before anything is begun, so that a signal that comes early is not one that kills.
    let mut term = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    run(settings, async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}

/// Answers with what was found; whether nodes can run.
async fn examine(settings: &Settings, output: Output) -> Result<bool> {
    let checks = doctor(settings).await;
    let text = match output {
        Output::Text => checks.iter().map(line).collect(),
        Output::Json => {
            let json = serde_json::to_string_pretty(&checks);
            let json = json.map_err(|e| {
                Error::new(ErrorKind::Internal, "checks have no JSON form").with_source(e)
            })?;
            json + "\n"
        }
    };
    tell(&text)?;
    Ok(checks.iter().all(|it| it.status != CheckStatus::Failed))
}

fn line(check: &Check) -> String {
    let status = match check.status {
        CheckStatus::Ok => "ok",
        CheckStatus::Degraded => "missing",
        CheckStatus::Failed => "failed",
    };
    let mut line = format!("{status:<8}{}: {}\n", check.name, check.detail);
    if let Some(hint) = &check.hint {
        // Writing to a String cannot fail.
        let _ = writeln!(line, "        hint: {hint}");
    }
    line
}

async fn stop(settings: &Settings, purge: bool) -> Result<()> {
    let stopped = stop_nodes(settings, purge).await?;
    let what = if purge { "removed" } else { "stopped" };
    let mut text = String::new();
    for id in &stopped.nodes {
        let _ = writeln!(text, "{what} {id}");
    }
    for id in &stopped.data {
        let _ = writeln!(text, "purged {id}");
    }
    tell(&text)
}

fn tell(text: &str) -> Result<()> {
    let told = io::stdout().lock().write_all(text.as_bytes());
    told.map_err(|e| Error::new(ErrorKind::Internal, "cannot write the answer").with_source(e))
}

fn complain(text: &str) {
    // When standard error is gone, nobody is there to be told.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The error that ends the program: as people read it, or as a line among the other lines of JSON.
fn fail(error: &Error, format: LogFormat) {
    match format {
        LogFormat::Text => complain(&error.report()),
        LogFormat::Json => {
            let report = error.to_report();
            let causes = report.causes.join(": ");
            tracing::error!(kind = %report.kind, causes, hint = report.hint, "{}", report.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
    }
}
