use serde_json::json;

use super::*;

#[test]
fn faults_are_found() {
    let check = |expect: Option<&str>, change: &dyn Fn(&mut KubernetesConfig)| {
        let mut config = KubernetesConfig::new("ns");
        change(&mut config);
        match (config.validate().err(), expect) {
            (None, None) => {}
            (Some(error), Some(key)) => {
                assert_eq!(error.kind(), ErrorKind::InvalidConfig);
                let told = error.to_string();
                assert!(told.contains(key), "{key}: {told}");
                assert!(
                    !told.ends_with('.') && !told.contains(char::is_control),
                    "{told}"
                );
                let hint = error.hint().unwrap();
                assert!(hint.ends_with('.'), "{hint}");
            }
            (error, expect) => panic!("{expect:?}: {error:?}"),
        }
    };
    check(None, &|_| {});
    for name in ["", "Ns", "a.b", "-a", "a-", "a\n", &*"a".repeat(64)] {
        check(Some("`namespace`"), &|it| it.namespace = name.into());
        check(Some("`install`"), &|it| it.install = name.into());
    }
    check(None, &|it| it.namespace = "0-a".into());
    check(None, &|it| it.install = "a".repeat(63));
    for path in ["kubeconfig", "", "/a/../b", "/a\n"] {
        check(Some("`kubeconfig`"), &|it| {
            it.kubeconfig = Some(path.into())
        });
    }
    check(None, &|it| it.kubeconfig = Some("/etc/kubeconfig".into()));
    check(Some("`context`"), &|it| it.context = Some(String::new()));
    check(Some("`context`"), &|it| it.context = Some("a\u{1b}".into()));
    check(None, &|it| it.context = Some("admin@cluster".into()));
    check(Some("`images`"), &|it| {
        it.images = Allow::Only(vec!["a b".into()])
    });
    check(Some("`images`"), &|it| {
        it.images = Allow::Only(vec![String::new()])
    });
    check(None, &|it| {
        it.images = Allow::Only(vec!["r.example/a:1".into()])
    });
    check(None, &|it| it.images = Allow::Any);
    for user in [
        "",
        "0",
        "0:0",
        "00",
        "redis",
        "1:redis",
        "1:",
        ":1",
        "-1",
        "2147483648",
        "1:2:3",
    ] {
        check(Some("`user`"), &|it| it.user = user.into());
        check(Some("`users`"), &|it| {
            it.users = vec!["1".into(), user.into()]
        });
    }
    check(None, &|it| it.user = "1000".into());
    check(None, &|it| it.user = "1000:0".into());
    check(None, &|it| it.user = "2147483647:5".into());
    for address in ["", "a b", "http://a", "a:80", "a/b", "[::1]"] {
        check(Some("`advertise_address`"), &|it| {
            it.advertise_address = Some(address.into())
        });
    }
    for address in ["nodes.Example", "192.0.2.1", "fd00::1"] {
        check(None, &|it| it.advertise_address = Some(address.into()));
    }
    check(Some("`start_timeout_s`"), &|it| it.start_timeout_s = 0);
    check(Some("`start_timeout_s`"), &|it| {
        it.start_timeout_s = u64::MAX
    });
}

#[test]
fn faults_of_the_overlay_are_found() {
    let check = |expect: Option<&str>, change: &dyn Fn(&mut Overlay)| {
        let mut config = KubernetesConfig::new("ns");
        change(&mut config.overlay);
        match (config.validate().err(), expect) {
            (None, None) => {}
            (Some(error), Some(key)) => {
                let told = error.to_string();
                assert!(
                    told.starts_with(&format!("`overlay.{key}")),
                    "{key}: {told}"
                );
                assert!(error.hint().is_some(), "{told}");
            }
            (error, expect) => panic!("{expect:?}: {error:?}"),
        }
    };
    check(Some("storage_size_mb"), &|it| it.storage_size_mb = Some(0));
    check(Some("storage_size_mb"), &|it| {
        it.storage_size_mb = Some(u64::MAX)
    });
    check(None, &|it| it.storage_size_mb = Some(1 << 30));
    for name in ["", "A", "a/b", "a..b", "a.", "a\n"] {
        check(Some("storage_class"), &|it| {
            it.storage_class = Some(name.into())
        });
        check(Some("service_account"), &|it| {
            it.service_account = Some(name.into())
        });
        check(Some("pull_secrets"), &|it| {
            it.pull_secrets = vec!["a".into(), name.into()]
        });
    }
    check(None, &|it| it.storage_class = Some("fast.ssd-1".into()));
    let selector = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    check(None, &|it| {
        it.node_selector = selector("kubernetes.io/os", "linux")
    });
    check(None, &|it| it.node_selector = selector("disk", ""));
    for (key, value) in [
        ("", "a"),
        ("a b", "a"),
        ("/a", "a"),
        ("a/", "a"),
        ("a", "b c"),
        ("a", "-"),
    ] {
        check(Some("node_selector"), &|it| {
            it.node_selector = selector(key, value)
        });
    }
    let annotated = |key: &str, value: &str| selector(key, value);
    check(None, &|it| {
        it.annotations = annotated("team.example/cost", "any text: at all\n")
    });
    check(Some("annotations"), &|it| {
        it.annotations = annotated("sutra.grid/record", "{}")
    });
    check(Some("annotations"), &|it| {
        it.annotations = annotated("sutra.grid/x", "")
    });
    check(Some("annotations"), &|it| {
        it.annotations = annotated("a b", "")
    });
    check(Some("annotations"), &|it| {
        it.annotations = annotated("a", &"x".repeat(33 * 1024))
    });
}

