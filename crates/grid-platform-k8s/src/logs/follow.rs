//! A log as a stream that goes on.

use std::{sync::Arc, time::Duration};

use futures::stream;
use grid_platform_api::{
    ErrorKind, LogCursor, LogItem, LogLine, LogPosition, LogSource, LogStream, NodeId, NodeUid,
    Result,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use super::{
    has_begun, has_former, is_running,
    lines::Piece,
    no_pod,
    position::Place,
    reading::{End, Reading},
    scan,
    seek::From,
    source::{Ask, OfLog, Source},
};
use crate::{error::Fault, translate::PodView};

/// The waits after a trouble: from, to.
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(5);
/// How often in a row the API may refuse it until that is believed.
const STRIKES: u32 = 8;

struct Follower<S> {
    source: Arc<S>,
    id: NodeId,
    uid: NodeUid,
    changes: watch::Receiver<u64>,
    /// The uid of the pod that the log is of.
    pod: String,
    next: Next,
    /// In which run, by the restarts before it, the place is known to be, or behind all of the one before it.
    settled: Option<u32>,
    /// The last position that is known.
    last: Option<LogPosition>,
    /// Lines behind it are gone for this reason, which is to be said before the next line.
    gap: Option<&'static str>,
    out: mpsc::Sender<Result<LogItem>>,
    pause: Duration,
    strikes: u32,
}

/// Where the reading goes on.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// With the oldest line that there is, from this on.
    Oldest(From),
    /// Behind this place.
    Behind(Place),
}

/// The run whose log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// The one before the present one.
    Former,
    /// The present one, as it is now.
    Present,
    /// The present one, and what it goes on to write.
    Followed,
}

/// What is to be done behind a step.
enum Then {
    /// The next one.
    GoOn,
    /// To wait until something changes, or a while is over.
    Pause,
    /// To wait until something changes.
    Rest,
}

pub(super) async fn stream<S: Source>(
    source: Arc<S>,
    id: &NodeId,
    cursor: LogCursor,
) -> Result<LogStream> {
    let changes = source.changes();
    let state = source.state(id)?;
    let after = match &cursor {
        LogCursor::After(position) => Some(Place::read(position, &state.uid)?),
        _ => None,
    };
    let pod = state.pod.ok_or_else(|| no_pod(id))?;
    let (out, items) = mpsc::channel(1);
    let mut follower = Follower {
        source,
        id: id.clone(),
        uid: state.uid,
        changes,
        pod: pod.uid.clone(),
        next: Next::Oldest(From::First),
        settled: None,
        last: None,
        gap: None,
        out,
        pause: SOON,
        strikes: 0,
    };
    if let Some((of, place)) = after {
        follower.last = Some(place.position(&follower.uid, &of));
        (follower.pod, follower.next) = (of, Next::Behind(place));
    }
    if has_begun(&pod) {
        let begun = follower.begin(&pod, &cursor).await;
        begun.map_err(|fault| fault.of_log(id))?;
    }
    if let LogCursor::Since(time) = cursor {
        follower.next = Next::Oldest(From::Since(time));
    }
    Ok(driven(follower, items))
}

/// The items. What brings them is driven by who asks for them, and ends when the stream is dropped.
fn driven<S: Source>(
    mut follower: Follower<S>,
    items: mpsc::Receiver<Result<LogItem>>,
) -> LogStream {
    let source = Arc::clone(&follower.source);
    let driver = Box::pin(async move {
        let done = tokio::select! {
            done = follower.run() => done,
            () = source.closed() => Ok(()),
        };
        if let Err(error) = done {
            // Who does not listen any more does not want to know.
            let _ = follower.out.send(Err(error)).await;
        }
    });
    let state = (Some(driver), items);
    Box::pin(stream::unfold(state, |(mut driver, mut items)| async {
        while let Some(drive) = &mut driver {
            tokio::select! {
                biased;
                Some(item) = items.recv() => return Some((item, (driver, items))),
                () = drive => driver = None,
            }
        }
        // Its sender is gone with it; what it sent last may be there still.
        let item = items.recv().await?;
        Some((item, (driver, items)))
    }))
}

impl<S: Source> Follower<S> {
    /// Whether the log can be read at all is said at once, and where its end is now.
    async fn begin(&mut self, pod: &PodView, cursor: &LogCursor) -> Result<(), Fault> {
        let lines = match cursor {
            LogCursor::End => 0,
            LogCursor::Tail(lines) => *lines,
            LogCursor::Start | LogCursor::Since(_) | LogCursor::After(_) => {
                let ask = Ask {
                    tail: Some(1),
                    ..Ask::default()
                };
                return match self.source.open(&self.id, ask).await {
                    Err(fault) if !fault.is_absent() => Err(fault),
                    _ => Ok(()),
                };
            }
        };
        if let Some(place) = self.place_before(pod, lines).await? {
            self.next = Next::Behind(place);
            self.last = Some(place.position(&self.uid, &self.pod));
        }
        Ok(())
    }

