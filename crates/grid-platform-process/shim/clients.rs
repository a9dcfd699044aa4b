//! The socket: who watches, who asks. Nobody is ever waited for.

use crate::failure::{Failure, at};
use crate::shared::words::{Answer, LINE_MAX, Request, Stage};
use crate::sys::{self, POLLIN, PollFd};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

const NAME: &str = "sock";
const CLIENTS_MAX: usize = 64;

/// The listening socket and its clients.
pub(crate) struct Clients {
    listener: UnixListener,
    list: Vec<Client>,
    /// A descriptor to give up when there is no other: who asks for a stop is heard whatever the limit of open files.
    spare: Option<OwnedFd>,
}

struct Client {
    stream: UnixStream,
    line: Vec<u8>,
    watches: bool,
    waits_for_stop: bool,
}

/// What clients asked for.
#[derive(Default)]
pub(crate) struct Asked {
    /// Each stop, with its wait in ms.
    pub(crate) stops: Vec<Option<u64>>,
    /// The end of the trial.
    pub(crate) ready: bool,
}

impl Clients {
    /// Binds the socket; the lock that the shim holds says that a former one is stale.
    pub(crate) fn bind() -> Result<Clients, Failure> {
        match fs::remove_file(NAME) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(at(Stage::Sock)(error));
            }
            _ => {}
        }
        let umask = sys::set_umask(0o177);
        let bound = UnixListener::bind(NAME);
        sys::set_umask(umask);
        let listener = bound.map_err(at(Stage::Sock))?;
        listener.set_nonblocking(true).map_err(at(Stage::Sock))?;
        let spare = listener.as_fd().try_clone_to_owned().ok();
        Ok(Clients {
            listener,
            list: Vec::new(),
            spare,
        })
    }

    /// What to poll: the listener, then the clients in order.
    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = PollFd> {
        let clients = self.list.iter().map(|it| it.stream.as_raw_fd());
        [self.listener.as_raw_fd()]
            .into_iter()
            .chain(clients)
            .map(|fd| PollFd {
                fd,
                events: POLLIN,
                revents: 0,
            })
    }

    /// Serves those that are ready in `polled`, the poll's result for `poll_fds`, and gives what they asked for.
    pub(crate) fn serve(&mut self, polled: &[PollFd], seq: u64) -> Asked {
        let mut asked = Asked::default();
        let Some((listener, clients)) = polled.split_first() else {
            return asked;
        };
        let mut ready = clients.iter().map(|it| it.revents != 0);
        self.list
            .retain_mut(|it| !ready.next().unwrap_or(false) || it.read(seq, &mut asked).is_ok());
        if listener.revents != 0 {
            self.accept();
        }
        asked
    }

    /// Tells the watchers of a durable record.
    pub(crate) fn changed(&mut self, seq: u64) {
        self.list
            .retain_mut(|it| !it.watches || it.say(Answer::Changed { seq }).is_ok());
    }

    /// Takes the socket's name away. New connections are refused; those that are open stay.
    pub(crate) fn unlink(&self) {
        let _ = fs::remove_file(NAME);
    }

    /// The last word to those that asked for the stop.
    pub(crate) fn stopped(mut self) {
        for it in self.list.iter_mut().filter(|it| it.waits_for_stop) {
            let _ = it.say(Answer::Stopped);
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if sys::is_out_of_files(&error) && self.give_up_one() => {}
                Err(_) => break,
            }
        }
        if self.spare.is_none() {
            self.spare = self.listener.as_fd().try_clone_to_owned().ok();
        }
    }

    /// Frees a descriptor, if there is one that can be: the spare one, then the oldest client's.
    fn give_up_one(&mut self) -> bool {
        let spare = self.spare.take().is_some();
        if !spare && !self.list.is_empty() {
            self.list.remove(0);
            return true;
        }
        spare
    }

    fn admit(&mut self, stream: UnixStream) {
        let own = sys::peer_uid(&stream).is_ok_and(|it| it == 0 || it == sys::effective_uid());
        if !own || stream.set_nonblocking(true).is_err() {
            return;
        }
        let mut client = Client {
            stream,
            line: Vec::new(),
            watches: false,
            waits_for_stop: false,
        };
        if client.say(Answer::Greeting).is_ok() {
            if self.list.len() >= CLIENTS_MAX {
                // Hung clients must not shut an agent out: the oldest gives way.
                self.list.remove(0);
            }
            self.list.push(client);
        }
    }
}

impl Client {
    /// Takes what has come. An error: the client is done with.
    fn read(&mut self, seq: u64, asked: &mut Asked) -> io::Result<()> {
        let mut bytes = [0; 512];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for byte in bytes.into_iter().take(count) {
            if byte != b'\n' {
                if self.line.len() + 1 >= LINE_MAX {
                    return Err(ErrorKind::InvalidData.into());
                }
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            match std::str::from_utf8(&line).ok().and_then(Request::decode) {
                Some(Request::Watch) => {
                    self.watches = true;
                    self.say(Answer::Changed { seq })?;
                }
                Some(Request::Stop { grace_ms }) => {
                    self.waits_for_stop = true;
                    asked.stops.push(grace_ms);
                }
                Some(Request::Ready) => {
                    asked.ready = true;
                    self.say(Answer::Ready)?;
                }
                Some(Request::Ping) => self.say(Answer::Pong)?,
                None => self.say(Answer::Unknown)?,
            }
        }
        Ok(())
    }

    /// Says a line whole and at once, or fails: who does not read is not waited for.
    fn say(&mut self, answer: Answer) -> io::Result<()> {
        let line = answer.encode();
        match self.stream.write(line.as_bytes()) {
            Ok(count) if count == line.len() => Ok(()),
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        }
    }
}
