//! What the figures were taken on: without it they say nothing.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// The machine and the code.
#[derive(Debug, Default, Clone)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    memory_mib: u64,
    kernel: String,
    file_system: String,
    commit: String,
    optimized: bool,
    load: String,
}

impl Machine {
    /// This one; `dir` is where files are written while it is measured.
    pub(crate) fn this(dir: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_else(|| "unknown".to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(&read("/proc/self/mounts"), dir),
            commit: commit(),
            optimized: !cfg!(debug_assertions),
            load: load.split(' ').next().unwrap_or("unknown").to_owned(),
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "cores": self.cores,
            "processor": self.processor,
            "memory_mib": self.memory_mib,
            "kernel": self.kernel,
            "file_system": self.file_system,
            "commit": self.commit,
            "optimized": self.optimized,
            "load_before": self.load,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let build = if self.optimized {
            "a release build"
        } else {
            "**a debug build, whose figures say nothing**"
        };
        write!(
            f,
            "Taken on {} cores ({}), {} MiB, Linux {}, {}, load {} before; commit {}, {build}.",
            self.cores,
            self.processor,
            self.memory_mib,
            self.kernel,
            self.file_system,
            self.load,
            self.commit
        )
    }
}

/// The type of the file system that the directory is in: the mount of the longest path above it.
fn file_system(mounts: &str, dir: &Path) -> String {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            dir.starts_with(place).then_some((place.len(), kind))
        })
        // Of mounts on the same place the last one is seen.
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

/// The commit that the sources are of.
fn commit() -> String {
    let git = |args: &[&str]| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let output = Command::new("git").current_dir(root).args(args).output();
        let output = output.ok().filter(|it| it.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changed) if changed.is_empty() => commit,
        _ => format!("{commit} with changes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_in_the_nearest_mount_above_it() {
        let mounts = "a / ext4 rw 0 0\nb /tmp tmpfs rw 0 0\nc /tmpfoo xfs rw 0 0\n";
        let check = |dir: &str, expect: &str| {
            assert_eq!(file_system(mounts, Path::new(dir)), expect, "{dir}");
        };
        check("/var/lib", "ext4");
        check("/tmp/x", "tmpfs");
        check("/tmpfoo/x", "xfs");
        check("relative", "unknown");
    }
}
