//! Which server and as whom: a kubeconfig, or the account that a cluster gives to a pod.

use std::path::{Path, PathBuf};

use grid_platform_api::{Error, ErrorKind, Result, printable};
use hyper::Uri;
use kube::{
    Config,
    config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::{config::KubernetesConfig, error::error};

/// Reads what the settings name.
///
/// # Errors
/// `InvalidConfig` for files that are missing, cannot be understood or want what this adapter does not do.
pub(crate) async fn read(settings: &KubernetesConfig) -> Result<Config> {
    let Some(path) = settings.kubeconfig.clone() else {
        return in_cluster();
    };
    let context = settings.context.clone();
    let reading = path.clone();
    let file = tokio::task::spawn_blocking(move || files(&reading))
        .await
        .map_err(|e| {
            error(ErrorKind::Internal, "reading a kubeconfig was cut short").with_source(e)
        })?
        .map_err(|e| unreadable(&path, e))?;
    of_file(file, context, &path).await
}

/// The account of the pod that this process is in.
fn in_cluster() -> Result<Config> {
    let mut config = Config::incluster().map_err(|source| {
        error(
            ErrorKind::InvalidConfig,
            "no kubeconfig is set, and this is no pod of a cluster",
        )
        .with_source(source)
        .with_hint("Set `storage.k8s_kubeconfig` or `KUBECONFIG` to the cluster's kubeconfig.")
    })?;
    config.default_retry = false;
    Ok(config)
}

/// The file, or several that together are one, as `KUBECONFIG` lists them.
fn files(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    if path.exists() {
        return Kubeconfig::read_from(path);
    }
    let mut merged: Option<Kubeconfig> = None;
    let listed: Vec<PathBuf> = std::env::split_paths(path).collect();
    for file in listed.iter().filter(|it| it.exists()) {
        let next = Kubeconfig::read_from(file)?;
        merged = Some(match merged {
            Some(before) => before.merge(next)?,
            None => next,
        });
    }
    // That there is none has its error from the reading of it.
    merged.map_or_else(|| Kubeconfig::read_from(path), Ok)
}

async fn of_file(file: Kubeconfig, context: Option<String>, path: &Path) -> Result<Config> {
    let chosen = context.clone().or_else(|| file.current_context.clone());
    let named = file
        .contexts
        .iter()
        .find(|it| Some(&it.name) == chosen.as_ref())
        .and_then(|it| it.context.clone());
    let (cluster, user) = match &named {
        Some(context) => (context.cluster.clone(), context.user.clone()),
        None => (String::new(), None),
    };
    let proxy = file
        .clusters
        .iter()
        .find(|it| it.name == cluster)
        .and_then(|it| it.cluster.as_ref()?.proxy_url.clone())
        .filter(|it| !it.is_empty());
    if proxy.is_some() {
        return Err(error(
            ErrorKind::Unsupported,
            format!("the kubeconfig `{}` has a `proxy-url`", path.display()),
        )
        .with_hint("Remove it, and run the agent where it reaches the API server by itself."));
    }
    for named in file
        .auth_infos
        .iter()
        .filter(|it| Some(&it.name) == user.as_ref())
    {
        let exec = named.auth_info.as_ref().and_then(|it| it.exec.as_ref());
        if exec.is_some_and(|it| it.interactive_mode == Some(ExecInteractiveMode::Always)) {
            return Err(error(
                ErrorKind::InvalidConfig,
                format!(
                    "the user `{}` of the kubeconfig `{}` gets credentials by a program that asks questions",
                    printable(&named.name),
                    path.display()
                ),
            )
            .with_hint("An agent has nobody to ask: use a service account's token, or a program with `interactiveMode: Never`."));
        }
    }
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(file, &options)
        .await
        .map_err(|e| unusable(path, e))?;
    // The library goes by the environment here, which is the settings' alone.
    config.proxy_url = None;
    config.default_retry = false;
    Ok(config)
}

/// What keeps a kubeconfig from being read. Its own words are left out where they could show what is in it.
fn unreadable(path: &Path, source: KubeconfigError) -> Error {
    match source {
        KubeconfigError::ReadConfig(source, file) => error(
            ErrorKind::InvalidConfig,
            format!("cannot read the kubeconfig `{}`", file.display()),
        )
        .with_source(source)
        .with_hint("Set `storage.k8s_kubeconfig` or `KUBECONFIG` to a file that the agent's user may read, or unset both in a pod."),
        KubeconfigError::Parse(_) => error(
            ErrorKind::InvalidConfig,
            format!("the kubeconfig `{}` is no kubeconfig", path.display()),
        )
        .with_hint(format!(
            "`kubectl config view --kubeconfig={}` says what is wrong with it.",
            path.display()
        )),
        other => unusable(path, other),
    }
}

fn unusable(path: &Path, source: KubeconfigError) -> Error {
    let shown = path.display();
    let list = format!(
        "`kubectl config get-contexts --kubeconfig={shown}` lists its contexts; `kubernetes.context` names one."
    );
    match source {
        KubeconfigError::CurrentContextNotSet => error(
            ErrorKind::InvalidConfig,
            format!("the kubeconfig `{shown}` has no current context"),
        )
        .with_hint(list),
        KubeconfigError::LoadContext(name) => error(
            ErrorKind::InvalidConfig,
            format!(
                "the kubeconfig `{shown}` has no context `{}`",
                printable(&name)
            ),
        )
        .with_hint(list),
        KubeconfigError::LoadClusterOfContext(name) => error(
            ErrorKind::InvalidConfig,
            format!(
                "the kubeconfig `{shown}` has no cluster `{}`, which its context names",
                printable(&name)
            ),
        )
        .with_hint(list),
        other => error(
            ErrorKind::InvalidConfig,
            format!("the kubeconfig `{shown}` cannot be used"),
        )
        .with_source(other)
        .with_hint(format!(
            "`kubectl --kubeconfig={shown} version` shows whether it leads to a server."
        )),
    }
}

/// A server's address without what could be a password.
pub(crate) fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("https");
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().map_or(String::new(), |it| format!(":{it}"));
    let path = url.path().trim_end_matches('/');
    format!("{scheme}://{host}{port}{path}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use grid_platform_api::ErrorKind;
    use serde_json::{Value, json};

    use super::*;

    fn file() -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        })
    }

    async fn read_text(text: &str, context: Option<&str>) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(&path, text).unwrap();
        read(&KubernetesConfig {
            kubeconfig: Some(path),
            context: context.map(str::to_owned),
            ..KubernetesConfig::new("grid")
        })
        .await
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named_with_its_mend() {
        let check = async |change: fn(&mut Value), context, kind, message: &str, hint: &str| {
            let mut changed = file();
            change(&mut changed);
            let error = read_text(&changed.to_string(), context).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(error.to_string().ends_with(message), "{error}");
            assert!(error.hint().unwrap().contains(hint), "{error:?}");
        };
        let invalid = ErrorKind::InvalidConfig;
        let list = "`kubectl config get-contexts";
        check(
            |_| {},
            Some("there"),
            invalid,
            "has no context `there`",
            list,
        )
        .await;
        check(
            |it| it["current-context"] = Value::Null,
            None,
            invalid,
            "has no current context",
            list,
        )
        .await;
        check(
            |it| it["clusters"] = json!([]),
            None,
            invalid,
            "has no cluster `c`, which its context names",
            list,
        )
        .await;
        check(
            |it| it["clusters"][0]["cluster"]["proxy-url"] = "http://proxy".into(),
            None,
            ErrorKind::Unsupported,
            "has a `proxy-url`",
            "Remove it",
        )
        .await;
        check(
            |it| {
                it["users"][0]["user"] = json!({"exec": {
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "command": "login",
                    "interactiveMode": "Always",
                }});
            },
            None,
            invalid,
            "gets credentials by a program that asks questions",
            "interactiveMode: Never",
        )
        .await;
    }

    #[tokio::test]
    async fn what_is_in_a_file_is_not_shown() {
        let error = read_text("token: [s3cret", None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(!error.report().contains("s3cret"), "{}", error.report());
        let missing = read(&KubernetesConfig {
            kubeconfig: Some("/nowhere/config".into()),
            ..KubernetesConfig::new("grid")
        })
        .await
        .unwrap_err();
        assert_eq!(
            missing.to_string(),
            "cannot read the kubeconfig `/nowhere/config`"
        );
    }

    #[tokio::test]
    async fn several_files_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, keep: &[&str]| {
            let mut part = file();
            let fields = part.as_object_mut().unwrap();
            fields.retain(|it, _| keep.contains(&it.as_str()));
            fs::write(dir.path().join(name), part.to_string()).unwrap();
            dir.path().join(name)
        };
        let list = std::env::join_paths([
            write(
                "one",
                &["apiVersion", "kind", "contexts", "current-context"],
            ),
            dir.path().join("not there"),
            write("two", &["apiVersion", "kind", "clusters", "users"]),
        ]);
        let config = read(&KubernetesConfig {
            kubeconfig: Some(list.unwrap().into()),
            ..KubernetesConfig::new("grid")
        })
        .await
        .unwrap();
        assert_eq!(shown(&config.cluster_url), "https://10.0.0.1:6443");
    }

    #[test]
    fn an_address_is_shown_without_a_password() {
        let check = |url: &'static str, expect: &str| {
            assert_eq!(shown(&Uri::from_static(url)), expect);
        };
        check("https://me:secret@10.0.0.1:6443/", "https://10.0.0.1:6443");
        check("https://cluster/k8s/c-1", "https://cluster/k8s/c-1");
    }
}
