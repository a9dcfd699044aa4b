//! One connection to an HTTP server, kept open, as thin as can be, so that the server is what is measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::Result;

/// How long a body is.
enum Length {
    Known(u64),
    /// It says so as it comes.
    Chunks,
}

/// A connection.
pub(crate) struct Connection<S = TcpStream> {
    stream: BufReader<S>,
    /// Header lines that go with every request.
    headers: String,
}

impl Connection {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }
}

impl<S: Read + Write> Connection<S> {
    /// Over a stream that is connected.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream: BufReader::new(stream),
            headers: String::new(),
        }
    }

    /// Sends this token with every request.
    pub(crate) fn bearer(mut self, token: &str) -> Self {
        self.headers = format!("authorization: Bearer {token}\r\n");
        self
    }

    /// Says with every request that its body is JSON.
    pub(crate) fn json(mut self) -> Self {
        self.headers.push_str("content-type: application/json\r\n");
        self
    }

    /// Sends a request and returns the answer's body; an answer other than 2xx is an error.
    pub(crate) fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let mut request = self.head(method, path, body.len() as u64);
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;
        let (status, length) = self.head_of_answer()?;
        let mut body = Vec::new();
        match length {
            Length::Known(length) => {
                body.resize(usize::try_from(length)?, 0);
                self.stream.read_exact(&mut body)?;
            }
            Length::Chunks => self.chunks(&mut body)?,
        }
        accepted(method, path, &status)?;
        Ok(body)
    }

    /// Reads a body that comes in chunks, each with its length in hexadecimal digits before it and a line's end behind it.
    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<()> {
        loop {
            let length = u64::from_str_radix(&self.line()?, 16)?;
            if length == 0 {
                self.line()?;
                return Ok(());
            }
            (&mut self.stream).take(length).read_to_end(body)?;
            self.line()?;
        }
    }

    /// Sends a body of so many bytes as it is written.
    pub(crate) fn upload(
        &mut self,
        path: &str,
        length: u64,
        write: impl FnOnce(&mut S) -> Result<()>,
    ) -> Result<()> {
        let head = self.head("PUT", path, length);
        self.stream.get_mut().write_all(&head)?;
        write(self.stream.get_mut())?;
        let (status, length) = self.answer()?;
        std::io::copy(&mut (&mut self.stream).take(length), &mut std::io::sink())?;
        accepted("PUT", path, &status)
    }

    /// Reads a body of so many bytes as it comes.
    pub(crate) fn download(
        &mut self,
        path: &str,
        length: u64,
        read: impl FnOnce(&mut BufReader<S>) -> Result<()>,
    ) -> Result<()> {
        let head = self.head("GET", path, 0);
        self.stream.get_mut().write_all(&head)?;
        let (status, found) = self.answer()?;
        accepted("GET", path, &status)?;
        if found != length {
            return Err(format!("GET {path} has {found} bytes, and not {length}").into());
        }
        read(&mut self.stream)
    }

    fn head(&self, method: &str, path: &str, length: u64) -> Vec<u8> {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{}content-length: {length}\r\n\r\n",
            self.headers
        )
        .into_bytes()
    }

    /// The answer's status line, and the length of its body, which is told before it.
    fn answer(&mut self) -> Result<(String, u64)> {
        match self.head_of_answer()? {
            (status, Length::Known(length)) => Ok((status, length)),
            (status, Length::Chunks) => Err(format!("the answer `{status}` has no length").into()),
        }
    }

    fn head_of_answer(&mut self) -> Result<(String, Length)> {
        let status = self.line()?;
        let mut length = Length::Known(0);
        loop {
            let header = self.line()?;
            if header.is_empty() {
                return Ok((status, length));
            }
            if let Some((name, value)) = header.split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = Length::Known(value.trim().parse()?);
                } else if name.eq_ignore_ascii_case("transfer-encoding") {
                    length = Length::Chunks;
                }
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

fn accepted(method: &str, path: &str, status: &str) -> Result<()> {
    if status.starts_with("HTTP/1.1 2") {
        return Ok(());
    }
    Err(format!("{method} {path} was answered by `{status}`").into())
}
