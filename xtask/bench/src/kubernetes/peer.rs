//! Somebody else who has a cluster run the same pod as a node's.

use serde_json::Value;

use super::made::{Made, Shape, Template};
use super::news::{self, Spent};
use super::place::Place;
use crate::Result;
use crate::program::now;
use crate::proxy::Proxy;
use crate::report::{Row, Unit};
use crate::stats::Subject;

/// Starts and stops a pod.
pub(super) trait Peer {
    /// What is there before anything is measured.
    fn prepare(&self, _: &Made) -> Result<()> {
        Ok(())
    }

    /// Makes it, until its program runs.
    fn start(&self, made: &Made) -> Result<()>;

    /// Deletes it, until it is gone.
    fn stop(&self, made: &Made) -> Result<()>;
}

/// The rows of a peer: of a start two, of a stop two.
pub(super) fn rows(start: &str, stop: &str) -> [Row; 4] {
    [
        Row::time(start),
        Row::of(format!("{start}: calls of the API"), Unit::Count),
        Row::time(stop),
        Row::of(format!("{stop}: calls of the API"), Unit::Count),
    ]
}

/// What peers are measured with.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) place: &'a Place,
    pub(super) template: &'a Template,
    /// What a node's pod is to the cluster.
    pub(super) shape: &'a Shape,
}

/// A round starts a pod, looks that it is what the node's is, and deletes it.
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
        let id = format!("{name}-peer-{round}");
        let place = ground.place;
        let made = ground.template.make(&id, place.peers.name())?;
        peer.prepare(&made)?;
        let asked = now();
        peer.start(&made)?;
        let started = Spent::of(proxy, asked, now());
        let pod = look(place, &made)?.ok_or("a pod that was started is not there")?;
        let differences = ground.shape.differences(&Shape::of(&pod, &id)?);
        if !differences.is_empty() {
            return Err(format!("{name} makes another pod: {}", differences.join("; ")).into());
        }
        if !news::runs(&pod) {
            return Err(format!("a pod that was started does not run: {pod}").into());
        }
        let told = now();
        peer.stop(&made)?;
        let stopped = Spent::of(proxy, told, now());
        if let Some(pod) = look(place, &made)? {
            return Err(format!("a pod that was deleted is there: {pod}").into());
        }
        place.clear_peers()?;
        Ok([
            started.whole.as_secs_f64(),
            started.calls as f64,
            stopped.whole.as_secs_f64(),
            stopped.calls as f64,
        ])
    })
}

fn look(place: &Place, made: &Made) -> Result<Option<Value>> {
    let path = place.peers.path(&format!("pods/{}", made.name));
    Ok(place.view.find(&path)?)
}
