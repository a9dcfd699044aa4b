//! The command line of `grid-master`, and its settings file.

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use grid_config::{ConfigError, Environment, Loader};
use grid_platform_api::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{Master, Settings};

/// Exit code for settings that cannot be used.
const USAGE: u8 = 2;

/// The master of a grid: holds what is wanted of all nodes, tells agents, and serves people.
///
/// Settings come from the file, then the environment (`SUTRA_MASTER__KEY` for every key), then these flags; later ones
/// win.
#[derive(Clone, Debug, Parser)]
#[command(name = "grid-master", version)]
pub struct Args {
    /// The settings file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the store, its key and the first tokens are.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where people reach the master.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// Where agents reach the master.
    #[arg(long, value_name = "ADDRESS:PORT")]
    grpc: Option<SocketAddr>,
    /// How to log: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Begin a new epoch, so that agents listen to a store that was restored from an older copy. Give it once.
    #[arg(long)]
    new_epoch: bool,
}

/// How the master logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The keys of the settings file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    state_dir: Option<PathBuf>,
    http: SocketAddr,
    grpc: SocketAddr,
    heartbeat_ms: u64,
    lost_after_ms: u64,
    events_kept: usize,
    drain_ms: u64,
    log_format: LogFormat,
    #[cfg(feature = "fault-points")]
    fault_dir: Option<PathBuf>,
}

impl Default for File {
    fn default() -> Self {
        let settings = Settings::new("");
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            state_dir: None,
            http: settings.http,
            grpc: settings.grpc,
            heartbeat_ms: ms(settings.heartbeat),
            lost_after_ms: ms(settings.lost_after),
            events_kept: settings.events_kept,
            drain_ms: ms(settings.drain),
            log_format: LogFormat::Text,
            #[cfg(feature = "fault-points")]
            fault_dir: None,
        }
    }
}

impl Args {
    fn settings(&self, environment: &Environment) -> Result<(Settings, LogFormat), ConfigError> {
        let state_dir = self.state_dir.as_ref().map(|p| p.display().to_string());
        let file = Loader::new(environment.clone())
            .file(self.config.as_ref())
            .environment_prefix("SUTRA_MASTER")
            .flag("--state-dir", "state_dir", state_dir)
            .flag("--http", "http", self.http)
            .flag("--grpc", "grpc", self.grpc)
            .flag("--log-format", "log_format", self.log_format.as_ref())
            .load::<File>()?
            .settings;
        #[cfg(feature = "fault-points")]
        if let Some(dir) = &file.fault_dir {
            grid_platform_api::fault::arm(dir);
        }
        let state_dir = match file.state_dir {
            Some(dir) => dir,
            None => environment.state_dir()?.join("master"),
        };
        let settings = Settings {
            http: file.http,
            grpc: file.grpc,
            heartbeat: Duration::from_millis(file.heartbeat_ms),
            lost_after: Duration::from_millis(file.lost_after_ms),
            events_kept: file.events_kept,
            drain: Duration::from_millis(file.drain_ms),
            new_epoch: self.new_epoch,
            ..Settings::new(state_dir)
        };
        Ok((settings, file.log_format))
    }

    /// Runs the master until SIGTERM or SIGINT. Errors and logs go to standard error.
    ///
    /// The exit code is 0 when it ended as asked, 1 when it failed, 2 for settings that cannot be used.
    pub async fn execute(self, environment: &Environment) -> ExitCode {
        let (settings, format) = match self.settings(environment) {
            Ok(settings) => settings,
            Err(error) => {
                complain(&error.report());
                return ExitCode::from(USAGE);
            }
        };
        init_logging(format, environment.log_filter().as_deref());
        match run(settings).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                match format {
                    LogFormat::Text => complain(&error.report()),
                    LogFormat::Json => {
                        let report = error.to_report();
                        let causes = report.causes.join(": ");
                        tracing::error!(kind = %report.kind, causes, hint = report.hint, "{}", report.message);
                    }
                }
                let unusable = matches!(
                    error.kind(),
                    ErrorKind::InvalidConfig | ErrorKind::NotAllowed
                );
                ExitCode::from(if unusable { USAGE } else { 1 })
            }
        }
    }
}

async fn run(settings: Settings) -> Result<()> {
    let listen = |kind| {
        signal(kind).map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot listen for signals").with_source(e)
        })
    };
    // Taken before anything is begun, so that a signal that comes early is not one that kills.
    let mut term = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    // A grid of many agents needs more connections than the usual limit has room for.
    grid_listen::raise_open_files();
    let master = Master::bind(settings).await?;
    master
        .run(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
}

fn init_logging(format: LogFormat, filter: Option<&str>) {
    let filter = EnvFilter::builder().parse_lossy(filter.unwrap_or("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would tell them on the same standard error, and panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    // Fails only when there is a subscriber already.
    drop(match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    });
}

fn complain(text: &str) {
    // When standard error is gone, nobody is there to be told.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn settings(args: &[&str], environment: &[(&str, &str)]) -> Result<Settings, String> {
        let args = std::iter::once(&"grid-master").chain(args);
        let environment = Environment::of(environment.iter().copied());
        Args::parse_from(args)
            .settings(&environment)
            .map(|(settings, _)| settings)
            .map_err(|e| e.report())
    }

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_win_over_the_environment_and_defaults() {
        let home = ("HOME", "/home/u");
        let plain = settings(&[], &[home]).unwrap();
        assert_eq!(plain.http.port(), 9000);
        assert!(plain.state_dir.ends_with("master"));
        let set = settings(
            &["--http", "127.0.0.1:1", "--state-dir", "/s", "--new-epoch"],
            &[
                home,
                ("SUTRA_MASTER__HTTP", "127.0.0.1:2"),
                ("SUTRA_MASTER__GRPC", "127.0.0.1:3"),
                ("SUTRA_MASTER__LOST_AFTER_MS", "500"),
                // The agents' and the CLI's variable is none of ours.
                ("SUTRA_MASTER", "http://127.0.0.1:9"),
            ],
        )
        .unwrap();
        assert_eq!((set.http.port(), set.grpc.port()), (1, 3));
        assert_eq!(set.lost_after, Duration::from_millis(500));
        assert_eq!(set.state_dir, PathBuf::from("/s"));
        assert!(set.new_epoch);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = settings(&[], &[("HOME", "/h"), ("SUTRA_MASTER__HTPP", "x")]).unwrap_err();
        assert!(error.contains("SUTRA_MASTER__HTTP"), "{error}");
    }
}
