//! The program: settings that it refuses, doctor, and its end.
#![cfg(feature = "platform-process")]
#![allow(clippy::unwrap_used, reason = "a test may")]

#[allow(dead_code, reason = "each test uses its part")]
mod support;

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use grid_platform_api::{Health, HealthCheck};
use grid_platform_testing::HostPlace;
use support::{Master, fence, id, running, soon};
use tokio::process::{Child, Command};

fn command(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_grid-agent"));
    command
        .env_clear()
        .args(["--state-dir", state.to_str().unwrap()])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn output(mut command: Command) -> Output {
    soon("the program's end", command.output()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_with_their_place_and_mend() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("grid-agent.toml");
    let check = async |content: &str, variables: &[(&str, &str)], args: &[&str], expect: &str| {
        fs::write(&file, content).unwrap();
        let mut command = command(&dir.path().join("state"), args);
        command
            .args(["--config", file.to_str().unwrap()])
            .envs(variables.iter().copied());
        let output = output(command).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        let place = format!("{}/", dir.path().display());
        assert_eq!(text(&output.stderr).replace(&place, ""), expect);
        assert!(!dir.path().join("state").exists(), "nothing was begun");
    };
    check(
        "[agent]\nmaster_hots = '127.0.0.1:7000'\n",
        &[],
        &[],
        "error: unknown key `agent.master_hots` in `grid-agent.toml` line 2\n\
         hint: Did you mean `agent.master_host`?\n",
    )
    .await;
    check(
        "[storage]\ndocker_image = 'sutra-storage:latest'\n",
        &[],
        &[],
        "error: `storage.docker_image` in `grid-agent.toml` line 2 is a setting of the docker platform, and the platform is `process`\n\
         hint: Remove it, or set `agent.platform` to `docker` in an agent built with the feature `platform-docker`.\n",
    )
    .await;
    check(
        "[kubernetes.overlay]\nstorage_clas = 'fast'\n",
        &[],
        &[],
        "error: unknown key `kubernetes.overlay.storage_clas` in `grid-agent.toml` line 2\n\
         hint: Did you mean `kubernetes.overlay.storage_class`?\n",
    )
    .await;
    check(
        "[storage]\ndata_path = '/srv/grid'\n",
        &[("PLATFORM", "k8s")],
        &[],
        "error: `storage.data_path` in `grid-agent.toml` line 2 is a setting of the process platform, and the platform is `kubernetes`\n\
         hint: Remove it, or set `agent.platform` to `process` in an agent built with the feature `platform-process`.\n",
    )
    .await;
    check(
        "",
        &[("SUTRA_MASTER", "http://master.sutra.internal:7000")],
        &[],
        "error: `agent.master_host` in the environment variable `SUTRA_MASTER` is `http://master.sutra.internal:7000`, which is not on this host, and `http://` carries the token in the clear\n\
         hint: Use a loopback address such as `127.0.0.1:7000`; to reach a master elsewhere, forward its port over ssh.\n",
    )
    .await;
    check(
        "",
        &[("PLATFORM", "nomad")],
        &[],
        "error: `agent.platform` in the environment variable `PLATFORM` is `nomad`, which is no platform\n\
         hint: The platforms are `process`, `docker`, `kubernetes` and `systemd`.\n",
    )
    .await;
    check(
        "",
        &[("SUTRA_AGENT__STORAGE__PORT_RANGE", "80")],
        &[],
        "error: `storage.port_range` in the environment variable `SUTRA_AGENT__STORAGE__PORT_RANGE` cannot be used: `80` is not a range of ports, which is written `20000-29999`\n",
    )
    .await;
    check(
        "",
        &[],
        &["--log-format", "xml"],
        "error: `agent.log_format` in the flag `--log-format` is `xml`, which is none of its values\n\
         hint: The values are `text` and `json`.\n",
    )
    .await;
}

/// Files that are broken, and what is no file: each ends the program before it begins anything, and says where.
#[tokio::test]
async fn what_is_no_settings_file_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        fs::write(dir.path().join(name), content).unwrap();
        dir.path().join(name)
    };
    let fifo = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    for (file, why) in [
        (write("syntax", b"[agent\n"), "line 1 is not TOML"),
        (
            write("type", b"[agent]\nmax_storage_nodes = 'many'\n"),
            "`agent.max_storage_nodes`",
        ),
        (
            write("key", b"[storage]\ndata_pth = '/srv'\n"),
            "`storage.data_path`",
        ),
        (write("twice", b"[agent]\n[agent]\n"), "line 2"),
        (write("bytes", b"[agent]\nagent_id = '\xff'\n"), "UTF-8"),
        (write("long", &[b'#'; (1 << 20) + 1]), "more than 1048576"),
        (dir.path().join("none"), "No such file"),
        (dir.path().to_owned(), "it is no file"),
        (fifo, "it is no file"),
        ("/dev/zero".into(), "it is no file"),
    ] {
        let state = dir.path().join("state");
        let found = output(command(&state, &["--config", file.to_str().unwrap()])).await;
        let told = text(&found.stderr);
        assert_eq!(found.status.code(), Some(2), "{told}");
        assert!(
            told.starts_with("error: ") && told.contains("\nhint: "),
            "{told}"
        );
        assert!(told.contains(file.to_str().unwrap()), "{told}");
        assert!(told.contains(why), "`{why}` is not in {told}");
        assert!(!state.exists(), "it began all the same");
    }
}

