//! What stands between a client of an HTTP API and its server, and notes every call. Nothing of the client knows of it, and
//! each client has one, so that all of them have the same way to the server.

mod framing;
mod stream;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use framing::{Framing, Head};
use stream::{Listener, Place, Stream};

use crate::Result;
use crate::program::now;

/// What the server's calls are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Whether the answer to a path is a stream that goes on by itself, and none that anybody waits for.
    pub(crate) is_endless: fn(&str) -> bool,
    /// Whether what is sent by a method to a path is kept.
    pub(crate) keeps: fn(&str, &str) -> bool,
    /// Whether what streams say is kept, line by line.
    pub(crate) keeps_lines: bool,
}

/// A call of a client.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// The path, with its query.
    pub(crate) path: String,
    /// What was sent, where it is kept.
    pub(crate) body: Vec<u8>,
    pub(crate) begin: Duration,
    /// When the answer was whole with the client; `None` before.
    pub(crate) end: Option<Duration>,
    pub(crate) is_endless: bool,
}

/// A line that a stream said.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) text: Arc<[u8]>,
    /// When it was with the client.
    pub(crate) at: Duration,
}

/// What a client asked of the server in a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Asked {
    pub(crate) calls: usize,
    /// In which at least one of the calls was under way.
    pub(crate) inside: Duration,
}

/// A way to the server.
#[derive(Debug)]
pub(crate) struct Proxy {
    place: Place,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: Place,
    manner: Manner,
    calls: Mutex<Vec<Call>>,
    lines: Mutex<Vec<Line>>,
    open: Mutex<Open>,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    /// Both ends of each, by a number.
    pairs: BTreeMap<u64, [Stream; 2]>,
    next: u64,
    is_over: bool,
}

/// What was noted before a panic is as good as without it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Serves a client to its end.
    fn connection(&self, client: Stream) -> Result<()> {
        let server = self.server.connect()?;
        let number = {
            let pair = [client.try_clone()?, server.try_clone()?];
            let mut open = locked(&self.open);
            if open.is_over {
                return Ok(());
            }
            open.next += 1;
            let number = open.next;
            open.pairs.insert(number, pair);
            number
        };
        let served = serve(self, client, server);
        locked(&self.open).pairs.remove(&number);
        served
    }
}

impl Proxy {
    /// Begins to listen at a socket of this name in a directory, for the server at a socket.
    pub(crate) fn unix(dir: &Path, name: &str, server: &Path, manner: Manner) -> Result<Self> {
        let listener = Listener::unix(&dir.join(format!("{name}.sock")))?;
        Ok(Self::start(listener, server, manner))
    }

    /// Begins to listen at a port, for the server at a socket.
    pub(crate) fn tcp(server: &Path, manner: Manner) -> Result<Self> {
        Ok(Self::start(Listener::tcp()?, server, manner))
    }

    fn start(listener: Listener, server: &Path, manner: Manner) -> Self {
        let place = listener.place();
        let shared = Arc::new(Shared {
            server: Place::Unix(server.to_owned()),
            manner,
            calls: Mutex::default(),
            lines: Mutex::default(),
            open: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok(client) = listener.accept() {
                if locked(&own.open).is_over {
                    return;
                }
                let shared = Arc::clone(&own);
                // A connection that breaks is the client's to tell, who sees it too.
                std::thread::spawn(move || drop(shared.connection(client)));
            }
        });
        Self { place, shared }
    }

    /// Where it listens, which is a socket.
    pub(crate) fn socket(&self) -> Result<&PathBuf> {
        match &self.place {
            Place::Unix(path) => Ok(path),
            Place::Tcp(address) => Err(format!("{address} is no socket of a directory").into()),
        }
    }

    /// Where it listens, as clients are told it.
    pub(crate) fn host(&self) -> String {
        match &self.place {
            Place::Unix(path) => format!("unix://{}", path.display()),
            Place::Tcp(address) => format!("http://{address}"),
        }
    }

    /// The calls that began between two moments.
    pub(crate) fn calls(&self, from: Duration, to: Duration) -> Vec<Call> {
        let calls = locked(&self.shared.calls);
        let within = |it: &&Call| from <= it.begin && it.begin < to;
        calls.iter().filter(within).cloned().collect()
    }

