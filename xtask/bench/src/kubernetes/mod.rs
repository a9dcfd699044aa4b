//! The Kubernetes platform: a node beside the same pod, claim and service made by the API alone, and by `kubectl`.

mod bare;
mod idle;
mod kubectl;
mod list;
mod made;
mod many;
mod news;
mod one;
mod peer;
mod place;
mod reasons;

use crate::Result;
use crate::bench::Bench;
use crate::groups::Group;
use crate::proxy::Manner;
use crate::report::Row;

/// By which `cargo xtask` knows the cluster; its place is a kubeconfig.
const CLUSTER: &str = "kubernetes-cluster";

/// What clients ask of a cluster: what they write is kept, for peers to make the same, and what watches say.
const MANNER: Manner = Manner {
    is_endless: |path| {
        let query = path.split_once('?').map_or("", |(_, it)| it);
        let endless = ["watch=true", "watch=1", "follow=true"];
        query.split('&').any(|it| endless.contains(&it))
    },
    keeps: |method, path| matches!(method, "POST" | "PATCH" | "PUT") && !is_of_lease(path),
    keeps_lines: true,
};

/// Whether a call is about the lease, which goes on whatever else does.
fn is_of_lease(path: &str) -> bool {
    path.contains("/leases")
}

/// Nodes as pods.
pub(crate) const GROUP: Group = Group {
    name: "kubernetes",
    about: "One node at a time in the bare adapter, ready mode `Started`, with data, a port and a memory limit, its image on the \
        host; the program is static, and ends on SIGTERM. Peers have the same pod, which the cluster is asked about each time; bare, by \
        the client library that the adapter uses, with the same claim and service, made in the same order. Everybody speaks to the API \
        server through a counting relay of its own and one `kubectl proxy`; own time is that of a call in which no call of the API is under \
        way and the cluster has said what is waited for. A program runs when its kubelet has said so. The cluster is one host, this one.",
    programs: &[CLUSTER, kubectl::NAME],
    measure,
};

fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = one::measure(bench)?;
    rows.extend(idle::measure(bench)?);
    rows.extend(list::measure(bench)?);
    rows.extend(many::measure(bench)?);
    rows.extend(reasons::measure(bench)?);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_endless_and_lists_are_not() {
        let check = |path: &str, expect: bool| {
            assert_eq!((MANNER.is_endless)(path), expect, "{path}");
        };
        check("/api/v1/namespaces/n/pods?limit=500", false);
        check("/api/v1/namespaces/n/pods?limit=1&watch=true", true);
        check("/api/v1/namespaces/n/pods/watch=true", false);
        check("/api/v1/namespaces/n/pods/p/log?follow=true", true);
        check("/api/v1/namespaces/n/pods?allowWatchBookmarks=true", false);
    }
}
