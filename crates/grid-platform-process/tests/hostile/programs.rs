//! Programs that cannot be started, and programs that behave badly once they are.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use grid_platform_api::{
    ErrorKind, FailureReason, Platform, Program, ReadyMode, RunAs, SpawnConfig, StopPolicy,
    StopSignal,
};

use crate::{
    common::{Place, census, clean, eventually, id, parent, sh, wait_for},
    needs_root, says,
};

fn file(place: &Place, name: &str, content: &[u8], mode: u32) -> PathBuf {
    let path = place.dir.path().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// A program's head for another machine: `sh` with another e_machine (elf(5)).
fn for_another_machine() -> Vec<u8> {
    let mut bytes = fs::read("/bin/sh").unwrap();
    // EM_S390: nobody's here.
    bytes[18..20].copy_from_slice(&22_u16.to_le_bytes());
    bytes
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_says_why_and_what_mends_it() {
    let place = Place::new();
    let platform = place.open().await;
    let fifo = place.dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    fs::set_permissions(&fifo, fs::Permissions::from_mode(0o755)).unwrap();
    let plain = file(&place, "plain", b"text", 0o644);
    let circle = place.dir.path().join("circle");
    fs::write(&circle, format!("#!{}\n", circle.display())).unwrap();
    fs::set_permissions(&circle, fs::Permissions::from_mode(0o755)).unwrap();
    use FailureReason::*;
    let cases: Vec<(&str, PathBuf, FailureReason, &str, &str)> = vec![
        (
            "missing",
            "/no/such".into(),
            ProgramNotFound,
            "`/no/such`",
            "Check the path",
        ),
        (
            "beneath-a-file",
            plain.join("x"),
            ProgramNotFound,
            "plain/x`",
            "Check the path",
        ),
        (
            "directory",
            "/tmp".into(),
            ProgramNotFound,
            "is a directory",
            "Check the path",
        ),
        (
            "not-executable",
            plain.clone(),
            NotExecutable,
            "plain`",
            "chmod a+x",
        ),
        ("fifo", fifo, NotExecutable, "no regular file", "chmod a+x"),
        (
            "device",
            "/dev/null".into(),
            NotExecutable,
            "no regular file",
            "chmod a+x",
        ),
        (
            "machine",
            file(&place, "machine", &for_another_machine(), 0o755),
            BadProgramFormat,
            "not a program for this machine",
            "built for this machine",
        ),
        (
            "no-shebang",
            file(&place, "no-shebang", b"echo hello\n", 0o755),
            BadProgramFormat,
            "not a program for this machine",
            "#!/bin/sh",
        ),
        (
            "empty",
            file(&place, "empty", b"", 0o755),
            BadProgramFormat,
            "not a program for this machine",
            "#!/bin/sh",
        ),
        (
            "interpreter",
            file(&place, "interpreter", b"#!/no/such\n", 0o755),
            BadProgramFormat,
            "the interpreter that the program names does not exist",
            "#!/bin/sh",
        ),
        (
            "interpreter-plain",
            file(
                &place,
                "interpreter-plain",
                format!("#!{}\n", plain.display()).as_bytes(),
                0o755,
            ),
            BadProgramFormat,
            "the interpreter that the program names may not be executed",
            "#!/bin/sh",
        ),
        ("circle", circle, BadProgramFormat, "circle", "#!/bin/sh"),
    ];
    for (name, path, reason, words, mend) in cases {
        let config = SpawnConfig::builder(name, Program::binary(path, [""; 0]))
            .build()
            .unwrap();
        let error = platform.spawn_node(config).await.unwrap_err();
        says(&error, ErrorKind::SpawnFailed, words, mend);
        assert_eq!(error.failure().unwrap().reason, reason, "{name}");
        let node = platform.get_node_status(&id(name)).await.unwrap();
        assert_eq!(node.state.failure().unwrap().reason, reason, "{name}");
        assert_eq!(census(node.uid.as_str()), [0; 0]);
    }
    clean(&platform).await;
    crate::nothing_is_left(&place, &platform).await;
}

#[tokio::test]
async fn a_program_that_floods_its_log_is_not_blocked_and_the_log_keeps_its_budget() {
    let mut place = Place::new();
    place.config.log_max_bytes = 4 << 20;
    let platform = place.open().await;
    // 200 MB at full speed, then a word that it is done.
    let script = "yes 'a line of some length, over and over, as fast as it goes' | head -c 200000000; echo; echo done > done; exec sleep 1000";
    platform
        .spawn_node(sh("a", script).build().unwrap())
        .await
        .unwrap();
    let done = place.data("a").join("done");
    eventually("the flood's end", || done.exists()).await;
    let log = place.node_dir("a").join("log");
    eventually("the log within its budget", || {
        fs::metadata(&log).unwrap().blocks() * 512 <= (4 << 20) + (2 << 20)
    })
    .await;
    let tail = platform.get_logs(&id("a"), 3).await.unwrap();
    assert!(
        tail.iter()
            .any(|it| it.starts_with("a line of some length")),
        "{tail:?}"
    );
    clean(&platform).await;
}

#[tokio::test]
async fn one_line_without_end_and_bytes_that_are_no_text_are_shown_in_bounds() {
    let place = Place::new();
    let platform = place.open().await;
    let script = "head -c 30000000 /dev/zero | tr '\\0' x; printf '\\n\\000\\377\\376\\033[2J\\n'; echo end; echo > done; exec sleep 1000";
    platform
        .spawn_node(sh("a", script).build().unwrap())
        .await
        .unwrap();
    let done = place.data("a").join("done");
    eventually("all is written", || done.exists()).await;
    let tail = platform.get_logs(&id("a"), 3).await.unwrap();
    assert_eq!(tail.last().map(String::as_str), Some("end"), "{tail:?}");
    let most = tail.iter().map(String::len).max().unwrap();
    assert!(most <= 1 << 20, "a line of {most} bytes");
    clean(&platform).await;
}

#[tokio::test]
async fn a_program_without_standard_streams_lives_and_is_stopped() {
    let place = Place::new();
    let platform = place.open().await;
    let script = "exec <&- >&- 2>&-; sleep 1000 & wait";
    let node = platform
        .spawn_node(sh("a", script).build().unwrap())
        .await
        .unwrap();
    assert!(platform.is_node_alive(&id("a")).await.unwrap());
    platform.stop_node(&id("a")).await.unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    clean(&platform).await;
}

#[tokio::test]
async fn what_forks_twice_into_a_session_of_its_own_and_ignores_every_signal_is_stopped() {
    let place = Place::new();
    let platform = place.open().await;
    let script = "(setsid sh -c 'trap \"\" TERM INT HUP; (trap \"\" TERM INT HUP; echo > out; sleep 1000) & sleep 1000' &) ; trap '' TERM; while :; do sleep 1; done";
    let config = sh("a", script).stop(StopPolicy {
        signal: StopSignal::Term,
        grace: std::time::Duration::from_millis(50),
    });
    let node = platform.spawn_node(config.build().unwrap()).await.unwrap();
    let out = place.data("a").join("out");
    eventually("it to be out", || out.exists()).await;
    platform.stop_node(&id("a")).await.unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    assert_eq!(place.dir.all().unwrap(), []);
    clean(&platform).await;
}

fn send(signal: &str, pid: u32) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_halted_program_and_a_halted_supervisor_are_stopped() {
    let place = Place::new();
    let platform = place.open().await;
    for halt_shim in [false, true] {
        let config = sh("a", "exec sleep 1000").stop(StopPolicy {
            signal: StopSignal::Term,
            grace: std::time::Duration::from_millis(50),
        });
        let node = platform.spawn_node(config.build().unwrap()).await.unwrap();
        let pid = node.pid.unwrap();
        send("-STOP", if halt_shim { parent(pid) } else { pid });
        platform.stop_node(&id("a")).await.unwrap();
        assert_eq!(census(node.uid.as_str()), [0; 0]);
        clean(&platform).await;
    }
}

#[tokio::test]
async fn a_set_user_id_bit_gives_a_node_nothing() {
    let mut place = Place::new();
    place.config.users = vec!["nobody".to_owned()];
    let platform = place.open().await;
    if !needs_root("programs::a_set_user_id_bit_gives_a_node_nothing") {
        return;
    }
    let id_program = file(&place, "id", &fs::read("/usr/bin/id").unwrap(), 0o4755);
    let config = SpawnConfig::builder("a", Program::binary(id_program, [""; 0]))
        .ready(ReadyMode::Started)
        .run_as(nobody());
    platform.spawn_node(config.build().unwrap()).await.unwrap();
    wait_for(&platform, "a", |it| !it.state.is_running()).await;
    let said = platform.get_logs(&id("a"), 1).await.unwrap().join("");
    assert!(
        said.contains("(nobody)") && !said.contains("euid"),
        "{said}"
    );
    clean(&platform).await;
}

fn nobody() -> RunAs {
    RunAs {
        user: "nobody".to_owned(),
        group: None,
    }
}

#[tokio::test]
async fn a_node_of_another_user_reaches_neither_its_supervisor_nor_the_state() {
    let mut place = Place::new();
    place.config.users = vec!["nobody".to_owned()];
    let platform = place.open().await;
    if !needs_root("programs::a_node_of_another_user_reaches_neither_its_supervisor_nor_the_state")
    {
        return;
    }
    let node_dir = place.node_dir("a");
    let script = format!(
        "kill -9 $PPID && echo killed; for f in intent.json launch record log sock lock; do cat '{dir}'/$f >/dev/null && echo read $f; true >>'{dir}'/$f && echo wrote $f; done; touch '{dir}/x' && echo made; ls '{dir}/../' && echo listed; echo done > done; exec sleep 1000",
        dir = node_dir.display()
    );
    let node = platform
        .spawn_node(sh("a", &script).run_as(nobody()).build().unwrap())
        .await
        .unwrap();
    let done = place.data("a").join("done");
    eventually("its attempts", || done.exists()).await;
    let said = platform.get_logs(&id("a"), 100).await.unwrap();
    let won: Vec<_> = said
        .iter()
        .filter(|it| {
            ["killed", "read ", "wrote ", "made", "listed"]
                .iter()
                .any(|word| it.starts_with(word))
        })
        .collect();
    assert_eq!(won, [""; 0], "{said:?}");
    assert_eq!(
        platform.get_node_status(&id("a")).await.unwrap().pid,
        node.pid
    );
    assert!(Path::new(&format!("/proc/{}", parent(node.pid.unwrap()))).exists());
    clean(&platform).await;
}

#[tokio::test]
async fn placeholders_that_are_no_place_of_the_node_stay_as_they_are_and_none_is_filled_in_twice() {
    let place = Place::new();
    let platform = place.open().await;
    let data = place.config.data_path.join("{node_id}{port");
    let args = [
        "{port}",
        "{port",
        "{{node_id}}",
        "{../node_id}",
        "{SUTRA_NODE_UID}",
        "{secrets_dir}",
        "{data_path}",
        "%s $HOME `id`",
    ];
    let script = "printf '<%s>\\n' \"$@\"; exec sleep 1000";
    let argv = ["-c", script, "sh"].into_iter().chain(args);
    let config = SpawnConfig::builder("a", Program::binary("sh", argv))
        .storage_path(&data)
        .port(0)
        .ready(ReadyMode::Started);
    let node = platform.spawn_node(config.build().unwrap()).await.unwrap();
    let port = node.endpoint.unwrap().port;
    let want = [
        &format!("<{port}>"),
        "<{port>",
        "<{a}>",
        "<{../node_id}>",
        "<{SUTRA_NODE_UID}>",
        "<{secrets_dir}>",
        &format!("<{}>", data.display()),
        "<%s $HOME `id`>",
    ];
    let log = place.node_dir("a").join("log");
    eventually("all arguments", || {
        fs::read_to_string(&log).is_ok_and(|it| it.contains("`id`"))
    })
    .await;
    assert_eq!(platform.get_logs(&id("a"), 8).await.unwrap(), want);
    clean(&platform).await;
}

#[tokio::test]
async fn placeholders_that_grow_beyond_what_a_program_takes_are_told() {
    let place = Place::new();
    let platform = place.open().await;
    // A long path, again and again: megabytes of arguments by a request of less than one.
    let data = place.config.data_path.join("x".repeat(250));
    for (name, args) in [
        ("one", vec!["{data_path}".repeat(600)]),
        ("many", vec!["{data_path}".repeat(400); 100]),
    ] {
        let config = SpawnConfig::builder(name, Program::binary("/bin/true", args))
            .storage_path(&data)
            .ready(ReadyMode::Started);
        let error = platform
            .spawn_node(config.build().unwrap())
            .await
            .unwrap_err();
        says(
            &error,
            ErrorKind::SpawnFailed,
            "longer than the kernel takes",
            "",
        );
        assert!(
            platform
                .get_node_status(&id(name))
                .await
                .unwrap()
                .pid
                .is_none()
        );
        clean(&platform).await;
    }
    crate::nothing_is_left(&place, &platform).await;
}

#[tokio::test]
async fn a_program_named_by_the_process_that_starts_it_starts_nothing() {
    let place = Place::new();
    let platform = place.open().await;
    for path in [
        "/proc/self/exe",
        "/proc/self/fd/0",
        "/dev/fd/0",
        "/proc/thread-self/exe",
    ] {
        let config = SpawnConfig::builder("a", Program::binary(path, ["sutra-grid-a"]));
        let error = platform
            .spawn_node(config.build().unwrap())
            .await
            .unwrap_err();
        says(&error, ErrorKind::SpawnFailed, "", "");
        clean(&platform).await;
        crate::nothing_is_left(&place, &platform).await;
    }
}