#[tokio::test]
async fn doctor_names_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("agent");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let mut doctor = command(&state, &["doctor", "--master", &address]);
    doctor.env("SUTRA_AGENT__STORAGE__PROGRAMS", "redis-server");
    let found = output(doctor).await;
    assert_eq!(text(&found.stderr), "");
    let stdout = text(&found.stdout);
    assert!(stdout.contains("ok      state directory: "), "{stdout}");
    assert!(stdout.contains("ok      data directory: "), "{stdout}");
    assert!(stdout.contains("will be made"), "{stdout}");
    assert!(stdout.contains("ok      platform: `process`"), "{stdout}");
    assert!(stdout.contains("ok      master: "), "{stdout}");
    assert_eq!(found.status.code(), Some(0), "{stdout}");

    assert!(!state.exists(), "it only looks");

    let token = dir.path().join("none");
    // The port of `tcpmux`, which nobody serves; another test could bind one that was just let go.
    let args = [
        "doctor",
        "--master",
        "127.0.0.1:1",
        "--token-file",
        token.to_str().unwrap(),
    ];
    let found = output(command(&state, &args)).await;
    let stdout = text(&found.stdout);
    assert_eq!(found.status.code(), Some(1));
    assert!(stdout.contains("failed  token: "), "{stdout}");
    assert!(
        stdout.contains("missing master: nothing listens"),
        "{stdout}"
    );
    assert!(stdout.contains("hint: Start it with `grid up`"), "{stdout}");

    let mut doctor = command(&state, &["doctor", "--platform", "docker", "-o", "json"]);
    doctor
        .env("SUTRA_AGENT__STORAGE__DATA_PATH", "/dev/null/data")
        .env("DOCKER_HOST", "unix:///dev/null/engine.sock");
    let found = output(doctor).await;
    assert_eq!(found.status.code(), Some(1));
    let checks: Vec<grid_platform_api::Check> = serde_json::from_slice(&found.stdout).unwrap();
    let hint = |name: &str| {
        let failed = grid_platform_api::CheckStatus::Failed;
        let check = checks.iter().find(|it| it.name == name).unwrap();
        assert_eq!(check.status, failed, "{check:?}");
        check.hint.clone().unwrap()
    };
    let mend = match cfg!(feature = "platform-docker") {
        true => "systemctl start docker",
        false => "platform-docker",
    };
    assert!(hint("platform").contains(mend));
    assert!(hint("data directory").contains("storage.data_path"));

    let mut doctor = command(&state, &["doctor", "--platform", "k8s", "-o", "json"]);
    doctor.env("KUBECONFIG", "/dev/null/kubeconfig");
    let found = output(doctor).await;
    assert_eq!(found.status.code(), Some(1));
    let checks: Vec<grid_platform_api::Check> = serde_json::from_slice(&found.stdout).unwrap();
    let check = checks.iter().find(|it| it.name == "platform").unwrap();
    let mend = match cfg!(feature = "platform-kubernetes") {
        true => "KUBECONFIG",
        false => "platform-kubernetes",
    };
    assert!(check.hint.as_ref().unwrap().contains(mend), "{check:?}");
    assert!(checks.iter().all(|it| it.name != "data directory"));

    let mut doctor = command(&state, &["doctor"]);
    doctor.env("SUTRA_AGENT__STORAGE__PROGRAMS", "/usr/bin/no-such-server");
    let found = output(doctor).await;
    let stdout = text(&found.stdout);
    assert_eq!(found.status.code(), Some(0), "{stdout}");
    let missing = "missing program: there is no program `/usr/bin/no-such-server`\n        \
                   hint: Install it, or change `storage.programs`.\n";
    assert!(stdout.contains(missing), "{stdout}");
    assert!(!state.exists(), "it only looks");
}

