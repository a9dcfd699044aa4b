//! A process that hides from its supervisor, with a cleared environment and a session of its own, is found by its cgroup.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "all of it is for tests, and one that does not run says so"
)]

mod common;

use std::{fs, path::PathBuf};

use common::{Place, clean, eventually, id, kill_9, parent, quick, sh, wait_for};
use grid_platform_api::{DataPolicy, NodeState, Platform, RestartMode};

/// Starts a process that hides, and writes its number down: the older one's too, if that still lives.
const SCRIPT: &str = "[ -e old ] && grep -q sleep /proc/$(cat old)/cmdline && touch doubled; \
    env -i setsid sh -c 'echo $$ >old.tmp; mv old.tmp old; exec sleep 1000' & exec sleep 1001";

/// Whether this process could make cgroups: only then is what hides found.
fn can_make_cgroups() -> bool {
    let can = [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup/pids",
    ]
    .iter()
    .any(|dir| {
        let dir = PathBuf::from(dir).join(format!("grid-test-{}", std::process::id()));
        fs::create_dir(&dir).is_ok() && {
            let made = dir.join("cgroup.procs").exists();
            fs::remove_dir(&dir).is_ok() && made
        }
    });
    if !can {
        eprintln!("not run: no cgroup can be made here");
    }
    can
}

/// Whether it runs: a zombie, of which nothing is left but its number, does not.
fn lives(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|it| !it.is_empty())
}

/// The cgroups of a node, wherever they are.
fn cgroups(pid: u32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts
        .lines()
        .filter(|it| it.contains(" - cgroup"))
        .filter_map(|it| it.split(' ').nth(4));
    let places: Vec<&str> = text
        .lines()
        .filter_map(|it| it.splitn(3, ':').nth(2))
        .filter(|it| it.contains("/sutra-grid-"))
        .collect();
    points
        .flat_map(|point| places.iter().map(move |it| format!("{point}{it}").into()))
        .filter(|it: &PathBuf| it.is_dir())
        .collect()
}

#[tokio::test]
async fn what_hides_from_a_killed_shim_is_found_before_the_next_start_and_at_removal() {
    if !can_make_cgroups() {
        return;
    }
    let place = Place::new();
    let platform = place.open().await;
    let old = place.data("a").join("old");
    let hidden = || fs::read_to_string(&old).ok()?.trim().parse::<u32>().ok();
    let config = sh("a", SCRIPT).restart(quick(RestartMode::Always)).build();
    let node = platform.spawn_node(config.unwrap()).await.unwrap();
    let pid = node.pid.unwrap();
    eventually("one hides", || hidden().is_some()).await;
    let first = hidden().unwrap();
    let dirs = cgroups(pid);
    assert_eq!(dirs.len(), 1, "one is enough: {dirs:?}");

    kill_9(parent(pid));
    let node = wait_for(&platform, "a", |it| {
        it.state.is_running() && it.pid.is_some_and(|it| it != pid)
    })
    .await;
    assert!(!lives(first));
    eventually("another hides", || hidden().is_some_and(|it| it != first)).await;
    assert!(!place.data("a").join("doubled").exists());

    // While nobody looks.
    let second = hidden().unwrap();
    let pid = node.pid.unwrap();
    let shim = parent(pid);
    drop(platform);
    kill_9(shim);
    let platform = place.open().await;
    assert!(!lives(second));
    let node = wait_for(&platform, "a", |it| {
        it.state.is_running() && it.pid.is_some_and(|it| it != pid)
    })
    .await;
    eventually("a third hides", || hidden().is_some_and(|it| it != second)).await;
    let third = hidden().unwrap();

    kill_9(parent(node.pid.unwrap()));
    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
    assert!(!lives(third));
    assert!(dirs.iter().all(|it| !it.exists()), "{dirs:?}");
    clean(&platform).await;
}

#[tokio::test]
async fn a_stop_finds_what_hides_and_leaves_no_cgroup() {
    if !can_make_cgroups() {
        return;
    }
    let place = Place::new();
    let platform = place.open().await;
    let old = place.data("a").join("old");
    let hidden = || fs::read_to_string(&old).ok()?.trim().parse::<u32>().ok();
    let config = sh("a", SCRIPT).restart(quick(RestartMode::Never)).build();
    let node = platform.spawn_node(config.unwrap()).await.unwrap();
    eventually("one hides", || hidden().is_some()).await;
    let dirs = cgroups(node.pid.unwrap());
    assert_eq!(dirs.len(), 1, "{dirs:?}");
    platform.stop_node(&id("a")).await.unwrap();
    assert!(!lives(hidden().unwrap()));
    let node = platform.get_node_status(&id("a")).await.unwrap();
    assert!(matches!(node.state, NodeState::Stopped { .. }));
    assert!(dirs.iter().all(|it| !it.exists()), "{dirs:?}");

    // What a removal that was cut short left.
    let stale = dirs[0].with_file_name("0123456789abcdef");
    fs::create_dir_all(&stale).unwrap();
    drop(platform);
    let platform = place.open().await;
    assert!(!stale.exists());
    clean(&platform).await;
}

#[tokio::test]
async fn what_hides_in_a_cgroup_of_its_own_making_or_in_one_of_an_earlier_adapter_is_found() {
    if !can_make_cgroups() {
        return;
    }
    let place = Place::new();
    let platform = place.open().await;
    let old = place.data("a").join("old");
    let hidden = || fs::read_to_string(&old).ok()?.trim().parse::<u32>().ok();
    let config = sh("a", SCRIPT).restart(quick(RestartMode::Always)).build();
    let node = platform.spawn_node(config.unwrap()).await.unwrap();
    eventually("one hides", || hidden().is_some()).await;
    let dirs = cgroups(node.pid.unwrap());
    let known = place.config.state_dir.join("cgroups");
    let parent_dir = dirs[0].parent().unwrap();
    let listed = fs::read_to_string(&known).unwrap();
    assert!(
        listed
            .lines()
            .any(|it| parent_dir == std::path::Path::new(it)),
        "{listed}"
    );

    let first = hidden().unwrap();
    let below = dirs[0].join("below/further");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("cgroup.procs"), first.to_string()).unwrap();
    drop(platform);
    kill_9(parent(node.pid.unwrap()));
    let platform = place.open().await;
    assert!(!lives(first));
    let node = wait_for(&platform, "a", |it| {
        it.state.is_running() && it.pid != node.pid
    })
    .await;
    eventually("another hides", || hidden().is_some_and(|it| it != first)).await;

    // An adapter that ran in another place made its cgroups there.
    let second = hidden().unwrap();
    let elsewhere =
        parent_dir.with_file_name(format!("grid-test-{}-elsewhere", std::process::id()));
    let earlier = elsewhere.join(parent_dir.file_name().unwrap());
    let theirs = earlier.join(dirs[0].file_name().unwrap());
    fs::create_dir_all(&theirs).unwrap();
    fs::write(theirs.join("cgroup.procs"), second.to_string()).unwrap();
    // Without its checksum, as who changes it by hand leaves it.
    let lines = [parent_dir, &earlier].map(|it| format!("{}\n", it.display()));
    fs::write(&known, lines.concat()).unwrap();
    drop(platform);
    kill_9(parent(node.pid.unwrap()));
    let platform = place.open().await;
    assert!(!lives(second));
    clean(&platform).await;
    assert!(
        !earlier.exists() && dirs.iter().all(|it| !it.exists()),
        "{dirs:?}"
    );
    fs::remove_dir(elsewhere).unwrap();
}
