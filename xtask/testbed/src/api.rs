//! The Engine API in a few lines: one request a connection, blocking, no client library. A census that is taken with it
//! shares nothing with the adapter that it is of.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// The longest that an engine may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(120);

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    host: String,
    place: Place,
    silence: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Unix(PathBuf),
    Tcp(String),
}

/// What an engine answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the engine did as it was asked.
    ///
    /// # Errors
    /// Its words.
    pub fn ok(&self) -> Result<(), String> {
        if (200..400).contains(&self.status) {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&self.body);
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        let words = said["message"].as_str().unwrap_or(text.trim());
        Err(format!("{words} (status {})", self.status))
    }

    /// The body as JSON; null for an empty one.
    ///
    /// # Errors
    /// The engine's words, or that it is no JSON.
    pub fn json(&self) -> Result<Value, String> {
        self.ok()?;
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("the answer is no JSON: {error}"))
    }
}

impl Api {
    /// The engine at this place, which is written as in `DOCKER_HOST`.
    ///
    /// # Errors
    /// For anything but `unix://PATH` and `tcp://HOST:PORT`.
    pub fn new(host: &str) -> Result<Self, String> {
        let place = match host.split_once("://") {
            Some(("unix", path)) => Place::Unix(path.into()),
            Some(("tcp", address)) => Place::Tcp(address.to_owned()),
            _ => {
                return Err(format!(
                    "`{host}` is neither `unix://PATH` nor `tcp://HOST:PORT`"
                ));
            }
        };
        Ok(Self {
            host: host.to_owned(),
            place,
            silence: SILENCE,
        })
    }

    /// The place, as in `DOCKER_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The same engine, which may be silent for so long only.
    #[must_use]
    pub fn patient_for(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ping(&self) -> Result<(), String> {
        self.send("GET", "/_ping", "text/plain", b"")?.ok()
    }

    /// What it calls its version, for people: Podman asks the host's package manager for it.
    ///
    /// # Errors
    /// Why it does not answer.
    pub fn version(&self) -> Result<String, String> {
        let version = self.get("/version")?;
        let name = version["Components"][0]["Name"]
            .as_str()
            .unwrap_or("engine");
        let number = version["Version"].as_str().unwrap_or("of no version");
        Ok(format!("{name} {number}"))
    }

    /// GETs JSON.
    ///
    /// # Errors
    /// The engine's words, or why it cannot be reached.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        self.call("GET", path, None)
    }

    /// Calls, with JSON where some is given.
    ///
    /// # Errors
    /// The engine's words, or why it cannot be reached.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send(method, path, "application/json", body.as_bytes())?
            .json()
            .map_err(|why| format!("{method} {path}: {why}"))
    }

    /// Calls with a body of any kind, and gives any answer.
    ///
    /// # Errors
    /// Why the engine cannot be reached, or that it did not answer to the end.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> Result<Answer, String> {
        let failed =
            |error: std::io::Error| format!("cannot reach the engine at `{}`: {error}", self.host);
        let mut answer = Vec::new();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut exchange = |stream: &mut dyn Stream| {
            stream.limit(self.silence)?;
            stream.write_all(head.as_bytes())?;
            stream.write_all(body)?;
            stream.flush()?;
            stream.read_to_end(&mut answer)
        };
        match &self.place {
            Place::Unix(path) => UnixStream::connect(path).and_then(|mut it| exchange(&mut it)),
            Place::Tcp(address) => TcpStream::connect(address).and_then(|mut it| exchange(&mut it)),
        }
        .map_err(failed)?;
        parse(&answer).ok_or_else(|| format!("{method} {path}: the answer is broken off"))
    }
}

/// What both kinds of connections do.
trait Stream: Read + Write {
    fn limit(&self, silence: Duration) -> std::io::Result<()>;
}

impl Stream for UnixStream {
    fn limit(&self, silence: Duration) -> std::io::Result<()> {
        self.set_write_timeout(Some(silence))?;
        self.set_read_timeout(Some(silence))
    }
}

impl Stream for TcpStream {
    fn limit(&self, silence: Duration) -> std::io::Result<()> {
        self.set_write_timeout(Some(silence))?;
        self.set_read_timeout(Some(silence))
    }
}

/// An answer of HTTP/1.1, whole, or none.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    let (head, body) = (bytes.get(..end)?, bytes.get(end + 4..)?);
    let head = String::from_utf8_lossy(head).to_lowercase();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        let mut all = head.lines().filter_map(|line| line.split_once(':'));
        all.find(|(it, _)| *it == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let body = if header("transfer-encoding").is_some_and(|it| it == "chunked") {
        unchunk(body)?
    } else if let Some(length) = header("content-length") {
        body.get(..length.parse().ok()?)?.to_vec()
    } else {
        body.to_vec()
    };
    Some(Answer { status, body })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|it| it == b"\r\n")?;
        let size = String::from_utf8_lossy(rest.get(..end)?).into_owned();
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

/// A value for a query: what is not plain is percent-encoded.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let check = |text: &str, expect: Option<(u16, &str)>| {
            let read = parse(text.as_bytes());
            let read = read.map(|it| (it.status, String::from_utf8(it.body).unwrap()));
            assert_eq!(
                read,
                expect.map(|(status, body)| (status, body.to_owned())),
                "{text}"
            );
        };
        check("HTTP/1.1 204 No Content\r\n\r\n", Some((204, "")));
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            Some((200, "ok")),
        );
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", None);
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            Some((200, "abc")),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
            None,
        );
        check("HTTP/1.1 200 OK\r\n", None);
        check("", None);
    }

    #[test]
    fn places_are_read_as_docker_writes_them() {
        assert!(Api::new("unix:///run/x.sock").is_ok());
        assert!(Api::new("tcp://127.0.0.1:2375").is_ok());
        assert!(Api::new("ssh://host").is_err());
        assert!(Api::new("/run/x.sock").is_err());
        let nobody = Api::new("unix:///nowhere/x.sock").unwrap();
        let why = nobody.ping().unwrap_err();
        assert!(why.contains("unix:///nowhere/x.sock"), "{why}");
    }

    #[test]
    fn an_engines_words_are_told() {
        let answer = Answer {
            status: 409,
            body: b"{\"message\":\"in use\"}".to_vec(),
        };
        assert_eq!(answer.ok(), Err("in use (status 409)".into()));
        assert_eq!(
            encode("{\"label\":[\"a=b\"]}"),
            "%7B%22label%22%3A%5B%22a%3Db%22%5D%7D"
        );
    }
}
