//! The cluster's errors as the contract's.

use std::{error::Error as StdError, fmt, io, time::Duration};

use grid_platform_api::{Error, ErrorKind};
use kube::{
    client::AuthError,
    core::{Status, response::reason},
};

use crate::{exec::NoCredentials, refusal};

/// The platform's name.
pub(crate) const PLATFORM: &str = "kubernetes";

/// An error of this platform.
pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind, message).with_platform(PLATFORM)
}

/// Says in which call it happened. An error that knows no better mend names the command that looks for one.
pub(crate) fn named(error: Error, operation: &'static str) -> Error {
    let error = error.with_platform(PLATFORM).with_operation(operation);
    match error.hint() {
        Some(_) => error,
        None => error.with_hint("`grid doctor` looks at what the platform needs."),
    }
}

/// Why the cluster did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Fault {
    /// What was asked, as in "make the pod".
    what: String,
    server: String,
    namespace: String,
    cause: Cause,
}

/// What happened to a request.
#[derive(Debug)]
enum Cause {
    /// The server refused it, or says that it failed.
    Refused(Box<Status>),
    /// No answer came within this time.
    Silent(Duration),
    /// No connection could be made: nothing was sent.
    Away(Beneath),
    /// The connection broke before the answer was there.
    Broken(Beneath),
    /// What the client authenticates with could not be got: nothing was sent.
    Credentials(String),
    /// The answer, or the client, cannot be understood.
    Strange(String),
}

/// What a connection died of, in one line.
#[derive(Debug)]
struct Beneath {
    why: Why,
    words: String,
}

/// What has a mend of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Nobody vouches for the server's certificate, or it is another server's.
    Untrusted,
    /// The server does not take the client's certificate.
    Unknown,
    /// The server does not speak TLS.
    NotTls,
    /// The name leads nowhere.
    NoSuchHost,
    Other,
}

impl Fault {
    pub(crate) fn new(
        what: impl fmt::Display,
        server: &str,
        namespace: &str,
        source: kube::Error,
    ) -> Self {
        Self {
            what: what.to_string(),
            server: server.to_owned(),
            namespace: namespace.to_owned(),
            cause: Cause::from(source),
        }
    }

    pub(crate) fn silent(
        what: impl fmt::Display,
        server: &str,
        namespace: &str,
        limit: Duration,
    ) -> Self {
        Self {
            what: what.to_string(),
            server: server.to_owned(),
            namespace: namespace.to_owned(),
            cause: Cause::Silent(limit),
        }
    }

    fn refusal(&self) -> Option<&Status> {
        match &self.cause {
            Cause::Refused(status) => Some(status),
            _ => None,
        }
    }

    /// The status of HTTP, if the server answered.
    pub(crate) fn status(&self) -> Option<u16> {
        self.refusal().map(|it| it.code)
    }

    /// The server's one word for it: `AlreadyExists`, `Conflict`, ...; empty where there is none.
    pub(crate) fn reason(&self) -> &str {
        self.refusal().map_or("", |it| it.reason.as_str())
    }

    /// The server's words, or what the connection died of.
    pub(crate) fn message(&self) -> String {
        match &self.cause {
            Cause::Refused(status) => refusal::line(&status.message),
            other => other.to_string(),
        }
    }

    /// The object is not there. Not so for a namespace that is missing: see [`is_namespace_missing`](Self::is_namespace_missing).
    pub(crate) fn is_not_found(&self) -> bool {
        self.status() == Some(404) && !self.is_namespace_missing()
    }

    /// An object of that name is there already.
    pub(crate) fn is_already_exists(&self) -> bool {
        self.reason() == reason::ALREADY_EXISTS
    }

