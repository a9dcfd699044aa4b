//! Redis as a peer, made as durable: every write is in its log on disk before it is acknowledged.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::proc::Guarded;

/// The name of its program in [`crate::bench::Bench::program`].
pub(crate) const NAME: &str = "redis";

/// A running redis-server.
pub(crate) struct Redis {
    child: Guarded,
    pub(crate) address: SocketAddr,
}

impl Redis {
    /// Starts one whose files are in `dir`, which exists.
    pub(crate) fn start(program: &Path, dir: &Path) -> Result<Self> {
        // It cannot choose a port by itself, and one that was free may be taken by now.
        let mut tries = 5;
        loop {
            tries -= 1;
            match Self::try_start(program, dir) {
                Err(_) if tries > 0 => {}
                done => return done,
            }
        }
    }

    fn try_start(program: &Path, dir: &Path) -> Result<Self> {
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let child = Command::new(program)
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--save", "", "--daemonize", "no", "--dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut redis = Self {
            child: Guarded::new(child),
            address,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // Who answers is this one only if it says the place that this one was given.
            if let Ok(mut client) = Client::open(address)
                && client.setting("dir").ok() == dir.canonicalize()?.to_str().map(str::to_owned)
                && client.setting("appendfsync")? == "always"
                && client.setting("appendonly")? == "yes"
            {
                return Ok(redis);
            }
            if let Some(status) = redis.child.get()?.try_wait()? {
                return Err(format!("redis-server ended with {status}").into());
            }
            if Instant::now() > deadline {
                return Err("redis-server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn end(self) -> Result<()> {
        self.child.end()
    }
}

/// A connection to it.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Writes a value.
    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.ask(&[b"SET", key.as_bytes(), value])?;
        match self.line()?.as_str() {
            "+OK" => Ok(()),
            other => Err(format!("SET was answered by `{other}`").into()),
        }
    }

    /// Reads a value.
    pub(crate) fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        self.ask(&[b"GET", key.as_bytes()])?;
        self.bulk()
    }

    fn setting(&mut self, name: &str) -> Result<String> {
        self.ask(&[b"CONFIG", b"GET", name.as_bytes()])?;
        let head = self.line()?;
        if head != "*2" {
            return Err(format!("CONFIG GET was answered by `{head}`").into());
        }
        self.bulk()?;
        Ok(String::from_utf8(self.bulk()?)?)
    }

    fn ask(&mut self, words: &[&[u8]]) -> Result<()> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        Ok(self.stream.get_mut().write_all(&request)?)
    }

    fn bulk(&mut self) -> Result<Vec<u8>> {
        let head = self.line()?;
        let length = head.strip_prefix('$').and_then(|it| it.parse().ok());
        let length: usize = length.ok_or_else(|| format!("not a value: `{head}`"))?;
        let mut value = vec![0; length + 2];
        self.stream.read_exact(&mut value)?;
        value.truncate(length);
        Ok(value)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err("redis-server closed the connection".into());
        }
        Ok(line.trim_end().to_owned())
    }
}
