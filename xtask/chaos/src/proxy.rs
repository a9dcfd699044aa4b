//! The agent's link to its master, by way of a proxy that can cut it and hold it up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
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

/// A proxy on loopback.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    links: Arc<AtomicUsize>,
    pub(crate) passed_bytes: Arc<AtomicU64>,
}

impl Proxy {
    /// Listens on a port of the system's choice, and passes everything on to `to`.
    pub(crate) async fn start(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Self {
            address: listener.local_addr()?,
            mode: watch::channel(Mode::Pass).0,
            links: Arc::default(),
            passed_bytes: Arc::default(),
        };
        let (mode, links) = (proxy.mode.subscribe(), Arc::clone(&proxy.links));
        let bytes = Arc::clone(&proxy.passed_bytes);
        tokio::spawn(async move {
            loop {
                // The system is out of descriptors for a moment: who dials will dial again.
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if *mode.borrow() != Mode::Cut {
                    tokio::spawn(link(
                        stream,
                        to,
                        mode.clone(),
                        Arc::clone(&links),
                        Arc::clone(&bytes),
                    ));
                }
            }
        });
        Ok(proxy)
    }

    /// Changes what it does; `false` when there is no link that could feel it, or it does something already.
    pub(crate) fn set(&self, mode: Mode) -> bool {
        let felt = self.links.load(Ordering::SeqCst) > 0 && *self.mode.borrow() == Mode::Pass;
        if mode == Mode::Pass || felt {
            self.mode.send_replace(mode);
        }
        felt
    }
}

async fn link(
    near: TcpStream,
    to: SocketAddr,
    mode: watch::Receiver<Mode>,
    links: Arc<AtomicUsize>,
    bytes: Arc<AtomicU64>,
) {
    // A master that is away refuses its agent by ending the link.
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    // Nothing hangs on these two.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    links.fetch_add(1, Ordering::SeqCst);
    tokio::select! {
        _ = pump(near_in, far_out, mode.clone(), &bytes) => {}
        _ = pump(far_in, near_out, mode, &bytes) => {}
    }
    links.fetch_sub(1, Ordering::SeqCst);
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
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

    #[tokio::test]
    async fn a_link_passes_waits_out_a_stall_and_is_cut() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        assert!(!proxy.set(Mode::Cut), "there is no link yet");
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
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
        let mut refused = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(refused.read(&mut byte).await.unwrap_or(0), 0);
        assert_eq!(proxy.passed_bytes.load(Ordering::Relaxed), 4);
    }
}
