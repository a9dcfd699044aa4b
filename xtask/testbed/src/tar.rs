//! As much of a tar archive as an image of a few files needs (POSIX.1-2001, ustar).

/// An archive as it grows.
#[derive(Debug, Clone, Default)]
pub struct Tar(Vec<u8>);

const BLOCK: usize = 512;

impl Tar {
    /// Adds a file of root's; its path, without a leading `/`, has at most 100 bytes.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, mode, b'0', 0, "", content)
    }

    /// Adds a directory that belongs to the user and the group of this number.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32, owner: u32) -> Self {
        let path = format!("{}/", path.trim_end_matches('/'));
        self.entry(&path, mode, b'5', owner, "", b"")
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o777, b'2', 0, target, b"")
    }

    fn entry(
        mut self,
        path: &str,
        mode: u32,
        kind: u8,
        owner: u32,
        link: &str,
        content: &[u8],
    ) -> Self {
        let mut head = [0; BLOCK];
        let mut put = |at: usize, text: &str| {
            if let Some(place) = head.get_mut(at..at + text.len()) {
                place.copy_from_slice(text.as_bytes());
            }
        };
        assert!(
            path.len() <= 100 && link.len() <= 100,
            "the path is too long: {path}"
        );
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, &format!("{owner:07o}"));
        put(116, &format!("{owner:07o}"));
        put(124, &format!("{:011o}", content.len()));
        put(136, &format!("{:011o}", 0));
        put(148, "        ");
        put(157, link);
        put(257, "ustar\u{0}00");
        head[156] = kind;
        let sum: u32 = head.iter().map(|it| u32::from(*it)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&head);
        self.0.extend_from_slice(content);
        let rest = content.len().next_multiple_of(BLOCK) - content.len();
        self.0.extend(std::iter::repeat_n(0, rest));
        self
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 2 * BLOCK]);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let bytes = Tar::default()
            .dir("data", 0o750, 65532)
            .file("bin/program", 0o755, b"#!/bin/true\n")
            .file("empty", 0o400, b"")
            .link("sh", "bin/program")
            .finish();
        let mut tar = Command::new("tar")
            .args(["--list", "--verbose", "--numeric-owner", "--file", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success());
        let listed = String::from_utf8(output.stdout).unwrap();
        let words: Vec<Vec<&str>> = listed
            .lines()
            .map(|it| it.split_whitespace().collect())
            .collect();
        let shown: Vec<_> = words
            .iter()
            .map(|it| (it[0], it[1], it[2], it[5]))
            .collect();
        assert_eq!(
            shown,
            [
                ("drwxr-x---", "65532/65532", "0", "data/"),
                ("-rwxr-xr-x", "0/0", "12", "bin/program"),
                ("-r--------", "0/0", "0", "empty"),
                ("lrwxrwxrwx", "0/0", "0", "sh"),
            ]
        );
    }
}
