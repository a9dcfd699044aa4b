//! Container engines that are the tests' own: raised beside whatever else runs on the host, and taken away whole.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Signal};
use sha2::{Digest, Sha256};

use crate::proc::{self, Process};
use crate::{Api, network};

/// How long an engine may take to answer after its start, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// A kind of engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Docker Engine.
    Docker,
    /// Podman's service, which speaks the same API.
    Podman,
}

impl Kind {
    /// Its name, as in `cargo xtask testbed up NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// The variable of the environment by which its own client is told of an engine that is there.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Docker => "DOCKER_HOST",
            Self::Podman => "CONTAINER_HOST",
        }
    }

    /// The program that serves.
    fn daemon(self) -> &'static str {
        match self {
            Self::Docker => "dockerd",
            Self::Podman => "podman",
        }
    }

    /// The programs that it needs, and the packages of Debian's that have them.
    pub fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Docker => &[
                ("dockerd", "docker.io"),
                ("containerd", "containerd"),
                ("runc", "runc"),
                ("ip", "iproute2"),
            ],
            Self::Podman => &[
                ("podman", "podman"),
                ("runc", "runc"),
                ("conmon", "conmon"),
                ("/usr/lib/podman/netavark", "netavark"),
                ("iptables", "iptables"),
                ("ip", "iproute2"),
            ],
        }
    }
}

/// How an engine is raised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Containers live on while Docker's daemon does not (`live-restore`). Podman's always do.
    pub live_restore: bool,
}

/// An engine with a directory of its own, up or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    kind: Kind,
    dir: PathBuf,
}

/// An engine of one test, taken away when this is dropped.
#[derive(Debug)]
pub struct Temporary(Engine);

impl std::ops::Deref for Temporary {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left of it is found by the next run.
        let _ = self.0.down();
    }
}

/// The engine that tests of this kind use: the one that its variable names, else the one of this checkout.
///
/// # Errors
/// Why there is none, as part of a sentence.
pub fn find(kind: Kind) -> Result<Api, String> {
    let variable = kind.variable();
    if let Some(host) = env::var_os(variable).filter(|it| !it.is_empty()) {
        let host = host.to_string_lossy();
        let reach = || {
            let api = Api::new(&host)?;
            api.ping().map(|()| api)
        };
        return reach().map_err(|why| format!("`{variable}` is set, and {why}"));
    }
    Engine::of_checkout(kind).look()
}

/// Whether an engine of this kind can be raised here, its programs apart.
///
/// # Errors
/// Why not, as part of a sentence.
pub fn can_raise(kind: Kind) -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("an engine is raised on Linux only".into());
    }
    if !rustix::process::geteuid().is_root() {
        let variable = kind.variable();
        return Err(format!(
            "only root can raise an engine, and `{variable}` names none"
        ));
    }
    Ok(())
}

impl Engine {
    /// The engine of this checkout.
    pub fn of_checkout(kind: Kind) -> Self {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
        Self::in_temporary(kind, &short_sum(&own))
    }

    /// An engine in this directory, whose path is to be short: there are sockets in it.
    pub fn at(kind: Kind, dir: impl Into<PathBuf>) -> Self {
        Self {
            kind,
            dir: dir.into(),
        }
    }

    fn in_temporary(kind: Kind, name: &str) -> Self {
        // Not by `TMPDIR`, which is longer than a socket's path may be and another for each shell.
        Self::at(kind, format!("{}{name}", prefix(kind)))
    }

