//! What goes over the wire comes back the same; what must not come back does not.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{collections::BTreeMap, time::Duration};

use grid_platform_api::{
    Bytes, DataPolicy, Digest, DigestKey, Endpoint, Error, ErrorKind, Exit, Failure, FailureReason,
    Health, HealthCheck, LogItem, LogLine, LogPosition, LogSource, NodeId, NodeState, NodeUid,
    Program, ReadyMode, RestartMode, RunAs, SpawnConfig, SpawnedNode, StopPolicy, StopSignal,
    Timestamp,
};
use grid_proto::{
    Fence, Observation, Want, Wish, log_item_from_wire, log_item_to_wire, report_from_json,
    report_to_json, v1,
};
use proptest::{collection, option, prelude::*};

fn config() -> impl Strategy<Value = SpawnConfig> {
    let program = prop_oneof![
        ("/[a-z/]{1,20}", collection::vec("\\PC{0,20}", 0..3))
            .prop_map(|(path, args)| Program::binary(path, args)),
        (
            "[a-z]{1,10}:[a-z0-9]{1,5}",
            collection::vec("\\PC{0,9}", 0..2)
        )
            .prop_map(|(image, args)| Program::image(image, args)),
    ];
    let limits = (
        option::of(1u64..100_000),
        option::of(1u32..64_000),
        option::of(1u64..9_000),
    );
    let maps = (
        collection::btree_map("[A-Z][A-Z0-9_]{0,3}", "\\PC{0,20}", 0..3),
        collection::btree_map("[a-z]{1,8}", collection::vec(any::<u8>(), 0..40), 0..3),
        collection::btree_map("[a-z]{1,8}", "[a-z0-9]{0,8}", 0..3),
    );
    let policies = (
        prop_oneof![
            Just(RestartMode::Never),
            Just(RestartMode::OnFailure),
            Just(RestartMode::Always)
        ],
        0u64..80_000,
        option::of(Just(())),
        option::of("[a-z]{1,8}"),
    );
    (
        "[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
        program,
        any::<u16>(),
        limits,
        maps,
        policies,
    )
        .prop_map(
            |(id, program, port, limits, maps, (restart, grace, healthy, user))| {
                let mut builder = SpawnConfig::builder(id, program)
                    .port(port)
                    .restart(restart)
                    .stop(StopPolicy {
                        signal: StopSignal::Int,
                        grace: Duration::from_millis(grace),
                    });
                if healthy.is_some() {
                    builder =
                        builder
                            .health(HealthCheck::http("/healthz"))
                            .ready(ReadyMode::Healthy {
                                timeout: Duration::from_secs(9),
                            });
                }
                let mut config = builder.build().unwrap();
                config.memory_limit_mb = limits.0;
                config.cpu_limit_millis = limits.1;
                config.open_files_limit = limits.2;
                config.env = maps
                    .0
                    .into_iter()
                    .map(|(k, v)| (format!("X{k}"), v))
                    .collect();
                config.secrets = maps
                    .1
                    .into_iter()
                    .map(|(k, v)| (k, grid_platform_api::SecretValue::new(v)))
                    .collect();
                config.labels = maps.2;
                config.run_as = user.map(|user| RunAs { user, group: None });
                config.validate().unwrap();
                config
            },
        )
}

fn wish() -> impl Strategy<Value = Wish> {
    (config(), any::<u64>(), 0..4).prop_map(|(config, generation, kind)| Wish {
        node_id: config.node_id.clone(),
        generation,
        want: match kind {
            0 => Want::Running(Box::new(config)),
            1 => Want::Stopped(Box::new(config)),
            2 => Want::Removed(DataPolicy::Keep),
            _ => Want::Removed(DataPolicy::Purge),
        },
    })
}

