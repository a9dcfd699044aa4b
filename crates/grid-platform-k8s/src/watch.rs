//! The cluster's news into the registry.
//!
//! Claims and pods are each listed and then watched from that version on, for as long as the platform is open. A watch that ends goes
//! on from the last version that was heard; one that the server cannot go on with (410 Gone) begins with a list again. Until a watch
//! is taken up again, what is known may be old, and is not given out as what is.
//!
//! A server whose store was played back from a backup has earlier versions than were heard, and a watch from these on tells nothing until
//! it is past them. The server was away for that: where a watch did not end as it should, the version is asked for before the next one.

use std::{
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{Stream, StreamExt};
use grid_platform_api::{ErrorKind, Result};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::{
    ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    error::{Fault, error},
    lease::Beat,
    platform::Inner,
    registry::{Change, is_of_before},
    translate::label,
    watched::Watched,
};

/// How many objects a list gives at once.
const PAGE: u32 = 500;
/// How long a watch lasts, in seconds, before it is taken up again: the client library takes up to 294, and servers no less than that.
const WATCH: u32 = 280;
/// The first and the longest wait before a watch is taken up again; after one that lasted longer than that it is the first.
const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(5);
/// How long a caller waits for what is known to be what is.
const PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    /// Waits until what is known is what is.
    ///
    /// # Errors
    /// `Stale` when that takes too long; what the cluster says, where it refuses to tell.
    pub(crate) async fn synced(&self) -> Result<()> {
        let mut synced = self.registry.synced();
        let all = timeout(PATIENCE, synced.wait_for(|it| it.all())).await;
        // A right that is missing has its own mend.
        let refused = self.registry.refused();
        match (all, refused) {
            (Ok(Ok(_)), _) => Ok(()),
            (_, Some(why)) => Err(why.with_retryable(true)),
            _ => Err(error(
                ErrorKind::Stale,
                format!(
                    "what is known of the nodes may be old: the cluster at `{}` does not tell of changes",
                    self.access.server
                ),
            )
            .with_hint("It is tried again: `kubectl get --raw /readyz` says how the API server is.")),
        }
    }

    /// Notes that the cluster refuses to tell of our objects; that it is away says the lease's heartbeat.
    fn heed_refusal<K: Watched>(&self, fault: Fault) {
        if K::OURS && !fault.is_away() && !fault.is_gone() {
            self.registry.set_refused(K::WHAT, Some(fault.into_error()));
        }
    }
}

/// Begins to watch. It goes on until the platform is dropped.
pub(crate) fn begin(inner: &Arc<Inner>) {
    tokio::spawn(run::<PersistentVolumeClaim>(Arc::downgrade(inner)));
    tokio::spawn(run::<Pod>(Arc::downgrade(inner)));
    tokio::spawn(run::<Event>(Arc::downgrade(inner)));
    tokio::spawn(heed_server(Arc::downgrade(inner)));
}

/// Notes whether the server answers, as the lease's renewals find out.
async fn heed_server(inner: Weak<Inner>) {
    let Some(mut beats) = inner.upgrade().map(|it| it.lease.heartbeat()) else {
        return;
    };
    loop {
        let answers = *beats.borrow_and_update() != Beat::Silent;
        match inner.upgrade() {
            Some(inner) => inner.registry.set_server(answers),
            None => return,
        }
        if beats.changed().await.is_err() {
            return;
        }
    }
}

/// What comes next.
#[derive(Clone, Copy)]
enum Next {
    /// Everything is read.
    List,
    /// The watch goes on, if the server has not gone back.
    Ask,
    /// The watch goes on.
    Watch,
}

async fn run<K: Watched>(inner: Weak<Inner>) {
    let Some(mut closing) = inner.upgrade().map(|it| it.closing.clone()) else {
        return;
    };
    let work = follow::<K>(inner);
    tokio::select! {
        _ = closing.changed() => {}
        () = work => {}
    }
}

async fn follow<K: Watched>(inner: Weak<Inner>) {
    let mut pause = SOON;
    let mut next = Next::List;
    // The last version that was heard.
    let mut version = String::new();
    let mut was_read = false;
    while let Some(strong) = inner.upgrade() {
        let ready = match next {
            Next::List => {
                K::heard(&strong.registry, &version);
                list::<K>(&strong).await.map(|listed| {
                    version = listed;
                    if std::mem::replace(&mut was_read, true) && K::OURS {
                        strong
                            .registry
                            .tell(Change::Resync(format!("the {} were read again", K::WHAT)));
                    }
                })
            }
            Next::Ask => match now::<K>(&strong).await {
                Ok(now) if is_of_before(&now, &version) => {
                    tracing::warn!(what = K::WHAT, now, version, "the cluster was set back");
                    next = Next::List;
                    continue;
                }
                asked => asked.map(drop),
            },
            Next::Watch => Ok(()),
        };
        match ready {
            Ok(()) => {
                drop(strong);
                next = listen::<K>(&inner, &mut version, &mut pause).await;
            }
            Err(fault) => {
                tracing::debug!(what = K::WHAT, %fault, "they cannot be read");
                strong.heed_refusal::<K>(fault);
            }
        }
        let Some(strong) = inner.upgrade() else {
            return;
        };
        K::synced(&strong.registry, false);
        drop(strong);
        sleep(pause).await;
        pause = (pause * 2).min(LATE);
    }
}

