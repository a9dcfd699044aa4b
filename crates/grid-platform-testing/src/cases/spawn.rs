//! Spawning.

use std::{collections::BTreeMap, time::Duration};

use grid_platform_api::{
    Capabilities, DataPolicy, ErrorKind, Exit, FailureReason, HealthCheck, LogCursor, Program,
    ReadyMode, RestartMode, RunAs, SpawnConfigBuilder, Timestamp,
};

use super::cases;
use crate::{BadProgram, Context, Failed, Outcome, fails, quickly};

cases! {
    spawn_gives_the_node_as_it_is []
    spawn_is_idempotent []
    another_request_is_a_conflict_and_changes_nothing []
    another_request_for_a_stopped_node_is_a_conflict []
    start_after_stop_keeps_uid_ports_and_data []
    start_after_a_failure_starts_again [never]
    a_start_begins_to_count_anew [on_failure]
    an_invalid_request_leaves_nothing []
    what_the_platform_cannot_do_is_unsupported []
    a_program_that_is_not_there_is_a_typed_failure []
    a_program_that_may_not_be_executed_is_a_typed_failure []
    a_file_that_is_no_program_is_a_typed_failure []
    an_image_that_is_not_there_is_a_typed_failure [image_programs]
    labels_are_kept []
    a_spawn_whose_caller_goes_away_is_found []
}

async fn spawn_gives_the_node_as_it_is(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    assert_eq!(node.platform, c.platform().name());
    assert!(node.state.is_running(), "{:?}", node.state);
    assert!(!node.native_handle.is_empty());
    assert_eq!(node.restarts, 0);
    assert_eq!(node.last_failure, None);
    assert!(node.started_at.is_some_and(|at| at >= node.created_at));
    assert_eq!(node.finished_at, None);
    assert!(node.endpoint.is_some());
    let live = c.census(&node.node_id).await?;
    assert_eq!(live.len(), 1, "one program: {live:?}");
    if c.survey().capabilities.host_pids {
        assert_eq!(node.pid, Some(live[0].pid), "the pid is the program's");
    }
    let status = c.status(&node.node_id).await?;
    assert_eq!((&status.uid, &status.digest), (&node.uid, &node.digest));
    assert_eq!(c.booted(&node.node_id, 1).await?[0].number, 1);
    Ok(())
}

async fn spawn_is_idempotent(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.build()?;
    let first = c.platform().spawn_node(config.clone()).await?;
    c.answers(&first).await?;
    for _ in 0..3 {
        let again = c.platform().spawn_node(config.clone()).await?;
        assert_eq!((&again.uid, again.pid), (&first.uid, first.pid));
        assert_eq!(again.ports, first.ports);
        assert_eq!(again.digest, first.digest);
    }
    c.booted(&first.node_id, 1).await?;
    assert_eq!(c.census(&first.node_id).await?.len(), 1);
    assert_eq!(c.platform().list_nodes().await?.len(), 1);
    Ok(())
}

async fn another_request_is_a_conflict_and_changes_nothing(c: &Context) -> Outcome {
    let config = c.probe("n", &["note=one"])?.label("kept", "yes").build()?;
    let node = c.platform().spawn_node(config.clone()).await?;
    c.answers(&node).await?;
    let before = c.status(&node.node_id).await?;
    let mut other_env = config.clone();
    other_env.env = BTreeMap::from([("A".to_owned(), "b".to_owned())]);
    let mut other_args = config.clone();
    other_args.program = c.fixture().probe(&["note=two"])?;
    let mut other_label = config.clone();
    other_label.labels.clear();
    for other in [other_env, other_args, other_label] {
        fails(c.platform().spawn_node(other).await, ErrorKind::Conflict)?;
    }
    let after = c.status(&node.node_id).await?;
    assert_eq!(
        (&after.uid, after.pid, &after.digest),
        (&before.uid, before.pid, &before.digest)
    );
    assert_eq!(after.labels, before.labels);
    assert_eq!(c.ask(&node, "argv").await?, "note=one\n");
    c.booted(&node.node_id, 1).await?;
    // The first request is still the node's.
    assert_eq!(c.platform().spawn_node(config).await?.uid, node.uid);
    Ok(())
}

