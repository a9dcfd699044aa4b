//! `/api/grid/nodes/{id}/logs`: a node's log, read through its agent.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::State as Shared,
    http::header,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::stream;
use grid_client::{ErrorBody, LogQuery, LogRecord};
use grid_platform_api::{LogCursor, LogItem, LogSource};
use grid_proto::v1;
use tokio_util::sync::CancellationToken;

use super::{
    extract::{Id, Params, Reader},
    nodes::session_of,
};
use crate::{
    app::App,
    error::ApiError,
    link::{LogReader, broken_off},
};

/// Where a log begins when the request does not say.
const TAIL: usize = 100;

/// A node's log, a JSON value per line: lines, gaps, and an error if it breaks off.
#[utoipa::path(
    get, path = "/api/grid/nodes/{id}/logs", tag = "nodes", operation_id = "getLogs",
    params(("id" = String, Path, pattern = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", description = "The node's id"), LogQuery),
    responses(
        (status = 200, body = LogRecord, content_type = "application/x-ndjson"),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    ),
)]
pub(super) async fn logs(
    Reader(token): Reader,
    Id(id): Id,
    Params(query): Params<LogQuery>,
    Shared(app): Shared<Arc<App>>,
) -> Result<Response, ApiError> {
    let cursor = match &query.cursor {
        Some(text) => text.parse()?,
        None => LogCursor::Tail(TAIL),
    };
    let session = session_of(&app, &id)?;
    let (reader, first) = app.logs.open(&session, &id, &cursor, query.follow).await?;
    app.grid.metrics.log_streams.inc();
    let state = State {
        revoked: app.grid.revoked(&token.id),
        app,
        reader,
        next: Some(first),
        over: false,
    };
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let body = stream::unfold(state, |mut state| async move {
        let frame = match state.next.take() {
            Some(frame) => frame,
            None if state.over => return None,
            None => tokio::select! {
                frame = state.reader.next() => frame?,
                // Not the log's end: who follows it goes on with the next master.
                () = state.app.shutdown.cancelled() => {
                    state.over = true;
                    broken_off("the master is ending")
                }
                () = state.revoked.cancelled() => return None,
            },
        };
        Some((Ok::<_, std::convert::Infallible>(lines(frame)), state))
    });
    Ok((headers, Body::from_stream(body)).into_response())
}

/// A log on its way to its reader; dropped, the agent's call ends.
struct State {
    app: Arc<App>,
    revoked: CancellationToken,
    reader: LogReader,
    next: Option<v1::LogFrame>,
    /// Nothing follows any more.
    over: bool,
}

impl Drop for State {
    fn drop(&mut self) {
        self.app.grid.metrics.log_streams.dec();
    }
}

/// A frame as lines of JSON.
fn lines(frame: v1::LogFrame) -> Bytes {
    let mut out = Vec::new();
    let mut push = |record: &LogRecord| {
        // Texts and flags: it always has a JSON form.
        if serde_json::to_writer(&mut out, record).is_ok() {
            out.push(b'\n');
        }
    };
    for item in frame.items {
        match grid_proto::log_item_from_wire(item) {
            Ok(item) => push(&record(item)),
            Err(error) => push(&LogRecord::Error {
                error: error.to_report(),
            }),
        }
    }
    if let Some(error) = grid_proto::report_from_json(&frame.error_json) {
        push(&LogRecord::Error { error });
    }
    out.into()
}

fn record(item: LogItem) -> LogRecord {
    match item {
        LogItem::Gap { from, to, reason } => LogRecord::Gap {
            from: from.as_str().to_owned(),
            to: to.as_str().to_owned(),
            reason,
        },
        LogItem::Line(line) => {
            let (text, base64) = match String::from_utf8(line.bytes.to_vec()) {
                Ok(text) => (Some(text), None),
                Err(binary) => (None, Some(BASE64_STANDARD.encode(binary.as_bytes()))),
            };
            LogRecord::Line {
                cursor: LogCursor::After(line.position).to_string(),
                at: line.at.map(|at| at.to_string()),
                source: match line.source {
                    LogSource::Combined => "combined",
                    LogSource::Stdout => "stdout",
                    LogSource::Stderr => "stderr",
                }
                .to_owned(),
                text,
                base64,
                partial: line.partial,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_one_json_value() {
        let line = |data: &[u8]| v1::LogItem {
            item: Some(v1::log_item::Item::Line(v1::LogLine {
                position: "7".into(),
                data: data.to_vec(),
                source: "stdout".into(),
                ..v1::LogLine::default()
            })),
        };
        let text = lines(v1::LogFrame {
            items: vec![line(b"a\nb"), line(&[0xff, 0])],
            ..v1::LogFrame::default()
        });
        assert_eq!(
            text,
            "{\"type\":\"line\",\"cursor\":\"after:7\",\"source\":\"stdout\",\"text\":\"a\\nb\"}\n\
             {\"type\":\"line\",\"cursor\":\"after:7\",\"source\":\"stdout\",\"base64\":\"/wA=\"}\n"
        );
    }
}
