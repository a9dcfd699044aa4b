//! As much of HTTP/1.1 as one has to know to see where a message ends.

use std::io::BufRead;

use crate::Result;

/// The most that a head may have.
const MOST: usize = 1 << 20;

/// The bytes of the line's end that stands behind a chunk.
const LINE_END: u64 = 2;

/// A message up to its body.
#[derive(Debug)]
pub(crate) struct Head {
    bytes: Vec<u8>,
    text: String,
}

/// How much of a body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Bytes(u64),
    Chunks(Chunks),
    /// What comes until the connection ends.
    UntilEnd,
}

/// Where one is in a body of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// In the line that tells a chunk's length, of which this was read.
    Length(u64),
    /// In what is behind the length in its line.
    Extension(u64),
    /// In a chunk of which so many bytes are missing, its line's end included.
    Data(u64),
    /// In a line behind the last chunk, of which so many bytes were read.
    Trailer(u64),
    Over,
}

impl Head {
    /// Reads one.
    pub(crate) fn read(from: &mut impl BufRead) -> Result<Self> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if from.read_until(b'\n', &mut bytes)? == 0 || bytes.len() > MOST {
                return Err("a message is broken off in its head".into());
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { bytes, text })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The method and the path of a request.
    pub(crate) fn asks_for(&self) -> Result<(String, String)> {
        let mut words = self.text.split(' ').map(str::to_owned);
        Ok(words.next().zip(words.next()).ok_or("no request line")?)
    }

    fn status(&self) -> Result<u16> {
        let word = self.text.split(' ').nth(1).ok_or("no status line")?;
        Ok(word.trim().parse()?)
    }

    /// Whether the answer is yet to come behind it.
    pub(crate) fn is_interim(&self) -> Result<bool> {
        Ok((100..200).contains(&self.status()?))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.text.lines().filter_map(|it| it.split_once(':'));
        let found = headers.find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    fn framing(&self, otherwise: Framing) -> Result<Framing> {
        if self.header("transfer-encoding").is_some() {
            return Ok(Framing::Chunks(Chunks::Length(0)));
        }
        match self.header("content-length") {
            Some(length) => Ok(Framing::Bytes(length.parse()?)),
            None => Ok(otherwise),
        }
    }

    /// The body behind the head of a request.
    pub(crate) fn of_request(&self) -> Result<Framing> {
        self.framing(Framing::Bytes(0))
    }

    /// The body behind the head of an answer to a request of this method.
    pub(crate) fn of_answer(&self, method: &str) -> Result<Framing> {
        match self.status()? {
            _ if method == "HEAD" => Ok(Framing::Bytes(0)),
            204 | 304 => Ok(Framing::Bytes(0)),
            _ => self.framing(Framing::UntilEnd),
        }
    }
}

impl Framing {
    /// Whether nothing is to come.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Bytes(0) | Self::Chunks(Chunks::Over))
    }

    /// The connection ended.
    pub(crate) fn end(&self) -> Result<()> {
        match self {
            Self::UntilEnd => Ok(()),
            _ => Err("a message is broken off in its body".into()),
        }
    }

    /// How many of the bytes are of this body. `content` gets those that are no framing.
    pub(crate) fn take(&mut self, bytes: &[u8], content: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let taken = match self {
            Self::UntilEnd => bytes.len(),
            Self::Bytes(missing) => {
                let taken = least(*missing, bytes.len());
                *missing -= taken as u64;
                taken
            }
            Self::Chunks(chunks) => return chunks.take(bytes, content),
        };
        content(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }
}

fn least(missing: u64, there: usize) -> usize {
    usize::try_from(missing).map_or(there, |it| it.min(there))
}

impl Chunks {
    fn take(&mut self, bytes: &[u8], content: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|it| !it.is_empty()) {
            if *self == Self::Over {
                break;
            }
            taken += self.step(rest, content)?;
        }
        Ok(taken)
    }

