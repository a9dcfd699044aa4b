//! An engine of the run's own: it can be killed, held up and robbed of its disk, and nobody else feels it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grid_testbed::Api;
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::super::Place;
use crate::Result;
use crate::daemon::{Daemon, Recipe};
use crate::place::{self, Disk};
use crate::proc;
use crate::proxy::Proxy;
use crate::report::Counts;

/// The size of the disk that images, containers and their logs lie on, in bytes.
const DISK: u64 = 512 << 20;
/// How long it may take to answer after a start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may be silent.
const SILENCE: Duration = Duration::from_secs(20);
/// Starts it as a service manager does: what a killed one has left of process ids says nothing in a namespace where they come
/// again soon.
const START: &str = "PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH; rm -f \"$1\" \"$2\"/containerd/*.pid; shift 2; exec \"$@\"";

pub(super) struct Engine {
    api: Api,
    daemon: Mutex<Option<Daemon>>,
    /// What the agent is told of.
    pub(super) socket: Arc<Proxy>,
    pub(super) at: PathBuf,
    pub(super) disk: Arc<Disk>,
    config: PathBuf,
    /// Where containerd has a folder of each container that runs.
    pub(super) folders: PathBuf,
}

/// The folder of containers that run, in that of the engine's sockets.
const FOLDERS: &str = "exec/containerd/daemon/io.containerd.runtime.v2.task/moby";

impl Engine {
    /// Starts it. Wants namespaces of our own: mounts, processes, network. `live_restore`: containers live on while it does
    /// not. That stays so: an engine that is told otherwise from one start to the next loses count of its own ports.
    pub(super) async fn start(place: &Place, live_restore: bool) -> Result<Self> {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .stdin(Stdio::null())
            .status()
            .await
            .map_err(|e| format!("cannot run `ip` of iproute2: {e}"))?;
        if !up.success() {
            return Err(format!("`ip link set lo up` ended with {up}").into());
        }
        hide_other_engines()?;
        let disk = Arc::new(Disk::mount(&place.dir.join("engine"), DISK)?);
        let (real, at) = (
            place.dir.join("dockerd.sock"),
            place.dir.join("engine.sock"),
        );
        let engine = Self {
            api: Api::new(&format!("unix://{}", real.display()))?.patient_for(SILENCE),
            daemon: Mutex::new(None),
            socket: Arc::new(Proxy::start_unix(&at, real)?),
            at,
            disk,
            config: place.dir.join("daemon.json"),
            folders: place.dir.join(FOLDERS),
        };
        let config = format!("{{\"live-restore\": {live_restore}}}\n");
        fs::write(&engine.config, config)?;
        *engine.daemon() = Some(Daemon::start(engine.recipe(place)));
        engine.wait().await?;
        Ok(engine)
    }

    fn recipe(&self, place: &Place) -> Recipe {
        let shown = |path: &Path| path.display().to_string();
        let exec = shown(&place.dir.join("exec"));
        let pid = shown(&place.dir.join("dockerd.pid"));
        let mut args = ["-c", START, "sh", &pid, &exec, "dockerd"]
            .map(str::to_owned)
            .to_vec();
        let flags = [
            ("--host", self.api.host().to_owned()),
            ("--config-file", shown(&self.config)),
            ("--data-root", shown(&place.dir.join("engine/data"))),
            ("--exec-root", exec),
            ("--pidfile", pid),
            ("--cgroup-parent", format!("/{}", place::cgroup(&place.dir))),
            ("--exec-opt", "native.cgroupdriver=cgroupfs".to_owned()),
        ];
        args.extend(flags.map(|(key, value)| format!("{key}={value}")));
        // Ports are published by its own proxy, and nothing goes out.
        args.extend(
            ["--iptables=false", "--ip-masq=false", "--ip-forward=false"].map(str::to_owned),
        );
        Recipe {
            name: "engine",
            program: "/bin/sh".into(),
            args,
            log: place.log("engine"),
        }
    }

    fn daemon(&self) -> std::sync::MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it; it is started again after `pause`. The process that it was; none when it was not there.
    pub(super) fn end(&self, signal: Signal, pause: Duration) -> Option<proc::Process> {
        let before = self.process()?;
        let ended = self.daemon().as_ref()?.end(signal, pause)?;
        // It was started again in between.
        if ended == before.pid {
            Some(before)
        } else {
            proc::look(ended)
        }
    }

    /// The process of it that runs; none while it is away.
    pub(super) fn process(&self) -> Option<proc::Process> {
        let pid = self.daemon().as_ref().and_then(Daemon::pid)?;
        proc::look(pid)
    }

    /// Waits until another one answers than `before`, which was told to end.
    pub(super) async fn wait_for_another(&self, before: &proc::Process) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let is_another = |it: &proc::Process| (it.pid, it.start) != (before.pid, before.start);
        while !self.process().as_ref().is_some_and(is_another) {
            if Instant::now() >= until {
                return Err("the engine does not end".into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.wait().await
    }

    /// Waits until it answers.
    pub(super) async fn wait(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.get("/containers/json") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => {
                    return Err(format!("the engine does not come up: {error}").into());
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// GETs JSON.
    pub(super) fn get(&self, path: &str) -> io::Result<Value> {
        self.call("GET", path, None)
    }

    pub(super) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Value> {
        block_in_place(|| self.api.call(method, path, body)).map_err(io::Error::other)
    }

    /// GETs bytes.
    pub(super) fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let answer = block_in_place(|| self.api.send("GET", path, "text/plain", b""));
        let answer = answer.map_err(io::Error::other)?;
        answer.ok().map_err(io::Error::other)?;
        Ok(answer.body)
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    pub(super) fn ends(&self) -> Counts {
        self.daemon().as_ref().map(Daemon::ends).unwrap_or_default()
    }

    /// Takes all containers away, and ends it.
    pub(super) async fn take_away(&self) -> Result<()> {
        let all = self.get("/containers/json?all=true")?;
        for id in all
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| it["Id"].as_str())
        {
            // What stays ends with the run's namespaces.
            let _ = self.call(
                "DELETE",
                &format!("/containers/{id}?force=true&v=true"),
                None,
            );
        }
        let daemon = self.daemon().take();
        match daemon {
            Some(daemon) => daemon.stop().await,
            None => Ok(()),
        }
    }
}

/// An engine takes a containerd that it finds on the host for its own, and all of them have sockets in one place.
fn hide_other_engines() -> Result<()> {
    let place = Path::new("/run/containerd");
    fs::create_dir_all(place)?;
    Ok(mount("tmpfs", place, "tmpfs", MountFlags::empty(), None)?)
}
