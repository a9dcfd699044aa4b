//! Whether nodes can run: the server, the namespace, the rights, storage, and the mend of what is missing. Changes nothing.

use grid_platform_api::{Check, CheckStatus, Error, printable};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Namespace},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::version::Info,
};
use kube::{Api, api::ListParams};

use crate::{
    access::{Access, minor},
    config::KubernetesConfig,
    keeper, owner,
    rights::{self, Missing},
    usage::Metrics,
};

/// Servers from here on hold pods to a level of Pod Security that their namespace names.
const POD_SECURITY: u32 = 25;
/// The annotation of the class that claims have that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The label of a namespace with the level that its pods are held to.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// What was found of a cluster.
pub(crate) struct Found {
    /// The server's version, as people know it.
    pub(crate) version: Option<String>,
    /// What was looked at, in the order in which it matters. Behind a server that cannot be reached there is nothing.
    pub(crate) checks: Vec<Check>,
}

/// Looks at a cluster and at what nodes need of it.
pub(crate) async fn examine(
    access: &Access,
    config: &KubernetesConfig,
    metrics: &Metrics,
) -> Found {
    let mut checks = Vec::new();
    let info = match access.version().await {
        Ok(info) => info,
        Err(error) => {
            checks.push(failed("server", error));
            return Found {
                version: None,
                checks,
            };
        }
    };
    let version = format!("Kubernetes {}", info.git_version.trim_start_matches('v'));
    checks.push(ok("server", format!("{version} at `{}`", access.server)));
    checks.extend(connection(access));
    let (namespace, level) = of_namespace(access, config).await;
    let is_there = namespace.status != CheckStatus::Failed;
    checks.push(namespace);
    if is_there {
        checks.push(of_rights(access).await);
        checks.push(storage_class(access, config).await);
        checks.push(usage(access, metrics).await);
        checks.push(admission(&info, level.as_deref()));
        checks.push(lease(access, config).await);
    }
    Found {
        version: Some(version),
        checks,
    }
}

fn check(
    name: &str,
    status: CheckStatus,
    detail: impl Into<String>,
    hint: Option<String>,
) -> Check {
    Check {
        name: name.to_owned(),
        status,
        detail: detail.into(),
        hint,
    }
}

fn ok(name: &str, detail: impl Into<String>) -> Check {
    check(name, CheckStatus::Ok, detail, None)
}

fn degraded(name: &str, detail: impl Into<String>, hint: impl Into<String>) -> Check {
    check(name, CheckStatus::Degraded, detail, Some(hint.into()))
}

fn failed(name: &str, error: Error) -> Check {
    told(name, CheckStatus::Failed, error)
}

fn told(name: &str, status: CheckStatus, error: Error) -> Check {
    let report = error.to_report();
    let words: Vec<_> = std::iter::once(report.message)
        .chain(report.causes)
        .collect();
    check(name, status, words.join(": "), report.hint)
}

/// Who can read what goes to the server, and who could pose as it.
fn connection(access: &Access) -> Option<Check> {
    if access.is_plain {
        return Some(degraded(
            "connection",
            format!(
                "what goes to `{}` can be read and changed on its way: no node with secrets is accepted",
                access.server
            ),
            "Give the kubeconfig's cluster an `https` address.",
        ));
    }
    access.is_unverified.then(|| {
        degraded(
            "connection",
            format!(
                "anybody on the way to `{}` can pose as it: its certificate is not looked at",
                access.server
            ),
            "Replace `insecure-skip-tls-verify` of the kubeconfig's cluster by `certificate-authority`.",
        )
    })
}

/// Whether the namespace is there, and the level that its pods are held to, where it may be asked.
async fn of_namespace(access: &Access, config: &KubernetesConfig) -> (Check, Option<String>) {
    const NAME: &str = "namespace";
    let name = &access.namespace;
    let is_there = || ok(NAME, format!("`{name}` is there"));
    let make = format!("Make it by `kubectl create namespace {name}`.");
    let absent = || {
        check(
            NAME,
            CheckStatus::Failed,
            format!("there is no namespace `{name}`"),
            Some(make.clone()),
        )
    };
    let api: Api<Namespace> = Api::all(access.client.clone());
    let asked = access.call("look for the namespace", api.get(name)).await;
    match asked {
        Ok(found) => {
            let phase = found.status.and_then(|it| it.phase);
            if phase.as_deref() == Some("Terminating") {
                let ending = check(
                    NAME,
                    CheckStatus::Failed,
                    format!("the namespace `{name}` is being deleted"),
                    Some(format!(
                        "When it is gone, make it anew by `kubectl create namespace {name}`."
                    )),
                );
                return (ending, None);
            }
            let level = found
                .metadata
                .labels
                .and_then(|mut it| it.remove(ENFORCE))
                .unwrap_or_default();
            (is_there(), Some(level))
        }
        Err(fault) if fault.status() == Some(404) => (absent(), None),
        // A role of one namespace does not have it: what is in it shows that it is there.
        Err(fault) if fault.is_forbidden() => {
            let map = owner::name(config);
            let looked = access
                .call(
                    "look into the namespace",
                    access.api::<ConfigMap>().get_opt(&map),
                )
                .await;
            let found = match looked {
                Ok(Some(_)) => is_there(),
                Ok(None) => ok(
                    NAME,
                    format!("`{name}` has nothing of this installation yet, if it is there"),
                ),
                Err(fault) => failed(NAME, fault.into_error()),
            };
            (found, None)
        }
        Err(fault) => (failed(NAME, fault.into_error()), None),
    }
}

