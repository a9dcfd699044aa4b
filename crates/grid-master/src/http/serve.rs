//! The HTTP connections: bounded in number, in the time of their heads, and in the time of their end.

use std::{convert::Infallible, sync::Arc};

use axum::Router;
use grid_listen::{Door, Held};
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::app::App;

/// The largest head of a request: paths, tokens and keys are short. Larger ones are answered with 431.
const HEAD_BYTES: usize = 16 * 1024;
/// How much of a connection's input is kept before it is taken: bounds the memory of a fast sender.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Serves until the master is asked to end, then lets requests go on for the time of its drain.
pub(crate) async fn serve(app: Arc<App>, router: Router, listener: TcpListener) {
    let limits = &app.settings.limits;
    let mut door = Door::new(
        listener,
        grid_listen::Limits {
            connections: limits.http_connections.min(grid_listen::open_files() / 4),
            // A connection without a request is one whose next head does not come.
            idle: None,
            stall: limits.stall,
        },
    );
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let connection = tokio::select! {
            connection = door.accept() => connection,
            () = app.shutdown.cancelled() => break,
        };
        let (visit, routes) = (connection.visit(), TowerToHyperService::new(router.clone()));
        let service = service_fn(move |request| {
            let busy = visit.busy();
            let answer = routes.call(request);
            async move { Ok::<_, Infallible>(answer.await?.map(|body| Held::new(body, busy))) }
        });
        let (app, cut) = (app.clone(), cut.clone());
        connections.spawn(async move {
            app.grid.metrics.connections.inc();
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(app.settings.limits.head)
                .max_header_size(HEAD_BYTES)
                .max_buf_size(READ_BUFFER_BYTES)
                .serve_connection(TokioIo::new(connection), service);
            tokio::pin!(connection);
            let serving = async {
                tokio::select! {
                    ended = &mut connection => return ended,
                    () = app.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                connection.await
            };
            let ended = tokio::select! {
                ended = serving => ended,
                () = cut.cancelled() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke off");
            }
            app.grid.metrics.connections.dec();
        });
    }
    drop(door);
    connections.close();
    if tokio::time::timeout(app.settings.drain, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "connections are cut that did not end in time"
        );
        cut.cancel();
        connections.wait().await;
    }
}
