//! How the program comes to run, and what it finds.

use super::harness::{Node, SHIM, is_root, signal, skip, until, wait_gone};
use super::shared::launch::User;
use super::shared::policy::Restart;
use super::shared::record::State;
use super::shared::words::{Report, Stage};
use grid_platform_testing::environment;
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

fn status(pid: u32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|it| it.starts_with(key)).unwrap();
    line.split_once(':').unwrap().1.trim().replace('\t', " ")
}

/// Fields of /proc/PID/stat after the name: 0 is the state.
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_program_runs_and_the_record_says_so() {
    let node = Node::script("echo out; echo err >&2; exec sleep 1000");
    let (mut shim, pid) = node.run();
    let record = node.record();
    let start: u64 = stat(pid)[19].parse().unwrap();
    assert_eq!(shim.report, Some(Report::Executed { pid, start }));
    assert_eq!(
        (record.state, record.pid, record.pid_start),
        (State::Running, pid, start)
    );
    assert_eq!(
        (record.shim_pid, record.shim_start),
        (shim.pid(), stat(shim.pid())[19].parse().unwrap())
    );
    assert_eq!(
        (record.uid.as_str(), record.generation, record.restarts),
        ("uid-of-the-node", 7, 0)
    );
    assert_eq!(
        record.boot_id,
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap()
            .trim()
    );
    assert!(record.started_ms > 0 && record.finished_ms == 0);
    assert!(!node.lock_is_free());
    until("both streams in the log", || {
        (node.log() == b"out\nerr\n").then_some(())
    });
    let mode = |name: &str| {
        fs::metadata(node.dir.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        (mode("log"), mode("record"), mode("sock")),
        (0o640, 0o640, 0o600)
    );
    shim.stop(None);
}

#[test]
fn the_program_finds_a_clean_house() {
    let node = Node::script("umask > umask; exec sleep 1000");
    let (mut shim, pid) = node.run();
    // The shell has its own descriptors and signals for a moment: what counts is what `sleep` was given.
    until("the program is sleep", || {
        (fs::read(format!("/proc/{pid}/comm")).unwrap() == b"sleep\n").then_some(())
    });
    let mut fds: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|it| it.unwrap())
        .map(|it| {
            (
                it.file_name().into_string().unwrap(),
                fs::read_link(it.path()).unwrap(),
            )
        })
        .collect();
    fds.sort();
    let log = node.dir.join("log");
    let expect = [("0", Path::new("/dev/null")), ("1", &log), ("2", &log)];
    assert_eq!(node.data("umask"), "0027\n");
    assert_eq!(fds, expect.map(|(fd, to)| (fd.to_owned(), to.to_owned())));
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        node.data
    );
    for set in ["SigBlk", "SigIgn"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    let stat = stat(pid);
    let (parent, group, session) = (&stat[1], &stat[2], &stat[3]);
    assert_eq!(
        (parent, group, session),
        (&shim.pid().to_string(), &pid.to_string(), &pid.to_string())
    );
    shim.stop(None);
}

#[test]
fn environment_and_arguments_are_exactly_what_was_given() {
    let mut node = Node::program("/bin/sleep", &["1000"]);
    node.launch.env = vec![
        b"B=2".to_vec(),
        b"A=x y\n\xff=".to_vec(),
        b"EMPTY=".to_vec(),
        b"B=again".to_vec(),
    ];
    let (mut shim, pid) = node.run();
    let read = |what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap();
    assert_eq!(read("environ"), b"B=2\0A=x y\n\xff=\0EMPTY=\0B=again\0");
    assert_eq!(read("cmdline"), b"/bin/sleep\x001000\0");
    shim.stop(None);

    let mut node = Node::program("/usr/bin/env", &[]);
    node.launch.env = vec![];
    let (mut shim, _) = node.run();
    shim.wait();
    assert_eq!((node.log(), node.record().exit_code), (vec![], Some(0)));
}

#[test]
fn a_secret_reaches_the_environment_only_where_it_is_named() {
    let mut node = Node::program("/bin/sleep", &["1000"]);
    node.launch.env_secrets = vec![(b"TOKEN".to_vec(), b"token".to_vec())];
    fs::write(node.dir.join("secrets/token"), b"hush=\n\xff").unwrap();
    fs::write(node.dir.join("secrets/other"), "unnamed").unwrap();
    let (mut shim, pid) = node.run();
    let environ = environment(pid).unwrap();
    assert_eq!(environ, b"PATH=/usr/bin:/bin\0TOKEN=hush=\n\xff\0");
    for file in ["launch", "record", "log"] {
        let bytes = fs::read(node.dir.join(file)).unwrap();
        assert!(!bytes.windows(4).any(|it| it == b"hush"), "{file}");
    }
    shim.stop(None);
}

