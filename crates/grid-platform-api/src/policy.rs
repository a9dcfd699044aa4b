//! How a node is restarted, stopped, waited for and watched.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, id::printable};

/// Serde of a [`Duration`] as whole milliseconds.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_millis)
    }
}

/// When the platform starts a program again that ended by itself.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// Never.
    Never,
    /// After an exit code other than 0 or a signal.
    #[default]
    OnFailure,
    /// After every end.
    Always,
}

impl RestartMode {
    /// The mode as it stands in settings: `never`, `on-failure`, `always`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for RestartMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RestartMode {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "never" => Ok(Self::Never),
            "on-failure" => Ok(Self::OnFailure),
            "always" => Ok(Self::Always),
            other => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("`{}` is not a restart policy", printable(other)),
            )
            .with_hint("Use `never`, `on-failure` or `always`.")),
        }
    }
}

/// The restart policy with its exponential back-off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartPolicy {
    /// When to restart.
    pub mode: RestartMode,
    /// How many restarts in a row before the node is given up; `None` is without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_restarts: Option<u32>,
    /// The wait before the first restart, in milliseconds; it doubles with each one in a row.
    #[serde(rename = "initial_backoff_ms", with = "millis")]
    pub initial_backoff: Duration,
    /// The longest wait, in milliseconds.
    #[serde(rename = "max_backoff_ms", with = "millis")]
    pub max_backoff: Duration,
    /// After running this long, in milliseconds, the next end counts as the first.
    #[serde(rename = "reset_after_ms", with = "millis")]
    pub reset_after: Duration,
}

impl Default for RestartPolicy {
    /// On failure, without end, from 100 ms to 30 s, reset after 10 s.
    fn default() -> Self {
        Self {
            mode: RestartMode::default(),
            max_restarts: None,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            reset_after: Duration::from_secs(10),
        }
    }
}

impl From<RestartMode> for RestartPolicy {
    fn from(mode: RestartMode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }
}

/// The signal that asks a program to end, by its name without `SIG` doubled: `TERM`, `INT`, ...
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// `SIGTERM`, 15.
    #[default]
    Term,
    /// `SIGINT`, 2: PostgreSQL's fast shutdown, for one.
    Int,
    /// `SIGQUIT`, 3: nginx's graceful shutdown, for one.
    Quit,
    /// `SIGHUP`, 1.
    Hup,
    /// `SIGUSR1`, 10.
    Usr1,
    /// `SIGUSR2`, 12.
    Usr2,
    /// `SIGKILL`, 9: no grace at all.
    Kill,
}

impl StopSignal {
    /// The name as the kernel's headers have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Hup => "SIGHUP",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
            Self::Kill => "SIGKILL",
        }
    }

    /// The number on Linux (signal(7), the column of x86 and ARM).
    pub fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::Usr1 => 10,
            Self::Usr2 => 12,
            Self::Term => 15,
        }
    }
}

impl FromStr for StopSignal {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let name = s.strip_prefix("SIG").unwrap_or(s);
        [
            Self::Term,
            Self::Int,
            Self::Quit,
            Self::Hup,
            Self::Usr1,
            Self::Usr2,
            Self::Kill,
        ]
        .into_iter()
        .find(|signal| signal.name().strip_prefix("SIG") == Some(name))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!("`{}` is not a stop signal", printable(s)),
            )
            .with_hint("Use `TERM`, `INT`, `QUIT`, `HUP`, `USR1`, `USR2` or `KILL`.")
        })
    }
}

/// How a node is asked to end, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopPolicy {
    /// The signal sent first.
    pub signal: StopSignal,
    /// Milliseconds between that signal and `SIGKILL`.
    #[serde(rename = "grace_ms", with = "millis")]
    pub grace: Duration,
}

impl Default for StopPolicy {
    /// `SIGTERM` and 10 s, as Docker has it.
    fn default() -> Self {
        Self {
            signal: StopSignal::Term,
            grace: Duration::from_secs(10),
        }
    }
}

/// When `spawn_node` may say that it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReadyMode {
    /// The program was executed.
    Started,
    /// The program is still running after this time.
    Alive {
        /// The time, in milliseconds.
        #[serde(rename = "for_ms", with = "millis")]
        for_: Duration,
    },
    /// The health check passed; without a health check the request is invalid.
    Healthy {
        /// The longest wait, in milliseconds.
        #[serde(rename = "timeout_ms", with = "millis")]
        timeout: Duration,
    },
}

impl Default for ReadyMode {
    /// Alive for 250 ms.
    fn default() -> Self {
        Self::Alive {
            for_: Duration::from_millis(250),
        }
    }
}

/// What is asked of a node to know that it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HealthProbe {
    /// A TCP connection to a port is accepted.
    Tcp {
        /// A port's name; `None` is the main port.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
    },
    /// An HTTP GET is answered with a status from 200 to 399.
    Http {
        /// The path, with its leading `/`.
        path: String,
        /// A port's name; `None` is the main port.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
    },
}

/// A health check: what to ask, how often, and how many answers count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What to ask.
    #[serde(flatten)]
    pub probe: HealthProbe,
    /// Milliseconds between two questions.
    #[serde(rename = "interval_ms", with = "millis", default = "default_interval")]
    pub interval: Duration,
    /// Milliseconds to wait for an answer.
    #[serde(rename = "timeout_ms", with = "millis", default = "default_timeout")]
    pub timeout: Duration,
    /// How many failures in a row make a healthy node unhealthy. One success makes it healthy.
    #[serde(default = "default_threshold")]
    pub threshold: u32,
}

fn default_interval() -> Duration {
    Duration::from_secs(5)
}

fn default_timeout() -> Duration {
    Duration::from_secs(2)
}

fn default_threshold() -> u32 {
    3
}

impl HealthCheck {
    /// A TCP check of the main port: every 5 s, 2 s to answer, 3 failures.
    pub fn tcp() -> Self {
        Self::of(HealthProbe::Tcp { port: None })
    }

    /// An HTTP check of `path` on the main port: every 5 s, 2 s to answer, 3 failures.
    pub fn http(path: impl Into<String>) -> Self {
        Self::of(HealthProbe::Http {
            path: path.into(),
            port: None,
        })
    }

    fn of(probe: HealthProbe) -> Self {
        Self {
            probe,
            interval: default_interval(),
            timeout: default_timeout(),
            threshold: default_threshold(),
        }
    }
}

/// What happens to a node's data when the node is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataPolicy {
    /// It stays, listed by [`Platform::list_data`](crate::Platform::list_data), and the next node of that id finds it.
    #[default]
    Keep,
    /// It is deleted, if the platform made it.
    Purge,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_parse_with_and_without_prefix() {
        let check = |text: &str, expect: Option<StopSignal>| {
            assert_eq!(text.parse::<StopSignal>().ok(), expect, "{text}");
        };
        check("TERM", Some(StopSignal::Term));
        check("SIGTERM", Some(StopSignal::Term));
        check("SIGUSR2", Some(StopSignal::Usr2));
        check("STOP", None);
        check("SIGSIGTERM", None);
        check("term", None);
    }

    #[test]
    fn a_health_check_reads_with_its_defaults() {
        let check: HealthCheck =
            serde_json::from_str(r#"{"kind":"http","path":"/healthz"}"#).unwrap();
        assert_eq!(check, HealthCheck::http("/healthz"));
        let ready: ReadyMode =
            serde_json::from_str(r#"{"mode":"healthy","timeout_ms":5000}"#).unwrap();
        assert_eq!(
            ready,
            ReadyMode::Healthy {
                timeout: Duration::from_secs(5)
            }
        );
    }
}
