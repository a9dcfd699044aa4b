use grid_platform_api::{HealthCheck, SpawnConfig};

use super::{
    super::{
        Ended,
        tests::{at, claim_view, ended, pod_view, record, refused, request, running, waiting},
    },
    *,
};

/// What is shown of a request.
struct Shown {
    config: SpawnConfig,
    goal: Goal,
    last_run: Option<LastRun>,
    last_failure: Option<Failure>,
    pod: Option<PodView>,
    words: Option<(&'static str, &'static str)>,
}

impl Shown {
    fn of(pod: Option<PodView>) -> Self {
        Self {
            config: request().port(80).build().unwrap(),
            goal: Goal::Running,
            last_run: None,
            last_failure: None,
            pod,
            words: None,
        }
    }

    fn node(self) -> SpawnedNode {
        let record = record(self.config);
        let mut claim = claim_view(&record, self.goal);
        claim.notes.last_run = self.last_run;
        claim.notes.last_failure = self.last_failure;
        node(&Facts {
            record: &record,
            claim: &claim,
            pod: self.pod.as_ref(),
            words: self.words,
            tail: &["last".to_owned()],
        })
    }
}

fn over(exit: Option<Exit>) -> Option<LastRun> {
    Some(LastRun {
        exit,
        started_at: Some(at(1)),
        finished_at: Some(at(2)),
        restarts: 4,
        image: Some("img@sha256:2".into()),
    })
}

fn oops() -> Failure {
    Failure::new(FailureReason::NotHealthy, "not healthy")
}

fn pod(phase: PodPhase, state: ContainerState) -> Option<PodView> {
    Some(pod_view(phase, state))
}

fn changed(pod: Option<PodView>, change: impl FnOnce(&mut PodView)) -> Option<PodView> {
    pod.map(|mut it| {
        change(&mut it);
        it
    })
}

#[test]
fn states_follow_the_goal_and_the_pod() {
    let check = |goal: Goal, pod: Option<PodView>, expect: &str| {
        let text = format!("{goal:?} {pod:?}");
        let shown = Shown {
            goal,
            ..Shown::of(pod)
        };
        assert_eq!(shown.node().state.as_str(), expect, "{text}");
    };
    let run = |pod: Option<PodView>, expect: &str| check(Goal::Running, pod, expect);
    use PodPhase::{Failed, Pending, Running, Succeeded, Unknown};
    run(None, "stopped");
    run(pod(Pending, ContainerState::Unknown), "pending");
    run(pod(Pending, waiting("ContainerCreating", "")), "pending");
    run(pod(Pending, waiting("ImagePullBackOff", "")), "pending");
    run(pod(Running, ContainerState::Unknown), "pending");
    run(pod(Running, waiting("CrashLoopBackOff", "")), "pending");
    run(pod(Running, ContainerState::Ended(ended(1))), "pending");
    run(pod(Running, running()), "running");
    // What somebody put beside it is not up yet.
    run(pod(Pending, running()), "running");
    run(pod(Unknown, running()), "running");
    run(pod(Succeeded, ContainerState::Ended(ended(0))), "stopped");
    run(pod(Succeeded, ContainerState::Unknown), "stopped");
    run(pod(Failed, ContainerState::Ended(ended(1))), "failed");
    run(pod(Failed, ContainerState::Unknown), "failed");
    let deleted = |pod| changed(pod, |it: &mut PodView| it.is_terminating = true);
    run(deleted(pod(Running, running())), "stopping");
    run(deleted(pod(Pending, waiting("", ""))), "stopping");
    let lost = |pod| changed(pod, |it: &mut PodView| it.is_host_lost = true);
    run(lost(pod(Running, running())), "running");
    run(deleted(lost(pod(Running, running()))), "stopping");
    let failed = || Goal::Failed { failure: oops() };
    let removing = || Goal::Removing {
        data: grid_platform_api::DataPolicy::Keep,
    };
    for there in [
        pod(Running, running()),
        deleted(pod(Running, running())),
        pod(Failed, ContainerState::Ended(ended(1))),
    ] {
        check(Goal::Stopped, there.clone(), "stopping");
        check(failed(), there.clone(), "stopping");
        check(removing(), there.clone(), "stopping");
        check(Goal::GivenUp, there, "stopped");
    }
    check(Goal::Stopped, None, "stopped");
    check(Goal::GivenUp, None, "stopped");
    check(failed(), None, "failed");
    check(removing(), None, "stopping");
}

