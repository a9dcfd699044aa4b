//! What a program is told, and what it is not.

use std::collections::BTreeMap;

use super::cases;
use crate::{Context, Outcome};

cases! {
    a_program_is_told_its_place_by_its_environment []
    a_program_is_told_its_place_by_its_arguments [port_allocation]
    the_environment_asked_for_is_given []
    nothing_of_the_adapters_environment_is_inherited []
    no_descriptor_but_three_is_inherited []
    arguments_reach_the_program_as_they_are []
}

/// What an image or a system may set for every program.
const OF_THE_SYSTEM: [&str; 8] = [
    "PATH", "HOME", "HOSTNAME", "LANG", "TERM", "USER", "LOGNAME", "SHELL",
];

fn parse(env: &str) -> BTreeMap<String, String> {
    env.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

async fn a_program_is_told_its_place_by_its_environment(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.named_port("peer-2", c.any_port());
    let node = c.spawn(config).await?;
    let env = parse(&c.ask(&node, "env").await?);
    assert_eq!(
        env.get("SUTRA_NODE_ID").map(String::as_str),
        Some(node.node_id.as_str())
    );
    for name in [
        "SUTRA_BIND",
        "SUTRA_DATA_PATH",
        "SUTRA_PORT",
        "SUTRA_PORT_PEER_2",
    ] {
        assert!(
            env.get(name).is_some_and(|value| !value.is_empty()),
            "{name}: {env:?}"
        );
    }
    if c.survey().capabilities.exclusive_ports {
        // One address for all: the port that is bound is the one that clients use.
        let main = node.endpoint.map(|e| e.port.to_string());
        assert_eq!(env.get("SUTRA_PORT"), main.as_ref());
    }
    Ok(())
}

async fn a_program_is_told_its_place_by_its_arguments(c: &Context) -> Outcome {
    let config = c.probe(
        "n",
        &[
            "note={node_id}",
            "note={bind}:{port}",
            "note={port.peer-2}",
            "note={data_path}/x",
            "note={unknown} {port.none} {{port}}",
        ],
    )?;
    let node = c.spawn(config.named_port("peer-2", 0)).await?;
    let env = parse(&c.ask(&node, "env").await?);
    let value = |name: &str| env.get(name).cloned().unwrap_or_default();
    let port = value("SUTRA_PORT");
    let expected = [
        format!("note={}", node.node_id),
        format!("note={}:{port}", value("SUTRA_BIND")),
        format!("note={}", value("SUTRA_PORT_PEER_2")),
        format!("note={}/x", value("SUTRA_DATA_PATH")),
        format!("note={{unknown}} {{port.none}} {{{port}}}"),
    ];
    let argv = c.ask(&node, "argv").await?;
    assert_eq!(argv.lines().collect::<Vec<_>>(), expected);
    Ok(())
}

async fn the_environment_asked_for_is_given(c: &Context) -> Outcome {
    let config = c
        .probe("n", &[])?
        .env("PLAIN", "a b  c")
        .env("EMPTY", "")
        .env("QUOTED", "\"$HOME\" 'x' `y` \\")
        .env("PLACED", "tcp://{bind}:{port}");
    let node = c.spawn(config).await?;
    let env = parse(&c.ask(&node, "env").await?);
    let value = |name: &str| {
        env.get(name)
            .cloned()
            .unwrap_or_else(|| "absent".to_owned())
    };
    assert_eq!(value("PLAIN"), "a b  c");
    assert_eq!(value("EMPTY"), "");
    assert_eq!(
        value("QUOTED"),
        "\"$HOME\" 'x' `y` \\",
        "no shell is in between"
    );
    assert_eq!(
        value("PLACED"),
        format!("tcp://{}:{}", value("SUTRA_BIND"), value("SUTRA_PORT"))
    );
    Ok(())
}

async fn nothing_of_the_adapters_environment_is_inherited(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?.env("ASKED", "yes")).await?;
    let env = parse(&c.ask(&node, "env").await?);
    let own: BTreeMap<String, String> = std::env::vars().collect();
    for (name, value) in &env {
        let known =
            name == "ASKED" || name.starts_with("SUTRA_") || OF_THE_SYSTEM.contains(&name.as_str());
        assert!(
            known || own.get(name) != Some(value),
            "`{name}` is the adapter's own"
        );
    }
    let boots = c.booted(&node.node_id, 1).await?;
    assert!(boots[0].env_names.iter().any(|name| name == "ASKED"));
    Ok(())
}

async fn no_descriptor_but_three_is_inherited(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    let fds = c.ask(&node, "fds").await?;
    let numbers: Vec<_> = fds
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(numbers, ["0", "1", "2"], "{fds}");
    Ok(())
}

async fn arguments_reach_the_program_as_they_are(c: &Context) -> Outcome {
    let hostile = [
        "note=",
        "note=a b",
        "note=$(id) `id` ; | & > x",
        "note=\"'\\",
        "note=é{",
        "note=-rf",
    ];
    let node = c.spawn(c.probe("n", &hostile)?).await?;
    let argv = c.ask(&node, "argv").await?;
    assert_eq!(argv.lines().collect::<Vec<_>>(), hostile);
    Ok(())
}
