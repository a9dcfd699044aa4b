//! What an agent hangs on, by way of proxies that can cut it and hold it up: the link to its master, and an engine's socket.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

/// What the proxy does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes it on.
    Pass,
    /// Ends every connection, and takes none.
    Cut,
    /// Passes nothing on, and says nothing of it.
    Stall,
}

/// A proxy.
pub(crate) struct Proxy {
    mode: watch::Sender<Mode>,
    line: Arc<Line>,
}

/// What all links of a proxy count.
#[derive(Default)]
struct Line {
    links: AtomicUsize,
    passed_bytes: AtomicU64,
}

impl Proxy {
    /// Listens on a port of the system's choice, and passes everything on to `to`. With its address.
    pub(crate) async fn start(to: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let proxy = Self::new();
        let (mode, line) = (proxy.mode.subscribe(), Arc::clone(&proxy.line));
        tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else {
                    out_of_descriptors().await;
                    continue;
                };
                let dial = async move {
                    let far = TcpStream::connect(to).await?;
                    far.set_nodelay(true)?;
                    Ok(far)
                };
                // Nothing hangs on it.
                let _ = near.set_nodelay(true);
                link(near, dial, mode.clone(), Arc::clone(&line));
            }
        });
        Ok((proxy, address))
    }

    /// Listens on a socket of the file system, and passes everything on to the one at `to`.
    pub(crate) fn start_unix(at: &Path, to: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(at)?;
        let proxy = Self::new();
        let (mode, line) = (proxy.mode.subscribe(), Arc::clone(&proxy.line));
        tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else {
                    out_of_descriptors().await;
                    continue;
                };
                let to = to.clone();
                let dial = async move { UnixStream::connect(to).await };
                link(near, dial, mode.clone(), Arc::clone(&line));
            }
        });
        Ok(proxy)
    }

    fn new() -> Self {
        Self {
            mode: watch::channel(Mode::Pass).0,
            line: Arc::default(),
        }
    }

    /// Changes what it does for so long. Whether there was a link that could feel it, and nothing was done to it already.
    pub(crate) fn disturb(self: &Arc<Self>, mode: Mode, lasts: Duration) -> bool {
        let struck = self.set(mode);
        if struck {
            let proxy = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(lasts).await;
                proxy.set(Mode::Pass);
            });
        }
        struck
    }

    /// Changes what it does; `false` when there is no link that could feel it, or it does something already.
    pub(crate) fn set(&self, mode: Mode) -> bool {
        let felt = self.line.links.load(Ordering::SeqCst) > 0 && *self.mode.borrow() == Mode::Pass;
        if mode == Mode::Pass || felt {
            self.mode.send_replace(mode);
        }
        felt
    }
}

/// The system is out of descriptors for a moment: who dials will dial again.
async fn out_of_descriptors() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Passes on what the two say to each other, unless links are cut.
fn link<N, F>(
    near: N,
    dial: impl Future<Output = io::Result<F>> + Send + 'static,
    mode: watch::Receiver<Mode>,
    line: Arc<Line>,
) where
    N: AsyncRead + AsyncWrite + Send + 'static,
    F: AsyncRead + AsyncWrite + Send + 'static,
{
    if *mode.borrow() == Mode::Cut {
        return;
    }
    tokio::spawn(async move {
        // Who is away refuses by the end of the link.
        let Ok(far) = dial.await else { return };
        let ((near_in, near_out), (far_in, far_out)) = (split(near), split(far));
        line.links.fetch_add(1, Ordering::SeqCst);
        tokio::select! {
            _ = pump(near_in, far_out, mode.clone(), &line.passed_bytes) => {}
            _ = pump(far_in, near_out, mode, &line.passed_bytes) => {}
        }
        line.links.fetch_sub(1, Ordering::SeqCst);
    });
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    bytes: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = tokio::select! {
            read = from.read(&mut buffer) => read?,
            _ = mode.wait_for(|it| *it == Mode::Cut) => return Ok(()),
        };
        if length == 0 {
            return Ok(());
        }
        let go_on = mode.wait_for(|it| *it != Mode::Stall).await;
        if go_on.is_ok_and(|it| *it == Mode::Cut) {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
        bytes.fetch_add(length as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    /// Through all that a proxy does; nobody may have dialled it before.
    async fn check<S: AsyncRead + AsyncWrite + Unpin>(
        proxy: Proxy,
        dial: impl AsyncFn() -> io::Result<S>,
    ) {
        assert!(!proxy.set(Mode::Cut), "there is no link yet");
        let mut stream = dial().await.unwrap();
        let mut byte = [0];
        stream.write_all(b"a").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"a");
        assert!(proxy.set(Mode::Stall));
        stream.write_all(b"b").await.unwrap();
        let read = stream.read_exact(&mut byte);
        assert!(
            tokio::time::timeout(Duration::from_millis(50), read)
                .await
                .is_err()
        );
        assert!(!proxy.set(Mode::Cut), "one thing at a time");
        proxy.set(Mode::Pass);
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
        assert!(proxy.set(Mode::Cut));
        assert!(stream.read_exact(&mut byte).await.is_err());
        let mut refused = dial().await.unwrap();
        assert_eq!(refused.read(&mut byte).await.unwrap_or(0), 0);
        assert_eq!(proxy.line.passed_bytes.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn a_link_passes_waits_out_a_stall_and_is_cut() {
        let (proxy, address) = Proxy::start(echo().await).await.unwrap();
        check(proxy, async || TcpStream::connect(address).await).await;
    }

    #[tokio::test]
    async fn so_does_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let (far, near) = (dir.path().join("far"), dir.path().join("near"));
        let listener = UnixListener::bind(&far).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let proxy = Proxy::start_unix(&near, far).unwrap();
        check(proxy, async || UnixStream::connect(&near).await).await;
    }
}
