//! A connection that ends by itself when its peer does nothing.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};

use crate::{Limits, Patience, Visit, idle::Place};

/// How long what a client still sends is read and dropped after the last answer, so that it can read that answer:
/// the system throws away what was sent on a connection that is closed with bytes unread.
const LINGER: Duration = Duration::from_secs(2);
/// How much of it is read at once.
const SCRATCH: usize = 8 * 1024;

/// A client's connection. It keeps its place at the door until it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    visit: Visit,
    idle: Option<Duration>,
    /// Looks whether the connection has been idle for too long.
    look: Option<Pin<Box<Sleep>>>,
    patience: Patience,
    /// Runs while a write waits, from then on.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    lingering: Option<Pin<Box<Sleep>>>,
    /// Something came while it lingered.
    discarding: bool,
    _place: OwnedSemaphorePermit,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.visit.0.leave();
    }
}

impl Connection {
    pub(crate) fn new(
        stream: TcpStream,
        limits: Limits,
        place: Arc<Place>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            visit: Visit(place),
            idle: limits.idle,
            look: None,
            patience: Patience::new(limits.stall),
            waiting: None,
            lingering: None,
            discarding: false,
            _place: permit,
        }
    }

    /// What tells the door that this connection has a request.
    pub fn visit(&self) -> Visit {
        self.visit.clone()
    }

    /// Ready when the connection has to end, and why.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.visit.0.poll_closed(cx).is_ready() {
            return Poll::Ready(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "it had no request, and another one needed its place",
            ));
        }
        let Some(limit) = self.idle else {
            return Poll::Pending;
        };
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(limit)));
            ready!(look.as_mut().poll(cx));
            let left = match self.visit.0.idle_since() {
                // Looked at again a whole limit later: until then it cannot have been idle for that long.
                None => limit,
                Some(since) => limit.saturating_sub(since.elapsed()),
            };
            if left.is_zero() {
                return Poll::Ready(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it had no request for too long",
                ));
            }
            self.look = Some(Box::pin(sleep(left)));
        }
    }

    /// A write, for as long as the peer takes what is written.
    fn patiently(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(done) = write(Pin::new(&mut self.stream), cx) {
            let waited = match self.waiting.take() {
                Some((since, _)) => since.elapsed(),
                None => Duration::ZERO,
            };
            if let Ok(bytes) = &done {
                self.patience.progress(waited, *bytes);
            }
            return Poll::Ready(done);
        }
        let left = self.patience.left();
        let (_, waiting) = self
            .waiting
            .get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client reads nothing, or too little",
        )))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_end(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.patiently(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.patiently(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let end = this
            .lingering
            .get_or_insert_with(|| Box::pin(sleep(LINGER)));
        // First, for who sends without a pause would leave it no turn.
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; SCRATCH];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => this.discarding = true,
                // Its end, or a connection that is no more.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                // Who sends nothing has nothing that stands in the answer's way.
                Poll::Pending if !this.discarding => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