    /// What was asked between two moments.
    pub(crate) fn asked(&self, from: Duration, to: Duration) -> Asked {
        let calls = locked(&self.shared.calls);
        let calls = calls.iter().filter(|it| !it.is_endless);
        let within = calls.filter(|it| from <= it.begin && it.begin < to);
        let spans: Vec<_> = within
            .map(|it| (it.begin, it.end.unwrap_or(to).min(to)))
            .collect();
        Asked {
            calls: spans.len(),
            inside: covered(spans),
        }
    }

    /// The lines that streams said from a moment on.
    pub(crate) fn lines(&self, from: Duration) -> Vec<Line> {
        let lines = locked(&self.shared.lines);
        lines.iter().filter(|it| from <= it.at).cloned().collect()
    }

    /// The last call whose path has this in it.
    pub(crate) fn last(&self, method: &str, part: &str) -> Result<Call> {
        let calls = locked(&self.shared.calls);
        let mut all = calls.iter().rev();
        let found = all.find(|it| it.method == method && it.path.contains(part));
        Ok(found
            .ok_or(format!("no {method} of `{part}` was seen"))?
            .clone())
    }

    /// How many calls there were, over all.
    pub(crate) fn count(&self) -> usize {
        let calls = locked(&self.shared.calls);
        calls.iter().filter(|it| !it.is_endless).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut open = locked(&self.shared.open);
            open.is_over = true;
            for stream in open.pairs.values().flatten() {
                // It may have ended by itself.
                let _ = stream.shutdown();
            }
        }
        // The listener's thread sees that it is over.
        let _ = self.place.connect();
    }
}

/// The time that is in at least one of the spans.
pub(crate) fn covered(mut spans: Vec<(Duration, Duration)>) -> Duration {
    spans.sort();
    let (mut whole, mut until) = (Duration::ZERO, Duration::ZERO);
    for (begin, end) in spans {
        let begin = begin.max(until);
        whole += end.saturating_sub(begin);
        until = until.max(end);
    }
    whole
}

/// One connection, call by call.
fn serve(shared: &Shared, client: Stream, server: Stream) -> Result<()> {
    let manner = shared.manner;
    let (mut to_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut client, mut server) = (BufReader::new(client), BufReader::new(server));
    loop {
        if client.fill_buf()?.is_empty() {
            return Ok(());
        }
        let begin = now();
        let request = Head::read(&mut client)?;
        let (method, path) = request.asks_for()?;
        let keeps = (manner.keeps)(&method, &path);
        let is_endless = (manner.is_endless)(&path);
        let index = {
            let mut calls = locked(&shared.calls);
            calls.push(Call {
                method: method.clone(),
                path,
                body: Vec::new(),
                begin,
                end: None,
                is_endless,
            });
            calls.len() - 1
        };
        to_server.write_all(request.bytes())?;
        let mut body = Vec::new();
        copy(&mut client, &mut to_server, request.of_request()?, |it| {
            if keeps {
                body.extend_from_slice(it);
            }
        })?;
        if let Some(call) = locked(&shared.calls).get_mut(index) {
            call.body = body;
        }
        let answer = loop {
            let head = Head::read(&mut server)?;
            to_client.write_all(head.bytes())?;
            if !head.is_interim()? {
                break head;
            }
        };
        if is_endless {
            // A watch whose client is gone would go on until there is news for it.
            let (client, server) = (to_client.try_clone()?, to_server.try_clone()?);
            std::thread::spawn(move || client.is_closed().then(|| server.shutdown()));
        }
        let framing = answer.of_answer(&method)?;
        let is_last = matches!(framing, Framing::UntilEnd);
        let mut line = Vec::new();
        copy(&mut server, &mut to_client, framing, |it| {
            if is_endless && manner.keeps_lines {
                split(&mut line, it, |text| {
                    let (text, at) = (text.into(), now());
                    locked(&shared.lines).push(Line { text, at });
                });
            }
        })?;
        let end = now();
        if let Some(call) = locked(&shared.calls).get_mut(index) {
            call.end = Some(end);
        }
        if is_last {
            to_client.shutdown()?;
            return Ok(());
        }
    }
}

/// Gives each line that is whole, without its end, and keeps what is behind the last one.
fn split(line: &mut Vec<u8>, bytes: &[u8], mut whole: impl FnMut(&[u8])) {
    for part in bytes.split_inclusive(|it| *it == b'\n') {
        line.extend_from_slice(part);
        if let Some((b'\n', text)) = line.split_last() {
            whole(text);
            line.clear();
        }
    }
}

