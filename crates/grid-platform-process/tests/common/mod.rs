//! What the tests of the adapter share: a place of their own, and eyes that do not ask the adapter.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part, and all of it is for tests"
)]

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use grid_platform_api::{
    DataPolicy, NodeId, Platform, PlatformExt, Program, ReadyMode, RestartMode, RestartPolicy,
    SpawnConfig, SpawnConfigBuilder, SpawnedNode, StopPolicy, StopSignal,
};
use grid_platform_process::{Allow, ProcessConfig, ProcessPlatform};
use grid_platform_testing::{HostPlace, environment};

/// A state and a data directory, removed with all processes of its nodes, also after a panic.
pub(crate) struct Place {
    pub(crate) dir: HostPlace,
    pub(crate) config: ProcessConfig,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = HostPlace::new().unwrap();
        let config = ProcessConfig {
            programs: Allow::Any,
            ..ProcessConfig::new(dir.path().join("state"), dir.path().join("data"))
        };
        Self { dir, config }
    }

    pub(crate) async fn open(&self) -> ProcessPlatform {
        ProcessPlatform::open(self.config.clone()).await.unwrap()
    }

    pub(crate) fn node_dir(&self, id: &str) -> PathBuf {
        self.config
            .state_dir
            .join("nodes")
            .join(format!("sutra-grid-{id}"))
    }

    pub(crate) fn data(&self, id: &str) -> PathBuf {
        self.config.data_path.join(id)
    }
}

pub(crate) fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

/// A node that runs a shell script, quickly stopped and quickly restarted.
pub(crate) fn sh(id: &str, script: &str) -> SpawnConfigBuilder {
    SpawnConfig::builder(id, Program::binary("sh", ["-c", script]))
        .ready(ReadyMode::Started)
        .restart(quick(RestartMode::OnFailure))
        .stop(StopPolicy {
            signal: StopSignal::Term,
            grace: Duration::from_secs(5),
        })
}

pub(crate) fn quick(mode: RestartMode) -> RestartPolicy {
    RestartPolicy {
        mode,
        initial_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(40),
        ..RestartPolicy::default()
    }
}

/// Sleeps on; a stop ends it.
pub(crate) const SLEEP: &str = "exec sleep 1000";

/// Waits for a condition that no event tells of.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn wait_for(
    platform: &ProcessPlatform,
    node: &str,
    wanted: impl Fn(&SpawnedNode) -> bool + Send + Sync,
) -> SpawnedNode {
    platform
        .wait_for(&id(node), Duration::from_secs(20), |it| {
            it.is_some_and(&wanted)
        })
        .await
        .unwrap();
    platform.get_node_status(&id(node)).await.unwrap()
}

/// The processes that carry the node's uid, from `/proc` alone.
pub(crate) fn census(uid: &str) -> Vec<u32> {
    let line = format!("SUTRA_NODE_UID={uid}");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            environment(*pid).is_ok_and(|it| it.split(|b| *b == 0).any(|it| it == line.as_bytes()))
        })
        .collect()
}

/// The process's parent: the shim of a node's main process.
pub(crate) fn parent(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let tail = stat.rsplit_once(')').unwrap().1;
    tail.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Kills a process, and returns when it has ended: what it held is free then.
pub(crate) fn kill_9(pid: u32) {
    let status = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
    let has_ended = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has only its number left.
        stat.rsplit_once(')')
            .is_none_or(|(_, it)| it.trim_start().starts_with(['Z', 'X']))
    };
    let until = Instant::now() + Duration::from_secs(20);
    while !has_ended() {
        assert!(Instant::now() < until, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the process is there, be it as a zombie.
pub(crate) fn exists(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

/// Removes all nodes, so that no test leaves a process behind.
pub(crate) async fn clean(platform: &ProcessPlatform) {
    for node in platform.list_nodes().await.unwrap() {
        platform
            .remove_node(&node.node_id, DataPolicy::Purge)
            .await
            .unwrap();
        assert_eq!(census(node.uid.as_str()), [0; 0]);
    }
}

/// CRC-32 as in IEEE 802.3, for records that a test writes itself.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
        crc
    })
}
