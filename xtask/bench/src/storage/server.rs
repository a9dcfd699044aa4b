//! The storage server as a process of its own, so that its memory is its own.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::time::{Duration, Instant};

use grid_storage::StorageConfig;
use tokio::sync::oneshot;

use crate::Result;
use crate::http::Connection;
use crate::proc::{Guarded, Used, used};

/// What the process of the server is started with.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its data directory.
    #[arg(long)]
    data: PathBuf,
}

/// The process: tells its address, and serves until its input ends.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let config = StorageConfig::new(&args.data, ([127, 0, 0, 1], 0).into());
    let server = grid_storage::Server::bind(config)?;
    println!("{}", server.local_addr());
    std::io::stdout().flush()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = runtime.spawn(server.run(async { stopped.await.unwrap_or_default() }));
    for line in std::io::stdin().lock().lines() {
        line?;
    }
    let _ = stop.send(());
    Ok(runtime.block_on(serving)??)
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Guarded,
    input: ChildStdin,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts one in a new data directory; it can be used when this returns.
    pub(crate) fn start(data: &Path) -> Result<Self> {
        let (child, input, mut output) =
            Guarded::own(|it| it.args(["storage-server", "--data"]).arg(data))?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        let address = line.trim().parse()?;
        // The address answers before the store is open.
        let mut connection = Connection::open(address)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = connection.request("GET", "/readyz", b"") {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Self {
            child,
            input,
            address,
        })
    }

    pub(crate) fn used(&self) -> Result<Used> {
        used(self.child.pid())
    }

    /// Ends it: only a server that drained and ended well was the one that was measured.
    pub(crate) fn end(self) -> Result<()> {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        let status = child.get()?.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(format!("the storage server ended with {status}").into())
    }
}
