//! `PUT`: a body from the network into the store, in bounded memory.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use grid_listen::Patience;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};
use hyper::{Response, StatusCode};
use tokio::task::JoinHandle;

use super::{App, download, header, reply, write_condition};
use crate::content::ContentWriter;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::store::{Body, INLINE_BYTES, PutOptions, Store};

/// Bytes of a body gathered for one write: while one such part is written, the next arrives, so
/// that an upload holds at most two of them.
const PART_BYTES: usize = 256 * 1024;

pub(super) async fn put(
    app: &App,
    store: &Store,
    key: &Key,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Result<Response<reply::Body>, Error> {
    let options = options(headers)?;
    let length = announced_length(headers, body)?;
    if length.is_some_and(|length| length > app.limits.max_object_bytes) {
        return Err(too_large(app));
    }
    // Judged again when it is committed; this saves sending a body for nothing.
    options
        .condition
        .check(key, store.row(key)?.map(|row| row.generation))?;
    let body = receive(app, store, body, length).await?;
    let (meta, existed) = store.put_async(key, body, options).await?;
    let status = if existed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let mut response = reply::json(status, &download::Entry::new(key, &meta));
    download::describe(&meta, response.headers_mut());
    Ok(response)
}

fn options(headers: &HeaderMap) -> Result<PutOptions, Error> {
    let invalid = |message: &str, hint: &str| Error::new(ErrorKind::InvalidRequest, message, hint);
    if headers.contains_key(CONTENT_RANGE) {
        return Err(invalid(
            "a part of an object cannot be written",
            "Send the whole object without `Content-Range`.",
        ));
    }
    let expected_crc32 = match header(headers, "x-checksum-crc32")? {
        None => None,
        Some(text) => Some(parse_crc(text).ok_or_else(|| {
            invalid(
                "`x-checksum-crc32` is not 8 hexadecimal digits",
                "Send the CRC-32 (IEEE) of the body, such as `0a1b2c3d`.",
            )
        })?),
    };
    Ok(PutOptions {
        content_type: header(headers, CONTENT_TYPE.as_str())?.map(str::to_owned),
        condition: write_condition(headers)?,
        expected_crc32,
    })
}

fn parse_crc(text: &str) -> Option<u32> {
    let hex = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// The body's length, if the client says it. hyper has refused contradictory ones.
fn announced_length(headers: &HeaderMap, body: &Incoming) -> Result<Option<u64>, Error> {
    if headers.contains_key(CONTENT_LENGTH) {
        return Ok(body.size_hint().exact());
    }
    // Neither a length nor chunks: HTTP says that the body is empty.
    Ok(body.is_end_stream().then_some(0))
}

fn too_large(app: &App) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "the object is larger than {} bytes",
            app.limits.max_object_bytes
        ),
        "Split it into several objects.",
    )
}

async fn receive(
    app: &App,
    store: &Store,
    body: &mut Incoming,
    length: Option<u64>,
) -> Result<Body, Error> {
    let mut patience = Patience::new(app.limits.stall_timeout);
    let mut small = BytesMut::new();
    if length.is_none_or(|length| length <= INLINE_BYTES as u64) {
        loop {
            match next_frame(app, &mut patience, body).await? {
                None => return Ok(Body::Inline(small.freeze())),
                Some(bytes) => small.extend_from_slice(&bytes),
            }
            if small.len() > INLINE_BYTES {
                break;
            }
        }
    }
    // Refused here, a client that waits for `100 Continue` has sent nothing yet.
    let writer = store.content_writer(length)?;
    let mut upload = Upload {
        writer: Some(writer),
        writing: None,
        parts: Vec::new(),
        gathered: 0,
    };
    let mut received = small.len() as u64;
    upload.push(small.freeze()).await?;
    while let Some(bytes) = next_frame(app, &mut patience, body).await? {
        received += bytes.len() as u64;
        if received > app.limits.max_object_bytes {
            return Err(too_large(app));
        }
        upload.push(bytes).await?;
    }
    upload.finish().await
}

/// The next bytes of the body; `None` at its end.
async fn next_frame(
    app: &App,
    patience: &mut Patience,
    body: &mut Incoming,
) -> Result<Option<Bytes>, Error> {
    loop {
        let begun = Instant::now();
        let incomplete = |message: String| {
            Error::new(
                ErrorKind::IncompleteBody,
                message,
                "Send the object again; nothing was stored.",
            )
        };
        let frame = tokio::time::timeout(patience.left(), body.frame())
            .await
            .map_err(|_| {
                incomplete(format!(
                    "nothing of the body, or too little, arrived for {} s",
                    app.limits.stall_timeout.as_secs()
                ))
            })?;
        match frame {
            None => return Ok(None),
            Some(Err(source)) => {
                return Err(incomplete("the body ended early".to_owned()).with_source(source));
            }
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                patience.progress(begun.elapsed(), bytes);
                // Trailers carry nothing that is kept.
                if let Ok(data) = frame.into_data() {
                    app.metrics.received(data.len() as u64);
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A large body on its way: written by blocking threads while more of it arrives. Dropped
/// unfinished, it leaves nothing on disk.
struct Upload {
    /// `None` while a thread has it.
    writer: Option<ContentWriter>,
    writing: Option<JoinHandle<Result<ContentWriter, Error>>>,
    parts: Vec<Bytes>,
    gathered: usize,
}

impl Upload {
    async fn push(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.gathered += bytes.len();
        self.parts.push(bytes);
        if self.gathered >= PART_BYTES {
            self.write().await
        } else {
            Ok(())
        }
    }

    async fn write(&mut self) -> Result<(), Error> {
        let mut writer = self.take_writer().await?;
        let parts = std::mem::take(&mut self.parts);
        self.gathered = 0;
        self.writing = Some(tokio::task::spawn_blocking(move || {
            for part in parts {
                writer.write(&part)?;
            }
            Ok(writer)
        }));
        Ok(())
    }

    async fn take_writer(&mut self) -> Result<ContentWriter, Error> {
        if let Some(writing) = self.writing.take() {
            return join(writing).await;
        }
        self.writer
            .take()
            .ok_or_else(|| Error::unavailable("the upload has failed before"))
    }

    async fn finish(mut self) -> Result<Body, Error> {
        self.write().await?;
        let writer = self.take_writer().await?;
        let finishing = tokio::task::spawn_blocking(move || writer.finish());
        let (info, pending) = join(finishing).await?;
        Ok(Body::File(info, pending))
    }
}

/// The result of a blocking task.
pub(super) async fn join<T>(task: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    task.await.unwrap_or_else(|source| {
        Err(Error::unavailable("a task of the server failed").with_source(source))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_eight_hexadecimal_digits() {
        let check = |text: &str, expect: Option<u32>| assert_eq!(parse_crc(text), expect, "{text}");
        check("0a1b2c3d", Some(0x0a1b_2c3d));
        check("0A1B2C3D", Some(0x0a1b_2c3d));
        check("a1b2c3d", None);
        check("+a1b2c3d", None);
        check("0a1b2c3d0", None);
        check("", None);
    }
}
