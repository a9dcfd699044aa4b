//! Spawn, stop, remove, and what is true in between.

mod common;

use std::{fs, time::Duration};

use common::{
    Place, SLEEP, census, clean, eventually, exists, id, kill_9, parent, quick, sh, wait_for,
};
use grid_platform_api::{
    DataPolicy, ErrorKind, Exit, FailureReason, NodeState, Platform, Program, ReadyMode,
    RestartMode, RunAs, SpawnConfig,
};

#[tokio::test]
async fn a_node_lives_stops_starts_and_goes() {
    let place = Place::new();
    let platform = place.open().await;
    let config = sh("a", "echo started $SUTRA_PORT; exec sleep 1000")
        .port(0)
        .build()
        .unwrap();
    let node = platform.spawn_node(config.clone()).await.unwrap();
    assert_eq!(node.state, NodeState::Running);
    assert!(platform.is_node_alive(&id("a")).await.unwrap());
    let pid = node.pid.unwrap();
    assert_eq!(census(node.uid.as_str()), [pid]);
    let shim = parent(pid);

    // Again the same: the same.
    let same = platform.spawn_node(config.clone()).await.unwrap();
    assert_eq!((same.pid, &same.uid), (node.pid, &node.uid));
    let other = sh("a", "true").port(0).build().unwrap();
    let error = platform.spawn_node(other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);

    platform.stop_node(&id("a")).await.unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    let stopped = platform.get_node_status(&id("a")).await.unwrap();
    assert_eq!(
        stopped.state,
        NodeState::Stopped {
            exit: Some(Exit::Signal(15))
        }
    );
    assert_eq!(stopped.pid, None);
    assert!(!platform.is_node_alive(&id("a")).await.unwrap());
    platform.stop_node(&id("a")).await.unwrap();
    eventually("the shim is reaped", || !exists(shim)).await;

    let again = platform.spawn_node(config).await.unwrap();
    assert_eq!((&again.uid, &again.ports), (&node.uid, &node.ports));
    assert_ne!(again.pid, node.pid);
    eventually("both runs are in the log", || {
        let log = fs::read_to_string(place.node_dir("a").join("log")).unwrap();
        log.matches("started").count() == 2
    })
    .await;
    let port = node.ports["main"];
    let lines = platform.get_logs(&id("a"), 10).await.unwrap();
    assert_eq!(lines, vec![format!("started {port}"); 2]);

    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    assert!(!place.node_dir("a").exists() && !place.data("a").exists());
    assert!(platform.list_nodes().await.unwrap().is_empty());
    let error = platform.get_node_status(&id("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    platform
        .remove_node(&id("a"), DataPolicy::Keep)
        .await
        .unwrap();
}

#[tokio::test]
async fn no_remains_wait_for_the_end_of_the_next_node_under_the_same_id() {
    let place = Place::new();
    let platform = place.open().await;
    let mut shims = Vec::new();
    for round in 0..60 {
        let node = platform.spawn_node(sh("a", SLEEP).build().unwrap());
        shims.push(parent(node.await.unwrap().pid.unwrap()));
        // What follows is there at once, as in an update and in a restart.
        if round % 2 == 0 {
            platform.stop_node(&id("a")).await.unwrap();
        } else {
            let id = id("a");
            platform.remove_node(&id, DataPolicy::Keep).await.unwrap();
        }
    }
    let node = platform.spawn_node(sh("a", SLEEP).build().unwrap());
    let last = parent(node.await.unwrap().pid.unwrap());
    shims.retain(|it| *it != last);
    eventually("every supervisor that ended is buried", || {
        !shims.iter().any(|it| exists(*it))
    })
    .await;
    clean(&platform).await;
}

#[tokio::test]
async fn a_node_outlives_its_platform() {
    let place = Place::new();
    let platform = place.open().await;
    let node = platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    let stopped = platform
        .spawn_node(sh("b", SLEEP).build().unwrap())
        .await
        .unwrap();
    platform.stop_node(&stopped.node_id).await.unwrap();
    drop(platform);
    let platform = place.open().await;
    let list = platform.list_nodes().await.unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(
        (list[0].pid, &list[0].uid, &list[0].state),
        (node.pid, &node.uid, &NodeState::Running)
    );
    assert_eq!(list[1].state.as_str(), "stopped");
    let shim = parent(node.pid.unwrap());
    platform.stop_node(&id("a")).await.unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    eventually("the shim is reaped", || !exists(shim)).await;
    clean(&platform).await;
}

#[tokio::test]
async fn a_program_that_cannot_start_fails_with_its_reason() {
    let place = Place::new();
    let platform = place.open().await;
    let plain = place.dir.path().join("plain");
    fs::write(&plain, "not a program").unwrap();
    let bad = place.dir.path().join("bad");
    fs::copy(&plain, &bad).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&bad, mode).unwrap();
    for (name, path, reason) in [
        (
            "missing",
            "/no/such/program".into(),
            FailureReason::ProgramNotFound,
        ),
        (
            "bare",
            "no-such-program-here".into(),
            FailureReason::ProgramNotFound,
        ),
        ("plain", plain, FailureReason::NotExecutable),
        ("dir", "/tmp".into(), FailureReason::ProgramNotFound),
        ("bad", bad, FailureReason::BadProgramFormat),
    ] {
        let config = SpawnConfig::builder(name, Program::binary(path, [""; 0]))
            .port(0)
            .build()
            .unwrap();
        let error = platform.spawn_node(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SpawnFailed, "{name}: {error:?}");
        assert_eq!(error.failure().unwrap().reason, reason, "{name}");
        let node = platform.get_node_status(&id(name)).await.unwrap();
        assert_eq!(node.state.failure().unwrap().reason, reason, "{name}");
        assert_eq!(node.pid, None);
    }
    drop(platform);
    let platform = place.open().await;
    assert_eq!(platform.list_nodes().await.unwrap().len(), 5);
    clean(&platform).await;
}

#[tokio::test]
async fn a_program_that_ends_before_it_is_ready_fails_the_spawn() {
    let place = Place::new();
    let platform = place.open().await;
    for (mode, code) in [
        (RestartMode::Never, 3),
        (RestartMode::OnFailure, 3),
        (RestartMode::Always, 0),
    ] {
        let name = format!("n-{mode}");
        let config = sh(&name, &format!("echo going; exit {code}"))
            .ready(ReadyMode::Alive {
                for_: Duration::from_secs(10),
            })
            .restart(quick(mode))
            .build()
            .unwrap();
        let error = platform.spawn_node(config).await.unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!(failure.reason, FailureReason::Exited, "{mode}: {failure:?}");
        assert_eq!(failure.exit, Some(Exit::Code(code)));
        assert!(failure.log_tail.contains(&"going".to_owned()));
        let node = platform.get_node_status(&id(&name)).await.unwrap();
        assert_eq!(node.state.as_str(), "failed", "{mode}");
        assert_eq!(census(node.uid.as_str()), [0; 0]);
    }
    clean(&platform).await;
}

#[tokio::test]
async fn who_was_killed_before_the_node_was_ready_is_no_fault_of_the_program() {
    let place = Place::new();
    let platform = place.open().await;
    for (mode, again) in [(RestartMode::Never, false), (RestartMode::OnFailure, true)] {
        let name = format!("n-{mode}");
        let config = sh(&name, SLEEP)
            .ready(ReadyMode::Alive {
                for_: Duration::from_secs(60),
            })
            .restart(quick(mode))
            .build()
            .unwrap();
        let spawn = platform.spawn_node(config);
        let kill = async {
            let running = wait_for(&platform, &name, |it| it.pid.is_some()).await;
            kill_9(parent(running.pid.unwrap()));
        };
        let (spawned, ()) = tokio::join!(spawn, kill);
        let error = spawned.unwrap_err();
        let reason = error.failure().unwrap().reason;
        assert_eq!(reason, FailureReason::Interrupted, "{mode}: {error}");
        // A program that is to run once may have done what it is for.
        assert_eq!(error.is_retryable(), again, "{mode}");
        let node = platform.get_node_status(&id(&name)).await.unwrap();
        assert_eq!(node.state.as_str(), "failed", "{mode}");
        assert_eq!(census(node.uid.as_str()), [0; 0]);
    }
    clean(&platform).await;
}

#[tokio::test]
async fn the_shim_restarts_by_policy_and_the_node_shows_it() {
    let place = Place::new();
    let platform = place.open().await;
    let config = sh("a", SLEEP).build().unwrap();
    let node = platform.spawn_node(config).await.unwrap();
    kill_9(node.pid.unwrap());
    let node = wait_for(&platform, "a", |it| {
        it.restarts == 1 && it.state.is_running()
    })
    .await;
    assert_eq!(node.last_failure.unwrap().reason, FailureReason::Signaled);
    platform.stop_node(&id("a")).await.unwrap();

    let mut config = sh("b", "exit 7").build().unwrap();
    config.restart.max_restarts = Some(2);
    platform.spawn_node(config).await.unwrap();
    let node = wait_for(&platform, "b", |it| it.state.is_ended()).await;
    assert_eq!(
        node.state.failure().unwrap().reason,
        FailureReason::RestartsExhausted
    );
    assert_eq!(node.restarts, 2);
    clean(&platform).await;
}

#[tokio::test]
async fn a_killed_shim_leaves_nothing_and_its_node_comes_back_by_policy() {
    let place = Place::new();
    let platform = place.open().await;
    let script = "(trap '' TERM; exec sleep 999) & exec sleep 1000";
    for (name, mode) in [
        ("back", RestartMode::OnFailure),
        ("gone", RestartMode::Never),
    ] {
        let config = sh(name, script).restart(quick(mode)).build().unwrap();
        let node = platform.spawn_node(config).await.unwrap();
        let pid = node.pid.unwrap();
        eventually("two processes", || census(node.uid.as_str()).len() == 2).await;
        kill_9(parent(pid));
        if mode == RestartMode::Never {
            let node = wait_for(&platform, name, |it| it.state.is_ended()).await;
            assert_eq!(
                node.state.failure().unwrap().reason,
                FailureReason::Interrupted
            );
            eventually("all gone", || census(node.uid.as_str()).is_empty()).await;
        } else {
            let node = wait_for(&platform, name, |it| {
                it.state.is_running() && it.pid != Some(pid)
            })
            .await;
            assert_eq!(node.restarts, 1);
            eventually("one tree", || census(node.uid.as_str()).len() == 2).await;
        }
    }
    clean(&platform).await;
}

#[tokio::test]
async fn a_stop_supersedes_a_spawn_in_flight() {
    let place = Place::new();
    let platform = place.open().await;
    let config = sh("a", SLEEP)
        .ready(ReadyMode::Alive {
            for_: Duration::from_secs(60),
        })
        .build()
        .unwrap();
    let spawn = platform.spawn_node(config);
    let stop = async {
        wait_for(&platform, "a", |it| it.state.is_running()).await;
        platform.stop_node(&id("a")).await
    };
    let (spawned, stopped) = tokio::join!(spawn, stop);
    assert_eq!(spawned.unwrap_err().kind(), ErrorKind::Superseded);
    stopped.unwrap();
    let node = platform.get_node_status(&id("a")).await.unwrap();
    assert_eq!(node.state.as_str(), "stopped");
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    clean(&platform).await;
}

#[tokio::test]
async fn a_refusal_leaves_nothing_behind() {
    let place = Place::new();
    let platform = place.open().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (config, kind) in [
        (sh("a", SLEEP).port(port), ErrorKind::PortInUse),
        (sh("a", SLEEP).storage_path("/etc/x"), ErrorKind::NotAllowed),
        (sh("a", SLEEP).storage_size_mb(5), ErrorKind::Unsupported),
        (
            SpawnConfig::builder("a", Program::image("x", [""; 0])),
            ErrorKind::Unsupported,
        ),
    ] {
        let error = platform
            .spawn_node(config.build().unwrap())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
    }
    assert!(platform.list_nodes().await.unwrap().is_empty());
    assert!(!place.node_dir("a").exists());
    assert_eq!(fs::read_dir(&place.config.data_path).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_is_mended_by_the_next() {
    let place = Place::new();
    let platform = place.open().await;
    let config = sh("a", SLEEP)
        .port(0)
        .ready(ReadyMode::Alive {
            for_: Duration::from_millis(3),
        })
        .build()
        .unwrap();
    for round in 0..40_u64 {
        let moment = Duration::from_micros(170 * round);
        let spawn = platform.spawn_node(config.clone());
        let spawned = tokio::time::timeout(moment, spawn).await.is_ok();
        let moment = Duration::from_micros(170 * (39 - round));
        match round % 3 {
            0 => drop(tokio::time::timeout(moment, platform.stop_node(&id("a"))).await),
            1 => {
                let node = id("a");
                let remove = platform.remove_node(&node, DataPolicy::Purge);
                drop(tokio::time::timeout(moment, remove).await);
            }
            _ => {}
        }
        let node = platform.spawn_node(config.clone()).await;
        let node = node.unwrap_or_else(|e| panic!("round {round}, spawned {spawned}: {e:?}"));
        assert_eq!(node.state, NodeState::Running, "round {round}");
        assert_eq!(
            census(node.uid.as_str()),
            [node.pid.unwrap()],
            "round {round}"
        );
        match round % 2 {
            0 => platform.stop_node(&id("a")).await.unwrap(),
            _ => clean(&platform).await,
        }
        assert_eq!(census(node.uid.as_str()), [0; 0], "round {round}");
    }
    clean(&platform).await;
    assert!(platform.list_data().await.unwrap().is_empty());
    assert_eq!(fs::read_dir(&place.config.data_path).unwrap().count(), 0);
}

#[tokio::test]
async fn data_is_kept_listed_used_again_and_purged() {
    let place = Place::new();
    let platform = place.open().await;
    let config = sh("a", "echo x >> kept; exec sleep 1000").build().unwrap();
    platform.spawn_node(config.clone()).await.unwrap();
    let own = place.config.data_path.join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("mine"), "").unwrap();
    let guest = sh("b", SLEEP).storage_path(&own).build().unwrap();
    platform.spawn_node(guest).await.unwrap();
    let inside = sh("c", SLEEP).storage_path(own.join("c")).build().unwrap();
    let error = platform.spawn_node(inside).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);

    let data = platform.list_data().await.unwrap();
    let shown: Vec<_> = data
        .iter()
        .map(|it| (it.node_id.as_str(), it.in_use, it.created_by_platform))
        .collect();
    assert_eq!(shown, [("a", true, true), ("b", true, false)]);
    platform
        .remove_node(&id("a"), DataPolicy::Keep)
        .await
        .unwrap();
    platform
        .remove_node(&id("b"), DataPolicy::Purge)
        .await
        .unwrap();
    assert!(own.join("mine").exists(), "what was there is never deleted");

    // Also when the list of it is lost, data at its usual place is found.
    fs::remove_dir_all(place.config.state_dir.join("data")).unwrap();
    drop(platform);
    let platform = place.open().await;
    let data = platform.list_data().await.unwrap();
    assert_eq!(data.len(), 1);
    assert_eq!((data[0].node_id.as_str(), data[0].in_use), ("a", false));
    platform.spawn_node(config).await.unwrap();
    eventually("both runs to be in the data", || {
        fs::read_to_string(place.data("a").join("kept")).is_ok_and(|it| it == "x\nx\n")
    })
    .await;
    platform
        .remove_node(&id("a"), DataPolicy::Keep)
        .await
        .unwrap();
    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
    assert!(!place.data("a").exists());
    assert!(platform.list_data().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_spawn_that_nobody_waits_for_any_more_leaves_its_node_to_the_policy() {
    let place = Place::new();
    let mut platform = place.open().await;
    for reopen in [false, true] {
        let name = if reopen { "reopened" } else { "dropped" };
        let config = sh(name, SLEEP)
            .ready(ReadyMode::Alive {
                for_: Duration::from_secs(60),
            })
            .build()
            .unwrap();
        let spawn = platform.spawn_node(config);
        let node = tokio::select! {
            biased;
            node = wait_for(&platform, name, |it| it.state.is_running()) => node,
            _ = spawn => panic!("it waits for a minute"),
        };
        if reopen {
            drop(platform);
            kill_9(node.pid.unwrap());
            eventually("it is gone", || !exists(node.pid.unwrap())).await;
            platform = place.open().await;
        } else {
            kill_9(node.pid.unwrap());
        }
        let node = wait_for(&platform, name, |it| {
            it.restarts == 1 && it.state.is_running()
        })
        .await;
        assert_eq!(census(node.uid.as_str()).len(), 1);
    }
    clean(&platform).await;
}

#[test]
fn many_platforms_start_nodes_at_once_in_one_process() {
    // Each writes its own shim while the others start theirs: no fork of one may stand in the way of another.
    let work = |number: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            for round in 0..3 {
                let place = Place::new();
                let platform = place.open().await;
                let node = platform
                    .spawn_node(sh("a", SLEEP).build().unwrap())
                    .await
                    .unwrap_or_else(|e| panic!("{number}.{round}: {}", e.report()));
                assert!(node.pid.is_some());
                clean(&platform).await;
            }
        });
    };
    std::thread::scope(|scope| {
        for number in 0..12 {
            scope.spawn(move || work(number));
        }
    });
}

