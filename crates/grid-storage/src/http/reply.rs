//! Answers: bodies, JSON, and errors as `{"error": {"kind", "message", "hint"}}`.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::error::{Error, ErrorKind};

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Error>;

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    kind: &'a str,
    message: &'a str,
    hint: &'a str,
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    with_status(status, Bytes::new())
}

pub(crate) fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = with_status(status, body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            let mut response = with_status(status, body);
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        // The documents of this crate are plain strings and numbers, which always serialize.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn with_status(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
}

pub(crate) fn error(error: &Error) -> Response<Body> {
    let fields = ErrorFields {
        kind: error.kind().as_str(),
        message: error.message(),
        hint: error.hint(),
    };
    let mut response = json(status_of(error.kind()), &ErrorDocument { error: fields });
    if error.kind() == ErrorKind::Unauthorized {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::InvalidKey | ErrorKind::InvalidRequest | ErrorKind::ChecksumMismatch => {
            StatusCode::BAD_REQUEST
        }
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorKind::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::IncompleteBody => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::ForeignData
        | ErrorKind::DamagedData
        | ErrorKind::UnsupportedFormat
        | ErrorKind::Locked
        | ErrorKind::Token
        | ErrorKind::Listen
        | ErrorKind::Corrupt
        | ErrorKind::Io => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
