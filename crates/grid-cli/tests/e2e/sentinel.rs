//! Secrets and tokens, hunted by values that stand nowhere else: through files, processes, answers and words.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::{
    hunt::{Hunt, Prey},
    support::{Grid, eventually, kill, number, text},
};

/// Values of secrets, made for this run alone: of a node's first settings, and of its second.
const FIRST: [&str; 2] = ["the first secret", "the first secret of an environment"];
const SECOND: [&str; 2] = ["the second secret", "the second secret of an environment"];
const TOKENS: [&str; 4] = [
    "the admin token",
    "the read token",
    "the agent token",
    "a made token",
];

struct Place {
    grid: Grid,
    hunt: Hunt,
    values: Vec<String>,
    http: String,
    admin: String,
}

/// A value that stands nowhere else on this host.
fn value(of: &str) -> String {
    let unique = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    format!("Sentinel{of}{}", unique.trim().replace('-', ""))
}

/// An answer of the API, whole; of HTTP/1.0, which has no chunks.
fn ask(address: &str, method: &str, path: &str, token: &str, body: &str) -> (u16, Vec<u8>) {
    let mut socket = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    (status, answer)
}

impl Place {
    /// A grid that logs everything there is to log, and what is hunted in it.
    fn new() -> Self {
        let grid = Grid::new();
        let mut up = grid.command(&["up", "-d", "-o", "json", "--nodes", "0"]);
        up.args(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]);
        fs::create_dir(grid.dir().join("tmp")).unwrap();
        up.env("SUTRA_LOG", "trace")
            .env("TMPDIR", grid.dir().join("tmp"));
        let output = up.output().unwrap();
        assert!(output.status.success(), "{}", crate::support::told(&output));
        let up: Value = serde_json::from_slice(&output.stdout).unwrap();

        let values = ["A", "B", "C", "D"].map(value).to_vec();
        let names = FIRST.iter().chain(&SECOND);
        let mut preys: Vec<Prey> = names
            .zip(&values)
            .map(|(name, it)| Prey::new(name, it))
            .collect();
        let made = grid.output(&["token", "create", "--role", "read"]);
        let made = String::from_utf8(made.stdout).unwrap();
        let token =
            |role: &str| fs::read_to_string(grid.state().join("master/tokens").join(role)).unwrap();
        let admin = token("admin");
        let tokens = [admin.clone(), token("read"), token("agent"), made];
        for (name, token) in TOKENS.iter().zip(tokens) {
            // Before the dot is its id, which is shown.
            let (_, secret) = token.trim().split_once('.').unwrap();
            preys.push(Prey::new(name, secret));
        }
        Self {
            hunt: Hunt::new(preys),
            values,
            http: text(&up["http"]).trim_start_matches("http://").to_owned(),
            admin: admin.trim().to_owned(),
            grid,
        }
    }

    /// A file with a value, as people keep one for `--secret`.
    fn file(&self, index: usize) -> String {
        let path = self.grid.dir().join(format!("value-{index}"));
        fs::write(&path, &self.values[index]).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Arguments that give a node two secrets, the second of them by its environment too.
    fn secrets(&self, first: usize) -> Vec<String> {
        vec![
            "--secret".to_owned(),
            format!("key=@{}", self.file(first)),
            "--secret".to_owned(),
            format!("env-key=@{}", self.file(first + 1)),
            "--secret-env".to_owned(),
            "ENV_KEY=env-key".to_owned(),
        ]
    }

    /// Runs a command, whose words hold nothing of it, however it ends.
    fn says(&self, args: &[&str]) -> Output {
        let output = self.grid.output(args);
        self.hunt
            .must_miss(&format!("stdout of {args:?}"), &output.stdout);
        self.hunt
            .must_miss(&format!("stderr of {args:?}"), &output.stderr);
        output
    }

    fn run(&self, args: &[&str], more: &[String], program: &[&str]) {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let args = [args, &more, program].concat();
        let output = self.says(&args);
        assert!(output.status.success(), "{}", crate::support::told(&output));
    }

    fn secrets_dir(&self, id: &str) -> PathBuf {
        let nodes = self.grid.state().join("agent/process/nodes");
        nodes.join(format!("sutra-grid-{id}/secrets"))
    }

    /// Looks everywhere. Only `secrets` may be anywhere, and those only where the contract says: in the files of the node
    /// `id`, and in its program's environment when that was asked for. Tokens are in the files that the master made for
    /// people, and nowhere else.
    fn search(&self, id: &str, secrets: &[&'static str]) {
        let state = self.grid.state();
        let (own, tokens) = (self.secrets_dir(id), state.join("master/tokens"));
        let allowed = |path: &Path| -> Vec<&'static str> {
            match path.parent() {
                Some(parent) if parent == own => secrets.to_vec(),
                Some(parent) if parent == tokens => TOKENS[..3].to_vec(),
                _ => Vec::new(),
            }
        };
        assert!(self.hunt.search_files(&state, &allowed) > 10);
        self.hunt
            .search_files(&self.grid.dir().join("tmp"), &|_| Vec::new());
        let node = self.grid.json(&["nodes"]);
        let node = node
            .as_array()
            .unwrap()
            .iter()
            .find(|node| node["id"] == id)
            .cloned();
        let pid = node.and_then(|node| node["pid"].as_u64());
        self.hunt.search_processes(&|it| match pid {
            Some(pid) if pid == u64::from(it) => secrets.iter().skip(1).copied().collect(),
            _ => Vec::new(),
        });
        self.search_answers(id);
    }

    /// Every path that can be read, and every command that shows something.
    fn search_answers(&self, id: &str) {
        let get = |path: &str| {
            let (status, answer) = ask(&self.http, "GET", path, &self.admin, "");
            self.hunt.must_miss(&format!("GET {path}"), &answer);
            (status, answer)
        };
        let (_, api) = get("/openapi.json");
        let start = api.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        let api: Value = serde_json::from_slice(&api[start..]).unwrap();
        let mut answered = 0;
        for (path, item) in api["paths"].as_object().unwrap() {
            if item.get("get").is_none() {
                continue;
            }
            let mut path = path.replace("{id}", id);
            if path == "/api/grid/events" {
                path += "?follow=false";
            }
            answered += usize::from(get(&path).0 == 200);
        }
        assert!(answered >= 8, "only {answered} paths were answered");
        for args in [
            &["nodes", "--wide"][..],
            &["node", id],
            &["logs", id],
            &["usage", id],
            &["data", "ls"],
            &["agents"],
            &["events"],
            &["token", "ls"],
            &["doctor"],
            &["version"],
        ] {
            self.says(args);
            self.says(&[&["-o", "json"], args].concat());
        }
    }

    /// The node has its secrets.
    fn has(&self, id: &str, first: usize) {
        let read = |name: &str| fs::read_to_string(self.secrets_dir(id).join(name)).unwrap();
        assert!(
            read("key") == self.values[first],
            "the node has another secret"
        );
        assert!(read("env-key") == self.values[first + 1]);
        let pid = number(&self.grid.node(id)["pid"]);
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        let entry = format!("ENV_KEY={}", self.values[first + 1]);
        assert!(
            environment.split('\0').any(|it| it == entry),
            "the environment lacks it"
        );
    }
}