#[tokio::test]
async fn a_stop_holds_while_a_failed_node_waits_for_its_policy() {
    let place = Place::new();
    let platform = place.open().await;
    let mut policy = quick(RestartMode::OnFailure);
    policy.initial_backoff = Duration::from_millis(300);
    policy.max_backoff = Duration::from_millis(300);
    let config = sh("a", "echo began; read x < go; exit 3")
        .ready(ReadyMode::Alive {
            for_: Duration::from_secs(60),
        })
        .restart(policy)
        .build()
        .unwrap();
    let log = place.node_dir("a").join("log");
    let began = || fs::read_to_string(&log).map_or(0, |it| it.matches("began").count());
    let go = place.data("a").join("go");
    fs::create_dir_all(place.config.data_path.join("a")).unwrap();
    std::process::Command::new("mkfifo")
        .arg(&go)
        .status()
        .unwrap();
    {
        // The call is dropped while its node runs: how that ends is up to the policy.
        let spawning = platform.spawn_node(config);
        tokio::pin!(spawning);
        tokio::select! {
            _ = &mut spawning => panic!("it is not ready"),
            () = eventually("the program to run", || began() == 1) => {}
        }
    }
    fs::write(&go, "\n").unwrap();
    wait_for(&platform, "a", |it| it.state.failure().is_some()).await;
    platform.stop_node(&id("a")).await.unwrap();
    let stopped = platform.get_node_status(&id("a")).await.unwrap();
    assert_eq!(
        stopped.state.failure().unwrap().exit,
        Some(Exit::Code(3)),
        "why it failed is still told"
    );
    // Longer than the back-off: a start that must not happen has no event to wait for.
    tokio::time::sleep(Duration::from_millis(450)).await;
    drop(platform);
    let platform = place.open().await;
    let node = platform.get_node_status(&id("a")).await.unwrap();
    assert!(node.state.failure().is_some(), "{node:?}");
    assert_eq!(began(), 1);
    clean(&platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_holds_whenever_it_meets_a_restart_after_a_kill() {
    let place = Place::new();
    let platform = place.open().await;
    for round in 0..12 {
        let name = format!("n{round}");
        let config = sh(&name, SLEEP).build().unwrap();
        let node = platform.spawn_node(config).await.unwrap();
        kill_9(parent(node.pid.unwrap()));
        tokio::time::sleep(Duration::from_millis(10 + round)).await;
        platform.stop_node(&id(&name)).await.unwrap();
        assert_eq!(census(node.uid.as_str()), [0; 0], "round {round}");
    }
    drop(platform);
    let platform = place.open().await;
    for node in platform.list_nodes().await.unwrap() {
        assert_eq!(node.state.as_str(), "stopped", "{node:?}");
        assert_eq!(census(node.uid.as_str()), [0; 0]);
    }
    clean(&platform).await;
}

#[tokio::test]
async fn a_failure_shows_the_end_of_a_log_without_lines_and_no_more() {
    let place = Place::new();
    let platform = place.open().await;
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last words; exit 3";
    let config = sh("a", script)
        .ready(ReadyMode::Alive {
            for_: Duration::from_secs(60),
        })
        .restart(quick(RestartMode::Never))
        .build()
        .unwrap();
    let error = platform.spawn_node(config).await.unwrap_err();
    let tail = &error.failure().unwrap().log_tail;
    assert_eq!(tail.last().unwrap(), "last words");
    assert!(tail.iter().map(String::len).sum::<usize>() <= 20 * 8 * 1024);
    clean(&platform).await;
}

#[tokio::test]
async fn an_allowed_user_is_no_way_to_a_group_of_others() {
    let mut place = Place::new();
    place.config.users = vec!["nobody".to_owned()];
    let platform = place.open().await;
    if !platform.capabilities().user {
        return;
    }
    let config = sh("a", SLEEP)
        .run_as(RunAs {
            user: "nobody".to_owned(),
            group: Some("0".to_owned()),
        })
        .build()
        .unwrap();
    let error = platform.spawn_node(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAllowed, "{error:?}");
    assert_eq!(error.node(), Some(&id("a")));
    assert!(error.hint().is_some());
    assert!(platform.list_nodes().await.unwrap().is_empty());
    assert!(!place.node_dir("a").exists() && !place.data("a").exists());
}

#[tokio::test]
async fn a_node_whose_cgroup_cannot_go_is_still_there_to_be_removed() {
    let place = Place::new();
    let platform = place.open().await;
    if !platform.capabilities().pids_limit {
        return;
    }
    let config = sh("a", SLEEP).pids_limit(50).build().unwrap();
    let node = platform.spawn_node(config).await.unwrap();
    let joined = fs::read_to_string(format!("/proc/{}/cgroup", node.pid.unwrap())).unwrap();
    platform.stop_node(&id("a")).await.unwrap();
    let below = joined
        .lines()
        .find_map(|it| {
            it.splitn(3, ':')
                .nth(2)
                .filter(|it| it.contains("sutra-grid-"))
        })
        .unwrap();
    let Some(cgroup) = [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/unified",
    ]
    .map(|it| std::path::PathBuf::from(format!("{it}{below}")))
    .into_iter()
    .find(|it| it.exists()) else {
        // Mounted where this test does not look.
        return clean(&platform).await;
    };
    let within = cgroup.join("busy");
    fs::create_dir(&within).unwrap();
    let removed = platform.remove_node(&id("a"), DataPolicy::Purge).await;
    fs::remove_dir(&within).unwrap();
    let error = removed.unwrap_err();
    assert_eq!(error.node(), Some(&id("a")));
    assert_eq!(platform.list_nodes().await.unwrap().len(), 1);
    assert!(place.data("a").exists());
    clean(&platform).await;
    assert!(!cgroup.exists() && !place.data("a").exists());
}
