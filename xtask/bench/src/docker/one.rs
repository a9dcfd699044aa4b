//! One container at a time: started, stopped, removed.

use grid_platform_api::NodeId;

use super::bare::Bare;
use super::command::{self, Docker};
use super::compose::{self, Compose};
use super::peer::{self, Ground, Peer};
use super::place::Place;
use crate::Result;
use crate::bench::Bench;
use crate::program::now;
use crate::report::{Row, Unit};
use crate::stats::Subject;

const BARE_START: &str = "bare: create and start";
const BARE_STOP: &str = "bare: stop";

/// They take a second of every round.
const EVERY: usize = 4;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let place = Place::new(bench, None)?;
    let (template, shape) = place.template()?;
    let helper = place.way("helper")?;
    let helper = Bare::connect(&helper).map(|it| (it, helper))?;
    let ground = Ground {
        engine: &place.engine,
        template: &template,
        shape: &shape,
        port: place.ports(1)?,
        bare: &helper.0,
    };
    let ways = ["bare", "docker", "compose"].map(|it| place.way(it));
    let [bare_way, docker_way, compose_way] = ways;
    let (bare_way, docker_way, compose_way) = (bare_way?, docker_way?, compose_way?);
    let bare = Bare::connect(&bare_way)?;
    let docker = bench.program(command::NAME);
    let docker = docker.map(|it| Docker::new(it, &docker_way));
    let compose = bench.program(compose::NAME);
    let compose = compose.map(|it| Compose::new(it, &compose_way, place.dir()));
    let mut subjects = vec![
        node(&place),
        peer::subject(
            ground,
            "bare",
            &bare,
            &bare_way,
            peer::rows(BARE_START, BARE_STOP),
        ),
    ];
    let mut missing = Vec::new();
    let peers = [
        (
            "docker",
            docker.as_ref().map(|it| it as &dyn Peer),
            &docker_way,
            beside(peer::rows("docker run --detach", "docker stop")),
        ),
        (
            "compose",
            compose.as_ref().map(|it| it as &dyn Peer),
            &compose_way,
            beside(peer::rows(
                "docker-compose up --detach",
                "docker-compose stop",
            )),
        ),
    ];
    for (name, peer, way, rows) in peers {
        match peer {
            Ok(peer) => {
                subjects.push(peer::subject(ground, name, peer, way, rows).every(EVERY));
            }
            Err(why) => missing.extend(rows.map(|row| row.not_run(why))),
        }
    }
    let mut rows = bench.interleave(subjects)?;
    rows.extend(missing);
    Ok(rows)
}

/// A peer's rows stand beside a node's.
fn beside([start, start_calls, stop, stop_calls]: [Row; 4]) -> [Row; 4] {
    let own = ["spawn_node", "stop_node"];
    [
        start.beside(own[0]),
        start_calls,
        stop.beside(own[1]),
        stop_calls,
    ]
}

/// What is measured of one call.
struct Spent {
    whole: f64,
    /// With no call of the engine under way.
    own: f64,
    calls: f64,
}

fn spent(place: &Place, call: impl FnOnce() -> Result<()>) -> Result<Spent> {
    let from = now();
    call()?;
    let to = now();
    let asked = place.proxy.asked(from, to);
    let whole = to - from;
    Ok(Spent {
        whole: whole.as_secs_f64(),
        own: whole.saturating_sub(asked.inside).as_secs_f64(),
        calls: asked.calls as f64,
    })
}

/// A round starts one node, stops and removes it.
fn node(place: &Place) -> Subject<'_> {
    let own = |call: &str| Row::time(format!("{call}: own time")).at_most(0.005);
    let calls = |call: &str| Row::of(format!("{call}: calls of the engine"), Unit::Count);
    let behind = "a node's life: calls of the engine that nobody waits for, by its events";
    let rows = [
        Row::time("spawn_node")
            .beside(BARE_START)
            .at_most_times(1.05),
        own("spawn_node"),
        calls("spawn_node"),
        Row::time("stop_node").beside(BARE_STOP).at_most_times(1.05),
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
        let config = place.request(&id, &[])?;
        let before = place.proxy.count();
        let spawned = spent(place, || place.spawn(config).map(drop))?;
        place.runs(&id)?;
        let stopped = spent(place, || place.stop(&id))?;
        place.ended(&id)?;
        let removed = spent(place, || place.remove(&id))?;
        let all = (place.proxy.count() - before) as f64;
        let behind = all - spawned.calls - stopped.calls - removed.calls;
        let three = [spawned, stopped, removed];
        let [spawned, stopped, removed] = three.map(|it| [it.whole, it.own, it.calls]);
        Ok([
            spawned[0], spawned[1], spawned[2], stopped[0], stopped[1], stopped[2], removed[0],
            removed[1], removed[2], behind,
        ])
    })
}
