//! Objects in storage nodes: written all the while, and read back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use grid_platform_api::NodeId;
use reqwest::StatusCode;
use tokio::time::{Instant, sleep};

use crate::platform::Ground;
use crate::report::Objects;

/// How many objects a node has at most; beyond that each new one is for one that is deleted.
const MOST: usize = 150;
/// How long an answer may take before it counts as lost.
const ANSWER: Duration = Duration::from_secs(5);

/// The bytes of an object, made again from its number at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    seed: u64,
    length: usize,
}

impl Body {
    fn new(rng: &mut Rng) -> Self {
        // Some lie in the index, some in files of their own.
        let length = if rng.u8(..8) == 0 {
            rng.usize(20_000..70_000)
        } else {
            rng.usize(0..3000)
        };
        Self {
            seed: rng.u64(..),
            length,
        }
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        Rng::with_seed(self.seed).fill(&mut bytes);
        bytes
    }
}

/// What may be stored under a key: one thing after an answer, several after one that was lost. `None` is nothing.
type Maybe = Vec<Option<Body>>;

/// What one node was given.
pub(crate) struct Ledger {
    ground: Arc<dyn Ground>,
    id: NodeId,
    port: u16,
    /// Where it was reached last.
    url: Option<String>,
    http: reqwest::Client,
    rng: Rng,
    next: u64,
    objects: BTreeMap<String, Maybe>,
    pub(crate) counts: Objects,
}

/// What came of a request.
enum Answer {
    Done,
    Lost,
}

impl Ledger {
    pub(crate) fn new(ground: Arc<dyn Ground>, id: NodeId, port: u16, seed: u64) -> Self {
        Self {
            ground,
            id,
            port,
            url: None,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(ANSWER)
                .build()
                .unwrap_or_default(),
            rng: Rng::with_seed(seed),
            next: 0,
            objects: BTreeMap::new(),
            counts: Objects::default(),
        }
    }

    /// Whether something was acknowledged that must be there.
    pub(crate) fn holds_something(&self) -> bool {
        self.objects.values().any(|it| !it.contains(&None))
    }

    /// Everything was deleted with the node's data.
    pub(crate) fn forget_all(&mut self) {
        self.objects.clear();
    }

    /// Where the node's objects are, if that can be said.
    fn url(&mut self) -> Option<String> {
        if self.url.is_none() {
            let address = self.ground.address(&self.id, self.port);
            self.url = address.map(|it| format!("http://{it}/v1/objects"));
        }
        self.url.clone()
    }

    /// Writes, overwrites or deletes one object. Whether the node answered.
    pub(crate) async fn step(&mut self) -> bool {
        let Some(url) = self.url() else {
            return false;
        };
        let answered = self.write(&url).await;
        if !answered {
            // It may be somewhere else by now.
            self.url = None;
        }
        answered
    }

    async fn write(&mut self, url: &str) -> bool {
        let old = (self.objects.len() >= MOST || self.rng.u8(..10) == 0)
            .then(|| {
                self.rng
                    .choice(self.objects.keys().cloned().collect::<Vec<_>>())
            })
            .flatten();
        match old {
            Some(key) if self.objects.len() >= MOST || self.rng.u8(..3) == 0 => {
                self.delete(url, key).await
            }
            Some(key) => self.put(url, key, true).await,
            None => {
                self.next += 1;
                let key = format!("key/{}", self.next);
                self.put(url, key, false).await
            }
        }
    }

    async fn put(&mut self, url: &str, key: String, again: bool) -> bool {
        let body = Body::new(&mut self.rng);
        let request = self.http.put(format!("{url}/{key}")).body(body.bytes());
        // Before it is sent: whoever drops this has not heard the answer either.
        self.objects
            .entry(key.clone())
            .or_insert_with(|| vec![None])
            .push(Some(body));
        let answer = ask(request).await;
        self.settle(key, Some(body), &answer);
        match answer {
            Answer::Done if again => self.counts.overwritten += 1,
            Answer::Done => self.counts.written += 1,
            Answer::Lost => self.counts.unknown += 1,
        }
        matches!(answer, Answer::Done)
    }

    async fn delete(&mut self, url: &str, key: String) -> bool {
        let request = self.http.delete(format!("{url}/{key}"));
        self.objects.entry(key.clone()).or_default().push(None);
        let answer = ask(request).await;
        self.settle(key, None, &answer);
        match answer {
            Answer::Done => self.counts.deleted += 1,
            Answer::Lost => self.counts.unknown += 1,
        }
        matches!(answer, Answer::Done)
    }

    fn settle(&mut self, key: String, now: Option<Body>, answer: &Answer) {
        if matches!(answer, Answer::Done) {
            self.objects.insert(key, vec![now]);
        }
    }

    /// Reads everything back; what is wrong.
    pub(crate) async fn verify(&mut self, until: Instant) -> Vec<String> {
        let mut wrong = Vec::new();
        self.url = None;
        let keys: Vec<String> = self.objects.keys().cloned().collect();
        for key in keys {
            let maybe = self.objects.get(&key).cloned().unwrap_or_default();
            match self.get(&key, until).await {
                Ok(found) => {
                    let matching = maybe.iter().find(|it| it.map(Body::bytes) == found);
                    match matching.copied() {
                        Some(None) => drop(self.objects.remove(&key)),
                        Some(body) => drop(self.objects.insert(key, vec![body])),
                        None => wrong.push(self.words(&key, &maybe, found.as_deref())),
                    }
                    self.counts.verified += 1;
                }
                Err(why) => {
                    wrong.push(format!("`{key}` of `{}` cannot be read: {why}", self.id));
                    break;
                }
            }
        }
        wrong
    }

    fn words(&self, key: &str, maybe: &Maybe, found: Option<&[u8]>) -> String {
        let expect: Vec<_> = maybe.iter().map(|it| it.map(|it| it.length)).collect();
        let found = found.map(<[u8]>::len);
        let id = &self.id;
        format!(
            "`{key}` of `{id}` holds {found:?} bytes, and not what was acknowledged: {expect:?} bytes"
        )
    }

    /// The object's bytes; asked again until then, as the node may just be coming up.
    async fn get(&mut self, key: &str, until: Instant) -> Result<Option<Vec<u8>>, String> {
        loop {
            let url = self.url();
            let answer = async {
                let Some(url) = url else {
                    return Ok(Err("nobody knows where it is".to_owned()));
                };
                let response = self.http.get(format!("{url}/{key}")).send().await?;
                match response.status() {
                    StatusCode::NOT_FOUND => Ok(Ok(None)),
                    status if status.is_success() => Ok(Ok(Some(response.bytes().await?.to_vec()))),
                    status => Ok(Err(status.to_string())),
                }
            };
            let why = match answer
                .await
                .unwrap_or_else(|e: reqwest::Error| Err(e.to_string()))
            {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            self.url = None;
            if Instant::now() >= until {
                return Err(why);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn ask(request: reqwest::RequestBuilder) -> Answer {
    match request.send().await {
        Ok(response) if response.status().is_success() => Answer::Done,
        // A refusal may come of an answer that was lost on the way to the disk: it promises nothing.
        Ok(_) | Err(_) => Answer::Lost,
    }
}