    /// An engine for one test alone.
    ///
    /// # Errors
    /// Why it cannot be raised.
    pub fn temporary(kind: Kind, options: Options) -> Result<Temporary, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = proc::identity(std::process::id()).ok_or("there is no `/proc`")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t.{}.{number}", own.replace(' ', "."));
        let engine = Temporary(Self::in_temporary(kind, &name));
        engine.up(options)?;
        Ok(engine)
    }

    /// Takes away the engines of tests that ended without doing so.
    pub fn sweep_temporaries(kind: Kind) {
        let (Some(dir), Some(prefix)) = (
            Path::new(prefix(kind).as_str())
                .parent()
                .map(Path::to_owned),
            Path::new(prefix(kind).as_str())
                .file_name()
                .map(|it| format!("{}t.", it.to_string_lossy())),
        ) else {
            return;
        };
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(&prefix) else {
                continue;
            };
            let mut parts = rest.split('.');
            let pid = parts.next().and_then(|it| it.parse().ok()).unwrap_or(0);
            let identity = format!("{pid} {}", parts.next().unwrap_or_default());
            if proc::identity(pid) != Some(identity) && is_own_dir(&entry.path()) {
                let _ = Self::at(kind, entry.path()).down();
            }
        }
    }

    /// Its place, as in `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.join("engine.sock").display())
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A way to call it, if it is up.
    ///
    /// # Errors
    /// Why not, as part of a sentence.
    pub fn look(&self) -> Result<Api, String> {
        let name = self.kind.name();
        if !self.dir.exists() {
            return Err(format!("no {name} engine is up"));
        }
        let api = Api::new(&self.host())?;
        match api.ping() {
            Ok(()) => Ok(api),
            Err(why) => Err(format!("no {name} engine is up: {why}")),
        }
    }

    /// Raises it, unless it is up. What a run before left in its directory is used again.
    ///
    /// # Errors
    /// Why not; then nothing of it runs.
    pub fn up(&self, options: Options) -> Result<Api, String> {
        can_raise(self.kind)?;
        private_dir(&self.dir)?;
        let lock = File::create(self.dir.join("lock")).map_err(|error| self.broken(error))?;
        // One at a time; the lock goes with the process that has it.
        lock.lock().map_err(|error| self.broken(error))?;
        if let Ok(api) = self.look() {
            return Ok(api);
        }
        if let Some(process) = self.daemon() {
            return Err(format!(
                "process {} of the engine in `{}` lives and does not answer",
                process.pid,
                self.dir.display()
            ));
        }
        // Docker's own containerd dies with a daemon that is killed, a moment later. The next daemon takes a process of its
        // number for it, be it a zombie whom nobody has reaped.
        for process in proc::processes(|it| it.name == "containerd" && it.mentions(&self.dir)) {
            process.wait(Duration::from_secs(5));
            process.signal(Signal::KILL);
            process.wait(Duration::from_secs(5));
        }
        for stale in [
            "engine.pid",
            "engine.sock",
            "exec/containerd/containerd.pid",
        ] {
            let _ = fs::remove_file(self.dir.join(stale));
        }
        let mut child = match self.kind {
            Kind::Docker => self.start_docker(options)?,
            Kind::Podman => self.start_podman()?,
        };
        let api = Api::new(&self.host())?;
        let until = Instant::now() + PATIENCE;
        loop {
            if api.ping().is_ok() {
                break;
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!(
                    "`{}` ended with {status}: {}",
                    self.kind.daemon(),
                    self.last_words()
                ));
            }
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "`{}` does not answer: {}",
                    self.kind.daemon(),
                    self.last_words()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // So that no zombie of it is left in this process when it is killed by somebody.
        std::thread::spawn(move || child.wait());
        Ok(api)
    }

    /// The daemon's process.
    fn daemon(&self) -> Option<Process> {
        let socket = self.dir.join("engine.sock");
        let name = self.kind.daemon();
        proc::processes(|it| it.name == name && it.mentions(&socket)).pop()
    }

    /// Kills the daemon with SIGKILL, and returns when it has ended. Its containers are left to themselves.
    ///
    /// # Errors
    /// When there is none, or it does not end.
    pub fn kill(&self) -> Result<(), String> {
        self.end_daemon(Signal::KILL)
    }

    /// Ends the daemon in good order. Docker stops its containers unless it is to restore them; Podman leaves them.
    ///
    /// # Errors
    /// When there is none, or it does not end.
    pub fn stop(&self) -> Result<(), String> {
        self.end_daemon(Signal::TERM)
    }

    fn end_daemon(&self, signal: Signal) -> Result<(), String> {
        let daemon = self.daemon().ok_or("the engine has no process")?;
        daemon.signal(signal);
        if daemon.wait(PATIENCE) {
            return Ok(());
        }
        Err(format!("process {} does not end", daemon.pid))
    }

    /// Ends it with all it runs, and deletes its directory, images and volumes with it.
    ///
    /// # Errors
    /// What is left.
    pub fn down(&self) -> Result<(), String> {
        if !self.dir.exists() {
            return Ok(());
        }
        if !is_own_dir(&self.dir) {
            return Err(format!("`{}` is not ours", self.dir.display()));
        }
        if let Ok(api) = self.look() {
            for id in ids(&api) {
                let _ = api.call(
                    "DELETE",
                    &format!("/containers/{id}?force=true&v=true"),
                    None,
                );
            }
        }
        if self.stop().is_err() {
            let _ = self.kill();
        }
        self.end_the_rest()?;
        network::remove(&self.bridge());
        unmount_below(&self.dir);
        fs::remove_dir_all(&self.dir)
            .map_err(|error| format!("cannot delete `{}`: {error}", self.dir.display()))
    }

    /// Ends what an engine that was killed has left: the processes that watch its containers, and the containers'.
    fn end_the_rest(&self) -> Result<(), String> {
        const HELPERS: [&str; 5] = [
            "dockerd",
            "containerd",
            "containerd-shim",
            "conmon",
            "podman",
        ];
        let ids: Vec<String> = [
            "data/containers",
            "data/overlay-containers",
            "data/vfs-containers",
        ]
        .iter()
        .flat_map(|it| {
            fs::read_dir(self.dir.join(it))
                .into_iter()
                .flatten()
                .flatten()
        })
        .map(|it| it.file_name().to_string_lossy().into_owned())
        .filter(|it| it.len() == 64)
        .collect();
        let is_its = |process: &Process| {
            let helps = HELPERS.iter().any(|it| process.name.starts_with(it));
            helps && process.mentions(&self.dir) || ids.iter().any(|it| process.is_in_group(it))
        };
        // A watcher may start another process while it is being ended; a few rounds find that too.
        for _ in 0..5 {
            let left = proc::processes(is_its);
            if left.is_empty() {
                return Ok(());
            }
            for process in &left {
                process.signal(Signal::KILL);
            }
            for process in &left {
                process.wait(Duration::from_secs(5));
            }
        }
        Err(format!(
            "processes of the engine are left: {:?}",
            proc::processes(is_its)
        ))
    }

    fn start_docker(&self, options: Options) -> Result<Child, String> {
        let address = network::ensure(&self.bridge())?;
        let config = self.dir.join("daemon.json");
        fs::write(&config, "{}\n").map_err(|error| self.broken(error))?;
        let mut command = self.command("dockerd");
        command
            .args(["--host", &self.host()])
            // Not the host's, which is another engine's.
            .arg("--config-file")
            .arg(config)
            .arg("--data-root")
            .arg(self.dir.join("data"))
            .arg("--exec-root")
            .arg(self.dir.join("exec"))
            .arg("--pidfile")
            .arg(self.dir.join("engine.pid"))
            // Where the host's containerd is used, with names of our own.
            .args(["--containerd-namespace", &self.bridge()])
            .args([
                "--containerd-plugins-namespace",
                &format!("{}-plugins", self.bridge()),
            ])
            // Another engine's rules are left alone: ports are published by Docker's own proxy, and nothing goes out.
            .args(["--iptables=false", "--ip-masq=false", "--ip-forward=false"])
            .args(["--bridge", &self.bridge()])
            .args(["--fixed-cidr", &address])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        if options.live_restore {
            command.arg("--live-restore");
        }
        self.spawn(command)
    }

    fn start_podman(&self) -> Result<Child, String> {
        let subnet = network::choose(&self.bridge())?;
        let networks = self.dir.join("networks");
        let write = || {
            fs::create_dir_all(&networks)?;
            fs::write(
                networks.join("podman.json"),
                network::podman(&self.bridge(), &subnet),
            )?;
            write_podman_settings(&self.dir)
        };
        write().map_err(|error| self.broken(error))?;
        let mut command = self.command("podman");
        command
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .arg("--root")
            .arg(self.dir.join("data"))
            .arg("--runroot")
            .arg(self.dir.join("run"))
            .arg("--tmpdir")
            .arg(self.dir.join("tmp"))
            .arg("--network-config-dir")
            .arg(networks)
            // Neither systemd nor its journal need be there.
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
            .args(["system", "service", "--time", "0", &self.host()]);
        self.spawn(command)
    }

    /// A daemon's command that has the environment of a service, and not a shell's.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .current_dir("/");
        command
    }

    fn spawn(&self, mut command: Command) -> Result<Child, String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .map_err(|error| self.broken(error))?;
        let again = log.try_clone().map_err(|error| self.broken(error))?;
        command
            // What ends a terminal's programs does not end it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .spawn()
            .map_err(|error| format!("cannot run `{}`: {error}", self.kind.daemon()))
    }

    /// A name that no other engine has: of its network interface, which has at most 15 bytes, and of its namespace.
    fn bridge(&self) -> String {
        format!("sg{}", short_sum(&self.dir))
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }

    fn broken(&self, error: std::io::Error) -> String {
        format!("cannot use `{}`: {error}", self.dir.display())
    }
}

