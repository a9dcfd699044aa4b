//! The repository's files, as the checks see them.

use std::path::Path;

use crate::fail::{Fail, Result};
use crate::sh;

/// A text file.
#[derive(Debug)]
pub(super) struct File {
    /// Its path from the repository's root, with `/`.
    pub(super) path: String,
    /// What is in it.
    pub(super) text: String,
}

impl File {
    /// The crate under `crates/` that the file belongs to.
    pub(super) fn member(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }

    /// Whether it is Rust source.
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether it is source of a shipped program or library: of a crate, and neither a test, an example, a benchmark
    /// nor a build script.
    pub(super) fn is_shipped(&self) -> bool {
        let Some(within) = self
            .path
            .strip_prefix("crates/")
            .and_then(|path| path.split_once('/'))
        else {
            return false;
        };
        let top = within.1.split('/').next().unwrap_or_default();
        self.is_rust() && !["tests", "examples", "benches", "build.rs"].contains(&top)
    }
}

/// All text files that are tracked, or would be with the next commit.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Ordered by path.
    pub(super) files: Vec<File>,
}

impl Tree {
    /// Reads this repository.
    pub(super) fn of_repository() -> Result<Self> {
        let root = sh::root();
        let listed = sh::output(
            std::process::Command::new("git")
                .args([
                    "ls-files",
                    "-z",
                    "--cached",
                    "--others",
                    "--exclude-standard",
                ])
                .current_dir(&root),
        )?;
        let mut files = Vec::new();
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            if let Some(text) = read(&root.join(path))? {
                files.push(File {
                    path: path.to_owned(),
                    text,
                });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Self { files })
    }

    /// A tree of these files, for tests.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self {
            files: files
                .iter()
                .map(|(path, text)| File {
                    path: (*path).to_owned(),
                    text: (*text).to_owned(),
                })
                .collect(),
        }
    }

    /// The file at this path.
    pub(super) fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// The file's text; nothing for what is not text, not a plain file, or deleted and not yet committed as such.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        _ => return Ok(None),
    }
    let bytes = std::fs::read(path)
        .map_err(|error| Fail::new(format!("cannot read `{}`: {error}", path.display())))?;
    Ok(String::from_utf8(bytes).ok())
}
