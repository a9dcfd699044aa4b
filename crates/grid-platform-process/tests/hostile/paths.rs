//! Storage paths: links, also swapped in during the call, strange things, places that are not allowed, mounts.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use grid_platform_api::{DataPolicy, ErrorKind, Platform, Program, RunAs, SpawnConfig};
use grid_platform_process::{Allow, ProcessPlatform};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{
    common::{Place, SLEEP, clean, eventually, id, sh},
    config, inner, names, needs_root, nothing_is_left, refused, run_inner, says,
};

/// A place with a directory `outside` beside what nodes may use, and something in it.
fn beside() -> (Place, std::path::PathBuf) {
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "x").unwrap();
    fs::create_dir_all(&place.config.data_path).unwrap();
    (place, outside)
}

#[tokio::test]
async fn a_link_on_the_way_is_not_followed() {
    let (place, outside) = beside();
    let platform = place.open().await;
    let data = place.config.data_path.clone();
    let link = data.join("link");
    for target in [outside.as_path(), Path::new("."), Path::new("nowhere")] {
        symlink(target, &link).unwrap();
        for path in [link.clone(), link.join("x"), link.join("x/y")] {
            let error = platform
                .spawn_node(sh("a", SLEEP).storage_path(path).build().unwrap())
                .await
                .unwrap_err();
            says(&error, ErrorKind::NotAllowed, "link", "");
        }
        fs::remove_file(&link).unwrap();
    }
    assert_eq!(names(&outside), ["keep"]);
    nothing_is_left(&place, &platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_swapped_in_during_the_call_is_not_followed() {
    let (place, outside) = beside();
    let platform = place.open().await;
    let data = place.config.data_path.clone();
    let (real, link) = (data.join("dir"), data.join("link"));
    fs::create_dir(&real).unwrap();
    symlink(&outside, &link).unwrap();
    let done = AtomicBool::new(false);
    let (mut made, mut refusals) = (0, 0);
    tokio_scoped(&done, (&real, &link), async {
        for _ in 0..60 {
            let path = real.join("n");
            let spawned = platform
                .spawn_node(sh("a", SLEEP).storage_path(&path).build().unwrap())
                .await;
            match spawned {
                Ok(_) => made += 1,
                Err(error) => {
                    assert!(error.hint().is_some(), "{error:?}");
                    refusals += 1;
                }
            }
            // Refused while the link is there; a removal is tried until it is not.
            while platform
                .remove_node(&id("a"), DataPolicy::Purge)
                .await
                .is_err()
            {}
        }
    })
    .await;
    assert_eq!(
        names(&outside),
        ["keep"],
        "after {made} nodes and {refusals} refusals"
    );
    assert_eq!(made + refusals, 60);
    clean(&platform).await;
}

/// Runs `work` while a thread exchanges two names over and over.
async fn tokio_scoped(
    done: &AtomicBool,
    (one, other): (&Path, &Path),
    work: impl Future<Output = ()>,
) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work));
        done.store(true, Ordering::Relaxed);
    });
}

#[tokio::test]
async fn what_is_no_directory_is_no_storage_path() {
    let (place, _) = beside();
    let platform = place.open().await;
    let thing = place.config.data_path.join("thing");
    for make in ["touch \"$1\"", "mkfifo \"$1\"", "mknod \"$1\" c 1 3"] {
        if make.starts_with("mknod") && !needs_root("paths::what_is_no_directory") {
            continue;
        }
        let made = Command::new("sh")
            .args(["-c", make, "sh"])
            .arg(&thing)
            .status();
        assert!(made.unwrap().success(), "{make}");
        for path in [thing.clone(), thing.join("x")] {
            let error = platform
                .spawn_node(sh("a", SLEEP).storage_path(path).build().unwrap())
                .await
                .unwrap_err();
            says(&error, error.kind(), "thing", "");
        }
        assert!(thing.exists());
        fs::remove_file(&thing).unwrap();
    }
    nothing_is_left(&place, &platform).await;
}

#[tokio::test]
async fn what_the_settings_do_not_allow_is_refused() {
    let mut place = Place::new();
    place.config.programs = Allow::Only(vec!["/bin/sh".into(), "sleep".into()]);
    let platform = place.open().await;
    let program = |path: &str| SpawnConfig::builder("a", Program::binary(path, ["9"]));
    let user = |user: &str| RunAs {
        user: user.to_owned(),
        group: None,
    };
    let sleep = || program("sleep");
    for (config, words, mend) in [
        (
            program("/bin/cat"),
            "the program `/bin/cat` is not one",
            "`programs`",
        ),
        (program("sh"), "the program `sh` is not one", "`programs`"),
        (
            program("/tmp/sleep"),
            "the program `/tmp/sleep` is not one",
            "`programs`",
        ),
        (sleep().storage_path("/etc/x"), "/etc/x", "`storage_roots`"),
        (
            sleep().storage_path(place.config.state_dir.join("x")),
            "state",
            "",
        ),
        (sleep().run_as(user("nobody")), "user", "users"),
    ] {
        let kind = if !crate::is_root() && words == "user" {
            ErrorKind::Unsupported
        } else {
            ErrorKind::NotAllowed
        };
        refused(
            &place,
            &platform,
            config,
            (
                kind,
                words,
                if kind == ErrorKind::NotAllowed {
                    mend
                } else {
                    ""
                },
            ),
        )
        .await;
    }
}