#[test]
fn a_program_that_nobody_starts_again_is_at_rest_beside_others() {
    let check = |mode: RestartMode, ended: Ended, expect: &str| {
        let text = format!("{mode} {ended:?}");
        let there = pod(PodPhase::Running, ContainerState::Ended(ended));
        let shown = Shown {
            config: request().restart(mode).build().unwrap(),
            ..Shown::of(there)
        };
        assert_eq!(shown.node().state.as_str(), expect, "{text}");
    };
    let missing = || refused("exec: \"x\": executable file not found in $PATH");
    check(RestartMode::Never, ended(0), "stopped");
    check(RestartMode::Never, ended(1), "failed");
    check(RestartMode::Never, missing(), "failed");
    check(RestartMode::OnFailure, ended(0), "stopped");
    check(RestartMode::OnFailure, ended(1), "pending");
    check(RestartMode::OnFailure, missing(), "pending");
    check(RestartMode::Always, ended(0), "pending");
    check(RestartMode::Always, ended(1), "pending");
}

#[test]
fn an_end_is_told_as_it_was() {
    let check = |goal: Goal, last_run, last_failure, pod, expect: NodeState| {
        let shown = Shown {
            goal,
            last_run,
            last_failure,
            ..Shown::of(pod)
        };
        assert_eq!(shown.node().state, expect);
    };
    let stopped = |exit| NodeState::Stopped { exit };
    let term = Some(Exit::Signal(15));
    for goal in [Goal::Stopped, Goal::GivenUp] {
        check(goal.clone(), over(term), None, None, stopped(term));
        check(goal, None, None, None, stopped(None));
    }
    // Its pod was taken away by somebody: it is to be started again.
    check(Goal::Running, None, None, None, stopped(None));
    check(Goal::Running, None, Some(oops()), None, stopped(None));
    // It had ended before.
    let well = Some(Exit::Code(0));
    check(Goal::Running, over(well), None, None, stopped(well));
    check(Goal::Running, over(well), Some(oops()), None, stopped(well));
    let mut failure = oops();
    failure.log_tail = vec!["last".into()];
    check(
        Goal::Running,
        over(Some(Exit::Code(1))),
        Some(oops()),
        None,
        NodeState::Failed { failure },
    );
    let there = pod(PodPhase::Succeeded, ContainerState::Ended(ended(0)));
    check(Goal::Running, None, None, there, stopped(well));
    let unknown = pod(PodPhase::Succeeded, ContainerState::Unknown);
    check(Goal::Running, None, None, unknown, stopped(well));
    let there = pod(PodPhase::Failed, ContainerState::Ended(ended(42)));
    let node = Shown::of(there).node();
    let failure = node.state.failure().unwrap();
    assert_eq!(failure.reason, FailureReason::Exited);
    assert_eq!(failure.exit, Some(Exit::Code(42)));
    assert_eq!(failure.log_tail, ["last"]);
    assert_eq!(node.last_failure.as_ref(), Some(failure));
}

#[test]
fn what_lost_its_place_waits_for_another() {
    let check = |mode: RestartMode, reason: Option<&str>, expect: &str| {
        let lost = pod(PodPhase::Failed, ContainerState::Ended(ended(137)));
        let shown = Shown {
            config: request().restart(mode).build().unwrap(),
            ..Shown::of(changed(lost, |it| it.reason = reason.map(str::to_owned)))
        };
        let node = shown.node();
        assert_eq!(node.state.as_str(), expect, "{mode} {reason:?}");
        let told = match reason {
            Some(_) => FailureReason::Evicted,
            None => FailureReason::Signaled,
        };
        assert_eq!(node.last_failure.unwrap().reason, told, "{mode} {reason:?}");
    };
    for mode in [RestartMode::OnFailure, RestartMode::Always] {
        check(mode, Some("Evicted"), "stopped");
        check(mode, Some("NodeShutdown"), "stopped");
        check(mode, None, "failed");
    }
    check(RestartMode::Never, Some("Evicted"), "failed");
}

