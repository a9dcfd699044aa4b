//! What the master counts, in Prometheus' text format.

use std::{fmt::Write as _, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

type Unsigned = Gauge<u64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    /// The route's pattern, never a path with ids in it: the number of series stays bounded.
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// The counters of one master.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histogram,
    pub(crate) connections: Gauge,
    pub(crate) followers: Gauge,
    pub(crate) log_streams: Gauge,
    pub(crate) sessions: Counter,
    pub(crate) refused_sessions: Counter,
    pub(crate) events: Counter,
    commits: Counter,
    commit_seconds: Histogram,
    commit_changes: Histogram,
    nodes: Family<StateLabels, Unsigned>,
    agents: Family<StateLabels, Unsigned>,
    revision: Unsigned,
}

/// Figures that are read when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) nodes: Vec<(&'static str, u64)>,
    pub(crate) agents: Vec<(&'static str, u64)>,
    pub(crate) revision: u64,
}

/// From 100 µs, a cached answer, to 52 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 20))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("grid_master"),
            requests: Family::default(),
            request_seconds: seconds(),
            connections: Gauge::default(),
            followers: Gauge::default(),
            log_streams: Gauge::default(),
            sessions: Counter::default(),
            refused_sessions: Counter::default(),
            events: Counter::default(),
            commits: Counter::default(),
            commit_seconds: seconds(),
            commit_changes: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            nodes: Family::default(),
            agents: Family::default(),
            revision: Unsigned::default(),
        };
        let m = &mut metrics;
        let r = &mut m.registry;
        r.register("requests", "HTTP requests answered", m.requests.clone());
        r.register(
            "request_duration_seconds",
            "Time from a request's head to its answer's head",
            m.request_seconds.clone(),
        );
        r.register(
            "http_connections",
            "Open HTTP connections",
            m.connections.clone(),
        );
        r.register("event_followers", "Open event streams", m.followers.clone());
        r.register("log_streams", "Logs being read", m.log_streams.clone());
        r.register("sessions", "Sessions of agents begun", m.sessions.clone());
        r.register(
            "refused_sessions",
            "Sessions of agents refused",
            m.refused_sessions.clone(),
        );
        r.register("events", "Events told", m.events.clone());
        r.register(
            "store_commits",
            "Durable commits; each is one sync of the store",
            m.commits.clone(),
        );
        r.register(
            "store_commit_duration_seconds",
            "Time of one commit",
            m.commit_seconds.clone(),
        );
        r.register(
            "store_commit_changes",
            "Changes that shared one commit",
            m.commit_changes.clone(),
        );
        r.register("nodes", "Nodes by state", m.nodes.clone());
        r.register("agents", "Agents by state", m.agents.clone());
        r.register(
            "store_revision",
            "The store's revision; it rises with every change of a wish",
            m.revision.clone(),
        );
        metrics
    }

    pub(crate) fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        self.requests
            .get_or_create(&RequestLabels {
                method: method.to_owned(),
                route: route.to_owned(),
                status,
            })
            .inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn committed(&self, changes: usize, took: Duration) {
        self.commits.inc();
        self.commit_seconds.observe(took.as_secs_f64());
        // At most some thousand: exact as a float.
        self.commit_changes.observe(changes as f64);
    }

    /// The whole exposition.
    pub(crate) fn render(&self, snapshot: &Snapshot) -> String {
        for (family, counts) in [
            (&self.nodes, &snapshot.nodes),
            (&self.agents, &snapshot.agents),
        ] {
            for (state, count) in counts {
                family.get_or_create(&StateLabels { state }).set(*count);
            }
        }
        self.revision.set(snapshot.revision);
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        classic(&text)
    }
}

/// OpenMetrics text as the classic Prometheus text format (0.0.4), which every scraper reads: a counter's family is
/// named with its `_total` there, and nothing ends the text.
fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + 256);
    // The help's line comes first, and its name depends on the type's line.
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        if let Some(parts) = line.strip_prefix("# HELP ").and_then(|r| r.split_once(' ')) {
            help = Some(parts);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|r| r.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                let _ = writeln!(out, "# HELP {name}{suffix} {words}");
            }
            let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
        } else {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_belongs_to_a_family_with_help() {
        let metrics = Metrics::new();
        metrics.request("GET", "/api/grid/nodes", 200, Duration::from_millis(1));
        metrics.committed(2, Duration::from_millis(3));
        let text = metrics.render(&Snapshot {
            nodes: vec![("running", 3)],
            agents: vec![("ready", 1)],
            revision: 7,
        });
        let named = |word: &str| -> Vec<String> {
            text.lines()
                .filter_map(|l| l.strip_prefix(word)?.split(' ').next().map(str::to_owned))
                .collect()
        };
        let (helps, types) = (named("# HELP "), named("# TYPE "));
        assert_eq!(helps, types);
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let known = types.iter().any(|family| {
                matches!(
                    name.strip_prefix(family.as_str()),
                    Some("" | "_bucket" | "_sum" | "_count")
                )
            });
            assert!(known, "{line}");
        }
        assert!(
            text.contains("grid_master_nodes{state=\"running\"} 3"),
            "{text}"
        );
        assert!(text.contains("grid_master_store_commits_total 1"), "{text}");
        assert!(!text.contains("# EOF"));
    }
}
