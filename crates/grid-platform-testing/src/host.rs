//! The census of processes of this host, by `/proc` and by what the probe wrote down.

use std::{
    fs, io,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use grid_platform_api::{NodeId, Program};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use crate::{BadProgram, Boot, Failed, LiveProcess, Outcome, eventually, probe};

/// A folder for one case, with an eye on every process that has to do with it.
///
/// For fixtures of platforms that run nodes as processes of this host. What still runs when it is dropped is killed,
/// so that a case that panics leaves nothing.
pub struct HostPlace {
    dir: TempDir,
    paths: AtomicU32,
}

/// The first of the ports that are given out: they lie below the range that Linux takes for outgoing connections.
const FIRST_PORT: u16 = 12_000;
/// How many ports a platform of a case needs at most.
const PORTS_PER_SLOT: u16 = 60;
/// How many such ranges there are, up to port 32 000.
const PORT_SLOTS: u32 = 333;

/// What `/proc` tells of a process.
struct Seen {
    process: LiveProcess,
    environment: Vec<Vec<u8>>,
    cwd: Option<PathBuf>,
}

impl HostPlace {
    /// A new empty folder that every user may pass through.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Outcome<Self> {
        // Written before many threads start processes: a program that a fork has open for writing cannot be executed.
        probe::path()?;
        let dir = tempfile::Builder::new().prefix("grid-case-").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        Ok(Self {
            dir,
            paths: AtomicU32::new(1),
        })
    }

    /// The folder. State and data belong into it: that is how a process is known to be of this case.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the state of the case's own platform belongs.
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Where the state of the other owner's platform belongs. What is in it is not counted as the case's own.
    pub fn stranger(&self) -> PathBuf {
        self.path().join("stranger")
    }

    /// A path in the folder that is not there yet, another at each call.
    pub fn new_path(&self) -> PathBuf {
        let number = self.paths.fetch_add(1, Ordering::Relaxed);
        self.path().join(format!("data-{number}"))
    }

    /// A range of ports for one platform to allocate from, another at each call: two owners on one host do not know of
    /// each other's stopped nodes, so that one would now and then allocate the port of another case's node.
    pub fn new_ports(&self) -> (u16, u16) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Another process that runs cases begins elsewhere.
        let begin = std::process::id().wrapping_mul(37);
        let slot = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORT_SLOTS;
        let first = u16::try_from(slot).unwrap_or(0) * PORTS_PER_SLOT + FIRST_PORT;
        (first, first + (PORTS_PER_SLOT - 1))
    }

    /// The node's processes: those whose environment names it and data in the folder, and those that the probe wrote
    /// down, by pid and start time.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn processes(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>> {
        let boots = self.boots(id)?;
        let name = format!("SUTRA_NODE_ID={id}").into_bytes();
        let of_the_node = |seen: &Seen| {
            let named = seen.environment.contains(&name)
                && seen.has_data_in(self.path())
                && !seen.has_data_in(&self.stranger());
            let process = &seen.process;
            named
                || boots
                    .iter()
                    .any(|b| b.pid == process.pid && b.start_time == process.start_time)
        };
        let all = all_processes()?.into_iter().filter(of_the_node);
        Ok(all.map(|seen| seen.process).collect())
    }

    /// The probe's records of the node in all data in the folder but the other owner's, oldest first.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>> {
        let mut boots = Vec::new();
        for file in files_named(self.path(), "grid-probe.boots")? {
            if file.starts_with(self.stranger()) {
                continue;
            }
            let text = match fs::read_to_string(&file) {
                Ok(text) => text,
                // It was purged under our eyes.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e.into()),
            };
            for line in text.lines() {
                let (of, boot) = parse_boot(line)
                    .ok_or_else(|| Failed::new(format!("a broken boot record: {line:?}")))?;
                if of == id.as_str() {
                    boots.push(boot);
                }
            }
        }
        boots.sort_by_key(|b| (b.at_ms, b.number));
        Ok(boots)
    }

    /// Every process that has to do with the folder: its data path, its working directory or a file it has open is
    /// in it. Supervisors count as well.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn all(&self) -> Outcome<Vec<LiveProcess>> {
        let own = std::process::id();
        Ok(all_processes()?
            .into_iter()
            .filter(|seen| {
                seen.process.pid != own
                    && (seen.has_data_in(self.path())
                        || seen
                            .cwd
                            .as_ref()
                            .is_some_and(|d| d.starts_with(self.path())))
            })
            .map(|seen| seen.process)
            .collect())
    }

    /// Waits a moment for the last processes to be gone, kills those that stay, and names them.
    ///
    /// # Errors
    /// Names what had to be killed.
    pub async fn clean_up(&self) -> Outcome {
        let gone = eventually(
            Duration::from_secs(5),
            "all processes to be gone",
            || async {
                let left = self.all()?;
                Ok(left.is_empty().then_some(()))
            },
        );
        if gone.await.is_ok() {
            return Ok(());
        }
        let left = self.all()?;
        self.kill_all();
        Err(Failed::new(format!("processes were left behind: {left:?}")))
    }

    fn kill_all(&self) {
        // Parents may start others while they are being killed; a few rounds find those too.
        for _ in 0..5 {
            let Ok(left) = self.all() else { return };
            if left.is_empty() {
                return;
            }
            for process in left {
                kill(&process);
            }
        }
    }

    /// The probe as a program of the host.
    ///
    /// # Errors
    /// When the probe cannot be written.
    pub fn probe(&self, actions: &[&str]) -> Outcome<Program> {
        Ok(Program::binary(probe::path()?, actions.iter().copied()))
    }

    /// A file that is no good as a program.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn bad_program(&self, which: BadProgram) -> Outcome<Program> {
        let path = self.path().join(format!("{which:?}"));
        let mode = match which {
            BadProgram::Missing => None,
            BadProgram::NotExecutable => Some(0o644),
            BadProgram::BadFormat => Some(0o755),
            BadProgram::NoImage => return Err(Failed::new("the host has no images")),
        };
        if let Some(mode) = mode {
            fs::write(&path, b"\x01\x02 this is no program\n")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        Ok(Program::binary(path, [""; 0]))
    }
}

