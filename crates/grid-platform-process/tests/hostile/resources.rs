//! A host that has run out, or gives less than it should: disk, descriptors, rights, and a state directory that goes.

use std::{fs, path::Path, process::Command};

use grid_platform_api::{DataPolicy, ErrorKind, Platform};
use grid_platform_process::ProcessPlatform;

use crate::{
    common::{Place, SLEEP, census, clean, eventually, exists, id, kill_9, parent, sh, wait_for},
    config, inner, names, run_inner, says,
};

#[tokio::test]
async fn a_full_state_disk_refuses_and_loses_nothing() {
    let place = Place::new();
    run_inner(
        &place,
        "mkdir state && mount -t tmpfs -o size=2m,mode=711 tmpfs state",
        "resources::full_disk",
    );
}

/// The inner half: its state is on a disk of 2 MiB.
#[ignore = "an inner half"]
#[tokio::test]
async fn full_disk() {
    let Some(home) = inner("resources::full_disk") else {
        return;
    };
    let platform = ProcessPlatform::open(config(&home)).await.unwrap();
    let node = platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    let bereft = platform
        .spawn_node(sh("c", SLEEP).build().unwrap())
        .await
        .unwrap();
    fill(&home.join("state/filler"));
    let error = platform
        .spawn_node(sh("b", SLEEP).build().unwrap())
        .await
        .unwrap_err();
    says(&error, ErrorKind::Exhausted, "", "space");
    let mut records = names(&home.join("state/nodes"));
    records.sort();
    assert_eq!(records, ["sutra-grid-a", "sutra-grid-c"]);
    assert!(!home.join("data/b").exists());
    assert_eq!(platform.list_nodes().await.unwrap().len(), 2);
    // A node whose supervisor is killed cannot be started again here, and says what for.
    kill_9(parent(bereft.pid.unwrap()));
    let bereft = wait_for(&platform, "c", |it| it.state.failure().is_some()).await;
    let why = &bereft.state.failure().unwrap().message;
    assert!(why.contains("No space left on device"), "{why}");
    assert_eq!(census(bereft.uid.as_str()), [0; 0]);
    assert!(platform.is_node_alive(&id("a")).await.unwrap());
    // A stop is durable or refused; it is never half of it.
    if let Err(error) = platform.stop_node(&id("a")).await {
        says(&error, ErrorKind::Exhausted, "", "space");
        assert_eq!(
            platform.get_node_status(&id("a")).await.unwrap().pid,
            node.pid
        );
    }
    // Opened again on the full disk, it still finds its node.
    drop(platform);
    let platform = ProcessPlatform::open(config(&home)).await.unwrap();
    assert_eq!(platform.list_nodes().await.unwrap().len(), 2);
    fs::remove_file(home.join("state/filler")).unwrap();
    platform.stop_node(&id("a")).await.unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    for node in ["b", "c"] {
        let config = sh(node, SLEEP).build().unwrap();
        platform.spawn_node(config).await.unwrap();
    }
    clean(&platform).await;
}

#[tokio::test]
async fn a_node_that_fills_the_data_disk_is_stopped_and_purged() {
    let place = Place::new();
    run_inner(
        &place,
        "mkdir data && mount -t tmpfs -o size=2m,mode=711 tmpfs data",
        "resources::full_data",
    );
}

/// The inner half: the data is on a disk of 2 MiB.
#[ignore = "an inner half"]
#[tokio::test]
async fn full_data() {
    let Some(home) = inner("resources::full_data") else {
        return;
    };
    let platform = ProcessPlatform::open(config(&home)).await.unwrap();
    // To the last byte and the last inode.
    let script = "cat /dev/zero > big; i=0; while echo > f$i; do i=$((i+1)); done; : > /dev/null; echo full; exec sleep 1000";
    let node = platform
        .spawn_node(sh("a", script).build().unwrap())
        .await
        .unwrap();
    let log = home.join("state/nodes/sutra-grid-a/log");
    eventually("a full disk", || {
        fs::read_to_string(&log).is_ok_and(|it| it.ends_with("full\n"))
    })
    .await;
    let error = platform
        .spawn_node(sh("b", SLEEP).build().unwrap())
        .await
        .unwrap_err();
    says(&error, ErrorKind::Exhausted, "", "space");
    assert_eq!(names(&home.join("data")), ["a"]);
    assert_eq!(names(&home.join("state/nodes")), ["sutra-grid-a"]);
    platform.stop_node(&id("a")).await.unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
    assert_eq!(names(&home.join("data")), [""; 0]);
    platform
        .spawn_node(sh("b", SLEEP).build().unwrap())
        .await
        .unwrap();
    clean(&platform).await;
}

/// Writes until the disk is full, to the last byte.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    let mut step = vec![0_u8; 1 << 16];
    while !step.is_empty() {
        if file.write_all(&step).is_err() {
            step.truncate(step.len() / 2);
        }
    }
}

#[tokio::test]
async fn without_descriptors_a_call_is_refused_and_the_next_one_works() {
    let place = Place::new();
    run_inner(&place, "ulimit -n 60", "resources::no_descriptors");
}

