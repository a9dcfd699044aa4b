//! A server in this process, and what the tests ask of it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use grid_storage::{Error, Server, StorageConfig};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct Running {
    pub dir: TempDir,
    pub address: SocketAddr,
    pub client: Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

/// A server on an empty directory.
pub async fn start() -> Running {
    start_with(tempfile::tempdir().unwrap(), |_| {}).await
}

/// A server on `dir`, ready.
pub async fn start_with(dir: TempDir, adjust: impl FnOnce(&mut StorageConfig)) -> Running {
    let mut config = config(dir.path());
    adjust(&mut config);
    let server = Server::bind(config).unwrap();
    let address = server.local_addr();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async { stopped.await.unwrap_or(()) }));
    let running = Running {
        dir,
        address,
        client: Client::new(),
        stop,
        task,
    };
    eventually("the server is ready", async || {
        running.get("/readyz").await.status() == StatusCode::OK
    })
    .await;
    running
}

pub fn config(path: &Path) -> StorageConfig {
    StorageConfig::new(path, "127.0.0.1:0".parse().unwrap())
}

impl Running {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub fn put(&self, key: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client
            .put(self.url(&format!("/v1/objects/{key}")))
            .body(body)
    }

    pub async fn object(&self, key: &str) -> Response {
        self.get(&format!("/v1/objects/{key}")).await
    }

    pub async fn delete(&self, key: &str) -> StatusCode {
        let url = self.url(&format!("/v1/objects/{key}"));
        self.client.delete(url).send().await.unwrap().status()
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        // Sums are written as floats; the tests' are whole numbers.
        line.parse::<f64>().unwrap() as u64
    }

    /// Names of the content files.
    pub fn content_files(&self) -> Vec<String> {
        content_files(self.dir.path())
    }

    /// Tells the server to drain.
    pub fn begin_stop(self) -> (TempDir, JoinHandle<Result<(), Error>>) {
        self.stop.send(()).unwrap();
        (self.dir, self.task)
    }

    /// Stops the server and gives its directory back.
    pub async fn stop(self) -> TempDir {
        let (dir, task) = self.begin_stop();
        task.await.unwrap().unwrap();
        dir
    }
}

pub fn content_files(data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data.join("objects")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Flips a bit in every place where `path` holds `needle`; how many there were.
pub fn corrupt(path: &Path, needle: &[u8]) -> usize {
    let mut bytes = std::fs::read(path).unwrap();
    let places: Vec<usize> = bytes
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle)
        .map(|(at, _)| at)
        .collect();
    for place in &places {
        bytes[*place] ^= 1;
    }
    std::fs::write(path, bytes).unwrap();
    places.len()
}

/// Asserts the kind of an error document, and that it has a message and a hint.
pub async fn assert_error(response: Response, status: StatusCode, kind: &str) {
    assert_eq!(response.status(), status);
    let document: serde_json::Value = response.json().await.unwrap();
    assert_eq!(document["error"]["kind"], kind, "{document}");
    assert!(
        !document["error"]["message"].as_str().unwrap().is_empty(),
        "{document}"
    );
    assert!(
        !document["error"]["hint"].as_str().unwrap().is_empty(),
        "{document}"
    );
}

/// Waits until `condition` holds; for what no event tells of.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes that differ from place to place, so that a mix-up shows.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
