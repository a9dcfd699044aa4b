//! The nodes' logs, as the cluster keeps them.
//!
//! The API gives the log of a pod's container by its present run, and by the one before that; older ones are gone, and so is what the
//! kubelet moved to another file when one was full. It names no place in a log: here a place is the time of a line, and which of the lines
//! of that time it is, in the log of the pod of that uid (`position.rs`). To go on behind a place, the log is read from the second of its
//! line on, and what was handed out is left out (`seek.rs`). When the line is not there, it is looked for in the run before; in neither
//! one it is gone, which is said by a gap (`follow.rs`). Nothing depends on anything that an agent remembers, so that a follower goes on
//! behind its position over restarts of the API server, the kubelet and the agent alike.
//!
//! What is not known, is not said: when the kubelet begins a new file while it is followed, lines that it had not sent yet may be missing
//! without a gap. A log ends with its pod: that is said by a gap each time, though the follower may have seen all of it.

mod follow;
mod lines;
mod position;
mod reading;
mod scan;
mod seek;
mod source;

#[cfg(test)]
mod fake;

use std::{sync::Arc, time::Duration};

use grid_platform_api::{LogCursor, LogStream, NodeId, Result};
use tokio::time::timeout;

pub(crate) use source::{Ask, Body, Source, State, open};

use source::{OfLog, no_pod};

use crate::{
    error::Fault,
    translate::{ContainerState, PodView, is_failed_exec},
};

/// How long a look at the last entry may take.
const LOOK: Duration = Duration::from_secs(5);

/// [`Platform::get_logs`](grid_platform_api::Platform::get_logs).
pub(crate) async fn tail<S: Source + ?Sized>(
    source: &S,
    id: &NodeId,
    lines: usize,
) -> Result<Vec<String>> {
    let pod = source.state(id)?.pod.ok_or_else(|| no_pod(id))?;
    if lines == 0 || !has_begun(&pod) {
        return Ok(Vec::new());
    }
    read_tail(source, id, has_former(&pod), lines)
        .await
        .map_err(|fault| fault.of_log(id))
}

/// The last lines of a node's pod, for its failure; none where they cannot be read. When the present run has written nothing, those of the
/// one before it.
pub(crate) async fn last_lines<S: Source + ?Sized>(
    source: &S,
    id: &NodeId,
    lines: usize,
) -> Vec<String> {
    for previous in [false, true] {
        match scan::last(source, id, previous, lines).await {
            Ok(Some(scan)) if !scan.lines.is_empty() => {
                return scan.lines.iter().map(text).collect();
            }
            Ok(_) => {}
            Err(fault) => {
                tracing::debug!(node = %id, %fault, "the last lines cannot be read");
                break;
            }
        }
    }
    Vec::new()
}

/// Whether the log of the present run ends with its runtime's words that the program could not be executed. `false` where it cannot be
/// read in time.
pub(crate) async fn tells_of_failed_exec<S: Source + ?Sized>(source: &S, id: &NodeId) -> bool {
    match timeout(LOOK, scan::last_entry(source, id)).await {
        Ok(Ok(entry)) => entry.is_some_and(|it| is_failed_exec(&String::from_utf8_lossy(&it))),
        Ok(Err(fault)) => {
            tracing::debug!(node = %id, %fault, "the last entry cannot be read");
            false
        }
        Err(_) => false,
    }
}

/// [`Platform::follow_logs`](grid_platform_api::Platform::follow_logs).
pub(crate) async fn follow<S: Source>(
    source: Arc<S>,
    id: &NodeId,
    cursor: LogCursor,
) -> Result<LogStream> {
    follow::stream(source, id, cursor).await
}

async fn read_tail<S: Source + ?Sized>(
    source: &S,
    id: &NodeId,
    has_former: bool,
    lines: usize,
) -> Result<Vec<String>, Fault> {
    let now = scan::last(source, id, false, lines).await?;
    let (now, is_all) = now.map_or((Vec::new(), true), |it| (it.lines.into(), it.is_all));
    let mut tail = Vec::new();
    if is_all && has_former {
        let rest = lines - now.len();
        let former = scan::last(source, id, true, rest).await?;
        let former = former.map(|it| it.lines).unwrap_or_default();
        // What the API takes for the run before may be the same one.
        let is_former =
            |it: &&scan::Kept| now.first().is_none_or(|first| it.line.at < first.line.at);
        tail.extend(former.iter().filter(is_former).map(text));
    }
    tail.extend(now.iter().map(text));
    Ok(tail)
}

fn text(kept: &scan::Kept) -> String {
    String::from_utf8_lossy(&kept.bytes).into_owned()
}

/// Whether the container has run at all.
fn has_begun(pod: &PodView) -> bool {
    is_present(&pod.container.state) || pod.container.last.is_some()
}

/// Whether there is a log of a run before the one that the API takes for the present one. While the container waits to be started again
/// that is the one that ended last.
fn has_former(pod: &PodView) -> bool {
    is_present(&pod.container.state) && pod.container.last.is_some()
}

fn is_running(pod: &PodView) -> bool {
    matches!(pod.container.state, ContainerState::Running { .. })
}

fn is_present(state: &ContainerState) -> bool {
    matches!(
        state,
        ContainerState::Running { .. } | ContainerState::Ended(_)
    )
}
