//! A registry of a test's own: Debian's, on loopback, behind a gate that lets through as much as the test says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
};

pub(super) const USER: &str = "tester";
/// Its base64 is not the same in both alphabets.
pub(super) const PASSWORD: &str = "pa?ss~>word";
/// `USER` and `PASSWORD` as `htpasswd` writes them.
const HTPASSWD: &str = "tester:$2b$05$hXHnmizCqmZvcQ0c/GQ8k.lJ8SWtfS7pU/Sd/tLy2nUCEzvAwk.YK\n";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub(super) struct Registry {
    /// Killed when it is dropped.
    _server: Child,
    dir: tempfile::TempDir,
    gate: u16,
    /// How many bytes may come from the registry, all in all.
    allowed: watch::Sender<u64>,
    /// How many connections are open on which an answer was ever held.
    held: watch::Sender<usize>,
}

impl Registry {
    /// Bytes of a layer; an image has three.
    pub(super) const LAYER: u64 = 4 << 20;

    /// Starts one, with basic authentication if that is wanted.
    pub(super) async fn start(login: Option<(&str, &str)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n\
             http: {{addr: '127.0.0.1:0', secret: test}}\n",
            dir.path().join("data").display()
        );
        if login.is_some() {
            let file = dir.path().join("htpasswd");
            fs::write(&file, HTPASSWD).unwrap();
            settings += &format!(
                "auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n",
                file.display()
            );
        }
        let config = dir.path().join("config.yml");
        fs::write(&config, settings).unwrap();
        let mut server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("`docker-registry` is Debian's package of that name");
        let port = listening(&mut server).await;
        let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Self {
            _server: server,
            dir,
            gate: gate.local_addr().unwrap().port(),
            allowed: watch::channel(u64::MAX).0,
            held: watch::channel(0).0,
        };
        let (allowed, held) = (registry.allowed.clone(), registry.held.clone());
        tokio::spawn(async move {
            let passed = std::sync::Arc::new(AtomicU64::new(0));
            while let Ok((engine, _)) = gate.accept().await {
                let (allowed, passed) = (allowed.subscribe(), std::sync::Arc::clone(&passed));
                let held = held.clone();
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", port)).await;
                    if let Ok(server) = server {
                        pass(engine, server, allowed, &passed, &held).await;
                    }
                });
            }
        });
        registry
    }

    pub(super) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.gate)
    }

    /// Holds what comes behind so many bytes.
    pub(super) fn hold_behind(&self, bytes: u64) {
        self.allowed.send_replace(bytes);
    }

    pub(super) fn let_through(&self) {
        self.allowed.send_replace(u64::MAX);
    }

    /// Lets a little more through.
    pub(super) fn let_some_through(&self) {
        self.allowed.send_modify(|it| *it += 16 * 1024);
    }

    /// Waits until an engine waits for what is held; or until it has closed what it waited on.
    pub(super) async fn is_waited_for(&self, wanted: bool) {
        let mut held = self.held.subscribe();
        held.wait_for(|it| (*it > 0) == wanted).await.unwrap();
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data/docker/registry/v2")
    }

    /// Lays an image of three new layers into the registry's files; gives its reference.
    pub(super) fn push(&self, name: &str, tag: &str) -> String {
        let repository = self.data().join("repositories").join(name);
        let mut layers = Vec::new();
        let mut diffs = Vec::new();
        for number in 0..3 {
            let layer = layer(number);
            let digest = self.blob(&layer);
            link(
                &repository.join("_layers/sha256").join(hash(&digest)),
                &digest,
            );
            layers.push(serde_json::json!({
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": layer.len(), "digest": digest,
            }));
            diffs.push(digest);
        }
        let config = serde_json::json!({
            "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": {"Entrypoint": ["/none"], "ExposedPorts": {"7070/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        })
        .to_string();
        let config_digest = self.blob(config.as_bytes());
        link(
            &repository.join("_layers/sha256").join(hash(&config_digest)),
            &config_digest,
        );
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": config.len(), "digest": config_digest,
            },
        })
        .to_string();
        let digest = self.blob(manifest.as_bytes());
        let manifests = repository.join("_manifests");
        link(
            &manifests.join("revisions/sha256").join(hash(&digest)),
            &digest,
        );
        let tags = manifests.join("tags").join(tag);
        link(&tags.join("index/sha256").join(hash(&digest)), &digest);
        link(&tags.join("current"), &digest);
        format!("{}/{name}:{tag}", self.host())
    }

    /// The digest of an image's manifest.
    pub(super) fn digest(&self, name: &str, tag: &str) -> String {
        let repository = self.data().join("repositories").join(name);
        let link = repository
            .join("_manifests/tags")
            .join(tag)
            .join("current/link");
        fs::read_to_string(link).unwrap()
    }

    fn blob(&self, content: &[u8]) -> String {
        let digest = format!("sha256:{}", hex(&Sha256::digest(content)));
        let hash = hash(&digest);
        let dir = self.data().join("blobs/sha256").join(&hash[..2]).join(hash);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("data"), content).unwrap();
        digest
    }
}

/// The port that the registry says it listens on.
async fn listening(server: &mut Child) -> u16 {
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            // What it says later has to go somewhere.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return digits.parse().unwrap();
        }
        said += &line;
    }
    panic!("the registry ended: {said}")
}

/// What one of them says to the other, and back, as far as it is allowed.
async fn pass(
    engine: TcpStream,
    server: TcpStream,
    mut allowed: watch::Receiver<u64>,
    passed: &AtomicU64,
    held: &watch::Sender<usize>,
) {
    let (mut engine_says, mut engine_hears) = engine.into_split();
    let (mut server_says, mut server_hears) = server.into_split();
    let asking = tokio::io::copy(&mut engine_says, &mut server_hears);
    let answering = async {
        let mut was_held = None;
        let mut piece = vec![0; 16 * 1024];
        loop {
            let read = server_says.read(&mut piece).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(());
            }
            let now = passed.fetch_add(read as u64, Ordering::Relaxed) + read as u64;
            if now > *allowed.borrow_and_update() {
                was_held.get_or_insert_with(|| Held::new(held));
                if allowed.wait_for(|it| now <= *it).await.is_err() {
                    return Ok(());
                }
            }
            engine_hears.write_all(&piece[..read]).await?;
        }
    };
    // An engine that goes away is noticed on its own side.
    tokio::select! {
        _ = asking => {}
        _ = answering => {}
    }
}

/// Counts as long as it lives.
struct Held<'a>(&'a watch::Sender<usize>);

impl<'a> Held<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|it| *it += 1);
        Self(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|it| *it -= 1);
    }
}

fn link(dir: &Path, digest: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("link"), digest).unwrap();
}

fn hash(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar archive of one file that no other layer has, and that cannot be made smaller.
fn layer(number: u64) -> Vec<u8> {
    let mut file = Vec::with_capacity(Registry::LAYER as usize);
    let mut seed = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut it| std::io::Read::read_exact(&mut it, &mut seed))
        .unwrap();
    let mut state = u64::from_le_bytes(seed) | 1;
    while (file.len() as u64) < Registry::LAYER {
        // xorshift64: no secret, only never the same.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.extend(state.to_le_bytes());
    }
    let mut header = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, format!("file-{number}").as_bytes());
    put(100, b"0000644\x000000000\x000000000\x00");
    put(124, format!("{:011o}\0", Registry::LAYER).as_bytes());
    put(136, b"00000000000\0        0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    [header.as_slice(), &file, &[0; 1024]].concat()
}
