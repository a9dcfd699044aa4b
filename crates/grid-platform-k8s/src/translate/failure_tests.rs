use super::{
    super::tests::{claim_view, ended, pod_view, record, refused, request, running, waiting},
    *,
};
use crate::translate::{Goal, refusal};

fn limited() -> Record {
    record(request().memory_limit_mb(64).build().unwrap())
}

#[test]
fn words_are_one_line() {
    let check = |text: &str, expect: &str| assert_eq!(one_line(text), expect);
    check("", "");
    check("no room.\n", "no room");
    check("a\n\tb  c...", "a b c");
    check("a\u{1b}[31mb", "a[31mb");
    assert_eq!(one_line(&"x ".repeat(1000)).len(), 299);
    assert_eq!(one_line(&"é".repeat(1000)).chars().count(), 300);
}

#[test]
fn codes_are_exits() {
    let check =
        |ended: Ended, expect: Option<Exit>| assert_eq!(exit_of(&ended), expect, "{ended:?}");
    check(ended(0), Some(Exit::Code(0)));
    check(ended(42), Some(Exit::Code(42)));
    check(ended(128), Some(Exit::Code(128)));
    check(ended(137), Some(Exit::Signal(9)));
    check(ended(192), Some(Exit::Signal(64)));
    check(ended(193), Some(Exit::Code(193)));
    check(ended(255), Some(Exit::Code(255)));
    check(ended(-1), Some(Exit::Unknown));
    check(ended(1_073_807_364), Some(Exit::Unknown));
    let told = Ended {
        signal: Some(6),
        ..ended(1)
    };
    check(told, Some(Exit::Signal(6)));
    let unseen = Ended {
        reason: "ContainerStatusUnknown".into(),
        ..ended(137)
    };
    check(unseen, Some(Exit::Unknown));
    check(refused("exec: permission denied"), None);
}

#[test]
fn ends_have_reasons() {
    let record = limited();
    let check = |reason: &str, code: i32, expect: Option<(FailureReason, Exit)>| {
        let ended = Ended {
            reason: reason.into(),
            ..ended(code)
        };
        let failure = bad_end(&record, &ended);
        let found = failure.map(|it| (it.reason, it.exit.unwrap()));
        assert_eq!(found, expect, "{reason} {code}");
    };
    use FailureReason::{Exited, Interrupted, OutOfMemory, Signaled};
    check("Completed", 0, None);
    // A child was ended for the memory, and the program lived on and ended well.
    check("OOMKilled", 0, None);
    check("Error", 3, Some((Exited, Exit::Code(3))));
    check("Error", 134, Some((Signaled, Exit::Signal(6))));
    check("Error", 137, Some((Signaled, Exit::Signal(9))));
    check("OOMKilled", 137, Some((OutOfMemory, Exit::Signal(9))));
    check("OOMKilled", 1, Some((OutOfMemory, Exit::Code(1))));
    check(
        "ContainerStatusUnknown",
        137,
        Some((Interrupted, Exit::Unknown)),
    );
    let memory = |record: &Record| {
        let ended = Ended {
            reason: "OOMKilled".into(),
            ..ended(137)
        };
        bad_end(record, &ended).unwrap().message
    };
    assert_eq!(memory(&record), "it reached its memory limit of 64 MiB");
    let free = super::super::tests::record(request().build().unwrap());
    assert_eq!(memory(&free), "the host ran out of memory");
}

