//! `/api/grid/events`: what happens, as server-sent events.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State as Shared,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use grid_client::{ErrorBody, Event};
use grid_platform_api::{Error, ErrorKind};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::extract::{Params, Reader};
use crate::{app::App, error::ApiError, events::Told};

/// A comment this often keeps proxies and clients from taking the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Begin behind this event. Left out: with what happens from now on, or with `follow=false` everything kept.
    after: Option<u64>,
    /// Go on with what happens later, as server-sent events; `false` answers a JSON array. True if left out.
    follow: Option<bool>,
}

/// What happens, as it happens. Each event's id is its SSE id: give the last one seen as `Last-Event-ID` (or `after`) to
/// resume. When events between are no longer kept, a `resync` comes first: read the lists again.
#[utoipa::path(
    get, path = "/api/grid/events", tag = "events", operation_id = "events",
    params(EventsQuery, ("Last-Event-ID" = Option<u64>, Header, description = "Begin behind this event")),
    responses(
        (status = 200, description = "With `follow`, events as `text/event-stream`; without, a JSON array", content(
            ([Event] = "application/json"), (String = "text/event-stream"))),
        (status = "4XX", body = ErrorBody),
    ),
)]
pub(super) async fn events(
    Reader(token): Reader,
    Params(query): Params<EventsQuery>,
    headers: HeaderMap,
    Shared(app): Shared<Arc<App>>,
) -> Result<Response, ApiError> {
    let after =
        match headers.get("last-event-id") {
            Some(text) => Some(text.to_str().ok().and_then(|t| t.parse().ok()).ok_or_else(
                || {
                    Error::new(
                        ErrorKind::InvalidConfig,
                        "`Last-Event-ID` is not an event's id",
                    )
                    .with_hint("Send the `id` of the last event seen, or nothing.")
                },
            )?),
            None => query.after,
        };
    if query.follow == Some(false) {
        return Ok(retained(&app, after));
    }
    let revoked = app.grid.revoked(&token.id);
    let cursor = after.unwrap_or_else(|| app.grid.events.newest());
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(follow(app, cursor, revoked))).into_response())
}

/// Everything that is kept behind `after`, as a JSON array.
fn retained(app: &App, after: Option<u64>) -> Response {
    let events = &app.grid.events;
    let newest = events.newest();
    let mut cursor = after.unwrap_or_else(|| events.oldest());
    let mut body = String::from("[");
    loop {
        let page = events.after(cursor);
        for told in &page.events {
            if body.len() > 1 {
                body.push(',');
            }
            body.push_str(&told.json);
        }
        cursor = page.cursor;
        // What happens meanwhile is not waited for.
        if page.events.is_empty() || cursor >= newest {
            break;
        }
    }
    body.push(']');
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Counts a follower while it is there.
struct Follower(Arc<App>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.grid.metrics.followers.dec();
    }
}

/// Where a follower is.
struct Following {
    follower: Follower,
    newest: watch::Receiver<u64>,
    revoked: CancellationToken,
    cursor: u64,
    first: bool,
}

impl Following {
    /// What the follower is sent next; `None` when it is to go.
    async fn next(&mut self) -> Option<Bytes> {
        // The head goes out at once, so that the reader knows that it is connected.
        if std::mem::take(&mut self.first) {
            return Some(Bytes::from_static(b": connected\n\n"));
        }
        let app = &self.follower.0;
        loop {
            self.newest.borrow_and_update();
            // A stream that always has more to say must not outlive its token either.
            if self.revoked.is_cancelled() {
                return None;
            }
            let page = app.grid.events.after(self.cursor);
            if !page.events.is_empty() {
                self.cursor = page.cursor;
                return Some(frames(&page.events));
            }
            tokio::select! {
                changed = self.newest.changed() => changed.ok()?,
                () = app.shutdown.cancelled() => return None,
                () = self.revoked.cancelled() => return None,
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    return Some(Bytes::from_static(b": still here\n\n"));
                }
            }
        }
    }
}

fn follow(
    app: Arc<App>,
    cursor: u64,
    revoked: CancellationToken,
) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    app.grid.metrics.followers.inc();
    let following = Following {
        newest: app.grid.events.watch(),
        follower: Follower(app),
        revoked,
        cursor,
        first: true,
    };
    stream::unfold(following, |mut following| async move {
        let bytes = following.next().await?;
        Some((Ok(bytes), following))
    })
}

fn frames(events: &[Arc<Told>]) -> Bytes {
    use std::fmt::Write;
    let mut text = String::new();
    for told in events {
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "id: {}\nevent: {}\ndata: {}\n\n",
            told.id, told.kind, told.json
        );
    }
    text.into()
}
