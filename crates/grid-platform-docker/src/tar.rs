//! Archives as the engine takes them in (POSIX.1-1988 ustar): directories and small files with their owners.

use std::fmt;

/// An archive that is being made.
#[derive(Default)]
pub(crate) struct Archive(Vec<u8>);

/// Who owns an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl fmt::Display for Owner {
    /// As the engine takes a container's user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl Owner {
    /// Reads what [`Display`](fmt::Display) writes.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (uid, gid) = text.split_once(':')?;
        Some(Self {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    }
}

const BLOCK: usize = 512;

impl Archive {
    /// Adds a directory.
    pub(crate) fn directory(&mut self, path: &str, owner: Owner, mode: u32) {
        self.header(&format!("{path}/"), owner, mode, 0, b'5');
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, owner: Owner, mode: u32, bytes: &[u8]) {
        self.header(path, owner, mode, bytes.len(), b'0');
        self.0.extend_from_slice(bytes);
        let padded = self.0.len().next_multiple_of(BLOCK);
        self.0.resize(padded, 0);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let end = self.0.len() + 2 * BLOCK;
        self.0.resize(end, 0);
        self.0
    }

    /// Names are ours and short; one that does not fit would be cut, which [`Archive::file`]'s callers never meet: a secret's
    /// name has at most 64 characters.
    fn header(&mut self, path: &str, owner: Owner, mode: u32, size: usize, kind: u8) {
        let mut block = [0_u8; BLOCK];
        put(&mut block, 0, 100, path.as_bytes());
        put(&mut block, 100, 8, format!("{mode:07o}").as_bytes());
        put(&mut block, 108, 8, &id(owner.uid));
        put(&mut block, 116, 8, &id(owner.gid));
        put(&mut block, 124, 12, format!("{size:011o}").as_bytes());
        put(&mut block, 136, 12, b"00000000000");
        put(&mut block, 148, 8, b"        ");
        put(&mut block, 156, 1, &[kind]);
        put(&mut block, 257, 8, b"ustar\x0000");
        let sum: u32 = block.iter().map(|it| u32::from(*it)).sum();
        put(&mut block, 148, 8, format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
    }
}

/// Seven octal digits, or what GNU and Go write for greater numbers: the first bit, and the number as bytes.
fn id(number: u32) -> [u8; 8] {
    let mut field = [0; 8];
    if number < 1 << 21 {
        let digits = format!("{number:07o}");
        for (to, from) in field.iter_mut().zip(digits.bytes()) {
            *to = from;
        }
    } else {
        let bytes = u64::from(number).to_be_bytes();
        field = bytes;
        if let Some(first) = field.first_mut() {
            *first = 0x80;
        }
    }
    field
}

fn put(block: &mut [u8; BLOCK], at: usize, len: usize, bytes: &[u8]) {
    for (to, from) in block.iter_mut().skip(at).take(len).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn what_is_written_tar_reads() {
        let mut archive = Archive::default();
        let (owner, far) = (
            Owner {
                uid: 65_532,
                gid: 7,
            },
            Owner {
                uid: 3_000_000,
                gid: 0,
            },
        );
        archive.directory("data", owner, 0o750);
        archive.file("data/a.key", owner, 0o400, b"one\n");
        archive.file("data/empty", far, 0o644, b"");
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("a.tar");
        fs::write(&file, archive.finish()).unwrap();
        let listed = Command::new("tar")
            .args(["--numeric-owner", "-tvf"])
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                [&words[..3], &words[5..]].concat()
            })
            .collect();
        assert_eq!(
            words,
            [
                ["drwxr-x---", "65532/7", "0", "data/"],
                ["-r--------", "65532/7", "4", "data/a.key"],
                ["-rw-r--r--", "3000000/0", "0", "data/empty"],
            ],
            "{text} {}",
            String::from_utf8_lossy(&listed.stderr)
        );
    }
}
