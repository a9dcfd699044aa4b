use grid_platform_api::{FailureReason, RestartMode, SecretValue};

use super::{
    super::{
        Goal, Read, read_claim,
        tests::{owner, record, request, settings, uid},
    },
    *,
};
use crate::config::KubernetesConfig;

fn frame<'a>(owner: &'a grid_platform_api::OwnerId, config: &'a KubernetesConfig) -> Frame<'a> {
    Frame { owner, config }
}

#[test]
fn objects_are_named_and_labelled_after_their_node() {
    let settings = settings(|it| {
        it.install = "blue".into();
        it.overlay.annotations = [("team/x".to_owned(), "y".to_owned())].into();
    });
    let config = request().port(0).secret("s", "v".into()).build().unwrap();
    let record = record(config.clone());
    let owner = owner();
    let frame = frame(&owner, &settings);
    let service = service(frame, &record.uid, &config, &record.inside).unwrap();
    let secret = secret(frame, &record.uid, &config).unwrap();
    let claim = claim(frame, &record, &Notes::default());
    let pod = super::super::pod(frame, &record);
    let check = |meta: &ObjectMeta, is_overlaid: bool| {
        assert_eq!(meta.name.as_deref(), Some("sutra-grid-n1"));
        assert_eq!(meta.namespace.as_deref(), Some("ns"));
        assert_eq!(meta.owner_references, None);
        let labels = serde_json::to_value(meta.labels.as_ref().unwrap()).unwrap();
        let expect = serde_json::json!({
            "sutra.grid": "true",
            "sutra.node_id": "n1",
            "sutra.owner": "09".repeat(16),
            "sutra.node_uid": "07".repeat(16),
            "sutra.install": "blue",
            "app.kubernetes.io/name": "sutra-grid-node",
            "app.kubernetes.io/instance": "n1",
            "app.kubernetes.io/managed-by": "sutra-grid",
        });
        assert_eq!(labels, expect);
        let annotations = meta.annotations.as_ref();
        let added = annotations.and_then(|it| it.get("team/x"));
        assert_eq!(added.is_some(), is_overlaid);
    };
    check(&claim.metadata, true);
    check(&service.metadata, true);
    check(&pod.metadata, true);
    check(&secret.metadata, false);
}

#[test]
fn claims_are_as_large_as_is_asked_for() {
    let check = |asked: Option<u64>, overlay: Option<u64>, expect: &str| {
        let settings = settings(|it| it.overlay.storage_size_mb = overlay);
        let mut config = request().build().unwrap();
        config.storage_size_mb = asked;
        let owner = owner();
        let claim = claim(frame(&owner, &settings), &record(config), &Notes::default());
        let spec = claim.spec.unwrap();
        assert_eq!(spec.access_modes.unwrap(), ["ReadWriteOnce"]);
        assert_eq!(spec.storage_class_name, None);
        let requests = spec.resources.unwrap().requests.unwrap();
        assert_eq!(requests["storage"].0, expect);
    };
    check(None, None, "1024Mi");
    check(None, Some(7), "7Mi");
    check(Some(5), Some(7), "5Mi");
    let settings = settings(|it| it.overlay.storage_class = Some("fast".into()));
    let owner = owner();
    let record = record(request().build().unwrap());
    let claim = claim(frame(&owner, &settings), &record, &Notes::default());
    let class = claim.spec.unwrap().storage_class_name;
    assert_eq!(class.as_deref(), Some("fast"));
}

#[test]
fn a_claim_is_the_record_without_what_is_secret() {
    let config = request()
        .port(80)
        .label("zone", "north")
        .secret("password", "hunter2".into())
        .secret_env("PASSWORD", "password")
        .restart(RestartMode::Always)
        .build()
        .unwrap();
    let settings = settings(|_| {});
    let (record, owner) = (record(config), owner());
    let notes = Notes {
        goal: Goal::Stopped,
        ..Notes::default()
    };
    let made = claim(frame(&owner, &settings), &record, &notes);
    assert!(!serde_json::to_string(&made).unwrap().contains("hunter2"));
    let Read::Ours(view) = read_claim(&made, &owner) else {
        panic!("it is ours");
    };
    let read = view.record.unwrap();
    assert!(read.config.secrets["password"].is_withheld());
    let mut expect = record.clone();
    expect
        .config
        .secrets
        .insert("password".into(), SecretValue::withheld());
    assert_eq!(read, expect);
    assert_eq!(view.notes, notes);
    assert_eq!(view.bytes, Some(1 << 30));
}

#[test]
fn what_a_program_wrote_leaves_room_in_the_notes() {
    let check = |lines: &[usize], kept: usize| {
        let mut failure = Failure::new(FailureReason::Exited, "why");
        failure.log_tail = lines.iter().map(|len| "x".repeat(*len)).collect();
        let notes = Notes {
            goal: Goal::Failed {
                failure: failure.clone(),
            },
            last_failure: Some(failure.clone()),
            last_run: None,
        };
        let read: Notes = serde_json::from_str(&notes_text(&notes)).unwrap();
        let first = lines.len() - kept;
        let Goal::Failed { failure: goal } = read.goal else {
            panic!("it failed");
        };
        assert_eq!(goal.log_tail, failure.log_tail[first..]);
        assert_eq!(read.last_failure.unwrap(), goal);
    };
    check(&[], 0);
    check(&[10, 20], 2);
    check(&[1, 8000, 100], 3);
    check(&[100, 8000, 100], 2);
    check(&[1, 8000, 200], 1);
    check(&[1, 9000], 0);
}

