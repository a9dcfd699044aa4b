//! Reboots and power cuts under a grid that runs in the machine as services, seen from the host.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "all of it is for tests"
)]

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use grid_client::{Client, Desired, Node, NodeFilter, NodeSettings, SpawnRequest};
use grid_platform_api::{DataPolicy, NodeId, RestartMode, RestartPolicy};
use grid_vm::{Machine, program, run_outside};
use libtest_mimic::Trial;
use tokio::runtime::Runtime;

/// How long anything may take in a machine that is slow by itself, on a host that may be busy.
const PATIENCE: Duration = Duration::from_secs(240);

/// Tells of a second one beside it, and of each start.
const ALONE: &str = "exec 9>>alone; flock -n 9 || echo $SUTRA_NODE_UID >>doubled; echo $SUTRA_NODE_UID >>starts; exec sleep 100000";

/// Master and agent, and what starts them with the machine.
const UNITS: &str = r#"
mkdir -p @HOME@
cat >@HOME@/agent.toml <<EOF
[agent]
agent_id = "vm"
state_dir = "@HOME@/agent"
token_file = "@HOME@/master/tokens/agent"
[storage]
binary_path = "@GRID@"
args = ["storage", "--listen", "{bind}:{port}", "--data-path", "{data_path}"]
health_path = "/readyz"
data_path = "@HOME@/data"
programs = "any"
EOF
cat >/etc/systemd/system/grid-master.service <<EOF
[Service]
ExecStart=@MASTER@ --state-dir @HOME@/master
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
EOF
cat >/etc/systemd/system/grid-agent.service <<EOF
[Unit]
After=grid-master.service
StartLimitIntervalSec=0
[Service]
ExecStart=@AGENT@ --config @HOME@/agent.toml
KillMode=process
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
EOF
systemctl daemon-reload
systemctl enable --quiet grid-master grid-agent
systemctl restart grid-master grid-agent
"#;

/// Processes that have these numbers before the agent is there, as far as they are free.
const DECOYS: &str = r#"
cat >/usr/local/sbin/decoys <<'EOF'
#!/bin/sh
for pid in @PIDS@; do
    n=0
    while [ ! -e /proc/$pid ] && [ $n -lt 300 ]; do
        n=$((n + 1))
        echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid
        sleep 100001 &
        [ $! = $pid ] || kill -9 $!
    done
done
EOF
chmod 755 /usr/local/sbin/decoys
cat >/etc/systemd/system/decoys.service <<EOF
[Unit]
Before=grid-agent.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/decoys
[Install]
WantedBy=multi-user.target
EOF
systemctl daemon-reload
systemctl enable --quiet decoys
"#;

fn main() -> ExitCode {
    run_outside(vec![
        trial(
            "a_power_cut_loses_what_was_not_flushed_and_nothing_else",
            a_cut_is_one,
        ),
        trial(
            "a_reboot_starts_each_node_once_by_its_policy_and_touches_no_stranger",
            a_reboot,
        ),
        trial(
            "what_was_acknowledged_is_there_after_a_power_cut",
            power_cuts,
        ),
    ])
}

