//! A node that runs, and nobody who asks anything.

use std::time::Duration;

use grid_platform_api::NodeId;

use super::is_of_lease;
use super::news::is_counted;
use super::place::Place;
use crate::Result;
use crate::bench::Bench;
use crate::program::now;
use crate::report::{Row, Unit};

/// How long is looked in a full run, in minutes: watches end by themselves after some.
const FULL: u64 = 10;

/// How long what came of the start may go on: a kubelet says more of a pod that runs.
const REST: Duration = Duration::from_secs(5);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let place = Place::new(bench)?;
    let id = NodeId::new("idle")?;
    place.spawn(&id)?;
    std::thread::sleep(REST);
    let minute = bench.sized(Duration::from_secs(60), Duration::from_secs(3));
    let minutes = if bench.is_full() { FULL } else { 1 };
    bench.step(&format!("a node at rest: {minutes} min"));
    let row = |what: &str| Row::of(format!("an idle minute: {what}"), Unit::Count);
    let mut rows = [
        row("calls of the API but watches and the lease").at_most(0.0),
        row("calls about the lease"),
        row("watches taken up again"),
    ];
    for _ in 0..minutes {
        let from = now();
        std::thread::sleep(minute);
        let calls = place.proxy.calls(from, now());
        let other: Vec<_> = calls.iter().filter(|it| is_counted(it)).collect();
        for call in &other {
            bench.step(&format!("{} {}", call.method, call.path));
        }
        let lease = calls.iter().filter(|it| is_of_lease(&it.path)).count();
        let watches = calls.iter().filter(|it| it.is_endless).count();
        for (row, count) in rows.iter_mut().zip([other.len(), lease, watches]) {
            row.add(count as f64);
        }
    }
    place.runs(&id)?;
    place.remove(&id)?;
    Ok(rows.into())
}