async fn another_request_for_a_stopped_node_is_a_conflict(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["note=one"])?).await?;
    c.platform().stop_node(&node.node_id).await?;
    let other = c.probe("n", &["note=two"])?.build()?;
    fails(c.platform().spawn_node(other).await, ErrorKind::Conflict)?;
    c.nothing_lives(&node.node_id).await?;
    c.booted(&node.node_id, 1).await?;
    assert_eq!(c.status(&node.node_id).await?.uid, node.uid);
    Ok(())
}

async fn start_after_stop_keeps_uid_ports_and_data(c: &Context) -> Outcome {
    let config = c.probe("n", &[])?.build()?;
    let first = c.platform().spawn_node(config.clone()).await?;
    c.answers(&first).await?;
    c.ask(&first, "put=key:kept").await?;
    c.platform().stop_node(&first.node_id).await?;
    let second = c.platform().spawn_node(config).await?;
    assert_eq!(c.answers(&second).await?, 2);
    assert_eq!(second.uid, first.uid);
    assert_eq!(second.ports, first.ports);
    assert_eq!(second.endpoint, first.endpoint);
    assert_eq!(second.created_at, first.created_at);
    assert_eq!(second.finished_at, None, "it runs");
    assert_eq!(c.ask(&second, "get=key").await?, "kept");
    assert_eq!(c.census(&first.node_id).await?.len(), 1);
    Ok(())
}

async fn start_after_a_failure_starts_again(c: &Context) -> Outcome {
    let config = c.probe("n", &["upto=1", "exit=5"])?;
    let config = config
        .ready(ReadyMode::Alive {
            for_: Duration::from_secs(2),
        })
        .build()?;
    let error = fails(
        c.platform().spawn_node(config.clone()).await,
        ErrorKind::SpawnFailed,
    )?;
    assert_eq!(error.failure().and_then(|f| f.exit), Some(Exit::Code(5)));
    let failed = c.status(&config.node_id).await?;
    let node = c.platform().spawn_node(config).await?;
    assert_eq!(c.answers(&node).await?, 2);
    assert_eq!(node.uid, failed.uid, "the record that failed is the node");
    assert!(node.state.is_running());
    Ok(())
}

async fn a_start_begins_to_count_anew(c: &Context) -> Outcome {
    let policy = quickly(RestartMode::OnFailure);
    let config = c.probe("n", &[])?.restart(policy).build()?;
    let node = c.platform().spawn_node(config.clone()).await?;
    c.answers(&node).await?;
    c.ask(&node, "exit=1").await?;
    c.wait(&node.node_id, "a restart", |n| {
        n.restarts == 1 && n.state.is_running()
    })
    .await?;
    c.platform().stop_node(&node.node_id).await?;
    let again = c.platform().spawn_node(config).await?;
    assert_eq!(
        again.restarts, 0,
        "restarts are counted since the last spawn"
    );
    assert_eq!(again.last_failure, None, "and so are failures");
    Ok(())
}

async fn an_invalid_request_leaves_nothing(c: &Context) -> Outcome {
    // Built without the builder, which would not let it out.
    let mut relative = c.probe("n", &[])?.build()?;
    relative.program = Program::binary("./server", [""; 0]);
    let mut nul = c.probe("n", &[])?.build()?;
    nul.env = BTreeMap::from([("A".to_owned(), "\0".to_owned())]);
    let mut root = c.probe("n", &[])?.build()?;
    root.storage_path = Some("/".into());
    for config in [relative, nul, root] {
        let error = fails(
            c.platform().spawn_node(config).await,
            ErrorKind::InvalidConfig,
        )?;
        assert!(!error.is_retryable());
        assert!(error.hint().is_some());
    }
    assert_eq!(c.platform().list_nodes().await?, []);
    assert_eq!(c.platform().list_data().await?, []);
    c.nothing_lives(&c.id("n")).await
}

