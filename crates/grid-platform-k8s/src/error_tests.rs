use std::{io::Write, net::TcpListener, sync::Arc, thread};

use kube::{
    Config,
    core::response::{StatusCause, StatusDetails},
};

use super::*;
use crate::transport;

const SERVER: &str = "https://cluster:6443";

fn status(code: u16, reason: &str, message: &str) -> Status {
    Status::failure(message, reason).with_code(code)
}

fn fault(source: kube::Error) -> Fault {
    Fault::new("make the pod `sutra-grid-a`", SERVER, "grid", source)
}

fn refused(status: Status) -> Fault {
    fault(kube::Error::Api(status.boxed()))
}

/// Kind, whether a retry can help, and the whole report.
#[track_caller]
fn check(fault: Fault, kind: ErrorKind, retryable: bool, report: &str) {
    let error = fault.into_error();
    assert_eq!(error.report().trim_end(), report);
    assert_eq!((error.kind(), error.is_retryable()), (kind, retryable));
}

#[test]
fn a_missing_right_names_verb_resource_and_mend() {
    let said = r#"pods is forbidden: User "system:serviceaccount:grid:agent" cannot create resource "pods" in API group "" in the namespace "grid""#;
    check(
        refused(status(403, "Forbidden", said)),
        ErrorKind::PermissionDenied,
        false,
        r#"error: cannot make the pod `sutra-grid-a`: `system:serviceaccount:grid:agent` may not create pods in the namespace `grid`
hint: `sed 's/namespace: sutra-grid/namespace: grid/' deploy/kubernetes/role.yaml | kubectl apply -n grid -f -` gives every right that is needed; this one is the rule `{apiGroups: [""], resources: ["pods"], verbs: ["create"]}`."#,
    );
    assert!(refused(status(403, "Forbidden", said)).is_forbidden());
    check(
        refused(status(403, "Forbidden", "no")),
        ErrorKind::PermissionDenied,
        false,
        "error: cannot make the pod `sutra-grid-a`: no
hint: `sed 's/namespace: sutra-grid/namespace: grid/' deploy/kubernetes/role.yaml | kubectl apply -n grid -f -` gives every right that is needed.",
    );
}

#[test]
fn what_is_refused_for_other_reasons_says_so() {
    let quota = r#"pods "sutra-grid-a" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2"#;
    let quota = status(403, "Forbidden", quota);
    assert!(!refused(quota.clone()).is_forbidden());
    check(
        refused(quota),
        ErrorKind::Exhausted,
        true,
        "error: cannot make the pod `sutra-grid-a`: the quota `small` of the namespace `grid` is used up: requested: pods=1, used: pods=2, limited: pods=2
hint: `kubectl describe quota -n grid` shows what is used: remove nodes, ask for less, or have the quota raised.",
    );
    let wanted = r#"pods "a" is forbidden: failed quota: small: must specify limits.memory"#;
    let wanted = status(403, "Forbidden", wanted);
    assert!(!refused(wanted.clone()).is_forbidden());
    check(
        refused(wanted),
        ErrorKind::NotAllowed,
        false,
        "error: cannot make the pod `sutra-grid-a`: the quota `small` refuses it: must specify limits.memory
hint: Ask who runs the cluster what the namespace `grid` allows, or change the request or `kubernetes.*` to fit.",
    );
    check(
        refused(status(
            403,
            "Forbidden",
            r#"pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true"#,
        )),
        ErrorKind::NotAllowed,
        false,
        r#"error: cannot make the pod `sutra-grid-a`: the Pod Security admission refuses it: "restricted:latest": runAsNonRoot != true
hint: Ask who runs the cluster what the namespace `grid` allows, or change the request or `kubernetes.*` to fit."#,
    );
    check(
        refused(status(
            400,
            "",
            r#"admission webhook "images.example.com" denied the request: image is not signed"#,
        )),
        ErrorKind::NotAllowed,
        false,
        "error: cannot make the pod `sutra-grid-a`: the admission webhook `images.example.com` refuses it: image is not signed
hint: Ask who runs the cluster what the namespace `grid` allows, or change the request or `kubernetes.*` to fit.",
    );
    check(
        refused(status(
            422,
            "Invalid",
            "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'tags' with binding 'all' denied request: no latest",
        )),
        ErrorKind::NotAllowed,
        false,
        "error: cannot make the pod `sutra-grid-a`: the admission policy `tags` refuses it: no latest
hint: Ask who runs the cluster what the namespace `grid` allows, or change the request or `kubernetes.*` to fit.",
    );
    check(
        refused(status(
            403,
            "Forbidden",
            r#"pods "a" is forbidden: maximum memory usage per Container is 64Mi, but limit is 128Mi"#,
        )),
        ErrorKind::NotAllowed,
        false,
        "error: cannot make the pod `sutra-grid-a`: the limit range of the namespace refuses it: maximum memory usage per Container is 64Mi, but limit is 128Mi
hint: Ask who runs the cluster what the namespace `grid` allows, or change the request or `kubernetes.*` to fit.",
    );
    check(
        refused(status(
            403,
            "Forbidden",
            r#"pods "a" is forbidden: error looking up service account grid/x: serviceaccount "x" not found"#,
        )),
        ErrorKind::InvalidConfig,
        false,
        r#"error: cannot make the pod `sutra-grid-a`: pods "a" is forbidden: error looking up service account grid/x: serviceaccount "x" not found
hint: Make it by `kubectl create serviceaccount NAME -n grid`, or change `kubernetes.overlay.service_account`."#,
    );
}

