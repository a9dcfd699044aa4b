//! Bringing your own server: a stock redis-server as a node, over the process adapter.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::{process::ExitCode, time::Duration};

use grid_platform_api::{
    DataPolicy, Error, ErrorKind, HealthCheck, Platform, Program, ReadyMode, Result, SpawnConfig,
    SpawnedNode,
};
use grid_platform_process::{Allow, ProcessConfig, ProcessPlatform};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

/// How long redis may take to load its data.
const LOADING: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let result = match std::env::args().nth(1) {
        Some(directory) => run(&directory).await,
        None => Err(
            Error::new(ErrorKind::InvalidConfig, "a directory is missing")
                .with_hint("`redis-node DIRECTORY` keeps the node's state and data in it."),
        ),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", error.report());
            ExitCode::FAILURE
        }
    }
}

async fn run(directory: &str) -> Result<()> {
    let platform = ProcessPlatform::open(ProcessConfig {
        programs: Allow::Only(vec!["redis-server".into()]),
        ..ProcessConfig::new(format!("{directory}/state"), format!("{directory}/data"))
    })
    .await?;
    let server = Program::binary(
        "redis-server",
        [
            "--port",
            "{port}",
            "--bind",
            "{bind}",
            "--dir",
            "{data_path}",
            "--appendonly",
            "yes",
        ],
    );
    let config = SpawnConfig::builder("cache", server)
        .port(0)
        .health(HealthCheck {
            interval: Duration::from_millis(100),
            ..HealthCheck::tcp()
        })
        // Spawning is done when redis takes connections.
        .ready(ReadyMode::Healthy {
            timeout: Duration::from_secs(30),
        })
        .build()?;
    let node = platform.spawn_node(config.clone()).await?;
    let result = write_and_read_back(&platform, &config, &node).await;
    platform
        .remove_node(&config.node_id, DataPolicy::Purge)
        .await?;
    result
}

async fn write_and_read_back(
    platform: &ProcessPlatform,
    config: &SpawnConfig,
    node: &SpawnedNode,
) -> Result<()> {
    println!("wrote: {}", ask(node, "SET greeting hello").await?);
    platform.stop_node(&config.node_id).await?;
    println!(
        "stopped: {}",
        !platform.is_node_alive(&config.node_id).await?
    );
    // The same request starts the stopped node: same data, same port.
    let again = platform.spawn_node(config.clone()).await?;
    println!("same endpoint: {}", again.endpoint == node.endpoint);
    println!("read: {}", ask(&again, "GET greeting").await?);
    Ok(())
}

/// One inline command, and the last line of its answer once redis has loaded its data: it takes connections before that.
async fn ask(node: &SpawnedNode, command: &str) -> Result<String> {
    let until = Instant::now() + LOADING;
    loop {
        let answer = ask_once(node, command).await?;
        if !answer.starts_with("-LOADING") || Instant::now() >= until {
            return Ok(answer);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn ask_once(node: &SpawnedNode, command: &str) -> Result<String> {
    let fault = |error: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "cannot speak to redis").with_source(error)
    };
    let endpoint = node.endpoint.as_ref().map(ToString::to_string);
    let mut socket = TcpStream::connect(endpoint.unwrap_or_default())
        .await
        .map_err(fault)?;
    // QUIT ends the connection behind the answer.
    let request = format!("{command}\r\nQUIT\r\n");
    socket.write_all(request.as_bytes()).await.map_err(fault)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.map_err(fault)?;
    let lines: Vec<&str> = answer.lines().collect();
    let [.., last, _quit] = lines[..] else {
        return Err(Error::new(ErrorKind::Unavailable, "redis said nothing"));
    };
    Ok(last.to_owned())
}