#[test]
fn refused_starts_have_reasons() {
    let record = limited();
    let check = |words: &str, expect: FailureReason| {
        for reason in ["StartError", "ContainerCannotRun"] {
            let ended = Ended {
                reason: reason.into(),
                ..refused(words)
            };
            let failure = bad_end(&record, &ended).unwrap();
            assert_eq!((failure.reason, failure.exit), (expect, None), "{words}");
            assert!(!failure.message.ends_with('.') && !failure.message.contains('\n'));
        }
    };
    check(
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/nope\": stat /nope: no such file or directory: unknown",
        FailureReason::ProgramNotFound,
    );
    check(
        "failed to create containerd task: OCI runtime create failed: container_linux.go:367: starting container process caused: exec: \"x\": executable file not found in $PATH: unknown",
        FailureReason::ProgramNotFound,
    );
    check(
        "failed to generate spec: no command specified",
        FailureReason::ProgramNotFound,
    );
    check(
        "runc create failed: unable to start container process: exec: \"/x\": permission denied: unknown",
        FailureReason::NotExecutable,
    );
    check(
        "runc create failed: unable to start container process: exec: \"/data\": is a directory",
        FailureReason::NotExecutable,
    );
    check(
        "standard_init_linux.go:228: exec user process caused: exec format error",
        FailureReason::BadProgramFormat,
    );
    check(
        "unable to find user nobody: no matching entries in passwd file",
        FailureReason::UserUnavailable,
    );
    check(
        "error mounting \"/var/lib/x\" to rootfs at \"/data\": no such file or directory",
        FailureReason::DataUnavailable,
    );
    check(
        "unable to apply cgroup configuration: failed to write 1: device or resource busy",
        FailureReason::LimitUnavailable,
    );
    check("the moon is full.\nindeed.", FailureReason::PlatformRefused);
}

#[test]
fn last_words_tell_more_than_a_code() {
    let record = limited();
    let check = |ended: Ended, line: &str, expect: FailureReason, rights: bool| {
        let failure = early_end(&record, &ended, vec!["boot".into(), line.to_owned()]);
        assert_eq!(failure.reason, expect, "{line}");
        assert_eq!(failure.log_tail, ["boot", line]);
        assert_eq!(failure.message.contains("not root"), rights, "{line}");
    };
    use FailureReason::{BadProgramFormat, Exited, NotExecutable, ProgramNotFound, Signaled};
    check(
        ended(1),
        "exec /probe: exec format error",
        BadProgramFormat,
        false,
    );
    let old = "standard_init_linux.go:228: exec user process caused: no such file or directory";
    check(ended(1), old, BadProgramFormat, false);
    check(
        ended(255),
        "exec /x: permission denied",
        NotExecutable,
        false,
    );
    let crun = "exec container process `/x`: Exec format error";
    check(ended(1), crun, BadProgramFormat, false);
    let chown = "chown: changing ownership of '/data': Operation not permitted";
    check(ended(1), chown, Exited, true);
    check(ended(1), "out of cheese", Exited, false);
    check(ended(139), chown, Signaled, false);
    check(
        refused("exec: \"x\": executable file not found in $PATH"),
        chown,
        ProgramNotFound,
        false,
    );
    let well = early_end(&record, &ended(0), Vec::new());
    assert_eq!(well.exit, Some(Exit::Code(0)));
    assert!(
        well.message.ends_with("before it was ready"),
        "{}",
        well.message
    );
}

/// What is said of a pod, by its reason, and whether to wait.
fn why(pod: &PodView, is_bound: bool) -> Option<(FailureReason, bool)> {
    let record = limited();
    let claim = ClaimView {
        is_bound,
        ..claim_view(&record, Goal::Running)
    };
    let found = why_pending(&record, Some(&claim), pod);
    found.map(|(failure, waits)| {
        assert!(!failure.message.is_empty() && !failure.message.ends_with('.'));
        (failure.reason, waits)
    })
}

