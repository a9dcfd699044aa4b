use grid_platform_api::RunAs;
use serde_json::{Value, json};

use super::{
    super::{
        tests::{owner, record, request, settings},
        violations,
    },
    *,
};
use crate::config::KubernetesConfig;

fn made(settings: &KubernetesConfig, config: SpawnConfig) -> Pod {
    let owner = owner();
    let frame = Frame {
        owner: &owner,
        config: settings,
    };
    pod(frame, &record(config))
}

/// The specification of a pod as the cluster gets it.
fn spec(config: SpawnConfig) -> Value {
    serde_json::to_value(made(&settings(|_| {}), config).spec).unwrap()
}

fn with_args(args: &[&str]) -> SpawnConfig {
    let program = Program::image("img:1", args.iter().copied());
    SpawnConfig::builder("n1", program).port(0).build().unwrap()
}

#[test]
fn a_plain_request_is_a_plain_pod() {
    let config = request().build().unwrap();
    let expect = json!({
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "node",
            "image": "img:1",
            "imagePullPolicy": "IfNotPresent",
            "env": [
                { "name": "SUTRA_BIND", "value": "0.0.0.0" },
                { "name": "SUTRA_DATA_PATH", "value": "/data" },
                { "name": "SUTRA_NODE_ID", "value": "n1" },
                { "name": "SUTRA_PUBLISHED", "value": "127.0.0.1" },
            ],
            "resources": {},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "privileged": false,
                "readOnlyRootFilesystem": true,
            },
            "volumeMounts": [
                { "name": "data", "mountPath": "/data" },
                { "name": "tmp", "mountPath": "/tmp" },
            ],
        }],
        "enableServiceLinks": false,
        "restartPolicy": "OnFailure",
        "securityContext": {
            "fsGroup": 65_532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsGroup": 65_532,
            "runAsNonRoot": true,
            "runAsUser": 65_532,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationGracePeriodSeconds": 10,
        "volumes": [
            { "name": "data", "persistentVolumeClaim": { "claimName": "sutra-grid-n1" } },
            { "name": "tmp", "emptyDir": { "medium": "Memory", "sizeLimit": "64Mi" } },
        ],
    });
    assert_eq!(spec(config), expect);
}

#[test]
fn every_pod_passes_the_restricted_level() {
    let full = request()
        .port(80)
        .secret("s", "v".into())
        .secret_env("S", "s")
        .memory_limit_mb(64)
        .cpu_limit_millis(100)
        .health(HealthCheck::http("/healthz"))
        .run_as(RunAs {
            user: "1000".into(),
            group: None,
        });
    let settings = settings(|it| it.users = vec!["1000".into()]);
    for config in [request(), full] {
        let pod = made(&settings, config.build().unwrap());
        assert_eq!(violations(&pod), [""; 0]);
    }
}

/// What the cluster makes of a text, by the rules of its `$(NAME)`.
fn expanded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        rest = match behind.chars().next() {
            Some('$') => {
                out.push('$');
                &behind[1..]
            }
            Some('(') if behind.contains(')') => {
                out.push_str("VALUE");
                &behind[behind.find(')').unwrap() + 1..]
            }
            _ => {
                out.push('$');
                behind
            }
        };
    }
    out + rest
}

#[test]
fn texts_reach_the_program_as_they_were_written() {
    assert_eq!(expanded("a$(B)c$$(D)"), "aVALUEc$(D)");
    let check = |text: &str, expect: &str| {
        let program = Program::image("img:1", [text]);
        let config = SpawnConfig::builder("n1", program).env("A", text).port(0);
        let spec = spec(config.build().unwrap());
        let container = &spec["containers"][0];
        let arg = container["args"][0].as_str().unwrap();
        assert_eq!(expanded(arg), expect, "{text}");
        let env = container["env"].as_array().unwrap();
        let found = env.iter().find(|it| it["name"] == "A").unwrap();
        assert_eq!(expanded(found["value"].as_str().unwrap()), expect, "{text}");
    };
    for same in [
        "",
        "$",
        "$$",
        "$$$",
        "$(HOME)",
        "$$(HOME)",
        "$HOME",
        "a$(",
        "$)",
        "$é",
        "100$",
        "{x}$({y})",
    ] {
        check(same, same);
    }
    check("$({port})", "$(20000)");
    check("{data_path}/{node_id}@{bind}", "/data/n1@0.0.0.0");
    check("{secrets_dir}", "{secrets_dir}");
}

