//! What runs and what is in the cluster's books, and that no node ever ran twice at once.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use grid_platform_api::NATIVE_PREFIX;
use grid_platform_testing::parse_boot;
use serde_json::Value;

use super::super::{Census, Records};
use super::{Pods, locked, text};
use crate::proc;

/// The claim's record of a node, and what is asked of it.
const RECORD: &str = "sutra.grid/record";
const NOTES: &str = "sutra.grid/notes";
/// What the agent has for itself.
const OWN: &str = "sutra-grid.chaos";
/// What the cluster makes in every namespace, by its name or its type.
const OF_THE_CLUSTER: [&str; 2] = ["kube-root-ca.crt", "kubernetes.io/service-account-token"];

/// A program of a node as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pid: u32,
    start: u64,
    /// When it was seen last, in the kernel's ticks since boot.
    last: u64,
}

/// The kernel's ticks since boot: there are 100 in a second (`USER_HZ`), wherever `/proc` tells of them.
pub(super) fn ticks() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split_whitespace().next().unwrap_or_default();
    let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "00"));
    let number = |it: &str| it.parse::<u64>().map_err(io::Error::other);
    Ok(number(whole)? * 100 + number(part)?)
}

/// How long the kubelet may start programs anew, in the kernel's ticks, of a pod that was taken out of the books by force:
/// it does not hear of that before it asks the API server again, which it waits with for up to a minute where that was away.
const LEFT_OVER: u64 = 6_000;

/// Which of a node's recorded starts may be of pods that were taken out of the books by force, at these times: nobody saw
/// them alive as the node's own.
fn left_over(all: &[Seen], starts: &[u64], forced: &[u64]) -> BTreeSet<u64> {
    let is_soon = |start: u64| {
        forced
            .iter()
            .any(|at| (*at..at + LEFT_OVER).contains(&start))
    };
    let is_own = |start: u64| all.iter().any(|it| it.start == start);
    let starts = starts.iter().copied();
    starts.filter(|it| is_soon(*it) && !is_own(*it)).collect()
}