#[test]
fn what_a_container_waits_for_is_told() {
    let check = |reason: &str, message: &str, expect: Option<(FailureReason, bool)>| {
        let pod = pod_view(PodPhase::Pending, waiting(reason, message));
        assert_eq!(why(&pod, true), expect, "{reason}: {message}");
    };
    use FailureReason::{
        ImageNotFound, ImagePullFailed, LimitUnavailable, NotExecutable, PlatformRefused,
        ProgramNotFound, UserUnavailable,
    };
    check("ContainerCreating", "", None);
    check("PodInitializing", "", None);
    for reason in ["ErrImagePull", "ImagePullBackOff"] {
        for missing in [
            "rpc error: code = NotFound desc = failed to pull and unpack image \"docker.io/library/img:1\": failed to resolve reference \"docker.io/library/img:1\": docker.io/library/img:1: not found",
            "manifest for img:1 not found: manifest unknown: manifest unknown",
            "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
            "Back-off pulling image \"img:1\": ErrImagePull: img:1: not found",
        ] {
            check(reason, missing, Some((ImageNotFound, false)));
        }
        for passing in [
            "",
            "Back-off pulling image \"img:1\"",
            "failed to do request: Head \"https://r.example/v2/\": dial tcp: lookup r.example: no such host",
            "dial tcp 192.0.2.1:443: connect: connection refused",
            "lookup r.example on 10.0.0.10:53: server misbehaving: name not found",
            "unexpected status code 500 Internal Server Error",
            "no space left on device",
        ] {
            check(reason, passing, Some((ImagePullFailed, true)));
        }
    }
    check("ErrImageNeverPull", "", Some((ImageNotFound, false)));
    check(
        "InvalidImageName",
        "couldn't parse",
        Some((PlatformRefused, false)),
    );
    let no_program = "exec: \"/nope\": stat /nope: no such file or directory";
    check(
        "RunContainerError",
        no_program,
        Some((ProgramNotFound, false)),
    );
    let no_right = "exec: \"/x\": permission denied";
    check(
        "CreateContainerError",
        no_right,
        Some((NotExecutable, false)),
    );
    let root = "container has runAsNonRoot and image will run as root";
    check(
        "CreateContainerConfigError",
        root,
        Some((UserUnavailable, false)),
    );
    let group = "cannot set memory: cgroup";
    check(
        "CreateContainerError",
        group,
        Some((LimitUnavailable, false)),
    );
    check(
        "CreateContainerError",
        "the moon is full",
        Some((PlatformRefused, false)),
    );
    for passing in [
        "secret \"sutra-grid-n1\" not found",
        "context deadline exceeded",
        "failed to reserve container name: name is reserved for \"c1\"",
        "failed to sync secret cache: timed out waiting for the condition",
    ] {
        check(
            "CreateContainerConfigError",
            passing,
            Some((PlatformRefused, true)),
        );
    }
}

#[test]
fn what_ended_waits_for_its_next_start() {
    let check =
        |state: ContainerState, last: Option<Ended>, expect: Option<(FailureReason, bool)>| {
            let mut pod = pod_view(PodPhase::Running, state);
            pod.container.last = last;
            assert_eq!(why(&pod, true), expect, "{pod:?}");
        };
    let back_off = || {
        waiting(
            "CrashLoopBackOff",
            "back-off 10s restarting failed container",
        )
    };
    let missing = || refused("exec: \"x\": executable file not found in $PATH");
    let exited = Some((FailureReason::Exited, true));
    let not_found = Some((FailureReason::ProgramNotFound, false));
    check(back_off(), Some(ended(1)), exited);
    check(back_off(), Some(ended(0)), None);
    check(back_off(), None, None);
    check(back_off(), Some(missing()), not_found);
    check(ContainerState::Ended(ended(1)), None, exited);
    check(ContainerState::Ended(ended(0)), None, None);
    check(ContainerState::Ended(missing()), None, not_found);
    check(running(), Some(ended(1)), None);
}

#[test]
fn a_pod_without_a_place_tells_why() {
    let check = |unscheduled: Option<&str>, is_bound: bool, expect: Option<FailureReason>| {
        let mut pod = pod_view(PodPhase::Pending, ContainerState::Unknown);
        pod.unscheduled = unscheduled.map(str::to_owned);
        let expect = expect.map(|it| (it, true));
        assert_eq!(why(&pod, is_bound), expect, "{unscheduled:?}");
    };
    use FailureReason::{Unschedulable, VolumePending};
    check(None, true, None);
    check(None, false, Some(VolumePending));
    check(Some(""), true, Some(Unschedulable));
    check(
        Some("0/1 nodes are available: 1 Insufficient memory."),
        true,
        Some(Unschedulable),
    );
    check(
        Some("0/3 nodes are available: 3 node(s) had taint {a: b}, that the pod didn't tolerate."),
        false,
        Some(Unschedulable),
    );
    for volume in [
        "0/1 nodes are available: 1 pod has unbound immediate PersistentVolumeClaims.",
        "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.",
        "persistentvolumeclaim \"sutra-grid-n1\" not found",
        "persistentvolumeclaim \"sutra-grid-n1\" is being deleted",
    ] {
        check(Some(volume), true, Some(VolumePending));
    }
    let made = pod_view(PodPhase::Pending, waiting("ContainerCreating", ""));
    assert_eq!(why(&made, false), Some((VolumePending, true)));
}

