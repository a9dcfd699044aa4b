use serde_json::{Value, json};

use super::{
    super::{
        Frame, Goal, claim,
        tests::{at, owner, record, request, settings, uid},
    },
    *,
};

fn labels() -> Value {
    json!({
        "sutra.grid": "true",
        "sutra.node_id": "n1",
        "sutra.owner": owner().as_str(),
        "sutra.node_uid": uid().as_str(),
    })
}

/// Reads a pod with this status.
fn of_status(status: Value) -> PodView {
    of_pod(json!({ "status": status }))
}

fn of_pod(mut pod: Value) -> PodView {
    let meta =
        json!({ "name": "sutra-grid-n1", "uid": "u", "resourceVersion": "5", "labels": labels() });
    match pod.get_mut("metadata") {
        Some(more) => {
            let added = meta.as_object().unwrap().clone();
            more.as_object_mut().unwrap().extend(added);
        }
        None => pod["metadata"] = meta,
    }
    match read_pod(&serde_json::from_value(pod).unwrap(), &owner()) {
        Read::Ours(view) => view,
        other => panic!("it is ours: {other:?}"),
    }
}

/// The status of a pod whose container is in this state.
fn with_state(state: Value) -> Value {
    json!({ "phase": "Running", "containerStatuses": [{
        "name": "node",
        "image": "img:1",
        "imageID": "",
        "ready": false,
        "restartCount": 0,
        "state": state,
    }] })
}

#[test]
fn an_object_is_whose_label_says_so() {
    let check = |labels: Value, expect: Read<Option<String>>| {
        let meta: ObjectMeta = serde_json::from_value(json!({ "labels": labels })).unwrap();
        assert_eq!(ownership(&meta, &owner()), expect);
    };
    check(labels(), Read::Ours(Some(uid().to_string())));
    let bare = json!({ "sutra.owner": owner().as_str() });
    check(bare, Read::Ours(None));
    let other = json!({ "sutra.owner": "other", "sutra.node_uid": "1" });
    check(other, Read::Theirs(Some("other".into())));
    check(json!({ "sutra.grid": "true" }), Read::Theirs(None));
    check(Value::Null, Read::Theirs(None));
}

/// A claim of ours, changed so.
fn claimed(change: impl FnOnce(&mut Value)) -> Read<ClaimView> {
    let (settings, owner) = (settings(|_| {}), owner());
    let frame = Frame {
        owner: &owner,
        config: &settings,
    };
    let record = record(request().port(0).build().unwrap());
    let claim = claim(frame, &record, &Notes::default());
    let mut claim = serde_json::to_value(claim).unwrap();
    change(&mut claim);
    read_claim(&serde_json::from_value(claim).unwrap(), &owner)
}

fn view(change: impl FnOnce(&mut Value)) -> ClaimView {
    match claimed(change) {
        Read::Ours(view) => view,
        other => panic!("it is ours: {other:?}"),
    }
}