#[test]
fn the_last_failure_is_the_latest_that_is_known() {
    let check = |shown: Shown, expect: Option<FailureReason>| {
        let pod = format!("{:?}", shown.pod);
        let found = shown.node().last_failure.map(|it| it.reason);
        assert_eq!(found, expect, "{pod}");
    };
    use FailureReason::{
        Exited, HostLost, ImageNotFound, ImagePullFailed, Interrupted, NotHealthy, OutOfMemory,
        Signaled, VolumePending,
    };
    let noted = |pod| Shown {
        last_failure: Some(oops()),
        ..Shown::of(pod)
    };
    let runs = || pod(PodPhase::Running, running());
    let after =
        |pod: Option<PodView>, code: i32| changed(pod, |it| it.container.last = Some(ended(code)));
    check(Shown::of(None), None);
    check(noted(None), Some(NotHealthy));
    check(Shown::of(runs()), None);
    check(noted(runs()), Some(NotHealthy));
    check(noted(after(runs(), 1)), Some(Exited));
    check(noted(after(runs(), 0)), Some(NotHealthy));
    let back_off = || pod(PodPhase::Running, waiting("CrashLoopBackOff", ""));
    check(noted(after(back_off(), 139)), Some(Signaled));
    check(Shown::of(after(back_off(), 0)), None);
    let ended = Ended {
        reason: "OOMKilled".into(),
        ..ended(137)
    };
    let between = pod(PodPhase::Running, ContainerState::Ended(ended));
    check(Shown::of(after(between, 1)), Some(OutOfMemory));
    let lost = changed(after(runs(), 1), |it| it.is_host_lost = true);
    check(Shown::of(lost), Some(HostLost));
    // The end of a pod that somebody deletes is no failure of its program, also where it was not seen.
    let unseen = || Ended {
        reason: "ContainerStatusUnknown".into(),
        ..self::ended(137)
    };
    let without = changed(runs(), |it| it.container.last = Some(unseen()));
    check(Shown::of(without.clone()), Some(Interrupted));
    let deleted = changed(without, |it| it.is_terminating = true);
    check(Shown::of(deleted.clone()), None);
    check(noted(deleted), Some(NotHealthy));
    let pulls = || pod(PodPhase::Pending, waiting("ImagePullBackOff", ""));
    let told = |pod, reason, message| Shown {
        words: Some((reason, message)),
        ..Shown::of(pod)
    };
    check(Shown::of(pulls()), Some(ImagePullFailed));
    let missing = "Failed to pull image \"img:1\": not found";
    check(told(pulls(), "Failed", missing), Some(ImageNotFound));
    check(told(pulls(), "BackOff", "Back-off"), Some(ImagePullFailed));
    let creating = || pod(PodPhase::Pending, waiting("ContainerCreating", ""));
    check(Shown::of(creating()), None);
    check(
        told(creating(), "FailedMount", "no volume"),
        Some(VolumePending),
    );
    check(told(runs(), "FailedMount", "no volume"), None);

    // Why a claim has no volume says more than that a pod waits for one, whichever was said last.
    let words = |reason, message| {
        let scheduler =
            "0/1 nodes are available: 1 pod has unbound immediate PersistentVolumeClaims.";
        let waits = pod(PodPhase::Pending, ContainerState::Unknown);
        let waits = changed(waits, |it| it.unscheduled = Some(scheduler.to_owned()));
        let failure = told(waits, reason, message).node().last_failure.unwrap();
        assert_eq!(failure.reason, VolumePending);
        failure.message
    };
    assert_eq!(
        words("ProvisioningFailed", "storageclass \"x\" not found"),
        "its volume is not ready: storageclass \"x\" not found"
    );
    assert!(words("FailedScheduling", "unbound immediate").contains("0/1 nodes"));
}

#[test]
fn health_is_the_clusters_word() {
    let asked = || {
        request()
            .port(80)
            .health(HealthCheck::tcp())
            .build()
            .unwrap()
    };
    let check = |pod: Option<PodView>, words, expect: &str| {
        let text = format!("{pod:?}");
        let shown = Shown {
            config: asked(),
            words,
            ..Shown::of(pod)
        };
        assert_eq!(shown.node().health.as_str(), expect, "{text}");
    };
    let runs = || pod(PodPhase::Running, running());
    let bad = Some((
        "Unhealthy",
        "Readiness probe failed: HTTP probe failed: 503\n",
    ));
    check(runs(), None, "starting");
    check(runs(), Some(("Started", "")), "starting");
    check(runs(), bad, "unhealthy");
    check(changed(runs(), |it| it.was_ready = true), None, "unhealthy");
    check(changed(runs(), |it| it.is_ready = true), None, "healthy");
    // The word is of before.
    check(changed(runs(), |it| it.is_ready = true), bad, "healthy");
    let lost = |it: &mut PodView| it.is_host_lost = true;
    check(changed(runs(), lost), None, "unhealthy");
    check(pod(PodPhase::Pending, waiting("", "")), None, "starting");
    let back_off = pod(PodPhase::Running, waiting("CrashLoopBackOff", ""));
    check(back_off, bad, "starting");
    let deleted = |it: &mut PodView| (it.is_terminating, it.is_ready) = (true, true);
    check(changed(runs(), deleted), None, "unchecked");
    check(
        pod(PodPhase::Failed, ContainerState::Unknown),
        None,
        "unchecked",
    );
    check(None, None, "unchecked");
    let told = Shown {
        config: asked(),
        words: bad,
        ..Shown::of(runs())
    };
    let message = "Readiness probe failed: HTTP probe failed: 503".to_owned();
    assert_eq!(told.node().health, Health::Unhealthy { message });
    let unasked = Shown {
        words: bad,
        ..Shown::of(changed(runs(), |it| it.is_ready = true))
    };
    assert_eq!(unasked.node().health, Health::Unchecked);
    let silent = Shown::of(changed(runs(), lost)).node().health;
    let message = "its host `host-1` cannot be reached".to_owned();
    assert_eq!(silent, Health::Unhealthy { message });
}

