//! Followers of the master's events, many in one process, which count and check what they are sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::proc::Guarded;
use crate::program::now;

/// What a process of followers is started with.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the master listens for people.
    #[arg(long)]
    master: SocketAddr,
    /// How many there are.
    #[arg(long)]
    count: usize,
}

/// What one follower was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Followed {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) events: u64,
    /// Events that did not follow the one before: what lies between was lost.
    pub(crate) gaps: u64,
    /// When the last of them came, by the clock that all processes share.
    pub(crate) at: Duration,
}

/// The process: reads the token from its input, tells when all follow, reads up to which event, and tells what they
/// were sent.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let mut input = std::io::stdin().lock().lines();
    let mut line = || -> Result<String> { Ok(input.next().ok_or("the input ended")??) };
    let token = line()?;
    let (connected, awaited) = mpsc::channel();
    let until = std::sync::Arc::new(std::sync::OnceLock::new());
    let followers: Vec<_> = (0..args.count)
        .map(|_| {
            let (master, token) = (args.master, token.clone());
            let (connected, until) = (connected.clone(), until.clone());
            std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn(move || {
                    follow(master, &token, &connected, &until).map_err(|error| error.to_string())
                })
        })
        .collect::<std::io::Result<_>>()?;
    drop(connected);
    let count = awaited.iter().take(args.count).count();
    println!("{count}");
    std::io::stdout().flush()?;
    // Whoever has read that far ends.
    let _ = until.set(line()?.parse::<u64>()?);
    let mut all = Vec::new();
    for follower in followers {
        all.push(follower.join().map_err(|_| "a follower panicked")??);
    }
    println!("{}", serde_json::to_string::<Vec<Followed>>(&all)?);
    Ok(())
}

fn follow(
    master: SocketAddr,
    token: &str,
    connected: &mpsc::Sender<()>,
    until: &std::sync::OnceLock<u64>,
) -> Result<Followed> {
    let mut stream = TcpStream::connect(master)?;
    write!(
        stream,
        "GET /api/grid/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
    )?;
    // Wakes it up to see whether it has enough, however quiet the master is.
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut stream = BufReader::with_capacity(
        64 << 10,
        Patient {
            stream,
            until,
            last: 0,
        },
    );
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200") {
        return Err(format!("events were answered by `{}`", line.trim_end()).into());
    }
    while line.trim_end() != "" {
        line.clear();
        stream.read_line(&mut line)?;
    }
    let mut events = BufReader::with_capacity(64 << 10, Chunks { stream, left: 0 });
    let mut told = Followed {
        first: 0,
        last: 0,
        events: 0,
        gaps: 0,
        at: Duration::ZERO,
    };
    let mut line = Vec::new();
    let mut connected = Some(connected);
    loop {
        line.clear();
        events.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(told);
        }
        if let Some(connected) = connected.take() {
            connected.send(())?;
        }
        let Some(id) = line.strip_prefix(b"id: ") else {
            continue;
        };
        let id: u64 = std::str::from_utf8(id)?.trim_end().parse()?;
        if told.events == 0 {
            told.first = id;
        } else if id != told.last + 1 {
            told.gaps += 1;
        }
        (told.last, told.events, told.at) = (id, told.events + 1, now());
        events.get_mut().stream.get_mut().last = id;
    }
}

/// A stream that ends once its reader has had enough.
struct Patient<'a> {
    stream: TcpStream,
    until: &'a std::sync::OnceLock<u64>,
    last: u64,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if self.until.get().is_some_and(|until| self.last >= *until) {
                return Ok(0);
            }
            match self.stream.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

/// A body in chunks, as one stream.
struct Chunks<R> {
    stream: R,
    left: usize,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut line = String::new();
            // The end of a chunk is an empty line before the next one's length.
            while line.trim().is_empty() {
                line.clear();
                if self.stream.read_line(&mut line)? == 0 {
                    return Ok(0);
                }
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        }
        let most = buffer.len().min(self.left);
        let read = self.stream.read(&mut buffer[..most])?;
        self.left -= read;
        Ok(read)
    }
}

/// A running process of followers.
#[derive(Debug)]
pub(crate) struct Followers {
    pub(crate) child: Guarded,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Followers {
    /// Starts them; all follow when this returns.
    pub(crate) fn start(count: usize, master: SocketAddr, token: &str) -> Result<Self> {
        let (child, mut input, mut output) = Guarded::own(|it| {
            it.args(["followers", "--master", &master.to_string()])
                .args(["--count", &count.to_string()])
        })?;
        writeln!(input, "{token}")?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        if line.trim().parse() != Ok(count) {
            return Err(format!("of {count} followers `{}` are connected", line.trim()).into());
        }
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// Waits until all have read up to the event `until`, and gives what they were sent.
    pub(crate) fn finish(mut self, until: u64) -> Result<Vec<Followed>> {
        writeln!(self.input, "{until}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let all = serde_json::from_str(&line)?;
        let mut child = self.child;
        let status = child.get()?.wait()?;
        if !status.success() {
            return Err(format!("the followers ended with {status}").into());
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_as_one_body() {
        let body = b"5\r\nid: 1\r\n3\r\n\nda\r\n0\r\n\r\n";
        let mut text = String::new();
        let mut chunks = Chunks {
            stream: &body[..],
            left: 0,
        };
        chunks.read_to_string(&mut text).expect("it is whole");
        assert_eq!(text, "id: 1\nda");
    }
}
