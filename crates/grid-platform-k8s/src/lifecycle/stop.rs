//! Stop.

use std::sync::Arc;

use grid_platform_api::{ErrorKind, NodeId, Result, Timestamp, fault};
use grid_platform_host::{error::Context, work::detached};

use crate::{
    claims::{self, Change},
    platform::Inner,
    pods,
    registry::Entry,
    translate::{self, Goal, Notes, Record},
};

/// [`Platform::stop_node`](grid_platform_api::Platform::stop_node), or its force.
pub(crate) async fn stop(inner: &Arc<Inner>, id: &NodeId, force: bool) -> Result<()> {
    let call = async {
        let turn = inner.turns.take(id).await;
        let entry = inner.node(id).await?;
        let (stopping, id) = (Arc::clone(inner), id.clone());
        let work = async move {
            let stopped = stop_in_turn(&stopping, &id, &entry, force).await;
            drop(turn);
            stopped
        };
        detached(&inner.closing, work).await
    };
    inner.locks.interrupt(id, call).await?;
    fault::point("k8s-stop-before-answer").cannot("answer")
}

async fn stop_in_turn(inner: &Arc<Inner>, id: &NodeId, entry: &Entry, force: bool) -> Result<()> {
    let (Some(claim), Some(record)) = (&entry.claim, entry.record()) else {
        return Err(grid_platform_api::Error::not_found(id));
    };
    let goal = match &claim.notes.goal {
        // A failed node stays failed, a stopped one stopped.
        Goal::Running => match force {
            true => Goal::GivenUp,
            false => Goal::Stopped,
        },
        Goal::Stopped | Goal::GivenUp if force && entry.pod.is_some() => Goal::GivenUp,
        // Its end is confirmed by now.
        Goal::GivenUp => Goal::Stopped,
        other => other.clone(),
    };
    end(inner, record, goal, force).await
}

/// Notes what is asked of a node, ends its pod, and notes how it ended.
///
/// # Errors
/// `Unconfirmed`; the cluster's.
pub(super) async fn end(
    inner: &Arc<Inner>,
    record: &Record,
    goal: Goal,
    force: bool,
) -> Result<()> {
    let id = &record.config.node_id;
    let entry = inner.registry.get(id);
    let Some(mut claim) = entry
        .claim
        .clone()
        .filter(|it| is_of(it.record.as_ref(), record))
    else {
        return Err(grid_platform_api::Error::not_found(id));
    };
    let mut notes = claim.notes.clone();
    notes.goal = goal;
    if claim.notes != notes {
        claim = claims::change(inner, &claim, Change::Notes(&notes)).await?;
    }
    fault::point("k8s-stop-after-note").cannot("end the pod")?;
    pods::end(inner, id, record.config.stop.grace, force).await?;
    fault::point("k8s-stop-after-end").cannot("note the end")?;
    note_end(inner, record, &entry, &mut notes);
    if claim.notes != notes {
        match claims::change(inner, &claim, Change::Notes(&notes)).await {
            Ok(_) => {}
            // Its claim was deleted by hand, and is gone with the pod.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether a record is that of the same incarnation.
pub(super) fn is_of(found: Option<&Record>, record: &Record) -> bool {
    found.is_some_and(|it| it.uid == record.uid)
}

/// Notes how the run ended whose pod is gone.
fn note_end(inner: &Arc<Inner>, record: &Record, before: &Entry, notes: &mut Notes) {
    let id = &record.config.node_id;
    let entry = inner.registry.get(id);
    let last = entry.last.as_ref().or(before.own_pod());
    let Some(last) = last.filter(|it| it.node_uid.as_ref() == Some(&record.uid)) else {
        return;
    };
    let mut run = translate::run(last);
    if run.started_at.is_some() && run.finished_at.is_none() {
        // Nobody told how it ended: its host went with it, or it was given up.
        run.finished_at = Some(Timestamp::now());
    }
    notes.last_run = Some(run);
    notes.last_failure = translate::earlier(record, last).or(notes.last_failure.take());
}