#[test]
fn times_and_counts_are_those_of_the_last_run() {
    let check = |pod: Option<PodView>, last_run, expect: (Option<i64>, Option<i64>, u32)| {
        let shown = Shown {
            last_run,
            ..Shown::of(pod)
        };
        let node = shown.node();
        let times = (node.started_at, node.finished_at, node.restarts);
        assert_eq!(times, (expect.0.map(at), expect.1.map(at), expect.2));
    };
    let counted = |state, last| {
        changed(pod(PodPhase::Running, state), |it| {
            it.container.restarts = 2;
            it.container.last = last;
        })
    };
    check(None, None, (None, None, 0));
    check(None, over(None), (Some(1), Some(2), 4));
    let earlier = Ended {
        started_at: Some(at(3)),
        finished_at: Some(at(4)),
        ..ended(1)
    };
    check(
        counted(running(), Some(earlier.clone())),
        over(None),
        (Some(10), None, 2),
    );
    let back_off = waiting("CrashLoopBackOff", "");
    check(
        counted(back_off, Some(earlier)),
        None,
        (Some(3), Some(4), 2),
    );
    let state = ContainerState::Ended(ended(1));
    check(counted(state, None), None, (Some(10), Some(20), 2));
    check(
        counted(ContainerState::Unknown, None),
        over(None),
        (None, None, 2),
    );
}

#[test]
fn a_node_is_shown_with_what_it_was_asked_to_be() {
    let config = request().port(80).label("zone", "north").build().unwrap();
    let record = record(config);
    let claim = claim_view(&record, Goal::Running);
    let there = pod_view(PodPhase::Running, running());
    let shown = |record: &Record, pod: Option<&PodView>| {
        node(&Facts {
            record,
            claim: &claim,
            pod,
            words: None,
            tail: &[],
        })
    };
    let node = shown(&record, Some(&there));
    assert_eq!(node.node_id.as_str(), "n1");
    assert_eq!((&node.uid, &node.digest), (&record.uid, &record.digest));
    assert_eq!(node.platform, "kubernetes");
    assert_eq!(node.native_handle, "sutra-grid-n1");
    assert_eq!(node.labels["zone"], "north");
    assert_eq!((node.pid, node.data_path), (None, None));
    assert_eq!(node.image.as_deref(), Some("img@sha256:1"));
    assert_eq!(node.ports, record.ports);
    assert_eq!(node.endpoint.unwrap().to_string(), "10.0.0.1:80");
    assert_eq!(node.created_at, record.created_at);
    // Of the kind `node-port`: by the host that it is on.
    let mut on_hosts = record.clone();
    on_hosts.host = None;
    let at_host = shown(&on_hosts, Some(&there)).endpoint.unwrap();
    assert_eq!(at_host.to_string(), "192.0.2.1:80");
    assert_eq!(shown(&on_hosts, None).endpoint, None);
    let mut without = record;
    without.ports = [("admin".to_owned(), 81)].into();
    assert_eq!(shown(&without, Some(&there)).endpoint, None);
}

#[test]
fn a_run_is_noted_as_it_ended() {
    let check = |state: ContainerState, last: Option<Ended>, exit: Option<Exit>| {
        let mut pod = pod_view(PodPhase::Running, state);
        pod.container.last = last;
        assert_eq!(run(&pod).exit, exit);
    };
    check(running(), Some(ended(1)), None);
    check(
        ContainerState::Ended(ended(143)),
        Some(ended(1)),
        Some(Exit::Signal(15)),
    );
    check(
        waiting("CrashLoopBackOff", ""),
        Some(ended(1)),
        Some(Exit::Code(1)),
    );
    check(waiting("ContainerCreating", ""), None, None);
    check(ContainerState::Unknown, None, None);
    check(ContainerState::Ended(refused("exec")), None, None);
}
