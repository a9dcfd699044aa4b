//! A list of many nodes, and what becomes of it by the cluster's events.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use grid_platform_api::{Failure, FailureReason, SpawnedNode};
use serde_json::{Value, json};

use super::bare::Bare;
use super::made::Template;
use super::news;
use super::place::Place;
use crate::Result;
use crate::bench::Bench;
use crate::program::now;
use crate::report::{Row, Unit};
use crate::stats::{Subject, timed};

const WRONG: &str = "lists around an event that are neither as before nor as behind it";

/// How long an event may take to reach the list; nothing that is measured comes near.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a list says: each node's id, and the phase it is in.
type Said = BTreeMap<String, &'static str>;

/// The annotation of a claim that says what is asked of its node.
const NOTES: &str = "sutra.grid/notes";

/// Nodes that are stopped: a claim with its record is all there is of one, and all that the adapter would have made. A cluster of one
/// host has no room for as many pods.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let place = Place::new(bench)?;
    let count = bench.sized(200, 3);
    bench.step(&format!("{count} claims"));
    let (template, _) = place.template()?;
    let mut expected = Said::new();
    for number in 0..count {
        let id = format!("listed-{number}");
        make(&place, &template, &id, number)?;
        expected.insert(id, "stopped");
    }
    let path = place.namespace.path("persistentvolumeclaims");
    place.wait("the claims have their volumes", || {
        Ok(place.view.list(&path)?.iter().all(news::is_bound))
    })?;
    place.wait("the adapter knows of them", || {
        Ok(said(&place.list()?) == expected)
    })?;

    let (_way, file) = place.way("list")?;
    let bare = Bare::connect(&place.runtime, &file, place.namespace.name())?;
    let name = format!("list_nodes of {count}");
    let peer = format!("bare: one list call, of {count} claims");
    let rows = [
        Row::time(&name).beside(&peer).at_most(0.001),
        Row::of(format!("{name}: calls of the API"), Unit::Count).at_most(0.0),
    ];
    let lists = Subject::figures(rows, || {
        let from = now();
        let nodes = place.list()?;
        let to = now();
        if said(&nodes) != expected {
            return Err(format!("a list of {count} nodes has others: {nodes:?}").into());
        }
        let calls = place.proxy.calls(from, to);
        let calls = calls.iter().filter(|it| news::is_counted(it)).count();
        Ok([(to - from).as_secs_f64(), calls as f64])
    });
    let calls = Subject::time(Row::time(&peer), || {
        let (took, found) = timed(|| bare.count_claims())?;
        match found == expected.len() {
            true => Ok(took),
            false => Err(format!("a list call has {found} claims").into()),
        }
    });
    let shown = format!("from an event of the cluster until list_nodes of {count} shows it");
    let rows = [Row::time(shown), Row::of(WRONG, Unit::Count).at_most(0.0)];
    let mut round = 0;
    let events = Subject::figures(rows, || {
        round += 1;
        let one = One {
            place: &place,
            id: format!("event-{round}"),
            expected: &expected,
        };
        let seen = one.through(&template, count + round)?;
        let slowest = seen.iter().map(|it| it.behind).max().unwrap_or_default();
        let wrong: usize = seen.iter().map(|it| it.wrong).sum();
        Ok([slowest.as_secs_f64(), wrong as f64])
    });
    bench.interleave(vec![lists, calls, events])
}

fn said(nodes: &[SpawnedNode]) -> Said {
    let said = nodes.iter();
    said.map(|it| (it.node_id.to_string(), it.state.as_str()))
        .collect()
}

/// Makes the claim of a node that is stopped.
fn make(place: &Place, template: &Template, id: &str, number: usize) -> Result<()> {
    let claim = template.stopped_node(id, u32::try_from(number)?)?;
    let path = place.namespace.path("persistentvolumeclaims");
    place.view.create(&path, &claim)?;
    Ok(())
}

/// What came of an event.
struct Seen {
    /// How long after the event the first list was there that shows it.
    behind: Duration,
    /// How many lists were wrong meanwhile.
    wrong: usize,
}

/// A node that comes, fails, and is gone again: three events.
struct One<'a> {
    place: &'a Place,
    id: String,
    /// All the others.
    expected: &'a Said,
}

impl One<'_> {
    fn through(&self, template: &Template, number: usize) -> Result<[Seen; 3]> {
        let (place, id) = (self.place, &self.id);
        let claim = format!("persistentvolumeclaims/sutra-grid-{id}");
        let claim = place.namespace.path(&claim);
        let made = self.follow(
            None,
            Some("stopped"),
            || make(place, template, id, number),
            |event| event["type"] == "ADDED",
        )?;
        place.wait("a claim has its volume", || {
            Ok(place
                .view
                .find(&claim)?
                .is_some_and(|it| news::is_bound(&it)))
        })?;
        let failure = Failure::new(FailureReason::PlatformRefused, "for a measurement");
        let notes = json!({ "goal": { "kind": "failed", "failure": failure } }).to_string();
        let change = json!({ "metadata": { "annotations": { NOTES: notes } } });
        let changed = self.follow(
            Some("stopped"),
            Some("failed"),
            || Ok(place.view.patch(&claim, &change).map(drop)?),
            |event| event["object"]["metadata"]["annotations"][NOTES] == notes.as_str(),
        )?;
        let deleted = self.follow(
            Some("failed"),
            None,
            || Ok(place.view.delete(&claim)?),
            |event| event["type"] == "DELETED",
        )?;
        Ok([made, changed, deleted])
    }

    /// The list, with this node in a phase or without it.
    fn list(&self, phase: Option<&'static str>) -> Said {
        let mut all = self.expected.clone();
        all.extend(phase.map(|it| (self.id.clone(), it)));
        all
    }

    /// Changes something, and asks for lists until one shows it. `is_it` knows the event by which the adapter hears of it.
    fn follow(
        &self,
        before: Option<&'static str>,
        after: Option<&'static str>,
        change: impl FnOnce() -> Result<()>,
        is_it: impl Fn(&Value) -> bool,
    ) -> Result<Seen> {
        let (before, after) = (self.list(before), self.list(after));
        let deadline = Instant::now() + PATIENCE;
        let late = |what: &str| -> Result<()> {
            match Instant::now() > deadline {
                true => Err(format!("`{}`: {what} does not come", self.id).into()),
                false => Ok(()),
            }
        };
        let from = now();
        change()?;
        let mut wrong = 0;
        let shown = loop {
            let found = said(&self.place.list()?);
            if found == after {
                break now();
            }
            wrong += usize::from(found != before);
            late("the list that shows an event")?;
            std::thread::yield_now();
        };
        let name = format!("sutra-grid-{}", self.id);
        let is_it = |text: &[u8]| {
            let event: Option<Value> = serde_json::from_slice(text).ok();
            event.is_some_and(|it| it["object"]["metadata"]["name"] == name.as_str() && is_it(&it))
        };
        // What the adapter hears first is noted a moment later.
        let event = loop {
            let lines = self.place.proxy.lines(from);
            if let Some(line) = lines.iter().find(|it| is_it(&it.text)) {
                break line.at;
            }
            late("the event")?;
            std::thread::yield_now();
        };
        Ok(Seen {
            behind: shown.saturating_sub(event),
            wrong,
        })
    }
}