/// The inner half: it may open few files.
#[ignore = "an inner half"]
#[tokio::test]
async fn no_descriptors() {
    let Some(home) = inner("resources::no_descriptors") else {
        return;
    };
    let platform = ProcessPlatform::open(config(&home)).await.unwrap();
    let first = platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    let mut held = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        held.push(file);
    }
    let error = platform
        .spawn_node(sh("b", SLEEP).build().unwrap())
        .await
        .unwrap_err();
    says(&error, ErrorKind::Exhausted, "", "ulimit -n");
    // What is known is still told.
    assert_eq!(platform.list_nodes().await.unwrap().len(), 1);
    held.clear();
    assert_eq!(names(&home.join("state/nodes")), ["sutra-grid-a"]);
    assert!(!home.join("data/b").exists());
    assert_eq!(
        platform.get_node_status(&id("a")).await.unwrap().pid,
        first.pid
    );
    platform
        .spawn_node(sh("b", SLEEP).build().unwrap())
        .await
        .unwrap();
    clean(&platform).await;
}

#[tokio::test]
async fn a_read_only_state_directory_is_said() {
    let place = Place::new();
    run_inner(
        &place,
        "mkdir state data && mount -t tmpfs -o ro,mode=711 tmpfs state",
        "resources::read_only",
    );
}

/// The inner half: its state is on a disk that is mounted read-only.
#[ignore = "an inner half"]
#[tokio::test]
async fn read_only() {
    let Some(home) = inner("resources::read_only") else {
        return;
    };
    let error = ProcessPlatform::open(config(&home)).await.err().unwrap();
    says(&error, ErrorKind::PermissionDenied, "state", "writable");
}

#[tokio::test]
async fn a_state_directory_of_somebody_else_is_said() {
    let place = Place::new();
    let prepare = "mkdir state && chown nobody state && chmod 700 state; as_whom=\"setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search\"";
    run_inner(&place, prepare, "resources::foreign");
}

/// The inner half: root without its right to go where others have their files.
#[ignore = "an inner half"]
#[tokio::test]
async fn foreign() {
    let Some(home) = inner("resources::foreign") else {
        return;
    };
    let error = ProcessPlatform::open(config(&home)).await.err().unwrap();
    says(&error, ErrorKind::PermissionDenied, "state", "right");
    assert_eq!(error.hint().unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_state_directory_that_may_not_hold_programs_works() {
    let place = Place::new();
    run_inner(
        &place,
        "mkdir state && mount -t tmpfs -o noexec,mode=711 tmpfs state",
        "resources::noexec",
    );
}

/// The inner half: its state is on a disk that is mounted `noexec`.
#[ignore = "an inner half"]
#[tokio::test]
async fn noexec() {
    let Some(home) = inner("resources::noexec") else {
        return;
    };
    let platform = ProcessPlatform::open(config(&home)).await.unwrap();
    let node = platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    platform.stop_node(&id("a")).await.unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    // A program there is another matter.
    let program = home.join("state/program");
    fs::copy("/bin/true", &program).unwrap();
    let config = grid_platform_api::SpawnConfig::builder(
        "b",
        grid_platform_api::Program::binary(program, [""; 0]),
    );
    let error = platform
        .spawn_node(config.build().unwrap())
        .await
        .unwrap_err();
    says(
        &error,
        ErrorKind::SpawnFailed,
        "mounted `noexec`",
        "not mounted `noexec`",
    );
    clean(&platform).await;
}

#[tokio::test]
async fn a_state_directory_that_is_deleted_under_a_running_platform() {
    let place = Place::new();
    let platform = place.open().await;
    let stopped = platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    let removed = platform
        .spawn_node(sh("b", SLEEP).build().unwrap())
        .await
        .unwrap();
    let deleted = Command::new("rm")
        .arg("-rf")
        .arg(&place.config.state_dir)
        .status();
    assert!(deleted.unwrap().success());
    // Nobody died of it.
    assert_eq!(platform.list_nodes().await.unwrap().len(), 2);
    assert!(exists(stopped.pid.unwrap()) && exists(removed.pid.unwrap()));
    let error = platform
        .spawn_node(sh("c", SLEEP).build().unwrap())
        .await
        .unwrap_err();
    says(
        &error,
        ErrorKind::Corrupt,
        "state directory is gone",
        "grid rm",
    );
    assert!(!place.data("c").exists());
    let shims = [stopped.pid, removed.pid].map(|pid| parent(pid.unwrap()));
    platform.stop_node(&id("a")).await.unwrap();
    platform
        .remove_node(&id("b"), DataPolicy::Purge)
        .await
        .unwrap();
    for (node, shim) in [&stopped, &removed].into_iter().zip(shims) {
        assert_eq!(census(node.uid.as_str()), [0; 0]);
        eventually("its supervisor's end", || !exists(shim)).await;
    }
    assert!(!place.data("b").exists() && place.data("a").exists());
    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
    assert_eq!(platform.list_nodes().await.unwrap(), []);
}
