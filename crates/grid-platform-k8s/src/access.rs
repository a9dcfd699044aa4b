//! The way to the cluster: which server, as whom, and that every call has its limit.

use std::{
    collections::BTreeMap, fmt::Display, future::Future, net::IpAddr, sync::Arc, time::Duration,
};

use grid_platform_api::{ErrorKind, Result, fault};
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::version::Info};
use kube::{Api, Client, Resource, config::AuthInfo};

use crate::{
    config::KubernetesConfig,
    error::{Fault, error},
    exec::Credentials,
    kubeconfig,
    transport::{self, Calls},
};

/// How long a call may take that neither watches nor reads a log.
pub(crate) const CALL: Duration = Duration::from_secs(15);
/// The oldest server that is spoken to, minor of version 1: it has all that is used in its stable form.
pub(crate) const OLDEST: u32 = 20;

/// The cluster, as one adapter speaks to it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access {
    /// The client, which has no limits of its own.
    pub(crate) client: Client,
    /// The namespace of all that is asked.
    pub(crate) namespace: String,
    /// The server's address, for messages.
    pub(crate) server: String,
    /// What goes to the server can be read on its way, and it is another host.
    pub(crate) is_plain: bool,
    /// Whether anybody could pose as the server, as the kubeconfig allows.
    pub(crate) is_unverified: bool,
    calls: Arc<Calls>,
}

impl Access {
    /// Finds the server, makes a client and sees that it answers.
    ///
    /// # Errors
    /// `InvalidConfig` for a kubeconfig that is none; `Unavailable`, `PermissionDenied`, `Timeout` for a server that cannot
    /// be asked; `Unsupported` for one that is too old.
    pub(crate) async fn connect(config: &KubernetesConfig) -> Result<Self> {
        let access = Self::find(config).await?;
        access.version().await?;
        Ok(access)
    }

    /// Finds the server and makes a client, and does not ask whether it is there.
    ///
    /// # Errors
    /// `InvalidConfig` for a kubeconfig that is none; `PermissionDenied` for credentials that cannot be got.
    pub(crate) async fn find(config: &KubernetesConfig) -> Result<Self> {
        let mut found = kubeconfig::read(config).await?;
        let server = kubeconfig::shown(&found.cluster_url);
        let is_plain = is_plain(&found.cluster_url);
        let is_unverified = found.accept_invalid_certs;
        let calls = Arc::new(Calls::default());
        let fault = |source| {
            Fault::new(
                "make a client of the cluster",
                &server,
                &config.namespace,
                source,
            )
        };
        // The program is run here, where it has its own limit and no call's.
        let program = found
            .auth_info
            .exec
            .take()
            .filter(|_| !has_own(&found.auth_info));
        let credentials = program.map(Credentials::new);
        if let Some(credentials) = &credentials {
            let certified = credentials.certify(&mut found.auth_info).await;
            certified.map_err(|why| fault(kube::Error::Service(Box::new(why))))?;
        }
        let counted = Arc::clone(&calls);
        let making =
            tokio::task::spawn_blocking(move || transport::client(&found, counted, credentials));
        let client = match making.await {
            Ok(made) => made.map_err(fault)?,
            Err(ended) => {
                return Err(
                    error(ErrorKind::Internal, "making a client was cut short").with_source(ended)
                );
            }
        };
        Ok(Self {
            client,
            namespace: config.namespace.clone(),
            server,
            is_plain,
            is_unverified,
            calls,
        })
    }

    /// The server's version; whether it answers at all.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub(crate) async fn version(&self) -> Result<Info> {
        let asked = self.client.apiserver_version();
        let info = self.call("ask the cluster for its version", asked).await?;
        match minor(&info) {
            Some(minor) if minor < OLDEST => Err(error(
                ErrorKind::Unsupported,
                format!(
                    "the API server at `{}` is {}, which is too old",
                    self.server, info.git_version
                ),
            )
            .with_hint(format!("Upgrade the cluster to 1.{OLDEST} or newer."))),
            _ => Ok(info),
        }
    }

    /// One call within [`CALL`]; `what` is what it does, as in "make the pod".
    ///
    /// # Errors
    /// The server's refusal, or that its answer did not come.
    pub(crate) async fn call<T>(
        &self,
        what: impl Display,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Fault> {
        self.call_within(CALL, what, call).await
    }

    /// One call within a limit of its own.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn call_within<T>(
        &self,
        limit: Duration,
        what: impl Display,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Fault> {
        let limit = fault::figure("k8s-limit-ms")
            .map(Duration::from_millis)
            .map_or(limit, |it| it.min(limit));
        let between = async {
            fault::point("k8s-call-before").map_err(kube::Error::ReadEvents)?;
            let answer = call.await?;
            fault::point("k8s-call-after").map_err(kube::Error::ReadEvents)?;
            Ok(answer)
        };
        match tokio::time::timeout(limit, between).await {
            Ok(answer) => answer.map_err(|source| self.fault(what, source)),
            Err(_) => Err(Fault::silent(what, &self.server, &self.namespace, limit)),
        }
    }

    /// What a call's error says; for those that do not go through [`call`](Self::call), as watches do not.
    pub(crate) fn fault(&self, what: impl Display, source: kube::Error) -> Fault {
        Fault::new(what, &self.server, &self.namespace, source)
    }

    /// The objects of one kind in the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// How many requests went out, by verb and resource.
    pub(crate) fn calls(&self) -> BTreeMap<String, u64> {
        self.calls.snapshot()
    }

    #[cfg(test)]
    pub(crate) fn with_client(client: Client, namespace: &str, calls: Arc<Calls>) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            server: "https://cluster:6443".to_owned(),
            is_plain: false,
            is_unverified: false,
            calls,
        }
    }
}

/// Whether a user of a kubeconfig has credentials written there, which count before a program's.
fn has_own(user: &AuthInfo) -> bool {
    user.token.is_some()
        || user.token_file.is_some()
        || user.auth_provider.is_some()
        || (user.username.is_some() && user.password.is_some())
}

/// The minor version: providers write `27+`.
pub(crate) fn minor(info: &Info) -> Option<u32> {
    if info.major != "1" {
        return None;
    }
    let digits = info.minor.trim_end_matches(|it: char| !it.is_ascii_digit());
    digits.parse().ok()
}

/// Whether what goes to that server leaves the host in plain text.
fn is_plain(url: &hyper::Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback =
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback());
    url.scheme_str() != Some("https") && !is_loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_for_this_host_alone() {
        let check = |url: &'static str, expect: bool| {
            assert_eq!(is_plain(&hyper::Uri::from_static(url)), expect, "{url}");
        };
        check("https://10.0.0.1:6443", false);
        check("http://10.0.0.1:8080", true);
        check("http://127.0.0.1:8080", false);
        check("http://[::1]:8080", false);
        check("http://localhost:8001/path", false);
        check("http://localhost.example.com", true);
        check("http://128.0.0.1", true);
    }

    #[test]
    fn versions_as_providers_write_them() {
        let check = |major: &str, minor_text: &str, expect| {
            let info = Info {
                major: major.to_owned(),
                minor: minor_text.to_owned(),
                ..Info::default()
            };
            assert_eq!(minor(&info), expect, "{major}.{minor_text}");
        };
        check("1", "20", Some(20));
        check("1", "27+", Some(27));
        check("2", "0", None);
        check("1", "", None);
    }
}
