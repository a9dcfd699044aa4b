//! Credentials that a program gives, as the `exec` of a kubeconfig names it (client.authentication.k8s.io).
//!
//! The client library would run it without a limit, and once more for every caller that waits for it. Here it has one, is run by one
//! at a time, and goes on for the next caller when one gives up. What it writes to standard output is never shown; of its standard
//! error the last line is, where it fails.

use std::{
    fmt, io,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::header::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use kube::config::{AuthInfo, ExecConfig};
use serde::Deserialize;
use serde_json::json;
use tokio::{process::Command, time::Instant};

use crate::refusal::line;

/// How long the program may take: it may ask a server of its own.
const LIMIT: Duration = Duration::from_secs(30);
/// How long before they expire credentials are got anew, at the most.
const AHEAD: SignedDuration = SignedDuration::from_secs(60);
/// How long a program that failed is not run again.
const PAUSE: Duration = Duration::from_secs(5);

/// Why there are no credentials.
#[derive(Clone, Debug)]
pub(crate) struct NoCredentials(pub(crate) String);

impl fmt::Display for NoCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoCredentials {}

/// A program, and what it last gave.
pub(crate) struct Credentials {
    exec: ExecConfig,
    given: Mutex<Option<Given>>,
    /// When it last failed, and why. Whoever has it is the one that runs the program.
    turn: tokio::sync::Mutex<Option<(Instant, NoCredentials)>>,
}

/// What the program gave. It has no text form on purpose.
#[derive(Clone)]
struct Given {
    /// For every request; none where it gave a certificate alone.
    header: Option<HeaderValue>,
    certificate: Option<(String, String)>,
    good_until: Option<Timestamp>,
}

/// What the program writes.
#[derive(Deserialize)]
struct Written {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<Timestamp>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl Credentials {
    pub(crate) fn new(exec: ExecConfig) -> Arc<Self> {
        Arc::new(Self {
            exec,
            given: Mutex::new(None),
            turn: tokio::sync::Mutex::new(None),
        })
    }

    /// What every request says of itself; none where a certificate says it.
    ///
    /// # Errors
    /// Why the program gave nothing.
    pub(crate) async fn header(self: &Arc<Self>) -> Result<Option<HeaderValue>, NoCredentials> {
        Ok(self.get().await?.header)
    }

    /// Gives the user of a client the certificate, where the program gave one. One that expires is not replaced as long as
    /// the client lives.
    ///
    /// # Errors
    /// Why the program gave nothing.
    pub(crate) async fn certify(
        self: &Arc<Self>,
        user: &mut AuthInfo,
    ) -> Result<(), NoCredentials> {
        let Some((certificate, key)) = self.get().await?.certificate else {
            return Ok(());
        };
        let encoded = json!({
            "client-certificate-data": ByteString(certificate.into_bytes()),
            "client-key-data": ByteString(key.into_bytes()),
        });
        let certified: AuthInfo = serde_json::from_value(encoded).map_err(|_| no_credentials())?;
        user.client_certificate_data = certified.client_certificate_data;
        user.client_key_data = certified.client_key_data;
        Ok(())
    }

    /// The server does not take these any more: the next request gets others.
    pub(crate) fn forget(&self, refused: &HeaderValue) {
        let mut given = self.given();
        if given
            .as_ref()
            .is_some_and(|it| it.header.as_ref() == Some(refused))
        {
            *given = None;
        }
    }

    fn given(&self) -> MutexGuard<'_, Option<Given>> {
        // It is whole at every point where a panic could happen.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn good(&self) -> Option<Given> {
        self.given().clone().filter(Given::is_good)
    }

    async fn get(self: &Arc<Self>) -> Result<Given, NoCredentials> {
        if let Some(good) = self.good() {
            return Ok(good);
        }
        let this = Arc::clone(self);
        // A caller that gives up does not end the program: what it writes is the next one's.
        tokio::spawn(async move { this.anew().await })
            .await
            .unwrap_or_else(|_| Err(no_credentials()))
    }

    async fn anew(&self) -> Result<Given, NoCredentials> {
        let mut turn = self.turn.lock().await;
        if let Some(good) = self.good() {
            return Ok(good);
        }
        if let Some((at, why)) = turn.as_ref()
            && at.elapsed() < PAUSE
        {
            return Err(why.clone());
        }
        match self.run().await {
            Ok(given) => {
                *turn = None;
                *self.given() = Some(given.clone());
                Ok(given)
            }
            Err(why) => {
                tracing::warn!("{why}");
                *turn = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn run(&self) -> Result<Given, NoCredentials> {
        let exec = &self.exec;
        let Some(program) = &exec.command else {
            return Err(NoCredentials("`exec` names no program".to_owned()));
        };
        let asked = json!({
            "apiVersion": exec.api_version,
            "kind": "ExecCredential",
            "spec": { "interactive": false, "cluster": exec.cluster },
        });
        let mut command = Command::new(program);
        command
            .args(exec.args.iter().flatten())
            .env("KUBERNETES_EXEC_INFO", asked.to_string());
        for entry in exec.env.iter().flatten() {
            if let (Some(name), Some(value)) = (entry.get("name"), entry.get("value")) {
                command.env(name, value);
            }
        }
        let shown = line(program);
        let running = tokio::time::timeout(
            LIMIT,
            grid_platform_host::program::output(&mut command, b""),
        );
        let out = match running.await {
            Ok(Ok(out)) => out,
            Ok(Err(e)) if e.kind() == io::ErrorKind::FileTooLarge => {
                return Err(NoCredentials(format!(
                    "the program `{shown}` of `exec` is of no use: {e}"
                )));
            }
            Ok(Err(e)) => {
                let hint = exec.install_hint.as_deref().unwrap_or_default();
                let hint = match line(hint) {
                    none if none.is_empty() => none,
                    hint => format!(" ({hint})"),
                };
                return Err(NoCredentials(format!(
                    "the program `{shown}` of `exec` cannot be run: {e}{hint}"
                )));
            }
            Err(_) => {
                return Err(NoCredentials(format!(
                    "the program `{shown}` of `exec` did not end within {LIMIT:?}"
                )));
            }
        };
        if !out.status.success() {
            return Err(failed(&shown, out.status, &out.stderr));
        }
        Given::read(&out.stdout).ok_or_else(|| {
            NoCredentials(format!(
                "the program `{shown}` of `exec` wrote no credentials"
            ))
        })
    }
}

impl Given {
    fn read(written: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(written).ok()?;
        let status = written.status?;
        let header = match status.token {
            Some(token) => {
                let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
                header.set_sensitive(true);
                Some(header)
            }
            None => None,
        };
        let certificate = status.client_certificate_data.zip(status.client_key_data);
        if header.is_none() && certificate.is_none() {
            return None;
        }
        let now = Timestamp::now();
        let good_until = status.expiration_timestamp.map(|end| {
            // Those that last a minute are not got anew for each request.
            let lasts = end.duration_since(now);
            end.checked_sub(AHEAD.min(lasts / 4)).unwrap_or(end)
        });
        Some(Self {
            header,
            certificate,
            good_until,
        })
    }

    fn is_good(&self) -> bool {
        self.good_until.is_none_or(|it| Timestamp::now() < it)
    }
}

fn no_credentials() -> NoCredentials {
    NoCredentials("the program of `exec` gave no credentials".to_owned())
}

/// How it failed, by its own last words.
fn failed(program: &str, status: ExitStatus, errors: &[u8]) -> NoCredentials {
    let errors = String::from_utf8_lossy(errors);
    let last = errors.lines().rev().find(|it| !it.trim().is_empty());
    let words = last.map_or(String::new(), |it| format!(": {}", line(it)));
    NoCredentials(format!(
        "the program `{program}` of `exec` ended with {status}{words}"
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sh(script: &str) -> Arc<Credentials> {
        Credentials::new(ExecConfig {
            command: Some("sh".to_owned()),
            args: Some(vec!["-c".to_owned(), script.to_owned()]),
            env: Some(vec![
                [("name", "WHO"), ("value", "me")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            ]),
            ..ExecConfig::default()
        })
    }

    fn writes(status: &str) -> Arc<Credentials> {
        sh(&format!(
            "echo '{{\"kind\":\"ExecCredential\",\"status\":{status}}}'"
        ))
    }

    #[tokio::test]
    async fn a_token_is_kept_until_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let script = format!(
            "echo x >> {0}; echo \"{{\\\"status\\\":{{\\\"token\\\":\\\"$WHO-$(wc -l < {0} | tr -d ' ')\\\"}}}}\"",
            runs.display()
        );
        let credentials = sh(&script);
        let (one, other) = tokio::join!(credentials.header(), credentials.header());
        let first = one.unwrap().unwrap();
        assert_eq!(first, "Bearer me-1");
        assert_eq!(other.unwrap().unwrap(), first);
        credentials.forget(&first);
        // Refused once more by a request that was on its way, and by then it is another one.
        assert_eq!(credentials.header().await.unwrap().unwrap(), "Bearer me-2");
        credentials.forget(&first);
        assert_eq!(credentials.header().await.unwrap().unwrap(), "Bearer me-2");
        assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 2);
        assert!(format!("{first:?}").contains("Sensitive"));
    }

    #[tokio::test]
    async fn what_expires_is_got_anew() {
        let past = writes(r#"{"token":"a","expirationTimestamp":"2020-01-01T00:00:00Z"}"#);
        past.header().await.unwrap();
        assert!(past.good().is_none());
        let future = writes(r#"{"token":"a","expirationTimestamp":"2999-01-01T00:00:00Z"}"#);
        future.header().await.unwrap();
        assert!(future.good().is_some());
    }

    #[tokio::test]
    async fn a_certificate_is_the_clients() {
        let both = r#"{"clientCertificateData":"cert","clientKeyData":"key"}"#;
        let mut user = AuthInfo::default();
        let credentials = writes(both);
        credentials.certify(&mut user).await.unwrap();
        assert_eq!(user.client_certificate_data.as_deref(), Some("Y2VydA=="));
        assert!(user.client_key_data.is_some());
        assert!(credentials.header().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn failures_are_told_without_what_was_written() {
        let check = async |credentials: Arc<Credentials>, expect: &str| {
            let why = credentials.header().await.unwrap_err();
            assert_eq!(why.to_string(), expect);
        };
        check(
            sh("echo secret; echo 'no session' >&2; echo >&2; exit 3"),
            "the program `sh` of `exec` ended with exit status: 3: no session",
        )
        .await;
        check(
            writes("{}"),
            "the program `sh` of `exec` wrote no credentials",
        )
        .await;
        check(
            sh("echo secret"),
            "the program `sh` of `exec` wrote no credentials",
        )
        .await;
        check(
            sh("head -c 9000000 /dev/zero"),
            "the program `sh` of `exec` is of no use: it writes more than 1048576 bytes",
        )
        .await;
        let missing = Credentials::new(ExecConfig {
            command: Some("/nowhere/login".to_owned()),
            install_hint: Some("Install login.\nFrom somewhere.".to_owned()),
            ..ExecConfig::default()
        });
        check(
            missing,
            "the program `/nowhere/login` of `exec` cannot be run: No such file or directory (os error 2) (Install login. From somewhere)",
        )
        .await;
    }
}
