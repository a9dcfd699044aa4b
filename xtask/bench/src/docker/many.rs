//! Many nodes: all that there are, and many at once.

use grid_platform_api::{NodeId, NodeState, Platform};
use serde_json::Value;

use super::bare::Bare;
use super::compose::{self, Compose};
use super::container::{Made, Template};
use super::peer::Peer;
use super::place::Place;
use crate::Result;
use crate::bench::Bench;
use crate::cleared::CONCURRENT;
use crate::program::now;
use crate::proxy::Proxy;
use crate::report::{Row, Unit};
use crate::stats::{Subject, timed};

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let place = Place::new(bench, None)?;
    let mut rows = at_once(bench, &place, bench.sized(50, 3))?;
    rows.extend(list(bench, &place, bench.sized(200, 3))?);
    Ok(rows)
}

fn ids(name: &str, count: usize) -> Result<Vec<NodeId>> {
    let ids = (0..count).map(|it| Ok(NodeId::new(format!("{name}-{it}"))?));
    ids.collect()
}

fn spawn(place: &Place, ids: &[NodeId]) -> Result<()> {
    let configs: Result<Vec<_>> = ids.iter().map(|it| place.request(it, &[])).collect();
    let spawn = async |it| place.platform.spawn_node(it).await.map(drop);
    place.runtime.block_on(place.at_once(configs?, spawn))
}

/// A list of them, beside one list call of the engine.
fn list(bench: &Bench, place: &Place, count: usize) -> Result<Vec<Row>> {
    bench.step(&format!("{count} nodes"));
    let ids = ids("listed", count)?;
    spawn(place, &ids)?;
    let check = |found: usize| -> Result<()> {
        match found == count {
            true => Ok(()),
            false => Err(format!("a list of {count} nodes has {found}").into()),
        }
    };
    let nodes = || -> Result<()> {
        let nodes = place.runtime.block_on(place.platform.list_nodes())?;
        let running = |it: &&grid_platform_api::SpawnedNode| it.state == NodeState::Running;
        check(nodes.iter().filter(running).count())
    };
    nodes()?;
    // The same call, to its last letter.
    let path = place.proxy.last("GET", "/containers/json")?.path;
    let way = place.way("list")?;
    let bare = Bare::connect(&way)?;
    let name = format!("list_nodes of {count}");
    let peer = format!("bare: one list call, of {count} containers, as JSON");
    let calls = Row::of(format!("{name}: calls of the engine"), Unit::Count);
    let rows = [Row::time(&name).beside(&peer).at_most_times(1.2), calls];
    let rows = bench.interleave(vec![
        Subject::figures(rows, || {
            let from = now();
            nodes()?;
            let to = now();
            let calls = place.proxy.asked(from, to).calls;
            Ok([(to - from).as_secs_f64(), calls as f64])
        }),
        Subject::time(Row::time(&peer), || {
            let (took, found) = timed(|| {
                let list: Vec<Value> = serde_json::from_slice(&bare.call("GET", &path, b"")?)?;
                Ok(list.len())
            })?;
            check(found)?;
            Ok(took)
        }),
    ])?;
    place.remove_all(&ids)?;
    Ok(rows)
}

/// Many from nothing, beside a file of as many services.
fn at_once(bench: &Bench, place: &Place, count: usize) -> Result<Vec<Row>> {
    let (template, _) = place.template()?;
    let way = place.way("many")?;
    let compose = bench.program(compose::NAME);
    let compose = compose.map(|it| Compose::new(it, &way, place.dir()));
    let node = format!("{count} nodes spawned, {CONCURRENT} at once");
    let bare = format!("bare: {count} containers made and started, {CONCURRENT} at once");
    let up = format!("docker-compose up --detach of {count} services");
    let mut nodes = Row::time(&node).beside(&bare);
    let mut containers = Row::time(&bare);
    let mut services = Row::time(&up).beside(&node);
    let rounds = bench.sized(3, 1);
    for round in 0..rounds {
        bench.step(&format!("{count} at once, {} of {rounds}", round + 1));
        let ids = ids(&format!("many-{round}"), count)?;
        let (took, ()) = timed(|| spawn(place, &ids))?;
        nodes.add(took.as_secs_f64());
        ids.iter().try_for_each(|it| place.runs(it))?;
        place.remove_all(&ids)?;

        let made = make(place, &template, &format!("bare-{round}"), count)?;
        let (took, ()) = timed(|| {
            place.by_connections(&way, &made, |it, made| it.start(made, &it.prepare(made)?))
        })?;
        containers.add(took.as_secs_f64());
        forget(place, &way, &made)?;

        let Ok(compose) = &compose else { continue };
        let made = make(place, &template, &format!("compose-{round}"), count)?;
        let project = compose.project(&format!("many{round}"), &made)?;
        let (took, ()) = timed(|| compose.run(&project, &["up", "--detach"]))?;
        services.add(took.as_secs_f64());
        forget(place, &way, &made)?;
    }
    if let Err(why) = &compose {
        services = services.not_run(why);
    }
    Ok(vec![nodes, containers, services])
}

fn make(place: &Place, template: &Template, name: &str, count: usize) -> Result<Vec<Made>> {
    (place.ports(u16::try_from(count)?)?..)
        .take(count)
        .map(|port| template.make(&format!("{name}-{port}"), port))
        .collect()
}

/// Looks that all run, and deletes them.
fn forget(place: &Place, way: &Proxy, made: &[Made]) -> Result<()> {
    place.by_connections(way, made, |bare, it| {
        let path = format!("/containers/{}/json", it.name);
        let inspected = serde_json::from_slice(&bare.call("GET", &path, b"")?)?;
        super::peer::is_running(&inspected)?;
        bare.remove(&it.name)
    })?;
    made.iter().try_for_each(Made::forget)
}
