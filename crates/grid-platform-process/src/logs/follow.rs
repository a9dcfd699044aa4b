//! A log as a stream that goes on.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use futures::stream;
use grid_platform_api::{LogItem, LogLine, LogSource, LogStream, NodeUid, Result};
use grid_platform_host::work::blocking;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    file::{CHUNK, LogFile, Read},
    lines::{Piece, Splitter},
    position,
};
use crate::{error::Context, node::Situation, translate::Shim};

/// How soon a log that grows is looked at again; the wait doubles while it does not.
const SOON: Duration = Duration::from_millis(5);
/// How late at most.
const LATE: Duration = Duration::from_millis(200);
/// How long a line may be without its end until what is there of it is handed out.
const UNENDED: Duration = Duration::from_millis(500);

struct Follower {
    log: Arc<LogFile>,
    uid: NodeUid,
    news: watch::Receiver<Situation>,
    /// What was read up to.
    offset: u64,
    /// What was handed out up to.
    given: u64,
    splitter: Splitter,
    ready: VecDeque<LogItem>,
    pause: Duration,
    grown: Instant,
    /// Reading begins with the oldest: what is gone by then is not a gap in what was asked for.
    fresh: bool,
    over: bool,
}

pub(super) fn stream(
    log: LogFile,
    uid: NodeUid,
    news: watch::Receiver<Situation>,
    from: u64,
    from_start: bool,
) -> LogStream {
    let follower = Follower {
        log: Arc::new(log),
        uid,
        news,
        offset: from,
        given: from,
        splitter: Splitter::default(),
        ready: VecDeque::new(),
        pause: SOON,
        grown: Instant::now(),
        fresh: from_start,
        over: false,
    };
    Box::pin(stream::unfold(follower, |mut follower| async move {
        match follower.next().await {
            Ok(Some(item)) => Some((Ok(item), follower)),
            Ok(None) => None,
            Err(error) => {
                follower.over = true;
                Some((Err(error), follower))
            }
        }
    }))
}

/// What was read of the file.
enum Step {
    Bytes(Vec<u8>),
    /// What was asked for is gone; lines begin again here.
    Gone(u64),
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
            // Looked at before the read: what was written before the end is read after it.
            let removed = self.news.borrow_and_update().removed;
            match self.step().await.cannot("read the log")? {
                Step::Bytes(bytes) if bytes.is_empty() => {
                    if removed {
                        self.give_rest();
                        self.over = true;
                    } else {
                        self.wait().await;
                    }
                }
                Step::Bytes(bytes) => self.take(&bytes),
                Step::Gone(to) => self.skip(to),
            }
        }
    }

    async fn step(&self) -> io::Result<Step> {
        let (log, offset) = (Arc::clone(&self.log), self.offset);
        let read = blocking(move || {
            let mut buffer = vec![0; CHUNK];
            let step = log.read(offset, &mut buffer).and_then(|it| match it {
                Read::Bytes(read) => {
                    buffer.truncate(read);
                    Ok(Step::Bytes(buffer))
                }
                Read::Gone(marks) if marks.low == 0 => Ok(Step::Gone(0)),
                Read::Gone(marks) => log.line_start(marks.low).map(Step::Gone),
            });
            Ok(step)
        });
        read.await.map_err(|e| io::Error::other(e.to_string()))?
    }

    fn take(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        (self.pause, self.grown, self.fresh) = (SOON, Instant::now(), false);
        let (ready, given, uid) = (&mut self.ready, &mut self.given, &self.uid);
        self.splitter.feed(bytes, LogLine::MAX_BYTES, |piece| {
            ready.push_back(item(uid, given, piece));
        });
    }

    /// Hands out what is there of a line that has no end.
    fn give_rest(&mut self) {
        if let Some(piece) = self.splitter.rest() {
            self.ready
                .push_back(item(&self.uid, &mut self.given, piece));
        }
    }

    fn skip(&mut self, to: u64) {
        self.splitter = Splitter::default();
        let from = self.given;
        (self.offset, self.given) = (to, to);
        if self.fresh && from == 0 {
            self.fresh = false;
        } else if to > from {
            self.ready.push_back(LogItem::Gap {
                from: position(&self.uid, from),
                to: position(&self.uid, to),
                reason: "the log was longer than its budget".to_owned(),
            });
        }
    }

    /// Waits for more.
    async fn wait(&mut self) {
        let at_rest = self.news.borrow().shim == Shim::Gone;
        if !self.splitter.is_empty() && (at_rest || self.grown.elapsed() >= UNENDED) {
            self.give_rest();
            return;
        }
        let removed = self.news.wait_for(|it| it.removed);
        if let Ok(Err(_)) = timeout(self.pause, removed).await {
            // The platform is closed: nobody can tell when the node is removed.
            self.over = true;
        }
        self.pause = (self.pause * 2).min(LATE);
    }
}

fn item(uid: &NodeUid, given: &mut u64, piece: Piece) -> LogItem {
    *given += piece.len;
    LogItem::Line(LogLine {
        position: position(uid, *given),
        at: None,
        source: LogSource::Combined,
        bytes: piece.bytes,
        partial: piece.partial,
    })
}
