//! Spawns asked for over HTTP, by many clients at once.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;
use crate::clients::together;
use crate::http::Connection;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) took: Duration,
    /// From each request to its acknowledgement, in ascending order.
    pub(crate) latencies: Vec<Duration>,
}

impl Spawned {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }
}

/// The id of a node, by its number.
pub(crate) fn name(number: usize) -> String {
    format!("node-{number:06}")
}

/// Spawns these nodes, wherever the master places them. Each answer is checked; an error ends all.
pub(crate) fn spawn(
    master: SocketAddr,
    token: &str,
    nodes: Range<usize>,
    clients: usize,
) -> Result<Spawned> {
    let next = AtomicUsize::new(nodes.start);
    let client = |_| {
        let mut connection = Connection::open(master)?.bearer(token);
        let mut latencies = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= nodes.end {
                return Ok(latencies);
            }
            let id = name(number);
            let body = json!({"node_id": id}).to_string();
            let asked = Instant::now();
            let answer = connection.request("POST", "/api/grid/spawn", body.as_bytes())?;
            latencies.push(asked.elapsed());
            let node: Value = serde_json::from_slice(&answer)?;
            if node["id"] != id.as_str() || node["desired"] != "running" {
                return Err(format!("the spawn of `{id}` was answered by {node}").into());
            }
        }
    };
    let started = Instant::now();
    let each = together(clients, client)?;
    let took = started.elapsed();
    let mut latencies = each.concat();
    latencies.sort_unstable();
    if latencies.len() != nodes.len() {
        return Err("not every spawn was acknowledged".into());
    }
    Ok(Spawned { took, latencies })
}