#[tokio::test]
async fn users_and_groups_that_are_not_allowed_or_not_there_are_refused() {
    if !needs_root("paths::users_and_groups") {
        return;
    }
    let mut place = Place::new();
    place.config.users = ["nobody", "nosuch"].map(str::to_owned).to_vec();
    let platform = place.open().await;
    let daemon = "is not one that nodes may run as";
    use ErrorKind::{NotAllowed, SpawnFailed};
    for (user, group, kind, words, mend) in [
        ("daemon", None, NotAllowed, daemon, "`users`"),
        ("1", None, NotAllowed, daemon, "`users`"),
        ("-1", None, SpawnFailed, "does not exist", ""),
        ("4294967295", None, SpawnFailed, "does not exist", ""),
        (
            "nosuch",
            None,
            SpawnFailed,
            "the user `nosuch` does not exist",
            "",
        ),
        (
            "nobody",
            Some("nosuch"),
            SpawnFailed,
            "the group `nosuch` does not exist",
            "",
        ),
        (
            "nobody",
            Some("root"),
            NotAllowed,
            "not in the group `root`",
            "leave `group` out",
        ),
        (
            "nobody",
            Some("0"),
            NotAllowed,
            "not in the group `0`",
            "leave `group` out",
        ),
    ] {
        let config = sh("a", SLEEP).run_as(RunAs {
            user: user.to_owned(),
            group: group.map(str::to_owned),
        });
        let error = match config.build() {
            Ok(config) => platform.spawn_node(config).await.unwrap_err(),
            Err(error) => error,
        };
        says(&error, kind, words, mend);
        clean(&platform).await;
        nothing_is_left(&place, &platform).await;
    }
}

#[tokio::test]
async fn a_copied_marker_makes_no_directory_ours() {
    let mut place = Place::new();
    let mine = place.dir.path().join("mine");
    place.config.storage_roots = vec![place.config.data_path.clone(), mine.clone()];
    let platform = place.open().await;
    platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    platform
        .remove_node(&id("a"), DataPolicy::Keep)
        .await
        .unwrap();
    // Somebody else's directory, with the marker of the node's kept data in it.
    fs::create_dir_all(&mine).unwrap();
    fs::write(mine.join("keep"), "x").unwrap();
    fs::copy(
        place.data("a").join(".sutra-grid"),
        mine.join(".sutra-grid"),
    )
    .unwrap();
    let config = sh("a", SLEEP).storage_path(&mine).build().unwrap();
    // Refused, or used and left: never deleted.
    if platform.spawn_node(config).await.is_ok() {
        platform
            .remove_node(&id("a"), DataPolicy::Purge)
            .await
            .unwrap();
    }
    assert!(mine.join("keep").exists());
    clean(&platform).await;
}

#[tokio::test]
async fn what_a_node_puts_into_its_data_leads_a_purge_nowhere() {
    let (place, outside) = beside();
    let platform = place.open().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions();
    let before = (mode(&outside), mode(&outside.join("keep")));
    let script = format!(
        "ln -s '{outside}' link; ln '{outside}/keep' hard; ln -s . circle; ln -s / root; mkfifo fifo; \
         mkdir -p shut/in; chmod 0 shut/in shut; touch -- '-rf' \"$(printf 'a\\nb\\377')\"; \
         d=$(printf %0200d 0); for i in $(seq 30); do mkdir $d && cd -P $d; done 2>/dev/null; echo > ../done; exec sleep 1000",
        outside = outside.display()
    );
    platform
        .spawn_node(sh("a", &script).build().unwrap())
        .await
        .unwrap();
    wait_deep(&place.data("a")).await;
    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
    assert_eq!(names(&outside), ["keep"]);
    assert_eq!(fs::read(outside.join("keep")).unwrap(), b"x");
    assert_eq!((mode(&outside), mode(&outside.join("keep"))), before);
    nothing_is_left(&place, &platform).await;
}

/// Waits until the node is done with its deep directory, which is beyond the longest path.
async fn wait_deep(data: &Path) {
    let found = || {
        let found = Command::new("find")
            .arg(data)
            .args(["-name", "done"])
            .output();
        !found.unwrap().stdout.is_empty()
    };
    eventually("the deep directory", found).await;
}

#[tokio::test]
async fn what_is_mounted_in_the_data_is_not_purged() {
    let place = Place::new();
    run_inner(&place, "true", "paths::mounted_in_the_data");
}

/// The inner half: it has mounts of its own.
#[ignore = "an inner half"]
#[tokio::test]
async fn mounted_in_the_data() {
    let Some(home) = inner("paths::mounted_in_the_data") else {
        return;
    };
    let platform = ProcessPlatform::open(config(&home)).await.unwrap();
    platform
        .spawn_node(sh("a", SLEEP).build().unwrap())
        .await
        .unwrap();
    let point = home.join("data/a/mnt");
    fs::create_dir(&point).unwrap();
    let mount = |args: &[&str]| {
        let status = Command::new(args[0]).args(&args[1..]).status();
        assert!(status.unwrap().success(), "{args:?}");
    };
    let at = point.to_str().unwrap();
    mount(&["mount", "-t", "tmpfs", "tmpfs", at]);
    fs::write(point.join("keep"), "x").unwrap();
    let error = platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap_err();
    says(
        &error,
        ErrorKind::Conflict,
        "is mounted in the data path",
        "Unmount it first",
    );
    assert!(point.join("keep").exists());
    mount(&["umount", at]);
    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
    assert!(!home.join("data/a").exists());
}