/// The version that the server is at.
async fn now<K: Watched>(inner: &Arc<Inner>) -> Result<String, Fault> {
    let params = ListParams {
        label_selector: selector::<K>(inner),
        limit: Some(1),
        ..ListParams::default()
    };
    let api = inner.access.api::<K>();
    let asked = api.list(&params);
    let what = format!("list the {}", K::WHAT);
    let page = inner.access.call(what, asked).await?;
    Ok(page.metadata.resource_version.unwrap_or_default())
}

fn selector<K: Watched>(inner: &Inner) -> Option<String> {
    K::OURS.then(|| {
        format!(
            "{}=true,{}={}",
            label::GRID,
            label::OWNER,
            inner.install.owner
        )
    })
}

/// Reads all of them; gives the version that they are of.
async fn list<K: Watched>(inner: &Arc<Inner>) -> Result<String, Fault> {
    let api = inner.access.api::<K>();
    let mut params = ListParams {
        label_selector: selector::<K>(inner),
        limit: Some(if K::OURS { PAGE } else { 1 }),
        ..ListParams::default()
    };
    let mut all = Vec::new();
    loop {
        let page = inner
            .access
            .call(format!("list the {}", K::WHAT), api.list(&params))
            .await?;
        let version = page.metadata.resource_version.unwrap_or_default();
        all.extend(page.items);
        match page
            .metadata
            .continue_
            .filter(|it| !it.is_empty() && K::OURS)
        {
            Some(more) => params.continue_token = Some(more),
            None => {
                K::reset(inner, all, &version).await;
                return Ok(version);
            }
        }
    }
}

async fn listen<K: Watched>(
    inner: &Weak<Inner>,
    version: &mut String,
    pause: &mut Duration,
) -> Next {
    let Some(strong) = inner.upgrade() else {
        return Next::List;
    };
    let params = WatchParams {
        label_selector: selector::<K>(&strong),
        field_selector: None,
        timeout: Some(WATCH),
        bookmarks: true,
        ..WatchParams::default()
    };
    let api = strong.access.api::<K>();
    let opened = strong
        .access
        .call(
            format!("watch the {}", K::WHAT),
            api.watch(&params, version),
        )
        .await;
    let events = match opened {
        Ok(events) => events,
        Err(fault) => {
            tracing::debug!(what = K::WHAT, %fault, "the watch cannot be taken up");
            if fault.is_gone() {
                return Next::List;
            }
            strong.heed_refusal::<K>(fault);
            return Next::Ask;
        }
    };
    strong.registry.set_refused(K::WHAT, None);
    K::synced(&strong.registry, true);
    let mut beats = strong.lease.heartbeat();
    beats.mark_unchanged();
    drop(strong);
    let begin = Instant::now();
    let next = hear(inner, events, beats, version).await;
    // One that ends again and again as soon as it begins is not begun all the time, whatever it tells first.
    if begin.elapsed() >= LATE {
        *pause = SOON;
    }
    next
}

/// Takes in what a watch tells, to its end.
async fn hear<K: Watched>(
    inner: &Weak<Inner>,
    events: impl Stream<Item = kube::Result<WatchEvent<K>>>,
    mut beats: watch::Receiver<Beat>,
    version: &mut String,
) -> Next {
    let mut events = pin!(events);
    // The server ends it before that. One that hangs does not, nor does what stands in front of one that died.
    let end = Instant::now() + Duration::from_secs(WATCH.into()) + LATE;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // A connection that died without a word is not told from a quiet one: where the server was silent, it is made anew.
            true = came_back(&mut beats) => return Next::Ask,
            () = sleep_until(end) => return Next::Ask,
        };
        let Some(inner) = inner.upgrade() else {
            return Next::List;
        };
        match event {
            Some(Ok(WatchEvent::Added(one) | WatchEvent::Modified(one))) => {
                if let Some(at) = one.resource_version() {
                    *version = at;
                }
                K::learn(&inner, one);
            }
            Some(Ok(WatchEvent::Deleted(one))) => {
                if let Some(at) = one.resource_version() {
                    *version = at;
                }
                K::forget(&inner, one);
            }
            Some(Ok(WatchEvent::Bookmark(mark))) => *version = mark.metadata.resource_version,
            Some(Ok(WatchEvent::Error(status))) => {
                tracing::debug!(what = K::WHAT, why = status.message, "they are read again");
                return Next::List;
            }
            Some(Err(e)) => {
                tracing::debug!(what = K::WHAT, error = %e, "the watch broke");
                return Next::Ask;
            }
            None => return Next::Watch,
        }
    }
}

/// Waits until the server answers again after a silence; `false` is never.
async fn came_back(beats: &mut watch::Receiver<Beat>) -> bool {
    let silence = async {
        beats
            .wait_for(|it| *it == Beat::Silent)
            .await
            .ok()
            .map(drop)?;
        beats
            .wait_for(|it| *it != Beat::Silent)
            .await
            .ok()
            .map(drop)
    };
    match silence.await {
        Some(_) => true,
        None => std::future::pending().await,
    }
}
