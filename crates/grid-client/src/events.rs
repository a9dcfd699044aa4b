//! What happens, as it happens.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use grid_platform_api::ErrorKind;

use crate::{Client, Error, Event, Result, sse::Parser};

type Body = Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>;

/// More than this without the end of an event is no master's stream.
const MAX_PENDING_BYTES: usize = 1024 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Events of the grid, from [`Client::events`]. A lost connection is resumed behind the last event seen.
pub struct EventStream {
    client: Client,
    body: Option<Body>,
    parser: Parser,
    ready: std::collections::VecDeque<Event>,
    after: Option<u64>,
    pause: Duration,
    /// A connection was lost and has not come back yet.
    lost: bool,
}

impl EventStream {
    pub(crate) fn new(client: Client, after: Option<u64>, body: Body) -> Self {
        Self {
            client,
            body: Some(body),
            parser: Parser::default(),
            ready: std::collections::VecDeque::new(),
            after,
            pause: FIRST_PAUSE,
            lost: false,
        }
    }

    /// The next event.
    ///
    /// # Errors
    /// [`Class::Unreachable`](crate::Class::Unreachable), once, when the connection is lost: the next call goes on,
    /// and waits until the master is back. Any other error is the end: the master refuses the caller.
    ///
    /// # Cancellation
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = Some(event.id);
                return Ok(event);
            }
            let Some(body) = &mut self.body else {
                self.reconnect().await?;
                continue;
            };
            match body.next().await {
                Some(Ok(bytes)) => self.take(&bytes)?,
                end => {
                    self.body = None;
                    self.parser = Parser::default();
                    if !self.lost {
                        self.lost = true;
                        return Err(match end {
                            Some(Err(error)) => Error::transport(self.client.url(), error),
                            _ => Error::new(
                                ErrorKind::Unavailable,
                                format!(
                                    "the master at `{}` ended the stream of events",
                                    self.client.url()
                                ),
                            ),
                        });
                    }
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        for frame in self.parser.push(bytes) {
            let event: Event = serde_json::from_str(&frame.data).map_err(|error| {
                Error::new(
                    ErrorKind::Internal,
                    "the master sent an event that cannot be read",
                )
                .with_source(&error)
            })?;
            self.lost = false;
            self.pause = FIRST_PAUSE;
            self.ready.push_back(event);
        }
        if self.parser.pending() > MAX_PENDING_BYTES {
            return Err(Error::new(
                ErrorKind::Internal,
                "the master sent an event without end",
            ));
        }
        Ok(())
    }

    async fn reconnect(&mut self) -> Result<()> {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        match self.client.open_events(self.after).await {
            Ok(body) => {
                self.body = Some(body);
                Ok(())
            }
            Err(error) if error.is_retryable() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
