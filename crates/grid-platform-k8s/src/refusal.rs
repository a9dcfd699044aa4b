//! What the API server says when it refuses, as people act on it. Pure: its words go in, kind, reason and mend come out.

use grid_platform_api::{ErrorKind, printable};
use kube::core::Status;

/// The file that has every right that the adapter needs, and the namespace that is written in it.
const ROLE: &str = "deploy/kubernetes/role.yaml";
const ROLE_NAMESPACE: &str = "sutra-grid";

/// A refusal, told.
#[derive(Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) kind: ErrorKind,
    /// Why, to stand behind `cannot ...: `.
    pub(crate) why: String,
    pub(crate) hint: Option<String>,
    /// Whether a retry can help, where the kind's own answer is wrong.
    pub(crate) retryable: Option<bool>,
}

impl Told {
    fn new(kind: ErrorKind, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind,
            why: why.into(),
            hint: Some(hint.into()),
            retryable: None,
        }
    }

    fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = Some(retryable);
        self
    }
}

/// A right that is missing, as the server names it.
#[derive(Debug, PartialEq)]
pub(crate) struct Denied<'a> {
    pub(crate) user: &'a str,
    pub(crate) verb: &'a str,
    /// With its part: `pods/log`.
    pub(crate) resource: &'a str,
    pub(crate) group: &'a str,
}

/// Reads `User "U" cannot VERB resource "R" in API group "G"`, which is how the server says that a right is missing.
pub(crate) fn denied(message: &str) -> Option<Denied<'_>> {
    let (before, after) = message.split_once("\" cannot ")?;
    let (_, user) = before.rsplit_once("User \"")?;
    let (verb, after) = after.split_once(" resource \"")?;
    let (resource, after) = after.split_once('"')?;
    let (_, after) = after.split_once("API group \"")?;
    let (group, _) = after.split_once('"')?;
    Some(Denied {
        user,
        verb,
        resource,
        group,
    })
}

fn has(status: &Status, words: &str) -> bool {
    status.message.contains(words)
}

fn has_cause(status: &Status, reason: &str) -> bool {
    status
        .details
        .as_ref()
        .is_some_and(|it| it.causes.iter().any(|it| it.reason == reason))
}

/// A quota of the namespace is used up.
pub(crate) fn is_quota(status: &Status) -> bool {
    status.code == 403 && has(status, "exceeded quota: ")
}

/// The namespace is not there.
pub(crate) fn is_namespace_missing(status: &Status) -> bool {
    status.code == 404
        && (status
            .details
            .as_ref()
            .is_some_and(|it| it.kind == "namespaces")
            || status.message.starts_with("namespaces \""))
}

/// The namespace is being deleted.
pub(crate) fn is_namespace_terminating(status: &Status) -> bool {
    status.code == 403
        && (has_cause(status, "NamespaceTerminating")
            || has(status, "because it is being terminated"))
}

/// The caller may not do this, whatever is in the request.
pub(crate) fn is_missing_right(status: &Status) -> bool {
    status.code == 403
        && !is_quota(status)
        && !is_namespace_terminating(status)
        && admission(status).is_none()
}

/// A refusal by what looks into requests: its name, and its words.
fn admission(status: &Status) -> Option<(String, &str)> {
    let message = status.message.as_str();
    if let Some((_, words)) = message.split_once("violates PodSecurity ") {
        return Some(("the Pod Security admission".to_owned(), words));
    }
    if let Some((_, rest)) = message.split_once("admission webhook \"") {
        let (name, rest) = rest.split_once('"')?;
        let (_, words) = rest.split_once("denied the request")?;
        let words = words.trim_start_matches([':', ' ']);
        return Some((
            format!("the admission webhook `{}`", printable(name)),
            words,
        ));
    }
    if let Some((_, rest)) = message.split_once("ValidatingAdmissionPolicy '") {
        let (name, rest) = rest.split_once('\'')?;
        let (_, words) = rest.split_once("denied request")?;
        let words = words.trim_start_matches([':', ' ']);
        return Some((format!("the admission policy `{}`", printable(name)), words));
    }
    if let Some((_, rest)) = message.split_once("is forbidden: failed quota: ") {
        let (name, words) = rest.split_once(": ")?;
        return Some((format!("the quota `{}`", printable(name)), words));
    }
    let limits = [
        "per Container is",
        "per Pod is",
        "per PersistentVolumeClaim is",
    ];
    if status.code == 403
        && limits.iter().any(|it| message.contains(it))
        && let Some((_, words)) = message.split_once("is forbidden: ")
    {
        return Some(("the limit range of the namespace".to_owned(), words));
    }
    None
}