    /// The place before the last lines, and behind the last one for none of them; `None` when there are no more than these.
    async fn place_before(&self, pod: &PodView, lines: usize) -> Result<Option<Place>, Fault> {
        let mut rest = lines.max(1);
        for previous in [false, true] {
            if previous && !has_former(pod) {
                break;
            }
            let scan = scan::last(self.source.as_ref(), &self.id, previous, rest).await?;
            let Some(scan) = scan else {
                continue;
            };
            if lines == 0 {
                if let Some(last) = scan.lines.back() {
                    return Ok(Some(Place {
                        line: last.line,
                        offset: (!last.ended).then_some(last.length),
                    }));
                }
            } else if !scan.is_all {
                return Ok(scan.lines.front().map(|it| Place::before(it.line)));
            }
            rest -= scan.lines.len();
        }
        Ok(None)
    }

    async fn run(&mut self) -> Result<()> {
        loop {
            // What changes from here on is news.
            self.changes.mark_unchanged();
            let (pod, then) = match self.source.state(&self.id) {
                // It is removed, whether or not there is another one of its name.
                Ok(state) if state.uid != self.uid => return Ok(()),
                Ok(state) => match state.pod {
                    Some(pod) if has_begun(&pod) => {
                        let done = self.step(&pod).await;
                        let then = match done {
                            Ok(then) => then,
                            Err(fault) => self.bear(fault)?,
                        };
                        (Some(pod), then)
                    }
                    pod => (pod, Then::Rest),
                },
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) if error.is_retryable() => (None, Then::Pause),
                Err(error) => return Err(error),
            };
            let limit = match then {
                Then::GoOn => continue,
                Then::Rest => None,
                Then::Pause => Some(self.pause),
            };
            if limit.is_some() {
                self.pause = (self.pause * 2).min(LATE);
            }
            if !self.rest(pod.as_deref(), limit).await {
                return Ok(());
            }
        }
    }

    /// Waits until the node has another pod than this, or the pod another run, or as long as that; `false` when nothing will change.
    async fn rest(&mut self, pod: Option<&PodView>, limit: Option<Duration>) -> bool {
        let until = limit.map(|it| Instant::now() + it);
        while !is_news(self.source.as_ref(), &self.id, &self.uid, pod) {
            let changed = self.changes.changed();
            let changed = match until {
                Some(until) => timeout_at(until, changed).await,
                None => Ok(changed.await),
            };
            match changed {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return false,
                Err(_) => return true,
            }
        }
        true
    }

    /// Goes on with a trouble that passes; ends with what will not pass.
    fn bear(&mut self, fault: Fault) -> Result<Then> {
        tracing::debug!(node = %self.id, %fault, "the log cannot be read now");
        if fault.is_passing() {
            self.strikes = 0;
        } else {
            self.strikes += 1;
        }
        match self.strikes {
            STRIKES.. => Err(fault.of_log(&self.id)),
            _ => Ok(Then::Pause),
        }
    }

    /// Reads what is next of a pod's log.
    async fn step(&mut self, pod: &PodView) -> Result<Then, Fault> {
        if pod.uid != self.pod {
            if self.last.is_some() {
                self.gap = Some("the pod was replaced, and its log went with it");
            }
            self.pod.clone_from(&pod.uid);
            (self.next, self.settled) = (Next::Oldest(From::First), None);
        }
        match self.next {
            Next::Oldest(from) => {
                if has_former(pod) {
                    match self.read(pod, Run::Former, from).await {
                        Ok((End::Whole, _)) => {}
                        Ok((end, _)) => return Ok(then(end, pod)),
                        Err(fault) if fault.is_absent() => {}
                        Err(fault) => return Err(fault),
                    }
                    if matches!(self.next, Next::Behind(_)) {
                        return Ok(Then::GoOn);
                    }
                }
                let from = match self.gap {
                    // All of the present run is behind what is gone, whatever the host's clock says.
                    Some(_) => From::First,
                    None => from,
                };
                let (end, _) = self.read(pod, Run::Followed, from).await?;
                Ok(then(end, pod))
            }
            // The run before may have more, however long the present one is silent.
            Next::Behind(place)
                if has_former(pod) && self.settled != Some(pod.container.restarts) =>
            {
                self.search(pod, place).await
            }
            Next::Behind(place) => {
                let from = From::Behind(place);
                match self.read(pod, Run::Followed, from).await? {
                    (End::Missed, _) => self.search(pod, place).await,
                    (End::Whole, false) if !is_running(pod) => self.search(pod, place).await,
                    (end, _) => Ok(then(end, pod)),
                }
            }
        }
    }

    /// The place may not be in the present run: goes on behind it in that one, or in the one before, or says that it is gone.
    async fn search(&mut self, pod: &PodView, place: Place) -> Result<Then, Fault> {
        let from = From::Behind(place);
        // A later line tells nothing for sure, as the host's clock may have been put back. The log's end does.
        match self.read(pod, Run::Present, from).await? {
            (End::Whole, false) => {}
            (End::Whole, true) => {
                let known = self.settled.replace(pod.container.restarts);
                return Ok(match known == self.settled {
                    true => Then::Pause,
                    false => Then::GoOn,
                });
            }
            (end, _) => return Ok(then(end, pod)),
        }
        let found = match self.read(pod, Run::Former, from).await {
            Ok((End::Whole, found)) => found,
            Ok((end, _)) => return Ok(then(end, pod)),
            Err(fault) if fault.is_absent() => false,
            Err(fault) => return Err(fault),
        };
        self.settled = Some(pod.container.restarts);
        if found {
            let (end, _) = self.read(pod, Run::Followed, From::First).await?;
            return Ok(then(end, pod));
        }
        self.gap = Some(
            "the cluster does not keep them: the log was rotated, its container was collected, or the program was started again more than once",
        );
        let at = place.line.at;
        let behind = at.checked_add(Duration::from_nanos(1)).unwrap_or(at);
        self.next = Next::Oldest(From::Since(behind));
        Ok(Then::GoOn)
    }

    /// Reads a run's log, and hands out what is behind the place. Says whether the place was there.
    async fn read(&mut self, pod: &PodView, run: Run, from: From) -> Result<(End, bool), Fault> {
        let ask = Ask {
            previous: run == Run::Former,
            follow: run == Run::Followed,
            ..Ask::default()
        };
        let is_over = run == Run::Former || !is_running(pod);
        let source = Arc::clone(&self.source);
        let mut reading = Reading::open(source.as_ref(), &self.id, ask, from).await?;
        // The API knows pods by their names.
        let now = source.state(&self.id).ok().and_then(|it| it.pod);
        if now.is_none_or(|it| it.uid != pod.uid) {
            return Ok((End::Dropped, false));
        }
        loop {
            let (id, uid) = (&self.id, &self.uid);
            let is_left = || is_news(source.as_ref(), id, uid, Some(pod));
            let (pieces, end) = reading.next(&mut self.changes, is_left, is_over).await?;
            for piece in pieces {
                self.give(piece).await;
            }
            if let Some(end) = end {
                return Ok((end, reading.is_found()));
            }
        }
    }

    async fn give(&mut self, piece: Piece) {
        (self.pause, self.strikes) = (SOON, 0);
        if let Some((reason, from)) = self.gap.take().zip(self.last.take()) {
            let to = Place {
                line: piece.line,
                offset: Some(piece.offset),
            };
            self.send(LogItem::Gap {
                from,
                to: to.position(&self.uid, &self.pod),
                reason: reason.to_owned(),
            })
            .await;
        }
        let place = Place {
            line: piece.line,
            offset: (!piece.ended).then_some(piece.end()),
        };
        let position = place.position(&self.uid, &self.pod);
        self.next = Next::Behind(place);
        self.last = Some(position.clone());
        self.send(LogItem::Line(LogLine {
            position,
            at: Some(piece.line.at),
            // The API mixes both.
            source: LogSource::Combined,
            bytes: piece.bytes,
            partial: !piece.ended,
        }))
        .await;
    }

    async fn send(&self, item: LogItem) {
        // Who does not listen any more drops what drives this.
        let _ = self.out.send(Ok(item)).await;
    }
}

/// What is to be done behind a reading.
fn then(end: End, pod: &PodView) -> Then {
    match end {
        End::Dropped => Then::GoOn,
        // It was over before its log was read, so that this was all of it.
        End::Whole if !is_running(pod) => Then::Rest,
        End::Whole | End::Missed => Then::Pause,
    }
}

/// Whether the node is not any more as it was when this was its pod.
fn is_news<S: Source>(source: &S, id: &NodeId, uid: &NodeUid, pod: Option<&PodView>) -> bool {
    match source.state(id) {
        Ok(state) if state.uid != *uid => true,
        Ok(state) => match (state.pod.as_deref(), pod) {
            (None, None) => false,
            (Some(now), Some(then)) => {
                let run = |it: &PodView| (it.container.restarts, is_running(it), has_begun(it));
                now.uid != then.uid
                    || run(now) != run(then)
                    || now.container.id != then.container.id
                    || now.container.last != then.container.last
            }
            _ => true,
        },
        // What is not in step tells nothing.
        Err(error) => !error.is_retryable(),
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
