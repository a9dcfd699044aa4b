//! A node's log, record by record.

use std::pin::Pin;

use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{Stream, StreamExt};
use grid_platform_api::ErrorKind;

use crate::{Error, LogRecord, Result};

/// A record is at most 64 KiB of log, in base64, and its frame; more than this is no master's stream.
const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// Records of a log, from [`Client::logs`](crate::Client::logs).
pub struct LogRecords {
    base: String,
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>,
    buffer: Vec<u8>,
    start: usize,
}

impl LogRecords {
    pub(crate) fn new(
        base: &str,
        body: Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>,
    ) -> Self {
        Self {
            base: base.to_owned(),
            body,
            buffer: Vec::new(),
            start: 0,
        }
    }

    /// The next record; `None` at the end of the log, or of the node when the log is followed.
    ///
    /// # Errors
    /// The connection broke: ask again, `after:` the last cursor seen. A log that the master could not read on ends
    /// with [`LogRecord::Error`] instead.
    pub async fn next(&mut self) -> Result<Option<LogRecord>> {
        loop {
            if let Some(length) = self.buffer[self.start..].iter().position(|b| *b == b'\n') {
                let line = &self.buffer[self.start..self.start + length];
                let record = (!line.is_empty())
                    .then(|| serde_json::from_slice(line))
                    .transpose()
                    .map_err(|error| unreadable().with_source(&error))?;
                self.start += length + 1;
                match record {
                    Some(record) => return Ok(Some(record)),
                    None => continue,
                }
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.buffer.len() > MAX_RECORD_BYTES {
                return Err(unreadable());
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(Error::transport(&self.base, error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("the master at `{}` broke off within a record", self.base),
                    ));
                }
            }
        }
    }
}

fn unreadable() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the master sent a log record that cannot be read",
    )
}

impl LogRecord {
    /// The bytes of a line as the program wrote them, without the line's end; `None` for what is no line, and for a
    /// line whose base64 is damaged.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Line {
                text: Some(text), ..
            } => Some(text.clone().into_bytes()),
            Self::Line {
                base64: Some(base64),
                ..
            } => BASE64_STANDARD.decode(base64).ok(),
            Self::Line { .. } => Some(Vec::new()),
            Self::Gap { .. } | Self::Error { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_give_their_bytes() {
        let check = |json: &str, expect: Option<&[u8]>| {
            let record: LogRecord = serde_json::from_str(json).unwrap();
            assert_eq!(record.bytes().as_deref(), expect, "{json}");
        };
        let line = |rest: &str| {
            format!(r#"{{"type":"line","cursor":"after:1","source":"combined"{rest}}}"#)
        };
        check(&line(r#","text":"héllo""#), Some("héllo".as_bytes()));
        check(&line(r#","base64":"//4A""#), Some(&[0xff, 0xfe, 0]));
        check(&line(r#","base64":"???""#), None);
        check(&line(""), Some(b""));
        check(
            r#"{"type":"gap","from":"1","to":"2","reason":"retention"}"#,
            None,
        );
    }

    #[tokio::test]
    async fn records_are_found_in_any_cut() {
        let text = concat!(
            r#"{"type":"line","cursor":"after:1","source":"combined","text":"a"}"#,
            "\n\n",
            r#"{"type":"gap","from":"1","to":"9","reason":"retention"}"#,
            "\n"
        );
        for size in [1, 3, 1000] {
            let chunks: Vec<_> = text
                .as_bytes()
                .chunks(size)
                .map(|c| Ok(c.to_vec()))
                .collect();
            let mut records = LogRecords::new("http://x", futures::stream::iter(chunks).boxed());
            assert_eq!(
                records.next().await.unwrap().and_then(|r| r.bytes()),
                Some(b"a".to_vec())
            );
            assert!(matches!(
                records.next().await.unwrap(),
                Some(LogRecord::Gap { .. })
            ));
            assert_eq!(records.next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_torn_record_is_an_error() {
        let body = futures::stream::iter([Ok(b"{\"type\":".to_vec())]).boxed();
        let error = LogRecords::new("http://x", body).next().await.unwrap_err();
        assert!(error.is_retryable());
    }
}
