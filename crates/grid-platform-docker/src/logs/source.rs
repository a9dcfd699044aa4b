//! The engine's log of a container, as a stream of its entries.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use bollard::{container::LogOutput, query_parameters::LogsOptions};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use grid_platform_api::Timestamp;

use super::{
    frames::{Entry, entries},
    reader::RECENT,
};
use crate::{
    engine::{CALL, Engine},
    error::Fault,
};

/// How often a log is asked for over which the engine stumbles, and how long is waited behind the first time.
const TRIES: u32 = 6;
const STUMBLE: Duration = Duration::from_millis(20);

/// How much of a log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    /// All that there is.
    All,
    /// So many entries, the last ones.
    Last(u64),
}

impl Window {
    /// More than this is as much as everything.
    const MOST: u64 = 1 << 20;

    /// Room for so many entries.
    pub(super) fn of(entries: u64) -> Self {
        if entries > Self::MOST {
            Self::All
        } else {
            Self::Last(entries)
        }
    }

    /// The next one to try, when `read` entries of this one were not enough; `None` when there are no more.
    pub(super) fn wider(self, read: u64) -> Option<Self> {
        match self {
            Self::All => None,
            Self::Last(asked) if read < asked => Some(Self::All),
            Self::Last(asked) => Some(Self::of(asked.saturating_mul(8))),
        }
    }
}

/// A container's log, and how its engine gives it.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) engine: Engine,
    pub(super) container: String,
    /// The engine keeps pieces of lines (Podman's `k8s-file`). Asked for the last ones it mixes them up, and its times are
    /// whole seconds.
    pub(super) pieced: bool,
}

impl Log {
    /// Room for so many of the last entries.
    pub(super) fn window(&self, entries: u64) -> Window {
        match self.pieced {
            true => Window::All,
            false => Window::of(entries),
        }
    }

    /// The time that the engine tells of what was written at this one.
    pub(super) fn told(&self, at: Timestamp) -> Timestamp {
        match self.pieced {
            true => Timestamp::from_second(at.as_second()).unwrap_or(at),
            false => at,
        }
    }

    /// What there is now, to its end.
    pub(super) fn read(&self, window: Window) -> Source {
        Source::new(self, window, Some(CALL))
    }

    /// The entries that were seen last, and those that are written from now on, until the container stops. Engines lose some of
    /// these when the log is rotated, or say no more at all (Docker 20.10 and 23 do), so that it tells that there is more, not what.
    pub(super) fn listen(&self) -> Source {
        Source::new(self, self.window(RECENT as u64), None)
    }

    /// Asks the engine for it: for what there is, or for what is written from now on too.
    ///
    /// Podman refuses a log when it comes upon a line that is being written or taken away at that moment, and is asked again. A log in
    /// which such a line stays is one that it cannot read.
    fn ask(
        &self,
        window: Window,
        follow: bool,
    ) -> impl Stream<Item = Result<LogOutput, Fault>> + Send + use<> {
        let log = self.clone();
        let options = LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            timestamps: true,
            tail: match window {
                Window::All => "all".to_owned(),
                Window::Last(entries) => entries.to_string(),
            },
            ..LogsOptions::default()
        };
        let answer = async move {
            let mut tries = 1;
            loop {
                let asked = log
                    .engine
                    .docker
                    .logs(&log.container, Some(options.clone()));
                let mut answer = Box::pin(asked.map_err(Fault::from));
                let first = answer.next().await;
                match &first {
                    Some(Err(fault)) if is_torn(fault) && tries < TRIES => {
                        tokio::time::sleep(STUMBLE * 2_u32.pow(tries - 1)).await;
                        tries += 1;
                    }
                    _ => break stream::iter(first).chain(answer),
                }
            }
        };
        stream::once(answer).flatten()
    }
}

/// A log as it comes from the engine.
pub(super) struct Source {
    pieced: bool,
    stream: Pin<Box<dyn Stream<Item = Result<LogOutput, Fault>> + Send>>,
    ready: VecDeque<Entry>,
    /// How long nothing may come before the engine counts as silent.
    limit: Option<Duration>,
}

impl Source {
    fn new(log: &Log, window: Window, limit: Option<Duration>) -> Self {
        Self {
            pieced: log.pieced,
            stream: Box::pin(log.ask(window, limit.is_none())),
            ready: VecDeque::new(),
            limit,
        }
    }

    /// The next entry.
    pub(super) async fn next(&mut self) -> Result<Option<Entry>, Fault> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            let next = self.stream.next();
            let output = match self.limit {
                None => next.await,
                Some(limit) => tokio::time::timeout(limit, next)
                    .await
                    .map_err(|_| Fault::Silent(limit))?,
            };
            let Some(output) = output.transpose()? else {
                return Ok(None);
            };
            let ready = &mut self.ready;
            entries(output, self.pieced, |it| ready.push_back(it))?;
        }
    }
}

/// Whether the engine came upon a part of a line where it looked for a line. It says so instead of an answer.
fn is_torn(fault: &Fault) -> bool {
    matches!(fault, Fault::Refused { status: 500, message } if message.contains("is not a valid container log line"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::{Does, Fake};

    const VERSION: Does = Does::Speaks("1.41");
    const EMPTY: Does = Does::Answers("200 OK", "");
    const FULL: Does = Does::Answers("500 Internal Server Error", r#"{"message":"no space"}"#);
    const TORN: Does = Does::Answers(
        "500 Internal Server Error",
        r#"{"message":"unable to read log file c for ctr.log : '2' is not a valid container log line"}"#,
    );

    #[tokio::test]
    async fn a_log_with_a_torn_line_is_asked_for_again_and_not_for_ever() {
        let check = async |plan: &'static [Does], asked: usize, succeeds: bool| {
            let fake = Fake::start(plan);
            let log = Log {
                engine: fake.engine().await,
                container: "c".to_owned(),
                pieced: true,
            };
            let read = log.read(Window::All).next().await;
            assert_eq!(read.is_ok(), succeeds, "{read:?}");
            // The first question is for the engine's version.
            assert_eq!(fake.asked().len(), 1 + asked, "{:?}", fake.asked());
        };
        check(&[VERSION, TORN, TORN, EMPTY], 3, true).await;
        check(&[VERSION, TORN], TRIES as usize, false).await;
        check(&[VERSION, FULL], 1, false).await;
    }

    #[tokio::test]
    async fn a_log_is_asked_for_again_whoever_gives_up_waiting_for_it() {
        let fake = Fake::start(&[VERSION, TORN, TORN, EMPTY]);
        let log = Log {
            engine: fake.engine().await,
            container: "c".to_owned(),
            pieced: true,
        };
        let mut source = log.listen();
        let brief = Duration::from_millis(1);
        let heard = loop {
            if let Ok(heard) = tokio::time::timeout(brief, source.next()).await {
                break heard;
            }
        };
        assert!(matches!(heard, Ok(None)), "{heard:?}");
        assert_eq!(fake.asked().len(), 4, "{:?}", fake.asked());
    }

    #[test]
    fn windows_widen_to_everything() {
        let mut window = Window::of(100);
        let mut seen = Vec::new();
        while let Some(wider) = window.wider(u64::MAX) {
            seen.push(wider);
            window = wider;
        }
        let last = [800, 6400, 51_200, 409_600].map(Window::Last);
        assert_eq!(seen, [&last[..], &[Window::All]].concat());
        // There were no more than were asked for.
        assert_eq!(Window::Last(100).wider(99), Some(Window::All));
        assert_eq!(Window::of(u64::MAX), Window::All);
    }
}
