use serde_json::{Value, json};

use super::*;

/// A pod that passes.
fn good() -> Value {
    json!({
        "metadata": { "name": "p" },
        "spec": {
            "securityContext": {
                "runAsNonRoot": true,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "volumes": [{ "name": "v", "emptyDir": {} }],
            "containers": [container("main")],
        },
    })
}

fn container(name: &str) -> Value {
    json!({
        "name": name,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
        },
    })
}

/// What is found once `value` stands at `at`.
fn found(at: &str, value: &Value) -> Vec<String> {
    let mut pod = good();
    let (parent, key) = at.rsplit_once('/').unwrap();
    let parent = pod.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(list) => list.push(value.clone()),
        other => other[key] = value.clone(),
    }
    violations(&serde_json::from_value(pod).unwrap())
}

#[test]
fn the_good_one_passes() {
    let pod = serde_json::from_value(good()).unwrap();
    assert_eq!(violations(&pod), [""; 0]);
    assert_eq!(violations(&Pod::default()), [""; 0]);
}

#[test]
fn each_control_finds_what_is_against_it() {
    let check = |at: &str, value: Value, expect: Option<&str>| {
        let found = found(at, &value);
        let expect = Vec::from_iter(expect);
        assert_eq!(found, expect, "{at} {value}");
    };
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        let what = format!("`{key}` is true");
        check(&format!("/spec/{key}"), json!(true), Some(&what));
        check(&format!("/spec/{key}"), json!(false), None);
    }
    let apparmor = "/metadata/annotations";
    let key = "container.apparmor.security.beta.kubernetes.io/main";
    check(apparmor, json!({ key: "runtime/default" }), None);
    check(apparmor, json!({ key: "localhost/mine" }), None);
    check(
        apparmor,
        json!({ key: "unconfined" }),
        Some(&format!("the annotation `{key}` is `unconfined`")),
    );
    let volume = |kind: &str| json!({ "name": "w", kind: {} });
    for kind in SAFE_VOLUMES {
        check("/spec/volumes/-", volume(kind), None);
    }
    check("/spec/volumes/-", json!({ "name": "w" }), None);
    for kind in ["hostPath", "nfs", "iscsi", "gitRepo", "image", "cephfs"] {
        let what = format!("the volume `w` is of the kind `{kind}`");
        check("/spec/volumes/-", volume(kind), Some(&what));
    }
    let pod = |key: &str| format!("/spec/securityContext/{key}");
    let sysctl = |name: &str| json!([{ "name": name, "value": "0" }]);
    check(
        &pod("sysctls"),
        sysctl("net.ipv4.ip_unprivileged_port_start"),
        None,
    );
    check(
        &pod("sysctls"),
        sysctl("kernel.msgmax"),
        Some("it sets the sysctl `kernel.msgmax`"),
    );
    check(
        &pod("runAsUser"),
        json!(0),
        Some("`runAsUser` of the pod is 0"),
    );
    check(&pod("runAsUser"), json!(1), None);
    check(
        &pod("windowsOptions"),
        json!({ "hostProcess": true }),
        Some("`windowsOptions.hostProcess` of the pod is true"),
    );
    check(
        &pod("seLinuxOptions"),
        json!({ "type": "spc_t" }),
        Some("`seLinuxOptions.type` of the pod is `spc_t`"),
    );
    check(
        &pod("seLinuxOptions"),
        json!({ "type": "container_t", "user": "" }),
        None,
    );
    check(
        &pod("appArmorProfile"),
        json!({ "type": "Unconfined" }),
        Some("`appArmorProfile.type` of the pod is `Unconfined`"),
    );
    check(
        &pod("seccompProfile"),
        json!({ "type": "Unconfined" }),
        Some("`seccompProfile.type` of the pod is `Unconfined`"),
    );
    check(
        &pod("seccompProfile"),
        Value::Null,
        Some("`seccompProfile` of the container `main` is not set"),
    );
    check(
        &pod("runAsNonRoot"),
        Value::Null,
        Some("`runAsNonRoot` of the container `main` is not true"),
    );
}

