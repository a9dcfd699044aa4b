//! A grid of a test's own.

use std::{
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take. Nothing here takes seconds on an idle machine; tests share theirs with others.
const PATIENCE: Duration = Duration::from_secs(60);

/// A state directory, and the `grid` command on it. Dropped, it takes the grid down and looks for what is left.
pub(crate) struct Grid {
    dir: TempDir,
    /// What every command is given in its environment.
    environment: Vec<(&'static str, OsString)>,
}

impl Grid {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
        }
    }

    /// With this in the environment of every command, and so of master and agent.
    pub(crate) fn with_environment(mut self, environment: Vec<(&'static str, OsString)>) -> Self {
        self.environment = environment;
        self
    }

    /// The test's own directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// `grid ARGS` on this grid, with nothing of the caller's environment that could lead it elsewhere.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_grid"));
        for name in ["SUTRA_MASTER", "SUTRA_LOG", "RUST_LOG", "PLATFORM"] {
            command.env_remove(name);
        }
        command
            .envs(self.environment.iter().cloned())
            .arg("--state-dir")
            .arg(self.state())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// What it printed, when it ended well.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "grid {args:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// `grid ARGS -o json`.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args = [&["-o", "json"], args].concat();
        serde_json::from_str(&self.run(&args)).unwrap()
    }

    /// What is told to stderr by a command that ends with `code`.
    pub(crate) fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.output(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "grid {args:?}: {}",
            told(&output)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    /// `grid up --detach`, with ports that the system chooses.
    pub(crate) fn up(&self, args: &[&str]) -> Value {
        let first = [
            "up",
            "--detach",
            "--http",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
        ];
        self.json(&[&first, args].concat())
    }

    pub(crate) fn node(&self, id: &str) -> Value {
        self.json(&["node", id])
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        let output = self.output(&["down", "--purge"]);
        let left = processes(&self.state());
        for pid in left.iter().map(|(pid, _)| *pid) {
            kill(pid);
        }
        if std::thread::panicking() {
            return;
        }
        assert!(output.status.success(), "grid down: {}", told(&output));
        assert!(left.is_empty(), "left behind: {left:?}");
        assert!(!self.state().exists(), "the state directory is left");
    }
}

/// Processes that have this path in their arguments or in their environment, with their arguments.
pub(crate) fn processes(path: &Path) -> Vec<(u32, String)> {
    let needle = path.to_str().unwrap().as_bytes();
    let names = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            // A process that ends while it is looked at is none.
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let text = String::from_utf8_lossy(&arguments).replace('\0', " ");
            (names(&arguments) || names(&environment)).then_some((pid, text))
        })
        .collect()
}

/// `kill -9`.
pub(crate) fn kill(pid: u32) {
    signal(pid, "-KILL");
}

pub(crate) fn signal(pid: u32, signal: &str) {
    Command::new("kill")
        .args([signal, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .unwrap();
}

/// Whether a process of this number runs: a zombie does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Looks until there is something, or fails saying what was waited for.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A number in JSON, such as a pid.
pub(crate) fn number(value: &Value) -> u32 {
    u32::try_from(
        value
            .as_u64()
            .unwrap_or_else(|| panic!("{value} is no number")),
    )
    .unwrap()
}

pub(crate) fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// `PUT /v1/objects/KEY`.
pub(crate) fn put(endpoint: &str, key: &str, body: &[u8]) {
    let (status, _) = http(endpoint, "PUT", &format!("/v1/objects/{key}"), body);
    assert!(status == 200 || status == 201, "PUT {key}: status {status}");
}

/// `GET /v1/objects/KEY`.
pub(crate) fn get(endpoint: &str, key: &str) -> Vec<u8> {
    let (status, body) = http(endpoint, "GET", &format!("/v1/objects/{key}"), b"");
    assert_eq!(status, 200, "GET {key}");
    body
}

fn http(endpoint: &str, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut socket = TcpStream::connect(endpoint).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(body).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("an answer has a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(
        !head.to_lowercase().contains("transfer-encoding"),
        "this client reads bodies of a known length only: {head}"
    );
    (status, answer[end + 4..].to_vec())
}

/// What a command told, for messages.
pub(crate) fn told(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