/// What a refusal comes to.
pub(crate) fn tell(status: &Status, server: &str, namespace: &str) -> Told {
    let words = line(&status.message);
    if let Some((who, said)) = admission(status) {
        return Told::new(
            ErrorKind::NotAllowed,
            format!("{who} refuses it: {}", line(said)),
            format!(
                "Ask who runs the cluster what the namespace `{namespace}` allows, or change the request or `kubernetes.*` to fit."
            ),
        );
    }
    match status.code {
        401 => Told::new(
            ErrorKind::PermissionDenied,
            format!("the API server at `{server}` does not accept the credentials"),
            "Renew the token or certificate of the kubeconfig's user: it is another cluster's, has expired or was taken back. `kubectl get --raw /version` with the same kubeconfig tries it.",
        )
        // They may be renewed beneath it.
        .retryable(true),
        403 if is_quota(status) => Told::new(
            ErrorKind::Exhausted,
            quota(&status.message, namespace),
            format!("`kubectl describe quota -n {namespace}` shows what is used: remove nodes, ask for less, or have the quota raised."),
        ),
        403 if is_namespace_terminating(status) => Told::new(
            ErrorKind::Unavailable,
            format!("the namespace `{namespace}` is being deleted"),
            format!("When it is gone, make it anew by `kubectl create namespace {namespace}`, or set `storage.k8s_namespace` to another."),
        )
        .retryable(false),
        403 if has(status, "service account") && has(status, "not found") => Told::new(
            ErrorKind::InvalidConfig,
            words,
            format!("Make it by `kubectl create serviceaccount NAME -n {namespace}`, or change `kubernetes.overlay.service_account`."),
        ),
        403 => forbidden(status, namespace),
        404 if is_namespace_missing(status) => Told::new(
            ErrorKind::InvalidConfig,
            format!("the namespace `{namespace}` does not exist"),
            format!("Make it by `kubectl create namespace {namespace}`, or set `storage.k8s_namespace` to another."),
        ),
        404 if has(status, "the server could not find the requested resource") || has(status, "404 page not found") => Told::new(
            ErrorKind::Unsupported,
            format!("the API server at `{server}` does not have this"),
            "Upgrade the cluster, and check that the address is an API server's.",
        ),
        404 => Told::new(
            ErrorKind::Internal,
            words,
            "It was deleted meanwhile: try again.",
        )
        .retryable(true),
        409 => Told::new(
            ErrorKind::Internal,
            words,
            "It was changed by somebody else at the same moment: try again.",
        )
        .retryable(true),
        410 => Told::new(ErrorKind::Stale, words, "Try again."),
        413 => Told::new(
            ErrorKind::InvalidConfig,
            format!("it is too large: {words}"),
            "Make the request smaller: its environment, labels and secrets have to fit into objects of 1 MiB.",
        ),
        422 => Told::new(
            ErrorKind::InvalidConfig,
            words,
            "Correct the part of the request or of `kubernetes.*` that it names.",
        ),
        429 => Told::new(
            ErrorKind::Unavailable,
            format!("the API server at `{server}` is too busy: {words}"),
            "Try again later; `kubectl get --raw /readyz` says how it is.",
        ),
        500..=599 if has(status, "failed calling webhook") => Told::new(
            ErrorKind::Unavailable,
            words,
            "An admission webhook of the cluster does not answer: `kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations` lists them.",
        ),
        504 => Told::new(
            ErrorKind::Timeout,
            words,
            "The cluster's own store is slow: `kubectl get --raw /readyz?verbose` says how it is.",
        ),
        500..=599 => Told::new(
            ErrorKind::Unavailable,
            format!("the API server at `{server}` failed: {words}"),
            "`kubectl get --raw /readyz?verbose` says how it is.",
        ),
        _ => Told {
            kind: ErrorKind::Internal,
            why: words,
            hint: None,
            retryable: None,
        },
    }
}

