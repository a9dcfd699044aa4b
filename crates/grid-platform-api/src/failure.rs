//! Why a node is not running, as data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this code (0 to 255).
    Code(i32),
    /// It was ended by the signal of this number.
    Signal(i32),
    /// It ended, and nobody that could see how was there.
    Unknown,
}

impl Exit {
    /// Whether it ended with code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("an unseen end"),
        }
    }
}

/// Why a node failed, as a caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureReason {
    /// The program ended with a code other than 0, or ended before it was ready.
    Exited,
    /// The program was ended by a signal that nobody of ours sent.
    Signaled,
    /// The kernel ended the program because the node's memory limit was reached.
    OutOfMemory,
    /// The program's file does not exist.
    ProgramNotFound,
    /// The program's file may not be executed by the node's user.
    NotExecutable,
    /// The file is not a program for this machine: another architecture, or a script without `#!`.
    BadProgramFormat,
    /// The user or group of the node does not exist or may not be taken on.
    UserUnavailable,
    /// The data path cannot be used by the node's user.
    DataUnavailable,
    /// A limit of the node could not be set.
    LimitUnavailable,
    /// The program ran and its health check did not pass in time.
    NotHealthy,
    /// The restarts that the policy allows are used up.
    RestartsExhausted,
    /// The node was running when its host or its supervisor went away, and its policy does not restart it.
    Interrupted,
    /// The image does not exist, here or in its registry.
    ImageNotFound,
    /// The image could not be pulled.
    ImagePullFailed,
    /// No host has room for the node, or none matches it.
    Unschedulable,
    /// A quota of the platform is used up.
    QuotaExceeded,
    /// The volume of the node is not ready.
    VolumePending,
    /// The platform took the node's place away.
    Evicted,
    /// The node's host cannot be reached.
    HostLost,
    /// The platform refused for a reason that no other value tells; the message has its words.
    PlatformRefused,
}

impl FailureReason {
    /// The reason in snake case, as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::OutOfMemory => "out_of_memory",
            Self::ProgramNotFound => "program_not_found",
            Self::NotExecutable => "not_executable",
            Self::BadProgramFormat => "bad_program_format",
            Self::UserUnavailable => "user_unavailable",
            Self::DataUnavailable => "data_unavailable",
            Self::LimitUnavailable => "limit_unavailable",
            Self::NotHealthy => "not_healthy",
            Self::RestartsExhausted => "restarts_exhausted",
            Self::Interrupted => "interrupted",
            Self::ImageNotFound => "image_not_found",
            Self::ImagePullFailed => "image_pull_failed",
            Self::Unschedulable => "unschedulable",
            Self::QuotaExceeded => "quota_exceeded",
            Self::VolumePending => "volume_pending",
            Self::Evicted => "evicted",
            Self::HostLost => "host_lost",
            Self::PlatformRefused => "platform_refused",
        }
    }

    /// The sentence that names the mend, where one holds whatever the platform.
    pub fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::Exited | Self::Signaled | Self::NotHealthy | Self::RestartsExhausted => {
                "`grid logs ID` shows what the program said; `grid start ID` tries again."
            }
            Self::OutOfMemory => "Raise `memory_limit_mb` by `grid update ID --memory-limit-mb N`.",
            Self::ProgramNotFound => {
                "Check the path of the program, and that it is on the agent's host."
            }
            Self::NotExecutable => {
                "Make the file executable for the node's user (`chmod a+x FILE`), on a file system that is not mounted `noexec`; replace a program by renaming, not by writing into it."
            }
            Self::BadProgramFormat => {
                "Use a program built for this machine; a script needs a first line such as `#!/bin/sh`."
            }
            Self::UserUnavailable => {
                "Name a user and group of the agent's host, or leave them out; only an agent that is root can take on another user."
            }
            Self::DataUnavailable => {
                "Mount the data's volume, move the data back or mend its rights, then `grid start ID`; `grid rm ID` gives the node up."
            }
            Self::LimitUnavailable => {
                "Lower the limit or leave it out; `grid doctor` says which limits the agent's host can keep."
            }
            Self::ImageNotFound => {
                "Check the image's name, or bring it to the agent's engine by `docker pull`, `docker build` or `docker load`."
            }
            Self::ImagePullFailed => {
                "Check that the agent's host reaches the registry and may pull from it, or bring the image by `docker load`."
            }
            Self::Interrupted => "`grid start ID` starts it again.",
            Self::Unschedulable => {
                "Lower `memory_limit_mb` or `cpu_limit_millis`, or give the cluster a host with room that the agent's settings let nodes on; then `grid start ID`."
            }
            Self::QuotaExceeded => {
                "Remove what is not needed, or have the quota raised (`kubectl describe quota`); then `grid start ID`."
            }
            Self::VolumePending => {
                "`kubectl get pvc,events` says what the volume waits for; `kubernetes.overlay.storage_class` chooses another kind."
            }
            Self::Evicted => {
                "Its host ran short of something: limit what nodes use (`memory_limit_mb`), or add hosts; `grid start ID` starts it again."
            }
            Self::HostLost => {
                "Bring the host back (`kubectl get nodes`); where it never comes back, delete the node's pod by force (`kubectl delete pod --grace-period=0 --force`), and two copies may live then."
            }
            Self::PlatformRefused => {
                "`grid doctor` looks at what the platform needs on its host; `grid start ID` tries again."
            }
        })
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why and how a node failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The typed reason.
    pub reason: FailureReason,
    /// The reason in words: lower case, no full stop.
    pub message: String,
    /// How the program ended, if it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The last lines of its log, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

impl Failure {
    /// A failure without an exit and without log lines.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            exit: None,
            log_tail: Vec::new(),
        }
    }

    /// Adds how the program ended.
    #[must_use]
    pub fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = Some(exit);
        self
    }
}
