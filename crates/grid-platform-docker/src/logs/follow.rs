//! A log as a stream that goes on.

use std::{collections::VecDeque, time::Duration};

use futures::stream;
use grid_platform_api::{LogCursor, LogItem, LogLine, LogStream, NodeId, NodeUid, Result};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    cursor::Place,
    is_unreadable,
    reader::{Origin, Piece, Reader, Seen},
    source::{Log, Source, Window},
    unread,
    walk::mark,
};
use crate::{
    error::Fault,
    nodes::{Node, Situation},
    translate::Phase,
};

/// How many entries are read first to find the place behind which it goes on.
const NEAR: u64 = 128;
/// How many at most because many came before.
const FAR: u64 = 8192;
/// The least time from the end of one reading to the next: a program that writes all the time is read in larger parts.
const BREATH: Duration = Duration::from_millis(20);
/// How long a line may be without its end until what is there of it is handed out.
const UNENDED: Duration = Duration::from_millis(500);
/// How long is listened before the log is looked at all the same: engines fall silent when a log is rotated at the wrong moment.
const LISTEN: Duration = Duration::from_secs(20);
/// The waits after a trouble: from, to.
const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(2);
/// How often the engine may say that it cannot read a log until that is believed.
const STRIKES: u32 = 8;

struct Follower {
    log: Log,
    id: NodeId,
    uid: NodeUid,
    news: watch::Receiver<Situation>,
    /// Where the next reading goes on.
    from: Origin,
    /// Lines behind this place are gone, which is to be said before the next line.
    gap: Option<Place>,
    window: Window,
    reading: Option<Reading>,
    ready: VecDeque<LogItem>,
    /// What there was when it was last read.
    seen: Seen,
    /// The line that waits for its end, and since when.
    unended: Option<(Place, Instant)>,
    /// It has waited long enough.
    overdue: bool,
    /// The end of the last reading.
    read_at: Option<Instant>,
    pause: Duration,
    strikes: u32,
    over: bool,
}

struct Reading {
    source: Source,
    reader: Reader,
    pieces: u64,
}

pub(super) async fn stream(log: Log, node: &Node, cursor: LogCursor) -> Result<LogStream> {
    let news = node.subscribe();
    let unread = |fault| unread(fault, &node.id);
    let before = async |lines| {
        let found = before_last(&log, lines).await;
        found.map_err(unread)
    };
    let (from, seen) = match cursor {
        LogCursor::Start => (Origin::Beginning, None),
        LogCursor::Since(time) => (Origin::Since(log.told(time)), None),
        LogCursor::After(position) => {
            let place = Place::read(&position, &node.uid)?;
            (Origin::Behind(place), None)
        }
        LogCursor::End => {
            let (from, seen) = before(0).await?;
            (from, Some(seen))
        }
        LogCursor::Tail(lines) => (before(lines).await?.0, None),
    };
    if seen.is_none() {
        // Whether the log can be read at all is said at once.
        let mut source = log.read(Window::Last(1));
        source.next().await.map_err(unread)?;
    }
    let mut follower = Follower {
        log,
        id: node.id.clone(),
        uid: node.uid.clone(),
        news,
        from,
        gap: None,
        window: Window::All,
        reading: None,
        ready: VecDeque::new(),
        seen: Seen::default(),
        unended: None,
        overdue: false,
        read_at: None,
        pause: SOON,
        strikes: 0,
        over: false,
    };
    follower.reset_window();
    match seen {
        // All that there is has been read; what is next is to wait for more.
        Some(seen) => follower.seen = seen,
        None => follower.open(),
    }
    Ok(Box::pin(stream::unfold(follower, |mut follower| async {
        match follower.next().await {
            Ok(Some(item)) => Some((Ok(item), follower)),
            Ok(None) => None,
            Err(error) => {
                follower.over = true;
                Some((Err(error), follower))
            }
        }
    })))
}

