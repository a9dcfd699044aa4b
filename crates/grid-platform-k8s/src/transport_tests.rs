use std::sync::atomic::{AtomicU32, Ordering};

use hyper::header::HeaderValue;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams, config::ExecConfig};

use super::*;

/// A client of a server that is too busy for the first requests, and says how long.
fn busy(times: u32, seconds: &'static str) -> (Client, Arc<Calls>, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let inner = tower::service_fn(move |request: Request<Body>| {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            let sent = request.into_body().collect_bytes().await.unwrap();
            let mut answer = Response::new(Body::from(sent.to_vec()));
            if number < times {
                *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                let wait = HeaderValue::from_static(seconds);
                answer.headers_mut().insert(RETRY_AFTER, wait);
            }
            Ok::<_, BoxError>(answer)
        }
    });
    let calls = Arc::new(Calls::default());
    let polite = Polite {
        inner,
        calls: Arc::clone(&calls),
        credentials: None,
    };
    (Client::new(polite, "grid"), calls, asked)
}

async fn make(client: Client) -> kube::Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(client, "grid");
    let mut pod = Pod::default();
    pod.metadata.name = Some("a".to_owned());
    pods.create(&PostParams::default(), &pod).await
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_waited_for_as_it_asks() {
    let (client, calls, _) = busy(2, "3");
    let begin = tokio::time::Instant::now();
    let made = make(client).await.unwrap();
    assert_eq!(
        made.metadata.name.as_deref(),
        Some("a"),
        "the same body again"
    );
    assert_eq!(begin.elapsed().as_secs(), 6);
    assert_eq!(calls.snapshot()["create pods"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_busy_is_not_asked_for_ever() {
    for (seconds, expected) in [("1", 1 + REPEATS), ("600", 1)] {
        let (client, _, asked) = busy(u32::MAX, seconds);
        assert!(make(client).await.is_err());
        assert_eq!(asked.load(Ordering::SeqCst), expected, "{seconds}");
    }
}

#[tokio::test]
async fn credentials_that_the_server_does_not_take_are_got_anew_once() {
    for (taken, asked) in [("Bearer 2", 2), ("Bearer 9", 2)] {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let script = format!(
            "echo x >> {0}; echo \"{{\\\"status\\\":{{\\\"token\\\":\\\"$(wc -l < {0} | tr -d ' ')\\\"}}}}\"",
            runs.display()
        );
        let credentials = Credentials::new(ExecConfig {
            command: Some("sh".to_owned()),
            args: Some(vec!["-c".to_owned(), script]),
            ..ExecConfig::default()
        });
        let inner = tower::service_fn(move |request: Request<Body>| async move {
            let is_known = request.headers()[AUTHORIZATION] == taken;
            let sent = request.into_body().collect_bytes().await.unwrap();
            let mut answer = Response::new(Body::from(sent.to_vec()));
            if !is_known {
                *answer.status_mut() = StatusCode::UNAUTHORIZED;
            }
            Ok::<_, BoxError>(answer)
        });
        let calls = Arc::new(Calls::default());
        let polite = Polite {
            inner,
            calls: Arc::clone(&calls),
            credentials: Some(credentials),
        };
        let made = make(Client::new(polite, "grid")).await;
        assert_eq!(made.is_ok(), taken == "Bearer 2");
        assert_eq!(calls.snapshot()["create pods"], asked);
    }
}

#[test]
fn requests_are_called_what_a_role_calls_them() {
    let check = |method: Method, uri: &'static str, expect: &str| {
        assert_eq!(name(&method, &Uri::from_static(uri)), expect);
    };
    check(
        Method::GET,
        "/api/v1/namespaces/grid/pods?&limit=5",
        "list pods",
    );
    check(
        Method::GET,
        "/api/v1/namespaces/grid/pods?&watch=true",
        "watch pods",
    );
    check(Method::GET, "/api/v1/namespaces/grid/pods/a", "get pods");
    check(
        Method::GET,
        "/api/v1/namespaces/grid/pods/a/log?&follow=true",
        "get pods/log",
    );
    check(
        Method::PUT,
        "/apis/coordination.k8s.io/v1/namespaces/grid/leases/l",
        "update leases",
    );
    check(
        Method::DELETE,
        "/api/v1/namespaces/grid/services/s",
        "delete services",
    );
    check(
        Method::POST,
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "create selfsubjectaccessreviews",
    );
    check(Method::GET, "/api/v1/namespaces/grid", "get namespaces");
    check(Method::GET, "/version", "GET /version");
    check(
        Method::GET,
        "/apis/metrics.k8s.io/v1beta1",
        "GET /apis/metrics.k8s.io/v1beta1",
    );
}
