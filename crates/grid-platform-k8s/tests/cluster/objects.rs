//! What a node's objects are.

use std::collections::BTreeMap;

use grid_platform_api::{Platform, SpawnedNode};
use grid_platform_k8s::{ServiceKind, Toleration};
use grid_platform_testing::{Outcome, eventually, probe};
use serde_json::{Value, json};

use crate::{
    bed::Place,
    bed::stage::{PATIENCE, Stage, text},
};

/// A node with a port of its own choice and one by number, behind a service of this kind.
async fn behind(kind: ServiceKind) -> Outcome<(Stage, SpawnedNode, Value)> {
    let stage = Stage::with(|it| it.overlay.service = kind).await?;
    let node = stage.probe("n", &[])?.named_port("peer", 7000);
    let node = stage.platform.spawn_node(node.build()?).await?;
    let service = stage.place.object("services", &node.node_id)?;
    Ok((stage, node, service))
}

/// The number that the service has for a port of the node.
fn port_of<'a>(service: &'a Value, name: &str, which: &str) -> &'a Value {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let mut ports = ports.filter(|it| it["name"] == name);
    ports.next().map_or(&Value::Null, |it| &it[which])
}

pub(crate) async fn a_cluster_ip_leads_to_its_node() -> Outcome {
    let (stage, node, service) = behind(ServiceKind::ClusterIp).await?;
    let endpoint = node.endpoint.clone().ok_or("no endpoint")?;
    assert_eq!(text(&service, "/spec/type"), "ClusterIP");
    assert_eq!(text(&service, "/spec/clusterIP"), endpoint.host);
    assert_eq!(*port_of(&service, "main", "port"), endpoint.port);
    assert_eq!(stage.ask(&node, "boot").await?, "1");
    assert_eq!(node.ports.get("peer"), Some(&7000));
    assert_eq!(probe::ask_soon(&endpoint.host, 7000, "boot").await?, "1");
    Ok(())
}

pub(crate) async fn a_headless_service_leads_to_its_node() -> Outcome {
    let (stage, node, service) = behind(ServiceKind::Headless).await?;
    let endpoint = node.endpoint.clone().ok_or("no endpoint")?;
    let name = node.node_id.native_name();
    assert_eq!(text(&service, "/spec/type"), "ClusterIP");
    assert_eq!(text(&service, "/spec/clusterIP"), "None");
    let namespace = stage.place.namespace().name();
    assert_eq!(endpoint.host, format!("{name}.{namespace}.svc"));
    // This cluster has no DNS. What one would say of the name are these addresses.
    let address = eventually(PATIENCE, "the name's addresses", || async {
        let found = stage.place.find("endpoints", &node.node_id)?;
        let found = found.unwrap_or_default();
        let address = text(&found, "/subsets/0/addresses/0/ip").to_owned();
        Ok((!address.is_empty()).then_some(address))
    })
    .await?;
    let pod = stage.place.object("pods", &node.node_id)?;
    assert_eq!(address, text(&pod, "/status/podIP"));
    assert_eq!(probe::ask_soon(&address, endpoint.port, "boot").await?, "1");
    Ok(())
}

pub(crate) async fn a_port_of_the_hosts_leads_to_its_node() -> Outcome {
    let (stage, node, service) = behind(ServiceKind::NodePort).await?;
    assert_eq!(text(&service, "/spec/type"), "NodePort");
    // The host is the pod's, which is known once it has one.
    let node = stage
        .wait(&node.node_id, "the host", |it| it.endpoint.is_some())
        .await?;
    let endpoint = node.endpoint.clone().ok_or("no endpoint")?;
    let pod = stage.place.object("pods", &node.node_id)?;
    assert_eq!(endpoint.host, text(&pod, "/status/hostIP"));
    assert_eq!(*port_of(&service, "main", "nodePort"), endpoint.port);
    assert_eq!(stage.ask(&node, "boot").await?, "1");
    let peer = node.ports["peer"];
    assert_eq!(*port_of(&service, "peer", "nodePort"), peer);
    assert_ne!(peer, 7000, "it is a port of all hosts");
    assert_eq!(probe::ask_soon(&endpoint.host, peer, "boot").await?, "1");
    Ok(())
}

