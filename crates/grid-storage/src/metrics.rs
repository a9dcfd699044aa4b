//! What the server counts, in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{
    EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::index::Totals;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Put,
    Get,
    Head,
    Delete,
    List,
    Other,
}

impl EncodeLabelValue for Operation {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Other => "other",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: Operation,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: Operation,
}

type Unsigned = Gauge<u64, AtomicU64>;

/// The counters of one store and its server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<OperationLabels, Histogram, fn() -> Histogram>,
    received_bytes: Counter,
    sent_bytes: Counter,
    connections: Gauge,
    commits: Counter,
    commit_seconds: Histogram,
    commit_changes: Histogram,
    objects: Unsigned,
    object_bytes: Unsigned,
    free_bytes: Unsigned,
    corrupt: Counter,
    orphans: Counter,
}

/// From 50 µs, about one cached read, to 26 s, about one large object.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("grid_storage"),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            connections: Gauge::default(),
            commits: Counter::default(),
            commit_seconds: seconds(),
            commit_changes: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            objects: Unsigned::default(),
            object_bytes: Unsigned::default(),
            free_bytes: Unsigned::default(),
            corrupt: Counter::default(),
            orphans: Counter::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests answered", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "Time from a request's head to its answer's head",
            self.request_seconds.clone(),
        );
        registry.register(
            "received_bytes",
            "Bytes of object bodies received",
            self.received_bytes.clone(),
        );
        registry.register(
            "sent_bytes",
            "Bytes of object bodies sent",
            self.sent_bytes.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "commits",
            "Durable commits; each is one sync of the journal",
            self.commits.clone(),
        );
        registry.register(
            "commit_duration_seconds",
            "Time of one commit",
            self.commit_seconds.clone(),
        );
        registry.register(
            "commit_changes",
            "Changes that shared one commit",
            self.commit_changes.clone(),
        );
        registry.register("objects", "Objects stored", self.objects.clone());
        registry.register(
            "object_bytes",
            "Sum of the objects' sizes in bytes",
            self.object_bytes.clone(),
        );
        registry.register(
            "disk_free_bytes",
            "Free bytes on the data directory's disk",
            self.free_bytes.clone(),
        );
        registry.register(
            "corruptions",
            "Reads that found stored bytes without their checksum",
            self.corrupt.clone(),
        );
        registry.register(
            "orphans_removed",
            "Content files of unfinished writes removed at start",
            self.orphans.clone(),
        );
    }

    pub(crate) fn request(&self, operation: Operation, status: u16, took: Duration) {
        self.requests
            .get_or_create(&RequestLabels { operation, status })
            .inc();
        self.request_seconds
            .get_or_create(&OperationLabels { operation })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.received_bytes.inc_by(bytes);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent_bytes.inc_by(bytes);
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.inc();
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.dec();
    }

    pub(crate) fn committed(&self, changes: usize, took: Duration, totals: Totals) {
        self.commits.inc();
        self.commit_seconds.observe(took.as_secs_f64());
        // A batch has at most some thousand changes: exact as a float.
        self.commit_changes.observe(changes as f64);
        self.totals(totals);
    }

    pub(crate) fn totals(&self, totals: Totals) {
        self.objects.set(totals.objects);
        self.object_bytes.set(totals.bytes);
    }

    pub(crate) fn corrupt(&self) {
        self.corrupt.inc();
    }

    pub(crate) fn orphan_removed(&self) {
        self.orphans.inc();
    }

    /// The whole exposition, with `free_bytes` of disk as of now.
    pub(crate) fn render(&self, free_bytes: Option<u64>) -> String {
        if let Some(bytes) = free_bytes {
            self.free_bytes.set(bytes);
        }
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        classic(&text)
    }
}

/// Turns OpenMetrics text into the classic Prometheus text format (0.0.4), which every scraper
/// reads: there a counter's family is named with its `_total`, and nothing ends the text.
fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + 256);
    let mut help: Option<&str> = None;
    for line in open_metrics.lines() {
        if line == "# EOF" {
            continue;
        }
        if line.starts_with("# HELP ") {
            // The suffix depends on the type, which is on the next line.
            help = Some(line);
            continue;
        }
        let suffix = match line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            Some((_, "counter")) => "_total",
            _ => "",
        };
        for line in help.take().into_iter().chain([line]) {
            match line.strip_prefix("# ").and_then(|rest| {
                let (word, rest) = rest.split_once(' ')?;
                let (name, rest) = rest.split_once(' ')?;
                Some((word, name, rest))
            }) {
                Some((word, name, rest)) => {
                    let _ = writeln!(out, "# {word} {name}{suffix} {rest}");
                }
                None => {
                    let _ = writeln!(out, "{line}");
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_format_names_counters_in_full() {
        let open = "# HELP a_commits Commits made.\n# TYPE a_commits counter\na_commits_total 3\n\
                    # HELP a_size Size.\n# TYPE a_size gauge\na_size 4\n# EOF\n";
        let expect = "# HELP a_commits_total Commits made.\n# TYPE a_commits_total counter\na_commits_total 3\n\
                      # HELP a_size Size.\n# TYPE a_size gauge\na_size 4\n";
        assert_eq!(classic(open), expect);
    }

    #[test]
    fn every_sample_belongs_to_a_declared_family() {
        let metrics = Metrics::new();
        metrics.request(Operation::Put, 201, Duration::from_millis(1));
        metrics.committed(
            3,
            Duration::from_millis(1),
            Totals {
                objects: 3,
                bytes: 30,
                ..Totals::default()
            },
        );
        let text = metrics.render(Some(17));
        let families: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let known = families.iter().any(|family| {
                let rest = name.strip_prefix(family);
                matches!(rest, Some("" | "_bucket" | "_sum" | "_count"))
            });
            assert!(known, "{line}");
        }
        assert!(
            text.contains("grid_storage_requests_total{operation=\"put\",status=\"201\"} 1"),
            "{text}"
        );
        assert!(text.contains("grid_storage_objects 3"), "{text}");
        assert!(text.contains("grid_storage_disk_free_bytes 17"), "{text}");
    }
}
