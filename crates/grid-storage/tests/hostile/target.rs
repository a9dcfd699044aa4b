//! The server under attack, with what it holds for honest clients.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use grid_storage::{Key, Store};
use reqwest::{Client, RequestBuilder, Response};
use tempfile::TempDir;

use crate::child::{Killed, LIMITS, start_command};
use crate::clients;
use crate::common::{content_files, eventually, pattern};

/// More than goes into the index.
pub(crate) const LARGE: usize = 400_000;

pub(crate) struct Target {
    child: Killed,
    pub(crate) address: SocketAddr,
    dir: TempDir,
    /// What honest clients have stored.
    kept: Vec<(String, Vec<u8>)>,
    descriptors: usize,
    token: Option<String>,
}

impl Target {
    /// One with the limits that people have.
    pub(crate) async fn start() -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), "").await
    }

    /// One that gives up soon: what takes minutes by default can be awaited.
    pub(crate) async fn quick() -> Self {
        Self::with_limits("stall=1000,connections=64").await
    }

    pub(crate) async fn with_limits(limits: &str) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), limits).await
    }

    /// One that wants a token.
    pub(crate) async fn with_token(token: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), token).unwrap();
        let command = Command::new(std::env::current_exe().unwrap());
        Self::start_in(dir, command, "", Some(token)).await
    }

    /// One that is started by this command, which takes this program's arguments.
    pub(crate) async fn start_by(command: Command, limits: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), command, limits, None).await
    }

    /// One in this directory.
    pub(crate) async fn start_in(
        dir: TempDir,
        mut command: Command,
        limits: &str,
        token: Option<&str>,
    ) -> Self {
        command.env(LIMITS, limits);
        let (child, address) = start_command(dir.path(), &mut command).await;
        let mut target = Self {
            child,
            address,
            dir,
            kept: Vec::new(),
            descriptors: 0,
            token: token.map(str::to_owned),
        };
        target.keep("kept/small", pattern(1000, 1)).await;
        target.keep("kept/large", pattern(LARGE, 2)).await;
        // The last answer's connection is closed a moment after it.
        eventually("its connections are closed", async || {
            target.connections() == 0
        })
        .await;
        target.descriptors = target.descriptors();
        target
    }

    /// Stores what has to be there whatever happens.
    pub(crate) async fn keep(&mut self, key: &str, body: Vec<u8>) {
        let answer = self.put(key, body.clone()).await;
        assert!(answer.status().is_success(), "{key}: {answer:?}");
        self.kept.retain(|(kept, _)| kept != key);
        self.kept.push((key.to_owned(), body));
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Response {
        self.request(method, path)
            .body(body)
            .send()
            .await
            .expect("an honest client is not served")
    }

    /// A request of an honest client, on a connection of its own.
    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let client = Client::builder()
            .pool_max_idle_per_host(0)
            .timeout(clients::LONG)
            .build()
            .unwrap();
        let url = format!("http://{}{path}", self.address);
        let request = client.request(method.parse().unwrap(), url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn put(&self, key: &str, body: Vec<u8>) -> Response {
        self.send("PUT", &format!("/v1/objects/{key}"), body).await
    }

    /// An object's bytes.
    pub(crate) async fn object(&self, key: &str) -> Vec<u8> {
        let path = format!("/v1/objects/{key}");
        let answer = self.send("GET", &path, Vec::new()).await;
        assert_eq!(answer.status(), 200, "{key}");
        answer.bytes().await.unwrap().to_vec()
    }

    /// The keys that are there.
    pub(crate) async fn keys(&self) -> BTreeSet<String> {
        let answer = self.send("GET", "/v1/objects?limit=1000", Vec::new()).await;
        let listing: serde_json::Value = answer.json().await.unwrap();
        let objects = listing["objects"].as_array().unwrap();
        let keys = objects.iter().map(|it| it["key"].as_str().unwrap());
        keys.map(str::to_owned).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn descriptors(&self) -> usize {
        clients::descriptors(self.pid())
    }

    /// How many connections it has open, as the system sees it.
    fn connections(&self) -> usize {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X}", self.address.port());
        let ours = table.lines().skip(1).filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Of proc_net_tcp: the local address, the state, of which 0A is to listen, and the inode, which a
            // connection has for as long as a process holds it.
            fields[1].ends_with(&port) && fields[3] != "0A" && fields[9] != "0"
        });
        ours.count()
    }

    /// The server's resident memory in bytes: now (`VmRSS`), or at its peak (`VmHWM`).
    pub(crate) fn memory(&self, which: &str) -> u64 {
        clients::memory(self.pid(), which)
    }

    /// The data directory, as the server sees it: it may have mounts of its own.
    pub(crate) fn data(&self) -> PathBuf {
        let place = self.dir.path().join("data");
        let inside = place.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.pid())).join(inside)
    }

    /// Waits until there are just so many content files.
    pub(crate) async fn until_content_files(&self, count: usize) {
        eventually("the content files that belong there", async || {
            content_files(&self.data()).len() == count
        })
        .await;
    }

    /// The attack is over: the server serves, what was stored is there and nothing else, on the disk too, and no
    /// descriptor is left open.
    pub(crate) async fn must_be_unharmed(mut self) {
        eventually("what the attack opened is closed", async || {
            self.descriptors() <= self.descriptors
        })
        .await;
        for (key, body) in &self.kept {
            assert!(self.object(key).await == *body, "{key} has changed");
        }
        let kept: BTreeSet<String> = self.kept.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(self.keys().await, kept);
        // What was replaced is removed a moment after it.
        let large = |body: &[u8]| body.len() > grid_storage::INLINE_BYTES;
        let files = self.kept.iter().filter(|(_, body)| large(body)).count();
        self.until_content_files(files).await;
        self.keep("kept/later", pattern(LARGE, 3)).await;
        let names = |place: PathBuf| -> BTreeSet<String> {
            let entries = std::fs::read_dir(place).unwrap();
            let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
            names.collect()
        };
        let ours = [
            "FORMAT",
            "LOCK",
            "index.redb",
            "journal-0",
            "journal-1",
            "objects",
        ];
        assert_eq!(names(self.data()), ours.map(str::to_owned).into());
        let beside = names(self.dir.path().to_owned());
        assert!(
            beside
                .iter()
                .all(|it| ["data", "address", "token"].contains(&it.as_str())),
            "{beside:?}"
        );
        if !std::fs::exists(self.dir.path().join("data/FORMAT")).unwrap() {
            // It is a mount of the server's own, which ends with it.
            return;
        }
        // What is on the disk is what was acknowledged.
        self.child.kill();
        let store = Store::open(self.dir.path().join("data")).unwrap();
        for (key, body) in &self.kept {
            let (_, found) = store
                .get(&Key::new(key.as_str()).unwrap())
                .unwrap()
                .unwrap();
            assert!(found == *body, "{key} is not on the disk");
        }
        let listed = store.list("", None, 1000).unwrap().objects;
        assert_eq!(listed.len(), self.kept.len());
    }
}
