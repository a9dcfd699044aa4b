//! Images of programs of this host: each with the libraries that it is linked to, FROM scratch.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use grid_platform_testing::{Failed, Outcome};
use grid_testbed::Tar;

/// The files of an image, by their paths without a leading `/`.
#[derive(Default)]
pub(crate) struct Files(BTreeMap<String, (u32, Vec<u8>)>);

impl Files {
    /// Adds a file.
    pub(crate) fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.0.insert(path.to_owned(), (mode, content.to_vec()));
        self
    }

    /// Adds a program of the host at the same path, with its libraries and its loader.
    ///
    /// # Errors
    /// When the host does not have it.
    pub(crate) fn program(mut self, path: &str) -> Outcome<Self> {
        let output = Command::new("ldd").arg(path).output()?;
        if !output.status.success() {
            return Err(Failed::new(format!(
                "`ldd {path}` ended with {}",
                output.status
            )));
        }
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        // `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` of the loader.
        let libraries = listed
            .lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
        for file in std::iter::once(path).chain(libraries) {
            let content = fs::read(file)?;
            let inside = file.trim_start_matches('/').to_owned();
            self.0.insert(inside, (0o755, content));
        }
        Ok(self)
    }

    /// The files as an image's layer.
    pub(crate) fn layer(self) -> Tar {
        let add = |tar: Tar, (path, (mode, content)): (String, (u32, Vec<u8>))| {
            tar.file(&path, mode, &content)
        };
        self.0.into_iter().fold(Tar::default(), add)
    }
}

/// Whether the host has a program.
pub(crate) fn is_here(path: &str) -> bool {
    Path::new(path).is_file()
}