    /// A precondition does not hold: the object changed, or is another one of that name. Not so for an object that is there
    /// already, and not for a quota that many fill at once, after which the same request can be sent again.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status() == Some(409) && !self.is_already_exists() && !self.is_quota_race()
    }

    /// The quota's own bookkeeping was overtaken: nothing was done, and the same request can be sent again.
    pub(crate) fn is_quota_race(&self) -> bool {
        self.status() == Some(409)
            && self.refusal().is_some_and(|it| {
                it.details
                    .as_ref()
                    .is_some_and(|it| it.kind == "resourcequotas")
                    || it.message.contains("resourcequotas")
            })
    }

    /// The caller may not do it. Quotas and admission are refused with that status too, and are not meant here.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.refusal().is_some_and(refusal::is_missing_right)
    }

    /// The namespace itself is not there.
    pub(crate) fn is_namespace_missing(&self) -> bool {
        self.refusal().is_some_and(refusal::is_namespace_missing)
    }

    /// What a list or watch goes on from is no longer known: it has to begin anew.
    pub(crate) fn is_gone(&self) -> bool {
        self.status() == Some(410)
            || self.reason() == reason::EXPIRED
            // It is of a time that the server does not know yet: a backup was played back.
            || self
                .refusal()
                .is_some_and(|it| it.message.contains("Too large resource version"))
    }

    /// Nobody knows whether it was done: it may have been, it may yet be.
    pub(crate) fn is_lost(&self) -> bool {
        match &self.cause {
            Cause::Silent(_) | Cause::Broken(_) | Cause::Strange(_) => true,
            Cause::Refused(status) => status.code >= 500,
            Cause::Away(_) | Cause::Credentials(_) => false,
        }
    }

    /// The server cannot be asked now, and may be later.
    pub(crate) fn is_away(&self) -> bool {
        match &self.cause {
            Cause::Silent(_) | Cause::Broken(_) | Cause::Away(_) => true,
            Cause::Refused(status) => status.code >= 500 || status.code == 429,
            Cause::Credentials(_) | Cause::Strange(_) => false,
        }
    }

    /// The contract's error: `cannot <what>: <why>`, with the mend.
    pub(crate) fn into_error(self) -> Error {
        let Self {
            what,
            server,
            namespace,
            cause,
        } = self;
        let cannot = |why: &dyn fmt::Display| format!("cannot {what}: {why}");
        match cause {
            Cause::Refused(status) => {
                let told = refusal::tell(&status, &server, &namespace);
                let mut told_error = error(told.kind, cannot(&told.why));
                if let Some(hint) = told.hint {
                    told_error = told_error.with_hint(hint);
                }
                match told.retryable {
                    Some(retryable) => told_error.with_retryable(retryable),
                    None => told_error,
                }
            }
            Cause::Silent(limit) => error(
                ErrorKind::Timeout,
                cannot(&format!(
                    "the API server at `{server}` did not answer within {limit:?}"
                )),
            )
            .with_hint(format!(
                "Check that `{server}` is reachable from here and not overloaded: `kubectl get --raw /readyz` says how it is."
            )),
            Cause::Away(beneath) | Cause::Broken(beneath) => {
                let Beneath { why, words } = beneath;
                let (kind, hint) = why.mend(&server);
                error(kind, format!("cannot reach the API server at `{server}`"))
                    .with_source(io::Error::other(words))
                    .with_hint(hint)
            }
            Cause::Credentials(words) => error(
                ErrorKind::PermissionDenied,
                format!("cannot get credentials for the API server at `{server}`"),
            )
            .with_source(io::Error::other(words))
            // What gives them may do so the next time.
            .with_retryable(true)
            .with_hint(
                "Mend the user of the kubeconfig's context: its token file is read, and its `exec` program is run, by the agent.",
            ),
            Cause::Strange(words) => error(
                ErrorKind::Internal,
                cannot(&format!(
                    "the answer of `{server}` cannot be understood"
                )),
            )
            .with_source(io::Error::other(words))
            .with_retryable(true)
            .with_hint(
                "Check that the address is an API server's: `kubectl version` asks it for its version.",
            ),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        fault.into_error()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.what, self.message())
    }
}

impl StdError for Fault {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => f.write_str(&refusal::line(&status.message)),
            Self::Silent(limit) => write!(f, "no answer within {limit:?}"),
            Self::Away(beneath) | Self::Broken(beneath) => f.write_str(&beneath.words),
            Self::Credentials(words) | Self::Strange(words) => f.write_str(words),
        }
    }
}

