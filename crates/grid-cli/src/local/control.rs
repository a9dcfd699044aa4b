//! How commands speak to the supervisor: lines of JSON over a socket in a directory that only its user can enter.

use std::{io, os::fd::AsRawFd, path::Path};

use grid_platform_api::ErrorReport;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
};

use super::{Nodes, Status};
use crate::error::{Error, Result};

const SOCKET: &str = "control.sock";

/// What the supervisor is asked; the one line that a caller sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Its status, and again with every change.
    Watch,
    /// End the grid.
    Down { nodes: Nodes },
}

/// What the supervisor answers, a line each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Status(Status),
    /// What it does now.
    Step(String),
    /// The grid is down.
    Done(super::Ended),
    Failed(Box<ErrorReport>),
}

/// A path to the socket that is short however deep the state directory is: a socket's name has at most 107 bytes.
/// It is good as long as `dir` is held.
fn short(dir: &std::fs::File) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())
}

/// Makes the socket, in place of one that a killed supervisor left.
pub(crate) fn listen(run: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(run.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let dir = std::fs::File::open(run)?;
    UnixListener::bind(short(&dir))
}

/// One end of a conversation.
pub(crate) struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Connection {
    /// Calls the supervisor of this directory.
    pub(crate) async fn open(run: &Path) -> io::Result<Self> {
        let dir = std::fs::File::open(run)?;
        Ok(Self::new(UnixStream::connect(short(&dir)).await?))
    }

    pub(crate) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
        }
    }

    pub(crate) async fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.writer.write_all(&line).await
    }

    /// The next line; `None` when the other side is gone.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = String::new();
        match self.reader.read_line(&mut line).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(serde_json::from_str(&line)?)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for the status and gives what comes.
    pub(crate) async fn watch(mut self) -> Result<Watch> {
        self.send(&Request::Watch).await.map_err(lost)?;
        Ok(Watch(self))
    }

    /// Asks for the end and tells every step; `None` when the supervisor is gone before it was done.
    pub(crate) async fn down(
        mut self,
        nodes: Nodes,
        mut step: impl FnMut(&str),
    ) -> Result<Option<super::Ended>> {
        if self.send(&Request::Down { nodes }).await.is_err() {
            return Ok(None);
        }
        loop {
            match self.receive::<Answer>().await.map_err(lost)? {
                Some(Answer::Step(text)) => step(&text),
                Some(Answer::Done(ended)) => return Ok(Some(ended)),
                Some(Answer::Failed(report)) => return Err((*report).into()),
                Some(Answer::Status(_)) => {}
                None => return Ok(None),
            }
        }
    }
}

/// The supervisor's status as it changes.
pub(crate) struct Watch(Connection);

impl Watch {
    /// The next status; the first comes at once.
    pub(crate) async fn next(&mut self) -> Result<Status> {
        loop {
            match self.0.receive::<Answer>().await.map_err(lost)? {
                Some(Answer::Status(status)) => return Ok(status),
                Some(_) => {}
                None => {
                    return Err(Error::failed("the supervisor ended").with_hint(
                        "Its last words are in `logs/supervisor.log` under the state directory.",
                    ));
                }
            }
        }
    }
}

fn lost(error: io::Error) -> Error {
    Error::failed("cannot speak to the supervisor").with_source(&error)
}