/// Which ran while another one did that had begun before: pairs of a node's programs by their starts.
fn at_once(all: &[Seen], starts: &[u64]) -> Vec<(u64, u64)> {
    let begins = all.iter().map(|it| it.start).chain(starts.iter().copied());
    let mut found: Vec<_> = begins
        .flat_map(|begin| {
            let over = all
                .iter()
                .filter(move |it| it.start < begin && it.last > begin);
            over.map(move |it| (it.start, begin))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

impl Pods {
    /// Puts a process of the run where it belongs.
    pub(super) fn place_in(&self, census: &mut Census, process: proc::Process) {
        let Some(id) = process.variable("SUTRA_NODE_ID").map(str::to_owned) else {
            census.others.push(process);
            return;
        };
        // Taken out of the books by force: it has to be gone at the next rest, and may live until then.
        let is_given_up = {
            let given_up = locked(&self.given_up);
            !given_up.is_empty() && {
                let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid));
                let groups = groups.unwrap_or_default();
                given_up.keys().any(|it| groups.contains(it.as_str()))
            }
        };
        if is_given_up {
            census.others.push(process);
            return;
        }
        let living = census.nodes.entry(id).or_default();
        match process.args.get(1).map(String::as_str) {
            // Between a program and its orphan, for a moment.
            Some("--orphan-parent") => census.others.push(process),
            Some("--orphan") => living.orphans.push(process),
            // A program's own child, which is about to become something else.
            _ if living.programs.iter().any(|it| it.pid == process.parent) => {
                census.others.push(process);
            }
            _ => living.programs.push(process),
        }
    }

    /// Remembers which programs were seen at that time.
    pub(super) fn note(&self, census: &Census, at: u64) {
        let mut seen = locked(&self.seen);
        for (id, living) in &census.nodes {
            let all = seen.entry(id.clone()).or_default();
            for process in &living.programs {
                let same = |it: &&mut Seen| (it.pid, it.start) == (process.pid, process.start);
                match all.iter_mut().find(same) {
                    Some(it) => it.last = at,
                    None => all.push(Seen {
                        pid: process.pid,
                        start: process.start,
                        last: at,
                    }),
                }
            }
        }
    }

    /// What the cluster has of the run: all of it has to be a node's, the agent's own or somebody else's as it was.
    pub(super) fn read_books(&self) -> io::Result<Records> {
        let mut records = Records::default();
        let list = |kind: &str| -> io::Result<Vec<Value>> {
            let all = self.site.list(&self.site.path(kind))?;
            let of_nodes = |it: &Value| {
                let meta = &it["metadata"];
                let names = [text(&meta["name"]), text(&it["type"])];
                !self.decoys.has(text(&meta["uid"]))
                    && !names
                        .iter()
                        .any(|it| *it == OWN || OF_THE_CLUSTER.contains(it))
            };
            Ok(all.into_iter().filter(of_nodes).collect())
        };
        let volumes = self.site.list("/api/v1/persistentvolumes")?;
        let folder = |claim: &Value| -> PathBuf {
            let name = &claim["spec"]["volumeName"];
            let volume = volumes.iter().find(|it| it["metadata"]["name"] == *name);
            let path = volume.and_then(|it| it["spec"]["hostPath"]["path"].as_str());
            // One that has no volume yet has no file either.
            path.unwrap_or_default().into()
        };
        let mut stopped = Vec::new();
        for claim in list("persistentvolumeclaims")? {
            let meta = &claim["metadata"];
            let Some(id) = text(&meta["name"]).strip_prefix(NATIVE_PREFIX) else {
                records.left.push(format!("the claim {}", meta["name"]));
                continue;
            };
            records.outside += 1;
            records.data.insert(id.to_owned(), folder(&claim));
            if !meta["deletionTimestamp"].is_null() {
                records
                    .left
                    .push(format!("the claim of `{id}`, which is deleted"));
            }
            if meta["annotations"][RECORD].is_null() {
                continue;
            }
            let uid = text(&meta["labels"]["sutra.node_uid"]).to_owned();
            records.nodes.insert(id.to_owned(), uid);
            let notes = text(&meta["annotations"][NOTES]);
            let notes: Value = serde_json::from_str(notes).unwrap_or_default();
            if notes["goal"]["kind"] != "running" {
                stopped.push(id.to_owned());
            }
        }
        for (kind, what) in [
            ("pods", "pod"),
            ("services", "service"),
            ("secrets", "secret"),
        ] {
            for object in list(kind)? {
                records.outside += 1;
                let meta = &object["metadata"];
                let id = text(&meta["name"]).strip_prefix(NATIVE_PREFIX);
                let its = id.and_then(|id| records.nodes.get(id));
                let is_its = its.is_some_and(|it| meta["labels"]["sutra.node_uid"] == **it);
                if !is_its || !meta["deletionTimestamp"].is_null() {
                    let words = format!("the {what} {} {}", meta["name"], meta["labels"]);
                    records.left.push(words);
                }
                if let (Some(id), "pod") = (id, what)
                    && stopped.iter().any(|it| it == id)
                {
                    let words = "it has a pod".to_owned();
                    records.revived.insert(id.to_owned(), words);
                }
            }
        }
        for object in list("configmaps")? {
            let words = format!("the settings {}", object["metadata"]["name"]);
            records.left.push(words);
        }
        let (unharmed, wrong) = self.decoys.look(&self.site)?;
        records.decoys = unharmed;
        records.left.extend(wrong);
        self.look_for_overlaps(&mut records);
        records.left.extend(locked(&self.wrong).iter().cloned());
        Ok(records)
    }

    /// Compares the nodes' own records of their boots with who was seen alive.
    fn look_for_overlaps(&self, records: &mut Records) {
        let seen = locked(&self.seen);
        let given_up = locked(&self.given_up);
        for (id, all) in seen.iter() {
            let boots = records.data.get(id).map(|it| it.join("grid-probe.boots"));
            let boots = boots.and_then(|it| fs::read_to_string(it).ok());
            let boots = boots.unwrap_or_default();
            let mut starts: Vec<u64> = boots
                .lines()
                .filter_map(|line| Some(parse_boot(line)?.1.start_time))
                .collect();
            let forced = given_up.values().filter(|it| it.id == *id);
            let forced: Vec<u64> = forced.map(|it| it.at).collect();
            let left_over = left_over(all, &starts, &forced);
            starts.retain(|it| !left_over.contains(it));
            records.left_over.insert(id.clone(), left_over);
            for (one, other) in at_once(all, &starts) {
                let words = format!(
                    "`{id}` ran twice at once: what started at {one} was there when another one started at {other}"
                );
                locked(&self.wrong).insert(words);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_there_when_another_one_started_is_found() {
        let seen = |start, last| Seen {
            pid: 1,
            start,
            last,
        };
        let check = |all: &[Seen], starts: &[u64], expect: &[(u64, u64)]| {
            assert_eq!(at_once(all, starts), expect, "{all:?} {starts:?}");
        };
        check(&[seen(10, 20), seen(20, 30)], &[10, 20], &[]);
        check(&[seen(10, 21), seen(20, 30)], &[], &[(10, 20)]);
        // One that only its record tells of.
        check(&[seen(10, 21)], &[10, 20], &[(10, 20)]);
        check(&[seen(10, 21)], &[10, 21, 22], &[]);
    }

    #[test]
    fn what_force_left_is_told_from_what_ran_twice() {
        let own = [Seen {
            pid: 1,
            start: 120,
            last: 900,
        }];
        let check = |starts: &[u64], forced: &[u64], expect: &[u64]| {
            let found: Vec<u64> = left_over(&own, starts, forced).into_iter().collect();
            assert_eq!(found, expect, "{starts:?} {forced:?}");
        };
        check(&[50, 120, 130], &[100], &[130]);
        // It was seen; it was before; it is too late; nobody used force.
        check(&[120], &[100], &[]);
        check(&[99], &[100], &[]);
        check(&[100 + LEFT_OVER], &[100], &[]);
        check(&[130], &[], &[]);
    }

    #[test]
    fn this_machine_has_run_for_a_while() {
        assert!(ticks().unwrap() > 100);
    }
}