impl Drop for HostPlace {
    fn drop(&mut self) {
        self.kill_all();
    }
}

impl Seen {
    fn has_data_in(&self, dir: &Path) -> bool {
        self.environment.iter().any(|entry| {
            entry
                .strip_prefix(b"SUTRA_DATA_PATH=")
                .is_some_and(|path| Path::new(&*String::from_utf8_lossy(path)).starts_with(dir))
        })
    }
}

/// All processes that live; one that ends while it is looked at is left out.
fn all_processes() -> Outcome<Vec<Seen>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        all.extend(look_at(pid, &entry.path()));
    }
    Ok(all)
}

fn look_at(pid: u32, dir: &Path) -> Option<Seen> {
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    let command = fs::read(dir.join("cmdline")).unwrap_or_default();
    Some(Seen {
        process: LiveProcess {
            pid,
            start_time,
            command: String::from_utf8_lossy(&command)
                .replace('\0', " ")
                .trim()
                .to_owned(),
        },
        // Another user's process may not be looked into; then the probe's own record is what is left.
        environment: environment(pid)
            .unwrap_or_default()
            .split(|b| *b == 0)
            .map(<[u8]>::to_vec)
            .collect(),
        cwd: fs::read_link(dir.join("cwd")).ok(),
    })
}

/// The environment that a process was executed with, as `/proc` has it. In the middle of an exec there is none at all,
/// neither of the one program nor of the other: that is waited out.
///
/// # Errors
/// When there is no such process, or it may not be looked into.
pub fn environment(pid: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 32 * 1024];
    loop {
        // In one call: what is read by pieces ends where the process comes to another program meanwhile.
        let file = fs::File::open(format!("/proc/{pid}/environ"))?;
        let count = file.read_at(&mut bytes, 0)?;
        if count == bytes.len() {
            bytes.resize(2 * count, 0);
            continue;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit_once(')').map_or("", |(_, tail)| tail);
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // Of proc_pid_stat(5): how much memory it has, where its code ends in that, and where its environment is.
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or("0");
        let has_none = field(23) == "0" || field(27) != "0" && field(50) == field(51);
        if count > 0 || has_none {
            bytes.truncate(count);
            return Ok(bytes);
        }
        std::thread::yield_now();
    }
}

/// Kills this very process, and not another that has got its number.
fn kill(process: &LiveProcess) {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    let dir = PathBuf::from(format!("/proc/{}", process.pid));
    let same =
        look_at(process.pid, &dir).is_some_and(|s| s.process.start_time == process.start_time);
    if same {
        // It may have ended by itself: that is as good.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

fn files_named(dir: &Path, name: &str) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e.into()),
        };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(kind) if kind.is_file() && entry.file_name() == name => found.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// A line of the probe's record: the node it is of, and the boot.
pub fn parse_boot(line: &str) -> Option<(&str, Boot)> {
    let mut fields = line.split('\t');
    let of = fields.next()?;
    let list = |text: &str| -> Vec<String> {
        if text.is_empty() {
            return Vec::new();
        }
        text.split('\u{1f}').map(str::to_owned).collect()
    };
    let boot = Boot {
        number: fields.next()?.parse().ok()?,
        pid: fields.next()?.parse().ok()?,
        start_time: fields.next()?.parse().ok()?,
        uid: fields.next()?.parse().ok()?,
        at_ms: fields.next()?.parse().ok()?,
        argv: list(fields.next()?),
        env_names: list(fields.next()?),
    };
    fields.next().is_none().then_some((of, boot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports_do_not_meet() {
        let place = HostPlace::new().unwrap();
        let mut ranges: Vec<_> = (0..PORT_SLOTS).map(|_| place.new_ports()).collect();
        ranges.sort_unstable();
        assert!(ranges[0].0 >= FIRST_PORT && ranges.last().unwrap().1 < 32_768);
        assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }

    #[test]
    fn boot_records_are_read() {
        let line = "n1\t2\t10\t20\t0\t30\tnote=a\u{1f}exit=1\tA\u{1f}B";
        let (of, boot) = parse_boot(line).unwrap();
        assert_eq!(of, "n1");
        assert_eq!((boot.number, boot.pid, boot.start_time), (2, 10, 20));
        assert_eq!((boot.uid, boot.at_ms), (0, 30));
        assert_eq!(
            (boot.argv, boot.env_names),
            (
                vec!["note=a".into(), "exit=1".into()],
                vec!["A".into(), "B".into()]
            )
        );
        let bare = parse_boot("n1\t1\t10\t20\t0\t30\t\t").unwrap().1;
        assert!(bare.argv.is_empty() && bare.env_names.is_empty());
        for broken in [
            "",
            "n1",
            "n1\tx\t10\t20\t0\t30\t\t",
            "n1\t1\t10\t20\t0\t30\t\t\t",
        ] {
            assert!(parse_boot(broken).is_none(), "{broken:?}");
        }
    }
}
