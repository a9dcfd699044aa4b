//! Watches.

use std::{io, time::Duration};

use bytes::Bytes;
use futures::stream;
use hyper::Response;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Fake,
    objects::{self, Happened},
    refused, reply,
    reply::Reply,
    request::Asked,
    trouble::WatchUpset,
};

/// One watch.
struct Watch {
    fake: Fake,
    asked: Asked,
    /// What happened up to this version was told.
    told: u64,
    news: watch::Receiver<u64>,
    ends: Instant,
    /// When it tells the next thing that happened.
    wakes: Option<Instant>,
    /// How often all watches were cut when it began.
    cuts: u64,
    is_deaf: bool,
    is_over: bool,
}

impl Fake {
    pub(super) fn watch(&self, asked: Asked) -> Response<Reply> {
        let state = self.state();
        let number = |name: &str| asked.query.get(name).and_then(|it| it.parse::<u64>().ok());
        let told = number("resourceVersion").unwrap_or_default();
        if state.objects.is_forgotten(told) {
            return refused(410, "Expired", "too old resource version");
        }
        let watch = Watch {
            told,
            news: state.news.subscribe(),
            ends: Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(300)),
            wakes: None,
            cuts: state.trouble.cuts,
            is_deaf: false,
            is_over: state.trouble.watches_end(),
            fake: self.clone(),
            asked,
        };
        drop(state);
        let parts = stream::unfold(watch, |mut watch| async {
            watch.next().await.map(|it| (it, watch))
        });
        reply(200, Reply::parts(parts))
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

impl Watch {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if self.is_over {
                return None;
            }
            if let Some(part) = self.step() {
                return part.map(|it| it.map(Bytes::from));
            }
            tokio::select! {
                // The fake is there as long as its watches.
                _ = self.news.changed() => {}
                () = sleep_until(self.wakes.unwrap_or(self.ends)), if self.wakes.is_some() => {}
                () = sleep_until(self.ends) => {
                    self.is_over = true;
                    return Some(Ok(Bytes::from(self.bookmark())));
                }
            }
        }
    }

    fn bookmark(&self) -> String {
        let version = self.fake.state().objects.version().max(self.told);
        let meta = json!({"resourceVersion": version.to_string()});
        line(
            "BOOKMARK",
            &json!({"kind": "Any", "apiVersion": "v1", "metadata": meta}),
        )
    }

    /// What comes next: `None` is nothing for now, `Some(None)` the end.
    fn step(&mut self) -> Option<Option<io::Result<String>>> {
        let fake = self.fake.clone();
        let mut state = fake.state();
        self.news.mark_unchanged();
        if state.trouble.cuts != self.cuts {
            self.is_over = true;
            return Some(Some(Err(io::ErrorKind::ConnectionReset.into())));
        }
        if self.is_deaf {
            return None;
        }
        let resource = self.asked.resource.as_str();
        let mut next = None;
        let (now, lag) = (Instant::now(), state.trouble.lag());
        self.wakes = None;
        for happened in state.objects.since(resource, self.told) {
            if happened.at + lag > now {
                self.wakes = Some(happened.at + lag);
                break;
            }
            self.told = happened.version;
            next = event(&self.asked, happened);
            if next.is_some() {
                break;
            }
        }
        let upset = state.trouble.meet_watch(resource, next.is_some());
        self.is_over = upset.as_ref().is_some_and(|it| *it != WatchUpset::Deaf);
        match (upset, next) {
            (None, next) => next.map(|it| Some(Ok(it))),
            (Some(WatchUpset::Deaf), _) => {
                self.is_deaf = true;
                None
            }
            (Some(WatchUpset::End), _) => Some(None),
            (Some(WatchUpset::Break), _) => Some(Some(Err(io::ErrorKind::ConnectionReset.into()))),
            (Some(WatchUpset::Middle), next) => {
                let whole = next.unwrap_or_default();
                Some(Some(Ok(whole[..whole.len() / 2].to_owned())))
            }
            (Some(WatchUpset::Error(code)), _) => {
                let reason = if code == 410 {
                    "Expired"
                } else {
                    "InternalError"
                };
                let (_, status) = objects::refusal(code, reason, "the watch cannot go on");
                Some(Some(Ok(line("ERROR", &status))))
            }
        }
    }
}

/// What happened as a watch tells of it, which goes by the labels alone.
fn event(asked: &Asked, happened: &Happened) -> Option<String> {
    let before = happened.before.as_ref().filter(|it| asked.selects(it));
    let after = happened.after.as_ref().filter(|it| asked.selects(it));
    match (before, after) {
        (None, None) => None,
        (None, Some(new)) => Some(line("ADDED", new)),
        (Some(_), Some(new)) => Some(line("MODIFIED", new)),
        (Some(gone), None) => {
            let mut gone = gone.clone();
            gone["metadata"]["resourceVersion"] = happened.version.to_string().into();
            Some(line("DELETED", &gone))
        }
    }
}
