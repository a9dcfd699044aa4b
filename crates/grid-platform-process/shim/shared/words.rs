//! The lines of the report pipe and of the socket, and the names of the stages at which a start can fail.

/// The shim's greeting, with the protocol's version.
pub(crate) const GREETING: &str = "sutra-grid-shim 1";

/// The longest request line, its line feed included.
pub(crate) const LINE_MAX: usize = 128;

/// Where a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// `launch` cannot be read or is malformed.
    Launch,
    /// `record` cannot be created or written.
    Record,
    /// `sock` cannot be bound.
    Sock,
    /// `log` cannot be opened, or is not a regular file.
    Log,
    /// Signals or the subreaper cannot be set up.
    Signals,
    /// No process could be made.
    Fork,
    /// `setsid`, or the program's descriptors.
    Session,
    /// A cgroup cannot be joined.
    Cgroup,
    /// RLIMIT_NOFILE cannot be set.
    Nofile,
    /// `setgroups`.
    Groups,
    /// `setgid`.
    Gid,
    /// `setuid`.
    Uid,
    /// A secret that the environment names cannot be read.
    Secret,
    /// The working directory cannot be entered.
    Dir,
    /// The shim died meanwhile.
    Parent,
    /// `execve`.
    Exec,
}

impl Stage {
    /// All stages; the index is their number between the child and the shim.
    pub(crate) const ALL: [Stage; 16] = [
        Stage::Launch,
        Stage::Record,
        Stage::Sock,
        Stage::Log,
        Stage::Signals,
        Stage::Fork,
        Stage::Session,
        Stage::Cgroup,
        Stage::Nofile,
        Stage::Groups,
        Stage::Gid,
        Stage::Uid,
        Stage::Secret,
        Stage::Dir,
        Stage::Parent,
        Stage::Exec,
    ];

    /// The stage's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Stage::Launch => "launch",
            Stage::Record => "record",
            Stage::Sock => "sock",
            Stage::Log => "log",
            Stage::Signals => "signals",
            Stage::Fork => "fork",
            Stage::Session => "session",
            Stage::Cgroup => "cgroup",
            Stage::Nofile => "nofile",
            Stage::Groups => "groups",
            Stage::Gid => "gid",
            Stage::Uid => "uid",
            Stage::Secret => "secret",
            Stage::Dir => "dir",
            Stage::Parent => "parent",
            Stage::Exec => "exec",
        }
    }

    /// The stage that `word` names.
    pub(crate) fn parse(word: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|it| it.as_str() == word)
    }
}

/// The one line of the report pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The program runs, and the record says so.
    Executed {
        /// Its process.
        pid: u32,
        /// Field 22 of its `/proc/PID/stat`.
        start: u64,
    },
    /// The program could not be started.
    Failed {
        /// Where.
        stage: Stage,
        /// Why, as the kernel numbers it.
        errno: i32,
    },
}

impl Report {
    /// The line, its line feed included.
    pub(crate) fn encode(&self) -> String {
        match self {
            Report::Executed { pid, start } => format!("executed {pid} {start}\n"),
            Report::Failed { stage, errno } => format!("failed {} {errno}\n", stage.as_str()),
        }
    }

    /// The report that a line, without its line feed, makes.
    pub(crate) fn decode(line: &str) -> Option<Report> {
        let mut words = line.split(' ');
        let report = match words.next()? {
            "executed" => Report::Executed {
                pid: words.next()?.parse().ok()?,
                start: words.next()?.parse().ok()?,
            },
            "failed" => Report::Failed {
                stage: Stage::parse(words.next()?)?,
                errno: words.next()?.parse().ok()?,
            },
            _ => return None,
        };
        words.next().is_none().then_some(report)
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Tell me of each record.
    Watch,
    /// Stop the node, waiting at most this many ms (none: as the launch file says). 0 kills at once.
    Stop {
        /// The wait, in ms.
        grace_ms: Option<u64>,
    },
    /// The first run is not on trial any more.
    Ready,
    /// Answer.
    Ping,
}

impl Request {
    /// The line, its line feed included.
    pub(crate) fn encode(&self) -> String {
        match self {
            Request::Watch => "watch\n".to_owned(),
            Request::Stop { grace_ms: None } => "stop\n".to_owned(),
            Request::Stop { grace_ms: Some(0) } => "kill\n".to_owned(),
            Request::Stop { grace_ms: Some(ms) } => format!("stop {ms}\n"),
            Request::Ready => "ready\n".to_owned(),
            Request::Ping => "ping\n".to_owned(),
        }
    }

