//! The grid's own parts as containers.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends where something is missing, and says what a container said"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use grid_platform_testing::probe;
use grid_testbed::{Api, Image, Kind, Tar};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROBE: &str = "localhost/sutra-grid-test/deployed:latest";

/// A program of the workspace, as `cargo xtask test` builds it before the first test.
fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    // target/PROFILE/deps/TEST
    let place = own.ancestors().nth(2).unwrap().join(name);
    assert!(
        place.is_file(),
        "`{name}` is not built: run `cargo build --workspace`"
    );
    place
}

/// A part's image.
fn image(part: &str) -> String {
    format!("sutra-grid/{part}:{}", env!("CARGO_PKG_VERSION"))
}

fn engine() -> Api {
    let api = grid_testbed::find(Kind::Docker).unwrap();
    grid_testbed::sweep_dead(&api).unwrap();
    api
}

/// A grid on the host, taken down when this is dropped.
struct Grid(TempDir);

impl Grid {
    fn up() -> (Self, Value) {
        let grid = Self(tempfile::tempdir().unwrap());
        let up = grid.json(&[
            "up",
            "--detach",
            "--nodes",
            "0",
            "--http",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
        ]);
        (grid, up)
    }

    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(program("grid"));
        for name in ["SUTRA_MASTER", "SUTRA_LOG", "RUST_LOG", "PLATFORM"] {
            command.env_remove(name);
        }
        command
            .arg("--state-dir")
            .arg(self.0.path().join("state"))
            .args(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "grid {args:?}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["-o", "json"], args].concat())).unwrap()
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.run(&["down", "--purge"]);
    }
}

/// A container of a part of the grid, removed with its volume when this is dropped.
struct Part<'a> {
    api: &'a Api,
    name: String,
}

impl<'a> Part<'a> {
    /// Runs it as `deploy/docker/README.md` says: in the host's network, with no rights.
    fn run(
        api: &'a Api,
        part: &str,
        binds: &[String],
        groups: &[String],
        env: &[String],
        args: &[&str],
    ) -> Self {
        let name = format!("grid-deploy-{part}-{}", std::process::id());
        let volume = format!("{name}:/var/lib/sutra-grid");
        let binds: Vec<&String> = binds.iter().chain(std::iter::once(&volume)).collect();
        let body = json!({
            "Image": image(part),
            "Cmd": args,
            "Env": env,
            "HostConfig": {
                "NetworkMode": "host",
                "Binds": binds,
                "GroupAdd": groups,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "ReadonlyRootfs": true,
            },
        });
        api.call(
            "POST",
            &format!("/containers/create?name={name}"),
            Some(&body),
        )
        .unwrap();
        let part = Self { api, name };
        part.act("start");
        part
    }

    fn act(&self, action: &str) {
        let path = format!("/containers/{}/{action}", self.name);
        self.api.call("POST", &path, None).unwrap();
    }

