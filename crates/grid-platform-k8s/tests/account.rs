//! What an agent's account has to be allowed: the role of `deploy/kubernetes` is enough, and whatever is missing of it is named
//! with its mend.

#![allow(clippy::unwrap_used, reason = "all of it is for tests")]

mod bed;

use std::{fs, process::Command};

use bed::{
    Place,
    role::{ROOT, as_json, config, rules},
};
use futures::{StreamExt, stream};
use grid_platform_api::{CheckStatus, DataPolicy, Error, ErrorKind, NodeId, Platform, SpawnConfig};
use grid_platform_k8s::{KubernetesConfig, KubernetesPlatform};
use serde_json::{Value, json};

/// How many accounts are tried at once.
const AT_ONCE: usize = 6;

fn node(place: &Place, name: &str) -> SpawnConfig {
    let program = place.bed.probe(&[]).unwrap();
    SpawnConfig::builder(name, program)
        .port(0)
        .secret("password", "one".into())
        .build()
        .unwrap()
}

/// A node from its first start to the last of it, as this account; what was refused on the way.
async fn life(place: &Place, config: KubernetesConfig, name: &str) -> Vec<Error> {
    let platform = match KubernetesPlatform::open(config).await {
        Ok(platform) => platform,
        Err(error) => return vec![error],
    };
    let id = NodeId::new(name).unwrap();
    let node = node(place, name);
    let mut refused = Vec::new();
    let mut note = |answer: Result<(), Error>| {
        let is_done = answer.is_ok();
        refused.extend(answer.err());
        is_done
    };
    if note(platform.spawn_node(node.clone()).await.map(drop)) {
        note(platform.get_logs(&id, 10).await.map(drop));
        note(platform.list_nodes().await.map(drop));
        note(platform.stop_node(&id).await.map(drop));
        note(platform.spawn_node(node).await.map(drop));
    }
    note(platform.remove_node(&id, DataPolicy::Purge).await.map(drop));
    let probe = platform.probe().await.unwrap();
    for check in probe.checks {
        if check.status == CheckStatus::Failed {
            let error = Error::new(ErrorKind::PermissionDenied, check.detail);
            refused.push(error.with_hint(check.hint.unwrap_or_default()));
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_is_enough() {
    let place = Place::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = config(&place, "enough", &as_json(&rules()), dir.path());
    let refused = life(&place, config, "enough").await;
    assert!(refused.is_empty(), "{refused:#?}");
    place.note("enough");
    place.clean_up().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_its_mend() {
    let place = Place::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for (at, rule) in rules().into_iter().enumerate() {
        if rule.group == "metrics.k8s.io" {
            // Nodes run without.
            continue;
        }
        for verb in &rule.verbs {
            let mut given = rules();
            given[at].verbs.retain(|it| it != verb);
            let name = format!("r{}", cases.len());
            let config = config(&place, &name, &as_json(&given), dir.path());
            cases.push((name, rule.clone(), verb.clone(), config));
        }
    }
    let lives = stream::iter(cases).map(|(name, rule, verb, config)| {
        let place = &place;
        async move {
            let refused = life(place, config, &name).await;
            place.note(&name);
            let right = format!("{verb} {}", rule.resource);
            let mend = format!(
                "`{{apiGroups: [\"{}\"], resources: [\"{}\"], verbs: [\"{verb}\"]}}`",
                rule.group, rule.resource
            );
            let is_named = refused.iter().any(|it| {
                it.to_string().contains(&right) && it.hint().is_some_and(|it| it.contains(&mend))
            });
            (!is_named).then(|| format!("{right}: {refused:#?}"))
        }
    });
    let unnamed: Vec<String> = lives
        .buffer_unordered(AT_ONCE)
        .filter_map(async |it| it)
        .collect()
        .await;
    // What the accounts could not delete themselves.
    let _ = place.clean_up();
    assert!(unnamed.is_empty(), "{}", unnamed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mend_mends() {
    let place = Place::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    // The name that the file has.
    let config = config(&place, "sutra-grid-agent", &json!([]), dir.path());
    let refused = KubernetesPlatform::open(config.clone())
        .await
        .err()
        .unwrap();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused:?}");
    let hint = refused.hint().unwrap();
    let command = hint.split('`').nth(1).unwrap();
    let ran = Command::new("sh")
        .args(["-c", command])
        .current_dir(ROOT)
        .env("KUBECONFIG", place.bed.view.kubeconfig())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{command}: {ran:?}");
    drop(KubernetesPlatform::open(config).await.unwrap());
    place.note("sutra-grid-agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn access_that_leads_nowhere_says_why() {
    let place = Place::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(place.bed.view.kubeconfig()).unwrap();
    let admin: Value = serde_json::from_str(&text).unwrap();
    let open = async |name: &str, change: fn(&mut Value)| {
        let mut changed = admin.clone();
        change(&mut changed);
        let kubeconfig = dir.path().join(name);
        fs::write(&kubeconfig, changed.to_string()).unwrap();
        let config = KubernetesConfig {
            kubeconfig: Some(kubeconfig),
            ..place.config(name)
        };
        let error = KubernetesPlatform::open(config).await.err().unwrap();
        (error.kind(), error.report())
    };
    let (kind, report) = open("nobody", |it| {
        it["users"][0]["user"] = json!({"token": "nobody's"});
    })
    .await;
    assert_eq!(kind, ErrorKind::PermissionDenied);
    assert!(
        report.contains("does not accept the credentials"),
        "{report}"
    );
    let (kind, report) = open("untrusted", |it| {
        let cluster = &mut it["clusters"][0]["cluster"];
        cluster
            .as_object_mut()
            .unwrap()
            .remove("certificate-authority");
        cluster
            .as_object_mut()
            .unwrap()
            .remove("certificate-authority-data");
    })
    .await;
    assert_eq!(kind, ErrorKind::PermissionDenied, "{report}");
    assert!(
        report.contains("Put the certificate of the authority"),
        "{report}"
    );
    let (kind, report) = open("away", |it| {
        it["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    })
    .await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(
        report.contains("cannot reach the API server at `https://127.0.0.1:1`"),
        "{report}"
    );

    let config = KubernetesConfig {
        namespace: "sutra-grid-nowhere".to_owned(),
        ..place.config("nowhere")
    };
    let error = KubernetesPlatform::open(config).await.err().unwrap();
    assert!(
        error
            .hint()
            .unwrap()
            .contains("`kubectl create namespace sutra-grid-nowhere`")
    );
}
