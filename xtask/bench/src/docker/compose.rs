//! `docker-compose`: version 1, which is what Debian has; started anew for each call as people do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use super::command::{output, text};
use super::container::Made;
use super::peer::Peer;
use crate::Result;
use crate::proxy::Proxy;

/// By which `cargo xtask` knows it.
pub(super) const NAME: &str = "docker-compose";

/// The command, the engine it speaks to, and where its files are.
pub(super) struct Compose {
    path: PathBuf,
    host: String,
    dir: PathBuf,
}

impl Compose {
    pub(super) fn new(path: PathBuf, proxy: &Proxy, dir: &Path) -> Self {
        Self {
            path,
            host: proxy.host(),
            dir: dir.to_owned(),
        }
    }

    /// Writes the file of a project with these containers, and gives the words by which the command finds it.
    pub(super) fn project(&self, name: &str, made: &[Made]) -> Result<Vec<String>> {
        let services: Result<Map<String, Value>> = made
            .iter()
            .map(|it| Ok((it.name.clone(), service(it)?)))
            .collect();
        // JSON is YAML. It is the newest form of the file that has limits.
        let file = json!({"version": "2.4", "services": services?});
        let path = self.dir.join(format!("{name}.json"));
        fs::write(&path, file.to_string().replace('$', "$$"))?;
        let words = ["--project-name", name, "--file", &path.to_string_lossy()];
        Ok(words.map(str::to_owned).to_vec())
    }

    /// Runs it for a project.
    pub(super) fn run(&self, project: &[String], args: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.path);
        command.args(project).args(args);
        command.env("DOCKER_HOST", &self.host);
        output(command).map(drop)
    }
}

fn service(made: &Made) -> Result<Value> {
    let log = made.host("LogConfig");
    let quota = |key| made.host(key).clone();
    let volumes = made.mounts()?.into_iter();
    let volumes = volumes.map(|(source, target, read_only)| {
        json!({"type": "bind", "source": source, "target": target, "read_only": read_only})
    });
    let tmpfs = Made::pairs(made.host("Tmpfs")).map(|(target, it)| format!("{target}:{it}"));
    let (inside, address) = made.published()?;
    let mut limits = Map::new();
    for limit in made.host("Ulimits").as_array().into_iter().flatten() {
        let both = json!({"soft": limit["Soft"], "hard": limit["Hard"]});
        limits.insert(text(&limit["Name"])?, both);
    }
    let mut service = json!({
        "image": made.body["Image"],
        "container_name": made.name,
        "labels": made.body["Labels"],
        "environment": made.body["Env"],
        "user": made.body["User"],
        "stop_signal": made.body["StopSignal"],
        "stop_grace_period": format!("{}s", made.body["StopTimeout"]),
        "volumes": volumes.collect::<Vec<_>>(),
        "tmpfs": tmpfs.collect::<Vec<_>>(),
        "ports": [format!("{address}:{}:{inside}", made.port)],
        "read_only": made.host("ReadonlyRootfs"),
        "cap_drop": made.host("CapDrop"),
        "security_opt": made.host("SecurityOpt"),
        "mem_limit": made.host("Memory"),
        "memswap_limit": made.host("MemorySwap"),
        "cpu_period": quota("CpuPeriod"),
        "cpu_quota": quota("CpuQuota"),
        "pids_limit": made.host("PidsLimit"),
        "ulimits": limits,
        "restart": made.host("RestartPolicy")["Name"],
        "logging": {"driver": log["Type"], "options": log["Config"]},
        // The network that a container has for which nobody says another.
        "network_mode": "bridge",
    });
    if let Some(words) = made.body["Cmd"].as_array() {
        service["command"] = json!(words);
    }
    Ok(service)
}

impl Peer for Compose {
    fn prepare(&self, made: &Made) -> Result<Vec<String>> {
        self.project(&made.name, std::slice::from_ref(made))
    }

    fn start(&self, _: &Made, prepared: &[String]) -> Result<()> {
        self.run(prepared, &["up", "--detach"])
    }

    fn stop(&self, _: &Made, prepared: &[String]) -> Result<()> {
        self.run(prepared, &["stop"])
    }
}
