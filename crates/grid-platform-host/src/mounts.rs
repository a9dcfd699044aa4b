//! What is mounted where.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// The first mount point at or beneath a directory, as this process sees the host; links on the way to it are followed.
pub fn beneath(dir: &Path) -> io::Result<Option<PathBuf>> {
    let dir = dir.canonicalize()?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(points(&table).find(|it| it.starts_with(&dir)))
}

/// The mount points of a `/proc/self/mountinfo` table (proc_pid_mountinfo(5)).
fn points(table: &str) -> impl Iterator<Item = PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescaped)
}

/// Spaces, tabs, line feeds and backslashes are written as a backslash and three octal digits.
fn unescaped(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|it| std::str::from_utf8(it).ok());
        let value = digits.and_then(|it| u8::from_str_radix(it, 8).ok());
        match value.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_they_are() {
        let table = "30 24 0:26 / /srv/a\\040b\\134c rw,relatime shared:9 - tmpfs tmpfs rw\n\
                     31 24 0:27 /x /srv/d\\0 rw - ext4 /dev/vda rw\n";
        let read: Vec<_> = points(table).collect();
        assert_eq!(read, [Path::new("/srv/a b\\c"), Path::new("/srv/d\\0")]);
    }

    #[test]
    fn the_root_is_mounted_and_a_fresh_directory_has_none() {
        assert!(beneath(Path::new("/")).unwrap().is_some());
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(beneath(dir.path()).unwrap(), None);
        assert!(beneath(&dir.path().join("none")).is_err());
    }
}
