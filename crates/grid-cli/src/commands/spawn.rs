//! `grid spawn` and `grid update`.

use std::path::{Path, PathBuf};

use grid_client::{NodeSettings, SpawnRequest, UpdateRequest};
use grid_platform_api::{HealthCheck, RestartPolicy, RunAs, StopPolicy};

use crate::{
    args::{NodeSettingsArgs, SpawnArgs, UpdateArgs},
    commands::nodes::settle,
    context::{Context, absolute, node_id},
    error::{Error, Result},
    progress::Goal,
    secrets,
};

pub(super) async fn spawn(context: &Context, args: &SpawnArgs) -> Result<()> {
    let client = context.client()?;
    let id = match &args.name {
        Some(name) => name.clone(),
        None => format!("node-{}", random(4)?),
    };
    let request = SpawnRequest {
        node_id: Some(node_id(&id)?),
        agent_id: args.agent.clone(),
        agent_labels: args.agent_label.iter().cloned().collect(),
        settings: settings(&args.settings)?,
    };
    refuse_own_place(context, &request.settings)?;
    let node = client.spawn(&request, &random(16)?).await?;
    settle(context, &client, vec![node], Goal::Running, args.wait).await
}

pub(super) async fn update(context: &Context, args: &UpdateArgs) -> Result<()> {
    let id = node_id(&args.id)?;
    let request = UpdateRequest {
        settings: settings(&args.settings)?,
        if_generation: args.if_generation,
    };
    refuse_own_place(context, &request.settings)?;
    if request.settings == NodeSettings::default() {
        return Err(Error::usage("there is nothing to change").with_hint(
            "Name what shall change, such as `--memory-limit-mb 512`; `grid update --help` lists it all.",
        ));
    }
    let client = context.client()?;
    let node = client.update(&id, &request).await?;
    settle(context, &client, vec![node], Goal::Running, args.wait).await
}

/// A node's data among the files of the local grid would end with them, or they with it.
fn refuse_own_place(context: &Context, settings: &NodeSettings) -> Result<()> {
    let Some(place) = &settings.storage_path else {
        return Ok(());
    };
    // Without a home there is no local grid either.
    match context.state() {
        Ok(state) if state.keeps(Path::new(place)) => Err(Error::usage(format!(
            "the storage path `{place}` is among the grid's own files in `{}`",
            state.root().display()
        ))
        .with_hint("Name a place elsewhere, or leave `--storage-path` out.")),
        _ => Ok(()),
    }
}

/// The settings that were given; the others stay out of the request.
fn settings(args: &NodeSettingsArgs) -> Result<NodeSettings> {
    if !args.args.is_empty() && args.binary.is_none() && args.image.is_none() {
        return Err(Error::usage("there are arguments and no program")
            .with_hint("Name it: `--binary PROGRAM -- ARGUMENTS`."));
    }
    let secrets = args
        .secret
        .iter()
        .map(|text| secrets::read(text))
        .collect::<Result<Vec<_>>>()?;
    let program = args.binary.is_some() || args.image.is_some();
    Ok(NodeSettings {
        port: args.port,
        ports: given(args.named_port.iter().cloned()),
        bind_address: args.bind,
        storage_path: args.storage_path.as_deref().map(place).transpose()?,
        storage_size_mb: args.storage_size_mb,
        memory_limit_mb: args.memory_limit_mb,
        cpu_limit_millis: args.cpu_limit_millis,
        pids_limit: args.pids_limit,
        open_files_limit: args.open_files_limit,
        binary: args.binary.as_deref().map(program_path).transpose()?,
        image: args.image.clone(),
        // Of a new program the arguments are part; none is a list too.
        args: program.then(|| args.args.clone()),
        run_as: args.user.as_deref().map(user),
        env: given(args.env.iter().cloned()),
        secrets: given(secrets),
        secret_env: given(args.secret_env.iter().cloned()),
        restart: args.restart.map(|mode| RestartPolicy {
            max_restarts: args.max_restarts,
            ..mode.into()
        }),
        stop: stop(args),
        ready: None,
        health: health(args),
        labels: given(args.label.iter().cloned()),
        adapter: None,
    })
}

