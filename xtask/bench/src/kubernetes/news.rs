//! What the cluster says of objects by watches, and what of a call's time is the caller's own.

use std::time::Duration;

use serde_json::Value;

use super::is_of_lease;
use crate::proxy::{Call, Line, Proxy, covered};

/// What of an object somebody may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A claim has its volume.
    ClaimIsBound,
    ClaimIsGone,
    /// A pod's program runs.
    PodRuns,
    PodIsGone,
}

impl What {
    /// What a watch's line says, if it is one of these.
    fn said(line: &[u8]) -> Option<Self> {
        let event: Value = serde_json::from_slice(line).ok()?;
        let object = &event["object"];
        let is_gone = event["type"] == "DELETED";
        match object["kind"].as_str()? {
            "Pod" if is_gone => Some(Self::PodIsGone),
            "Pod" if runs(object) => Some(Self::PodRuns),
            "PersistentVolumeClaim" if is_gone => Some(Self::ClaimIsGone),
            "PersistentVolumeClaim" if is_bound(object) => Some(Self::ClaimIsBound),
            _ => None,
        }
    }

    /// What is waited for behind a call that writes.
    fn awaited(call: &Call) -> Option<Self> {
        let path = call.path.split('?').next().unwrap_or_default();
        let (list, last) = path.rsplit_once('/')?;
        match call.method.as_str() {
            "POST" if last == "pods" => Some(Self::PodRuns),
            "POST" if last == "persistentvolumeclaims" => Some(Self::ClaimIsBound),
            "DELETE" if list.ends_with("/pods") => Some(Self::PodIsGone),
            "DELETE" if list.ends_with("/persistentvolumeclaims") => Some(Self::ClaimIsGone),
            _ => None,
        }
    }
}

/// Whether a pod, as the API shows it, has its program running and is not being deleted.
pub(super) fn runs(pod: &Value) -> bool {
    let container = &pod["status"]["containerStatuses"][0];
    !container["state"]["running"].is_null() && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether a claim, as the API shows it, has its volume.
pub(super) fn is_bound(claim: &Value) -> bool {
    claim["status"]["phase"] == "Bound"
}

/// What a call of the adapter took, or of a peer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spent {
    pub(super) whole: Duration,
    /// With no call of the API under way, and nothing that the cluster still had to say.
    pub(super) own: Duration,
    /// Of the API, without those that begin a watch or are about the lease.
    pub(super) calls: usize,
}

impl Spent {
    /// Of the time between two moments, in which one node or peer was all there was.
    pub(super) fn of(proxy: &Proxy, from: Duration, to: Duration) -> Self {
        Self::by(&proxy.calls(from, to), &proxy.lines(from), from, to)
    }

    fn by(calls: &[Call], lines: &[Line], from: Duration, to: Duration) -> Self {
        let calls = calls.iter().filter(|it| is_counted(it));
        let said: Vec<_> = lines
            .iter()
            .filter_map(|it| Some((What::said(&it.text)?, it.at)))
            .collect();
        let mut spans = Vec::new();
        for call in calls.clone() {
            spans.push((call.begin, call.end.unwrap_or(to).min(to)));
            let Some(what) = What::awaited(call) else {
                continue;
            };
            // What came when the caller had gone on already, it did not wait for.
            let news = said
                .iter()
                .find(|(it, at)| *it == what && *at >= call.begin);
            if let Some((_, at)) = news.filter(|(_, at)| *at <= to) {
                spans.push((call.begin, *at));
            }
        }
        let whole = to.saturating_sub(from);
        Self {
            whole,
            own: whole.saturating_sub(covered(spans)),
            calls: calls.count(),
        }
    }
}

/// Whether a call is one that is made for something.
pub(super) fn is_counted(call: &Call) -> bool {
    !call.is_endless && !is_of_lease(&call.path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn call(method: &str, path: &str, begin: u64, end: u64) -> Call {
        Call {
            method: method.to_owned(),
            path: path.to_owned(),
            body: Vec::new(),
            begin: at(begin),
            end: Some(at(end)),
            is_endless: path.contains("watch"),
        }
    }

    fn line(event: &Value, millis: u64) -> Line {
        Line {
            text: event.to_string().into_bytes().into(),
            at: at(millis),
        }
    }

    fn pod(kind: &str, state: &str) -> Value {
        json!({
            "type": kind,
            "object": { "kind": "Pod", "metadata": {}, "status": { "containerStatuses": [{ "state": { state: {} } }] } },
        })
    }

    fn claim(kind: &str, phase: &str) -> Value {
        let status = json!({ "phase": phase });
        json!({ "type": kind, "object": { "kind": "PersistentVolumeClaim", "status": status } })
    }

    #[test]
    fn own_time_begins_where_the_cluster_has_spoken() {
        let lines = [
            line(&claim("ADDED", "Pending"), 12),
            line(&claim("MODIFIED", "Bound"), 30),
            line(&pod("ADDED", "waiting"), 45),
            line(&pod("MODIFIED", "running"), 90),
        ];
        let calls = [
            call("POST", "/api/v1/namespaces/n/services", 2, 5),
            call(
                "POST",
                "/api/v1/namespaces/n/persistentvolumeclaims?x=y",
                6,
                11,
            ),
            call(
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/n/leases/l",
                31,
                32,
            ),
            call("GET", "/api/v1/namespaces/n/pods?watch=true", 31, 99),
            call("POST", "/api/v1/namespaces/n/pods", 33, 40),
        ];
        let found = Spent::by(&calls, &lines, at(0), at(94));
        // 2 before the first call, 1 before the second, 3 behind the claim, 4 behind the pod.
        let expect = Spent {
            whole: at(94),
            own: at(10),
            calls: 3,
        };
        assert_eq!(found, expect);
    }

    #[test]
    fn what_nobody_said_in_time_is_own_time() {
        let calls = [call("POST", "/api/v1/namespaces/n/pods", 0, 10)];
        let late = [line(&pod("MODIFIED", "running"), 60)];
        assert_eq!(Spent::by(&calls, &late, at(0), at(50)).own, at(40));
        let early = [line(&pod("MODIFIED", "running"), 20)];
        assert_eq!(Spent::by(&calls, &early, at(0), at(50)).own, at(30));
    }

    #[test]
    fn an_end_is_waited_for_behind_a_delete() {
        let calls = [
            call(
                "PATCH",
                "/api/v1/namespaces/n/persistentvolumeclaims/c",
                1,
                3,
            ),
            call("DELETE", "/api/v1/namespaces/n/pods/p", 4, 6),
            call("GET", "/api/v1/namespaces/n/pods/p", 82, 84),
        ];
        let lines = [
            line(&pod("MODIFIED", "terminated"), 70),
            line(&pod("DELETED", "terminated"), 80),
        ];
        let found = Spent::by(&calls, &lines, at(0), at(85));
        assert_eq!((found.own, found.calls), (at(5), 3));
    }

    #[test]
    fn a_pod_that_is_being_deleted_does_not_run() {
        let mut event = pod("MODIFIED", "running");
        assert_eq!(
            What::said(event.to_string().as_bytes()),
            Some(What::PodRuns)
        );
        event["object"]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(What::said(event.to_string().as_bytes()), None);
        assert_eq!(What::said(b"no JSON"), None);
    }
}