fn failure() -> impl Strategy<Value = Failure> {
    (
        prop_oneof![
            Just(FailureReason::OutOfMemory),
            Just(FailureReason::Exited)
        ],
        "\\PC{0,30}",
        option::of(prop_oneof![
            (0..256).prop_map(Exit::Code),
            (1..64).prop_map(Exit::Signal),
            Just(Exit::Unknown)
        ]),
        collection::vec("\\PC{0,30}", 0..3),
    )
        .prop_map(|(reason, message, exit, log_tail)| Failure {
            reason,
            message,
            exit,
            log_tail,
        })
}

fn node() -> impl Strategy<Value = SpawnedNode> {
    let state = prop_oneof![
        Just(NodeState::Pending),
        Just(NodeState::Running),
        Just(NodeState::Stopping),
        Just(NodeState::Stopped { exit: None }),
        failure().prop_map(|failure| NodeState::Failed { failure }),
    ];
    let health = prop_oneof![
        Just(Health::Unchecked),
        Just(Health::Healthy),
        "\\PC{0,20}".prop_map(|message| Health::Unhealthy { message }),
    ];
    let time = 1i64..4_000_000_000_000;
    (
        config(),
        state,
        health,
        option::of(failure()),
        any::<[u8; 16]>(),
        time,
    )
        .prop_map(
            |(config, state, health, last_failure, uid, at)| SpawnedNode {
                digest: Digest::of(&config, &DigestKey::from_bytes([1; 32])),
                node_id: config.node_id,
                uid: NodeUid::from_bytes(uid),
                platform: "process".into(),
                native_handle: "/x".into(),
                pid: Some(7),
                state,
                health,
                endpoint: Some(Endpoint {
                    host: "127.0.0.1".into(),
                    port: 1,
                }),
                ports: BTreeMap::from([("main".into(), 1)]),
                restarts: 3,
                last_failure,
                created_at: Timestamp::from_millisecond(at).unwrap(),
                started_at: None,
                finished_at: Some(Timestamp::from_millisecond(at).unwrap()),
                image: Some("x@sha256:1".into()),
                data_path: Some("/data".into()),
                labels: config.labels,
            },
        )
}

fn log_item() -> impl Strategy<Value = LogItem> {
    prop_oneof![
        (
            "[0-9:]{1,10}",
            option::of(1i64..4_000_000_000_000),
            collection::vec(any::<u8>(), 0..100),
            any::<bool>()
        )
            .prop_map(|(position, at, bytes, partial)| LogItem::Line(LogLine {
                position: LogPosition::new(position),
                at: at.map(|ms| Timestamp::from_millisecond(ms).unwrap()),
                source: LogSource::Stderr,
                bytes: Bytes::from(bytes),
                partial,
            })),
        ("[0-9]{1,4}", "[0-9]{1,4}", "\\PC{0,20}").prop_map(|(from, to, reason)| LogItem::Gap {
            from: LogPosition::new(from),
            to: LogPosition::new(to),
            reason,
        }),
    ]
}

