//! A node's cgroup and those that its processes made in it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::is_gone;
use crate::sys::proc::Pinned;

/// How long to wait before looking again at what tells nobody.
const PAUSE: Duration = Duration::from_millis(2);

/// Whether a process is in it or below.
pub(super) fn is_populated(dir: &Path) -> io::Result<bool> {
    // Version 2 says it of the whole tree.
    match fs::read_to_string(dir.join("cgroup.events")) {
        Ok(text) => return Ok(text.lines().any(|it| it == "populated 1")),
        Err(e) if is_gone(&e) => {}
        Err(e) => return Err(e),
    }
    for dir in all(dir)? {
        if !members(&dir)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Kills what is in it and below, once, and waits a moment.
pub(super) fn kill(dir: &Path, deadline: Instant) -> io::Result<()> {
    // Version 2 kills the whole tree at once, with what is being forked (Linux 5.14).
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        thread::sleep(PAUSE);
        return Ok(());
    }
    for dir in all(dir)? {
        for pid in members(&dir)? {
            let Some(pinned) = Pinned::open(pid) else {
                continue;
            };
            // Looked at again behind the handle: the number may have become a stranger's in between.
            if members(&dir)?.contains(&pid) {
                pinned.kill();
                pinned.wait(deadline);
            }
        }
    }
    Ok(())
}

/// Removes it with all below; one whose last member may be on its way out is asked again.
pub(super) fn remove(dir: &Path, deadline: Instant) -> io::Result<()> {
    for dir in all(dir)?.iter().rev() {
        loop {
            match fs::remove_dir(dir) {
                Err(e) if is_gone(&e) => break,
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                }
                other => {
                    other?;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// It and all below, each before those in it; none when it is not there.
fn all(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(dir) = all.get(next) {
        match fs::read_dir(dir) {
            Ok(entries) => {
                let below = entries
                    .flatten()
                    .filter(|it| it.file_type().is_ok_and(|it| it.is_dir()))
                    .map(|it| it.path());
                all.extend(below.collect::<Vec<_>>());
                next += 1;
            }
            Err(e) if is_gone(&e) => {
                all.remove(next);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

fn members(dir: &Path) -> io::Result<Vec<u32>> {
    match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|it| it.parse().ok()).collect()),
        // Those of a cgroup of threads are told by the one above.
        Err(e) if is_gone(&e) || e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}
