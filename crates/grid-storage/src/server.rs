//! The server: listens, opens the store, serves, drains.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use grid_listen::{Connection, Door, Held};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Limits, StorageConfig};
use crate::dir::DataDir;
use crate::error::{Error, ErrorKind};
use crate::http::{App, Token};
use crate::metrics::Metrics;
use crate::store::Store;

/// How much of a connection's input hyper keeps: bounds the memory of a fast sender.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// The largest head of a request: room for the longest key, percent-encoded, and for any
/// sensible headers. Larger ones are answered with 431.
const HEAD_BYTES: usize = 16 * 1024;

/// A storage server that holds its address and its data directory, and serves once it runs.
///
/// ```no_run
/// # async fn example() -> Result<(), grid_storage::Error> {
/// use grid_storage::{Server, StorageConfig};
/// let config = StorageConfig::new("/var/lib/objects", ([127, 0, 0, 1], 7070).into());
/// let server = Server::bind(config)?;
/// println!("http://{}", server.local_addr());
/// server.run(async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    dir: DataDir,
    limits: Limits,
    app: App,
}

impl Server {
    /// Checks the token, claims the data directory and binds the address, in this order. The
    /// kernel takes connections from here on; they are answered by [`Server::run`].
    ///
    /// # Errors
    /// [`ErrorKind::Token`], [`ErrorKind::ForeignData`], [`ErrorKind::UnsupportedFormat`],
    /// [`ErrorKind::Locked`], [`ErrorKind::Listen`] or [`ErrorKind::Io`].
    pub fn bind(config: StorageConfig) -> Result<Self, Error> {
        let token = Token::load(&config)?;
        let dir = DataDir::claim(&config.data_path)?;
        let listen_error = |source| {
            Error::new(
                ErrorKind::Listen,
                format!("cannot listen on `{}`", config.listen),
                "Choose another address with `--listen`, or port 0 for any free one.",
            )
            .with_source(source)
        };
        let listener = std::net::TcpListener::bind(config.listen).map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let app = App {
            limits: config.limits,
            metrics: Arc::new(Metrics::new()),
            token,
            store: OnceLock::new(),
            draining: AtomicBool::new(false),
        };
        Ok(Self {
            listener,
            address,
            dir,
            limits: config.limits,
            app,
        })
    }

    /// The address it listens on, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Opens the store and serves until `shutdown` completes, then drains: `/readyz` answers
    /// 503, no new work is taken, and requests in flight have
    /// [`Limits::drain_timeout`](crate::Limits::drain_timeout) to finish.
    ///
    /// Needs tokio's multi-threaded runtime with its I/O and time drivers.
    ///
    /// # Errors
    /// [`ErrorKind::DamagedData`] or [`ErrorKind::Io`] when the store cannot be opened;
    /// [`ErrorKind::Listen`] when the runtime refuses the socket. A drain that ran out of time
    /// is logged, and is no error: what was acknowledged is durable.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self {
            listener,
            address,
            dir,
            limits,
            app,
        } = self;
        tracing::info!(%address, data_path = %dir.path().display(), "storage server starting");
        let listener = TcpListener::from_std(listener).map_err(|source| {
            Error::new(
                ErrorKind::Listen,
                format!("cannot serve on `{address}`"),
                "Run within tokio's runtime.",
            )
            .with_source(source)
        })?;
        let app = Arc::new(app);
        let mut door = Door::new(listener, door_limits(&limits));
        let mut opening = open_store(dir, limits, Arc::clone(&app.metrics))?;
        let connections = Connections::new(&app);
        // However this ends, no connection outlives it.
        let _abort = connections.abort.clone().drop_guard();
        let mut shutdown = std::pin::pin!(shutdown);
        let mut opened = false;
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                store = &mut opening, if !opened => {
                    opened = true;
                    let store = store.unwrap_or_else(|_| Err(Error::unavailable("opening the store panicked")))?;
                    if app.store.set(Arc::new(store)).is_ok() {
                        tracing::info!(%address, "storage server ready");
                    }
                }
                connection = door.accept() => connections.serve(connection),
            }
        }
        app.draining.store(true, Ordering::Release);
        tracing::info!("storage server draining");
        connections.drain(door, limits.drain_timeout).await;
        drop(opening);
        // Closing joins the store's threads and lets the index finish.
        let close = tokio::task::spawn_blocking(move || drop(app));
        if close.await.is_err() {
            tracing::error!("closing the store panicked");
        }
        tracing::info!("storage server stopped");
        Ok(())
    }
}