#[test]
fn the_program_runs_as_its_user() {
    if !is_root() {
        return skip("the_program_runs_as_its_user", "root");
    }
    let mut node = Node::program("/bin/sleep", &["1000"]);
    node.launch.user = Some(User {
        uid: 65_534,
        gid: 65_534,
        groups: vec![4, 5],
    });
    node.launch.env_secrets = vec![(b"TOKEN".to_vec(), b"token".to_vec())];
    chown(&node.data, Some(65_534), Some(65_534)).unwrap();
    let secrets = node.dir.join("secrets");
    fs::write(secrets.join("token"), "hush").unwrap();
    chown(secrets.join("token"), Some(65_534), None).unwrap();
    fs::set_permissions(secrets.join("token"), PermissionsExt::from_mode(0o400)).unwrap();
    chown(&secrets, Some(65_534), None).unwrap();
    fs::set_permissions(&secrets, PermissionsExt::from_mode(0o500)).unwrap();
    let parent = node.dir.parent().unwrap().to_owned();
    fs::set_permissions(&parent, PermissionsExt::from_mode(0o711)).unwrap();
    let (mut shim, pid) = node.run();
    assert_eq!(status(pid, "Uid"), "65534 65534 65534 65534");
    assert_eq!(status(pid, "Gid"), "65534 65534 65534 65534");
    assert_eq!(status(pid, "Groups"), "4 5");
    assert!(environment(pid).unwrap().ends_with(b"TOKEN=hush\0"));
    // The death signal outlives the change of user.
    signal(shim.pid(), Signal::KILL);
    wait_gone(pid);
    shim.wait();

    // What the user may not read, it does not get by the shim's rights.
    chown(secrets.join("token"), Some(0), None).unwrap();
    assert_eq!(
        node.start().report,
        Some(Report::Failed {
            stage: Stage::Secret,
            errno: 13
        })
    );
    node.launch.env_secrets.clear();
    chown(&node.data, Some(0), None).unwrap();
    fs::set_permissions(&node.data, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(
        node.start().report,
        Some(Report::Failed {
            stage: Stage::Dir,
            errno: 13
        })
    );
}

#[test]
fn the_bound_of_open_files_is_set() {
    let mut node = Node::script("ulimit -Sn; ulimit -Hn");
    node.launch.nofile = Some(77);
    let (mut shim, _) = node.run();
    shim.wait();
    assert_eq!(node.log(), b"77\n77\n");
}

#[test]
fn a_start_that_fails_says_where_and_why() {
    let check = |change: &dyn Fn(&mut Node), stage: Stage, errno: i32| {
        let mut node = Node::script("echo ran").restarting(Restart::Always, None);
        change(&mut node);
        let mut shim = node.start();
        assert_eq!(shim.report, Some(Report::Failed { stage, errno }));
        assert!(node.lock_is_free() && fs::remove_file(node.dir.join("sock")).is_err());
        shim.wait();
        let record = node.record();
        assert_eq!(
            (record.state, record.pid, record.uid.as_str()),
            (State::Failed, 0, "uid-of-the-node")
        );
        assert_eq!(
            (record.fail_stage.as_deref(), record.fail_errno),
            (Some(stage.as_str()), Some(errno))
        );
        assert!(!node.log().starts_with(b"ran"));
    };
    let file = |node: &Node, text: &str, mode: u32| {
        let path = node.data.join("program");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.into_os_string().into_encoded_bytes()
    };
    check(
        &|it| it.launch.program = b"/no/such/program".to_vec(),
        Stage::Exec,
        2,
    );
    check(
        &|it| it.launch.program = file(it, "#!/bin/sh\n", 0o644),
        Stage::Exec,
        13,
    );
    check(
        &|it| it.launch.program = file(it, "neither script nor binary", 0o755),
        Stage::Exec,
        8,
    );
    check(
        &|it| it.launch.program = file(it, "#!/no/such/shell\n", 0o755),
        Stage::Exec,
        2,
    );
    check(
        &|it| it.launch.dir = b"/no/such/dir".to_vec(),
        Stage::Dir,
        2,
    );
    check(
        &|it| it.launch.env_secrets = vec![(b"A".to_vec(), b"absent".to_vec())],
        Stage::Secret,
        2,
    );
    check(
        &|it| {
            symlink("/etc/hostname", it.dir.join("secrets/link")).unwrap();
            it.launch.env_secrets = vec![(b"A".to_vec(), b"link".to_vec())];
        },
        Stage::Secret,
        40,
    );
    check(
        &|it| {
            fs::write(it.dir.join("secrets/nul"), b"a\0b").unwrap();
            it.launch.env_secrets = vec![(b"A".to_vec(), b"nul".to_vec())];
        },
        Stage::Secret,
        22,
    );
    check(
        &|it| it.launch.cgroup_procs = vec![b"/no/such/cgroup.procs".to_vec()],
        Stage::Cgroup,
        2,
    );
    check(
        &|it| it.launch.args.push(vec![b'x'; 200_000]),
        Stage::Exec,
        7,
    );
    check(
        &|it| symlink("/dev/null", it.dir.join("log")).unwrap(),
        Stage::Log,
        40,
    );
    check(
        &|it| fs::create_dir(it.dir.join("log")).unwrap(),
        Stage::Log,
        21,
    );
    check(
        &|it| fs::create_dir(it.dir.join("sock")).unwrap_or_default(),
        Stage::Sock,
        21,
    );
}

#[test]
fn a_launch_that_is_cut_short_is_not_run() {
    let node = Node::script("echo ran");
    let whole = node.launch.encode().unwrap();
    for bytes in [None, Some(&whole[..whole.len() - 3])] {
        if let Some(bytes) = bytes {
            fs::write(node.dir.join("launch"), bytes).unwrap();
        }
        let errno = if bytes.is_none() { 2 } else { 22 };
        let shim = node.start_shim(Path::new(SHIM));
        assert_eq!(
            shim.report,
            Some(Report::Failed {
                stage: Stage::Launch,
                errno
            })
        );
        let record = node.record();
        assert_eq!(
            (record.state, record.uid.as_str(), record.fail_errno),
            (State::Failed, "", Some(errno))
        );
        assert_eq!(node.log(), b"");
    }
}

#[test]
fn a_shim_started_by_hand_ends() {
    let output = std::process::Command::new(SHIM).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn an_adapter_that_is_gone_is_not_missed() {
    let node = Node::script("exec sleep 1000");
    fs::write(node.dir.join("launch"), node.launch.encode().unwrap()).unwrap();
    let (mut shim, report) = node.spawn(Path::new(SHIM));
    drop(report);
    node.record_in(State::Running);
    shim.stop(None);
    assert_eq!(node.record().signal, Some(15));
}