#[tokio::test]
async fn a_platform_that_is_not_there_ends_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("grid-agent.toml");
    // The files of the specification: their keys are known, the platform is not built in.
    let docker = "[agent]\nplatform = 'docker'\n\
                  [storage]\ndocker_image = 'sutra-storage:latest'\ndata_path = '/var/lib/sutra/data'\n";
    let kubernetes = "[agent]\nagent_id = 'agent-prod'\nmax_storage_nodes = 20\n\
                      [storage]\ndocker_image = 'sutra-storage:latest'\nk8s_namespace = 'sutra-grid'\n\
                      k8s_kubeconfig = '/path/to/kubeconfig'\n";
    for (content, variable, platform) in [
        (docker, "", "docker"),
        ("", "docker", "docker"),
        (kubernetes, "k8s", "kubernetes"),
        (kubernetes, "kubernetes", "kubernetes"),
        ("", "systemd", "systemd"),
    ] {
        let is_built = [
            ("docker", cfg!(feature = "platform-docker")),
            ("kubernetes", cfg!(feature = "platform-kubernetes")),
        ];
        if is_built.contains(&(platform, true)) {
            continue;
        }
        fs::write(&file, content).unwrap();
        let mut command = command(dir.path(), &["--config", file.to_str().unwrap()]);
        command
            .env("PLATFORM", variable)
            .env("SUTRA_MASTER", "http://127.0.0.1:7000");
        let found = output(command).await;
        assert_eq!(found.status.code(), Some(1));
        let stderr = text(&found.stderr);
        let expect = match platform {
            "systemd" => "error: this version has no systemd platform yet\nhint: ".to_owned(),
            _ => {
                format!("error: the {platform} platform is not compiled into this agent\nhint: ")
            }
        };
        assert!(stderr.starts_with(&expect), "{stderr}");
        assert!(stderr.contains(&format!("platform-{platform}")), "{stderr}");
    }
}

#[tokio::test]
async fn sigterm_ends_the_agent_and_leaves_nodes_that_stop_nodes_ends() {
    let mut master = Master::start().await;
    let place = HostPlace::new().unwrap();
    let state = place.path().join("agent");
    let address = master.address.to_string();
    let allow = "SUTRA_AGENT__STORAGE__PROGRAMS";
    let start = || {
        let mut command = command(&state, &["--master", &address, "--log-format", "json"]);
        command.env(allow, "any").spawn().unwrap()
    };
    // It ends with code 0 when it is asked to, as most servers do.
    let probe = grid_platform_testing::probe_path().unwrap();
    let server = || {
        let program = grid_platform_api::Program::binary(&probe, [""; 0]);
        grid_platform_api::SpawnConfig::builder("n1", program).port(0)
    };
    let child = start();
    let at = fence("g", 1, 1);
    let mut session = master.welcomed(&at).await;
    session.desire(&at, &[running(1, server())]).await;
    let pid = session
        .sees("n1", |it| it.node.pid.is_some())
        .await
        .node
        .pid
        .unwrap();
    session.done("n1", 1).await;

    // While it runs, nobody else ends its nodes, and doctor says so.
    let refused = output(command(&state, &["stop-nodes"])).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("another agent uses the state directory"));
    let found = output(command(&state, &["doctor", "--master", &address])).await;
    let stdout = text(&found.stdout);
    assert!(stdout.contains("an agent runs on it"), "{stdout}");
    assert!(stdout.contains("of the grid `g`"), "{stdout}");

    signal(&child, rustix::process::Signal::TERM);
    let ended = soon("the agent's end", child.wait_with_output())
        .await
        .unwrap();
    assert_eq!(ended.status.code(), Some(0));
    for line in text(&ended.stderr).lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("{line}"));
    }
    assert!(
        Path::new(&format!("/proc/{pid}")).exists(),
        "the node lives on"
    );

    // The next agent has the same program.
    let child = start();
    let mut session = master.welcomed(&at).await;
    let seen = session.sees("n1", |it| it.node.state.is_running()).await;
    assert_eq!(seen.node.pid, Some(pid));
    assert!(seen.managed);
    signal(&child, rustix::process::Signal::INT);
    let ended = soon("the agent's end", child.wait_with_output())
        .await
        .unwrap();
    assert_eq!(ended.status.code(), Some(0));

    let stopped = output(command(&state, &["stop-nodes"])).await;
    assert_eq!(
        text(&stopped.stdout),
        "stopped n1\n",
        "{}",
        text(&stopped.stderr)
    );
    assert!(!Path::new(&format!("/proc/{pid}")).exists());

    // What is wanted stayed: the next agent starts it again, though nobody asked anew.
    let child = start();
    let mut session = master.welcomed(&at).await;
    let again = session.sees("n1", |it| it.node.state.is_running()).await;
    assert_ne!(again.node.pid, Some(pid));
    assert_eq!(again.node.uid, seen.node.uid);
    signal(&child, rustix::process::Signal::TERM);
    soon("the agent's end", child.wait_with_output())
        .await
        .unwrap();

    let removed = output(command(&state, &["stop-nodes", "--purge"])).await;
    assert_eq!(
        text(&removed.stdout),
        "removed n1\n",
        "{}",
        text(&removed.stderr)
    );
    assert!(!state.join("data").join(id("n1").native_name()).exists());
    assert!(!state.join("data/n1").exists());
    place.clean_up().await.unwrap();
}