#[test]
fn faults_of_tolerations_are_found() {
    let check = |expect: bool, toleration: serde_json::Value| {
        let mut config = KubernetesConfig::new("ns");
        config.overlay.tolerations = vec![serde_json::from_value(toleration.clone()).unwrap()];
        assert_eq!(config.validate().is_ok(), expect, "{toleration}");
    };
    check(true, json!({}));
    check(true, json!({ "key": "a.example/b" }));
    check(
        true,
        json!({ "key": "a", "value": "b", "effect": "NoSchedule" }),
    );
    check(
        true,
        json!({ "key": "a", "effect": "NoExecute", "seconds": 60 }),
    );
    check(false, json!({ "key": "a b" }));
    check(false, json!({ "key": "a", "value": "b c" }));
    check(false, json!({ "value": "b" }));
    check(false, json!({ "effect": "Never" }));
    check(false, json!({ "seconds": 60 }));
    check(false, json!({ "effect": "NoSchedule", "seconds": 60 }));
}

#[test]
fn an_affinity_is_one_of_a_pod() {
    let check = |affinity: Value, expect: Option<&str>| {
        let mut config = KubernetesConfig::new("ns");
        config.overlay.affinity = Some(affinity);
        let told = config.validate().err().map(|it| it.to_string());
        assert_eq!(told.as_deref(), expect);
    };
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let term = |term: Value| json!({ "podAntiAffinity": { required: [term] } });
    check(json!({}), None);
    check(
        term(
            json!({ "topologyKey": "zone", "labelSelector": { "matchLabels": { "any": "key" } } }),
        ),
        None,
    );
    check(json!({ "nodeAffinity": null }), None);
    check(
        json!({ "nodeAfinity": {} }),
        Some("`overlay.affinity` has the key `nodeAfinity`, which is unknown"),
    );
    check(
        term(json!({ "topologyKey": "zone", "topology": "zone" })),
        Some(
            "`overlay.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]` has the key `topology`, which is unknown",
        ),
    );
    check(
        term(json!({})),
        Some(
            "`overlay.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]` has no `topologyKey`",
        ),
    );
    let mut config = KubernetesConfig::new("ns");
    for none in [json!("zone"), json!({ "nodeAffinity": 5 }), json!(true)] {
        config.overlay.affinity = Some(none);
        let told = config.validate().unwrap_err().to_string();
        assert!(
            told.starts_with("`overlay.affinity` is none of a pod: "),
            "{told}"
        );
    }
}

#[test]
fn settings_read_with_defaults_and_refuse_unknown_keys() {
    let read = |text: &str| serde_json::from_str::<KubernetesConfig>(text);
    let config = read(r#"{"namespace":"ns"}"#).unwrap();
    assert_eq!(config, KubernetesConfig::new("ns"));
    assert_eq!(config.images, Allow::Only(Vec::new()));
    assert_eq!(config.account(), Some((65_532, 65_532)));
    assert_eq!(config.start_timeout().as_secs(), 300);
    let config = read(
        r#"{"namespace":"ns","images":"any","overlay":{"service":"node-port","tolerations":[{}]}}"#,
    )
    .unwrap();
    assert_eq!(config.images, Allow::Any);
    assert_eq!(config.overlay.service, super::super::ServiceKind::NodePort);
    for unknown in [
        "{}",
        r#"{"namespace":"ns","privileged":true}"#,
        r#"{"namespace":"ns","overlay":{"host_network":true}}"#,
        r#"{"namespace":"ns","overlay":{"tolerations":[{"operator":"Exists"}]}}"#,
        r#"{"namespace":"ns","overlay":{"service":"load-balancer"}}"#,
    ] {
        assert!(read(unknown).is_err(), "{unknown}");
    }
}
