//! The server in a process of its own: this test program, executed again with [`CHILD`] set.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use grid_storage::Server;

use crate::common;

/// The directory of the child: there it has its data and writes its address, and there a file named `token` is its
/// token.
const CHILD: &str = "GRID_STORAGE_TEST_CHILD";
/// Limits of the child that are not the default, such as `stall=1000,connections=64`.
pub(crate) const LIMITS: &str = "GRID_STORAGE_TEST_LIMITS";

/// Not a test of its own: the server that others kill or attack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let dir = Path::new(&dir);
    grid_listen::raise_open_files();
    let mut config = common::config(&dir.join("data"));
    config.token_file = Some(dir.join("token")).filter(|file| file.exists());
    let given = std::env::var(LIMITS).unwrap_or_default();
    for (name, value) in given.split(',').filter_map(|it| it.split_once('=')) {
        let limits = &mut config.limits;
        let value: u64 = value.parse().unwrap();
        match name {
            "stall" => limits.stall_timeout = Duration::from_millis(value),
            "connections" => limits.max_connections = usize::try_from(value).unwrap(),
            "object" => limits.max_object_bytes = value,
            "free" => limits.min_free_bytes = value,
            other => panic!("no limit is called {other}"),
        }
    }
    let server = Server::bind(config).unwrap();
    std::fs::write(dir.join("address.new"), server.local_addr().to_string()).unwrap();
    std::fs::rename(dir.join("address.new"), dir.join("address")).unwrap();
    server.run(std::future::pending()).await.unwrap();
}

/// A child that does not outlive its test.
pub(crate) struct Killed(Child);

impl Killed {
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn start_child(dir: &Path) -> (Killed, SocketAddr) {
    start_command(dir, &mut Command::new(std::env::current_exe().unwrap())).await
}

/// Starts the child by a command that takes this program's arguments.
pub(crate) async fn start_command(dir: &Path, command: &mut Command) -> (Killed, SocketAddr) {
    let _ = std::fs::remove_file(dir.join("address"));
    let child = Killed(
        command
            .args(["--exact", "child::server", "--nocapture"])
            .env(CHILD, dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut address = None;
    common::eventually("the child listens", async || {
        address = std::fs::read_to_string(dir.join("address")).ok();
        address.is_some()
    })
    .await;
    let address: SocketAddr = address.unwrap().parse().unwrap();
    let url = format!("http://{address}/readyz");
    common::eventually("the child is ready", async || {
        reqwest::get(&url)
            .await
            .is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    (child, address)
}
