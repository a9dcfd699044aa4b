//! The state directory: damage, copies, strangers, kills at any instant, reboots.

mod common;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::{
    Place, SLEEP, census, clean, crc32, eventually, exists, id, kill_9, parent, quick, sh, wait_for,
};
use grid_platform_api::{CheckStatus, DataPolicy, ErrorKind, FailureReason, Platform, RestartMode};
use grid_platform_process::{ProcessConfig, ProcessPlatform, accept_copied_state};

#[tokio::test]
async fn one_adapter_at_a_time() {
    let place = Place::new();
    let platform = place.open().await;
    let error = ProcessPlatform::open(place.config.clone())
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::StateLocked);
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    drop(platform);
    place.open().await;
}

#[tokio::test]
async fn two_owners_on_one_host_do_not_touch_each_other() {
    let (ours, theirs) = (Place::new(), Place::new());
    let platform = ours.open().await;
    let mut config = theirs.config.clone();
    config.storage_roots = vec![ours.config.data_path.clone(), config.data_path.clone()];
    let stranger = ProcessPlatform::open(config).await.unwrap();
    let node = platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    let twin = stranger
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    assert_ne!(node.uid, twin.uid);
    let thief = sh("b", SLEEP).storage_path(ours.data("a")).build().unwrap();
    let error = stranger.spawn_node(thief).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OwnedByOther);
    clean(&stranger).await;
    assert!(platform.is_node_alive(&id("a")).await.unwrap());
    assert_eq!(census(node.uid.as_str()).len(), 1);
    clean(&platform).await;
}

#[tokio::test]
async fn damaged_records_are_put_aside_and_the_rest_lives() {
    let place = Place::new();
    let platform = place.open().await;
    for name in ["good", "torn", "blind", "foreign"] {
        let config = sh(name, SLEEP)
            .restart(quick(RestartMode::Never))
            .build()
            .unwrap();
        platform.spawn_node(config).await.unwrap();
    }
    for name in ["torn", "foreign"] {
        platform.stop_node(&id(name)).await.unwrap();
    }
    let blind = platform.get_node_status(&id("blind")).await.unwrap();
    drop(platform);
    let torn = place.node_dir("torn").join("intent.json");
    let text = fs::read_to_string(&torn).unwrap();
    fs::write(&torn, &text[..text.len() / 2]).unwrap();
    let foreign = place.node_dir("foreign").join("intent.json");
    let text = by_hand(&foreign);
    let owner: serde_json::Value = serde_json::from_str(&text).unwrap();
    let owner = owner["owner"].as_str().unwrap();
    fs::write(&foreign, text.replace(owner, &"0".repeat(32))).unwrap();
    kill_9(parent(blind.pid.unwrap()));
    eventually("the lock to be free", || {
        census(blind.uid.as_str()).is_empty()
    })
    .await;
    let record = fs::OpenOptions::new()
        .write(true)
        .open(place.node_dir("blind").join("record"))
        .unwrap();
    for slot in [0, 4096] {
        record.write_all_at(b"torn", slot + 30).unwrap();
    }
    fs::create_dir(place.node_dir("unfinished")).unwrap();
    fs::create_dir(place.config.state_dir.join("nodes/what-is-this")).unwrap();

    let platform = place.open().await;
    let list = platform.list_nodes().await.unwrap();
    let names: Vec<_> = list.iter().map(|it| it.node_id.as_str()).collect();
    assert_eq!(names, ["blind", "good"]);
    assert!(list[1].state.is_running());
    assert_eq!(
        list[0].state.failure().unwrap().reason,
        FailureReason::Interrupted
    );
    assert!(!place.node_dir("unfinished").exists());
    assert!(
        place
            .config
            .state_dir
            .join("quarantine/sutra-grid-torn-0/log")
            .exists()
    );
    assert!(
        place
            .config
            .state_dir
            .join("quarantine/sutra-grid-blind-record-0")
            .exists()
    );

    let probe = platform.probe().await.unwrap();
    assert!(probe.is_usable());
    let found: Vec<_> = probe
        .checks
        .iter()
        .filter(|it| it.name == "records")
        .collect();
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(
        found
            .iter()
            .all(|it| it.status == CheckStatus::Degraded && it.hint.is_some())
    );

    // What belongs to another owner is not ours to touch, whatever is asked.
    let other = id("foreign");
    let spawn = platform
        .spawn_node(sh("foreign", SLEEP).build().unwrap())
        .await;
    assert_eq!(spawn.unwrap_err().kind(), ErrorKind::OwnedByOther);
    assert_eq!(
        platform.stop_node(&other).await.unwrap_err().kind(),
        ErrorKind::OwnedByOther
    );
    let remove = platform.remove_node(&other, DataPolicy::Purge).await;
    assert_eq!(remove.unwrap_err().kind(), ErrorKind::OwnedByOther);
    assert!(foreign.exists());
    clean(&platform).await;
}