#[test]
fn the_namespace_is_named() {
    let details = |kind: &str| StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: kind.to_owned(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    };
    let missing = status(404, "NotFound", "namespaces \"grid\" not found");
    let missing = refused(missing.with_details(details("namespaces")));
    assert!(missing.is_namespace_missing() && !missing.is_not_found());
    check(
        missing,
        ErrorKind::InvalidConfig,
        false,
        "error: cannot make the pod `sutra-grid-a`: the namespace `grid` does not exist
hint: Make it by `kubectl create namespace grid`, or set `storage.k8s_namespace` to another.",
    );
    let mut ending = details("pods");
    ending.causes = vec![StatusCause {
        reason: "NamespaceTerminating".to_owned(),
        message: String::new(),
        field: String::new(),
    }];
    let ending = refused(status(403, "Forbidden", "forbidden").with_details(ending));
    assert!(!ending.is_forbidden());
    check(
        ending,
        ErrorKind::Unavailable,
        false,
        "error: cannot make the pod `sutra-grid-a`: the namespace `grid` is being deleted
hint: When it is gone, make it anew by `kubectl create namespace grid`, or set `storage.k8s_namespace` to another.",
    );
    assert!(refused(status(404, "NotFound", "pods \"a\" not found")).is_not_found());
}

#[test]
fn credentials_that_are_not_accepted() {
    check(
        refused(status(401, "Unauthorized", "Unauthorized")),
        ErrorKind::PermissionDenied,
        true,
        "error: cannot make the pod `sutra-grid-a`: the API server at `https://cluster:6443` does not accept the credentials
hint: Renew the token or certificate of the kubeconfig's user: it is another cluster's, has expired or was taken back. `kubectl get --raw /version` with the same kubeconfig tries it.",
    );
}

#[test]
fn one_status_of_two_meanings_is_told_apart() {
    let exists = refused(status(409, "AlreadyExists", "pods \"a\" already exists"));
    assert!(exists.is_already_exists() && !exists.is_conflict());
    let conflict = refused(status(409, "Conflict", "the object has been modified"));
    assert!(conflict.is_conflict() && !conflict.is_already_exists());
    let race =
        "Operation cannot be fulfilled on resourcequotas \"small\": the object has been modified";
    let race = refused(status(409, "Conflict", race));
    assert!(race.is_quota_race() && !race.is_conflict());
    assert!(race.into_error().is_retryable());
    let gone = refused(status(410, "Expired", "too old resource version"));
    assert!(gone.is_gone());
    let ahead = "Too large resource version: 9, current: 3";
    assert!(refused(status(504, "Timeout", ahead)).is_gone());
    assert!(!refused(status(504, "Timeout", "")).is_gone());
    assert_eq!(gone.into_error().kind(), ErrorKind::Stale);
}

#[test]
fn what_may_have_been_done_is_told_from_what_was_not() {
    let check = |fault: Fault, is_lost: bool, is_away: bool| {
        assert_eq!(
            (fault.is_lost(), fault.is_away()),
            (is_lost, is_away),
            "{fault}"
        );
    };
    check(refused(status(504, "Timeout", "")), true, true);
    check(refused(status(500, "InternalError", "")), true, true);
    check(refused(status(429, "TooManyRequests", "")), false, true);
    check(refused(status(403, "Forbidden", "")), false, false);
    check(refused(status(409, "Conflict", "")), false, false);
    let silent = || Fault::silent("make the pod", SERVER, "grid", Duration::from_secs(15));
    check(silent(), true, true);
    super::tests::check(
        silent(),
        ErrorKind::Timeout,
        true,
        "error: cannot make the pod: the API server at `https://cluster:6443` did not answer within 15s
hint: Check that `https://cluster:6443` is reachable from here and not overloaded: `kubectl get --raw /readyz` says how it is.",
    );
}

#[test]
fn credentials_that_cannot_be_got() {
    let why = NoCredentials("the program `login` of `exec` ended with exit status: 3".to_owned());
    check(
        fault(kube::Error::Service(Box::new(why))),
        ErrorKind::PermissionDenied,
        true,
        "error: cannot get credentials for the API server at `https://cluster:6443`
  caused by: the program `login` of `exec` ended with exit status: 3
hint: Mend the user of the kubeconfig's context: its token file is read, and its `exec` program is run, by the agent.",
    );
}

/// Asks a server at that address for its version.
async fn ask(url: String) -> Fault {
    let config = Config::new(url.parse().unwrap());
    let client = transport::client(&config, Arc::default(), None).unwrap();
    fault(client.apiserver_version().await.unwrap_err())
}

#[tokio::test]
async fn nobody_there_was_sent_nothing_and_a_broken_answer_may_have_been_done() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let broken = tokio::spawn(ask(format!("http://{address}")));
    let once = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
    });
    let broken = broken.await.unwrap();
    once.join().unwrap();
    assert!(broken.is_lost() && broken.is_away(), "{broken:?}");
    assert_eq!(broken.into_error().kind(), ErrorKind::Unavailable);

    let away = ask(format!("http://{address}")).await;
    assert!(!away.is_lost() && away.is_away(), "{away:?}");
    let report = away.into_error().report();
    assert!(
        report.contains("cannot reach the API server at"),
        "{report}"
    );
    assert!(report.contains("onnection refused"), "{report}");
}

#[tokio::test]
async fn a_server_without_tls_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let plain = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        stream
    });
    let not_tls = ask(format!("https://{address}")).await;
    drop(plain.join().unwrap());
    let error = not_tls.into_error();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    assert!(
        error
            .hint()
            .unwrap()
            .starts_with("Something that does not speak TLS")
    );
}
