//! What nodes use, where the cluster has a metrics API: a program of its own, as all of the cluster has it meanwhile.
//!
//! The API server asks it as it asks a metrics-server.

#![allow(clippy::unwrap_used, reason = "all of it is for tests")]

mod bed;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bed::{
    Bed,
    role::{as_json, config, rules},
    stage::{PATIENCE, Stage},
};
use grid_platform_api::{CheckStatus, DataPolicy, ErrorKind, Platform, Timestamp};
use grid_platform_testing::{Failed, Outcome, eventually, fails};
use grid_testbed::kubernetes::ServedApi;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "metrics.k8s.io/v1beta1";
const ROOT: &str = "/apis/metrics.k8s.io/v1beta1";

/// What the API says, by path.
type Answers = Arc<Mutex<BTreeMap<String, Value>>>;

/// Serves a metrics API, for as long as the test's runtime lives, and gives its port.
async fn serve(answers: &Answers) -> Outcome<u16> {
    let made = rcgen::generate_simple_self_signed(["metrics".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let answers = Arc::clone(answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answers) = (acceptor.clone(), Arc::clone(&answers));
            tokio::spawn(async move {
                let stream = TokioIo::new(acceptor.accept(stream).await.ok()?);
                let service = service_fn(|request: Request<Incoming>| {
                    let found = answers.lock().unwrap().get(request.uri().path()).cloned();
                    async move { answer(found) }
                });
                let served = http1::Builder::new().serve_connection(stream, service);
                served.await.ok()
            });
        }
    });
    Ok(port)
}

/// An answer in the words of a metrics-server.
fn answer(found: Option<Value>) -> hyper::http::Result<Response<String>> {
    let status = if found.is_some() { 200 } else { 404 };
    let missing = || {
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
            "message": "podmetrics.metrics.k8s.io was not found",
        })
    };
    Response::builder()
        .status(status)
        .header("Content-Type", "application/json")
        .body(found.unwrap_or_else(missing).to_string())
}

async fn check(platform: &impl Platform) -> Outcome<CheckStatus> {
    let checks = platform.probe().await?.checks;
    let own = checks.into_iter().find(|it| it.name == "metrics");
    Ok(own.ok_or("it is not looked for")?.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_what_the_metrics_api_says() -> Outcome {
    let stage = Stage::open().await?;
    let (view, namespace) = (&stage.place.bed.view, stage.place.namespace());
    let platform = &stage.platform;
    let request = stage.probe("n", &[])?.memory_limit_mb(128).build()?;
    let node = platform.spawn_node(request.clone()).await?;
    let id = &node.node_id;
    let is_unsupported = async || -> Outcome {
        let error = fails(platform.get_usage(id).await, ErrorKind::Unsupported)?;
        assert!(!platform.capabilities().usage);
        assert_eq!(check(platform).await?, CheckStatus::Degraded);
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("metrics server"), "{error:?}");
        Ok(())
    };
    // Most clusters come without.
    is_unsupported().await?;

    // It is installed while the agent runs, and does not serve at once.
    let answers = Answers::default();
    let say = |path: &str, what: Value| answers.lock().unwrap().insert(path.to_owned(), what);
    let port = serve(&answers).await?;
    let api = ServedApi::make(namespace, GROUP, "v1beta1", port)?;
    eventually(PATIENCE, "the metrics API to be known", || async {
        let refused = view.find(ROOT).err();
        Ok(refused.filter(|it| it.contains("(status 503)")))
    })
    .await?;
    let error = fails(platform.get_usage(id).await, ErrorKind::Unavailable)?;
    assert!(error.is_retryable(), "{error:?}");
    let hint = error.hint().unwrap_or_default();
    assert!(
        hint.contains("`kubectl get apiservice v1beta1.metrics.k8s.io`"),
        "{error:?}"
    );
    assert!(platform.capabilities().usage);
    assert_eq!(check(platform).await?, CheckStatus::Degraded);
    let list = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION,
        "resources": [{
            "name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"],
        }],
    });
    say(ROOT, list);
    eventually(PATIENCE, "the metrics API to serve", || async {
        Ok(view.find(ROOT).ok().flatten())
    })
    .await?;
    let used = platform.get_usage(id).await?;
    assert_eq!(used.memory_bytes, None, "it is not measured yet");
    assert!(platform.capabilities().usage);
    assert_eq!(check(platform).await?, CheckStatus::Ok);
    let pod = format!("pods/{}", id.native_name());
    let path = namespace.path_of(ROOT.trim_start_matches('/'), &pod);
    let say_of_it = |at: &str| {
        let own = json!({
            "apiVersion": VERSION, "kind": "PodMetrics",
            "metadata": { "name": id.native_name(), "namespace": namespace.name() },
            "timestamp": at, "window": "10s",
            "containers": [{ "name": "node", "usage": { "cpu": "1m", "memory": "12345Ki" } }],
        });
        say(&path, own);
    };
    say_of_it("2026-01-02T03:04:05Z");
    let used = platform.get_usage(id).await?;
    assert_eq!(
        used.memory_bytes, None,
        "it is of an earlier pod of that name"
    );
    let at = Timestamp::now().to_string();
    say_of_it(&at);
    let used = platform.get_usage(id).await?;
    assert_eq!(used.memory_bytes, Some(12_345 << 10));
    assert_eq!(used.memory_limit_bytes, Some(128 << 20));
    assert_eq!(used.at.to_string(), at);

    // The role allows it, and without its rule that is what is named.
    let dir = tempfile::tempdir()?;
    let ask = async |account: &str, rules: &Value| {
        let config = config(&stage.place, account, rules, dir.path());
        let other = stage.place.open(config).await?;
        let request = stage.probe(account, &[])?.build()?;
        let id = request.node_id.clone();
        other.spawn_node(request).await?;
        let used = other.get_usage(&id).await;
        other.remove_node(&id, DataPolicy::Purge).await?;
        Ok::<_, Failed>(used)
    };
    let all = rules();
    let mut less = all.clone();
    less.retain(|it| it.group != GROUP);
    let (all, less) = (as_json(&all), as_json(&less));
    let (used, refused) = tokio::try_join!(ask("whole", &all), ask("less", &less))?;
    assert_eq!(used?.memory_bytes, None);
    let error = fails(refused, ErrorKind::PermissionDenied)?;
    let hint = error.hint().unwrap_or_default();
    let mend = r#"`{apiGroups: ["metrics.k8s.io"], resources: ["pods"], verbs: ["get"]}`"#;
    assert!(hint.contains(mend), "{error:?}");

    platform.stop_node(id).await?;
    assert_eq!(platform.get_usage(id).await?.memory_bytes, Some(0));
    platform.spawn_node(request).await?;
    // And it goes again.
    drop(api);
    eventually(PATIENCE, "the end of the API", || async {
        let there = view.find(&path)?;
        Ok(there.is_none().then_some(()))
    })
    .await?;
    is_unsupported().await?;
    platform.remove_node(id, DataPolicy::Purge).await?;
    drop(stage);
    Bed::end();
    Ok(())
}
