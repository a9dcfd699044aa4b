//! `GET`, `HEAD` and listings: from the store to the network, verified before it is sent.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    IF_MATCH, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::range::{Span, etag, parse_range, tag_matches};
use super::upload::join;
use super::{App, header, reply, target};
use crate::content::{CHUNK_BYTES, ContentReader};
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::row::{Place, Row};
use crate::store::{ObjectMeta, Opened, Store, meta_of};

/// Chunks read ahead of the one that is being sent.
const READ_AHEAD: usize = 2;

/// An object in JSON: in listings, and as the answer to a `PUT`.
#[derive(Serialize)]
pub(super) struct Entry<'a> {
    key: &'a str,
    size: u64,
    etag: String,
    crc32: String,
    modified: String,
    content_type: &'a str,
}

impl<'a> Entry<'a> {
    pub(super) fn new(key: &'a Key, meta: &'a ObjectMeta) -> Self {
        Self {
            key: key.as_str(),
            size: meta.size,
            etag: etag(meta),
            crc32: format!("{:08x}", meta.crc32),
            modified: modified(meta).to_string(),
            content_type: &meta.content_type,
        }
    }
}

#[derive(Serialize)]
struct ListDocument<'a> {
    objects: Vec<Entry<'a>>,
    /// The `after` of the next page; `null` at the end.
    next: Option<&'a str>,
}

pub(super) async fn list(store: &Arc<Store>, query: &str) -> Result<Response<reply::Body>, Error> {
    let query = target::parse_list(query)?;
    let store = Arc::clone(store);
    let task = tokio::task::spawn_blocking(move || {
        store.list(&query.prefix, query.after.as_deref(), query.limit)
    });
    let listing = join(task).await?;
    let document = ListDocument {
        objects: listing
            .objects
            .iter()
            .map(|(key, meta)| Entry::new(key, meta))
            .collect(),
        next: listing.next.as_ref().map(Key::as_str),
    };
    Ok(reply::json(StatusCode::OK, &document))
}

pub(super) fn head(
    store: &Store,
    key: &Key,
    headers: &HeaderMap,
) -> Result<Response<reply::Body>, Error> {
    let row = store.row(key)?.ok_or_else(|| not_found(key))?;
    let meta = meta_of(&row);
    if let Some(response) = conditions(key, &meta, headers)? {
        return Ok(response);
    }
    // `Range` is for GET alone.
    let mut response = reply::empty(StatusCode::OK);
    describe(&meta, response.headers_mut());
    represent(&meta, response.headers_mut());
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(meta.size));
    Ok(response)
}

pub(super) async fn get(
    app: &App,
    store: &Arc<Store>,
    key: &Key,
    headers: &HeaderMap,
) -> Result<Response<reply::Body>, Error> {
    let row = store.row(key)?.ok_or_else(|| not_found(key))?;
    if let Some(response) = conditions(key, &meta_of(&row), headers)? {
        return Ok(response);
    }
    let (row, opened) = if matches!(row.place, Place::Inline(_)) {
        // Verifying at most 16 KiB is quicker than asking another thread to.
        let opened = store.open_row(key, &row)?;
        (row, opened)
    } else {
        open_file(store, key, row).await?
    };
    // Replaced since it was looked up, and deleted since.
    let opened = opened.ok_or_else(|| not_found(key))?;
    let meta = meta_of(&row);
    let (start, end) = match span(&meta, headers)? {
        Span::Unsatisfiable => return Ok(unsatisfiable(&meta)),
        Span::Whole => (0, meta.size),
        Span::Part(start, end) => (start, end),
    };
    let partial = (start, end) != (0, meta.size) || matches!(span(&meta, headers)?, Span::Part(..));
    let body = match opened {
        Opened::Inline(bytes) => {
            app.metrics.sent(end - start);
            // Within the body, which is small: both fit.
            reply::full(bytes.slice(start as usize..end as usize))
        }
        Opened::File(reader) => stream_file(app, store, key, reader, start, end).await?,
    };
    let mut response = Response::new(body);
    describe(&meta, response.headers_mut());
    represent(&meta, response.headers_mut());
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(end - start));
    if partial {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        insert(
            response.headers_mut(),
            CONTENT_RANGE,
            format!("bytes {start}-{}/{}", end - 1, meta.size),
        );
    }
    Ok(response)
}

