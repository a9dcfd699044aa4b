//! How the supervisor and its children are, as it tells it.

use serde::{Deserialize, Serialize};

use crate::context::Addresses;

/// The supervisor and its children.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The supervisor's process.
    pub(crate) pid: u32,
    pub(crate) master: ChildStatus,
    pub(crate) agent: ChildStatus,
    /// Where the master listens, once it does.
    pub(crate) addresses: Option<Addresses>,
    /// The grid is going down.
    pub(crate) ending: bool,
}

/// One child.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChildStatus {
    /// Its process, while it runs.
    pub(crate) pid: Option<u32>,
    /// How often it was started.
    pub(crate) starts: u64,
    /// How it last ended, in words.
    pub(crate) last_end: Option<String>,
}

/// A child that was started this often again, and ended each time, will not come up.
const ENOUGH: u64 = 3;

/// What `up` waits for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Readiness {
    /// Master and agent run.
    Ready(Addresses),
    NotYet,
    /// This child ends instead of running.
    Failed {
        child: &'static str,
        how: String,
    },
}

impl Status {
    /// A child that ended before everything ran once would end again: it is misconfigured, or something is in its way.
    pub(crate) fn readiness(&self) -> Readiness {
        let parts = [("master", &self.master), ("agent", &self.agent)];
        if let (Some(addresses), Some(_), Some(_)) =
            (&self.addresses, self.master.pid, self.agent.pid)
        {
            return Readiness::Ready(addresses.clone());
        }
        for (child, status) in parts {
            if let (None, Some(how)) = (status.pid, &status.last_end) {
                return Readiness::Failed {
                    child,
                    how: how.clone(),
                };
            }
        }
        Readiness::NotYet
    }

    /// The child that ended again and again since `first` was the status, and how it did. One that ended once may have
    /// been killed, and runs again soon.
    pub(crate) fn failing(&self, first: &Self) -> Option<(&'static str, String)> {
        let parts = [
            ("master", &self.master, &first.master),
            ("agent", &self.agent, &first.agent),
        ];
        parts.into_iter().find_map(|(child, now, first)| {
            let how = now.last_end.clone()?;
            (now.pid.is_none() && now.starts >= first.starts + ENOUGH).then_some((child, how))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_told_from_the_children() {
        let child = |pid: Option<u32>, end: Option<&str>| ChildStatus {
            pid,
            starts: 1,
            last_end: end.map(str::to_owned),
        };
        let addresses = Addresses {
            http: ([127, 0, 0, 1], 1).into(),
            grpc: ([127, 0, 0, 1], 2).into(),
        };
        let check = |master: ChildStatus, agent: ChildStatus, listens: bool, expect: Readiness| {
            let status = Status {
                master,
                agent,
                addresses: listens.then(|| addresses.clone()),
                ..Status::default()
            };
            assert_eq!(status.readiness(), expect, "{status:?}");
        };
        let failed = |child: &'static str| Readiness::Failed {
            child,
            how: "exit code 1".into(),
        };
        let none = ChildStatus::default;
        check(none(), none(), false, Readiness::NotYet);
        check(child(Some(1), None), none(), false, Readiness::NotYet);
        check(child(Some(1), None), none(), true, Readiness::NotYet);
        check(
            child(Some(1), None),
            child(Some(2), None),
            true,
            Readiness::Ready(addresses.clone()),
        );
        check(
            child(None, Some("exit code 1")),
            none(),
            false,
            failed("master"),
        );
        check(
            child(Some(1), None),
            child(None, Some("exit code 1")),
            true,
            failed("agent"),
        );
        check(
            child(Some(3), Some("signal 9")),
            child(Some(2), None),
            true,
            Readiness::Ready(addresses.clone()),
        );
    }

    #[test]
    fn a_child_that_ends_again_and_again_is_failing() {
        let status = |pid: Option<u32>, starts: u64| Status {
            agent: ChildStatus {
                pid,
                starts,
                last_end: Some("exit code 1".into()),
            },
            ..Status::default()
        };
        let check = |now: Status, expect: bool| {
            let failing = now.failing(&status(Some(1), 5));
            assert_eq!(failing.is_some(), expect, "{now:?}");
        };
        check(status(None, 5), false);
        check(status(Some(2), 8), false);
        check(status(None, 7), false);
        check(status(None, 8), true);
    }
}
