//! What an answer consists of.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use hyper::body::{Body, Frame};

/// The body of an answer.
pub(crate) struct Reply(Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>);

impl Reply {
    /// One that is there as a whole.
    pub(super) fn whole(text: String) -> Self {
        Self::parts(stream::iter([Ok(Bytes::from(text))]))
    }

    /// One that comes bit by bit.
    pub(super) fn parts(parts: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self(Box::pin(parts))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0
            .poll_next_unpin(context)
            .map(|it| it.map(|part| part.map(Frame::data)))
    }
}