/// Podman asks for a million of processes and of open files for each container, which root of a container may not have to
/// give: then it is given what there is.
const RUNTIME: &str = r#"#!/bin/sh
before=
for it; do
    if [ "$before" = --bundle ]; then
        for pair in 'NPROC:Max processes' 'NOFILE:Max open files'; do
            name=${pair%%:*}
            most=$(sed -n "s/^${pair#*:}  *[0-9]*  *\([0-9]*\).*/\1/p" /proc/self/limits)
            sed -i "s/\"RLIMIT_$name\",\"hard\":1048576,\"soft\":1048576/\"RLIMIT_$name\",\"hard\":$most,\"soft\":$most/" "$it/config.json"
        done
    fi
    before=$it
done
exec /usr/sbin/runc "$@"
"#;

/// Writes Podman's settings, which stand in for the host's.
fn write_podman_settings(dir: &Path) -> std::io::Result<()> {
    // Its own choice, crun, has nothing to do with hosts that have both versions of cgroups.
    let mut settings =
        "[network]\nnetwork_backend = \"netavark\"\n[engine]\nruntime = \"runc\"\n".to_owned();
    let is_short = |which| {
        let most = rustix::process::getrlimit(which).maximum;
        most.is_some_and(|it| it < 1 << 20)
    };
    if is_short(Resource::Nproc) || is_short(Resource::Nofile) {
        let runtime = dir.join("runc");
        fs::write(&runtime, RUNTIME)?;
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755))?;
        settings += &format!("[engine.runtimes]\nrunc = [\"{}\"]\n", runtime.display());
    }
    fs::write(dir.join("containers.conf"), settings)
}

