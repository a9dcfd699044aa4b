//! The HTTP connections: bounded in number, in the time of their heads, and in the time of their end.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::app::App;

/// Connections that may be open at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 8192;
/// How long a request's head may take, also the first of an idle connection.
const HEAD: Duration = Duration::from_secs(30);

/// Serves until the master is asked to end, then lets requests go on for the time of its drain.
pub(crate) async fn serve(app: Arc<App>, router: Router, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = app.shutdown.cancelled() => break,
        };
        let Some((stream, slot)) = accepted else {
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let (app, cut) = (app.clone(), cut.clone());
        connections.spawn(async move {
            app.grid.metrics.connections.inc();
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
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
            drop(slot);
        });
    }
    drop(listener);
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

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, Slot)> {
    // The semaphore is never closed.
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small and awaited: better sent at once than gathered.
            let _ = stream.set_nodelay(true);
            Some((stream, slot))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection cannot be accepted");
            // Out of descriptors, most likely: taking a breath keeps this loop from spinning.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}
