//! Arguments of the commands about the grid itself.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use grid_client::Role;

use crate::local::PlatformName;

#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    /// Make those of node-1 to node-N that are missing; removes none [default: 3 the first time, later 0]
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<u16>,
    /// Return when everything runs and is well, and leave it running in the background
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// What nodes are; a grid stays on its platform [default: process the first time, later the grid's own]
    #[arg(long, value_enum, value_name = "PLATFORM")]
    pub(crate) platform: Option<PlatformName>,
    /// Where the master listens for people; port 0 takes any
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    pub(crate) http: SocketAddr,
    /// Where the master listens for agents; port 0 takes any
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7000")]
    pub(crate) grpc: SocketAddr,
    /// How long everything may take to become well
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "60s")]
    pub(crate) timeout: Duration,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DownArgs {
    /// Remove the nodes with their data, kept data too, and then the whole state directory
    #[arg(long)]
    pub(crate) purge: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens later, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin behind this event
    #[arg(long, value_name = "EVENT")]
    pub(crate) after: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreateArgs {
    /// What it may do: everything, look and change nothing, or be an agent
    #[arg(long, value_enum)]
    pub(crate) role: RoleArg,
    /// A note for people
    #[arg(long)]
    pub(crate) note: Option<String>,
}

/// [`Role`] as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleArg {
    Admin,
    Read,
    Agent,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Admin => Self::Admin,
            RoleArg::Read => Self::Read,
            RoleArg::Agent => Self::Agent,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct StorageArgs {
    /// The data directory; made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) data_path: PathBuf,
    /// Where to listen; port 0 takes any
    #[arg(long, value_name = "ADDRESS", value_parser = listen, default_value = "127.0.0.1:7070")]
    pub(crate) listen: SocketAddr,
    /// In a container: the address at which its engine publishes the port; on loopback no token is needed
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) published: Option<IpAddr>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SuperviseArgs {
    #[arg(long)]
    pub(crate) http: SocketAddr,
    #[arg(long)]
    pub(crate) grpc: SocketAddr,
}

/// What a master is told that `grid up` starts.
#[derive(Clone, Debug, Args)]
pub(crate) struct MasterChildArgs {
    /// Its state.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) http: SocketAddr,
    #[arg(long)]
    pub(crate) grpc: SocketAddr,
    /// The file that says who runs.
    #[arg(long)]
    pub(crate) run_lock: Option<PathBuf>,
}

/// What an agent is told that `grid up` starts.
#[derive(Clone, Debug, Args)]
pub(crate) struct AgentChildArgs {
    /// Its state.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Where its nodes keep their data.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// Its name.
    #[arg(long)]
    pub(crate) agent_id: String,
    /// The master's address for agents.
    #[arg(long)]
    pub(crate) grpc: SocketAddr,
    /// The file that says who runs.
    #[arg(long)]
    pub(crate) run_lock: Option<PathBuf>,
}

/// An address and a port; IPv6 without brackets too, as `{bind}:{port}` gives it.
fn listen(text: &str) -> Result<SocketAddr, String> {
    let unbracketed = || {
        let (host, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(host.parse().ok()?, port.parse().ok()?))
    };
    text.parse()
        .ok()
        .or_else(unbracketed)
        .ok_or_else(|| "write it as 127.0.0.1:7070".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_nodes_are_given_them() {
        let check = |text: &str, expect: Option<&str>| {
            let got = listen(text).ok().map(|address| address.to_string());
            assert_eq!(got.as_deref(), expect, "{text}");
        };
        check("127.0.0.1:7070", Some("127.0.0.1:7070"));
        check("[::1]:7070", Some("[::1]:7070"));
        check("::1:7070", Some("[::1]:7070"));
        check("7070", None);
        check("localhost", None);
    }
}