#[test]
fn a_record_has_to_have_room() {
    let with = |bytes: usize| {
        let config = request()
            .env("A", "x".repeat(bytes))
            .env("B", "x".repeat(bytes));
        check_room(&record(config.build().unwrap()))
    };
    assert!(with(10_000).is_ok());
    assert!(with(90_000).is_ok());
    let error = with(95_000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.hint().is_some());
}

#[test]
fn a_service_leads_to_the_ports_of_its_kind() {
    let check = |kind: ServiceKind, type_: &str, address: Option<&str>| {
        let settings = settings(|it| it.overlay.service = kind);
        let config = request()
            .port(6379)
            .named_port("peer-a", 0)
            .build()
            .unwrap();
        let (record, owner) = (record(config), owner());
        let frame = frame(&owner, &settings);
        let made = service(frame, &record.uid, &record.config, &record.inside).unwrap();
        let spec = made.spec.unwrap();
        assert_eq!(spec.type_.as_deref(), Some(type_), "{kind:?}");
        assert_eq!(spec.cluster_ip.as_deref(), address, "{kind:?}");
        let early = spec.publish_not_ready_addresses;
        assert_eq!(early, address.map(|_| true), "{kind:?}");
        let selector = spec.selector.unwrap();
        assert_eq!(selector[label::UID], uid().as_str());
        assert_eq!(selector[label::OWNER], owner.as_str());
        let ports = spec.ports.unwrap();
        let found = ports.iter().map(|it| {
            assert_eq!(it.target_port, Some(IntOrString::Int(it.port)));
            assert_eq!(it.protocol.as_deref(), Some("TCP"));
            assert_eq!(it.node_port, None);
            (it.name.as_deref().unwrap(), it.port)
        });
        assert_eq!(
            found.collect::<Vec<_>>(),
            [("main", 6379), ("peer-a", 20_000)]
        );
    };
    check(ServiceKind::ClusterIp, "ClusterIP", None);
    check(ServiceKind::Headless, "ClusterIP", Some("None"));
    check(ServiceKind::NodePort, "NodePort", None);
    let settings = settings(|_| {});
    let owner = owner();
    let config = request().build().unwrap();
    let none = service(frame(&owner, &settings), &uid(), &config, &BTreeMap::new());
    assert_eq!(none, None);
}

#[test]
fn clients_are_led_by_what_the_cluster_answered() {
    let check = |answer: &dyn Fn(&mut ServiceSpec), host: Option<&str>, port: Option<u16>| {
        let settings = settings(|it| {
            it.advertise_address = host.filter(|it| *it == "nodes.example").map(str::to_owned);
        });
        let config = request().port(6379).build().unwrap();
        let (record, owner) = (record(config), owner());
        let frame = frame(&owner, &settings);
        let mut made = service(frame, &record.uid, &record.config, &record.inside).unwrap();
        answer(made.spec.as_mut().unwrap());
        let (found, ports) = service_place(frame, &made);
        assert_eq!(found.as_deref(), host);
        assert_eq!(ports.get("main").copied(), port);
    };
    let address = |it: &mut ServiceSpec| it.cluster_ip = Some("10.96.0.7".into());
    check(&address, Some("10.96.0.7"), Some(6379));
    let six = |it: &mut ServiceSpec| it.cluster_ip = Some("fd00::7".into());
    check(&six, Some("fd00::7"), Some(6379));
    let none = |it: &mut ServiceSpec| it.cluster_ip = Some("None".into());
    check(&none, Some("sutra-grid-n1.ns.svc"), Some(6379));
    check(&|it| it.cluster_ip = Some(String::new()), None, Some(6379));
    let on_hosts = |it: &mut ServiceSpec| {
        address(it);
        it.type_ = Some("NodePort".into());
        it.ports.as_mut().unwrap()[0].node_port = Some(30_000);
    };
    check(&on_hosts, Some("nodes.example"), Some(30_000));
    check(&on_hosts, None, Some(30_000));
    let unanswered = |it: &mut ServiceSpec| it.type_ = Some("NodePort".into());
    check(&unanswered, None, None);
}

#[test]
fn names_of_ports_are_as_services_take_them() {
    let check = |name: &str| {
        let named = port_name(name);
        assert!(named.len() <= 63 && !named.ends_with('-'), "{named}");
        assert_eq!(read_port_name(&named), name);
    };
    let (long, dashes) = ("a".repeat(40), format!("a{}", "-".repeat(39)));
    for name in ["main", "a-b", "a-", "a--", "a-0", "a-00", &*long, &*dashes] {
        check(name);
    }
    assert_eq!(port_name("main"), "main");
}

#[test]
fn secrets_are_as_they_were_given() {
    let settings = settings(|_| {});
    let owner = owner();
    let frame = frame(&owner, &settings);
    let config = request()
        .secret("text", "hunter2".into())
        .secret("bytes", SecretValue::new([0, 255]))
        .build()
        .unwrap();
    let made = secret(frame, &uid(), &config).unwrap();
    let data = made.data.unwrap();
    assert_eq!(data["text"].0, b"hunter2");
    assert_eq!(data["bytes"].0, [0, 255]);
    assert_eq!(made.type_.as_deref(), Some("Opaque"));
    assert_eq!(secret(frame, &uid(), &request().build().unwrap()), None);
}