/// Opens a content file on a blocking thread; if the object was replaced meanwhile, its new
/// version.
async fn open_file(
    store: &Arc<Store>,
    key: &Key,
    row: Row,
) -> Result<(Row, Option<Opened>), Error> {
    let store = Arc::clone(store);
    let key = key.clone();
    join(tokio::task::spawn_blocking(move || {
        if let Some(opened) = store.open_row(&key, &row)? {
            return Ok((row, Some(opened)));
        }
        Ok(match store.open_object(&key)? {
            Some((row, opened)) => (row, Some(opened)),
            None => (row, None),
        })
    }))
    .await
}

/// The bytes of a content file as a body. The first chunk is verified before there is an
/// answer; a later one that is corrupt ends the connection, which the client sees as a body
/// shorter than its `Content-Length`.
async fn stream_file(
    app: &App,
    store: &Arc<Store>,
    key: &Key,
    reader: ContentReader,
    start: u64,
    end: u64,
) -> Result<reply::Body, Error> {
    let reader = Arc::new(reader);
    let context = Arc::new((Arc::clone(store), key.clone()));
    let metrics = Arc::clone(&app.metrics);
    let read = move |offset: u64| {
        let reader = Arc::clone(&reader);
        let context = Arc::clone(&context);
        let metrics = Arc::clone(&metrics);
        join(tokio::task::spawn_blocking(move || {
            let (store, key) = &*context;
            let chunk = store.count_corrupt(key, reader.read(offset, end))?;
            metrics.sent(chunk.len() as u64);
            Ok(chunk)
        }))
    };
    let first = read(start).await?;
    let chunk_bytes = CHUNK_BYTES as u64;
    let second = (start / chunk_bytes + 1) * chunk_bytes;
    let offsets = (second..end).step_by(CHUNK_BYTES);
    let rest = stream::iter(offsets).map(read).buffered(READ_AHEAD);
    let frames = stream::iter([Ok(first)]).chain(rest).map_ok(Frame::data);
    Ok(StreamBody::new(frames).boxed_unsync())
}

/// What the conditions of a read say: `Some` answer without a body, or go on.
fn conditions(
    key: &Key,
    meta: &ObjectMeta,
    headers: &HeaderMap,
) -> Result<Option<Response<reply::Body>>, Error> {
    let tag = etag(meta);
    if let Some(wanted) = header(headers, IF_MATCH.as_str())?
        && !tag_matches(wanted, &tag)
    {
        return Err(Error::new(
            ErrorKind::PreconditionFailed,
            format!("the object `{key}` has changed"),
            "Read it without `If-Match`.",
        ));
    }
    if let Some(known) = header(headers, IF_NONE_MATCH.as_str())?
        && tag_matches(known, &tag)
    {
        let mut response = reply::empty(StatusCode::NOT_MODIFIED);
        describe(meta, response.headers_mut());
        return Ok(Some(response));
    }
    Ok(None)
}

fn span(meta: &ObjectMeta, headers: &HeaderMap) -> Result<Span, Error> {
    // A range of another version is no use to the client: it then gets the whole.
    if let Some(known) = header(headers, IF_RANGE.as_str())?
        && known != etag(meta)
    {
        return Ok(Span::Whole);
    }
    Ok(header(headers, RANGE.as_str())?.map_or(Span::Whole, |range| parse_range(range, meta.size)))
}

fn unsatisfiable(meta: &ObjectMeta) -> Response<reply::Body> {
    let mut response = reply::error(&Error::new(
        ErrorKind::RangeNotSatisfiable,
        format!("the range lies outside the object's {} bytes", meta.size),
        "Ask for bytes within the size in `Content-Range`.",
    ));
    insert(
        response.headers_mut(),
        CONTENT_RANGE,
        format!("bytes */{}", meta.size),
    );
    response
}

pub(super) fn not_found(key: &Key) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("no object `{key}`"),
        "List what there is with `GET /v1/objects?prefix=`.",
    )
}

/// The headers that name a version, on every answer about an object.
pub(super) fn describe(meta: &ObjectMeta, headers: &mut HeaderMap) {
    insert(headers, ETAG, etag(meta));
    insert(headers, "x-checksum-crc32", format!("{:08x}", meta.crc32));
    if let Ok(date) =
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&modified(meta))
    {
        insert(headers, LAST_MODIFIED, date);
    }
}

/// The headers that describe a body.
fn represent(meta: &ObjectMeta, headers: &mut HeaderMap) {
    insert(headers, CONTENT_TYPE, meta.content_type.clone());
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // What was uploaded is shown as what it was uploaded as, never guessed to be a page.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn modified(meta: &ObjectMeta) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(meta.modified_ms).unwrap_or_default()
}

fn insert(headers: &mut HeaderMap, name: impl hyper::header::IntoHeaderName, value: String) {
    // Every value is made of visible ASCII, or came in as a header; what is not is left out.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
