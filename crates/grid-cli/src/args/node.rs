//! Arguments of the commands about nodes.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use grid_client::State;
use grid_platform_api::{RestartMode, StopSignal};

#[derive(Debug, Args)]
pub(crate) struct SpawnArgs {
    /// The node's id: 1 to 40 of a-z, 0-9 and -, a letter first [default: one is made up]
    #[arg(long, visible_alias = "id", value_name = "ID")]
    pub(crate) name: Option<String>,
    /// The agent that shall run it [default: the master chooses]
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// A label that an agent must have to be chosen
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) agent_label: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) settings: NodeSettingsArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The node
    pub(crate) id: String,
    /// Change only this generation of the node
    #[arg(long, value_name = "N")]
    pub(crate) if_generation: Option<u64>,
    #[command(flatten)]
    pub(crate) settings: NodeSettingsArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

/// What a node can be set to be. Values of secrets never stand in arguments, which every user of the host can read.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The node")]
pub(crate) struct NodeSettingsArgs {
    /// The main port; 0 has one allocated [default: 0]
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// One more port by name
    #[arg(long, value_name = "NAME=PORT", value_parser = named_port)]
    pub(crate) named_port: Vec<(String, u16)>,
    /// The address that the program binds [default: loopback]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) bind: Option<IpAddr>,
    /// Where the data is [default: a place of the agent's choice]
    #[arg(long, value_name = "DIR")]
    pub(crate) storage_path: Option<PathBuf>,
    /// How much data there may be, in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) storage_size_mb: Option<u64>,
    /// How much memory it may use, in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_limit_mb: Option<u64>,
    /// How much processor time it may use, in thousandths of a processor
    #[arg(long, value_name = "MILLIS")]
    pub(crate) cpu_limit_millis: Option<u32>,
    /// How many processes and threads it may have
    #[arg(long, value_name = "N")]
    pub(crate) pids_limit: Option<u32>,
    /// How many files each of its processes may have open
    #[arg(long, value_name = "N")]
    pub(crate) open_files_limit: Option<u64>,
    /// The user to run as: USER or USER:GROUP; takes an agent that runs as root and allows it
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// An environment variable
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) env: Vec<(String, String)>,
    /// A secret: NAME=@FILE, or NAME to read it from the terminal or from stdin
    #[arg(long, value_name = "NAME[=@FILE]")]
    pub(crate) secret: Vec<String>,
    /// Gives a secret by an environment variable too
    #[arg(long, value_name = "VARIABLE=NAME", value_parser = pair)]
    pub(crate) secret_env: Vec<(String, String)>,
    /// When the platform restarts it by itself: never, on-failure or always
    #[arg(long, value_name = "MODE")]
    pub(crate) restart: Option<RestartMode>,
    /// Give up after this many restarts
    #[arg(long, value_name = "N", requires = "restart")]
    pub(crate) max_restarts: Option<u32>,
    /// The signal that asks it to end: TERM, INT, QUIT, HUP, USR1, USR2 or KILL
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<StopSignal>,
    /// How long it may take to end before it is killed, such as 10s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) stop_grace: Option<Duration>,
    /// It is well while GET of this path answers with a 2xx status
    #[arg(long, value_name = "PATH", conflicts_with = "health_tcp")]
    pub(crate) health_http: Option<String>,
    /// It is well while its main port takes connections
    #[arg(long)]
    pub(crate) health_tcp: bool,
    /// A label
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) label: Vec<(String, String)>,
    /// The program: a path, or a bare name on the agent's PATH [default: the agent's storage server]
    #[arg(long, value_name = "PROGRAM", conflicts_with = "image")]
    pub(crate) binary: Option<PathBuf>,
    /// The image, on platforms that run images
    #[arg(long)]
    pub(crate) image: Option<String>,
    /// The program's arguments; {port}, {bind}, {data_path}, {node_id} and {secrets_dir} are filled in
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub(crate) struct WaitArgs {
    /// Return only when it is done: running and healthy, stopped, or gone
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// The nodes
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The nodes
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Delete their data too
    #[arg(long)]
    pub(crate) purge: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    /// Only this agent's
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Only those in this state
    #[arg(long, value_enum)]
    pub(crate) state: Option<StateArg>,
    /// Show labels, data path and start time too
    #[arg(long)]
    pub(crate) wide: bool,
}

/// [`State`] as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StateArg {
    Pending,
    Running,
    Stopping,
    Stopped,
    Failed,
    Unknown,
}

impl From<StateArg> for State {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Pending => Self::Pending,
            StateArg::Running => Self::Running,
            StateArg::Stopping => Self::Stopping,
            StateArg::Stopped => Self::Stopped,
            StateArg::Failed => Self::Failed,
            StateArg::Unknown => Self::Unknown,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The node
    pub(crate) id: String,
    /// Begin this many lines before the end [default: 100]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) lines: Option<usize>,
    /// Go on with what is written later, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin at this time or some lines before: RFC 3339, or an age such as 5m
    #[arg(long, value_name = "TIME", conflicts_with = "lines")]
    pub(crate) since: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

fn named_port(text: &str) -> Result<(String, u16), String> {
    let (name, port) = pair(text).map_err(|_| "write it as NAME=PORT".to_owned())?;
    let port = port
        .parse()
        .map_err(|_| format!("`{port}` is not a port"))?;
    Ok((name, port))
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write it as 500ms, 30s, 5m or 1h".to_owned())
}