#[test]
fn arguments_stand_behind_the_images_entrypoint() {
    let spec = spec(with_args(&["--port", "{port}"]));
    let container = &spec["containers"][0];
    assert_eq!(container["args"], json!(["--port", "20000"]));
    assert_eq!(container["command"], Value::Null);
    let ports = json!([{ "containerPort": 20_000, "protocol": "TCP" }]);
    assert_eq!(container["ports"], ports);
}

#[test]
fn secrets_are_files_and_variables_by_choice() {
    let config = request()
        .secret("password", "hunter2".into())
        .secret_env("PASSWORD", "password")
        .build()
        .unwrap();
    let spec = spec(config);
    assert!(!spec.to_string().contains("hunter2"));
    let container = &spec["containers"][0];
    let variable = json!({
        "name": "PASSWORD",
        "valueFrom": { "secretKeyRef": { "name": "sutra-grid-n1", "key": "password" } },
    });
    let env = container["env"].as_array().unwrap();
    assert!(env.contains(&variable), "{env:?}");
    let dir = json!({ "name": "SUTRA_SECRETS_DIR", "value": "/run/secrets/sutra" });
    assert!(env.contains(&dir), "{env:?}");
    let mount = json!({ "name": "secrets", "mountPath": "/run/secrets/sutra", "readOnly": true });
    assert_eq!(container["volumeMounts"][2], mount);
    let volume = json!({
        "name": "secrets",
        "secret": { "secretName": "sutra-grid-n1", "defaultMode": 0o400 },
    });
    assert_eq!(spec["volumes"][2], volume);
}

#[test]
fn half_of_the_memory_and_all_of_the_processor_is_kept_free() {
    let check = |mb: Option<u64>, millis: Option<u32>, expect: Value| {
        let mut config = request().build().unwrap();
        config.memory_limit_mb = mb;
        config.cpu_limit_millis = millis;
        assert_eq!(spec(config)["containers"][0]["resources"], expect);
    };
    let memory = |limit: &str, request: &str| json!({ "limits": { "memory": limit }, "requests": { "memory": request } });
    check(None, None, json!({}));
    check(Some(1), None, memory("1Mi", "1Mi"));
    check(Some(2), None, memory("2Mi", "1Mi"));
    check(Some(3), None, memory("3Mi", "1536Ki"));
    check(Some(256), None, memory("256Mi", "128Mi"));
    check(Some(1 << 30), None, memory("1073741824Mi", "536870912Mi"));
    check(
        None,
        Some(1500),
        json!({ "limits": { "cpu": "1500m" }, "requests": { "cpu": "1500m" } }),
    );
    check(
        Some(64),
        Some(10),
        json!({
            "limits": { "cpu": "10m", "memory": "64Mi" },
            "requests": { "cpu": "10m", "memory": "32Mi" },
        }),
    );
}

#[test]
fn a_health_check_is_a_readiness_probe() {
    let probe = |check: HealthCheck| {
        let config = request().port(80).named_port("admin", 81).health(check);
        spec(config.build().unwrap())["containers"][0]["readinessProbe"].clone()
    };
    let tcp = json!({
        "tcpSocket": { "port": 80 },
        "initialDelaySeconds": 0,
        "periodSeconds": 5,
        "timeoutSeconds": 2,
        "successThreshold": 1,
        "failureThreshold": 3,
    });
    assert_eq!(probe(HealthCheck::tcp()), tcp);
    let mut admin = HealthCheck::http("/healthz?a=$(B)");
    admin.probe = match admin.probe {
        HealthProbe::Http { path, .. } => HealthProbe::Http {
            path,
            port: Some("admin".into()),
        },
        other => other,
    };
    let http = json!({ "path": "/healthz?a=$(B)", "port": 81, "scheme": "HTTP" });
    assert_eq!(probe(admin)["httpGet"], http);
    let check = |interval: Duration, timeout: Duration, threshold: u32, expect: [i32; 3]| {
        let mut check = HealthCheck::tcp();
        (check.interval, check.timeout, check.threshold) = (interval, timeout, threshold);
        let probe = probe(check);
        let found = ["periodSeconds", "timeoutSeconds", "failureThreshold"].map(|it| &probe[it]);
        assert_eq!(found, expect.map(|it| json!(it)).each_ref());
    };
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    check(ms(10), ms(1), 1, [1, 1, 1]);
    check(ms(1001), s(2), 2, [2, 2, 2]);
    check(ms(u64::MAX), Duration::MAX, u32::MAX, [i32::MAX; 3]);
    assert_eq!(
        spec(with_args(&[]))["containers"][0]["readinessProbe"],
        Value::Null
    );
}

