//! The `docker` command, started anew for each call as people do.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::container::Made;
use super::peer::Peer;
use crate::Result;
use crate::proxy::Proxy;

/// By which `cargo xtask` knows it.
pub(super) const NAME: &str = "docker";

/// The command, and the engine it speaks to.
pub(super) struct Docker {
    path: PathBuf,
    host: String,
}

impl Docker {
    pub(super) fn new(path: PathBuf, proxy: &Proxy) -> Self {
        Self {
            path,
            host: proxy.host(),
        }
    }

    /// Runs it, and gives what it said.
    pub(super) fn run(&self, args: &[String]) -> Result<String> {
        let mut command = Command::new(&self.path);
        command.args(args).env("DOCKER_HOST", &self.host);
        output(command)
    }
}

/// Runs a command to its end, and gives its standard output; one that fails is an error with its words.
pub(super) fn output(mut command: Command) -> Result<String> {
    let output = command
        .env_remove("DOCKER_CONTEXT")
        .env_remove("DOCKER_TLS_VERIFY")
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let name = command.get_program().to_string_lossy();
    Err(format!("`{name}` ended with {}: {}", output.status, words.trim()).into())
}

/// The arguments of `docker run` that make this container.
fn arguments(made: &Made) -> Result<Vec<String>> {
    let mut args = vec!["run".to_owned(), "--detach".to_owned()];
    let mut add = |name: &str, value: String| args.push(format!("--{name}={value}"));
    add("name", made.name.clone());
    for (key, value) in Made::pairs(&made.body["Labels"]) {
        add("label", format!("{key}={value}"));
    }
    for value in Made::words(&made.body["Env"]) {
        add("env", value.to_owned());
    }
    add("user", text(&made.body["User"])?);
    add("stop-signal", text(&made.body["StopSignal"])?);
    add("stop-timeout", made.body["StopTimeout"].to_string());
    for (source, target, read_only) in made.mounts()? {
        let end = if read_only { ",readonly" } else { "" };
        add(
            "mount",
            format!("type=bind,source={source},target={target}{end}"),
        );
    }
    for (target, options) in Made::pairs(made.host("Tmpfs")) {
        add("tmpfs", format!("{target}:{options}"));
    }
    let (inside, address) = made.published()?;
    add("publish", format!("{address}:{}:{inside}", made.port));
    add("read-only", made.host("ReadonlyRootfs").to_string());
    for value in Made::words(made.host("CapDrop")) {
        add("cap-drop", value.to_owned());
    }
    for value in Made::words(made.host("SecurityOpt")) {
        add("security-opt", value.to_owned());
    }
    add("memory", made.host("Memory").to_string());
    add("memory-swap", made.host("MemorySwap").to_string());
    add("cpu-period", made.host("CpuPeriod").to_string());
    add("cpu-quota", made.host("CpuQuota").to_string());
    add("pids-limit", made.host("PidsLimit").to_string());
    for limit in made.host("Ulimits").as_array().into_iter().flatten() {
        let name = text(&limit["Name"])?;
        add(
            "ulimit",
            format!("{name}={}:{}", limit["Soft"], limit["Hard"]),
        );
    }
    add("restart", text(&made.host("RestartPolicy")["Name"])?);
    let log = made.host("LogConfig");
    add("log-driver", text(&log["Type"])?);
    for (key, value) in Made::pairs(&log["Config"]) {
        add("log-opt", format!("{key}={value}"));
    }
    args.push(text(&made.body["Image"])?);
    args.extend(Made::words(&made.body["Cmd"]).map(str::to_owned));
    Ok(args)
}

/// A setting that is text.
pub(super) fn text(value: &serde_json::Value) -> Result<String> {
    let text = value
        .as_str()
        .ok_or_else(|| format!("{value} is no text"))?;
    Ok(text.to_owned())
}

impl Peer for Docker {
    fn prepare(&self, made: &Made) -> Result<Vec<String>> {
        arguments(made)
    }

    fn start(&self, _: &Made, prepared: &[String]) -> Result<()> {
        self.run(prepared).map(drop)
    }

    fn stop(&self, made: &Made, _: &[String]) -> Result<()> {
        self.run(&["stop".to_owned(), made.name.clone()]).map(drop)
    }
}
