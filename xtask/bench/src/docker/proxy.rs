//! What stands between a client of an engine and the engine, and notes every call. Nothing of the client knows of it, and
//! each client has one, so that all of them have the same way to the engine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::framing::{Framing, Head};
use crate::Result;
use crate::program::now;

/// A call of a client.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: String,
    /// The path, with its query.
    pub(super) path: String,
    /// What was sent, of calls that make a container.
    pub(super) body: Vec<u8>,
    begin: Duration,
    /// When the answer was whole with the client; `None` before.
    end: Option<Duration>,
}

impl Call {
    /// Whether it is a stream that goes on by itself, and no call that anybody waits for.
    fn is_endless(&self) -> bool {
        self.path.contains("/events")
    }
}

/// What a client asked of the engine in a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Asked {
    pub(super) calls: usize,
    /// In which at least one of the calls was under way.
    pub(super) inside: Duration,
}

/// A way to the engine.
#[derive(Debug)]
pub(super) struct Proxy {
    socket: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: PathBuf,
    calls: Mutex<Vec<Call>>,
    open: Mutex<Open>,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    /// Both ends of each, by a number.
    pairs: BTreeMap<u64, [UnixStream; 2]>,
    next: u64,
    is_over: bool,
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a client to its end.
    fn connection(&self, client: UnixStream) -> Result<()> {
        let engine = UnixStream::connect(&self.engine)?;
        let number = {
            let pair = [client.try_clone()?, engine.try_clone()?];
            let mut open = self.open();
            if open.is_over {
                return Ok(());
            }
            open.next += 1;
            let number = open.next;
            open.pairs.insert(number, pair);
            number
        };
        let served = serve(self, client, engine);
        self.open().pairs.remove(&number);
        served
    }
}

impl Proxy {
    /// Begins to listen in a directory, for the engine at this place.
    pub(super) fn start(dir: &Path, name: &str, engine: &Path) -> Result<Self> {
        let socket = dir.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket)?;
        let shared = Arc::new(Shared {
            engine: engine.to_owned(),
            calls: Mutex::default(),
            open: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if own.open().is_over {
                    return;
                }
                let shared = Arc::clone(&own);
                // A connection that breaks is the client's to tell, who sees it too.
                std::thread::spawn(move || drop(shared.connection(client)));
            }
        });
        Ok(Self { socket, shared })
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The same, as in `DOCKER_HOST`.
    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// What was asked between two moments.
    pub(super) fn asked(&self, from: Duration, to: Duration) -> Asked {
        let calls = self.shared.calls();
        let calls = calls.iter().filter(|it| !it.is_endless());
        let within = calls.filter(|it| from <= it.begin && it.begin < to);
        let spans: Vec<_> = within
            .map(|it| (it.begin, it.end.unwrap_or(to).min(to)))
            .collect();
        Asked {
            calls: spans.len(),
            inside: covered(spans),
        }
    }

    /// The last call whose path has this in it.
    pub(super) fn last(&self, method: &str, part: &str) -> Result<Call> {
        let calls = self.shared.calls();
        let mut all = calls.iter().rev();
        let found = all.find(|it| it.method == method && it.path.contains(part));
        Ok(found
            .ok_or(format!("no {method} of `{part}` was seen"))?
            .clone())
    }

    /// How many calls there were, over all.
    pub(super) fn count(&self) -> usize {
        let calls = self.shared.calls();
        calls.iter().filter(|it| !it.is_endless()).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut open = self.shared.open();
            open.is_over = true;
            for stream in open.pairs.values().flatten() {
                // It may have ended by itself.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // The listener's thread sees that it is over.
        let _ = UnixStream::connect(&self.socket);
    }
}

/// The time that is in at least one of the spans.
fn covered(mut spans: Vec<(Duration, Duration)>) -> Duration {
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
fn serve(shared: &Shared, client: UnixStream, engine: UnixStream) -> Result<()> {
    let (mut to_client, mut to_engine) = (client.try_clone()?, engine.try_clone()?);
    let (mut client, mut engine) = (BufReader::new(client), BufReader::new(engine));
    loop {
        if client.fill_buf()?.is_empty() {
            return Ok(());
        }
        let begin = now();
        let request = Head::read(&mut client)?;
        let (method, path) = request.asks_for()?;
        let makes = method == "POST" && path.contains("/containers/create");
        let index = {
            let mut calls = shared.calls();
            calls.push(Call {
                method: method.clone(),
                path,
                body: Vec::new(),
                begin,
                end: None,
            });
            calls.len() - 1
        };
        to_engine.write_all(request.bytes())?;
        let mut body = Vec::new();
        copy(&mut client, &mut to_engine, request.of_request()?, |it| {
            if makes {
                body.extend_from_slice(it);
            }
        })?;
        let answer = loop {
            let head = Head::read(&mut engine)?;
            to_client.write_all(head.bytes())?;
            if !head.is_interim()? {
                break head;
            }
        };
        let framing = answer.of_answer(&method)?;
        let is_last = matches!(framing, Framing::UntilEnd);
        copy(&mut engine, &mut to_client, framing, |_| ())?;
        let end = now();
        if let Some(call) = shared.calls().get_mut(index) {
            call.end = Some(end);
            call.body = body;
        }
        if is_last {
            to_client.shutdown(Shutdown::Both)?;
            return Ok(());
        }
    }
}

/// Passes a body on as it comes.
fn copy(
    from: &mut BufReader<UnixStream>,
    to: &mut UnixStream,
    mut framing: Framing,
    mut seen: impl FnMut(&[u8]),
) -> Result<()> {
    while !framing.is_over() {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return framing.end();
        }
        let taken = framing.take(bytes)?;
        let bytes = bytes.get(..taken).unwrap_or_default();
        to.write_all(bytes)?;
        seen(bytes);
        from.consume(taken);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

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
        let proxy = Proxy::start(dir.path(), "p", &engine).unwrap();
        let begin = now();
        let mut client = UnixStream::connect(proxy.socket()).unwrap();
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
}
