//! The process adapter in a tool of one's own: no agent, no master.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::process::ExitCode;

use grid_platform_api::{DataPolicy, Error, ErrorKind, NodeId, Platform, Program, SpawnConfig};
use grid_platform_process::{Allow, ProcessConfig, ProcessPlatform};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", error.report());
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<(), Error> {
    let [directory, program, rest @ ..] = arguments else {
        return Err(
            Error::new(ErrorKind::InvalidConfig, "arguments are missing").with_hint(
                "`embed-process DIRECTORY PROGRAM [ARGUMENTS]`, or `embed-process DIRECTORY down`.",
            ),
        );
    };
    let platform = ProcessPlatform::open(ProcessConfig {
        programs: Allow::Any,
        ..ProcessConfig::new(format!("{directory}/state"), format!("{directory}/data"))
    })
    .await?;
    let id = NodeId::new("embedded")?;
    if program == "down" {
        platform.remove_node(&id, DataPolicy::Purge).await?;
        println!("{id} is removed");
        return Ok(());
    }
    // The same request again finds the node that runs, whoever started it; it would start it again if it were stopped.
    let config = SpawnConfig::builder(id.as_str(), Program::binary(program, rest.to_vec()))
        .port(0)
        .build()?;
    let node = platform.spawn_node(config).await?;
    println!("{id} runs as process {}", node.pid.unwrap_or_default());
    for line in platform.get_logs(&id, 10).await? {
        println!("{id} says: {line}");
    }
    // Dropping the platform leaves the node running.
    Ok(())
}
