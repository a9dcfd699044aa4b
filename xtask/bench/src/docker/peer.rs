//! Somebody else who has an engine run the same container as a node's.

use std::time::{Duration, Instant};

use grid_testbed::Api;
use serde_json::Value;

use super::bare::Bare;
use super::container::{Made, Shape, Template};
use crate::Result;
use crate::program::now;
use crate::proxy::Proxy;
use crate::report::{Row, Unit};
use crate::stats::Subject;

/// Starts and stops a container.
pub(super) trait Peer {
    /// What can be done before anything is asked of the engine: words that are given to the others.
    fn prepare(&self, made: &Made) -> Result<Vec<String>>;

    /// Makes it and starts it, until the engine says so.
    fn start(&self, made: &Made, prepared: &[String]) -> Result<()>;

    /// Stops it, until the engine says so.
    fn stop(&self, made: &Made, prepared: &[String]) -> Result<()>;
}

/// What peers are measured with.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    /// The engine itself: by it is looked what came of a call.
    pub(super) engine: &'a Api,
    pub(super) template: &'a Template,
    /// What a node's container is to the engine.
    pub(super) shape: &'a Shape,
    /// Where one container at a time is published.
    pub(super) port: u16,
    /// Deletes what was measured.
    pub(super) bare: &'a Bare,
}

/// The rows of a peer: of a start two, of a stop two.
pub(super) fn rows(start: &str, stop: &str) -> [Row; 4] {
    [
        Row::time(start),
        Row::of(format!("{start}: calls of the engine"), Unit::Count),
        Row::time(stop),
        Row::of(format!("{stop}: calls of the engine"), Unit::Count),
    ]
}

/// A round starts a container, looks that it is what the node's is, and stops it.
pub(super) fn subject<'a>(
    ground: Ground<'a>,
    name: &'a str,
    peer: &'a dyn Peer,
    proxy: &'a Proxy,
    rows: [Row; 4],
) -> Subject<'a> {
    let mut round = 0;
    Subject::figures(rows, move || {
        round += 1;
        let made = ground
            .template
            .make(&format!("{name}-{round}"), ground.port)?;
        let prepared = peer.prepare(&made)?;
        let asked = now();
        peer.start(&made, &prepared)?;
        let started = now();
        let inspected = ground.look(&made.name)?;
        let differences = ground.shape.differences(&Shape::of(&inspected)?);
        if !differences.is_empty() {
            return Err(
                format!("{name} makes another container: {}", differences.join("; ")).into(),
            );
        }
        is_running(&inspected)?;
        await_ready(ground.engine, &made.name)?;
        let told = now();
        peer.stop(&made, &prepared)?;
        let stopped = now();
        has_ended(&ground.look(&made.name)?)?;
        ground.bare.remove(&made.name)?;
        made.forget()?;
        let calls = |from, to| proxy.asked(from, to).calls as f64;
        Ok([
            (started - asked).as_secs_f64(),
            calls(asked, started),
            (stopped - told).as_secs_f64(),
            calls(told, stopped),
        ])
    })
}

impl Ground<'_> {
    fn look(&self, container: &str) -> Result<Value> {
        look(self.engine, container)
    }
}

/// What the engine tells of a container.
pub(super) fn look(engine: &Api, container: &str) -> Result<Value> {
    Ok(engine.get(&format!("/containers/{container}/json"))?)
}

/// An error unless the container's program runs.
pub(super) fn is_running(inspected: &Value) -> Result<()> {
    let state = &inspected["State"];
    if state["Running"] == true && state["Pid"].as_u64() > Some(0) && state["Paused"] == false {
        return Ok(());
    }
    Err(format!("a container that was started does not run: {state}").into())
}

/// Waits until the container's program heeds a signal to end: to the first process of a container none comes that it does not
/// heed.
pub(super) fn await_ready(engine: &Api, container: &str) -> Result<()> {
    let path = format!("/containers/{container}/logs?stdout=true&tail=1");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let log = engine.send("GET", &path, "text/plain", b"")?;
        log.ok()?;
        if log.body.ends_with(b"ready\n") {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the program of `{container}` is not ready").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An error unless the container's program ended by itself when it was asked to.
pub(super) fn has_ended(inspected: &Value) -> Result<()> {
    let state = &inspected["State"];
    if state["Running"] == false && state["ExitCode"] == 0 {
        return Ok(());
    }
    Err(format!("a container that was stopped is not at its end: {state}").into())
}