async fn of_rights(access: &Access) -> Check {
    match rights::missing(access).await {
        Ok(missing) => judge(&missing, &access.namespace),
        Err(fault) => told("rights", CheckStatus::Degraded, fault.into_error()),
    }
}

/// What missing rights come to.
fn judge(missing: &[Missing], namespace: &str) -> Check {
    let needed: Vec<&Missing> = missing
        .iter()
        .filter(|it| it.right.without.is_none())
        .collect();
    let name = "rights";
    match (needed.first(), missing.first()) {
        (None, None) => ok(name, "the agent may do all that it needs to"),
        (Some(first), _) => {
            let list: Vec<String> = needed.iter().map(|it| it.shown()).collect();
            check(
                name,
                CheckStatus::Failed,
                format!("the agent may not: {}", list.join(", ")),
                Some(first.mend(namespace)),
            )
        }
        (None, Some(first)) => {
            let without = first.right.without.unwrap_or_default();
            degraded(
                name,
                format!("the agent may not {}: {without}", first.shown()),
                first.mend(namespace),
            )
        }
    }
}

/// Where claims get their volumes from. Classes are the cluster's, and an agent may be kept from asking for them.
async fn storage_class(access: &Access, config: &KubernetesConfig) -> Check {
    const NAME: &str = "storage class";
    let api: Api<StorageClass> = Api::all(access.client.clone());
    let unasked = |what: &str| {
        ok(
            NAME,
            format!("{what}; whether it is there the agent may not ask"),
        )
    };
    if let Some(class) = &config.overlay.storage_class {
        let class_shown = printable(class);
        let asked = access
            .call("look for the storage class", api.get_opt(class))
            .await;
        return match asked {
            Ok(Some(_)) => ok(NAME, format!("claims have the class `{class_shown}`")),
            Ok(None) => degraded(
                NAME,
                format!(
                    "there is no class `{class_shown}`: a claim waits until a volume of it is there"
                ),
                "`kubectl get storageclass` lists those that are there; `kubernetes.overlay.storage_class` names one.",
            ),
            Err(fault) if fault.is_forbidden() => {
                unasked(&format!("claims have the class `{class_shown}`"))
            }
            Err(fault) => told(NAME, CheckStatus::Degraded, fault.into_error()),
        };
    }
    let asked = access
        .call("look for a storage class", api.list(&ListParams::default()))
        .await;
    let classes = match asked {
        Ok(classes) => classes,
        Err(fault) if fault.is_forbidden() => {
            return unasked("claims have the cluster's default class");
        }
        Err(fault) => return told(NAME, CheckStatus::Degraded, fault.into_error()),
    };
    let default = classes.items.iter().find(|it| {
        let annotations = it.metadata.annotations.as_ref();
        annotations.is_some_and(|it| it.get(DEFAULT_CLASS).is_some_and(|it| it == "true"))
    });
    match default {
        Some(class) => ok(
            NAME,
            format!(
                "claims have the cluster's default class `{}`",
                class.metadata.name.as_deref().unwrap_or_default()
            ),
        ),
        None => degraded(
            NAME,
            "the cluster has no default class: a claim waits until somebody makes a volume for it",
            format!(
                "Name one of `kubectl get storageclass` by `kubernetes.overlay.storage_class`, or mark one by `kubectl annotate storageclass NAME {DEFAULT_CLASS}=true`."
            ),
        ),
    }
}

async fn usage(access: &Access, metrics: &Metrics) -> Check {
    match metrics.look(access).await {
        Ok(Some(true)) => ok("metrics", "the cluster tells what pods use"),
        Err(error) => told("metrics", CheckStatus::Degraded, error),
        Ok(None) => degraded(
            "metrics",
            "whether the cluster tells what pods use may not be asked",
            "Clusters let every account ask what APIs there are, by the ClusterRole `system:discovery`.",
        ),
        Ok(Some(false)) => degraded(
            "metrics",
            "the cluster does not tell what pods use: the usage of nodes is unknown",
            "Install metrics-server (`kubectl top pods` works then).",
        ),
    }
}

/// Whether the server itself holds pods to a level of security.
fn admission(info: &Info, level: Option<&str>) -> Check {
    const NAME: &str = "pod security";
    let made = "the pods of nodes are made to `restricted`";
    let is_old = minor(info).is_some_and(|it| it < POD_SECURITY);
    match level {
        _ if is_old => ok(
            NAME,
            format!(
                "{made}; {} holds no pod to a level of its own",
                info.git_version
            ),
        ),
        Some("") => check(
            NAME,
            CheckStatus::Ok,
            format!("{made}; the namespace enforces no level"),
            Some(format!(
                "`kubectl label namespace NAME {ENFORCE}=restricted` has the cluster refuse any other pod."
            )),
        ),
        Some(level) => ok(
            NAME,
            format!("{made}, and the namespace enforces `{}`", printable(level)),
        ),
        None => ok(
            NAME,
            format!("{made}; which level the namespace enforces the agent may not ask"),
        ),
    }
}

/// Who acts in this installation.
async fn lease(access: &Access, config: &KubernetesConfig) -> Check {
    let name = owner::name(config);
    let asked = access
        .call("look at the lease", access.api::<Lease>().get_opt(&name))
        .await;
    let holder = match asked {
        Ok(found) => found
            .and_then(|it| it.spec?.holder_identity)
            .filter(|it| !it.is_empty()),
        Err(fault) => return failed("lease", fault.into_error()),
    };
    match holder {
        Some(holder) => ok(
            "lease",
            format!("`{name}` is held by {}", keeper::shown(&holder)),
        ),
        None => ok("lease", format!("`{name}` is held by nobody")),
    }
}