    /// Goes on by some bytes of those there are, which are not none.
    fn step(&mut self, rest: &[u8], content: &mut dyn FnMut(&[u8])) -> Result<usize> {
        if let Self::Data(missing) = self {
            let some = least(*missing, rest.len());
            let of_chunk = least(missing.saturating_sub(LINE_END), some);
            content(rest.get(..of_chunk).unwrap_or_default());
            *missing -= some as u64;
            if *missing == 0 {
                *self = Self::Length(0);
            }
            return Ok(some);
        }
        let byte = rest.first().copied().unwrap_or_default();
        *self = match (*self, byte) {
            (Self::Length(0) | Self::Extension(0), b'\n') => Self::Trailer(0),
            (Self::Length(length) | Self::Extension(length), b'\n') => {
                Self::Data(length + LINE_END)
            }
            (Self::Length(length), _) => match char::from(byte).to_digit(16) {
                Some(digit) => Self::Length(
                    length
                        .checked_mul(16)
                        .and_then(|it| it.checked_add(digit.into()))
                        .ok_or("a chunk is too long")?,
                ),
                None => Self::Extension(length),
            },
            (Self::Trailer(0), b'\n') => Self::Over,
            (Self::Trailer(_), b'\n') => Self::Trailer(0),
            (Self::Trailer(read), b'\r') => Self::Trailer(read),
            (Self::Trailer(read), _) => Self::Trailer(read + 1),
            (other, _) => other,
        };
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body's bytes, fed in pieces of this size.
    fn body(mut framing: Framing, bytes: &[u8], piece: usize) -> (usize, bool, String) {
        let mut whole = 0;
        let mut content = Vec::new();
        for piece in bytes.chunks(piece) {
            let taken = framing
                .take(piece, &mut |it| content.extend_from_slice(it))
                .unwrap();
            whole += taken;
            if taken < piece.len() {
                break;
            }
        }
        let content = String::from_utf8(content).unwrap();
        (whole, framing.is_over(), content)
    }

    #[test]
    fn a_body_ends_where_it_says_however_it_comes() {
        let check = |framing, text: &str, rest: &str, over, content: &str| {
            let bytes = format!("{text}{rest}");
            for piece in 1..=bytes.len() {
                let found = body(framing, bytes.as_bytes(), piece);
                let expect = (text.len(), over, content.to_owned());
                assert_eq!(found, expect, "{text} in pieces of {piece}");
            }
        };
        let chunks = Framing::Chunks(Chunks::Length(0));
        check(Framing::Bytes(3), "abc", "HTTP", true, "abc");
        check(Framing::Bytes(3), "ab", "", false, "ab");
        check(Framing::UntilEnd, "abc", "", false, "abc");
        check(chunks, "0\r\n\r\n", "HTTP/1.1", true, "");
        check(
            chunks,
            "3\r\nabc\r\n1A;x=1\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n",
            "0\r\n",
            true,
            "abcabcdefghijklmnopqrstuvwxyz",
        );
        check(chunks, "1\r\n\n\r\n0\r\nx: y\r\n\r\n", "\r\n", true, "\n");
        check(chunks, "3\r\nabc\r\n0\r\n", "", false, "abc");
        assert!(
            Framing::Chunks(Chunks::Length(u64::MAX))
                .take(b"f", &mut |_| ())
                .is_err()
        );
    }

    #[test]
    fn heads_tell_what_is_behind_them() {
        let head = |text: &str| Head::read(&mut text.as_bytes()).unwrap();
        let request = head("POST /a?b HTTP/1.1\r\nContent-Length: 7\r\n\r\n");
        assert_eq!(request.asks_for().unwrap(), ("POST".into(), "/a?b".into()));
        assert_eq!(request.of_request().unwrap(), Framing::Bytes(7));
        let none = head("GET /a HTTP/1.1\r\n\r\n").of_request().unwrap();
        assert_eq!(none, Framing::Bytes(0));
        let answer = |text: &str, method| head(text).of_answer(method).unwrap();
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(answer(chunked, "GET"), Framing::Chunks(Chunks::Length(0)));
        assert_eq!(answer(chunked, "HEAD"), Framing::Bytes(0));
        assert_eq!(
            answer("HTTP/1.1 204 No Content\r\n\r\n", "POST"),
            Framing::Bytes(0)
        );
        assert_eq!(answer("HTTP/1.1 200 OK\r\n\r\n", "GET"), Framing::UntilEnd);
        assert!(head("HTTP/1.1 100 Continue\r\n\r\n").is_interim().unwrap());
        assert!(Head::read(&mut &b"GET / HTTP/1.1\r\n"[..]).is_err());
    }
}
