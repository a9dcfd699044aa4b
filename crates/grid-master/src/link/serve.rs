//! The agents' connections: bounded in number, in what each may hold, and in the time that one may say nothing of use.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, stream};
use grid_listen::{Connection, Door, Limits, Visit};
use grid_proto::v1::agent_link_server::AgentLinkServer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
};
use tonic::transport::server::Connected;

use super::{Link, logs::MAX_PER_AGENT};
use crate::app::App;

/// Bytes that an agent may send on one call before the master has read them.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Calls that a connection may have at once: a session and every log that an agent may push, for agents that send all by
/// one connection.
const STREAMS: u32 = MAX_PER_AGENT as u32 + 16;
/// Bytes that an agent may send on all its calls: every log that it may push can be left unread, and the session still
/// has room.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS;
/// The largest head of a call, in bytes: a path and a token are short.
const HEAD_BYTES: u32 = 16 * 1024;
/// Calls that a client may have begun and taken back before the master has looked at them, and calls that were ended for a
/// client's fault and are remembered: beyond these the connection is closed. Floods of resets cost no more.
const RESETS: usize = 32;
/// The largest message of an agent, in bytes: the report of some ten thousand nodes.
const MAX_MESSAGE: usize = 64 << 20;

/// Serves agents until the master is asked to end.
pub(crate) async fn serve(
    app: Arc<App>,
    listener: TcpListener,
) -> Result<(), tonic::transport::Error> {
    let shutdown = app.shutdown.clone();
    let limits = &app.settings.limits;
    let door = Door::new(
        listener,
        Limits {
            connections: limits.grpc_connections.min(grid_listen::open_files() / 2),
            idle: Some(limits.head),
            stall: limits.stall,
        },
    );
    let alive = Some(app.settings.lost_after);
    let service = AgentLinkServer::new(Link { app: app.clone() })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEAD_BYTES)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .http2_max_local_error_reset_streams(Some(RESETS))
        .http2_keepalive_interval(alive)
        .http2_keepalive_timeout(alive)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(door), async move { shutdown.cancelled().await })
        .await
}

fn incoming(door: Door) -> impl Stream<Item = Result<AgentConnection, Infallible>> {
    stream::unfold(door, |mut door| async {
        let connection = AgentConnection(door.accept().await);
        Some((Ok(connection), door))
    })
}

/// A connection whose calls can tell the door that an agent has it.
struct AgentConnection(Connection);

impl Connected for AgentConnection {
    type ConnectInfo = Visit;

    fn connect_info(&self) -> Visit {
        self.0.visit()
    }
}

impl AsyncRead for AgentConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for AgentConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
