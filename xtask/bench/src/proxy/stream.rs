//! Where clients come in: a socket in a directory, or a port of this host.

use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Waits for clients.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener, SocketAddr),
}

/// A client, or the server.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// How a listener is reached.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Listener {
    pub(super) fn unix(path: &Path) -> Result<Self> {
        Ok(Self::Unix(UnixListener::bind(path)?, path.to_owned()))
    }

    /// On a port that nobody has.
    pub(super) fn tcp() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    pub(super) fn place(&self) -> Place {
        match self {
            Self::Unix(_, path) => Place::Unix(path.clone()),
            Self::Tcp(_, address) => Place::Tcp(*address),
        }
    }

    pub(super) fn accept(&self) -> Result<Stream> {
        match self {
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept()?.0)),
            Self::Tcp(listener, _) => {
                let stream = listener.accept()?.0;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl Place {
    pub(super) fn connect(&self) -> Result<Stream> {
        match self {
            Self::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path)?)),
            Self::Tcp(address) => Ok(Stream::Tcp(TcpStream::connect(address)?)),
        }
    }
}

impl Stream {
    pub(super) fn try_clone(&self) -> Result<Self> {
        match self {
            Self::Unix(it) => Ok(Self::Unix(it.try_clone()?)),
            Self::Tcp(it) => Ok(Self::Tcp(it.try_clone()?)),
        }
    }

    /// Waits until the other end has closed it, or sends something; whether it was closed. Nothing is taken of what comes. Of a
    /// socket in a directory this cannot be told.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Tcp(it) => matches!(it.peek(&mut [0]), Ok(0) | Err(_)),
        }
    }

    /// Ends it, in both directions.
    pub(super) fn shutdown(&self) -> Result<()> {
        match self {
            Self::Unix(it) => it.shutdown(Shutdown::Both),
            Self::Tcp(it) => it.shutdown(Shutdown::Both),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize> {
        match self {
            Self::Unix(it) => it.read(bytes),
            Self::Tcp(it) => it.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::Unix(it) => it.write(bytes),
            Self::Tcp(it) => it.write(bytes),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Unix(it) => it.flush(),
            Self::Tcp(it) => it.flush(),
        }
    }
}