#[test]
fn who_it_runs_as_is_who_the_settings_allow() {
    let check = |users: &[&str], run_as: Option<&str>, expect: [i64; 3]| {
        let settings = settings(|it| it.users = users.iter().map(|it| (*it).to_owned()).collect());
        let mut config = request().build().unwrap();
        config.run_as = run_as.map(|user| RunAs {
            user: user.to_owned(),
            group: None,
        });
        let spec = made(&settings, config).spec.unwrap();
        let its = spec.security_context.unwrap();
        let found = [its.run_as_user, its.run_as_group, its.fs_group].map(Option::unwrap);
        assert_eq!(found, expect);
    };
    check(&[], None, [65_532; 3]);
    check(&["1000:50"], Some("1000"), [1000, 50, 50]);
    // The setting was changed since the node was made.
    check(&[], Some("1000"), [65_532; 3]);
}

#[test]
fn a_low_port_can_be_bound_where_one_is_asked_for() {
    let sysctls = |port: u16| {
        let config = request().port(port).build().unwrap();
        spec(config)["securityContext"]["sysctls"].clone()
    };
    let open = json!([{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }]);
    assert_eq!(sysctls(80), open);
    assert_eq!(sysctls(1023), open);
    assert_eq!(sysctls(1024), Value::Null);
    assert_eq!(sysctls(0), Value::Null);
}

#[test]
fn policies_are_the_clusters_own() {
    let check = |mode: RestartMode, grace: Duration, expect: (&str, i64)| {
        let mut config = request().restart(mode).build().unwrap();
        config.stop.grace = grace;
        let spec = spec(config);
        let found = (
            &spec["restartPolicy"],
            &spec["terminationGracePeriodSeconds"],
        );
        assert_eq!(found, (&json!(expect.0), &json!(expect.1)));
    };
    check(RestartMode::Never, Duration::ZERO, ("Never", 1));
    check(
        RestartMode::OnFailure,
        Duration::from_millis(1500),
        ("OnFailure", 2),
    );
    check(
        RestartMode::Always,
        Duration::from_secs(86_400),
        ("Always", 86_400),
    );
}

#[test]
fn the_overlay_is_on_every_pod() {
    let settings = settings(|it| {
        it.overlay.node_selector = [("disk".to_owned(), "ssd".to_owned())].into();
        it.overlay.tolerations = vec![
            config::Toleration {
                key: None,
                value: None,
                effect: None,
                seconds: None,
            },
            config::Toleration {
                key: Some("own".into()),
                value: Some("grid".into()),
                effect: Some("NoExecute".into()),
                seconds: Some(60),
            },
        ];
        let terms = json!({ "nodeSelectorTerms": [{ "matchExpressions": [{
            "key": "zone", "operator": "In", "values": ["north"],
        }] }] });
        it.overlay.affinity = Some(json!({
            "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms },
        }));
        it.overlay.pull_secrets = vec!["registry".into()];
        it.overlay.service_account = Some("nodes".into());
    });
    settings.validate().unwrap();
    let pod = made(&settings, request().build().unwrap());
    assert_eq!(violations(&pod), [""; 0]);
    let spec = serde_json::to_value(pod.spec).unwrap();
    assert_eq!(spec["nodeSelector"], json!({ "disk": "ssd" }));
    let tolerations = json!([
        { "operator": "Exists" },
        {
            "key": "own",
            "operator": "Equal",
            "value": "grid",
            "effect": "NoExecute",
            "tolerationSeconds": 60,
        },
    ]);
    assert_eq!(spec["tolerations"], tolerations);
    assert_eq!(Some(&spec["affinity"]), settings.overlay.affinity.as_ref());
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": "registry" }]));
    assert_eq!(spec["serviceAccountName"], "nodes");
    assert_eq!(spec["automountServiceAccountToken"], false);
}

#[test]
fn ports_within_a_pod_are_numbers_of_its_own() {
    let check = |asked: &[(&str, u16)], expect: &[(&str, u16)]| {
        let named = |of: &[(&str, u16)]| -> BTreeMap<String, u16> {
            of.iter()
                .map(|(name, port)| ((*name).to_owned(), *port))
                .collect()
        };
        let mut config = request().build().unwrap();
        config.ports = named(asked);
        assert_eq!(inside_ports(&config), named(expect));
    };
    check(&[], &[]);
    check(&[("main", 0)], &[("main", 20_000)]);
    check(
        &[("main", 6379), ("peer", 0)],
        &[("main", 6379), ("peer", 20_000)],
    );
    check(
        &[("a", 0), ("b", 20_000), ("c", 0)],
        &[("a", 20_001), ("b", 20_000), ("c", 20_002)],
    );
}