    fn log(&self) -> String {
        let path = format!(
            "/containers/{}/logs?stdout=true&stderr=true&tail=50",
            self.name
        );
        let answer = self.api.send("GET", &path, "text/plain", b"");
        answer.map_or_else(
            |why| why,
            |it| String::from_utf8_lossy(&it.body).into_owned(),
        )
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{} said: {}", self.name, self.log());
        }
        for path in ["containers", "volumes"] {
            let path = format!("/{path}/{}?force=true", self.name);
            let _ = self.api.call("DELETE", &path, None);
        }
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Has the probe of a node do something.
fn ask(node: &Value, action: &str) -> String {
    let endpoint = node["endpoint"].as_str().unwrap();
    let (host, port) = endpoint.rsplit_once(':').unwrap();
    let (host, port) = (host.to_owned(), port.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(probe::ask(&host, port, action)).unwrap()
}

/// The agent's container has no file system in common with the engine: data is in the engine's volumes.
#[test]
fn an_agent_in_a_container_runs_nodes_for_a_master_on_the_host() {
    let api = engine();
    let layer = Tar::default().file("grid-probe", 0o755, probe::BYTES);
    Image::new(layer)
        .entrypoint(&["/grid-probe"])
        .load(&api, PROBE)
        .unwrap();
    let (grid, up) = Grid::up();
    let token = grid.0.path().join("token");
    fs::write(&token, grid.run(&["token", "create", "--role", "agent"])).unwrap();
    // The container's user has another number.
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    let socket = api
        .host()
        .strip_prefix("unix://")
        .expect("an engine on this host")
        .to_owned();
    let group = fs::metadata(&socket).unwrap().gid().to_string();
    let binds = [
        format!("{}:/run/secrets/agent-token:ro", token.display()),
        format!("{socket}:/var/run/docker.sock"),
    ];
    let env = [format!("SUTRA_AGENT__STORAGE__DOCKER_IMAGE={PROBE}")];
    let master = up["grpc"].as_str().unwrap();
    let args = [
        "--agent-id",
        "contained",
        "--master",
        master,
        "--token-file",
        "/run/secrets/agent-token",
    ];
    let agent = Part::run(&api, "agent", &binds, &[group], &env, &args);
    eventually("the agent to be heard", || {
        let agents = grid.json(&["agents"]);
        let all = agents.as_array().unwrap().iter();
        all.clone()
            .find(|it| it["id"] == "contained" && it["connected"] == true)
            .cloned()
    });

    let spawned = grid.json(&[
        "spawn",
        "--name",
        "kept",
        "--agent",
        "contained",
        "--image",
        PROBE,
        "--wait",
    ]);
    let node = &spawned[0];
    assert_eq!(node["platform"], "docker", "{node}");
    assert_eq!(ask(node, "put=key:value"), "ok");
    let volumes = || {
        let all = api.get("/volumes").unwrap();
        let all = all["Volumes"].as_array().cloned().unwrap_or_default();
        let mine = all
            .into_iter()
            .filter(|it| it["Labels"]["sutra.node_id"] == "kept");
        mine.count()
    };
    assert_eq!(volumes(), 1, "its data is in a volume");

    // The agent dies, and the one that is started in its place finds the node as it was.
    agent.act("kill");
    assert_eq!(ask(node, "get=key"), "value");
    agent.act("start");
    grid.run(&["stop", "kept", "--wait"]);
    grid.run(&["start", "kept", "--wait"]);
    let again = grid.json(&["node", "kept"]);
    assert_eq!(again["uid"], node["uid"], "{again}");
    assert_eq!(
        (
            ask(&again, "boot").as_str(),
            ask(&again, "get=key").as_str()
        ),
        ("2", "value")
    );
    let log = grid.run(&["logs", "kept"]);
    assert!(log.contains("boot 1") && log.contains("boot 2"), "{log}");
    grid.run(&["rm", "kept", "--purge", "--wait"]);
    assert_eq!(volumes(), 0, "nothing is left of it");
}

#[test]
fn the_parts_are_small_static_and_nobody_special() {
    let api = engine();
    for part in ["agent", "master", "storage"] {
        let shown = api.get(&format!("/images/{}/json", image(part))).unwrap();
        assert_eq!(shown["Config"]["User"], "65532:65532", "{part}");
        let layers = shown["RootFS"]["Layers"].as_array().unwrap().len();
        assert_eq!(
            layers, 2,
            "{part}: a program and an empty directory, and no system"
        );
        let body = json!({
            "Image": image(part),
            "Cmd": ["--help"],
            "HostConfig": { "NetworkMode": "none", "CapDrop": ["ALL"], "ReadonlyRootfs": true },
        });
        let name = format!("grid-deploy-help-{part}-{}", std::process::id());
        api.call(
            "POST",
            &format!("/containers/create?name={name}"),
            Some(&body),
        )
        .unwrap();
        let part = Part { api: &api, name };
        part.act("start");
        let path = format!("/containers/{}/wait", part.name);
        let ended = api.call("POST", &path, None).unwrap();
        assert_eq!(ended["StatusCode"], 0, "{}", part.log());
        assert!(part.log().contains("Usage: "), "{}", part.log());
    }
}

#[test]
fn a_master_in_a_container_keeps_its_state_in_a_volume() {
    let api = engine();
    let part = Part::run(
        &api,
        "master",
        &[],
        &[],
        &[],
        &["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"],
    );
    eventually("the master to listen", || {
        part.log().contains("127.0.0.1:").then_some(())
    });
    part.act("stop");
    part.act("start");
    let path = format!("/containers/{}/json", part.name);
    let state = api.get(&path).unwrap();
    assert_eq!(state["State"]["Running"], true, "{}", part.log());
    let volume = api.get(&format!("/volumes/{}", part.name)).unwrap();
    let place = Path::new(volume["Mountpoint"].as_str().unwrap()).to_owned();
    assert_eq!(fs::metadata(&place).unwrap().uid(), 65_532);
    assert!(
        fs::read_dir(place).unwrap().count() > 0,
        "its store is there"
    );
}
