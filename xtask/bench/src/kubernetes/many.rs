//! Many nodes from nothing.

use futures::stream::{self, StreamExt, TryStreamExt};
use grid_platform_api::{DataPolicy, NodeId, Platform};

use super::bare::Bare;
use super::kubectl::{self, Kubectl};
use super::made::{Made, Template};
use super::news;
use super::place::Place;
use crate::Result;
use crate::bench::Bench;
use crate::cleared::CONCURRENT;
use crate::report::Row;
use crate::stats::timed;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let place = Place::new(bench)?;
    let count = bench.sized(50, 3);
    let (template, _) = place.template()?;
    let (_bare_way, file) = place.way("bare")?;
    let bare = Bare::connect(&place.runtime, &file, place.peers.name())?;
    let (_kubectl_way, file) = place.way("kubectl")?;
    let kubectl = bench.program(kubectl::NAME);
    let kubectl = kubectl.map(|it| Kubectl::new(it, &file, place.peers.name(), place.dir()));
    let own = format!("{count} nodes spawned, {CONCURRENT} at once");
    let alone =
        format!("bare: {count} pods with claim and service until they run, {CONCURRENT} at once");
    let by_file = format!(
        "kubectl create of {count} pods with claim and service by one file, and kubectl wait"
    );
    let mut nodes = Row::time(&own).beside(&alone);
    let mut pods = Row::time(&alone);
    let mut files = Row::time(&by_file).beside(&own);
    let rounds = bench.sized(3, 1);
    for round in 0..rounds {
        bench.step(&format!("{count} at once, {} of {rounds}", round + 1));
        let ids: Result<Vec<_>> = (0..count)
            .map(|it| Ok(NodeId::new(format!("many-{round}-{it}"))?))
            .collect();
        let ids = ids?;
        nodes.add(spawn(&place, &ids)?);

        let made = make(&place, &template, &format!("bare-{round}"), count)?;
        let all = stream::iter(&made).map(async |it| bare.begin(it).await);
        let all = all.buffer_unordered(CONCURRENT).try_collect::<Vec<()>>();
        let (took, _) = timed(|| place.runtime.block_on(all))?;
        pods.add(took.as_secs_f64());
        all_run(&place, count)?;
        place.clear_peers()?;

        let Ok(kubectl) = &kubectl else { continue };
        let made = make(&place, &template, &format!("file-{round}"), count)?;
        let (took, ()) = timed(|| kubectl.create(&made))?;
        files.add(took.as_secs_f64());
        all_run(&place, count)?;
        place.clear_peers()?;
    }
    if let Err(why) = &kubectl {
        files = files.not_run(why);
    }
    Ok(vec![nodes, pods, files])
}

/// Spawns them, and removes them. Gives how many seconds they took to run.
fn spawn(place: &Place, ids: &[NodeId]) -> Result<f64> {
    let (took, ()) = timed(|| {
        place.at_once(ids, async |id| {
            place.platform.spawn_node(place.request(id)?).await?;
            Ok(())
        })
    })?;
    ids.iter().try_for_each(|it| place.runs(it).map(drop))?;
    place.at_once(ids, async |id| {
        Ok(place.platform.remove_node(id, DataPolicy::Purge).await?)
    })?;
    Ok(took.as_secs_f64())
}

fn make(place: &Place, template: &Template, name: &str, count: usize) -> Result<Vec<Made>> {
    (0..count)
        .map(|it| template.make(&format!("{name}-{it}"), place.peers.name()))
        .collect()
}

/// An error unless so many pods of peers run.
fn all_run(place: &Place, count: usize) -> Result<()> {
    let pods = place.view.list(&place.peers.path("pods"))?;
    let running = pods.iter().filter(|it| news::runs(it)).count();
    match running == count {
        true => Ok(()),
        false => Err(format!("of {count} pods {running} run").into()),
    }
}
