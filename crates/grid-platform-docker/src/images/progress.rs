//! How far a pull or a load is.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use bollard::models::{CreateImageInfo, ProgressDetail};
use grid_platform_api::{NodeId, Progress};
use tokio::sync::broadcast;

/// How often people are told how far it is: often enough to be seen moving, and few enough messages for a grid of many.
const OFTEN: Duration = Duration::from_secs(1);
/// How many messages a watcher may be behind. What it misses is replaced by the next one.
const BACKLOG: usize = 64;

/// Who is told how far the images of nodes are.
pub(crate) struct Telling(broadcast::Sender<(NodeId, Progress)>);

impl Default for Telling {
    fn default() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }
}

impl Telling {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<(NodeId, Progress)> {
        self.0.subscribe()
    }

    /// A teller for one node's image.
    pub(super) fn of<'a>(&'a self, node: &'a NodeId) -> Teller<'a> {
        Teller {
            telling: self,
            node,
            told_at: Mutex::new(None),
        }
    }
}

/// Tells how far one node's image is, at most once in a while.
pub(super) struct Teller<'a> {
    telling: &'a Telling,
    node: &'a NodeId,
    told_at: Mutex<Option<Instant>>,
}

impl Teller<'_> {
    /// Tells it, unless something was told a moment ago.
    pub(super) fn tell(&self, progress: impl FnOnce() -> Progress) {
        let now = Instant::now();
        {
            let mut told_at = self
                .told_at
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if told_at.is_some_and(|it| now - it < OFTEN) {
                return;
            }
            *told_at = Some(now);
        }
        // Nobody may be watching.
        let _ = self.telling.0.send((self.node.clone(), progress()));
    }
}

/// The layers of an image that is being pulled, as the engine tells of them.
#[derive(Debug, Default)]
pub(super) struct Layers(BTreeMap<String, Layer>);

#[derive(Debug, Default)]
struct Layer {
    /// Bytes that came, and how many there will be, where that is known.
    bytes: u64,
    total: Option<u64>,
    /// It is here: downloaded, or there before.
    fetched: bool,
    /// It is unpacked.
    done: bool,
}

impl Layers {
    /// Takes in one message.
    pub(super) fn take(&mut self, message: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&message.id, &message.status) else {
            return;
        };
        // The message that a pull begins has the tag where the others have a layer.
        if status.starts_with("Pulling from") {
            return;
        }
        let layer = self.0.entry(id.clone()).or_default();
        match status.as_str() {
            "Downloading" => layer.downloading(message.progress_detail.as_ref()),
            "Verifying Checksum" | "Download complete" | "Extracting" => layer.fetched(),
            "Pull complete" => {
                layer.fetched();
                layer.done = true;
            }
            "Already exists" => {
                layer.fetched = true;
                layer.done = true;
            }
            _ => {}
        }
    }

    /// How far the whole is.
    pub(super) fn progress(&self, reference: &str) -> Progress {
        let layers = self.0.values();
        let count = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
        let all_fetched = !self.0.is_empty() && layers.clone().all(|it| it.fetched);
        Progress {
            message: match all_fetched {
                true => format!("unpacking the image `{reference}`"),
                false => format!("pulling the image `{reference}`"),
            },
            parts: count(self.0.len()),
            parts_done: count(layers.clone().filter(|it| it.done).count()),
            bytes_done: layers.clone().map(|it| it.bytes).sum(),
            bytes: layers
                .clone()
                .filter(|it| !it.done || it.total.is_some())
                .map(|it| it.total)
                .sum::<Option<u64>>()
                .filter(|it| *it > 0),
        }
    }
}

impl Layer {
    fn downloading(&mut self, detail: Option<&ProgressDetail>) {
        let figure = |it: Option<i64>| it.and_then(|it| u64::try_from(it).ok());
        if let Some(detail) = detail {
            self.bytes = figure(detail.current).unwrap_or(self.bytes);
            self.total = figure(detail.total).filter(|it| *it > 0).or(self.total);
        }
    }

    fn fetched(&mut self) {
        self.fetched = true;
        match self.total {
            Some(total) => self.bytes = total,
            // A small one may come between two messages.
            None => self.total = Some(self.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, status: &str, detail: Option<(i64, i64)>) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: detail.map(|(current, total)| ProgressDetail {
                current: Some(current),
                total: Some(total),
            }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn layers_and_bytes_add_up() {
        let mut layers = Layers::default();
        let mut check = |id: &str, status: &str, detail, expect: (u32, u32, u64, Option<u64>)| {
            layers.take(&message(id, status, detail));
            let it = layers.progress("r");
            let got = (it.parts_done, it.parts, it.bytes_done, it.bytes);
            assert_eq!(got, expect, "{id} {status}");
            it.message
        };
        check("7", "Pulling from library/redis", None, (0, 0, 0, None));
        check("a", "Pulling fs layer", None, (0, 1, 0, None));
        check("b", "Already exists", None, (1, 2, 0, None));
        check("a", "Downloading", Some((5, 20)), (1, 2, 5, Some(20)));
        check("c", "Waiting", None, (1, 3, 5, None));
        check("a", "Downloading", Some((15, 20)), (1, 3, 15, None));
        let words = check("c", "Downloading", Some((1, 2)), (1, 3, 16, Some(22)));
        assert_eq!(words, "pulling the image `r`");
        check("a", "Download complete", None, (1, 3, 21, Some(22)));
        let words = check("c", "Verifying Checksum", None, (1, 3, 22, Some(22)));
        assert_eq!(words, "unpacking the image `r`");
        check("a", "Extracting", Some((3, 20)), (1, 3, 22, Some(22)));
        check("a", "Pull complete", None, (2, 3, 22, Some(22)));
        check("c", "Pull complete", None, (3, 3, 22, Some(22)));
    }

    #[test]
    fn figures_that_are_none_do_no_harm() {
        let mut layers = Layers::default();
        layers.take(&message("a", "Downloading", Some((-1, -1))));
        layers.take(&CreateImageInfo::default());
        layers.take(&message("a", "Downloading", Some((7, 0))));
        let it = layers.progress("r");
        assert_eq!((it.bytes_done, it.bytes, it.parts), (7, None, 1));
    }

    #[test]
    fn people_are_told_once_in_a_while() {
        let telling = Telling::default();
        let mut told = telling.subscribe();
        let node = NodeId::new("n1").unwrap();
        let teller = telling.of(&node);
        for bytes in 0..100 {
            teller.tell(|| Progress {
                bytes_done: bytes,
                ..Progress::default()
            });
        }
        let (of, first) = told.try_recv().unwrap();
        assert_eq!((of, first.bytes_done), (node.clone(), 0));
    }
}