#[test]
fn a_pod_that_lost_its_place_tells_why() {
    let check = |reason: &str, state: ContainerState, expect: (FailureReason, Option<Exit>)| {
        let mut pod = pod_view(PodPhase::Failed, state);
        pod.reason = Some(reason.to_owned()).filter(|it| !it.is_empty());
        pod.message = Some("The node was low on resource: memory.\n".into());
        let failure = lost_place(&limited(), &pod);
        assert_eq!((failure.reason, failure.exit), expect, "{reason}");
        assert_eq!(why(&pod, true), Some((expect.0, false)));
        assert!(!failure.message.ends_with('.'), "{}", failure.message);
    };
    use FailureReason::{Evicted, Exited, HostLost, PlatformRefused, Unschedulable};
    let none = || ContainerState::Unknown;
    let over = |code: i32| ContainerState::Ended(ended(code));
    check("Evicted", none(), (Evicted, None));
    check("Evicted", over(137), (Evicted, Some(Exit::Signal(9))));
    check("Preempting", none(), (Evicted, None));
    check("Terminated", over(143), (Evicted, Some(Exit::Signal(15))));
    check("NodeShutdown", none(), (Evicted, None));
    check("NodeLost", none(), (HostLost, None));
    check("OutOfmemory", none(), (Unschedulable, None));
    check("OutOfcpu", none(), (Unschedulable, None));
    check("NodeAffinity", none(), (Unschedulable, None));
    check("SysctlForbidden", none(), (PlatformRefused, None));
    check("UnexpectedAdmissionError", none(), (PlatformRefused, None));
    check("", over(3), (Exited, Some(Exit::Code(3))));
    check("", none(), (PlatformRefused, None));
    check("", over(0), (PlatformRefused, Some(Exit::Code(0))));
    let well = pod_view(PodPhase::Succeeded, over(0));
    assert_eq!(why(&well, true), None);
}

#[test]
fn events_tell_why_where_states_do_not() {
    let record = limited();
    let check = |reason: &str, message: &str, expect: Option<(FailureReason, bool)>| {
        let found = why_event(&record, reason, message).map(|it| (it.0.reason, it.1));
        assert_eq!(found, expect, "{reason}: {message}");
    };
    use FailureReason::{
        ImageNotFound, ImagePullFailed, PlatformRefused, ProgramNotFound, Unschedulable,
        VolumePending,
    };
    check(
        "FailedScheduling",
        "0/1 nodes are available",
        Some((Unschedulable, true)),
    );
    let unbound = "pod has unbound immediate PersistentVolumeClaims";
    check("FailedScheduling", unbound, Some((VolumePending, true)));
    check(
        "FailedMount",
        "timed out waiting",
        Some((VolumePending, true)),
    );
    check(
        "FailedAttachVolume",
        "Multi-Attach error",
        Some((VolumePending, true)),
    );
    let sandbox = "failed to set up sandbox: no network";
    check(
        "FailedCreatePodSandBox",
        sandbox,
        Some((PlatformRefused, true)),
    );
    let missing = "Failed to pull image \"img:1\": rpc error: manifest unknown";
    check("Failed", missing, Some((ImageNotFound, false)));
    let silent = "Failed to pull image \"img:1\": dial tcp: i/o timeout";
    check("Failed", silent, Some((ImagePullFailed, true)));
    check("Failed", "Error: ErrImagePull", None);
    let start = "Error: exec: \"x\": executable file not found in $PATH";
    check("Failed", start, Some((ProgramNotFound, false)));
    check("Pulled", "Container image \"img:1\" already present", None);
    check("Unhealthy", "Readiness probe failed", None);
}

#[test]
fn refusals_are_known_by_their_words() {
    let check = |words: &str, expect: Option<FailureReason>| assert_eq!(refusal(words), expect);
    check(
        "pods \"sutra-grid-n1\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1",
        Some(FailureReason::QuotaExceeded),
    );
    check(
        "persistentvolumeclaims \"x\" is forbidden: exceeded quota: storage",
        Some(FailureReason::QuotaExceeded),
    );
    check(
        "pods \"x\" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi",
        Some(FailureReason::LimitUnavailable),
    );
    check(
        "pods \"x\" is forbidden: failed quota: q: must specify limits.memory",
        Some(FailureReason::LimitUnavailable),
    );
    check(
        "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"",
        None,
    );
    check("", None);
}
