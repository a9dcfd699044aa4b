//! A master in a process of its own, so that its descriptors and its memory can be counted.
//!
//! The process is this test program, executed again with [`CHILD`] set.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use grid_master::{Limits, Master, Settings};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    clients::{self, eventually},
    support::{Agent, Grid, LONG, hello},
};

/// The state directory of the child, and its limits.
const CHILD: &str = "GRID_MASTER_TEST_CHILD";
const QUICK: &str = "GRID_MASTER_TEST_QUICK";

/// The limits of a master that gives up soon: what takes minutes by default can be awaited.
fn quick() -> Limits {
    let soon = Duration::from_secs(1);
    Limits {
        http_connections: 64,
        grpc_connections: 64,
        head: soon,
        body: soon,
        hello: soon,
        stall: soon,
    }
}

/// Not a test of its own: the master that the others attack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_master() {
    let Some(state) = std::env::var_os(CHILD) else {
        return;
    };
    grid_listen::raise_open_files();
    let mut settings = Settings {
        heartbeat: Duration::from_millis(100),
        // Far longer than an attack: an agent that is lost was starved.
        lost_after: Duration::from_secs(15),
        ..crate::support::settings(Path::new(&state))
    };
    if std::env::var_os(QUICK).is_some() {
        settings.limits = quick();
    }
    let master = Master::bind(settings).await.unwrap();
    master.run(std::future::pending()).await.unwrap();
}

/// The child; killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A master with one agent and one node, under attack.
pub(crate) struct Target {
    child: Killed,
    pub(crate) grid: Grid,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    /// An honest agent, which must not suffer.
    pub(crate) agent: Agent,
    before: Before,
    _dir: tempfile::TempDir,
}

/// The master as it was before the attack.
struct Before {
    revision: Value,
    nodes: Value,
    tokens: Value,
    descriptors: usize,
}

impl Target {
    /// One with the limits that people have.
    pub(crate) async fn start() -> Self {
        Self::start_by(|_| {}).await
    }

    /// One that gives up soon.
    pub(crate) async fn quick() -> Self {
        Self::start_by(|command| {
            command.env(QUICK, "1");
        })
        .await
    }

    async fn start_by(change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "target::child_master", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        change(&mut command);
        let child = Killed(command.spawn().unwrap());
        let path = dir.path().join("addresses.json");
        let told = eventually("the child serves", async || {
            let text = std::fs::read_to_string(&path).ok()?;
            serde_json::from_str::<Value>(&text).ok()
        })
        .await;
        let address = |key: &str| -> SocketAddr { told[key].as_str().unwrap().parse().unwrap() };
        let grid = Grid::attach(dir.path(), &told);
        let mut agent = Agent::join(&grid, "honest").await;
        grid.spawn(json!({"node_id": "n1"})).await.expect(201);
        agent.obey().await;
        grid.until_state("n1", "running").await;
        let mut target = Self {
            child,
            http: address("http"),
            grpc: address("grpc"),
            grid,
            agent,
            before: Before {
                revision: Value::Null,
                nodes: Value::Null,
                tokens: Value::Null,
                descriptors: 0,
            },
            _dir: dir,
        };
        target.before = target.look().await;
        target
    }

    /// A token for one more agent, which is no part of the attack.
    pub(crate) async fn agent_token(&mut self) -> String {
        let token = self.grid.agent_token().await;
        self.before.tokens = self.get("/api/grid/tokens").await;
        token
    }

    async fn look(&self) -> Before {
        Before {
            revision: self.get("/api/grid/version").await["revision"].clone(),
            nodes: self.get("/api/grid/nodes").await,
            tokens: self.get("/api/grid/tokens").await,
            descriptors: self.descriptors(),
        }
    }

    /// What an honest client gets, on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let client = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        let url = format!("http://{}{path}", self.http);
        let request = client.get(url).bearer_auth(self.grid.token("admin"));
        let answer = timeout(LONG, self.grid.send(request)).await;
        answer.expect("an honest client waits in vain").expect(200)
    }

    /// How many descriptors the master has open.
    pub(crate) fn descriptors(&self) -> usize {
        clients::descriptors(self.child.0.id())
    }

    /// The master's resident memory in bytes: now (`VmRSS`), or at its peak (`VmHWM`).
    pub(crate) fn memory(&self, which: &str) -> u64 {
        clients::memory(self.child.0.id(), which)
    }

    /// The attack is over: the master serves, nothing has changed, nothing is left open, and the honest agent was heard
    /// all the while and gets its next wish.
    pub(crate) async fn must_be_unharmed(mut self) {
        eventually("what the attack opened is closed", async || {
            (self.descriptors() <= self.before.descriptors).then_some(())
        })
        .await;
        let after = self.look().await;
        assert_eq!(after.revision, self.before.revision);
        assert_eq!(after.nodes, self.before.nodes);
        assert_eq!(after.tokens, self.before.tokens);
        let agents = self.get("/api/grid/agents").await;
        assert_eq!(agents.as_array().unwrap().len(), 1, "{agents:#}");
        let events = self.get("/api/grid/events?follow=false").await.to_string();
        assert!(!events.contains("agent.lost"), "{events}");
        let stop = self.grid.call("POST", "/api/grid/nodes/n1/stop", json!({}));
        stop.await.expect(200);
        self.agent.obey().await;
        self.grid.until_state("n1", "stopped").await;
    }
}

/// What an honest agent of this install sends first; an attacker's copy of it.
pub(crate) fn honest() -> grid_proto::v1::Hello {
    hello("honest", "install-honest")
}