fn given<C: FromIterator<T>, T>(items: impl IntoIterator<Item = T>) -> Option<C> {
    let mut items = items.into_iter().peekable();
    items.peek().is_some().then(|| items.collect())
}

fn stop(args: &NodeSettingsArgs) -> Option<StopPolicy> {
    if args.stop_signal.is_none() && args.stop_grace.is_none() {
        return None;
    }
    let default = StopPolicy::default();
    Some(StopPolicy {
        signal: args.stop_signal.unwrap_or(default.signal),
        grace: args.stop_grace.unwrap_or(default.grace),
    })
}

fn health(args: &NodeSettingsArgs) -> Option<HealthCheck> {
    match &args.health_http {
        Some(path) => Some(HealthCheck::http(path)),
        None => args.health_tcp.then(HealthCheck::tcp),
    }
}

fn user(text: &str) -> RunAs {
    match text.split_once(':') {
        Some((user, group)) => RunAs {
            user: user.to_owned(),
            group: Some(group.to_owned()),
        },
        None => RunAs {
            user: text.to_owned(),
            group: None,
        },
    }
}

/// A program as the agent shall find it: a bare name is looked up there, anything else is a place seen from here.
fn program_path(path: &Path) -> Result<String> {
    if path.components().count() == 1 && !path.is_absolute() {
        return text(path);
    }
    place(path)
}

/// A place seen from here, without `..` and links, which agents do not follow.
fn place(path: &Path) -> Result<String> {
    let absolute = absolute(path)?;
    let known = |path: &Path| path.canonicalize().ok();
    let resolved: Option<PathBuf> = known(&absolute).or_else(|| {
        // What does not exist yet is made in what does.
        let parent = known(absolute.parent()?)?;
        Some(parent.join(absolute.file_name()?))
    });
    text(&resolved.unwrap_or(absolute))
}

fn text(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::usage(format!(
            "the path `{}` is not UTF-8",
            path.display()
        ))),
    }
}

/// Random bytes in hexadecimal.
fn random(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer)
        .map_err(|error| Error::failed("the system gives no random numbers").with_source(&error))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &str) -> Result<serde_json::Value> {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Spawn(args) = cli.command else {
            panic!("{line}")
        };
        Ok(serde_json::to_value(settings(&args.settings)?).unwrap())
    }

    #[test]
    fn arguments_become_the_request_and_what_is_not_given_stays_out() {
        let check = |line: &str, expect: serde_json::Value| {
            assert_eq!(parsed(line).unwrap(), expect, "{line}");
        };
        check("grid spawn", json!({}));
        check(
            "grid spawn --port 50051 --storage-path /nonexistent/n1 --memory-limit-mb 256",
            json!({"port": 50051, "storage_path": "/nonexistent/n1", "memory_limit_mb": 256}),
        );
        check(
            "grid spawn --binary redis-server --health-tcp -- --port {port} --dir {data_path}",
            json!({
                "binary": "redis-server",
                "args": ["--port", "{port}", "--dir", "{data_path}"],
                "health": {"kind": "tcp", "interval_ms": 5000, "timeout_ms": 2000, "threshold": 3},
            }),
        );
        check(
            "grid spawn --env A=1=2 --env B= --label tier=hot --named-port peer=0",
            json!({"env": {"A": "1=2", "B": ""}, "labels": {"tier": "hot"}, "ports": {"peer": 0}}),
        );
        check(
            "grid spawn --user redis:staff --stop-signal INT --stop-grace 3s",
            json!({
                "run_as": {"user": "redis", "group": "staff"},
                "stop": {"signal": "INT", "grace_ms": 3000},
            }),
        );
    }

    #[test]
    fn a_path_is_seen_from_here_and_a_bare_name_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let fresh = format!("{}/./x/../y", dir.display());
        std::fs::create_dir(dir.join("x")).unwrap();
        assert_eq!(
            place(Path::new(&fresh)).unwrap(),
            dir.join("y").to_str().unwrap()
        );
        assert_eq!(
            program_path(Path::new("redis-server")).unwrap(),
            "redis-server"
        );
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            program_path(Path::new("./server")).unwrap(),
            here.join("server").to_str().unwrap()
        );
    }

    #[test]
    fn arguments_need_a_program() {
        assert!(parsed("grid spawn -- --port {port}").is_err());
    }
}
