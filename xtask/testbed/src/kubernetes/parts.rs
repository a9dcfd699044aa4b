//! The processes of a cluster: each with a log, and known by its number and its start.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::proc::{self, Process};

/// How long a process may take to end when it is told to, before it is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Where everything is kept.
    Etcd,
    /// What everybody talks to.
    ApiServer,
    /// What makes volumes for claims, tokens for accounts, and the rest.
    Controllers,
    /// What gives pods a node.
    Scheduler,
    /// What runs containers.
    Containerd,
    /// What runs pods, by containerd.
    Kubelet,
    /// What makes the addresses of services reach pods.
    Proxy,
}

impl Part {
    /// All, in the order of their start.
    pub(super) const ALL: [Self; 7] = [
        Self::Etcd,
        Self::ApiServer,
        Self::Containerd,
        Self::Controllers,
        Self::Scheduler,
        Self::Kubelet,
        Self::Proxy,
    ];

    /// Its name, of its log and its file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Controllers => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::Proxy => "kube-proxy",
        }
    }
}

/// The processes of the cluster in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts(PathBuf);

impl Parts {
    pub(super) fn of(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    fn file(&self, part: Part, kind: &str) -> PathBuf {
        self.0.join(format!("{}.{kind}", part.name()))
    }

    /// Writes down how a part is started, which [`start`](Self::start) reads, whoever calls it.
    pub(super) fn define(&self, part: Part, command: &[String]) -> Result<(), String> {
        let file = self.file(part, "command");
        fs::write(&file, serde_json::json!(command).to_string())
            .map_err(|error| format!("cannot write `{}`: {error}", file.display()))
    }

    /// Its live process.
    pub(super) fn look(&self, part: Part) -> Option<Process> {
        let text = fs::read_to_string(self.file(part, "pid")).ok()?;
        let mut fields = text.split_whitespace();
        let process = proc::look(fields.next()?.parse().ok()?)?;
        let start: u64 = fields.next()?.parse().ok()?;
        (process.start_time == start).then_some(process)
    }

    /// The live processes of parts that nothing is written down of any more, known by what they were started with.
    pub(super) fn strays(&self) -> Vec<Process> {
        let noted: Vec<u32> = Part::ALL
            .iter()
            .filter_map(|it| self.look(*it).map(|it| it.pid))
            .collect();
        proc::processes(|it| {
            // The kernel keeps the first 15 bytes of a name.
            let is_part = |part: &Part| part.name().get(..15).unwrap_or(part.name()) == it.name;
            Part::ALL.iter().any(is_part) && !noted.contains(&it.pid) && it.mentions(&self.0)
        })
    }

    /// Ends those.
    pub(super) fn end_strays(&self) -> Result<(), String> {
        for process in self.strays() {
            process.signal(Signal::KILL);
            if !process.wait(PATIENCE) {
                return Err(format!("process {} does not end", process.pid));
            }
        }
        Ok(())
    }

    /// Starts it as it was written down, unless it lives.
    pub(super) fn start(&self, part: Part) -> Result<(), String> {
        if self.look(part).is_some() {
            return Ok(());
        }
        let broken = |error: std::io::Error| format!("cannot start `{}`: {error}", part.name());
        let text = fs::read_to_string(self.file(part, "command")).map_err(broken)?;
        let words: Vec<String> =
            serde_json::from_str(&text).map_err(|error| broken(error.into()))?;
        let (program, args) = words.split_first().ok_or("an empty command")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.file(part, "log"))
            .map_err(broken)?;
        let again = log.try_clone().map_err(broken)?;
        let mut child = Command::new(program)
            .args(args)
            // The environment of a service, and not a shell's.
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .current_dir("/")
            // What ends a terminal's programs does not end it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .spawn()
            .map_err(broken)?;
        let identity = proc::identity(child.id());
        let written = identity
            .ok_or_else(|| format!("it ended at once: {}", self.last_words(part)))
            .and_then(|it| {
                let file = self.file(part, "pid");
                fs::write(&file, it).map_err(|error| error.to_string())
            });
        if let Err(why) = written {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("cannot start `{}`: {why}", part.name()));
        }
        // So that no zombie of it is left in this process when it is killed by somebody.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// Sends it a signal; the reason why not.
    pub(super) fn signal(&self, part: Part, signal: Signal) -> Result<Process, String> {
        let process = self
            .look(part)
            .ok_or_else(|| format!("`{}` does not run", part.name()))?;
        process.signal(signal);
        Ok(process)
    }

    /// Ends it in good order, or else by force, and returns when it has ended.
    pub(super) fn end(&self, part: Part) -> Result<(), String> {
        let Some(process) = self.look(part) else {
            return Ok(());
        };
        process.signal(Signal::TERM);
        // One that was paused hears nothing before it goes on.
        process.signal(Signal::CONT);
        if !process.wait(PATIENCE) {
            process.signal(Signal::KILL);
            if !process.wait(PATIENCE) {
                return Err(format!("process {} does not end", process.pid));
            }
        }
        let _ = fs::remove_file(self.file(part, "pid"));
        Ok(())
    }

    /// The last that it said.
    pub(super) fn last_words(&self, part: Part) -> String {
        let log = fs::read_to_string(self.file(part, "log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

/// A part that stands still until this is dropped.
#[derive(Debug)]
pub struct Paused(pub(super) Process);

impl Paused {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}
