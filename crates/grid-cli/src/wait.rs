//! Waiting for nodes, woken by the master's events.

use std::time::Duration;

use grid_client::{Class, Client, Node, NodeFilter};
use grid_platform_api::{ErrorKind, NodeId};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::{
    error::{Error, Exit, Result},
    output,
    progress::{Goal, Progress, judge},
};

/// The lists are read again after this even when no event came, in case one was lost on the way.
const RESYNC: Duration = Duration::from_secs(2);

/// How often a master that does not answer is called again.
const LOOK: Duration = Duration::from_millis(50);

/// A line on the terminal that says what is waited for; nothing where nobody watches.
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    pub(crate) fn new(message: &str) -> Self {
        if !output::is_watched() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner().with_message(message.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    pub(crate) fn say(&self, message: String) {
        self.0.set_message(message);
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Waits until every node of `targets` is where it shall be; gives those that still exist.
///
/// # Errors
/// The first node that will not get there by itself; or [`Exit::Timeout`], saying what was still missing.
pub(crate) async fn wait(
    client: &Client,
    targets: &[(NodeId, Goal)],
    limit: Limit,
) -> Result<Vec<Node>> {
    let spinner = Spinner::new("waiting for nodes");
    // Subscribed before the lists are read, so that no change falls between the two.
    let subscribe = async || client.events(None).await.map_err(Error::from);
    let mut events = limit.reach(subscribe).await?;
    loop {
        let missing = match client.nodes(&NodeFilter::default()).await {
            Ok(nodes) => match survey(targets, &nodes)? {
                missing if missing.is_empty() => return Ok(chosen(targets, nodes)),
                missing => missing.join("; "),
            },
            Err(error) if error.class() == Class::Unreachable => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        spinner.say(missing.clone());
        let wake = (Instant::now() + RESYNC).min(limit.end);
        tokio::select! {
            event = events.next() => match event {
                Ok(_) => {}
                Err(error) if error.class() == Class::Unreachable => {}
                Err(error) => return Err(error.into()),
            },
            () = tokio::time::sleep_until(wake) => {}
        }
        if limit.is_over() {
            return Err(limit.late(&missing));
        }
    }
}

/// What is missing, a text per node that is not there yet. A node that will not get there is told when the others have.
fn survey(targets: &[(NodeId, Goal)], nodes: &[Node]) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let mut failed = None;
    for (id, goal) in targets {
        let node = nodes.iter().find(|node| node.id == *id);
        match judge(*goal, id, node) {
            Progress::Done => {}
            Progress::Waiting(why) => missing.push(format!("`{id}`: {why}")),
            Progress::Failed(report) => {
                failed.get_or_insert(report);
            }
        }
    }
    match failed {
        Some(report) if missing.is_empty() => Err((*report).into()),
        _ => Ok(missing),
    }
}

fn chosen(targets: &[(NodeId, Goal)], nodes: Vec<Node>) -> Vec<Node> {
    nodes
        .into_iter()
        .filter(|node| targets.iter().any(|(id, _)| node.id == *id))
        .collect()
}

/// How long something may take, all in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    whole: Duration,
    end: Instant,
}

impl Limit {
    /// This long from now on.
    pub(crate) fn from_now(whole: Duration) -> Self {
        let end = Instant::now() + whole;
        Self { whole, end }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// The failure of a wait that took too long.
    pub(crate) fn late(&self, missing: &str) -> Error {
        Error::new(
            ErrorKind::Timeout,
            format!(
                "not done after {}: {missing}",
                humantime::format_duration(self.whole)
            ),
        )
        .with_exit(Exit::Timeout)
        .with_hint(
            "It goes on by itself; `grid nodes` shows how far it is, and `--timeout` waits longer.",
        )
    }

    /// What is done in time; else `missing` is told.
    pub(crate) async fn within<T>(
        &self,
        missing: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::time::timeout_at(self.end, work)
            .await
            .unwrap_or_else(|_| Err(self.late(missing)))
    }

    /// Calls a master that may just be starting again, until it answers.
    pub(crate) async fn reach<T>(&self, call: impl AsyncFn() -> Result<T>) -> Result<T> {
        loop {
            match call().await {
                Err(error) if error.exit == Exit::Unreachable && !self.is_over() => {
                    tokio::time::sleep(LOOK).await;
                }
                answer => return answer,
            }
        }
    }
}