/// Passes a body on as it comes. What `seen` gets of it is on the other side by then.
fn copy(
    from: &mut BufReader<Stream>,
    to: &mut Stream,
    mut framing: Framing,
    mut seen: impl FnMut(&[u8]),
) -> Result<()> {
    let mut content = Vec::new();
    while !framing.is_over() {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return framing.end();
        }
        let taken = framing.take(bytes, &mut |it| content.extend_from_slice(it))?;
        to.write_all(bytes.get(..taken).unwrap_or_default())?;
        seen(&content);
        content.clear();
        from.consume(taken);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Shutdown, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn what_overlaps_counts_once() {
        let check = |spans: &[(u64, u64)], expect: u64| {
            let spans = spans
                .iter()
                .map(|(from, to)| (Duration::from_millis(*from), Duration::from_millis(*to)));
            assert_eq!(covered(spans.collect()), Duration::from_millis(expect));
        };
        check(&[], 0);
        check(&[(1, 3), (5, 6)], 3);
        check(&[(5, 6), (1, 3), (2, 4)], 4);
        check(&[(1, 9), (2, 3)], 8);
    }

    const MANNER: Manner = Manner {
        is_endless: |path| path.contains("watch"),
        keeps: |method, _| method == "POST",
        keeps_lines: true,
    };

    #[test]
    fn calls_go_through_and_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let engine = dir.path().join("engine");
        let listener = UnixListener::bind(&engine).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            for (request, answer) in [
                (
                    "POST /containers/create HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
                    "HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                ),
                (
                    "HEAD /_ping HTTP/1.1\r\n\r\n",
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
                ),
            ] {
                let mut bytes = vec![0; request.len()];
                stream.read_exact(&mut bytes).unwrap();
                seen.push(String::from_utf8(bytes).unwrap() == request);
                stream.write_all(answer.as_bytes()).unwrap();
            }
            seen
        });
        let proxy = Proxy::unix(dir.path(), "p", &engine, MANNER).unwrap();
        let begin = now();
        let mut client = UnixStream::connect(proxy.socket().unwrap()).unwrap();
        client
            .write_all(b"POST /containers/create HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}HEAD /_ping HTTP/1.1\r\n\r\n")
            .unwrap();
        assert_eq!(server.join().unwrap(), [true, true]);
        client.shutdown(Shutdown::Write).unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).unwrap();
        assert!(
            answers.contains("3\r\nabc\r\n0\r\n\r\nHTTP/1.1 200"),
            "{answers}"
        );
        let asked = proxy.asked(begin, now());
        assert_eq!((asked.calls, proxy.count()), (2, 2));
        assert!(asked.inside > Duration::ZERO);
        assert_eq!(proxy.asked(now(), now()).calls, 0);
        assert_eq!(proxy.last("POST", "/create").unwrap().body, b"{}");
        assert!(proxy.last("GET", "/create").is_err());
    }

    #[test]
    fn what_a_stream_says_is_noted_by_lines_and_is_no_call() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("server");
        let listener = UnixListener::bind(&place).unwrap();
        let request = "GET /pods?watch=1 HTTP/1.1\r\n\r\n";
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
            3\r\none\r\n7\r\n\ntwo\nth\r\n4\r\nree\n\r\n0\r\n\r\n";
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; request.len()];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let proxy = Proxy::tcp(&place, MANNER).unwrap();
        let begin = now();
        let mut client = TcpStream::connect(proxy.host().replace("http://", "")).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        server.join().unwrap();
        let mut got = vec![0; answer.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, answer.as_bytes());
        // The last line is noted when it was passed on, and before the connection is over.
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut got).unwrap(), 0);
        let lines = proxy.lines(begin);
        let texts: Vec<&[u8]> = lines.iter().map(|it| &*it.text).collect();
        assert_eq!(texts, [&b"one"[..], b"two", b"three"]);
        assert!(lines.iter().all(|it| begin <= it.at && it.at <= now()));
        assert_eq!((proxy.count(), proxy.calls(begin, now()).len()), (0, 1));
        assert!(proxy.lines(now()).is_empty());
    }

    #[test]
    fn a_stream_ends_with_its_client() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("server");
        let listener = UnixListener::bind(&place).unwrap();
        let request = "GET /pods?watch=1 HTTP/1.1\r\n\r\n";
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; request.len()];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            // This is the end that is looked for.
            stream.read(&mut bytes).unwrap()
        });
        let proxy = Proxy::tcp(&place, MANNER).unwrap();
        let mut client = TcpStream::connect(proxy.host().replace("http://", "")).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        drop(client);
        assert_eq!(server.join().unwrap(), 0);
    }
}