/// Opens the store on a thread of its own: after a crash this can take long, and neither the
/// probes nor the end of the process shall wait for it.
fn open_store(
    dir: DataDir,
    limits: Limits,
    metrics: Arc<Metrics>,
) -> Result<oneshot::Receiver<Result<Store, Error>>, Error> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("storage-open".to_owned())
        .spawn(move || {
            // If nobody waits any more, the store is closed again here.
            let _ = sender.send(Store::open_in(dir, limits, metrics));
        })
        .map_err(|source| Error::io("start the thread that opens the store", source))?;
    Ok(receiver)
}

/// The connections of one server.
struct Connections {
    app: Arc<App>,
    /// Those from before the drain, which it waits for.
    served: TaskTracker,
    /// Those that came during the drain, for the probes.
    late: TaskTracker,
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Connections {
    fn new(app: &Arc<App>) -> Self {
        Self {
            app: Arc::clone(app),
            served: TaskTracker::new(),
            late: TaskTracker::new(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    fn serve(&self, connection: Connection) {
        let late = self.drain.is_cancelled();
        let app = Arc::clone(&self.app);
        let (drain, abort) = (self.drain.clone(), self.abort.clone());
        let visit = connection.visit();
        let task = async move {
            let _open = OpenConnection::new(&app.metrics);
            let limits = app.limits;
            let service = service_fn(move |request| {
                let busy = visit.busy();
                let answer = Arc::clone(&app).handle(request);
                async move { Ok::<_, Infallible>(answer.await?.map(|body| Held::new(body, busy))) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.stall_timeout)
                .max_header_size(HEAD_BYTES)
                .max_buf_size(READ_BUFFER_BYTES)
                .keep_alive(!late)
                .serve_connection(TokioIo::new(connection), service);
            let mut connection = std::pin::pin!(connection);
            let mut finishing = late;
            loop {
                tokio::select! {
                    ended = connection.as_mut() => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "a connection ended early");
                        }
                        return;
                    }
                    () = drain.cancelled(), if !finishing => {
                        finishing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = abort.cancelled() => return,
                }
            }
        };
        if late {
            self.late.spawn(task)
        } else {
            self.served.spawn(task)
        };
    }

    /// Lets what is in flight finish within `bound`; probes are answered meanwhile.
    async fn drain(self, mut door: Door, bound: Duration) {
        self.drain.cancel();
        self.served.close();
        let finished = async {
            tokio::select! {
                () = self.served.wait() => {}
                () = async { loop { self.serve(door.accept().await) } } => {}
            }
        };
        if tokio::time::timeout(bound, finished).await.is_err() {
            tracing::warn!(
                unfinished = self.served.len(),
                "requests were cut off after the drain's time"
            );
        }
        self.abort.cancel();
        self.served.wait().await;
        self.late.close();
        self.late.wait().await;
    }
}

/// Counts a connection while it is open.
struct OpenConnection(Arc<Metrics>);

impl OpenConnection {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connection_opened();
        Self(Arc::clone(metrics))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

/// At most half of the open files that the process may have are connections: each may also need
/// a content file.
fn door_limits(limits: &Limits) -> grid_listen::Limits {
    grid_listen::Limits {
        connections: limits.max_connections.min(grid_listen::open_files() / 2),
        // A connection without a request is one whose next head does not come.
        idle: None,
        stall: limits.stall_timeout,
    }
}