pub(crate) async fn what_the_settings_add_is_what_the_server_stores() -> Outcome {
    let place = Place::new()?;
    let affinity = json!({
        "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [place.bed.host()?] },
            ]}],
        }},
    });
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "nodes" },
    });
    place.make("serviceaccounts", &account)?;
    let tolerations = [
        json!({ "key": "example.org/disk", "value": "slow", "effect": "NoSchedule" }),
        json!({ "key": "example.org/spot", "effect": "NoExecute", "seconds": 30 }),
    ];
    let tolerations: Result<Vec<Toleration>, _> = tolerations
        .into_iter()
        .map(serde_json::from_value)
        .collect();
    let tolerations = tolerations.map_err(|e| e.to_string())?;
    let stage = Stage::at(place, |it| {
        let overlay = &mut it.overlay;
        overlay.storage_class = Some("standard".to_owned());
        overlay.storage_size_mb = Some(64);
        overlay.node_selector = BTreeMap::from([("kubernetes.io/os".into(), "linux".into())]);
        overlay.tolerations = tolerations;
        overlay.affinity = Some(affinity.clone());
        overlay.pull_secrets = vec!["registry-a".to_owned()];
        overlay.service_account = Some("nodes".to_owned());
        overlay.annotations = BTreeMap::from([("example.org/team".into(), "storage".into())]);
    })
    .await?;
    let node = stage.probe("n", &[])?.memory_limit_mb(97);
    let node = stage.platform.spawn_node(node.build()?).await?;
    let id = &node.node_id;

    let pod = stage.place.object("pods", id)?;
    let spec = &pod["spec"];
    assert_eq!(spec["nodeSelector"], json!({ "kubernetes.io/os": "linux" }));
    assert_eq!(spec["affinity"], affinity);
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": "registry-a" }]));
    assert_eq!(spec["serviceAccountName"], "nodes");
    let borne = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for asked in [
        json!({ "key": "example.org/disk", "operator": "Equal", "value": "slow", "effect": "NoSchedule" }),
        json!({ "key": "example.org/spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30 }),
    ] {
        assert!(borne.contains(&asked), "{asked} is none of {borne:?}");
    }
    let resources = &spec["containers"][0]["resources"];
    assert_eq!(resources["limits"], json!({ "memory": "97Mi" }));
    assert_eq!(resources["requests"], json!({ "memory": "49664Ki" }));
    // No token of the account is there: the server would have added it as a volume.
    assert_eq!(spec["automountServiceAccountToken"], false);
    let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = volumes.iter().map(|it| text(it, "/name")).collect();
    assert_eq!(names, ["data", "tmp"]);

    let claim = stage.place.object("persistentvolumeclaims", id)?;
    assert_eq!(claim["spec"]["storageClassName"], "standard");
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "64Mi");
    let service = stage.place.object("services", id)?;
    for (kind, object) in [("pod", &pod), ("claim", &claim), ("service", &service)] {
        let meta = &object["metadata"];
        assert_eq!(meta["annotations"]["example.org/team"], "storage", "{kind}");
    }
    Ok(())
}

pub(crate) async fn a_secret_is_in_its_secret_alone() -> Outcome {
    let stage = Stage::open().await?;
    let (plain, encoded) = ("correct-horse-battery", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5");
    let node = stage
        .probe("n", &[])?
        .secret("password", plain.into())
        .secret_env("PASSWORD", "password");
    let node = stage.platform.spawn_node(node.build()?).await?;
    let id = &node.node_id;
    assert_eq!(
        stage.place.object("secrets", id)?["data"],
        json!({ "password": encoded })
    );
    let mut owners = Vec::new();
    for kind in ["pods", "services", "secrets", "persistentvolumeclaims"] {
        let object = stage.place.object(kind, id)?;
        if kind != "secrets" {
            let whole = object.to_string();
            assert!(!whole.contains(plain) && !whole.contains(encoded), "{kind}");
        }
        let labels = &object["metadata"]["labels"];
        for (label, expect) in [
            ("sutra.grid", "true"),
            ("sutra.node_id", id.as_str()),
            ("sutra.node_uid", node.uid.as_str()),
            ("app.kubernetes.io/name", "sutra-grid-node"),
            ("app.kubernetes.io/instance", id.as_str()),
            ("app.kubernetes.io/managed-by", "sutra-grid"),
        ] {
            assert_eq!(labels[label], expect, "{label} of {kind}");
        }
        owners.push(labels["sutra.owner"].to_string());
    }
    owners.dedup();
    assert_eq!(owners.len(), 1, "{owners:?}");
    assert!(owners[0].len() > 30, "{owners:?}");
    // The program has it all the same.
    let env = stage.ask(&node, "env").await?;
    assert!(env.lines().any(|it| it == format!("PASSWORD={plain}")));
    Ok(())
}