const SLEEP: [&str; 4] = ["--binary", "sleep", "--", "1000"];

#[test]
fn secrets_and_tokens_are_found_only_where_they_belong() {
    let place = Place::new();
    let grid = &place.grid;
    let heard = grid.dir().join("tmp/events");
    let mut follower = grid
        .command(&["events", "-f", "-o", "json"])
        .stdout(fs::File::create(&heard).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    let spawn = ["spawn", "--name", "keeper", "--wait", "--restart", "always"];
    place.run(&spawn, &place.secrets(0), &SLEEP);
    place.has("keeper", 0);
    place.search("keeper", &FIRST);

    // Restarted by its policy.
    kill(number(&grid.node("keeper")["pid"]));
    eventually("the restart", || {
        let node = grid.node("keeper");
        (node["restarts"] == 1 && node["state"] == "running").then_some(())
    });
    place.has("keeper", 0);
    place.search("keeper", &FIRST);

    // With new secrets, the old ones are nowhere any more.
    place.run(&["update", "keeper", "--wait"], &place.secrets(2), &[]);
    place.has("keeper", 2);
    place.search("keeper", &SECOND);
    for command in ["stop", "start"] {
        place.run(&[command, "keeper", "--wait"], &[], &[]);
        place.search("keeper", &SECOND);
    }
    place.has("keeper", 2);

    // One that fails, and asks that are refused.
    let fails = ["--binary", "sh", "--", "-c", "exit 3"];
    let more = place.secrets(0);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let spawn = ["spawn", "--name", "broken", "--wait", "--restart", "never"];
    assert!(
        !place
            .says(&[&spawn[..], &more, &fails].concat())
            .status
            .success()
    );
    place.run(&["rm", "broken", "--purge", "--wait"], &[], &[]);
    place.search("keeper", &SECOND);
    refused(&place);
    place.search("keeper", &SECOND);

    // Removed, with what it was given.
    place.run(&["rm", "keeper", "--purge", "--wait"], &[], &[]);
    place.search("keeper", &[]);
    follower.kill().unwrap();
    follower.wait().unwrap();
    let heard = fs::read_to_string(heard).unwrap();
    assert!(heard.contains("keeper"), "nothing was heard");
    // All of this was logged as closely as can be.
    for part in ["master", "agent"] {
        let log = fs::read_to_string(grid.state().join(format!("logs/{part}.log"))).unwrap();
        assert!(log.contains("TRACE"), "{part} tells nothing");
    }
}

/// Requests that hold a secret and are refused: the refusal does not repeat it.
fn refused(place: &Place) {
    let it = place.values[0].as_str();
    let bodies = [
        format!(r#"{{"node_id":"x","secrets":"{it}"}}"#),
        format!(r#"{{"node_id":"x","secrets":["{it}"]}}"#),
        format!(r#"{{"node_id":"x","secrets":{{"key":["{it}"]}}}}"#),
        format!(r#"{{"node_id":"x","secrets":{{"key":{{"value":"{it}"}}}}}}"#),
        format!(r#"{{"node_id":"x","secrets":{{"a/b":"{it}"}}}}"#),
        format!(r#"{{"node_id":"x","secrets":{{"key":"{it}"}},"secrets":{{"key":"{it}"}}}}"#),
        format!(r#"{{"node_id":"x","secrets":{{"key":"{it}"}},"memory_limit_mb":"much"}}"#),
        format!(r#"{{"node_id":"x","secrets":{{"key":"{it}"}},"memory_limit_mb":0}}"#),
        format!(r#"{{"node_id":"x","secrets":{{"key":"{it}"}},"secret_env":{{"A":"other"}}}}"#),
        format!(r#"{{"node_id":"x","secrets":{{"key":"{it}"}},"secret_env":{{"A=B":"key"}}}}"#),
        format!(r#"{{"node_id":"X","secrets":{{"key":"{it}"}}}}"#),
        format!(r#"{{"node_id":"x","agent_id":"nobody","secrets":{{"key":"{it}"}}}}"#),
        format!(r#"{{"node_id":"keeper","secrets":{{"key":"{it}"}}}}"#),
        format!(r#"{{"node_id":"x","secret":{{"key":"{it}"}}}}"#),
        // Longer than a variable may be.
        format!(
            r#"{{"node_id":"x","secrets":{{"key":"{}"}},"secret_env":{{"A":"key"}}}}"#,
            it.repeat(2_000)
        ),
        format!(r#"{{"node_id":"x","secrets":{{"key":"{it}"#),
        format!(r#"{{"node_id":"x","secrets":{{"key":"{it}"}} and more"#),
        it.to_owned(),
        format!("\"{it}\""),
    ];
    for body in &bodies {
        for (method, path) in [
            ("POST", "/api/grid/spawn"),
            ("PUT", "/api/grid/nodes/nobody"),
        ] {
            let (status, answer) = ask(&place.http, method, path, &place.admin, body);
            let shape = body.replace(it, ".");
            assert!((400..500).contains(&status), "{method} {shape}: {status}");
            place
                .hunt
                .must_miss(&format!("the refusal of {method} {shape}"), &answer);
        }
    }
    // Tokens that are nearly right, or in the wrong place.
    let admin = place.admin.as_str();
    for wrong in [
        format!("{admin}0"),
        format!("x{admin}"),
        format!("{admin} {admin}"),
    ] {
        let (status, answer) = ask(&place.http, "GET", "/api/grid/nodes", &wrong, "");
        assert_eq!(status, 401);
        place.hunt.must_miss("the refusal of a token", &answer);
    }
    let file = place.grid.dir().join("tokens");
    fs::write(&file, format!("{admin}\n{admin}\n")).unwrap();
    let output = place.says(&["nodes", "--token-file", file.to_str().unwrap()]);
    assert!(!output.status.success());
    fs::remove_file(file).unwrap();
}

/// Agent and master are killed in the middle of everything that carries a secret: no half-written file tells it.
#[test]
fn what_a_killed_agent_and_master_leave_behind_tells_no_secret() {
    let place = Place::new();
    let grid = &place.grid;
    for round in 0..4 {
        let id = format!("keeper-{round}");
        let secrets = place.secrets(0);
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let up = grid.up(&[]);
        let spawn = ["spawn", "--name", id.as_str(), "--wait"];
        let mut spawning = grid
            .command(&[&spawn[..], &secrets, &SLEEP].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Another moment in each round: when the wish is stored, when the agent has it, when the node is begun, at once.
        let state = grid.state();
        let stored = state.join("agent/desired.json");
        let begun = place.secrets_dir(&id);
        match round {
            0 => {}
            1 => eventually("the wish to reach the agent", || {
                fs::read_to_string(&stored)
                    .ok()?
                    .contains(&id)
                    .then_some(())
            }),
            2 => eventually("the node's directory", || {
                begun.parent()?.exists().then_some(())
            }),
            _ => eventually("the secret's file", || {
                begun.join("key").exists().then_some(())
            }),
        }
        for part in ["agent", "master"] {
            kill(number(&up[part]["pid"]));
        }
        // Whether it was told of the node or not is another test's matter.
        spawning.wait().unwrap();
        grid.up(&[]);
        place.run(
            &["spawn", "--name", &id, "--wait"],
            &place.secrets(0),
            &SLEEP,
        );
        place.has(&id, 0);
        place.search(&id, &FIRST);
        place.run(&["rm", &id, "--purge", "--wait"], &[], &[]);
        place.search(&id, &[]);
    }
}
