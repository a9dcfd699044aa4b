//! One reading of one run's log.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use grid_platform_api::{NodeId, Timestamp};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    lines::{Lines, Piece},
    seek::{From, Seek},
    source::{Ask, Body, Source},
};
use crate::error::Fault;

/// How long a line may be without its end until what is there of it is handed out. Most runtimes write a line when it is whole, so that
/// this is for long ones alone, whose parts may come slowly.
const UNENDED: Duration = Duration::from_secs(3);
/// How long is listened before the log is looked at anew all the same: kubelets fall silent when a log is rotated at the wrong moment.
const LISTEN: Duration = Duration::from_secs(30);
/// How long a run's log may take to end once the container has another run, or the node another pod or none.
const GRACE: Duration = Duration::from_secs(5);

/// What becomes of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All of the log has been read.
    Whole,
    /// The place is not in this log, as it seems.
    Missed,
    /// It was given up, to be looked at anew.
    Dropped,
}

/// What comes next.
enum Step {
    Chunk(Bytes),
    /// Nothing more of the line that has begun, for a while.
    Unended,
    End(End),
}

pub(super) struct Reading {
    body: Body,
    lines: Lines,
    seek: Seek,
    follow: bool,
    heard: Instant,
    /// When it is given up.
    leave: Option<Instant>,
}

impl Reading {
    /// Begins to read.
    pub(super) async fn open<S: Source>(
        source: &S,
        id: &NodeId,
        ask: Ask,
        from: From,
    ) -> Result<Self, Fault> {
        let since = match from {
            From::First => None,
            From::Since(time) => Some(time),
            From::Behind(place) => Some(place.line.at),
        };
        let ask = Ask {
            // The API knows whole seconds.
            since: since.and_then(|it| Timestamp::from_second(it.as_second()).ok()),
            ..ask
        };
        Ok(Self {
            body: source.open(id, ask).await?,
            lines: Lines::default(),
            seek: Seek::new(from),
            follow: ask.follow,
            heard: Instant::now(),
            leave: None,
        })
    }

    /// Whether the place to begin behind was there.
    pub(super) fn is_found(&self) -> bool {
        self.seek.is_found()
    }

    /// What comes next, and whether nothing comes any more. `is_left` says whether it is the log of a run that has been followed by
    /// something else; `is_over`, that the run itself is over.
    pub(super) async fn next(
        &mut self,
        changes: &mut watch::Receiver<u64>,
        is_left: impl Fn() -> bool,
        is_over: bool,
    ) -> Result<(Vec<Piece>, Option<End>), Fault> {
        let mut pieces = Vec::new();
        let end = match self.step(changes, is_left).await? {
            Step::Chunk(chunk) => {
                let seek = &mut self.seek;
                self.lines.feed(&chunk, |it| pieces.extend(seek.pass(it)));
                (self.follow && self.seek.is_missed()).then_some(End::Missed)
            }
            Step::Unended => {
                let unended = self.lines.take_unended();
                pieces.extend(unended.and_then(|it| self.seek.pass(it)));
                None
            }
            Step::End(End::Whole) => {
                self.close(is_over, &mut pieces);
                Some(End::Whole)
            }
            Step::End(end) => Some(end),
        };
        Ok((pieces, end))
    }

    async fn step(
        &mut self,
        changes: &mut watch::Receiver<u64>,
        is_left: impl Fn() -> bool,
    ) -> Result<Step, Fault> {
        loop {
            let silent = self.heard + LISTEN;
            let unended = self.follow && self.lines.is_unended();
            let unended = unended.then(|| self.heard + UNENDED);
            let until = [self.leave, unended]
                .into_iter()
                .flatten()
                .fold(silent, Ord::min);
            tokio::select! {
                biased;
                chunk = self.body.next() => {
                    self.heard = Instant::now();
                    return match chunk {
                        Some(chunk) => Ok(Step::Chunk(chunk?)),
                        None => Ok(Step::End(End::Whole)),
                    };
                }
                changed = changes.changed(), if self.follow && self.leave.is_none() => {
                    if changed.is_err() || is_left() {
                        self.leave = Some(Instant::now() + GRACE);
                    }
                }
                () = sleep_until(until) => {
                    let now = Instant::now();
                    let is_given_up = now >= silent || self.leave.is_some_and(|it| now >= it);
                    return Ok(match is_given_up {
                        true => Step::End(End::Dropped),
                        false => Step::Unended,
                    });
                }
            }
        }
    }

    /// All has come. A run that is over ends its last line with it; that of another one is read again.
    fn close(&mut self, is_over: bool, pieces: &mut Vec<Piece>) {
        let seek = &mut self.seek;
        let lines = std::mem::take(&mut self.lines);
        let unended = lines.close(|it| pieces.extend(seek.pass(it)));
        match unended {
            Some(piece) if is_over => pieces.extend(seek.pass(Piece {
                ended: true,
                ..piece
            })),
            Some(piece) => seek.touch(&piece),
            None => {}
        }
    }
}
