//! One master, an agent of an engine, an agent of a cluster: nodes on both, listed by one command.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends where something is missing, and says what an agent said"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use grid_platform_testing::probe;
use grid_testbed::kubernetes::{self, Namespace};
use grid_testbed::{Api, Image, Kind, Tar};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const PROBE: &str = "localhost/sutra-grid-test/hybrid:latest";

/// The agents' names, and their only nodes'.
const AGENTS: [(&str, &str); 2] = [("on-docker", "box"), ("on-kubernetes", "pod")];

/// Variables that lead a program to another grid, engine or cluster than is meant.
const FOREIGN: [&str; 8] = [
    "SUTRA_MASTER",
    "SUTRA_LOG",
    "RUST_LOG",
    "PLATFORM",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CERT_PATH",
    "KUBECONFIG",
];

/// A program of the workspace, as `cargo xtask test` builds it before the first test.
fn program(name: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    // target/PROFILE/deps/TEST
    let place = own.ancestors().nth(2).unwrap().join(name);
    assert!(
        place.is_file(),
        "`{name}` is not built: run `cargo build --workspace`"
    );
    let mut command = Command::new(place);
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A master on this host, with an agent of processes that gets no node. Taken down when this is dropped.
struct Grid(TempDir);

impl Grid {
    fn up() -> (Self, Value) {
        let grid = Self(tempfile::tempdir().unwrap());
        let places = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
        let up = grid.json(&[&["up", "--detach", "--nodes", "0"][..], &places].concat());
        (grid, up)
    }

    fn run(&self, args: &[&str]) -> String {
        let mut command = program("grid");
        command.arg("--state-dir").arg(self.0.path().join("grid"));
        let output = command.args(args).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "grid {args:?}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["-o", "json"], args].concat())).unwrap()
    }

    /// The node as the list of all has it.
    fn listed(&self, id: &str) -> Value {
        let all = self.json(&["nodes"]);
        let found = all.as_array().unwrap().iter().find(|it| it["id"] == id);
        found
            .unwrap_or_else(|| panic!("`{id}` is not in {all}"))
            .clone()
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.run(&["down", "--purge"]);
    }
}

/// An agent of the hybrid, as somebody runs it by hand. It is ended when this is dropped, and what it made is removed if
/// the test has failed.
struct Agent {
    settings: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Agent {
    fn start(settings: &Path) -> Self {
        let log = settings.with_extension("log");
        let told = File::options().create(true).append(true).open(&log);
        let child = program("grid-agent")
            .arg("--config")
            .arg(settings)
            .stdout(Stdio::null())
            .stderr(told.unwrap())
            .spawn()
            .unwrap();
        Self {
            settings: settings.to_owned(),
            log,
            child,
        }
    }

    fn signal(&mut self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        self.child.wait().unwrap();
    }

    /// Killed, and started again.
    fn replace(&mut self) {
        self.signal(Signal::KILL);
        *self = Self::start(&self.settings.clone());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            println!("{}: {log}", self.log.display());
            let mut purge = program("grid-agent");
            purge.arg("--config").arg(&self.settings);
            let _ = purge.args(["stop-nodes", "--purge"]).output();
        }
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Has the probe of a node do something: a pod's as soon as its service leads there.
fn ask(node: &Value, action: &str) -> String {
    let endpoint = node["endpoint"].as_str().unwrap();
    let (host, port) = endpoint.rsplit_once(':').unwrap();
    let (host, port) = (host.to_owned(), port.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(probe::ask_soon(&host, port, action))
        .unwrap()
}

fn image() -> Image {
    let layer = Tar::default().file("grid-probe", 0o755, probe::BYTES);
    Image::new(layer).entrypoint(&["/grid-probe"])
}

/// What of the node is on the engine: containers and volumes.
fn on_engine(api: &Api, id: &str) -> usize {
    let of_node = |all: &Value| {
        let all = all.as_array().cloned().unwrap_or_default();
        let mine = all.iter().filter(|it| it["Labels"]["sutra.node_id"] == id);
        mine.count()
    };
    of_node(&api.get("/containers/json?all=true").unwrap())
        + of_node(&api.get("/volumes").unwrap()["Volumes"])
}

/// What of the node is in the namespace: pods, services, secrets and claims.
fn in_cluster(namespace: &Namespace, id: &str) -> usize {
    let kinds = ["pods", "services", "secrets", "persistentvolumeclaims"];
    let of_node = |kind: &&str| {
        let path = namespace.path(&format!("{kind}?labelSelector=sutra.node_id%3D{id}"));
        namespace.view().list(&path).unwrap().len()
    };
    kinds.iter().map(of_node).sum()
}

#[test]
fn one_master_has_nodes_on_an_engine_and_in_a_cluster() {
    let api = grid_testbed::find(Kind::Docker).unwrap();
    grid_testbed::sweep_dead(&api).unwrap();
    image().load(&api, PROBE).unwrap();
    let view = kubernetes::find().unwrap();
    view.own().unwrap().load(image(), PROBE).unwrap();
    let namespace = Namespace::make(&view).unwrap();
    let (grid, up) = Grid::up();

    let settings = |name: &str, platform: &str, more: &str| {
        let place = grid.0.path().join(name);
        let token = place.with_extension("token");
        fs::write(&token, grid.run(&["token", "create", "--role", "agent"])).unwrap();
        let text = format!(
            "[agent]\nplatform = '{platform}'\nagent_id = '{name}'\nmaster_host = '{}'\n\
             state_dir = '{}'\ntoken_file = '{}'\n[storage]\ndocker_image = '{PROBE}'\n{more}",
            up["grpc"].as_str().unwrap(),
            place.display(),
            token.display(),
        );
        let file = place.with_extension("toml");
        fs::write(&file, text).unwrap();
        file
    };
    let engine = format!("[docker]\nhost = '{}'\n", api.host());
    let cluster = format!(
        "k8s_namespace = '{}'\nk8s_kubeconfig = '{}'\n",
        namespace.name(),
        view.kubeconfig().display()
    );
    let mut agents = [
        Agent::start(&settings("on-docker", "docker", &engine)),
        Agent::start(&settings("on-kubernetes", "k8s", &cluster)),
    ];
    let heard = |agent: &str| {
        eventually("an agent to be heard", || {
            let all = grid.json(&["agents"]);
            let all = all.as_array().unwrap().iter();
            let mut all = all.filter(|it| it["id"] == agent && it["connected"] == true);
            all.next().is_some().then_some(())
        });
    };
    for (agent, node) in AGENTS {
        heard(agent);
        // The agent's own image: the request is the same on each platform.
        let args = [
            "spawn",
            "--name",
            node,
            "--agent",
            agent,
            "--health-tcp",
            "--wait",
        ];
        grid.run(&args);
    }

    // One list has both, each where it was asked for.
    let listed = AGENTS.map(|(_, node)| grid.listed(node));
    let fact = |name: &str| listed.each_ref().map(|it| it[name].as_str().unwrap());
    assert_eq!(fact("platform"), ["docker", "kubernetes"]);
    assert_eq!(fact("agent"), ["on-docker", "on-kubernetes"]);
    assert_eq!(fact("state"), ["running", "running"]);
    for node in &listed {
        assert_eq!(ask(node, "put=key:kept"), "ok", "{node}");
    }
    assert!(on_engine(&api, "box") > 0 && on_engine(&api, "pod") == 0);
    assert!(in_cluster(&namespace, "pod") > 0 && in_cluster(&namespace, "box") == 0);

    // Both agents die at once. Nodes serve on, and those that are started in the agents' place find them as they were.
    agents.iter_mut().for_each(|it| it.signal(Signal::KILL));
    for node in &listed {
        assert_eq!(ask(node, "get=key"), "kept", "{node}");
    }
    for (agent, (name, node)) in agents.iter_mut().zip(AGENTS) {
        *agent = Agent::start(&agent.settings.clone());
        heard(name);
        grid.run(&["stop", node, "--wait"]);
        grid.run(&["start", node, "--wait"]);
    }
    for (before, (_, node)) in listed.iter().zip(AGENTS) {
        let again = eventually("the node to run", || {
            let it = grid.listed(node);
            (it["state"] == "running").then_some(it)
        });
        assert_eq!(again["uid"], before["uid"], "{again}");
        assert_eq!(
            ask(&again, "boot"),
            "2",
            "it was started once before, and stopped once"
        );
        assert_eq!(ask(&again, "get=key"), "kept");
        assert!(grid.run(&["logs", node]).contains("boot 2"));
    }
    // One that goes takes nothing of the other's.
    agents[0].replace();
    for (_, node) in AGENTS {
        grid.run(&["rm", node, "--purge", "--wait"]);
    }
    assert_eq!(
        (on_engine(&api, "box"), in_cluster(&namespace, "pod")),
        (0, 0)
    );
}