#[test]
fn each_control_looks_at_each_container() {
    let check = |key: &str, value: Value, expect: Option<&str>| {
        let found = found(&format!("/spec/containers/0/{key}"), &value);
        let expect = expect.map(|it| format!("{it} of the container `main`"));
        let found: Vec<_> = found
            .iter()
            .map(|it| it.split_once(" of the container `main`").unwrap().0)
            .map(|it| format!("{it} of the container `main`"))
            .collect();
        assert_eq!(found, Vec::from_iter(expect), "{key} {value}");
    };
    let security = |key: &str| format!("securityContext/{key}");
    check(&security("privileged"), json!(true), Some("`privileged`"));
    check(&security("privileged"), json!(false), None);
    let escalation = Some("`allowPrivilegeEscalation`");
    check(
        &security("allowPrivilegeEscalation"),
        json!(true),
        escalation,
    );
    check(
        &security("allowPrivilegeEscalation"),
        Value::Null,
        escalation,
    );
    check(&security("runAsUser"), json!(0), Some("`runAsUser`"));
    check(
        &security("runAsNonRoot"),
        json!(false),
        Some("`runAsNonRoot`"),
    );
    check(&security("runAsNonRoot"), json!(true), None);
    check(
        &security("procMount"),
        json!("Unmasked"),
        Some("`procMount`"),
    );
    check(&security("procMount"), json!("Default"), None);
    let profile = |kind: &str| json!({ "type": kind });
    let seccomp = Some("`seccompProfile.type`");
    check(&security("seccompProfile"), profile("Unconfined"), seccomp);
    check(&security("seccompProfile"), profile("Localhost"), None);
    let apparmor = Some("`appArmorProfile.type`");
    check(
        &security("appArmorProfile"),
        profile("Unconfined"),
        apparmor,
    );
    check(
        &security("seLinuxOptions"),
        json!({ "role": "sysadm_r" }),
        Some("`seLinuxOptions.role`"),
    );
    check(
        &security("seLinuxOptions"),
        json!({ "user": "root" }),
        Some("`seLinuxOptions.user`"),
    );
    check(
        &security("windowsOptions"),
        json!({ "hostProcess": true }),
        Some("`windowsOptions.hostProcess`"),
    );
    let drop = Some("`capabilities.drop`");
    check(&security("capabilities"), Value::Null, drop);
    check(
        &security("capabilities"),
        json!({ "drop": ["NET_RAW"] }),
        drop,
    );
    let adds = |name: &str| json!({ "drop": ["ALL"], "add": [name] });
    check(&security("capabilities"), adds("NET_BIND_SERVICE"), None);
    check(
        &security("capabilities"),
        adds("CHOWN"),
        Some("`capabilities.add`"),
    );
    let port = |host: u16| json!([{ "containerPort": 80, "hostPort": host }]);
    check("ports", port(80), Some("`hostPort`"));
    check("ports", port(0), None);
    let asks = |host: &str| json!({ "httpGet": { "port": 80, "host": host } });
    let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
    for probe in probes {
        check(probe, asks(""), None);
        check(probe, asks("192.0.2.1"), Some("a probe or hook"));
        let tcp = json!({ "tcpSocket": { "port": 80, "host": "h" } });
        check(probe, tcp, Some("a probe or hook"));
    }
    for hook in ["preStop", "postStart"] {
        let hooks = json!({ hook: asks("192.0.2.1") });
        check("lifecycle", hooks, Some("a probe or hook"));
    }
}

#[test]
fn containers_of_every_kind_are_looked_at() {
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        let mut pod = good();
        let mut other = container("other");
        other["securityContext"]["privileged"] = json!(true);
        match kind {
            "containers" => pod["spec"][kind].as_array_mut().unwrap().push(other),
            _ => pod["spec"][kind] = json!([other]),
        }
        let found = violations(&serde_json::from_value(pod).unwrap());
        let expect = "`privileged` of the container `other` is true";
        assert_eq!(found, [expect], "{kind}");
    }
}
