//! The command line, as people type it.

mod node;
mod system;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use node::{
    LogsArgs, NodeSettingsArgs, NodesArgs, RmArgs, SpawnArgs, TargetArgs, UpdateArgs, WaitArgs,
};
pub(crate) use system::{
    AgentChildArgs, DownArgs, EventsArgs, MasterChildArgs, StorageArgs, SuperviseArgs,
    TokenCreateArgs, UpArgs,
};

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed or refused
  2  the command line cannot be understood
  3  what was named does not exist
  4  what was asked for contradicts what is there
  5  the master, or the agent that has to answer, cannot be reached
  6  `--timeout` was over before what was waited for came about

Data goes to stdout, everything else to stderr. `-o json` gives every list and every single thing as JSON, and logs and what is followed as a line of JSON each.";

/// Puts storage servers anywhere: one command for a grid's nodes, agents and master.
#[derive(Debug, Parser)]
#[command(name = "grid", version, after_help = AFTER_HELP, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where `grid up` keeps its state [default: /var/lib/sutra-grid for root, else ~/.local/state/sutra-grid]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The master to speak to, as http://HOST:PORT [default: that of `--state-dir` where it is given, else SUTRA_MASTER, else that of the state directory]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) master: Option<String>,
    /// A file that holds the bearer token [default: the state directory's]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// How to print: for people or for machines
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a master, an agent and storage nodes on this host
    ///
    /// Stays in the foreground, shows what master and agent log, and starts either again when it ends. Ctrl-C takes the
    /// grid down as `grid down` does: nodes, agent and master end, and the data stays. With `--detach` all this goes on
    /// in the background until `grid down`. On a grid that is up already it only prints what there is.
    Up(UpArgs),
    /// Stop everything that `up` started; data stays unless `--purge` is given
    Down(DownArgs),
    /// Make a node
    Spawn(SpawnArgs),
    /// List the nodes
    #[command(visible_alias = "ls")]
    Nodes(NodesArgs),
    /// Show one node
    Node {
        /// The node
        id: String,
    },
    /// Start nodes that were stopped, and try failed ones again
    Start(TargetArgs),
    /// Stop nodes; their data and ports stay theirs
    Stop(TargetArgs),
    /// Change a node's settings; its id, data and ports stay
    Update(UpdateArgs),
    /// Remove nodes; their data stays unless `--purge` is given
    Rm(RmArgs),
    /// Show a node's log
    Logs(LogsArgs),
    /// Show what a node uses
    Usage {
        /// The node
        id: String,
    },
    /// List and purge the data of nodes, removed ones too
    #[command(subcommand)]
    Data(DataCommand),
    /// List the agents
    Agents,
    /// Place no more nodes on an agent; those it has stay
    Cordon {
        /// The agent
        agent: String,
    },
    /// Place nodes on an agent again
    Uncordon {
        /// The agent
        agent: String,
    },
    /// Show what happened
    Events(EventsArgs),
    /// Make, list and take back bearer tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Check this host, the local grid and the master, and say what mends a fault
    Doctor,
    /// Run the built-in storage server in the foreground
    Storage(StorageArgs),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version of this command, and of the master if it can be reached
    Version,
    #[command(name = "__supervise", hide = true)]
    Supervise(SuperviseArgs),
    #[command(name = "__master", hide = true)]
    MasterChild(MasterChildArgs),
    #[command(name = "__agent", hide = true)]
    AgentChild(AgentChildArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// List the data of nodes, and what removed nodes left behind
    Ls {
        /// Only this agent's
        #[arg(long)]
        agent: Option<String>,
    },
    /// Delete the data that a removed node left behind
    Purge {
        /// The removed node
        node: String,
        /// The agent that has it [default: the only one that has data of this node]
        #[arg(long)]
        agent: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print its value, this once
    Create(TokenCreateArgs),
    /// List the tokens, without their values
    Ls,
    /// Take a token back
    Rm {
        /// The token's id
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_specifications_example_is_understood() {
        let cli = Cli::try_parse_from(
            "grid spawn --agent agent-1 --port 50051 --storage-path /tmp/node1".split(' '),
        )
        .unwrap();
        let Command::Spawn(args) = cli.command else {
            panic!("{cli:?}")
        };
        assert_eq!(args.agent.as_deref(), Some("agent-1"));
        assert_eq!(args.settings.port, Some(50051));
    }
}
