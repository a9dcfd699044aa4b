//! The logs of master and agent: files that they write themselves, so that they need no supervisor to write on.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// A log is at most twice this, in bytes: the file, and the one before it.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// How often the logs are looked at, for a terminal that shows them.
const LOOK: Duration = Duration::from_millis(100);

/// Opens a log for a child to append to.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Keeps a log within its bounds. The writer goes on with the same file: it appends, so what it writes after the
/// cut lands at the start.
pub(crate) fn bound(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.len() <= MAX_BYTES {
        return Ok(());
    }
    std::fs::copy(path, path.with_extension("log.1"))?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

/// How long a log is, in bytes; 0 when there is none.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// The last lines of what a log has behind its first `from` bytes, each once: what is started again and again says the same
/// each time.
pub(crate) fn last_lines(path: &Path, from: u64, lines: usize) -> Vec<String> {
    const TAIL_BYTES: u64 = 64 * 1024;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        // A log that is shorter by now was cut, and all of it is new.
        let from = if length < from { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut seen = HashSet::new();
    let all: Vec<&str> = text.lines().filter(|line| seen.insert(*line)).collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// Reads on where a log ended when the follower was made.
pub(crate) struct Follower {
    path: PathBuf,
    position: u64,
    rest: Vec<u8>,
}

impl Follower {
    pub(crate) fn at_end(path: PathBuf) -> Self {
        Self {
            position: length(&path),
            path,
            rest: Vec::new(),
        }
    }

    /// Gives every line that is written from now on; never returns.
    pub(crate) async fn run(mut self, mut line: impl FnMut(&str)) {
        loop {
            // A log that cannot be read now can be read later; its program is not to suffer from it.
            if let Ok(lines) = self.read() {
                lines.iter().for_each(|text| line(text));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn read(&mut self) -> io::Result<Vec<String>> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() < self.position {
            // It was cut.
            self.position = 0;
        }
        file.seek(SeekFrom::Start(self.position))?;
        self.position += file.read_to_end(&mut self.rest)? as u64;
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_is_bounded_and_followed_across_the_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = open(&path).unwrap();
        log.write_all(b"before\n").unwrap();
        let mut follower = Follower::at_end(path.clone());
        log.write_all(b"one\ntw").unwrap();
        assert_eq!(follower.read().unwrap(), ["one"]);
        log.write_all(b"o\n").unwrap();
        assert_eq!(follower.read().unwrap(), ["two"]);
        bound(&path).unwrap();
        assert!(!dir.path().join("x.log.1").exists());
        log.write_all(&vec![b'x'; MAX_BYTES as usize]).unwrap();
        log.write_all(b"\n").unwrap();
        bound(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        log.write_all(b"after\n").unwrap();
        follower.rest.clear();
        assert_eq!(follower.read().unwrap(), ["after"]);
        assert_eq!(last_lines(&path, 0, 5), ["after"]);
    }

    #[test]
    fn the_last_lines_are_those_behind_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        assert_eq!(length(&path), 0);
        std::fs::write(&path, "of an earlier start\n").unwrap();
        let mark = length(&path);
        let mut log = open(&path).unwrap();
        assert_eq!(last_lines(&path, mark, 5), [""; 0]);
        log.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(last_lines(&path, mark, 5), ["one", "two"]);
        assert_eq!(last_lines(&path, mark, 1), ["two"]);
        writeln!(log, "one\ntwo").unwrap();
        assert_eq!(last_lines(&path, mark, 5), ["one", "two"], "each once");
        log.set_len(0).unwrap();
        log.write_all(b"cut\n").unwrap();
        assert_eq!(last_lines(&path, mark, 5), ["cut"]);
    }
}