fn trial(name: &str, run: fn()) -> Trial {
    // What panics is told by its words.
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

/// A grid in the machine, as the host reaches it.
struct Grid {
    machine: Machine,
    runtime: Runtime,
    home: String,
    token: String,
    client: Client,
}

impl Grid {
    /// A new one.
    fn start() -> Self {
        let machine = Machine;
        let runtime = Runtime::new().unwrap();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let home = format!("/var/lib/grid-{}", since.as_millis());
        let path = |name| program(name).display().to_string();
        let script = UNITS
            .replace("@HOME@", &home)
            .replace("@GRID@", &path("grid"))
            .replace("@MASTER@", &path("grid-master"))
            .replace("@AGENT@", &path("grid-agent"));
        machine.shell(&script);
        let file = format!("{home}/master/tokens/admin");
        let token = until(machine, "the master's tokens", || {
            let token = machine.shell(&format!("cat {file} 2>/dev/null || true"));
            let token = token.trim().to_owned();
            (!token.is_empty()).then_some(token)
        });
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let mut grid = Self {
            machine,
            runtime,
            home,
            token,
            client,
        };
        grid.reach();
        grid
    }

    /// Finds the master, after each boot, and waits until the agent has told it what there is.
    fn reach(&mut self) {
        let url = format!("http://127.0.0.1:{}", self.machine.forward(9000));
        self.client = Client::new(&url, Some(&self.token)).unwrap();
        until(self.machine, "the agent to be connected", || {
            let agents = self.runtime.block_on(self.client.agents()).ok()?;
            agents.iter().any(|it| it.connected).then_some(())
        });
    }

    fn node(&self, id: &str) -> Node {
        self.runtime.block_on(self.client.node(&named(id))).unwrap()
    }

    fn spawn(&self, id: &str, settings: NodeSettings) {
        let request = SpawnRequest {
            node_id: Some(named(id)),
            settings,
            ..SpawnRequest::default()
        };
        let node = self.runtime.block_on(self.client.spawn(&request, id));
        assert_eq!(node.unwrap().id, named(id));
    }

    /// Waits until the newest of what is wanted is so.
    fn wait(&self, id: &str, what: &str, holds: impl Fn(&Node) -> bool) -> Node {
        until(self.machine, &format!("`{id}` {what}"), || {
            let node = self.runtime.block_on(self.client.node(&named(id))).ok()?;
            let is_told = node.uid.is_some() && node.observed_generation >= node.generation;
            (is_told && holds(&node)).then_some(node)
        })
    }

    fn wait_running(&self, id: &str) -> Node {
        self.wait(id, "to run", |it| it.pid.is_some())
    }

    fn wait_ended(&self, id: &str) -> Node {
        self.wait(id, "not to run", |it| it.pid.is_none())
    }

    /// The processes of a node's incarnation, from the machine's own table.
    fn processes(&self, node: &Node) -> Vec<String> {
        let uid = node.uid.clone().unwrap();
        self.machine
            .shell(&format!(
                "grep -lzx 'SUTRA_NODE_UID={uid}' /proc/[0-9]*/environ 2>/dev/null || true"
            ))
            .lines()
            .filter_map(|it| it.split('/').nth(2).map(str::to_owned))
            .collect()
    }

    /// Waits until the program is what its script has become, and has no other beside it.
    fn runs_once(&self, node: &Node) {
        let pid = node.pid.unwrap();
        let what = format!("`{}` to be process {pid} alone", node.id);
        until(self.machine, &what, || {
            let comm = self.machine.shell(&format!("cat /proc/{pid}/comm"));
            (comm.trim() != "sh" && self.processes(node) == [pid.to_string()]).then_some(())
        });
    }

    /// How often the program was started, and whether one ever was beside another.
    fn starts(&self, id: &str) -> usize {
        let data = format!("{}/data/{id}", self.home);
        assert_eq!(
            self.machine
                .shell(&format!("cat {data}/doubled 2>/dev/null || true")),
            ""
        );
        self.machine
            .shell(&format!("cat {data}/starts"))
            .lines()
            .count()
    }

    /// Cuts the power right now, and boots again.
    fn cut_power(&mut self) {
        self.machine.cut_power();
        self.machine.boot();
        self.reach();
    }
}

/// Nothing reaches the disk but what is flushed to it and what goes with that, from now to the next boot.
fn write_nothing_back(machine: Machine) {
    machine.shell(
        "sync; sysctl -q vm.dirty_writeback_centisecs=0 vm.dirty_expire_centisecs=360000; \
         mount -o remount,commit=3600 /",
    );
}

fn named(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

fn script(mode: RestartMode) -> NodeSettings {
    NodeSettings {
        binary: Some("sh".to_owned()),
        args: Some(vec!["-c".to_owned(), ALONE.to_owned()]),
        restart: Some(RestartPolicy {
            mode,
            ..RestartPolicy::default()
        }),
        ..NodeSettings::default()
    }
}

/// Asks again and again; what services said comes with the failure.
fn until<T>(machine: Machine, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        if Instant::now() >= end {
            let said = machine.shell("journalctl --no-pager -n 60 -u 'grid-*' -u decoys");
            panic!("waited {PATIENCE:?} for {what}\n{said}");
        }
        thread::sleep(Duration::from_millis(250));
    }
}

/// What the other tests rest on: the machine's disk keeps what was flushed, and a cut takes the rest.
fn a_cut_is_one() {
    let machine = Machine;
    write_nothing_back(machine);
    machine.shell(
        "cd /root; echo kept >flushed; sync flushed .; echo lost >not-flushed; cat not-flushed",
    );
    machine.cut_power();
    machine.boot();
    let found =
        machine.shell("cd /root; cat flushed not-flushed 2>/dev/null; rm -f flushed not-flushed");
    assert_eq!(found, "kept\n");
}

fn a_reboot() {
    let mut grid = Grid::start();
    let modes = [
        ("always", RestartMode::Always),
        ("failure", RestartMode::OnFailure),
        ("never", RestartMode::Never),
        ("stopped", RestartMode::Always),
    ];
    for (id, mode) in modes {
        grid.spawn(id, script(mode));
    }
    let before: Vec<Node> = modes.map(|(id, _)| grid.wait_running(id)).into();
    grid.runtime
        .block_on(grid.client.stop(&named("stopped")))
        .unwrap();
    grid.wait_ended("stopped");

    // After it, processes of others have the numbers that the records know.
    let pids: Vec<String> = before[..3]
        .iter()
        .map(|it| it.pid.unwrap())
        .flat_map(|pid| {
            let parent = grid
                .machine
                .shell(&format!("awk '{{ print $4 }}' /proc/{pid}/stat"));
            [pid.to_string(), parent.trim().to_owned()]
        })
        .collect();
    grid.machine
        .shell(&DECOYS.replace("@PIDS@", &pids.join(" ")));
    grid.machine.reboot();
    let decoys = |grid: &Grid| {
        let those_of_ours = format!(
            "for it in {}; do grep -lsz 100001 /proc/$it/cmdline; done; true",
            pids.join(" ")
        );
        grid.machine.shell(&those_of_ours)
    };
    let strangers = decoys(&grid);
    assert!(!strangers.is_empty(), "no number was given again: {pids:?}");
    grid.reach();

    for id in ["always", "failure"] {
        let node = grid.wait_running(id);
        grid.runs_once(&node);
        assert_eq!(grid.starts(id), 2, "{id}");
    }
    for (id, starts) in [("never", 1), ("stopped", 1)] {
        let node = grid.wait_ended(id);
        assert_eq!(grid.processes(&node), [""; 0], "{id}");
        assert_eq!(grid.starts(id), starts, "{id}");
    }
    assert_eq!(decoys(&grid), strangers, "a stranger was ended");
    for (id, _) in modes {
        grid.runtime
            .block_on(grid.client.remove(&named(id), DataPolicy::Purge))
            .unwrap();
    }
    until(grid.machine, "all nodes to be gone", || {
        let left = grid
            .runtime
            .block_on(grid.client.nodes(&NodeFilter::default()));
        left.ok()?.is_empty().then_some(())
    });
    grid.machine.shell("systemctl disable --quiet decoys");
}

fn power_cuts() {
    let mut grid = Grid::start();

    // A spawn: whatever became of it before, it runs.
    write_nothing_back(grid.machine);
    grid.spawn("script", script(RestartMode::OnFailure));
    grid.cut_power();
    assert_eq!(grid.node("script").desired, Desired::Running);
    let node = grid.wait_running("script");
    grid.runs_once(&node);

    // An object.
    grid.spawn("store", NodeSettings::default());
    let node = grid.wait("store", "to be healthy", |it| it.health == "healthy");
    write_nothing_back(grid.machine);
    let body = vec![0x5a; 100_000];
    let object = object(&grid, &node);
    let put = reqwest::Client::new().put(&object).body(body.clone());
    let said = grid.runtime.block_on(async {
        let put = put.send().await?;
        Ok::<_, reqwest::Error>((put.status(), put.text().await?))
    });
    let (status, text) = said.unwrap();
    assert!(status.is_success(), "{status}: {text}");
    grid.cut_power();
    let node = grid.wait("store", "to be healthy", |it| it.health == "healthy");
    grid.runs_once(&node);
    let object = self::object(&grid, &node);
    let got = grid.runtime.block_on(async {
        let got = reqwest::get(&object).await?.error_for_status()?;
        got.bytes().await
    });
    assert!(got.unwrap() == body, "the object is another one");

    // A stop.
    let starts = grid.starts("script");
    write_nothing_back(grid.machine);
    grid.runtime
        .block_on(grid.client.stop(&named("script")))
        .unwrap();
    grid.cut_power();
    assert_eq!(grid.node("script").desired, Desired::Stopped);
    let node = grid.wait_ended("script");
    assert_eq!(grid.processes(&node), [""; 0]);
    assert!(
        grid.starts("script") <= starts + 1,
        "started more than once"
    );

    // A removal.
    let node = grid.wait_running("store");
    let data = node.data_path.clone().unwrap();
    write_nothing_back(grid.machine);
    grid.runtime
        .block_on(grid.client.remove(&named("store"), DataPolicy::Purge))
        .unwrap();
    grid.cut_power();
    until(grid.machine, "the node to be gone", || {
        let left = grid
            .runtime
            .block_on(grid.client.nodes(&NodeFilter::default()));
        let left = left.ok()?;
        (!left.iter().any(|it| it.id == named("store"))).then_some(())
    });
    assert_eq!(grid.processes(&node), [""; 0]);
    grid.machine.shell(&format!("test ! -e {data}"));
}

/// Where an object of the node is, for the host.
fn object(grid: &Grid, node: &Node) -> String {
    let endpoint = node.endpoint.clone().unwrap();
    let port = endpoint.rsplit(':').next().unwrap().parse().unwrap();
    format!(
        "http://127.0.0.1:{}/v1/objects/kept",
        grid.machine.forward(port)
    )
}