/// The right that is missing, and the rule that gives it.
fn forbidden(status: &Status, namespace: &str) -> Told {
    let Some(denied) = denied(&status.message) else {
        return Told::new(
            ErrorKind::PermissionDenied,
            line(&status.message),
            format!("`{}` gives every right that is needed.", apply(namespace)),
        );
    };
    let Denied {
        user,
        verb,
        resource,
        group,
    } = denied;
    Told::new(
        ErrorKind::PermissionDenied,
        format!(
            "`{}` may not {verb} {resource} in the namespace `{namespace}`",
            user.escape_debug()
        ),
        mend(group, resource, verb, namespace),
    )
}

/// How a right is given: the file, and its rule.
pub(crate) fn mend(group: &str, resource: &str, verb: &str, namespace: &str) -> String {
    format!(
        "`{}` gives every right that is needed; this one is the rule `{{apiGroups: [\"{group}\"], resources: [\"{resource}\"], verbs: [\"{verb}\"]}}`.",
        apply(namespace)
    )
}

/// The command that gives the rights. A binding names the namespace of its account, whatever it is applied to.
fn apply(namespace: &str) -> String {
    if namespace == ROLE_NAMESPACE {
        return format!("kubectl apply -n {namespace} -f {ROLE}");
    }
    format!(
        "sed 's/namespace: {ROLE_NAMESPACE}/namespace: {namespace}/' {ROLE} | kubectl apply -n {namespace} -f -"
    )
}

/// `exceeded quota: NAME, requested: R, used: U, limited: L` in our words.
fn quota(message: &str, namespace: &str) -> String {
    let (_, behind) = message
        .split_once("exceeded quota: ")
        .unwrap_or(("", message));
    let (name, figures) = behind.split_once(", ").unwrap_or((behind, ""));
    format!(
        "the quota `{}` of the namespace `{namespace}` is used up: {}",
        printable(name),
        line(figures)
    )
}

/// Somebody else's words as one line that a terminal can be shown.
pub(crate) fn line(text: &str) -> String {
    /// A refusal of an object repeats it in full.
    const LONGEST: usize = 400;
    let words: Vec<&str> = text.split_whitespace().collect();
    let words = words.join(" ");
    let mut rest = words.trim_end_matches('.').chars();
    let shown = rest.by_ref().take(LONGEST);
    let mut out: String = shown.filter(|it| !it.is_control()).collect();
    if rest.next().is_some() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_read_from_the_servers_words() {
        let check = |message: &str, expect: Option<(&str, &str, &str, &str)>| {
            let found = denied(message).map(|it| (it.user, it.verb, it.resource, it.group));
            assert_eq!(found, expect, "{message}");
        };
        check(
            r#"pods is forbidden: User "system:serviceaccount:grid:agent" cannot create resource "pods" in API group "" in the namespace "grid""#,
            Some(("system:serviceaccount:grid:agent", "create", "pods", "")),
        );
        check(
            r#"pods "a" is forbidden: User "x" cannot get resource "pods/log" in API group "" in the namespace "grid": RBAC: role.rbac.authorization.k8s.io "agent" not found"#,
            Some(("x", "get", "pods/log", "")),
        );
        check(
            r#"leases.coordination.k8s.io "l" is forbidden: User "x" cannot update resource "leases" in API group "coordination.k8s.io" in the namespace "grid""#,
            Some(("x", "update", "leases", "coordination.k8s.io")),
        );
        check("forbidden: no", None);
    }

    #[test]
    fn words_are_one_line() {
        let check = |text: &str, expect: &str| assert_eq!(line(text), expect);
        check(" a\n\tb\u{1b}[31m c. ", "a b[31m c");
        check("", "");
        check(&"x".repeat(400), &"x".repeat(400));
        check(&"x".repeat(401), &format!("{}...", "x".repeat(400)));
    }
}