impl Why {
    fn mend(self, server: &str) -> (ErrorKind, String) {
        match self {
            Self::Untrusted => (
                ErrorKind::PermissionDenied,
                "Put the certificate of the authority that signed the server's into `certificate-authority` of the kubeconfig's cluster, and name the server as its certificate does (`tls-server-name` where that is another name).".to_owned(),
            ),
            Self::Unknown => (
                ErrorKind::PermissionDenied,
                "Renew the client certificate of the kubeconfig's user: the cluster's own authority has to have signed it, and it must not have expired. Certificates are read when the agent starts.".to_owned(),
            ),
            Self::NotTls => (
                ErrorKind::InvalidConfig,
                format!("Something that does not speak TLS listens at `{server}`: correct `server` of the kubeconfig's cluster."),
            ),
            Self::NoSuchHost => (
                ErrorKind::Unavailable,
                "Check the name in `server` of the kubeconfig's cluster, and that this host can look it up.".to_owned(),
            ),
            Self::Other => (
                ErrorKind::Unavailable,
                "Check that the cluster runs and that this host reaches it: `kubectl cluster-info` asks it with the same kubeconfig; `storage.k8s_kubeconfig` and `kubernetes.context` name another one.".to_owned(),
            ),
        }
    }
}

impl From<kube::Error> for Cause {
    fn from(source: kube::Error) -> Self {
        match source {
            kube::Error::Api(status) => Self::Refused(status),
            kube::Error::Auth(source) => Self::Credentials(chain(&source)),
            kube::Error::Service(source) => Self::of_connection(source.as_ref()),
            kube::Error::HyperError(source) => Self::Broken(Beneath::of(&source)),
            kube::Error::ReadEvents(source) => Self::Broken(Beneath::of(&source)),
            kube::Error::RustlsTls(source) => Self::Credentials(chain(&source)),
            kube::Error::InferKubeconfig(source) => Self::Credentials(chain(&source)),
            other => Self::Strange(chain(&other)),
        }
    }
}

impl Cause {
    fn of_connection(source: &(dyn StdError + Send + Sync + 'static)) -> Self {
        let mut next: Option<&(dyn StdError + 'static)> = Some(source);
        let mut is_connect = false;
        while let Some(link) = next {
            if link.is::<NoCredentials>() || link.is::<AuthError>() {
                return Self::Credentials(chain(link));
            }
            if let Some(http) = link.downcast_ref::<hyper_util::client::legacy::Error>() {
                is_connect |= http.is_connect();
            }
            next = beneath(link);
        }
        match is_connect {
            true => Self::Away(Beneath::of(source)),
            false => Self::Broken(Beneath::of(source)),
        }
    }
}

impl Beneath {
    fn of(source: &(dyn StdError + 'static)) -> Self {
        let mut why = Why::Other;
        let mut next = Some(source);
        while let Some(link) = next {
            match link.downcast_ref::<rustls::Error>() {
                Some(rustls::Error::InvalidCertificate(_)) => why = Why::Untrusted,
                Some(rustls::Error::AlertReceived(_)) => why = Why::Unknown,
                Some(rustls::Error::InvalidMessage(_)) => why = Why::NotTls,
                _ if link.to_string().starts_with("dns error") => why = Why::NoSuchHost,
                _ => {}
            }
            next = beneath(link);
        }
        Self {
            why,
            words: chain(source),
        }
    }
}

/// What is beneath an error. An I/O error leaves out what it wraps, and names what is beneath that.
fn beneath<'a>(link: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match link
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(inner) => Some(inner),
        None => link.source(),
    }
}

/// An error and what is beneath it, each thing said once.
fn chain(source: &(dyn StdError + 'static)) -> String {
    let mut words = refusal::line(&source.to_string());
    let mut next = source.source();
    while let Some(link) = next {
        let said = refusal::line(&link.to_string());
        if !words.contains(&said) {
            words = format!("{words}: {said}");
        }
        next = link.source();
    }
    words
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