proptest! {
    #[test]
    fn wishes(wish in wish()) {
        let wire = v1::DesiredNode::from(&wish);
        for secret in wire.secrets.values().filter(|s| s.len() > 12) {
            let text = String::from_utf8_lossy(secret);
            prop_assert!(!wire.spec_json.contains(&*text));
        }
        prop_assert_eq!(Wish::try_from(wire).unwrap(), wish);
    }

    #[test]
    fn digests_outlive_the_wire_and_tell_requests_apart(one in config(), other in config(), first in any::<[u8; 32]>()) {
        let key = DigestKey::from_bytes(first);
        let digest = Digest::of(&one, &key);
        let wish = Wish { node_id: one.node_id.clone(), generation: 1, want: Want::Running(Box::new(one.clone())) };
        let Want::Running(sent) = Wish::try_from(v1::DesiredNode::from(&wish)).unwrap().want else {
            return Err(TestCaseError::fail("another wish"));
        };
        prop_assert_eq!(&Digest::of(&sent, &key), &digest);
        prop_assert!(sent.same_request(&one, &digest, &key));
        prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest.clone());
        // No settings of adapters are among these, and nothing else is left out.
        prop_assert_eq!(one == other, digest == Digest::of(&other, &key));
        let mut renamed = one.clone();
        renamed.labels.insert("digest".into(), "another".into());
        prop_assert_ne!(&Digest::of(&renamed, &key), &digest);
        let mut other_key = first;
        other_key[0] ^= 1;
        let under_another = Digest::of(&one, &DigestKey::from_bytes(other_key));
        prop_assert_eq!(one.secrets.is_empty(), under_another == digest);
    }

    #[test]
    fn observations(node in node(), managed in any::<bool>()) {
        let observation = Observation { node, managed };
        let wire = v1::NodeObserved::from(&observation);
        prop_assert_eq!(Observation::try_from(wire).unwrap(), observation);
    }

    #[test]
    fn log_items(item in log_item()) {
        prop_assert_eq!(log_item_from_wire(log_item_to_wire(item.clone())).unwrap(), item);
    }

    #[test]
    fn reports(message in "\\PC{0,40}", failure in failure()) {
        let id = NodeId::new("n1").unwrap();
        let error = Error::spawn_failed(&id, failure).with_source(std::io::Error::other(message));
        let report = error.with_operation("spawn_node").to_report();
        prop_assert_eq!(report_from_json(&report_to_json(&report)), Some(report));
    }

    #[test]
    fn fences(grid_id in "[a-z]{1,9}", epoch in any::<u64>(), revision in any::<u64>(), lineage in "[0-9a-f]{0,9}") {
        let fence = Fence { grid_id, epoch, revision, lineage };
        prop_assert_eq!(Fence::try_from(v1::Fence::from(&fence)).unwrap(), fence);
    }
}

fn wire() -> v1::DesiredNode {
    let config = SpawnConfig::builder("n1", Program::binary("/bin/true", [""; 0]))
        .secret("token", "hunter2".into())
        .build()
        .unwrap();
    v1::DesiredNode::from(&Wish {
        node_id: config.node_id.clone(),
        generation: 1,
        want: Want::Running(Box::new(config)),
    })
}

#[test]
fn requests_are_read_strictly() {
    let check = |what: &str, change: fn(&mut v1::DesiredNode)| {
        let mut node = wire();
        change(&mut node);
        let error = Wish::try_from(node).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{what}");
        assert!(!format!("{error:?}").contains("hunter2"), "{what}");
    };
    assert!(Wish::try_from(wire()).is_ok());
    check("id", |node| node.node_id = "../x".into());
    check("state", |node| node.state = 77);
    check("another node's request", |node| node.node_id = "n2".into());
    check("an unknown field", |node| {
        node.spec_json = node.spec_json.replacen('{', r#"{"newer":1,"#, 1);
    });
    check("no request", |node| node.spec_json.clear());
    check("a secret without a value", |node| node.secrets.clear());
    check("a value without a secret", |node| {
        node.secrets.insert("other".into(), vec![1]);
    });
}

#[test]
fn a_fence_names_its_grid() {
    assert!(Fence::try_from(v1::Fence::default()).is_err());
}

#[test]
fn a_newer_reason_does_not_hide_the_node() {
    let config = SpawnConfig::builder("n1", Program::binary("/bin/true", [""; 0]))
        .build()
        .unwrap();
    let json = serde_json::json!({
        "node_id": "n1", "uid": "0".repeat(32), "platform": "process", "native_handle": "x",
        "state": {"phase": "failed", "failure": {"reason": "too_hot", "message": "90 degrees"}},
        "restarts": 0, "created_at": "2026-01-02T03:04:05Z",
        "digest": Digest::of(&config, &DigestKey::from_bytes([1; 32])), "newer": true,
    });
    let observed = Observation::try_from(v1::NodeObserved {
        node_json: json.to_string(),
        managed: true,
    })
    .unwrap();
    let failure = observed.node.state.failure().unwrap();
    assert_eq!(failure.reason, FailureReason::PlatformRefused);
    assert_eq!(failure.message, "90 degrees");
}