/// What the directories of engines begin with.
fn prefix(kind: Kind) -> String {
    let user = rustix::process::getuid().as_raw();
    format!("/tmp/sutra-grid-{}-{user}-", kind.name())
}

fn short_sum(path: &Path) -> String {
    let sum = Sha256::digest(path.as_os_str().as_encoded_bytes());
    sum.iter().take(5).map(|it| format!("{it:02x}")).collect()
}

/// The ids of all containers.
fn ids(api: &Api) -> Vec<String> {
    let all = api.get("/containers/json?all=true").unwrap_or_default();
    let all = all.as_array().into_iter().flatten();
    all.filter_map(|it| it["Id"].as_str().map(str::to_owned))
        .collect()
}

/// Makes a directory that nobody else has a say in.
pub(crate) fn private_dir(dir: &Path) -> Result<(), String> {
    match DirBuilder::new().mode(0o711).create(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && is_own_dir(dir) => {
            Ok(())
        }
        Err(error) => Err(format!("cannot make `{}`: {error}", dir.display())),
    }
}

/// Whether it is a directory of this user's that nobody else may write to; a link to one is none.
pub(crate) fn is_own_dir(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|it| {
        it.is_dir() && it.uid() == rustix::process::getuid().as_raw() && it.mode() & 0o022 == 0
    })
}

/// Detaches every mount in the directory, the innermost first.
pub(crate) fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|it| it.starts_with(dir))
        .collect();
    for mount in below.iter().rev() {
        let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_has_names_and_a_place_of_its_own() {
        let docker = Engine::of_checkout(Kind::Docker);
        let podman = Engine::of_checkout(Kind::Podman);
        assert_ne!(docker.host(), podman.host());
        assert_ne!(docker.bridge(), podman.bridge());
        for engine in [docker, podman] {
            assert!(engine.bridge().len() <= 15, "a network interface's name");
            assert!(
                engine.host().len() < 100,
                "a socket's path: {}",
                engine.host()
            );
        }
    }

    #[test]
    fn a_directory_of_others_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        private_dir(&real).unwrap();
        private_dir(&real).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(private_dir(&link).is_err());
        let engine = Engine::at(Kind::Docker, &link);
        assert!(engine.down().unwrap_err().contains("is not ours"));
        assert!(real.exists());
    }

    #[test]
    fn an_engine_that_is_not_up_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::at(Kind::Docker, dir.path().join("none"));
        assert_eq!(engine.look().unwrap_err(), "no docker engine is up");
        assert!(engine.kill().is_err());
        assert_eq!(engine.down(), Ok(()), "nothing is nothing to take away");
    }
}
