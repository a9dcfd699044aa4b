//! The Kubernetes adapter in a tool of one's own: no agent, no master.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::process::ExitCode;

use grid_platform_api::{DataPolicy, Error, ErrorKind, NodeId, Platform, Program, SpawnConfig};
use grid_platform_k8s::{Allow, KubernetesConfig, KubernetesPlatform};

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
    let [namespace, image, rest @ ..] = arguments else {
        let error = Error::new(ErrorKind::InvalidConfig, "arguments are missing");
        return Err(error
            .with_hint("`embed-k8s NAMESPACE IMAGE [ARGUMENTS]`, or `embed-k8s NAMESPACE down`."));
    };
    let platform = KubernetesPlatform::open(KubernetesConfig {
        // Without it, the account of the pod that this runs in.
        kubeconfig: std::env::var_os("KUBECONFIG").map(Into::into),
        images: Allow::Any,
        ..KubernetesConfig::new(namespace)
    })
    .await?;
    let id = NodeId::new("embedded")?;
    if image == "down" {
        platform.remove_node(&id, DataPolicy::Purge).await?;
        println!("{id} is removed");
        return Ok(());
    }
    // The same request again finds the node that runs, whoever started it; it would start it again if it were stopped.
    let config = SpawnConfig::builder(id.as_str(), Program::image(image, rest.to_vec()))
        .port(0)
        .build()?;
    let node = platform.spawn_node(config).await?;
    println!("{id} runs as {}", node.native_handle);
    for line in platform.get_logs(&id, 10).await? {
        println!("{id} says: {line}");
    }
    // Dropping the platform leaves the node running.
    Ok(())
}
