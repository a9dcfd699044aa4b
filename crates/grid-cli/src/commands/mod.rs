//! One file per group of commands.

mod agents;
mod data;
mod doctor;
mod down;
mod events;
mod logs;
mod nodes;
mod spawn;
mod storage;
mod tokens;
mod up;
mod version;

use clap::CommandFactory;

use crate::{
    args::{Cli, Command},
    context::Context,
    error::Result,
    output, parts,
};

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> Result<()> {
    let context = Context::new(cli.global);
    match cli.command {
        Command::Up(args) => up::run(&context, &args).await,
        Command::Down(args) => down::run(&context, args).await,
        Command::Spawn(args) => spawn::spawn(&context, &args).await,
        Command::Update(args) => spawn::update(&context, &args).await,
        Command::Nodes(args) => nodes::list(&context, &args).await,
        Command::Node { id } => nodes::show(&context, &id).await,
        Command::Start(args) => nodes::start(&context, &args).await,
        Command::Stop(args) => nodes::stop(&context, &args).await,
        Command::Rm(args) => nodes::remove(&context, &args).await,
        Command::Usage { id } => nodes::usage(&context, &id).await,
        Command::Logs(args) => logs::run(&context, &args).await,
        Command::Data(command) => data::run(&context, &command).await,
        Command::Agents => agents::list(&context).await,
        Command::Cordon { agent } => agents::cordon(&context, &agent).await,
        Command::Uncordon { agent } => agents::uncordon(&context, &agent).await,
        Command::Events(args) => events::run(&context, &args).await,
        Command::Token(command) => tokens::run(&context, &command).await,
        Command::Doctor => doctor::run(&context).await,
        Command::Storage(args) => storage::run(&context, &args).await,
        Command::Completions { shell } => completions(shell),
        Command::Version => version::run(&context).await,
        Command::Supervise(args) => up::supervise_detached(&context, &args).await,
        Command::MasterChild(args) => parts::master(&context, args).await,
        Command::AgentChild(args) => parts::agent(&context, args).await,
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "grid", &mut script);
    output::bytes(&script)
}