/// A capability, what asks for it, and the request that does.
type Asks = (
    &'static str,
    fn(&Capabilities) -> bool,
    fn(SpawnConfigBuilder) -> SpawnConfigBuilder,
);

async fn what_the_platform_cannot_do_is_unsupported(c: &Context) -> Outcome {
    let asks: [Asks; 8] = [
        (
            "memory_limit",
            |c| c.memory_limit,
            |b| b.memory_limit_mb(64),
        ),
        ("cpu_limit", |c| c.cpu_limit, |b| b.cpu_limit_millis(500)),
        ("pids_limit", |c| c.pids_limit, |b| b.pids_limit(50)),
        (
            "open_files_limit",
            |c| c.open_files_limit,
            |b| b.open_files_limit(64),
        ),
        (
            "storage_size",
            |c| c.storage_size,
            |b| b.storage_size_mb(64),
        ),
        (
            "storage_path",
            |c| c.storage_path,
            |b| b.storage_path("/srv/data"),
        ),
        ("secrets", |c| c.secrets, |b| b.secret("s", "v".into())),
        (
            "health_checks",
            |c| c.health_checks,
            |b| b.health(HealthCheck::tcp()),
        ),
    ];
    let capabilities = &c.survey().capabilities;
    let mut unsupported = Vec::new();
    for (name, has, ask) in asks {
        if !has(capabilities) {
            unsupported.push((name, ask(c.probe("n", &[])?).build()?));
        }
    }
    if capabilities.secrets && !capabilities.secret_env {
        let config = c.probe("n", &[])?.secret("s", "v".into());
        unsupported.push(("secret_env", config.secret_env("S", "s").build()?));
    }
    if !capabilities.user {
        let user = RunAs {
            user: "nobody".to_owned(),
            group: None,
        };
        unsupported.push(("user", c.probe("n", &[])?.run_as(user).build()?));
    }
    if !capabilities.image_programs {
        let program = Program::image("probe:latest", [""; 0]);
        unsupported.push(("image_programs", c.bare("n", program).build()?));
    }
    if !capabilities.binary_programs {
        let program = Program::binary("true", [""; 0]);
        unsupported.push(("binary_programs", c.bare("n", program).build()?));
    }
    for mode in [
        RestartMode::Never,
        RestartMode::OnFailure,
        RestartMode::Always,
    ] {
        if !capabilities.restart_modes.contains(&mode) {
            unsupported.push((mode.as_str(), c.probe("n", &[])?.restart(mode).build()?));
        }
    }
    if !capabilities.port_allocation {
        unsupported.push(("port_allocation", c.probe("n", &[])?.port(0).build()?));
    }
    for (name, config) in unsupported {
        let error = fails(
            c.platform().spawn_node(config).await,
            ErrorKind::Unsupported,
        )
        .map_err(|e| e.during(name))?;
        assert!(!error.is_retryable(), "{name}");
    }
    assert_eq!(c.platform().list_nodes().await?, []);
    let id = c.spawn(c.probe("n", &[])?).await?.node_id;
    if !capabilities.usage {
        fails(c.platform().get_usage(&id).await, ErrorKind::Unsupported)?;
    }
    if !capabilities.logs_since {
        let since = LogCursor::Since(Timestamp::now());
        let followed = c.platform().follow_logs(&id, since).await;
        fails(followed.map(drop), ErrorKind::Unsupported)?;
    }
    if !capabilities.force_stop {
        fails(
            c.platform().force_stop_node(&id).await,
            ErrorKind::Unsupported,
        )?;
        assert_eq!(c.census(&id).await?.len(), 1, "and the node is not touched");
    }
    Ok(())
}

async fn a_program_that_is_not_there_is_a_typed_failure(c: &Context) -> Outcome {
    cannot_start(c, BadProgram::Missing, FailureReason::ProgramNotFound).await
}

