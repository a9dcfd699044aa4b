use std::time::Duration;

use grid_platform_api::{Digest, DigestKey, NodeUid, OwnerId, Program, SpawnConfigBuilder};

use super::*;

fn builder() -> SpawnConfigBuilder {
    SpawnConfig::builder(
        "n1",
        Program::binary("/bin/x", ["--port={port}", "{data_path}", "{other}"]),
    )
    .port(0)
}

pub(crate) fn intent(config: SpawnConfig, goal: Goal) -> Intent {
    Intent {
        version: 1,
        owner: OwnerId::from_bytes([1; 16]),
        uid: NodeUid::from_bytes([2; 16]),
        digest: Digest::of(&config, &DigestKey::from_bytes([0; 32])),
        ports: config.ports.keys().map(|it| (it.clone(), 4711)).collect(),
        data_path: "/data/n1".into(),
        data_marked: true,
        created_at: Timestamp::UNIX_EPOCH,
        generation: 3,
        restarts: 0,
        goal,
        config,
    }
}

pub(crate) fn recorded(state: State) -> Record {
    Record {
        uid: NodeUid::from_bytes([2; 16]).to_string(),
        generation: 3,
        pid: 77,
        state,
        started_ms: 1000,
        ..Record::default()
    }
}

fn shown(intent: &Intent, record: Option<&Record>, shim: Shim) -> SpawnedNode {
    node(&Facts {
        intent,
        record,
        shim,
        health: &Health::Unchecked,
        last_failure: None,
        tail: &[],
        host: "127.0.0.1",
        handle: "/state/nodes/sutra-grid-n1",
    })
}

#[test]
fn states_by_goal_record_and_shim() {
    let check =
        |mode: RestartMode, goal: Goal, record: Option<Record>, shim: Shim, expect: &str| {
            let intent = intent(builder().restart(mode).build().unwrap(), goal.clone());
            let node = shown(&intent, record.as_ref(), shim);
            let reason = node.state.failure().map(|it| it.reason.as_str());
            let got = match reason {
                Some(reason) => format!("failed {reason}"),
                None => node.state.as_str().to_owned(),
            };
            assert_eq!(got, expect, "{mode} {goal:?} {record:?} {shim:?}");
            assert_eq!(
                node.pid.is_some(),
                matches!(expect, "running" | "stopping") && record.is_some() && shim == Alive
            );
        };
    use RestartMode::{Always, Never, OnFailure};
    use Shim::{Alive, Gone};
    let record = |state| Some(recorded(state));
    let code = |state, code| {
        Some(Record {
            exit_code: Some(code),
            pid: 0,
            ..recorded(state)
        })
    };
    let failed = || Goal::Failed {
        failure: Failure::new(FailureReason::NotHealthy, "x"),
    };
    check(OnFailure, Goal::Running, None, Alive, "pending");
    check(
        OnFailure,
        Goal::Running,
        record(State::Starting),
        Alive,
        "pending",
    );
    check(
        OnFailure,
        Goal::Running,
        record(State::Running),
        Alive,
        "running",
    );
    check(
        OnFailure,
        Goal::Running,
        code(State::Backoff, 1),
        Alive,
        "pending",
    );
    check(
        OnFailure,
        Goal::Running,
        record(State::Stopping),
        Alive,
        "stopping",
    );
    check(
        OnFailure,
        Goal::Stopped,
        record(State::Running),
        Alive,
        "stopping",
    );
    check(
        OnFailure,
        Goal::Stopped,
        record(State::Stopped),
        Alive,
        "stopped",
    );
    check(
        OnFailure,
        Goal::Stopped,
        record(State::Stopped),
        Gone,
        "stopped",
    );
    check(OnFailure, Goal::Stopped, None, Gone, "stopped");
    check(
        OnFailure,
        failed(),
        code(State::Stopped, 1),
        Gone,
        "failed not_healthy",
    );
    check(
        OnFailure,
        Goal::Running,
        code(State::Exited, 0),
        Gone,
        "stopped",
    );
    check(
        Never,
        Goal::Running,
        code(State::Exited, 3),
        Gone,
        "failed exited",
    );
    check(
        Always,
        Goal::Running,
        code(State::Exited, 0),
        Gone,
        "failed restarts_exhausted",
    );
    // The shim was killed: it will be started again, or not.
    check(
        OnFailure,
        Goal::Running,
        record(State::Running),
        Gone,
        "pending",
    );
    check(
        Never,
        Goal::Running,
        record(State::Running),
        Gone,
        "stopping",
    );
    // Made, and never started.
    check(Never, Goal::Running, None, Gone, "pending");
    // A record of an earlier start tells nothing.
    let old = Record {
        generation: 2,
        pid: 0,
        ..recorded(State::Stopped)
    };
    check(OnFailure, Goal::Running, Some(old), Alive, "pending");
}

