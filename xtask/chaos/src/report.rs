//! What a run has to show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

/// Counts by name.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Everything that was done and found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) platform: String,
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    /// Kinds that could not be tried here, and why.
    pub(crate) left_out: Vec<String>,
    pub(crate) faults: u64,
    pub(crate) seconds: u64,
    pub(crate) censuses: u64,
    /// Faults that were delivered, by kind.
    pub(crate) delivered: Counts,
    /// Faults of the plan that met nobody.
    pub(crate) missed: Counts,
    /// Fault points that were met.
    pub(crate) points: Counts,
    /// Fault points that no process has met.
    pub(crate) points_unmet: Vec<String>,
    /// Operations that were acknowledged.
    pub(crate) acknowledged: Counts,
    /// Operations whose answer was lost for good, so that either may be true.
    pub(crate) unknown: Counts,
    /// Answers that were lost and asked for again.
    pub(crate) asked_again: u64,
    /// Nodes that were found failed, with the reason, and were started again by a new wish.
    pub(crate) started_anew: Counts,
    /// What the platform itself left or broke, and was mended by hand.
    pub(crate) mended: Counts,
    /// How agent and master ended, other than by our hand.
    pub(crate) ends: Counts,
    pub(crate) objects: Objects,
    pub(crate) logs: Logs,
    pub(crate) decoys: u64,
    /// Things of others beside the nodes, unharmed, over all censuses.
    pub(crate) strangers: u64,
    /// What was looked at the moment it was shown as done.
    pub(crate) looked_at_once: Counts,
    /// Orphans beside their programs, over all censuses.
    pub(crate) orphans: u64,
    /// What the platform has outside of its own state, such as cgroups, over all censuses.
    pub(crate) outside: u64,
    /// Boots that were left out, by node and start: somebody's force may have let those programs live.
    pub(crate) left_over: BTreeSet<(String, u64)>,
    pub(crate) looks_for_a_node_twice: u64,
    /// What is wrong. Empty is a success.
    pub(crate) violations: Vec<String>,
}

/// What storage nodes were given, and gave back.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Objects {
    pub(crate) written: u64,
    pub(crate) overwritten: u64,
    pub(crate) deleted: u64,
    pub(crate) unknown: u64,
    pub(crate) verified: u64,
}

/// What those who follow logs have seen.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Logs {
    pub(crate) lines: u64,
    /// Lines that a program counted, behind the one that it counted before.
    pub(crate) in_order: u64,
    pub(crate) gaps: u64,
    /// Lines that are missing between two that were kept, where what keeps logs was killed or had no room.
    pub(crate) never_kept: u64,
    /// Logs that could not be compared, as what keeps them was killed or had no room and has torn them, over all censuses.
    pub(crate) torn: u64,
    /// Gaps and first lines before which the file was looked at, and held nothing any more.
    pub(crate) beginnings: u64,
    pub(crate) reconnected: u64,
    /// Logs that ended with their node, or went with it before they were read to their end: said so each time.
    pub(crate) replaced: u64,
    pub(crate) compared_bytes: u64,
}

/// Counts one more.
pub(crate) fn count(counts: &mut Counts, name: impl ToString) {
    *counts.entry(name.to_string()).or_default() += 1;
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | count |\n|---|---:|")?;
        let mut row = |what: &str, count: u64| writeln!(f, "| {what} | {count} |");
        row("faults delivered", self.faults)?;
        for (kind, count) in &self.delivered {
            row(&format!("fault: {kind}"), *count)?;
        }
        for (kind, count) in &self.missed {
            row(&format!("met nobody, not counted: {kind}"), *count)?;
        }
        for (point, count) in &self.points {
            row(&format!("fault point `{point}` met"), *count)?;
        }
        for (operation, count) in &self.acknowledged {
            row(&format!("acknowledged: {operation}"), *count)?;
        }
        for (operation, count) in &self.unknown {
            row(&format!("answer lost for good: {operation}"), *count)?;
        }
        row("answers lost and asked for again", self.asked_again)?;
        for (why, count) in &self.started_anew {
            row(&format!("failed and started anew: {why}"), *count)?;
        }
        for (what, count) in &self.mended {
            row(&format!("left by an engine that was ended: {what}"), *count)?;
        }
        for (how, count) in &self.ends {
            row(&format!("ended by itself: {how}"), *count)?;
        }
        row("objects written", self.objects.written)?;
        row("objects overwritten", self.objects.overwritten)?;
        row("objects deleted", self.objects.deleted)?;
        row("objects whose answer was lost", self.objects.unknown)?;
        row("objects read back and compared", self.objects.verified)?;
        row("log lines followed", self.logs.lines)?;
        row(
            "log lines behind the one counted before",
            self.logs.in_order,
        )?;
        row("log gaps that were told", self.logs.gaps)?;
        row("log lines that were never kept", self.logs.never_kept)?;
        row("logs that were torn, in censuses", self.logs.torn)?;
        row(
            "log beginnings before which the file held nothing",
            self.logs.beginnings,
        )?;
        row("logs that went with their node", self.logs.replaced)?;
        row("log followers reconnected", self.logs.reconnected)?;
        row("log bytes compared with the file", self.logs.compared_bytes)?;
        row("decoys at a recycled pid, unharmed", self.decoys)?;
        row("things of others, unharmed, in censuses", self.strangers)?;
        for (what, count) in &self.looked_at_once {
            row(&format!("looked at the moment it was done: {what}"), *count)?;
        }
        row("orphans beside their programs, in censuses", self.orphans)?;
        row("cgroups and the like, in censuses", self.outside)?;
        row(
            "boots left out, of what was deleted by force",
            self.left_over.len() as u64,
        )?;
        row(
            "looks for a node that runs twice",
            self.looks_for_a_node_twice,
        )?;
        row("censuses", self.censuses)?;
        row("seconds", self.seconds)
    }
}