async fn a_program_that_may_not_be_executed_is_a_typed_failure(c: &Context) -> Outcome {
    cannot_start(c, BadProgram::NotExecutable, FailureReason::NotExecutable).await
}

async fn a_file_that_is_no_program_is_a_typed_failure(c: &Context) -> Outcome {
    cannot_start(c, BadProgram::BadFormat, FailureReason::BadProgramFormat).await
}

async fn cannot_start(c: &Context, which: BadProgram, reason: FailureReason) -> Outcome {
    let config = c.bare("n", c.fixture().bad_program(which)?).build()?;
    let id = config.node_id.clone();
    let error = fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    let failure = error.failure().ok_or("the error has no failure")?;
    assert_eq!(failure.reason, reason, "{failure:?}");
    assert!(error.hint().is_some(), "the mend is named");
    let node = c.status(&id).await?;
    assert_eq!(node.state.failure().map(|f| f.reason), Some(reason));
    let listed = c.platform().list_nodes().await?;
    assert_eq!(listed.len(), 1, "a failed node is listed: {listed:?}");
    assert!(!c.platform().is_node_alive(&id).await?);
    c.nothing_lives(&id).await
}

async fn an_image_that_is_not_there_is_a_typed_failure(c: &Context) -> Outcome {
    let config = c
        .bare("n", c.fixture().bad_program(BadProgram::NoImage)?)
        .build()?;
    let id = config.node_id.clone();
    let error = fails(
        c.platform().spawn_node(config).await,
        ErrorKind::SpawnFailed,
    )?;
    let failure = error.failure().ok_or("the error has no failure")?;
    // A registry that cannot be reached cannot be known to have none.
    let reasons = [FailureReason::ImageNotFound, FailureReason::ImagePullFailed];
    assert!(reasons.contains(&failure.reason), "{failure:?}");
    assert!(error.hint().is_some(), "the mend is named");
    // Where nothing can be made without its image, there is no record either.
    for node in c.platform().list_nodes().await? {
        let reason = node.state.failure().map(|f| f.reason);
        assert_eq!(reason, Some(failure.reason), "{node:?}");
    }
    c.nothing_lives(&id).await?;
    c.platform().remove_node(&id, DataPolicy::Purge).await?;
    assert_eq!(c.platform().list_data().await?, []);
    Ok(())
}

async fn labels_are_kept(c: &Context) -> Outcome {
    let config = c
        .probe("n", &[])?
        .label("zone", "north")
        .label("team/owner", "a_b.c");
    let node = c.spawn(config).await?;
    let expected = BTreeMap::from([
        ("team/owner".to_owned(), "a_b.c".to_owned()),
        ("zone".to_owned(), "north".to_owned()),
    ]);
    assert_eq!(node.labels, expected);
    c.reopen_if_possible().await?;
    assert_eq!(c.status(&node.node_id).await?.labels, expected);
    Ok(())
}

async fn a_spawn_whose_caller_goes_away_is_found(c: &Context) -> Outcome {
    for pause in [0, 1, 3, 10, 30] {
        let config = c.probe(&format!("n{pause}"), &[])?;
        let config = config
            .ready(ReadyMode::Alive {
                for_: Duration::from_millis(200),
            })
            .build()?;
        let id = config.node_id.clone();
        let platform = c.platform();
        let spawning = platform.spawn_node(config.clone());
        // Dropped at some step: which one does not matter, as each must do.
        let _ = tokio::time::timeout(Duration::from_millis(pause), spawning).await;
        let node = c.platform().spawn_node(config).await?;
        c.answers(&node).await?;
        let live = c.census(&id).await?;
        assert_eq!(live.len(), 1, "dropped after {pause} ms: {live:?}");
        let listed = c.platform().list_nodes().await?;
        let of_the_id = listed.iter().filter(|n| n.node_id == id).count();
        if of_the_id != 1 {
            return Err(Failed::new(format!("`{id}` is listed {of_the_id} times")));
        }
    }
    Ok(())
}