#[tokio::test]
async fn a_killed_agent_leaves_no_node_twice_and_none_behind() {
    let mut master = Master::start().await;
    let place = HostPlace::new().unwrap();
    let state = place.path().join("agent");
    let address = master.address.to_string();
    let probe = grid_platform_testing::probe_path().unwrap();
    let start = || {
        let mut command = command(&state, &["--master", &address]);
        command
            .env("SUTRA_AGENT__STORAGE__PROGRAMS", &probe)
            .env("SUTRA_AGENT__STORAGE__PORT_RANGE", "30000-30999")
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let names = ["n1", "n2", "n3", "n4", "n5", "n6"];
    let often = HealthCheck {
        interval: Duration::from_millis(50),
        ..HealthCheck::tcp()
    };
    let wishes: Vec<_> = names
        .iter()
        .map(|name| {
            let program = grid_platform_api::Program::binary(&probe, [""; 0]);
            let config = grid_platform_api::SpawnConfig::builder(*name, program).port(0);
            running(1, config.health(often.clone()))
        })
        .collect();
    let at = fence("g", 1, 1);
    let mut child = start();
    let mut session = master.welcomed(&at).await;
    session.desire(&at, &wishes).await;
    // In the midst of it: the first node is seen, the others are on their way.
    session.sees("n1", |_| true).await;
    child.kill().await.unwrap();

    let child = start();
    let mut session = master.welcomed(&at).await;
    for name in names {
        // It runs as soon as it is executed, and listens when its boot is recorded.
        let seen = session
            .sees(name, |it| it.managed && it.node.health == Health::Healthy)
            .await;
        let boots = seen.node.data_path.unwrap().join("grid-probe.boots");
        let boots = fs::read_to_string(boots).unwrap();
        assert_eq!(boots.lines().count(), 1, "{name} was started once: {boots}");
    }
    // What an earlier node left is purged with the rest.
    let tombstone = support::removed(2, "n6", grid_platform_api::DataPolicy::Keep);
    session.desire_one(&fence("g", 1, 2), &tombstone).await;
    session.done("n6", 2).await;
    signal(&child, rustix::process::Signal::TERM);
    soon("the agent's end", child.wait_with_output())
        .await
        .unwrap();
    let removed = output(command(&state, &["stop-nodes", "--purge"])).await;
    assert_eq!(
        text(&removed.stdout),
        "removed n1\nremoved n2\nremoved n3\nremoved n4\nremoved n5\npurged n6\n",
        "{}",
        text(&removed.stderr)
    );
    place.clean_up().await.unwrap();
}
