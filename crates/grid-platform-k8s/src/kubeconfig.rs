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

async fn of_file(mut file: Kubeconfig, context: Option<String>, path: &Path) -> Result<Config> {
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
        .iter_mut()
        .filter(|it| Some(&it.name) == user.as_ref())
    {
        let Some(exec) = named.auth_info.as_mut().and_then(|it| it.exec.as_mut()) else {
            continue;
        };
        if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
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
        // Nobody is there to answer, and what it writes belongs into the error.
        exec.interactive_mode = Some(ExecInteractiveMode::Never);
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