#[test]
fn ends_have_reasons() {
    let check = |record: Record, expect: Option<FailureReason>| {
        let intent = intent(builder().build().unwrap(), Goal::Running);
        let reason = bad_end(&intent, &record).map(|it| it.reason);
        assert_eq!(reason, expect, "{record:?}");
    };
    let at = |stage: &str, errno| Record {
        fail_stage: Some(stage.into()),
        fail_errno: Some(errno),
        ..Record::default()
    };
    let end = |exit_code, signal, oom| Record {
        exit_code,
        signal,
        oom,
        ..Record::default()
    };
    check(end(Some(0), None, false), None);
    check(end(None, None, false), None);
    check(end(Some(1), None, false), Some(FailureReason::Exited));
    check(end(None, Some(9), false), Some(FailureReason::Signaled));
    check(end(None, Some(9), true), Some(FailureReason::OutOfMemory));
    check(
        at("exec", libc::ENOENT),
        Some(FailureReason::ProgramNotFound),
    );
    check(at("exec", libc::EACCES), Some(FailureReason::NotExecutable));
    check(
        at("exec", libc::ENOEXEC),
        Some(FailureReason::BadProgramFormat),
    );
    check(at("uid", libc::EPERM), Some(FailureReason::UserUnavailable));
    check(
        at("dir", libc::EACCES),
        Some(FailureReason::DataUnavailable),
    );
    check(
        at("cgroup", libc::ENOENT),
        Some(FailureReason::LimitUnavailable),
    );
    check(
        at("fork", libc::EAGAIN),
        Some(FailureReason::PlatformRefused),
    );
    check(at("later", 1), Some(FailureReason::PlatformRefused));
}

#[test]
fn restarts_that_were_used_up_say_so() {
    let mut config = builder().build().unwrap();
    config.restart.max_restarts = Some(2);
    let record = Record {
        restarts: 2,
        exit_code: Some(5),
        ..recorded(State::Exited)
    };
    let node = shown(&intent(config, Goal::Running), Some(&record), Shim::Gone);
    let failure = node.state.failure().unwrap();
    assert_eq!(failure.reason, FailureReason::RestartsExhausted);
    assert_eq!(failure.exit, Some(Exit::Code(5)));
    assert_eq!(node.restarts, 2);
}

#[test]
fn a_launch_is_the_request_in_its_place() {
    let config = builder()
        .env("WHERE", "{bind}:{port}")
        .env("PATH", "/mine")
        .secret("token", "s3cret".into())
        .secret_env("TOKEN", "token")
        .open_files_limit(99)
        .restart(RestartMode::Always)
        .stop(grid_platform_api::StopPolicy {
            signal: grid_platform_api::StopSignal::Int,
            grace: Duration::from_millis(1500),
        })
        .build()
        .unwrap();
    let intent = intent(config, Goal::Running);
    let launch = launch(
        &intent,
        Ground {
            program: "/bin/x".into(),
            secrets_dir: Some("/s/secrets".into()),
            account: None,
            search_path: "/usr/bin".into(),
            cgroup_procs: vec!["/cg/cgroup.procs".into()],
            log_max_bytes: 1 << 20,
            trial: Some(Duration::from_millis(250)),
        },
    );
    let text = |list: &[Vec<u8>]| -> Vec<String> {
        list.iter()
            .map(|it| String::from_utf8(it.clone()).unwrap())
            .collect()
    };
    assert_eq!(text(&launch.args), ["--port=4711", "/data/n1", "{other}"]);
    let env = text(&launch.env);
    for line in [
        "PATH=/mine",
        "WHERE=127.0.0.1:4711",
        "SUTRA_NODE_ID=n1",
        "SUTRA_PORT=4711",
        "SUTRA_DATA_PATH=/data/n1",
        "SUTRA_SECRETS_DIR=/s/secrets",
        "SUTRA_NODE_UID=02020202020202020202020202020202",
    ] {
        assert!(env.contains(&line.to_owned()), "{line} in {env:?}");
    }
    assert_eq!(launch.env_secrets, [(b"TOKEN".to_vec(), b"token".to_vec())]);
    assert_eq!((launch.stop_signal, launch.grace_ms), (2, 1500));
    assert_eq!((launch.nofile, launch.trial_ms), (Some(99), Some(250)));
    assert_eq!(launch.policy.restart, Restart::Always);
    let encoded = launch.encode().unwrap();
    assert!(!encoded.windows(6).any(|it| it == b"s3cret"));
    assert_eq!(Launch::decode(&encoded).unwrap(), launch);
}

#[test]
fn an_end_on_trial_is_known_by_what_the_policy_would_have_done() {
    let check = |mode: RestartMode, state, (exit_code, restarts), expect: bool| {
        let intent = intent(builder().restart(mode).build().unwrap(), Goal::Running);
        let record = Record {
            exit_code: Some(exit_code),
            restarts,
            finished_ms: 1500,
            ..recorded(state)
        };
        assert_eq!(
            ended_on_trial(&intent, &record),
            expect,
            "{mode} {record:?}"
        );
    };
    use RestartMode::{Always, Never, OnFailure};
    check(OnFailure, State::Exited, (1, 0), true);
    check(Always, State::Exited, (0, 0), true);
    check(OnFailure, State::Exited, (0, 0), false);
    check(Never, State::Exited, (1, 0), false);
    check(OnFailure, State::Exited, (1, 3), false);
    check(OnFailure, State::Stopped, (1, 0), false);
}