    /// The request that a line, without its line feed, makes; `None` is answered by `unknown`.
    pub(crate) fn decode(line: &str) -> Option<Request> {
        match line {
            "watch" => Some(Request::Watch),
            "stop" => Some(Request::Stop { grace_ms: None }),
            "kill" => Some(Request::Stop { grace_ms: Some(0) }),
            "ready" => Some(Request::Ready),
            "ping" => Some(Request::Ping),
            _ => Some(Request::Stop {
                grace_ms: Some(line.strip_prefix("stop ")?.parse().ok()?),
            }),
        }
    }
}

/// What the shim says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The first line of a connection.
    Greeting,
    /// The record with this seq is durable.
    Changed {
        /// Of the record.
        seq: u64,
    },
    /// The node is stopped: tree gone, record durable, lock free.
    Stopped,
    /// To `ready`: from now on ends go by the policy.
    Ready,
    /// To `ping`.
    Pong,
    /// To a line that is no request.
    Unknown,
}

impl Answer {
    /// The line, its line feed included.
    pub(crate) fn encode(&self) -> String {
        match self {
            Answer::Greeting => format!("{GREETING}\n"),
            Answer::Changed { seq } => format!("changed {seq}\n"),
            Answer::Stopped => "stopped\n".to_owned(),
            Answer::Ready => "ready\n".to_owned(),
            Answer::Pong => "pong\n".to_owned(),
            Answer::Unknown => "unknown\n".to_owned(),
        }
    }

    /// The answer that a line, without its line feed, makes.
    pub(crate) fn decode(line: &str) -> Option<Answer> {
        match line {
            GREETING => Some(Answer::Greeting),
            "stopped" => Some(Answer::Stopped),
            "ready" => Some(Answer::Ready),
            "pong" => Some(Answer::Pong),
            "unknown" => Some(Answer::Unknown),
            _ => Some(Answer::Changed {
                seq: line.strip_prefix("changed ")?.parse().ok()?,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, LINE_MAX, Report, Request, Stage};

    #[test]
    fn stages_come_back() {
        for it in Stage::ALL {
            assert_eq!(Stage::parse(it.as_str()), Some(it));
        }
        assert_eq!(Stage::parse("elsewhere"), None);
    }

    #[test]
    fn reports_come_back() {
        for it in [
            Report::Executed {
                pid: 12,
                start: 345_678,
            },
            Report::Failed {
                stage: Stage::Exec,
                errno: 2,
            },
            Report::Failed {
                stage: Stage::Cgroup,
                errno: 13,
            },
        ] {
            assert_eq!(Report::decode(it.encode().trim_end()), Some(it));
        }
        for bad in [
            "",
            "executed",
            "executed 1",
            "executed 1 2 3",
            "executed x 2",
            "failed where 2",
            "failed exec",
            "ok",
        ] {
            assert_eq!(Report::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn requests_come_back() {
        for it in [
            Request::Watch,
            Request::Stop { grace_ms: None },
            Request::Stop { grace_ms: Some(0) },
            Request::Stop {
                grace_ms: Some(u64::MAX),
            },
            Request::Ready,
            Request::Ping,
        ] {
            let line = it.encode();
            assert!(line.len() <= LINE_MAX, "{line}");
            assert_eq!(Request::decode(line.trim_end()), Some(it));
        }
        assert_eq!(
            Request::decode("stop 0"),
            Some(Request::Stop { grace_ms: Some(0) })
        );
        for bad in [
            "", "stop ", "stop -1", "stop 1 2", "stop1", "WATCH", "ping ",
        ] {
            assert_eq!(Request::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn answers_come_back() {
        for it in [
            Answer::Greeting,
            Answer::Changed { seq: 7 },
            Answer::Stopped,
            Answer::Ready,
            Answer::Pong,
            Answer::Unknown,
        ] {
            assert_eq!(Answer::decode(it.encode().trim_end()), Some(it));
        }
        for bad in ["", "sutra-grid-shim 2", "changed", "changed x"] {
            assert_eq!(Answer::decode(bad), None, "{bad}");
        }
    }
}