#[test]
fn a_claim_tells_of_its_node() {
    let plain = view(|it| {
        it["metadata"]["uid"] = json!("u");
        it["metadata"]["resourceVersion"] = json!("5");
    });
    assert_eq!(plain.node_id.as_str(), "n1");
    assert_eq!((&*plain.uid, &*plain.resource_version), ("u", "5"));
    assert!(!plain.is_bound && !plain.is_terminating);
    assert_eq!(plain.record.unwrap().uid, uid());
    assert_eq!(plain.bytes, Some(1 << 30));
    assert!(view(|it| it["status"] = json!({ "phase": "Bound" })).is_bound);
    assert!(!view(|it| it["status"] = json!({ "phase": "Lost" })).is_bound);
    let deleted = json!("2026-01-02T03:04:05Z");
    assert!(view(|it| it["metadata"]["deletionTimestamp"] = deleted).is_terminating);
    let kept = view(|it| it["metadata"]["annotations"] = json!({ "sutra.grid/notes": "?" }));
    assert_eq!((kept.record, kept.notes), (None, Notes::default()));
    let stopped = json!(r#"{"goal":{"kind":"stopped"}}"#);
    let stopped = view(|it| it["metadata"]["annotations"]["sutra.grid/notes"] = stopped);
    assert_eq!(stopped.notes.goal, Goal::Stopped);
    // Its label alone may be gone.
    view(|it| {
        let labels = it["metadata"]["labels"].as_object_mut().unwrap();
        labels.remove("sutra.node_id").unwrap();
    });
}

#[test]
fn a_claim_that_cannot_be_understood_is_damaged() {
    let check = |expect: &str, change: &dyn Fn(&mut Value)| match claimed(change) {
        Read::Damaged(why) => assert!(why.contains(expect), "{why}"),
        other => panic!("{expect}: {other:?}"),
    };
    let record = |change: &dyn Fn(&mut Value)| {
        let text = serde_json::to_string(&super::super::tests::record(request().build().unwrap()));
        let mut record = serde_json::from_str(&text.unwrap()).unwrap();
        change(&mut record);
        json!(record.to_string())
    };
    let at = |it: &mut Value, key: &str, value: Value| it["metadata"]["annotations"][key] = value;
    check("sutra.grid/record", &|it| {
        at(it, "sutra.grid/record", json!("{"))
    });
    check("sutra.grid/notes", &|it| {
        at(it, "sutra.grid/notes", json!("{"))
    });
    check("no annotation `sutra.grid/notes`", &|it| {
        let annotations = it["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.remove("sutra.grid/notes").unwrap();
    });
    check("of the version 2", &|it| {
        at(
            it,
            "sutra.grid/record",
            record(&|it| it["version"] = json!(2)),
        );
    });
    check("of the node `n2`", &|it| {
        let other = record(&|it| it["config"]["node_id"] = json!("n2"));
        at(it, "sutra.grid/record", other);
    });
    check("is `n2`", &|it| {
        it["metadata"]["labels"]["sutra.node_id"] = json!("n2")
    });
    check("is not that of a node", &|it| {
        it["metadata"]["name"] = json!("mine")
    });
    let theirs = claimed(|it| it["metadata"]["labels"]["sutra.owner"] = json!("other"));
    assert_eq!(theirs, Read::Theirs(Some("other".into())));
}

#[test]
fn quantities_are_read_as_they_are_written() {
    let check = |text: &str, expect: Option<f64>| assert_eq!(quantity(text), expect, "{text}");
    check("0", Some(0.0));
    check("1024", Some(1024.0));
    check("1Ki", Some(1024.0));
    check("1.5Gi", Some(1.5 * 1024.0 * 1024.0 * 1024.0));
    check("2M", Some(2e6));
    check("1E", Some(1e18));
    check("1Ei", Some(1024_f64.powi(6)));
    check("1e3", Some(1000.0));
    check("1E3", Some(1000.0));
    check("500m", Some(0.5));
    for none in ["", "Gi", "1Xi", "-1", "1e", "1.2.3"] {
        check(none, None);
    }
    assert_eq!(whole(0.5), 1);
    assert_eq!(whole(1e30), u64::MAX);
}

#[test]
fn a_pod_tells_of_itself() {
    let view = of_pod(json!({
        "metadata": { "deletionTimestamp": "2026-01-02T03:04:05Z" },
        "spec": { "containers": [], "nodeName": "host-1" },
        "status": {
            "phase": "Failed",
            "reason": "Evicted",
            "message": "disk",
            "hostIP": "192.0.2.1",
            "podIP": "10.1.0.1",
        },
    }));
    assert_eq!(view.node_id.as_str(), "n1");
    assert_eq!(view.node_uid, Some(uid()));
    assert_eq!((&*view.uid, &*view.resource_version), ("u", "5"));
    assert!(view.is_terminating);
    assert_eq!(view.phase, PodPhase::Failed);
    let texts = [view.reason, view.message, view.host, view.host_ip, view.ip];
    let expect = ["Evicted", "disk", "host-1", "192.0.2.1", "10.1.0.1"];
    assert_eq!(texts.map(Option::unwrap), expect);
    let none = of_status(json!({}));
    assert_eq!(none.phase, PodPhase::Pending);
    assert_eq!((none.host, none.reason), (None, None));
    assert_eq!(none.container, ContainerView::default());
    for (name, phase) in [
        ("Pending", PodPhase::Pending),
        ("Running", PodPhase::Running),
        ("Succeeded", PodPhase::Succeeded),
        ("Unknown", PodPhase::Unknown),
    ] {
        assert_eq!(of_status(json!({ "phase": name })).phase, phase);
    }
}

#[test]
fn a_pod_of_another_name_is_not_understood() {
    let meta = json!({ "name": "mine", "labels": labels() });
    let pod = serde_json::from_value(json!({ "metadata": meta })).unwrap();
    assert!(matches!(read_pod(&pod, &owner()), Read::Damaged(_)));
    let meta = json!({ "name": "sutra-grid-n1" });
    let pod = serde_json::from_value(json!({ "metadata": meta })).unwrap();
    assert_eq!(read_pod(&pod, &owner()), Read::Theirs(None));
}

#[test]
fn the_nodes_own_container_is_found_among_others() {
    let view = of_status(json!({ "phase": "Running", "containerStatuses": [
        { "name": "proxy", "image": "p", "imageID": "p", "ready": true, "restartCount": 9 },
        {
            "name": "node",
            "image": "img:1",
            "imageID": "docker-pullable://img@sha256:1",
            "containerID": "containerd://c1",
            "ready": true,
            "restartCount": 2,
            "state": { "running": { "startedAt": "1970-01-01T00:00:10Z" } },
            "lastState": { "terminated": {
                "exitCode": 137,
                "reason": "OOMKilled",
                "startedAt": "1970-01-01T00:00:01Z",
                "finishedAt": "1970-01-01T00:00:02Z",
            } },
        },
    ] }));
    let last = Ended {
        exit_code: 137,
        reason: "OOMKilled".into(),
        started_at: Some(at(1)),
        finished_at: Some(at(2)),
        ..Ended::default()
    };
    let expect = ContainerView {
        state: ContainerState::Running {
            started_at: Some(at(10)),
        },
        last: Some(last),
        restarts: 2,
        is_ready: true,
        image: Some("img@sha256:1".into()),
        id: Some("containerd://c1".into()),
    };
    assert_eq!(view.container, expect);
}

#[test]
fn states_of_containers() {
    let check = |state: Value, expect: ContainerState| {
        assert_eq!(of_status(with_state(state)).container.state, expect);
    };
    check(Value::Null, ContainerState::Unknown);
    check(json!({}), ContainerState::Unknown);
    let waits = |reason: &str, message: &str| ContainerState::Waiting {
        reason: reason.into(),
        message: message.into(),
    };
    check(json!({ "waiting": {} }), waits("", ""));
    let waiting = json!({ "reason": "ErrImagePull", "message": "why" });
    check(json!({ "waiting": waiting }), waits("ErrImagePull", "why"));
    check(
        json!({ "running": {} }),
        ContainerState::Running { started_at: None },
    );
    let ended = Ended {
        exit_code: 1,
        signal: Some(9),
        reason: "Error".into(),
        ..Ended::default()
    };
    let never = "1970-01-01T00:00:00Z";
    let terminated = json!({
        "exitCode": 1, "signal": 9, "reason": "Error", "startedAt": never, "finishedAt": null,
    });
    check(
        json!({ "terminated": terminated }),
        ContainerState::Ended(ended),
    );
}

#[test]
fn a_time_is_told_to_its_nanosecond() {
    let time: Time = serde_json::from_value(json!("2026-01-02T03:04:05.123456789Z")).unwrap();
    let read = super::time(Some(&time)).unwrap();
    assert_eq!(read.to_string(), "2026-01-02T03:04:05.123456789Z");
    let never: Time = serde_json::from_value(json!("0001-01-01T00:00:00Z")).unwrap();
    assert_eq!(super::time(Some(&never)), None);
}

#[test]
fn the_schedulers_word_is_told() {
    let check = |condition: Value, expect: Option<&str>| {
        let view = of_status(json!({ "conditions": [condition] }));
        assert_eq!(view.unscheduled.as_deref(), expect);
    };
    let said = |status: &str, reason: &str| json!({ "type": "PodScheduled", "status": status, "reason": reason, "message": "no room" });
    check(said("False", "Unschedulable"), Some("no room"));
    check(said("False", "SchedulerError"), None);
    check(said("True", ""), None);
    check(json!({ "type": "Ready", "status": "False" }), None);
}

/// A status with these conditions, of a container that runs since the tenth second.
fn with_conditions(ready: bool, conditions: Value) -> Value {
    let mut status = with_state(json!({ "running": { "startedAt": "1970-01-01T00:00:10Z" } }));
    status["containerStatuses"][0]["ready"] = json!(ready);
    status["conditions"] = conditions;
    status
}

#[test]
fn readiness_is_told_and_whether_it_was_lost() {
    let check = |status: &str, second: &str, expect: (bool, bool)| {
        let since = format!("1970-01-01T00:00:{second}Z");
        let ready = json!({ "type": "Ready", "status": status, "lastTransitionTime": since });
        let view = of_status(with_conditions(status == "True", json!([ready])));
        assert_eq!((view.is_ready, view.was_ready), expect, "{status} {second}");
    };
    check("True", "12", (true, false));
    // Never yet: it was not ready from when the pod was made.
    check("False", "08", (false, false));
    check("False", "10", (false, false));
    check("False", "15", (false, true));
    let none = of_status(with_conditions(false, json!([])));
    assert_eq!((none.is_ready, none.was_ready), (false, false));
    // What is beside it is not ready, and so the pod is not.
    let is = |name: &str, status: &str| json!({ "type": name, "status": status });
    let unready = json!([is("Ready", "False"), is("ContainersReady", "False")]);
    assert!(of_status(with_conditions(true, unready)).is_ready);
    // Its host is silent: the control plane takes back the pod's readiness alone.
    let taken_back = json!([is("Ready", "False"), is("ContainersReady", "True")]);
    assert!(!of_status(with_conditions(true, taken_back)).is_ready);
}

#[test]
fn hosts_that_are_given_up_are_known() {
    let check = |expect: bool, pod: Value| {
        let text = pod.to_string();
        assert_eq!(of_pod(pod).is_host_lost, expect, "{text}");
    };
    let alive =
        |ready: bool, conditions: Value| json!({ "status": with_conditions(ready, conditions) });
    let is = |name: &str, status: &str| json!({ "type": name, "status": status });
    check(
        true,
        json!({ "status": { "phase": "Unknown", "reason": "NodeLost" } }),
    );
    let taken_back = json!([is("Ready", "False"), is("ContainersReady", "True")]);
    check(true, alive(true, taken_back.clone()));
    check(false, alive(false, taken_back));
    let unready = json!([is("Ready", "False"), is("ContainersReady", "False")]);
    check(false, alive(true, unready.clone()));
    check(false, alive(false, unready));
    let serves = json!([is("Ready", "True"), is("ContainersReady", "True")]);
    check(false, alive(true, serves));
    let mut gated = is("Ready", "False");
    gated["reason"] = json!("ReadinessGatesNotReady");
    check(
        false,
        alive(true, json!([gated, is("ContainersReady", "True")])),
    );
    let driven = |reason: &str, deleted: bool, state: Value| {
        let mut status = with_state(state);
        status["conditions"] =
            json!([{ "type": "DisruptionTarget", "status": "True", "reason": reason }]);
        let meta = match deleted {
            true => json!({ "deletionTimestamp": "2026-01-02T03:04:05Z" }),
            false => json!({}),
        };
        json!({ "metadata": meta, "status": status })
    };
    let runs = || json!({ "running": {} });
    for reason in [
        "DeletionByTaintManager",
        "DeletionByPodGC",
        "TerminationByKubelet",
    ] {
        check(true, driven(reason, true, runs()));
        check(false, driven(reason, false, runs()));
        check(
            false,
            driven(reason, true, json!({ "terminated": { "exitCode": 0 } })),
        );
    }
    check(false, driven("EvictionByEvictionAPI", true, runs()));
}
