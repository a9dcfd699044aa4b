//! One node at a time: started, stopped, removed.

use grid_platform_api::NodeId;

use super::bare::Bare;
use super::kubectl::{self, Kubectl, Run};
use super::news::{Spent, is_counted};
use super::peer::{self, Ground, Peer};
use super::place::Place;
use crate::Result;
use crate::bench::Bench;
use crate::program::now;
use crate::report::{Row, Unit};
use crate::stats::Subject;

const BARE_START: &str = "bare: service, claim and pod made, and watched until it runs";
const BARE_STOP: &str = "bare: the pod deleted, and watched until it is gone";
const RUN: &str = "kubectl run and kubectl wait, with claim and service there";
const DELETE: &str = "kubectl delete pod";

/// A round takes seconds, most of them the kubelet's.
const EVERY: usize = 4;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let place = Place::new(bench)?;
    let (template, shape) = place.template()?;
    let ground = Ground {
        place: &place,
        template: &template,
        shape: &shape,
    };
    let namespace = place.peers.name();
    let connect = |file: &_| Bare::connect(&place.runtime, file, namespace);
    let (bare_way, file) = place.way("bare")?;
    let bare = connect(&file)?;
    // What is made before a measurement goes another way than what is measured.
    let (_helper_way, helper_file) = place.way("helper")?;
    let (kubectl_way, file) = place.way("kubectl")?;
    let kubectl = bench.program(kubectl::NAME);
    let run = match kubectl {
        Ok(path) => Ok(Run {
            kubectl: Kubectl::new(path, &file, namespace, place.dir()),
            bare: connect(&helper_file)?,
        }),
        Err(why) => Err(why),
    };
    let rows = peer::rows(BARE_START, BARE_STOP);
    let mut subjects = vec![
        node(&place).every(EVERY),
        peer::subject(ground, "bare", &bare, &bare_way, rows).every(EVERY),
    ];
    let mut missing = Vec::new();
    let [start, start_calls, stop, stop_calls] = peer::rows(RUN, DELETE);
    let rows = [
        start.beside("spawn_node"),
        start_calls,
        stop.beside("stop_node"),
        stop_calls,
    ];
    match &run {
        Ok(run) => {
            let run: &dyn Peer = run;
            subjects.push(peer::subject(ground, "kubectl", run, &kubectl_way, rows).every(EVERY));
        }
        Err(why) => missing.extend(rows.map(|row| row.not_run(why))),
    }
    let mut rows = bench.interleave(subjects)?;
    rows.extend(missing);
    Ok(rows)
}

fn spent(place: &Place, call: impl FnOnce() -> Result<()>) -> Result<Spent> {
    let from = now();
    call()?;
    Ok(Spent::of(&place.proxy, from, now()))
}

/// A round starts one node, stops and removes it.
fn node(place: &Place) -> Subject<'_> {
    let own = |call: &str| Row::time(format!("{call}: own time")).at_most(0.01);
    let calls = |call: &str| Row::of(format!("{call}: calls of the API"), Unit::Count);
    let behind = "a node's life: calls of the API that nobody waits for";
    let rows = [
        Row::time("spawn_node").beside(BARE_START),
        own("spawn_node"),
        calls("spawn_node"),
        Row::time("stop_node").beside(BARE_STOP),
        own("stop_node"),
        calls("stop_node"),
        Row::time("remove_node of a stopped one"),
        own("remove_node"),
        calls("remove_node"),
        Row::of(behind, Unit::Count),
    ];
    let mut round = 0;
    Subject::figures(rows, move || {
        round += 1;
        let id = NodeId::new(format!("node-{round}"))?;
        let begin = now();
        let spawned = spent(place, || place.spawn(&id).map(drop))?;
        place.runs(&id)?;
        let stopped = spent(place, || place.stop(&id))?;
        place.ended(&id)?;
        let removed = spent(place, || place.remove(&id))?;
        let all = place.proxy.calls(begin, now());
        let three = [spawned, stopped, removed];
        let waited: usize = three.iter().map(|it| it.calls).sum();
        let behind = all.iter().filter(|it| is_counted(it)).count() - waited;
        let [spawned, stopped, removed] = three.map(|it| {
            [
                it.whole.as_secs_f64(),
                it.own.as_secs_f64(),
                it.calls as f64,
            ]
        });
        Ok([
            spawned[0],
            spawned[1],
            spawned[2],
            stopped[0],
            stopped[1],
            stopped[2],
            removed[0],
            removed[1],
            removed[2],
            behind as f64,
        ])
    })
}
