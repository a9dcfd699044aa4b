//! A master from its start to its end.

use std::{future::Future, net::SocketAddr, sync::Arc};

use grid_platform_api::{Error, ErrorKind, Result, Timestamp};
use grid_proto::seal::SealKey;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{App, Since},
    events::Events,
    grid::Grid,
    http,
    link::{self, LogHub},
    metrics::Metrics,
    settings::Settings,
    state::StateDir,
    store::{Contents, Opened},
};

/// A master that has its state directory and its addresses, and does not serve yet.
pub struct Master {
    /// Where people reach it.
    pub http_addr: SocketAddr,
    /// Where agents reach it.
    pub grpc_addr: SocketAddr,
    app: Arc<App>,
    http: TcpListener,
    grpc: TcpListener,
    state: StateDir,
}

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Master")
            .field("http_addr", &self.http_addr)
            .field("grpc_addr", &self.grpc_addr)
            .finish_non_exhaustive()
    }
}

impl Master {
    /// Takes the state directory and the addresses, and reads the store. The first start in a directory makes the
    /// store, its key and the first tokens. Blocks on the disk for as long as the store is large.
    ///
    /// # Errors
    /// `NotAllowed` for an address beyond loopback, `PortInUse`, `StateLocked`, `Corrupt` for a store that is damaged
    /// or is not a master's, and others of the file system.
    pub async fn bind(settings: Settings) -> Result<Self> {
        settings.check()?;
        let state = StateDir::take(&settings.state_dir)?;
        let seal = SealKey::load_or_create(&state.file("seal.key"))?;
        let store = state.file("store.redb");
        state.refuse_emptied(&store)?;
        let mut opened = Opened::open(&store, || state.birth())?;
        if settings.new_epoch {
            let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
            let epoch = opened.begin_epoch(now)?;
            tracing::warn!(epoch, "a new epoch is begun");
        }
        let (http, http_addr) = listen("http", settings.http).await?;
        let (grpc, grpc_addr) = listen("grpc", settings.grpc).await?;
        let Contents { book, seen } = std::mem::take(&mut opened.contents);
        let since = Since::start(book.requests.values().map(|row| row.at).max());
        let events = Events::new(book.event_ids + 1, settings.events_kept);
        let grid = Arc::new(Grid::new(book.clone(), seen, events, Metrics::new()));
        let store = opened.start(book, grid.clone())?;
        let app = Arc::new(App {
            settings,
            store,
            grid,
            seal: Arc::new(seal),
            logs: Arc::new(LogHub::default()),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            since,
            openapi: http::openapi(),
        });
        state.publish(http_addr, grpc_addr)?;
        Ok(Self {
            http_addr,
            grpc_addr,
            app,
            http,
            grpc,
            state,
        })
    }

    /// Serves until `shutdown`, then lets requests end within the drain's time and closes the store.
    ///
    /// # Errors
    /// When agents cannot be served any more.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Self {
            http_addr,
            grpc_addr,
            app,
            http,
            grpc,
            state,
        } = self;
        app.begin().await;
        tracing::info!(%http_addr, %grpc_addr, tokens = %state.file("tokens").display(), "the master serves");
        let people = tokio::spawn(http::serve(app.clone(), http::router(app.clone()), http));
        let mut agents = tokio::spawn(link::serve(app.clone(), grpc));
        let failed = tokio::select! {
            () = shutdown => None,
            ended = &mut agents => Some(ended),
        };
        tracing::info!("the master is ending");
        app.shutdown.cancel();
        let result = match failed {
            Some(Ok(Err(error))) => Err(Error::new(
                ErrorKind::Unavailable,
                "agents cannot be served any more",
            )
            .with_source(error)),
            Some(_) => Ok(()),
            None => {
                if tokio::time::timeout(app.settings.drain, &mut agents)
                    .await
                    .is_err()
                {
                    agents.abort();
                }
                Ok(())
            }
        };
        // It keeps to the drain's time by itself.
        let _ = people.await;
        app.tasks.close();
        if tokio::time::timeout(app.settings.drain, app.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("work in the background did not end in time");
        }
        let store = app.clone();
        // Joins the writing thread, which makes durable what is queued.
        let _ = tokio::task::spawn_blocking(move || store.store.close()).await;
        state.unpublish();
        result
    }
}

async fn listen(key: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let fault = |error: std::io::Error| {
        let (kind, hint) = match error.kind() {
            std::io::ErrorKind::AddrInUse => (
                ErrorKind::PortInUse,
                format!(
                    "End the program that has it (`ss -ltnp` shows it), or set `{key}` to another address; port 0 takes a free one."
                ),
            ),
            std::io::ErrorKind::PermissionDenied => (
                ErrorKind::PermissionDenied,
                format!("Set `{key}` to a port above 1023."),
            ),
            _ => (
                ErrorKind::Unavailable,
                format!("Set `{key}` to an address of this host."),
            ),
        };
        Error::new(kind, format!("cannot listen on `{address}` (`{key}`)"))
            .with_source(error)
            .with_hint(hint)
    };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    let actual = listener.local_addr().map_err(fault)?;
    Ok((listener, actual))
}