#[tokio::test]
async fn a_copied_state_is_refused_until_it_is_accepted() {
    let place = Place::new();
    let platform = place.open().await;
    platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    platform.stop_node(&id("a")).await.unwrap();
    drop(platform);
    let moved = place.dir.path().join("moved");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&place.config.state_dir, &moved])
        .status()
        .unwrap();
    assert!(copied.success());
    let config = ProcessConfig {
        state_dir: moved.clone(),
        ..place.config.clone()
    };
    let error = ProcessPlatform::open(config.clone()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::OwnedByOther);
    assert!(error.hint().is_some());
    accept_copied_state(&moved).unwrap();
    fs::remove_dir_all(&place.config.state_dir).unwrap();
    let platform = ProcessPlatform::open(config).await.unwrap();
    platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    clean(&platform).await;
}

#[tokio::test]
async fn after_a_reboot_nodes_are_started_by_their_policy() {
    let place = Place::new();
    let platform = place.open().await;
    for (name, mode) in [
        ("never", RestartMode::Never),
        ("always", RestartMode::Always),
        ("failure", RestartMode::OnFailure),
        ("stopped", RestartMode::Always),
    ] {
        let config = sh(name, SLEEP).restart(quick(mode)).build().unwrap();
        platform.spawn_node(config).await.unwrap();
    }
    platform.stop_node(&id("stopped")).await.unwrap();
    let nodes = platform.list_nodes().await.unwrap();
    drop(platform);
    // A host that goes down takes the shims, and its next boot has another id.
    for node in &nodes {
        if let Some(pid) = node.pid {
            kill_9(parent(pid));
        }
        eventually("it to be gone", || census(node.uid.as_str()).is_empty()).await;
        rewrite_boot_id(&place.node_dir(node.node_id.as_str()).join("record"));
    }
    let platform = place.open().await;
    let list = platform.list_nodes().await.unwrap();
    let states: Vec<_> = list
        .iter()
        .map(|it| {
            (
                it.node_id.as_str(),
                it.state.failure().map(|it| it.reason),
                it.restarts,
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            ("always", None, 1),
            ("failure", None, 1),
            ("never", Some(FailureReason::Interrupted), 0),
            ("stopped", None, 0)
        ]
    );
    wait_for(&platform, "always", |it| it.state.is_running()).await;
    wait_for(&platform, "failure", |it| it.state.is_running()).await;
    assert_eq!(list[3].state.as_str(), "stopped");
    clean(&platform).await;
}

/// A file's text without its checksum: as somebody has it who changes it on purpose.
#[allow(clippy::unwrap_used, reason = "it is part of a test")]
fn by_hand(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.split_once("\n#sha256 ").unwrap().0.to_owned()
}

/// Gives a record the id of another boot, with a checksum to match: what a reboot does to it.
#[allow(clippy::unwrap_used, reason = "it is part of a test")]
fn rewrite_boot_id(record: &Path) {
    let mut bytes = fs::read(record).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for slot in bytes.chunks_exact_mut(4096) {
        let len = u32::from_le_bytes(slot[16..20].try_into().unwrap()) as usize;
        if slot.starts_with(b"SGRECRD1") {
            let text = String::from_utf8(slot[24..24 + len].to_vec()).unwrap();
            let other = text.replace(boot_id.trim(), &"0".repeat(boot_id.trim().len()));
            slot[24..24 + len].copy_from_slice(other.as_bytes());
            let crc = crc32(&[&slot[8..20], &slot[24..24 + len]].concat());
            slot[20..24].copy_from_slice(&crc.to_le_bytes());
        }
    }
    fs::write(record, bytes).unwrap();
}

/// The names of the variables by which this test program is told to be the victim.
const VICTIM: &str = "GRID_TEST_VICTIM";

/// Not a test of its own: the process that `killed_at_any_instant` starts and kills.
#[tokio::test]
async fn victim() {
    let Ok(home) = std::env::var(VICTIM) else {
        return;
    };
    let home = Path::new(&home);
    let config = ProcessConfig {
        programs: grid_platform_process::Allow::Any,
        ..ProcessConfig::new(home.join("state"), home.join("data"))
    };
    let platform = ProcessPlatform::open(config).await.unwrap();
    for round in 0.. {
        for name in ["a", "b", "c"] {
            let config = sh(name, "echo x >> starts; exec sleep 1000")
                .port(0)
                .build()
                .unwrap();
            platform.spawn_node(config).await.unwrap();
        }
        platform.stop_node(&id("a")).await.unwrap();
        platform
            .remove_node(&id("b"), DataPolicy::Purge)
            .await
            .unwrap();
        if round % 2 == 1 {
            platform
                .remove_node(&id("c"), DataPolicy::Keep)
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn killed_at_any_instant_it_leaves_nothing_double_and_nothing_lost() {
    let place = Place::new();
    for round in 0..24_u64 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim"])
            .env(VICTIM, place.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("it to be at work", || {
            place.node_dir("a").join("record").exists()
        })
        .await;
        // Another instant each time, from anywhere in its round.
        tokio::time::sleep(Duration::from_micros(2_300 * round)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();

        let platform = place.open().await;
        let probe = platform.probe().await.unwrap();
        assert!(
            probe.checks.iter().all(|it| it.name != "records"),
            "{:?}",
            probe.checks
        );
        for node in platform.list_nodes().await.unwrap() {
            let name = node.node_id.as_str().to_owned();
            if !node.state.is_ended() {
                // What was being stopped ends, what was being started runs: one process, not two.
                let settled = |it: &grid_platform_api::SpawnedNode| {
                    it.state.is_running() || it.state.is_ended()
                };
                let node = wait_for(&platform, &name, settled).await;
                let expect = usize::from(node.state.is_running());
                eventually("as many processes as it should have", || {
                    census(node.uid.as_str()).len() == expect
                })
                .await;
            }
        }
        // Whatever it is, every call on it works.
        for name in ["a", "b", "c"] {
            let config = sh(name, "echo x >> starts; exec sleep 1000")
                .port(0)
                .build()
                .unwrap();
            let node = platform.spawn_node(config).await.unwrap();
            eventually("one process", || census(node.uid.as_str()).len() == 1).await;
        }
        clean(&platform).await;
        let left: Vec<_> = fs::read_dir(&place.config.data_path)
            .unwrap()
            .map(|it| it.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
        assert!(platform.list_data().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_shim_is_reaped_though_its_platform_is_gone() {
    let place = Place::new();
    let platform = place.open().await;
    let node = platform
        .spawn_node(
            sh("a", SLEEP)
                .restart(quick(RestartMode::Never))
                .build()
                .unwrap(),
        )
        .await
        .unwrap();
    let pid = node.pid.unwrap();
    let shim = parent(pid);
    drop(platform);
    kill_9(pid);
    eventually("the shim is reaped", || !exists(shim)).await;
    let platform = place.open().await;
    let node = platform.get_node_status(&id("a")).await.unwrap();
    assert_eq!(
        node.state.failure().unwrap().reason,
        FailureReason::Signaled
    );
    clean(&platform).await;
}

#[tokio::test]
async fn nothing_is_made_in_data_that_was_kept_or_around_it() {
    let place = Place::new();
    let platform = place.open().await;
    let outer = place.data("some/where");
    let at = |name: &str, path: &Path| sh(name, SLEEP).storage_path(path).build().unwrap();
    platform.spawn_node(at("ka", &outer)).await.unwrap();
    platform
        .remove_node(&id("ka"), DataPolicy::Keep)
        .await
        .unwrap();
    for path in [outer.join("sub"), outer.clone(), place.data("some")] {
        let error = platform.spawn_node(at("kb", &path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OwnedByOther, "{error}");
        assert!(error.hint().is_some_and(|it| it.contains("storage_path")));
        assert!(platform.list_nodes().await.unwrap().is_empty());
    }
    // It is still its own node's, and nobody's once it is purged.
    platform.spawn_node(at("ka", &outer)).await.unwrap();
    clean(&platform).await;
    platform
        .spawn_node(at("kb", &outer.join("sub")))
        .await
        .unwrap();
    clean(&platform).await;
}

#[tokio::test]
async fn data_with_a_nodes_data_in_it_is_not_purged() {
    let place = Place::new();
    let platform = place.open().await;
    platform
        .spawn_node(sh("ka", SLEEP).build().unwrap())
        .await
        .unwrap();
    platform
        .remove_node(&id("ka"), DataPolicy::Keep)
        .await
        .unwrap();
    platform
        .spawn_node(sh("kb", SLEEP).build().unwrap())
        .await
        .unwrap();
    platform.stop_node(&id("kb")).await.unwrap();
    drop(platform);
    // What earlier versions let happen: the data of the one in the data that the other left.
    let (kept, inside) = (place.data("ka"), place.data("ka").join("sub"));
    fs::rename(place.data("kb"), &inside).unwrap();
    fs::write(inside.join("precious"), "x").unwrap();
    let intent = place.node_dir("kb").join("intent.json");
    let text = by_hand(&intent);
    let old = format!("\"data_path\":{:?}", place.data("kb"));
    assert!(text.contains(&old), "{text}");
    fs::write(
        &intent,
        text.replace(&old, &format!("\"data_path\":{inside:?}")),
    )
    .unwrap();

    let platform = place.open().await;
    let error = platform
        .remove_node(&id("ka"), DataPolicy::Purge)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.hint().is_some_and(|it| it.contains("kb")));
    // An open goes on with purges that were cut short: with this one it does not either.
    drop(platform);
    for entry in fs::read_dir(place.config.state_dir.join("data")).unwrap() {
        let file = entry.unwrap().path();
        let text = by_hand(&file);
        fs::write(&file, text.replace("\"purge\":false", "\"purge\":true")).unwrap();
    }
    let platform = place.open().await;
    assert!(inside.join("precious").exists());
    for name in ["kb", "ka"] {
        platform
            .remove_node(&id(name), DataPolicy::Purge)
            .await
            .unwrap();
    }
    assert!(!kept.exists());
}

#[tokio::test]
async fn what_is_no_nodes_is_never_deleted_with_an_unfinished_one() {
    let place = Place::new();
    drop(place.open().await);
    let precious = place.node_dir("a").join("precious");
    fs::create_dir(place.node_dir("a")).unwrap();
    fs::write(&precious, "x").unwrap();
    let platform = place.open().await;
    let quarantine = place.config.state_dir.join("quarantine/sutra-grid-a-0");
    assert!(quarantine.join("precious").exists());
    let probe = platform.probe().await.unwrap();
    assert!(probe.checks.iter().any(|it| it.name == "records"
        && it.detail.contains("precious")
        && it.status == CheckStatus::Degraded));

    // Nor when it comes while the platform is open.
    fs::create_dir(place.node_dir("a")).unwrap();
    fs::write(&precious, "x").unwrap();
    let spawn = platform.spawn_node(sh("a", SLEEP).build().unwrap()).await;
    let error = spawn.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.hint().is_some_and(|it| it.contains("sutra-grid-a")));
    assert!(precious.exists());
    assert!(platform.list_nodes().await.unwrap().is_empty());
}

#[tokio::test]
async fn data_that_is_gone_is_not_made_anew() {
    let place = Place::new();
    let platform = place.open().await;
    let count = "echo x >> starts; exec sleep 1000";
    let config = || sh("a", count).build().unwrap();
    let (data, away) = (place.data("a"), place.dir.path().join("away"));
    let fails = async |platform: &ProcessPlatform| {
        let error = platform.spawn_node(config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SpawnFailed, "{error}");
        let failure = error.failure().unwrap();
        assert_eq!(failure.reason, FailureReason::DataUnavailable);
        let path = data.to_string_lossy().into_owned();
        assert!(failure.message.contains(&path), "{}", failure.message);
        assert!(error.hint().is_some_and(|it| it.contains("Mount")));
        let node = platform.get_node_status(&id("a")).await.unwrap();
        let why = node.state.failure().map(|it| it.reason);
        assert_eq!(why, Some(FailureReason::DataUnavailable));
        assert_eq!(node.pid, None);
    };
    platform.spawn_node(config()).await.unwrap();
    eventually("it to have run", || data.join("starts").exists()).await;
    platform.stop_node(&id("a")).await.unwrap();

    fs::rename(&data, &away).unwrap();
    fails(&platform).await;
    assert!(!data.exists());
    // An empty directory in its place, as beneath a volume that is not mounted, is no better.
    fs::create_dir(&data).unwrap();
    fails(&platform).await;
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    // Nor is another node's.
    platform
        .spawn_node(sh("b", SLEEP).build().unwrap())
        .await
        .unwrap();
    fs::copy(
        place.data("b").join(".sutra-grid"),
        data.join(".sutra-grid"),
    )
    .unwrap();
    fails(&platform).await;
    fs::remove_dir_all(&data).unwrap();

    // It comes back.
    fs::rename(&away, &data).unwrap();
    platform.spawn_node(config()).await.unwrap();
    eventually("it to have run again", || {
        fs::read_to_string(data.join("starts")).is_ok_and(|it| it == "x\nx\n")
    })
    .await;

    // The same for a start that nobody asked for.
    let node = platform.get_node_status(&id("a")).await.unwrap();
    drop(platform);
    fs::rename(&data, &away).unwrap();
    kill_9(parent(node.pid.unwrap()));
    eventually("it to be gone", || census(node.uid.as_str()).is_empty()).await;
    let platform = place.open().await;
    let node = platform.get_node_status(&id("a")).await.unwrap();
    assert_eq!(
        node.state.failure().map(|it| it.reason),
        Some(FailureReason::DataUnavailable)
    );
    assert!(!data.exists());
    // Removed meanwhile, it is remembered: its volume may come back.
    platform
        .remove_node(&id("a"), DataPolicy::Keep)
        .await
        .unwrap();
    fs::rename(&away, &data).unwrap();
    let listed = platform.list_data().await.unwrap();
    assert!(listed.iter().any(|it| it.node_id == id("a") && !it.in_use));
    platform.spawn_node(config()).await.unwrap();
    clean(&platform).await;
    assert!(!data.exists());
}

#[tokio::test]
async fn a_start_that_never_came_to_its_data_makes_it_later() {
    let place = Place::new();
    let platform = place.open().await;
    let program = place.dir.path().join("program");
    fs::create_dir(&program).unwrap();
    let config = || {
        grid_platform_api::SpawnConfig::builder(
            "a",
            grid_platform_api::Program::binary(&program, ["1000"]),
        )
        .ready(grid_platform_api::ReadyMode::Started)
        .build()
        .unwrap()
    };
    let error = platform.spawn_node(config()).await.unwrap_err();
    assert_eq!(
        error.failure().unwrap().reason,
        FailureReason::ProgramNotFound
    );
    assert!(!place.data("a").exists());
    fs::remove_dir(&program).unwrap();
    fs::copy("/bin/sleep", &program).unwrap();
    platform.spawn_node(config()).await.unwrap();
    assert!(place.data("a").exists());
    clean(&platform).await;
}