/// The place before the last lines, and what there is.
async fn before_last(log: &Log, lines: usize) -> Result<(Origin, Seen), Fault> {
    let keep = lines.saturating_add(1);
    let wanted = u64::try_from(keep).unwrap_or(u64::MAX);
    let mut window = log.window(wanted.saturating_add(NEAR));
    loop {
        let whole = window == Window::All;
        let mut reader = Reader::new(Origin::Nowhere, whole, keep);
        let mut source = log.read(window);
        while let Some(entry) = source.next().await? {
            reader.feed(&entry, |_| {});
        }
        let begun = reader.begun();
        let told = begun.len() == keep && begun.iter().all(|it| it.known);
        let from = match begun.front().filter(|it| told && it.sure) {
            Some(line) => Origin::Behind(Place::behind(line.key)),
            None => match window.wider(reader.entries()) {
                Some(wider) => {
                    window = wider;
                    continue;
                }
                // There are no more than these.
                None => Origin::Beginning,
            },
        };
        return Ok((from, reader.seen().clone()));
    }
}

impl Follower {
    async fn next(&mut self) -> Result<Option<LogItem>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            if self.over {
                return Ok(None);
            }
            let done = match &mut self.reading {
                Some(reading) => match reading.source.next().await {
                    Ok(Some(entry)) => {
                        let mut pieces = Vec::new();
                        reading.reader.feed(&entry, |it| pieces.push(it));
                        reading.pieces += pieces.len() as u64;
                        pieces.into_iter().for_each(|it| self.give(it));
                        continue;
                    }
                    Ok(None) => {
                        self.end_reading();
                        Ok(())
                    }
                    Err(fault) => {
                        self.reading = None;
                        Err(fault)
                    }
                },
                None => self.listen().await,
            };
            match done {
                Ok(()) => {}
                Err(fault) => self.bear(fault).await?,
            }
        }
    }

    fn give(&mut self, piece: Piece) {
        if let Some(gap) = self.gap.take() {
            self.ready.push_back(LogItem::Gap {
                from: gap.position(&self.uid),
                to: Place::before(piece.place.line).position(&self.uid),
                reason: "the log was longer than its budget".to_owned(),
            });
        }
        self.from = Origin::Behind(piece.place);
        self.ready.push_back(LogItem::Line(LogLine {
            position: piece.place.position(&self.uid),
            at: Some(piece.at),
            source: piece.source,
            bytes: piece.bytes,
            partial: piece.partial,
        }));
    }

    /// Begins to read.
    fn open(&mut self) {
        let whole = self.window == Window::All;
        self.reading = Some(Reading {
            source: self.log.read(self.window),
            reader: Reader::new(self.from, whole, 0),
            pieces: 0,
        });
    }

    fn reset_window(&mut self) {
        self.window = match self.from {
            Origin::Behind(_) | Origin::NearlyBehind(_) => self.log.window(NEAR),
            Origin::Beginning | Origin::Since(_) | Origin::Nowhere => Window::All,
        };
    }

    /// All that there was has been read: the place was found, is looked for further back, or is gone.
    fn end_reading(&mut self) {
        let Some(mut reading) = self.reading.take() else {
            return;
        };
        (self.pause, self.strikes, self.read_at) = (SOON, 0, Some(Instant::now()));
        let reader = &mut reading.reader;
        let lost = match self.from {
            Origin::Behind(place) if !reader.is_found() => Some(place),
            Origin::NearlyBehind(place) if !reader.is_found() => Some(place),
            _ => None,
        };
        if let Some(place) = lost {
            if let Some(wider) = self.window.wider(reader.entries()) {
                self.window = wider;
            } else if reader.entries() == 0 {
                // Nothing is retained: there is nothing yet that a gap could lead to.
                self.seen = Seen::default();
                return;
            } else if matches!(self.from, Origin::Behind(_)) && reader.is_near() {
                self.from = Origin::NearlyBehind(place);
            } else {
                (self.from, self.gap) = (Origin::Beginning, Some(place));
            }
            self.open();
            return;
        }
        self.seen.clone_from(reader.seen());
        let writes = is_written(&self.news.borrow());
        match reader.unended() {
            Some(_) if self.overdue || !writes => {
                let mut piece = None;
                reader.give_unended(|it| piece = Some(it));
                piece.into_iter().for_each(|it| self.give(it));
                self.unended = None;
            }
            Some(place) => match &self.unended {
                Some((waits, _)) if *waits == place => {}
                _ => self.unended = Some((place, Instant::now())),
            },
            None => self.unended = None,
        }
        self.overdue = false;
        self.reset_window();
        if let Window::Last(near) = &mut self.window {
            *near = reading.pieces.saturating_mul(2).clamp(NEAR, FAR);
        }
    }

    /// Waits until there is more to read.
    async fn listen(&mut self) -> Result<(), Fault> {
        let writes = {
            let situation = self.news.borrow_and_update();
            if situation.removed {
                self.over = true;
                return Ok(());
            }
            is_written(&situation)
        };
        let mut source = self.log.listen();
        let mut heard = 0;
        // The engine ends what is listened to when nobody writes.
        let mut ended = false;
        let mut wake = Instant::now() + LISTEN;
        let unended = self.unended.as_ref().map(|(_, since)| *since + UNENDED);
        wake = unended.map_or(wake, |it| it.min(wake));
        loop {
            tokio::select! {
                biased;
                news = self.news.changed() => {
                    if news.is_err() || self.news.borrow_and_update().removed {
                        // It is removed, or the platform is closed and nobody can tell when it is.
                        self.over = true;
                        return Ok(());
                    }
                    if ended {
                        return Ok(());
                    }
                }
                entry = source.next(), if !ended => match entry? {
                    Some(entry) => {
                        if !self.seen.has(self.log.pieced, heard, mark(&entry)) {
                            break;
                        }
                        heard += 1;
                    }
                    None => {
                        ended = true;
                        if writes {
                            // What is known of the container is behind, or the engine goes down.
                            wake = wake.min(Instant::now() + self.pause);
                            self.pause = (self.pause * 2).min(LATE);
                        }
                    }
                },
                () = sleep_until(wake), if writes || !ended || unended.is_some() => {
                    if unended.is_none_or(|it| it > wake) {
                        return Ok(());
                    }
                    self.overdue = true;
                    break;
                }
            }
        }
        drop(source);
        if let Some(at) = self.read_at {
            sleep_until(at + BREATH).await;
        }
        self.open();
        Ok(())
    }

    /// Waits out what is wrong with the engine; ends with what will not pass.
    async fn bear(&mut self, fault: Fault) -> Result<()> {
        self.reset_window();
        match &fault {
            Fault::Refused { status: 404, .. } => {
                self.over = true;
                return Ok(());
            }
            fault if is_unreadable(fault) => self.strikes = STRIKES,
            // On its way down or up again; or the container is being removed.
            Fault::Away(_)
            | Fault::Broken(_)
            | Fault::Silent(_)
            | Fault::Refused { status: 409, .. } => {}
            Fault::Refused { .. } | Fault::Strange(_) => self.strikes += 1,
        }
        if self.strikes >= STRIKES {
            return Err(unread(fault, &self.id));
        }
        let until = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LATE);
        tokio::select! {
            () = sleep_until(until) => {}
            news = self.news.wait_for(|it| it.removed) => {
                // Removed, or the platform is closed.
                drop(news);
                self.over = true;
            }
        }
        if !self.over {
            self.open();
        }
        Ok(())
    }
}

/// Whether somebody may write to the log.
fn is_written(situation: &Situation) -> bool {
    matches!(
        situation.observed.phase,
        Phase::Running | Phase::Paused | Phase::Restarting
    )
}
